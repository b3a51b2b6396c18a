"""The schema of the web configuration file, in Prometheus's format (exporter-toolkit, `--web.config.file`).

Keys of that format that the exporter does not support are rejected. If they were ignored, a configured protection would
be missing without a message.
"""

import re
import ssl
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from braze_exporter.config.schema import Model
from braze_exporter.config.secrets import Secret
from braze_exporter.config.suggestions import did_you_mean
from braze_exporter.config.values import InvalidValueError, OptionalText, Text, mapping_of, valid_if

CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_OLD_VERSIONS = ("TLS10", "TLS11")
# The maximum bcrypt cost. Each step doubles the time of a password check: 1 ms at 4, 60 ms at 10, 1 s at 14.
_MAX_COST = 14
# The last character of the salt encodes only two bits, so only four characters are valid there.
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}", re.ASCII)
_HASH_HINT = "create one with htpasswd -nBC 10 \"\" | tr -d ':\\n'"

_FILE_HINT = "must not be in this file; write it to a separate file and set"
_OPENSSL_HINT = "is not supported, because OpenSSL's defaults apply; remove it"
# Keys of Prometheus's format that are not supported, with the fix.
UNSUPPORTED_KEYS: Mapping[str, str] = {
    "cert": f"{_FILE_HINT} cert_file",
    "key": f"{_FILE_HINT} key_file",
    "client_ca": f"{_FILE_HINT} client_ca_file",
    "client_allowed_sans": "is not supported; set client_ca_file to a CA that signs only allowed clients",
    "cipher_suites": _OPENSSL_HINT,
    "curve_preferences": _OPENSSL_HINT,
    "prefer_server_cipher_suites": _OPENSSL_HINT,
    "rate_limit": "is not supported, because extra scrapes share one page and cost no calls to Braze; remove it",
    "auth_excluded_paths": "is not supported, because /-/healthy and /-/ready never require a password; remove it",
}


def _validate_client_auth(value: object) -> ssl.VerifyMode:
    if value in _UNVERIFIED:
        text = "does not verify client certificates; use RequireAndVerifyClientCert"
        raise InvalidValueError(f"{value} {text}")
    if value not in tuple(CLIENT_AUTH):
        hint = did_you_mean(value, CLIENT_AUTH) if isinstance(value, str) else ""
        raise InvalidValueError(f"must be one of {', '.join(CLIENT_AUTH)}{hint}")
    return CLIENT_AUTH[str(value)]


def _validate_version(value: object) -> ssl.TLSVersion:
    if value in _OLD_VERSIONS:
        raise InvalidValueError(f"{value} is insecure and no longer supported by OpenSSL; use {' or '.join(VERSIONS)}")
    if value not in tuple(VERSIONS):
        raise InvalidValueError(f"must be {' or '.join(VERSIONS)}")
    return VERSIONS[str(value)]


def _is_user(value: object) -> bool:
    return isinstance(value, str) and value != "" and ":" not in value and value.isprintable()


def _validate_hash(value: object) -> Secret:
    """Accept a bcrypt hash. No message repeats the value, since it may be the password itself."""
    match = _BCRYPT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidValueError(f"must be a bcrypt hash, not the password itself or another hash; {_HASH_HINT}")
    cost = int(match[1])
    if not 4 <= cost <= _MAX_COST:  # noqa: PLR2004 - the minimum of bcrypt
        why = "with which each check takes seconds" if cost > _MAX_COST else "which bcrypt does not support"
        raise InvalidValueError(f"has the bcrypt cost {cost}, {why}; {_HASH_HINT}")
    return Secret(match[0])


def _header_validator(*choices: str) -> BeforeValidator:
    def check(value: object) -> str:
        if choices and value not in ("", *choices):
            raise InvalidValueError(f"must be {' or '.join(choices)}")
        if not isinstance(value, str) or not value.isascii() or not (value.isprintable() or not value):
            raise InvalidValueError("must be a header value: one line of printable ASCII")
        return value

    return BeforeValidator(check)


_USER = valid_if(_is_user, "is not a valid user name; it must not be empty or contain a colon or control characters")
_USERS = mapping_of("user names to bcrypt hashes; remove it to serve without passwords")
# Prometheus's exporters treat an empty section as no TLS.
_TLS = valid_if(
    lambda value: isinstance(value, dict),
    "must be a mapping with cert_file and key_file; remove it to serve without TLS",
)
_NO_HTTP2 = valid_if(lambda value: value is False, "is not supported; set it to false or remove it")


class TlsServer(Model):
    """The TLS settings of the server. File paths are relative to the web configuration file."""

    cert_file: Text
    key_file: Text
    client_auth_type: Annotated[ssl.VerifyMode, BeforeValidator(_validate_client_auth)] = ssl.CERT_NONE
    client_ca_file: OptionalText = None
    min_version: Annotated[ssl.TLSVersion, BeforeValidator(_validate_version)] = ssl.TLSVersion.TLSv1_2
    max_version: Annotated[ssl.TLSVersion, BeforeValidator(_validate_version)] = ssl.TLSVersion.TLSv1_3


class Headers(Model):
    """The configurable headers of every response. Empty headers are not sent."""

    content_security_policy: Annotated[str, _header_validator()] = Field(default="", alias="Content-Security-Policy")
    x_frame_options: Annotated[str, _header_validator("deny", "sameorigin")] = Field(
        default="", alias="X-Frame-Options"
    )
    x_content_type_options: Annotated[str, _header_validator("nosniff")] = Field(
        default="", alias="X-Content-Type-Options"
    )
    x_xss_protection: Annotated[str, _header_validator()] = Field(default="", alias="X-XSS-Protection")
    strict_transport_security: Annotated[str, _header_validator()] = Field(
        default="", alias="Strict-Transport-Security"
    )


class HttpServer(Model):
    """The HTTP settings of the server."""

    http2: Annotated[bool, _NO_HTTP2] = False
    headers: Headers = Headers()


class WebFile(Model):
    """A web configuration file."""

    tls_server_config: Annotated[TlsServer | None, _TLS] = None
    basic_auth_users: Annotated[
        dict[Annotated[str, _USER], Annotated[Secret, BeforeValidator(_validate_hash)]], _USERS
    ] = Field(default_factory=dict)
    http_server_config: HttpServer = HttpServer()
