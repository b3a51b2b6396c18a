"""The web application for `/metrics`, `/` and the paths below `/-/`, and its server.

All connections share one event loop, so slow clients and waiting scrapes use no threads. Rendering, compression and
password checks run in a few threads.
"""

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from braze_exporter.config.document import ConfigError
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.query_state import Refresh
from braze_exporter.web.acceptor import Acceptor
from braze_exporter.web.access import AccessControl
from braze_exporter.web.connection import HttpResponse, Send
from braze_exporter.web.passwords import BusyError
from braze_exporter.web.rendering import PageReaders, PageRenderer, RenderKey
from braze_exporter.web.request import (
    JSON,
    OPENMETRICS,
    Request,
    accepts_gzip,
    accepts_json,
    accepts_openmetrics,
)
from braze_exporter.web.status_page import StatusPage
from braze_exporter.web.status_response import read_status_response

CONTENT_TYPE_OPENMETRICS = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
HTML = "text/html; charset=utf-8"
# The scrape timeout in seconds if the request has no timeout header, and its maximum.
DEFAULT_TIMEOUT_SECONDS = 10.0
MAX_TIMEOUT_SECONDS = 60.0
# The maximum number of scrapes that wait for fetches. Further scrapes return the current values at once.
MAX_WAITING_SCRAPES = 64
# How long a scrape waits at least for the start of its fetches, even after its deadline.
_MIN_START_SECONDS = 0.1
# Of the time of a slow render, this part still counts for the next page. One with few changes renders much faster, but
# the one after it may have many again. After an hour of a scrape a minute, a third is left.
_RENDER_TIME_DECAY = 0.98
_SHUTDOWN_SECONDS = 1  # how long the shutdown waits for pending responses
# Paths exempt from authentication, for health probes.
_PUBLIC_PATHS = {"/-/healthy", "/-/ready"}
_DEFAULT_HEADERS = {"vary": "Accept, Accept-Encoding", "x-content-type-options": "nosniff"}
# The charset makes browsers send user names in UTF-8.
_AUTH_CHALLENGE = 'Basic realm="braze-exporter", charset="UTF-8"'

_log = logging.getLogger(__name__)


class Application:
    """Responds to the requests of all clients."""

    def __init__(
        self,
        exporter: Exporter,
        *,
        reload: Callable[[], Future[None]] | None = None,
        access: AccessControl | None = None,
        timeout_offset_seconds: float = 0.0,
    ) -> None:
        """Serve the metrics of `exporter` at `/metrics`, and its status page at `/`.

        A request to `/-/reload` calls `reload`, or is rejected if it is None. If the reload fails with a `ConfigError`,
        the response contains it. `access` authorizes requests; without it, access is open. A scrape ends at least
        `timeout_offset_seconds` before its timeout.
        """
        self.exporter = exporter
        self._status_page = StatusPage(lambda: read_status_response(exporter))
        self._reload = reload
        self.access = access
        self._pages = PageRenderer(
            lambda content_type: exporter.render(openmetrics=content_type == CONTENT_TYPE_OPENMETRICS)
        )
        self._status_pages = PageRenderer(
            lambda content_type: [self._status_page.json() if content_type == JSON else self._status_page.html],
            threads=1,
        )
        self._timeout_offset_seconds = timeout_offset_seconds
        # How long the last page took, or a slower one before it. The next one may take twice as long.
        self._render_seconds = 0.0
        self._send_seconds = 0.0
        self._waiting = 0
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="refresh")
        self._readers = PageReaders()

    async def __call__(self, request: Request | None, send: Send) -> None:
        """Respond to a request, which is None if it is invalid. Unexpected errors are logged and result in a 500."""
        arrived_at = _now()
        try:
            response = await self._respond(request, arrived_at)
        except Exception:  # noqa: BLE001 - the server must continue after any error
            _log.exception("Request failed", extra={"fields": {"path": request and request.path}})
            response = _INTERNAL_ERROR
        headers = self.access.config.headers if self.access is not None else {}
        started_at = _now()
        try:
            with self._readers.reading(response.body):
                await send(replace(response, headers={**_DEFAULT_HEADERS, **response.headers, **headers}))
        finally:  # also if the connection of a slow client is closed
            if response.is_scrape:
                self._send_seconds = _now() - started_at

    async def _respond(self, request: Request | None, arrived_at: float) -> HttpResponse:
        if request is None:
            return _text_response(400, "Bad Request")
        if request.has_body:
            return _text_response(413, "Content Too Large. Request bodies are not accepted.")
        return await self._access_error(request) or await self._route(request, arrived_at)

    async def _access_error(self, request: Request) -> HttpResponse | None:
        """Return the response to an unauthorized request, else None."""
        if self.access is None or request.path in _PUBLIC_PATHS:
            return None
        try:
            if await self.access.authorize(request.headers.get("authorization")):
                return None
        except BusyError:
            return _text_response(503, "Service Unavailable. Too many password checks are pending. Retry in a second.")
        return _text_response(401, "Unauthorized", {"www-authenticate": _AUTH_CHALLENGE})

    async def _route(self, request: Request, arrived_at: float) -> HttpResponse:
        texts = {"/-/healthy": "Healthy.", "/-/ready": "Ready."}
        method, path = request.method, request.path
        if path == "/-/reload":
            return await self._handle_reload(request) if method in {"POST", "PUT"} else _not_allowed("POST, PUT")
        if path not in {"/", "/metrics", *texts}:
            return _text_response(404, "Not Found. Metrics are at /metrics.")
        if method not in {"GET", "HEAD"}:
            return _not_allowed("GET, HEAD")
        if path in texts:
            return _text_response(200, texts[path])
        return await (self._handle_status(request) if path == "/" else self._handle_metrics(request, arrived_at))

    async def _handle_status(self, request: Request) -> HttpResponse:
        content_type = JSON if accepts_json(request.headers.get("accept", "")) else HTML
        headers = {"cache-control": "no-store"}  # otherwise the back button of a browser may show the JSON
        if content_type == HTML:
            headers["content-security-policy"] = self._status_page.policy
        return await self._render(self._status_pages, content_type, request, headers)

    async def _handle_reload(self, request: Request) -> HttpResponse:
        if self._reload is None:
            return _text_response(
                403, "Lifecycle API is not enabled. Start the exporter with --web.enable-lifecycle, or send SIGHUP."
            )
        if request.is_cross_origin:
            return _text_response(403, "Forbidden. The request was sent by a web page of another origin.")
        try:
            await asyncio.shield(asyncio.wrap_future(self._reload()))
        except ConfigError as error:
            return _text_response(500, f"failed to reload config: {error}")
        return _text_response(200, "Configuration reloaded.")

    async def _handle_metrics(self, request: Request, arrived_at: float) -> HttpResponse:
        header = request.headers.get("x-prometheus-scrape-timeout-seconds")
        page_seconds = 2 * (self._render_seconds + self._send_seconds)
        deadline = arrived_at + scrape_timeout_seconds(header) - max(self._timeout_offset_seconds, page_seconds)
        self._waiting += 1
        if self._waiting > MAX_WAITING_SCRAPES:
            deadline = arrived_at
        try:
            refresh = await self._start_refresh(deadline)
            is_complete = await _wait_until(deadline, asyncio.wrap_future(refresh))
            await _wait_until(deadline, asyncio.wrap_future(self.exporter.save()))
        finally:  # also if the client disconnects
            self._waiting -= 1
        if not is_complete:
            self.exporter.count_incomplete_scrape()
        openmetrics = accepts_openmetrics(request.headers.get("accept", ""))
        content_type = CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_PLAIN_0_0_4
        started_at = _now()
        response = await self._render(self._pages, content_type, request)
        self._render_seconds = max(_now() - started_at, _RENDER_TIME_DECAY * self._render_seconds)
        if _log.isEnabledFor(logging.DEBUG):
            fields = {"due": refresh.due, "fetched": refresh.fetched, "waited": f"{started_at - arrived_at:.3f}s"}
            _log.debug("Scrape", extra={"fields": fields | {"bytes": len(response.body)}})
        return replace(response, is_scrape=header is not None)

    async def _start_refresh(self, deadline: float) -> Refresh:
        """Start the fetches of due queries. If they do not start before the deadline, the result is never done.

        They are started in a thread, which may have to wait for a lock while another thread works.
        """
        started = asyncio.get_running_loop().run_in_executor(self._threads, self.exporter.refresh)
        is_started = await _wait_until(max(deadline, _now() + _MIN_START_SECONDS), started)
        return started.result() if is_started else Refresh()

    async def _render(
        self, pages: PageRenderer, content_type: str, request: Request, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Return the newest page of `pages`, compressed if the client accepts that."""
        key = RenderKey(content_type, accepts_gzip(request.headers.get("accept-encoding", "")))
        body = await pages.page(key)
        if body is None:
            return _INTERNAL_ERROR
        encoding = {"content-encoding": "gzip"} if key.is_gzipped else {}
        return HttpResponse(200, body, {"content-type": content_type, **encoding, **(headers or {})})


async def _wait_until(deadline: float, work: asyncio.Future[Any]) -> bool:
    """Wait for `work` until `deadline`, and return whether it is done."""
    await asyncio.wait([work], timeout=max(0.0, deadline - _now()))
    return work.done()


def _text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(status, f"{text}\n".encode(), {"content-type": "text/plain; charset=utf-8", **(headers or {})})


def _not_allowed(methods: str) -> HttpResponse:
    return _text_response(405, f"Method Not Allowed. Allowed methods: {methods}.", {"allow": methods})


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


def serve(application: Application, listeners: Sequence[socket.socket]) -> None:
    """Serve on `listeners` until SIGTERM or SIGINT, and close them. The signal also stops all fetches."""
    asyncio.run(_serve(application, listeners))


async def _serve(application: Application, listeners: Sequence[socket.socket]) -> None:
    acceptor = Acceptor(
        listeners, application, lambda: application.access.config.tls if application.access is not None else None
    )
    await _wait_for_stop()
    # In a thread, since it may wait for locks.
    asyncio.get_running_loop().run_in_executor(None, application.exporter.stop_fetching)
    await acceptor.close(_SHUTDOWN_SECONDS)


async def _wait_for_stop() -> None:
    """Wait for SIGTERM or SIGINT. Further ones do nothing, so that they do not interrupt the last write of the state.

    The signal handlers of an event loop end with the loop, which is before that write.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)  # noqa: FBT003 - the only argument
        # The system may deliver a signal to another thread. The byte that it then writes wakes the loop.
        loop.add_reader(reader, reader.recv, 1)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        await stopped.wait()
        signal.set_wakeup_fd(-1)
        loop.remove_reader(reader)
