"""The web application: `/metrics`, `/` and what is below `/-/`, on a server that slow clients cannot block.

A scrape waits for Braze without holding a thread; only rendering and compressing take one of a few.
"""

import asyncio
import contextlib
import errno
import functools
import gzip
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import FrameType
from typing import Any, Protocol

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from braze_exporter.config import ConfigError
from braze_exporter.connection import PATIENCE, Connection
from braze_exporter.web import BusyError, Web

OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPE_OPENMETRICS = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
# Seconds that a scrape waits at most: without a word of Prometheus, and less than what it allows.
DEFAULT_TIMEOUT = 10.0
TIMEOUT_MARGIN = 0.5
MAX_TIMEOUT = 60.0
# Level 1 makes the page a third larger than level 6 and costs half the time.
_GZIP_LEVEL = 1
_GZIP_FROM = 1_000  # bytes: below, it only costs
_HIGHEST_PORT = 65_535
_BACKLOG = 1_024  # connections that wait to be accepted
_DRAIN = 1  # seconds that answers under way have at the end
# What whoever asks may know without a password: probes have none.
_OPEN = {"/-/healthy", "/-/ready"}
# The character set makes browsers send names in UTF-8.
_WHO = b'Basic realm="braze-exporter", charset="UTF-8"'

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Source(Protocol):
    """What the application serves."""

    def refresh(self) -> Future[None]:
        """Have what is due fetched; the future is done when nothing is left to wait for."""

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the page of metrics."""

    def count_incomplete_scrape(self) -> None:
        """Count a scrape that stopped waiting."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its status, type and body."""

    status: int
    content_type: str
    body: bytes
    allow: str = ""


class Application:
    """An ASGI application."""

    def __init__(
        self,
        source: Source,
        *,
        landing: Callable[[], str],
        reload: Callable[[], Future[None]] | None = None,
        web: Web | None = None,
    ) -> None:
        """Serve `source`, and at `/` the page that `landing` returns, in HTML.

        `reload` is what a request for it does, None if none may; its `ConfigError` is shown to who asked. `web` says
        who may come in, else everyone may.
        """
        self._source = source
        self._landing = landing
        self._reload = reload
        self.web = web
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="render")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request. A fault of our own is a 500 and a line in the log."""
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            response = await self._refusal(scope["path"], headers)
            response = response or await self._respond(scope["method"], scope["path"], headers, receive)
        except Exception:  # noqa: BLE001 - whatever it was, the server goes on
            _log.exception("a page could not be made", extra={"fields": {"path": scope["path"]}})
            response = _text(500, "A fault of the exporter: see its log.")
        more = self.web.config().headers if self.web else {}
        body = {"with_body": scope["method"] != "HEAD", **await self._encoded(response, headers)}
        await _send(response, send, more, **body)

    async def _refusal(self, path: str, headers: dict[bytes, str]) -> Response | None:
        """Return what one who may not come in is told, or None to one who may."""
        if self.web is None or path in _OPEN:
            return None
        try:
            if await self.web.admits(headers.get(b"authorization")):
                return None
        except BusyError:
            return _text(503, "Too many passwords wait for their check: come again in a second.")
        return _text(401, "A user and a password are needed.")

    async def _respond(self, method: str, path: str, headers: dict[bytes, str], receive: Receive) -> Response:
        pages = {
            "/": lambda: Response(200, "text/html; charset=utf-8", self._landing().encode()),
            "/-/healthy": lambda: _text(200, "Healthy."),
            "/-/ready": lambda: _text(200, "Ready."),
        }
        if path == "/-/reload":
            return await self._reloaded() if method == "POST" else _not_allowed("POST")
        if path != "/metrics" and path not in pages:
            return _text(404, "Not found. The metrics are at /metrics.")
        if method not in {"GET", "HEAD"}:
            return _not_allowed("GET, HEAD")
        return pages[path]() if path in pages else await self._metrics(headers, receive)

    async def _reloaded(self) -> Response:
        if self._reload is None:
            return _text(403, "Not enabled: start the exporter with --web.enable-lifecycle, or send it SIGHUP.")
        try:
            await asyncio.wrap_future(self._reload())
        except ConfigError as error:
            return _text(400, str(error))
        return _text(200, "Reloaded.")

    async def _metrics(self, headers: dict[bytes, str], receive: Receive) -> Response:
        waiting = asyncio.wrap_future(self._source.refresh())
        gone = asyncio.ensure_future(_gone(receive))
        timeout = wait_time(headers.get(b"x-prometheus-scrape-timeout-seconds"))
        await asyncio.wait([waiting, gone], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return _text(503, "Nobody reads this.")
        gone.cancel()
        if not waiting.done():
            self._source.count_incomplete_scrape()
        openmetrics = accepts_openmetrics(headers.get(b"accept", ""))
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._threads, lambda: self._source.render(openmetrics=openmetrics))
        return Response(200, CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_PLAIN_0_0_4, body)

    async def _encoded(self, response: Response, headers: dict[bytes, str]) -> dict[str, bytes]:
        """Return the `compressed` body if the client takes one and it is worth it."""
        if len(response.body) < _GZIP_FROM or not accepts_gzip(headers.get(b"accept-encoding", "")):
            return {}
        loop = asyncio.get_running_loop()
        compress = lambda: gzip.compress(response.body, _GZIP_LEVEL, mtime=0)  # noqa: E731
        return {"compressed": await loop.run_in_executor(self._threads, compress)}


async def _gone(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(
    response: Response,
    send: Send,
    more: Mapping[bytes, bytes],
    *,
    with_body: bool,
    compressed: bytes | None = None,
) -> None:
    """Send a response, with `more` headers."""
    body = response.body if compressed is None else compressed
    headers = {
        b"content-type": response.content_type.encode(),
        b"content-length": str(len(body)).encode(),
        b"vary": b"Accept, Accept-Encoding",
        b"x-content-type-options": b"nosniff",
        **({b"content-encoding": b"gzip"} if compressed is not None else {}),
        **({b"allow": response.allow.encode()} if response.allow else {}),
        **({b"www-authenticate": _WHO} if response.status == HTTPStatus.UNAUTHORIZED else {}),
        **more,
    }
    await send({"type": "http.response.start", "status": response.status, "headers": list(headers.items())})
    await send({"type": "http.response.body", "body": body if with_body else b""})


def _text(status: int, text: str) -> Response:
    return Response(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _not_allowed(methods: str) -> Response:
    return replace(_text(405, f"Only {methods.replace(', ', ' and ')}."), allow=methods)


def wait_time(header: str | None) -> float:
    """Return how many seconds a scrape may wait, by Prometheus's header with its own time-out."""
    try:
        timeout = float(header) if header is not None else DEFAULT_TIMEOUT
    except ValueError:
        timeout = DEFAULT_TIMEOUT
    if math.isnan(timeout):
        timeout = DEFAULT_TIMEOUT
    return max(0.0, min(max(0.0, timeout), MAX_TIMEOUT) - TIMEOUT_MARGIN)


def _accepted(header: str) -> dict[str, float]:
    """Return what an `Accept` or `Accept-Encoding` header names, with its weights."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with contextlib.suppress(ValueError):
                    weight = float(parameter[2:])
        found[name] = max(weight, found.get(name, 0.0))
    return found


def accepts_openmetrics(accept: str) -> bool:
    """Return whether a client that sends this `Accept` header wants OpenMetrics rather than the text format."""
    accepted = _accepted(accept)
    return accepted.get(OPENMETRICS, 0.0) > 0 and accepted[OPENMETRICS] >= accepted.get("text/plain", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client that sends this `Accept-Encoding` header takes gzip."""
    return _accepted(accept_encoding).get("gzip", 0.0) > 0


class _Server(uvicorn.Server):
    """A server whose end by a signal is a success, and that says so to those who wait."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of uvicorn
        """Begin to end; called from a signal handler, so what takes locks is left to the loop."""
        self.should_exit = True
        asyncio.get_running_loop().call_soon_threadsafe(self._on_stop)


def serve(application: Application, listener: socket.socket, on_stop: Callable[[], None]) -> None:
    """Serve on `listener` until SIGTERM or SIGINT; `on_stop` is called then, and lets the waiting scrapes go."""
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http=functools.partial(Connection, tls=application.web.context if application.web else None),  # type: ignore[arg-type]
        loop="asyncio",
        timeout_keep_alive=int(PATIENCE),
        timeout_graceful_shutdown=_DRAIN,
        server_header=False,
    )
    _Server(config, on_stop).run(sockets=[listener])


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `:port`; raise ValueError if `address` is not of that form."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _HIGHEST_PORT:
        raise ValueError(f"{address} is not host:port or :port, such as :27293")
    return host.removeprefix("[").removesuffix("]"), int(port)


def listen(address: str) -> socket.socket:
    """Return a socket that listens on `address`, on all interfaces if it has no host; raise OSError if it cannot."""
    host, port = split_address(address)
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("", port), backlog=_BACKLOG)
