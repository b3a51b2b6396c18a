"""One authenticated GET → the series of its answer, or a typed `BrazeError`. Nothing is kept, nothing is repeated."""

import socket
import ssl
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from braze_exporter import __version__, answer
from braze_exporter.catalog import BrazeError, Call, Query, Quota, Reason, Series, Withheld
from braze_exporter.limiter import Limiter

# Seconds: to connect, between two pieces of an answer, and for all of it. Braze usually answers within one.
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 15.0
TOTAL_TIMEOUT = 30.0
# The largest answer of Braze's export API known is under 1 MB.
MAX_BODY = 4 * 1024 * 1024
_PIECE = 64 * 1024
# Routers forget a connection that is idle for some minutes, and the next request on it would be lost.
_KEEP_ALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15))
        if hasattr(socket, name)
    ),
]


class _Adapter(HTTPAdapter):
    """Connections that share one TLS context; by default requests reads the CA bundle anew for each of them."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=connections, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the signature of requests
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context, socket_options=_KEEP_ALIVE)  # type: ignore[no-untyped-call]

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return super().proxy_manager_for(*args, **kwargs, ssl_context=self._context)  # type: ignore[no-untyped-call]

    def cert_verify(self, *_args: object, **_kwargs: object) -> None:
        """Leave the verification to the context, which requires a certificate and checks the host name."""

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        for key in ("ca_certs", "ca_cert_dir"):
            pool.pop(key, None)
        return host, pool


class _Bearer(AuthBase):
    """The key as Braze wants it. It has no `repr` that would show it."""

    def __init__(self, reveal_key: Callable[[], str]) -> None:
        self._reveal_key = reveal_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._reveal_key()}"
        return request


def open_session(connections: int, ca_bundle: str | None = None) -> requests.Session:
    """Return the session for the life of the process, which keeps at most `connections` alive to each host.

    `ca_bundle` is a file of trusted certificates, certifi's if None; raises OSError if it cannot be used. The environment
    has no influence beside that: no `.netrc` replaces the key. Cookies are not kept.
    """
    context = ssl.create_default_context(cafile=ca_bundle or certifi.where())
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {"User-Agent": f"braze-exporter/{__version__}", "Accept": "application/json", "Accept-Encoding": "gzip"}
    )
    adapter = _Adapter(context, connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class Client:
    """Asks Braze for one workspace. Thread-safe as far as its session is."""

    def __init__(
        self,
        url: str,
        reveal_key: Callable[[], str],
        session: requests.Session,
        limiters: Mapping[str, Limiter],
        *,
        proxies: Mapping[str, str],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        on_call: Callable[[Call], None],
    ) -> None:
        """Ask at the REST endpoint `url`, with the limiter of each pool by its name.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump; `on_call` is told of every call.
        """
        self._url = url
        self._reveal_key = reveal_key
        self._auth = _Bearer(reveal_key)
        self._session = session
        self._limiters = limiters
        self._proxies = dict(proxies)
        self._wall = wall
        self._monotonic = monotonic
        self._on_call = on_call

    def grants(self, query: Query) -> bool:
        """Return whether the pool of `query` may be asked now."""
        return self._limiters[query.kind.pool.name].grants()

    def fetch(self, query: Query) -> tuple[Series, ...]:
        """Ask Braze once for `query`, up to the present moment, and return the series of the answer.

        Raises `Withheld` if no call was made, `BrazeError` if it was not answered.
        """
        pool = query.kind.pool.name
        if not self.grants(query):
            raise Withheld(pool)
        started = self._monotonic()
        exchange = _Exchange(self._monotonic, started + TOTAL_TIMEOUT)
        reason: Reason | None = None
        try:
            exchange.run(lambda: self._get(query))
            return self._series(query, exchange)
        except BrazeError as error:
            reason = error.reason
            raise
        finally:
            quota = Quota()
            if exchange.status is not None:
                now = answer.sent_by_braze_at(exchange.headers) or self._wall()
                quota = answer.quota(exchange.headers, now)
                if reason is Reason.RATE_LIMITED:
                    self._limiters[pool].stop(None if quota.reset is None else quota.reset - now)
            elapsed = self._monotonic() - started
            self._on_call(Call(query.workspace, query.kind.endpoint, pool, exchange.status, reason, elapsed, quota))

    def _get(self, query: Query) -> requests.Response:
        """Send the request; the answer's body is still to be read."""
        parameters = {query.kind.subject: query.subject, "length": str(query.length)}
        if len(query.kind.units) > 1:
            parameters["unit"] = query.unit.value
        if query.app_id:
            parameters["app_id"] = query.app_id
        if query.segment_id:
            parameters["segment_id"] = query.segment_id
        # No ending_at: it defaults to the time of the request, and Braze refuses one in the future.
        return self._session.get(
            self._url + query.kind.endpoint,
            params=parameters,
            auth=self._auth,
            proxies=self._proxies,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,  # the key must not leave the host
            stream=True,
        )

    def _series(self, query: Query, exchange: "_Exchange") -> tuple[Series, ...]:
        """Return what the answer says, or raise what it means."""
        reason = answer.failure(exchange.status or 0)
        if reason is None:
            if exchange.error is not None:
                raise exchange.error
            return answer.series(query, exchange.body)
        raise BrazeError(reason, self._explain(query, reason, exchange))

    def _explain(self, query: Query, reason: Reason, exchange: "_Exchange") -> str:
        """Return one line on a refusal: what to do where that is known, and Braze's own words without the key."""
        if reason is Reason.UNAUTHORIZED:  # this body repeats the key, so none of it is shown
            return "HTTP 401: check that the key is a REST API key of this workspace, and that url is its REST endpoint"
        said = answer.message(exchange.body).replace(self._reveal_key(), "***")
        said = "".join(letter if letter.isprintable() else " " for letter in said)[:200]
        hint = f": the key needs the permission {query.kind.permission}" if reason is Reason.FORBIDDEN else ""
        return f"HTTP {exchange.status}{hint}" + (f": {said}" if said else "")


class _Exchange:
    """One request and its answer, within limits of time and size."""

    def __init__(self, monotonic: Callable[[], float], deadline: float) -> None:
        self._monotonic = monotonic
        self._deadline = deadline
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.error: BrazeError | None = None  # why the body could not be read

    def run(self, send: Callable[[], requests.Response]) -> None:
        """Take the answer in; raise `BrazeError` if there is none. A body that breaks off is kept as `error`."""
        try:
            response = send()
        except requests.exceptions.SSLError as error:
            raise BrazeError(Reason.TLS, f"the TLS connection failed: {_root(error)}") from None
        except requests.exceptions.Timeout:
            raise BrazeError(Reason.TIMEOUT, "no answer in time") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(
                getattr(error.args[0] if error.args else None, "reason", None), urllib3.exceptions.NameResolutionError
            ):
                raise BrazeError(Reason.DNS, "the host name of the url cannot be resolved") from None
            raise BrazeError(Reason.CONNECTION, f"the connection failed: {_root(error)}") from None
        with response:
            self.status = response.status_code
            self.headers = response.headers
            try:
                self.body = self._read(response.raw)
            except BrazeError as error:
                self.error = error
            except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
                self.error = BrazeError(Reason.TIMEOUT, "the answer stopped halfway")
            except urllib3.exceptions.DecodeError:
                self.error = BrazeError(Reason.NOT_JSON, "the body cannot be decompressed")
            except (urllib3.exceptions.HTTPError, OSError):
                self.error = BrazeError(Reason.TRUNCATED, "the connection broke before the whole answer was here")

    def _read(self, raw: urllib3.response.BaseHTTPResponse) -> bytes:
        """Return the decompressed body. Every piece that arrives is measured against the clock and the size."""
        pieces: list[bytes] = []
        size = 0
        while piece := raw.read1(_PIECE, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY:
                raise BrazeError(Reason.TOO_LARGE, f"the answer is larger than {MAX_BODY // 1024 // 1024} MiB")
            if self._monotonic() > self._deadline:
                raise BrazeError(Reason.TIMEOUT, f"the answer was not complete after {TOTAL_TIMEOUT:.0f} s")
        return b"".join(pieces)


def _root(error: BaseException) -> str:
    """Return the name of the innermost cause: enough to act on, and sure to hold nothing secret."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    cause = error.__context__ if reason is None else reason
    while cause is not None and (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__
    return (getattr(cause, "strerror", None) or type(cause or error).__name__)[:100]
