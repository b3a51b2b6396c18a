"""Reads and validates the web configuration file.

The result is one frozen `WebConfig`, or a `ConfigError` that lists every problem with its line and path.
"""

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from braze_exporter.config.document import MASK, ConfigError, KeyPath, echo_value, parse, shorten_path
from braze_exporter.config.files import read_config_text, read_file
from braze_exporter.config.secrets import Secret
from braze_exporter.config.validation import validate
from braze_exporter.web import passwords
from braze_exporter.web.config_schema import UNSUPPORTED_KEYS, TlsServer, WebFile

_TLS: KeyPath = ("tls_server_config",)
# OpenSSL's error reasons for a key that does not match the certificate. They depend on its version and on the types of
# the keys.
_MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


@dataclass(frozen=True, slots=True)
class WebConfig:
    """A web configuration.

    `users` maps user names to password hashes; without users, access is open. `tls` is None for plain HTTP. `headers`
    are added to every response. `files` are the files that the configuration was read from.
    """

    users: Mapping[str, Secret] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FilePath, ...] = ()

    @property
    def protections(self) -> tuple[str, ...]:
        """The enabled protections, as texts for messages."""
        return tuple(name for name in ("TLS", "client certificates", "passwords") if self.strengths[name])

    @property
    def strengths(self) -> Mapping[str, int]:
        """How strong each protection is, by its name for messages: a larger number is stronger, and 0 is none."""
        verify_mode, minimum, maximum = (
            (self.tls.verify_mode, self.tls.minimum_version, self.tls.maximum_version) if self.tls else (0, 0, 0)
        )
        return {
            "TLS": self.tls is not None,
            "client certificates": verify_mode,
            "min_version": minimum,
            "max_version": maximum,
            "passwords": bool(self.users),
            **dict.fromkeys(self.headers, 1),
        }


def read_web_config(path: str) -> WebConfig:
    """Return the configuration in the web configuration file at `path` and in the files that it names.

    Raises `ConfigError` with all problems if any of these files is invalid.
    """
    text = read_config_text(path, "set --web.config.file to the path of the web configuration file")
    document = parse(text, path)
    directory = FilePath(path).parent
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    invalid: list[tuple[KeyPath, str]] = []
    # An empty file is valid: neither TLS nor passwords.
    data = {} if document.data is None else document.data
    web_file = validate(WebFile, data, (), invalid, misplaced=UNSUPPORTED_KEYS)
    if web_file is not None:
        invalid += [*_configure_tls(context, web_file.tls_server_config, directory), *_check_bcrypt(web_file)]
    problems = document.find_problems(invalid)
    if problems or web_file is None:
        raise ConfigError(path, problems)
    headers = web_file.http_server_config.headers.model_dump(by_alias=True)
    return WebConfig(
        users=web_file.basic_auth_users,
        tls=context if web_file.tls_server_config is not None else None,
        headers={name.lower(): value for name, value in headers.items() if value},
        files=(FilePath(path), *_files(web_file.tls_server_config, directory).values()),
    )


def _check_bcrypt(web_file: WebFile) -> Iterator[tuple[KeyPath, str]]:
    if web_file.basic_auth_users and not passwords.is_available():
        yield ("basic_auth_users",), "requires the Python package bcrypt; run pip install bcrypt"


def _files(tls: TlsServer | None, directory: FilePath) -> dict[str, FilePath]:
    """Return the files that `tls` names, by their keys in the configuration."""
    names = ("cert_file", "key_file", "client_ca_file")
    return {name: directory / path for name in names if tls is not None and (path := getattr(tls, name))}


def _configure_tls(context: ssl.SSLContext, tls: TlsServer | None, directory: FilePath) -> list[tuple[KeyPath, str]]:
    """Configure `context` with the settings of `tls`, and return the problems, each with its path."""
    if tls is None:
        return []
    files = _files(tls, directory)
    unreadable = ((name, _describe_unreadable(path, getattr(tls, name))) for name, path in files.items())
    problems = [*_check_consistency(tls), *((name, text) for name, text in unreadable if text)]
    context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
    context.verify_mode = tls.client_auth_type
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return [((*_TLS, name), text) for name, text in problems or _load(context, files)]


def _check_consistency(tls: TlsServer) -> Iterator[tuple[str, str]]:
    """Yield the problems of settings that contradict each other, each with its key."""
    if tls.max_version < tls.min_version:
        yield "max_version", "is lower than min_version; raise it or remove it"
    if tls.client_auth_type is not ssl.CERT_NONE and tls.client_ca_file is None:
        yield "client_auth_type", "requires a CA that signs the client certificates; add client_ca_file"
    if tls.client_auth_type is ssl.CERT_NONE and tls.client_ca_file is not None:
        yield (
            "client_ca_file",
            "has no effect without client_auth_type; add client_auth_type: RequireAndVerifyClientCert",
        )


def _describe_unreadable(path: FilePath, written: str) -> str | None:
    """Return why a file cannot be read, or None if it can. `written` is its path as written in the configuration.

    A path is masked if it may be the private key itself, put there by mistake.
    """
    try:
        read_file(path)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "invalid path"
        is_shown = written.startswith(("/", "./", "../")) or echo_value(written) != MASK
        return f"cannot be read ({reason}): {shorten_path(path) if is_shown else MASK}"
    return None


def _load(context: ssl.SSLContext, files: Mapping[str, FilePath]) -> Iterator[tuple[str, str]]:
    """Load the certificate, its key and the CA into `context`, and yield the problems, each with its key."""
    certificate, key = files["cert_file"], files["key_file"]
    try:
        # Without a password callback, OpenSSL would prompt on the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, _EncryptedError) as error:
        yield _describe_load_error(certificate, key, error)
    if "client_ca_file" in files and not _holds_certificate(context, files["client_ca_file"]):
        yield "client_ca_file", f"contains no PEM certificate: {shorten_path(files['client_ca_file'])}"


class _EncryptedError(Exception):
    """The private key is encrypted."""


def _no_password() -> str:
    raise _EncryptedError


def _holds_certificate(context: ssl.SSLContext, path: FilePath) -> bool:
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        return False
    return True


def _describe_load_error(certificate: FilePath, key: FilePath, error: Exception) -> tuple[str, str]:
    """Return which setting made loading the certificate and its key fail, and the problem."""
    if isinstance(error, _EncryptedError):
        return "key_file", "is encrypted; provide the key without a passphrase, readable only by the exporter"
    if not _holds_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate):
        return "cert_file", f"contains no PEM certificate: {shorten_path(certificate)}"
    reason = getattr(error, "reason", None)
    if reason in _MISMATCHES:
        return "key_file", "does not match the certificate in cert_file; provide the key of that certificate"
    if reason == "EE_KEY_TOO_SMALL":
        return (
            "cert_file",
            "has a key that is too small for OpenSSL (EE_KEY_TOO_SMALL); create a certificate with a larger key",
        )
    return "key_file", f"contains no PEM private key: {shorten_path(key)}"
