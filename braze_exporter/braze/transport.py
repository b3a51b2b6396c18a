"""HTTP GETs over kept-alive connections with limits of time and size. Every failure is raised as a `BrazeError`."""

import http.client
import re
import socket
import ssl
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from braze_exporter import __version__
from braze_exporter.braze.connections import CONNECTION_POOLS, ProxyConnectionError
from braze_exporter.braze.deadline import deadline_in, remaining_seconds
from braze_exporter.braze.errors import BrazeError, Reason

# A response with 100 buckets of an event is below 10 kB; one of a Canvas with 200 steps is some megabytes.
MAX_BODY_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
# TCP keepalive prevents routers from dropping idle connections after some minutes. The next request would fail.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15))
        if hasattr(socket, name)
    ),
]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds: to connect, between two chunks of a response, and for the whole exchange.

    Braze usually responds within one second; Braze's own client waits 15.
    """

    connect: float = 5.0
    read: float = 15.0
    total: float = 30.0


DEFAULT_TIMEOUTS = Timeouts()


class _Adapter(HTTPAdapter):
    """An adapter whose connections share a TLS context. By default requests reads the CA bundle for each connection."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=connections, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - inherited signature of requests
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context, socket_options=_SOCKET_OPTIONS)
        self.poolmanager.pool_classes_by_scheme = CONNECTION_POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        kwargs |= {"ssl_context": self._context, "proxy_ssl_context": self._context}
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = CONNECTION_POOLS
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the credentials in the URL of a proxy as a header, in UTF-8 as curl and Go send them."""
        user, _, password = urlsplit(proxy).netloc.rpartition("@")[0].partition(":")
        credentials = unquote_to_bytes(f"{user}:{password}".encode(errors="surrogateescape"))
        return {"Proxy-Authorization": f"Basic {b64encode(credentials).decode()}"} if user else {}

    def cert_verify(self, *_args: object, **_kwargs: object) -> None:
        """Do nothing: the TLS context requires a certificate and checks the host name."""


class _Session(requests.Session):
    """A session that ignores redirects.

    `requests.Session` reads the whole body of a redirect even if it does not follow it.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - inherited signature of requests
        return None


class _BearerAuth(AuthBase):
    """Bearer authentication with the API key. Its `repr` does not contain the key."""

    def __init__(self, reveal_key: Callable[[], str]) -> None:
        """Call `reveal_key` for the key of each request."""
        self._reveal_key = reveal_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the `Authorization` header to `request`."""
        request.headers["Authorization"] = f"Bearer {self._reveal_key()}"
        return request


def open_session(
    connections: int, ca_bundle: str | None = None, proxies: Mapping[str, str] | None = None
) -> requests.Session:
    """Return a session that keeps at most `connections` connections per host alive.

    `ca_bundle` is the path of a file of trusted certificates, certifi's if None. `proxies` maps `scheme://host` or a
    scheme to the URL of a proxy. The session ignores the environment, so that `.netrc` cannot replace the API key, and
    stores no cookies. Raises `OSError` if `ca_bundle` cannot be used.
    """
    # `ssl.create_default_context` reads SSLKEYLOGFILE. From Python 3.13 on it also refuses certificates without key
    # identifiers, which curl accepts. PROTOCOL_TLS_CLIENT verifies certificates and host names too.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the default since Python 3.13, and of curl
    context.load_verify_locations(ca_bundle or certifi.where())
    session = _Session()
    session.trust_env = False
    session.proxies = dict(proxies or {})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {"User-Agent": f"braze-exporter/{__version__}", "Accept": "application/json", "Accept-Encoding": "gzip"}
    )
    adapter = _Adapter(context, connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response: status, headers and decompressed body. `body_error` is set if the body could not be read."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    body_error: BrazeError | None = None


class Transport:
    """Sends GET requests to one REST endpoint with its API key. As thread-safe as its session."""

    def __init__(
        self,
        session: requests.Session,
        url: str,
        reveal_key: Callable[[], str],
        *,
        monotonic: Callable[[], float],
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        """Create a transport for the base URL `url`.

        `reveal_key` returns the API key. `monotonic` returns seconds of a monotonic clock.
        """
        self._timeouts = timeouts
        self._session = session
        self._url = url
        self._auth = _BearerAuth(reveal_key)
        self._monotonic = monotonic

    def get(self, path: str, parameters: Mapping[str, str]) -> RawResponse:
        """Send one GET request for `path` and return the response.

        Redirects are not followed, since the API key must not be sent to another host. Raises `BrazeError` if there is
        no response.
        """
        with deadline_in(self._timeouts.total, self._monotonic):
            return self._send(path, parameters)

    def _send(self, path: str, parameters: Mapping[str, str]) -> RawResponse:
        # `Session.get` would also merge cookies, hooks and parameters of the session, which has none. That takes time.
        request = requests.PreparedRequest()
        timeout = (self._timeouts.connect, self._timeouts.read)
        try:
            request.prepare("GET", self._url + path, headers=self._session.headers, params=parameters, auth=self._auth)
            response = self._session.send(request, timeout=timeout, allow_redirects=False, stream=True)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            _clear_frames(error)
            raise _connection_error(error) from None
        with response:
            status, headers = response.status_code, response.headers
            try:
                return RawResponse(status, headers, _read_body(response.raw))
            except (BrazeError, urllib3.exceptions.HTTPError, OSError) as error:
                _clear_frames(error)
                return RawResponse(status, headers, body_error=_body_error(error))


def _read_body(raw: urllib3.response.BaseHTTPResponse) -> bytes:
    """Return the decompressed body.

    Raises `BrazeError` as soon as it exceeds `MAX_BODY_BYTES`, and `TimeoutError` after the deadline of the exchange.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := raw.read1(_CHUNK_BYTES, decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BrazeError(Reason.TOO_LARGE, f"response is larger than {MAX_BODY_BYTES // 1024**2} MiB")
    remaining_seconds()  # a response that arrived before a suspend is read after it, but its values are old
    return b"".join(chunks)


def _clear_frames(error: BaseException) -> None:
    """Clear the frames in the tracebacks of an error.

    urllib3 keeps the error in a variable of such a frame: a cycle that only the garbage collector would free.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__


def _body_error(error: Exception) -> BrazeError:
    """Return the error for a body that could not be read, by the error of `_read_body`."""
    if isinstance(error, BrazeError):
        return error.without_traceback()
    if isinstance(error, (urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return BrazeError(Reason.TIMEOUT, "request timed out while reading the response")
    if isinstance(error, urllib3.exceptions.DecodeError):
        return BrazeError(Reason.INVALID_RESPONSE, "response could not be decompressed")
    return BrazeError(Reason.TRUNCATED, "connection closed before the response was complete")


def _connection_error(error: Exception) -> BrazeError:
    """Return the error for a request without response, by the error of `requests` or `urllib3`."""
    reason = _urllib3_reason(error)
    if isinstance(error, requests.exceptions.SSLError):
        return BrazeError(Reason.TLS, f"TLS connection failed: {_describe_cause(error)}")
    if isinstance(error, requests.exceptions.Timeout):
        return BrazeError(Reason.TIMEOUT, "request timed out")
    if isinstance(reason, ProxyConnectionError):
        return BrazeError(Reason.PROXY, _describe_proxy_failure(reason.original_error))
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return BrazeError(Reason.DNS, "host name of the url could not be resolved")
    return BrazeError(Reason.CONNECTION, f"connection failed: {_describe_cause(error)}")


def _urllib3_reason(error: BaseException) -> object:
    """Return the `reason` of the urllib3 error that a requests error wraps, or None."""
    return getattr(error.args[0], "reason", None) if error.args else None


def _describe_proxy_failure(error: Exception) -> str:
    """Return a description of the error of a proxy, without text of the proxy and without its password."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "host name of the proxy could not be resolved"
    # `http.client` raises an `OSError` with the status of the response to CONNECT only in its message.
    refusal = re.match(r"Tunnel connection failed: (\d{3})\b", str(error))
    if refusal is not None:
        return f"proxy responded {refusal[1]} {http.client.responses.get(int(refusal[1]), '')}".rstrip()
    return f"proxy connection failed: {_describe_cause(error)}"


def _describe_cause(error: BaseException) -> str:
    """Return a short description of the innermost cause, which contains no secrets."""
    reason = _urllib3_reason(error)
    cause: BaseException = reason if isinstance(reason, BaseException) else error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return str(getattr(cause, "strerror", None) or getattr(cause, "verify_message", None) or type(cause).__name__)[:100]
