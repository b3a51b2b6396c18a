"""HTTP requests: parsing, and what their headers mean."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

OPENMETRICS = "application/openmetrics-text"
JSON = "application/json"

# The maximum number of lines of a request. Parsing time depends on the lines much more than on the bytes.
_MAX_LINES = 128
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The target may be an absolute URL, as sent to proxies.
_REQUEST_LINE = re.compile(rf"({_TOKEN.pattern}) (?=[!-~])(?:(?i:https?)://[^/? ]*)?([!-~]*) HTTP/1\.([01])")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Headers that change the meaning of a request if they are repeated.
_SINGLE_HEADERS = {"host", "content-length"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request without its body.

    `path` is decoded and has no query. Names in `headers` are lowercase, and the values of repeated headers are joined
    with commas. `is_last` is true if the client expects the end of the connection after the response.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    is_last: bool = True

    @property
    def has_body(self) -> bool:
        """Whether the request has a body."""
        return "transfer-encoding" in self.headers or bool(self.headers.get("content-length", "").strip("0"))

    @property
    def is_cross_origin(self) -> bool:
        """Whether a browser sent the request for a page of another origin. Other clients do not send these headers."""
        site, origin = self.headers.get("sec-fetch-site"), self.headers.get("origin")
        if site is not None:
            return site not in {"same-origin", "none"}
        return origin is not None and origin.partition("://")[2] != self.headers.get("host")


def parse_request(head: str) -> Request | None:
    """Return a request, or None if it is invalid. `head` is its request line and headers without the empty line."""
    first_line, *lines = head.split("\r\n")
    match = _REQUEST_LINE.fullmatch(first_line)
    if match is None or len(lines) >= _MAX_LINES:
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            value = f"{headers[name]}, {value}"
        is_repeated = name in headers and name in _SINGLE_HEADERS
        if is_repeated or not _TOKEN.fullmatch(name) or _CONTROL_CHARACTER.search(value):
            return None
        headers[name] = value
    method, target, minor_version = match.groups()
    if not headers.get("content-length", "0").isdecimal() or (minor_version == "1" and "host" not in headers):
        return None
    is_last = minor_version == "0" or "close" in headers.get("connection", "").lower()
    return Request(method, unquote(target.partition("?")[0]) or "/", headers, is_last)


def _parse_accept(header: str) -> dict[str, float]:
    """Return the values of an `Accept` or `Accept-Encoding` header, with their weights."""
    weights: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (token.strip().lower() for token in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with contextlib.suppress(ValueError):
                    weight = float(parameter[2:])
        weights[name] = max(weight, weights.get(name, 0.0))
    return weights


def accepts_openmetrics(accept: str) -> bool:
    """Return whether a client that sends this `Accept` header prefers OpenMetrics to the text format."""
    accepted = _parse_accept(accept)
    return accepted.get(OPENMETRICS, 0.0) > 0 and accepted[OPENMETRICS] >= accepted.get("text/plain", 0.0)


def accepts_json(accept: str) -> bool:
    """Return whether a client that sends this `Accept` header prefers JSON to HTML."""
    accepted = _parse_accept(accept)
    return accepted.get(JSON, 0.0) > accepted.get("text/html", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client that sends this `Accept-Encoding` header accepts gzip."""
    return _parse_accept(accept_encoding).get("gzip", 0.0) > 0
