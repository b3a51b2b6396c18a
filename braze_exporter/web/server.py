"""The web application for `/metrics`, `/` and the paths below `/-/`, and its server.

All connections share one event loop, so slow clients and waiting scrapes use no threads. Rendering, compression and
password checks run in a few threads.
"""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import FrameType
from typing import Any, Protocol

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from braze_exporter.config.document import ConfigError
from braze_exporter.scheduler.query_state import Refresh
from braze_exporter.web.acceptor import Acceptor
from braze_exporter.web.access import AccessControl
from braze_exporter.web.connection import IDLE_TIMEOUT_SECONDS, Connection, has_body
from braze_exporter.web.passwords import BusyError
from braze_exporter.web.rendering import PageReaders, PageRenderer, RenderKey

OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPE_OPENMETRICS = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"
# The scrape timeout in seconds if the request has no timeout header, and its maximum.
DEFAULT_TIMEOUT_SECONDS = 10.0
MAX_TIMEOUT_SECONDS = 60.0
# The maximum number of scrapes that wait for fetches. Further scrapes return the current values at once.
MAX_WAITING_SCRAPES = 64
# How long a scrape waits at least for the start of its fetches, even after its deadline.
_MIN_REFRESH_SECONDS = 0.1
_CHUNK_BYTES = 32_768
_SHUTDOWN_SECONDS = 1  # how long the shutdown waits for pending responses
# Paths exempt from authentication, for health probes.
_PUBLIC_PATHS = {"/-/healthy", "/-/ready"}
# The charset makes browsers send user names in UTF-8.
_AUTH_CHALLENGE = b'Basic realm="braze-exporter", charset="UTF-8"'

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class MetricsSource(Protocol):
    """The source of the metrics that the application serves."""

    def refresh(self) -> Refresh:
        """Start a fetch of every due query, and return a future that is done when no fetch is in flight."""

    def save(self) -> Future[None]:
        """Start a write of the state file, and return a future that is done after it. Does not block."""

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the metrics in the text format, or in OpenMetrics if `openmetrics` is true. Writes no file."""

    def count_incomplete_scrape(self) -> None:
        """Count a scrape that reached its deadline before all due queries were fetched."""


class StatusPage(Protocol):
    """The status page that the application serves at `/`. `policy` is its Content-Security-Policy."""

    policy: str

    def html(self) -> bytes:
        """Return the page as HTML."""

    def json(self) -> bytes:
        """Return the status as JSON."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response.

    `is_gzipped` is true if the body is compressed. `allow` is the value of the `Allow` header, or empty. `is_scrape` is
    true if it is the page for a client that has a scrape timeout.
    """

    status: int
    content_type: str
    body: bytes
    is_gzipped: bool = False
    allow: str = ""
    is_scrape: bool = False
    extra_headers: Mapping[bytes, bytes] = field(default_factory=dict)


class Application:
    """The ASGI application of the exporter."""

    def __init__(
        self,
        source: MetricsSource,
        *,
        status_page: StatusPage,
        reload: Callable[[], Future[None]] | None = None,
        access: AccessControl | None = None,
        timeout_offset_seconds: float = 0.0,
    ) -> None:
        """Serve `source` at `/metrics` and `status_page` at `/`.

        A request to `/-/reload` calls `reload`, or is rejected if it is None. If the reload fails with a `ConfigError`,
        the response contains it. `access` authorizes requests; without it, access is open. A scrape ends at least
        `timeout_offset_seconds` before its timeout.
        """
        self._source = source
        self._status_page = status_page
        self._reload = reload
        self.access = access
        self._pages = PageRenderer(
            lambda content_type: source.render(openmetrics=content_type == CONTENT_TYPE_OPENMETRICS)
        )
        self._status_pages = PageRenderer(
            lambda content_type: status_page.json() if content_type == JSON else status_page.html(), threads=1
        )
        self._timeout_offset_seconds = timeout_offset_seconds
        # How long the last page took.
        self._render_seconds = 0.0
        self._send_seconds = 0.0
        self._waiting = 0
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="refresh")
        self._readers = PageReaders()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Respond to one request. If that raises an unexpected error, log it and respond with a 500."""
        if scope["type"] != "http":
            return
        arrived_at = _now()
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            access_error = await self._access_error(scope, headers)
            response = access_error or await self._respond(scope["method"], scope["path"], headers, receive, arrived_at)
        except Exception:  # noqa: BLE001 - the server must continue after any error
            _log.exception("Request failed", extra={"fields": {"path": scope["path"]}})
            response = _INTERNAL_ERROR
        extra_headers = self.access.config.headers if self.access else {}
        started_at = _now()
        try:
            await send(
                {"type": "http.response.start", "status": response.status, "headers": _headers(response, extra_headers)}
            )
            await self._deliver(response.body if scope["method"] != "HEAD" else b"", send)
        finally:  # also if the connection of a slow client is closed
            if response.is_scrape:
                self._send_seconds = _now() - started_at

    async def _deliver(self, body: bytes, send: Send) -> None:
        """Send a body in chunks, as fast as the client reads. So a slow client needs no copy of the whole body."""
        with self._readers.reading(body):
            for start in range(0, len(body) or 1, _CHUNK_BYTES):
                end = start + _CHUNK_BYTES
                await send({"type": "http.response.body", "body": body[start:end], "more_body": end < len(body)})

    async def _access_error(self, scope: Message, headers: dict[bytes, str]) -> HttpResponse | None:
        """Return the response to a request that is unauthorized or has a body, else None."""
        if has_body(scope["headers"]):
            return _text_response(413, "Content Too Large. Request bodies are not accepted.")
        if self.access is None or scope["path"] in _PUBLIC_PATHS:
            return None
        try:
            if await self.access.authorize(headers.get(b"authorization")):
                return None
        except BusyError:
            return _text_response(503, "Service Unavailable. Too many password checks are pending. Retry in a second.")
        return _text_response(401, "Unauthorized")

    async def _respond(
        self, method: str, path: str, headers: dict[bytes, str], receive: Receive, arrived_at: float
    ) -> HttpResponse:
        texts = {"/-/healthy": "Healthy.", "/-/ready": "Ready."}
        if path == "/-/reload":
            return await self._handle_reload() if method in {"POST", "PUT"} else _not_allowed("POST, PUT")
        if path not in {"/", "/metrics", *texts}:
            return _text_response(404, "Not Found. Metrics are at /metrics.")
        if method not in {"GET", "HEAD"}:
            return _not_allowed("GET, HEAD")
        if path in texts:
            return _text_response(200, texts[path])
        if path == "/":
            return await self._handle_status(headers)
        return await self._handle_metrics(headers, receive, arrived_at)

    async def _handle_status(self, headers: dict[bytes, str]) -> HttpResponse:
        content_type = JSON if accepts_json(headers.get(b"accept", "")) else HTML
        response = await self._render_shared(self._status_pages, content_type, headers)
        extra_headers = {b"cache-control": b"no-store"}  # otherwise the back button of a browser may show the JSON
        if content_type == HTML:
            extra_headers[b"content-security-policy"] = self._status_page.policy.encode()
        return replace(response, extra_headers=extra_headers)

    async def _handle_reload(self) -> HttpResponse:
        if self._reload is None:
            return _text_response(
                403, "Lifecycle API is not enabled. Start the exporter with --web.enable-lifecycle, or send SIGHUP."
            )
        try:
            await asyncio.wrap_future(self._reload())
        except ConfigError as error:
            return _text_response(500, f"failed to reload config: {error}")
        return _text_response(200, "Configuration reloaded.")

    async def _handle_metrics(self, headers: dict[bytes, str], receive: Receive, arrived_at: float) -> HttpResponse:
        header = headers.get(b"x-prometheus-scrape-timeout-seconds")
        page_seconds = expected_page_seconds(self._render_seconds, self._send_seconds, self._pages.render_seconds)
        deadline = arrived_at + scrape_timeout_seconds(header) - max(self._timeout_offset_seconds, page_seconds)
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        self._waiting += 1
        if self._waiting > MAX_WAITING_SCRAPES:
            deadline = arrived_at
        try:
            refresh = await self._start_refresh(deadline, disconnected)
            is_complete = await _wait_until(deadline, asyncio.wrap_future(refresh), disconnected)
            await _wait_until(deadline, asyncio.wrap_future(self._source.save()), disconnected)
        finally:
            self._waiting -= 1
            is_disconnected = disconnected.done()
            disconnected.cancel()
        if is_disconnected:
            return _text_response(503, "Client disconnected.")
        if not is_complete:
            self._source.count_incomplete_scrape()
        openmetrics = accepts_openmetrics(headers.get(b"accept", ""))
        content_type = CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_PLAIN_0_0_4
        started_at = _now()
        response = await self._render_shared(self._pages, content_type, headers)
        self._render_seconds = _now() - started_at
        if _log.isEnabledFor(logging.DEBUG):
            fields = {"due": refresh.due, "fetched": refresh.fetched, "waited": f"{started_at - arrived_at:.3f}s"}
            _log.debug("Scrape", extra={"fields": fields | {"bytes": len(response.body)}})
        return replace(response, is_scrape=header is not None)

    async def _start_refresh(self, deadline: float, disconnected: asyncio.Future[None]) -> Refresh:
        """Start the fetches of due queries. If they do not start before the deadline, the result is never done.

        They are started in a thread, which may have to wait for a lock while another thread works.
        """
        started = asyncio.get_running_loop().run_in_executor(self._threads, self._source.refresh)
        is_started = await _wait_until(max(deadline, _now() + _MIN_REFRESH_SECONDS), started, disconnected)
        return started.result() if is_started else Refresh()

    async def _render_shared(self, pages: PageRenderer, content_type: str, headers: dict[bytes, str]) -> HttpResponse:
        key = RenderKey(content_type, accepts_gzip(headers.get(b"accept-encoding", "")))
        body = await pages.page(key)
        return HttpResponse(200, content_type, body, is_gzipped=key.is_gzipped) if body is not None else _INTERNAL_ERROR


async def _wait_until(deadline: float, work: asyncio.Future[Any], disconnected: asyncio.Future[None]) -> bool:
    """Wait for `work` until `deadline` or until the client has disconnected, and return whether it is done."""
    timeout = max(0.0, deadline - _now())
    await asyncio.wait([work, disconnected], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return work.done()


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(response: HttpResponse, extra_headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response. `extra_headers` override all others."""
    headers = {
        b"content-type": response.content_type.encode(),
        b"content-length": str(len(response.body)).encode(),
        b"vary": b"Accept, Accept-Encoding",
        b"x-content-type-options": b"nosniff",
        **({b"content-encoding": b"gzip"} if response.is_gzipped else {}),
        **({b"allow": response.allow.encode()} if response.allow else {}),
        **({b"www-authenticate": _AUTH_CHALLENGE} if response.status == HTTPStatus.UNAUTHORIZED else {}),
        **({b"connection": b"close"} if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else {}),
        **response.extra_headers,
        **extra_headers,
    }
    return list(headers.items())


def _text_response(status: int, text: str) -> HttpResponse:
    return HttpResponse(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _not_allowed(methods: str) -> HttpResponse:
    return replace(_text_response(405, f"Method Not Allowed. Allowed methods: {methods}."), allow=methods)


_INTERNAL_ERROR = _text_response(500, "Internal Server Error. See the exporter's log.")


def _now() -> float:
    """Return the monotonic time of the event loop in seconds."""
    return asyncio.get_running_loop().time()


def scrape_timeout_seconds(header: str | None) -> float:
    """Return the timeout of a scrape. `header` is the value of Prometheus's scrape timeout header."""
    try:
        timeout = float(header) if header is not None else DEFAULT_TIMEOUT_SECONDS
    except ValueError:
        timeout = DEFAULT_TIMEOUT_SECONDS
    if math.isnan(timeout):
        timeout = DEFAULT_TIMEOUT_SECONDS
    return min(max(0.0, timeout), MAX_TIMEOUT_SECONDS)


def expected_page_seconds(render_seconds: float, send_seconds: float, longest_render_seconds: float) -> float:
    """Return how long the next page may take.

    It is twice what the last page took to render and to send. A page with many changes takes much longer to render than
    the last one may have, so `longest_render_seconds` of a longer period counts too.
    """
    return send_seconds + max(2 * render_seconds + send_seconds, longest_render_seconds)


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


class _Server(uvicorn.Server):
    """A uvicorn server that calls `on_stop` at a signal, and then ends without raising the signal again."""

    def __init__(self, config: uvicorn.Config, application: Application, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._application = application
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving on `sockets`."""
        acceptor = Acceptor(sockets or [], self._connection, self.server_state.connections)
        self.servers = [acceptor]  # type: ignore[list-item] # uvicorn expects asyncio servers
        self.started = True

    def _connection(self) -> Connection:
        tls = self._application.access.config.tls if self._application.access is not None else None
        return Connection(config=self.config, server_state=self.server_state, app_state={}, tls=tls)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Start the shutdown. `on_stop` waits for locks, so it runs in a thread."""
        self.should_exit = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.run_in_executor, None, self._on_stop)


def serve(application: Application, listeners: Sequence[socket.socket], on_stop: Callable[[], None]) -> None:
    """Serve on `listeners` until SIGTERM or SIGINT, and close them.

    `on_stop` is called in a thread at the signal. It must resolve the futures of the waiting scrapes.
    """
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http=Connection,
        loop="asyncio",
        timeout_keep_alive=int(IDLE_TIMEOUT_SECONDS),
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        server_header=False,
        proxy_headers=False,
        workers=1,  # otherwise uvicorn reads the environment
    )
    _Server(config, application, on_stop).run(sockets=list(listeners))
