"""A client's connection to the server, with limits on idle time and request size."""

import asyncio
import logging
import re
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from http import HTTPStatus

from braze_exporter.web.request import Request, parse_request

# Seconds that a client has to send a request, to read the response, or to send the next request. It is more than the
# usual scrape interval of a minute, so that Prometheus can reuse its connection.
IDLE_TIMEOUT_SECONDS = 75.0
# Seconds that a client has for the TLS handshake.
HANDSHAKE_TIMEOUT_SECONDS = 10.0
# From this number on, idle connections are evicted. Above it, connections are closed after their response.
MAX_CONNECTIONS = 128
# The maximum size of a request without its body.
_MAX_REQUEST_BYTES = 8_192
# The server reads and discards data after the last request for this long, and up to this size.
_LINGER_SECONDS = 0.5
_MAX_DISCARDED_BYTES = 65_536
# The size of a connection's write buffer, and of the chunks that fill it. The rest of a response stays in the page,
# which all readers share.
_WRITE_BUFFER_BYTES = 32_768
# Lines that end with LF alone are recognized here, so that such a request gets an error instead of no response.
_END_OF_REQUEST = re.compile(rb"\r?\n\r?\n")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response.

    Names in `headers` are lowercase. `is_scrape` is true if it is the page for a client that has a scrape timeout.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]
    is_scrape: bool = False


Send = Callable[[HttpResponse], Awaitable[None]]
# Handles a request, which is None if it is invalid, and sends the response.
Handler = Callable[[Request | None, Send], Awaitable[None]]


class Connection(asyncio.BufferedProtocol):
    """A connection that is closed if its client is idle for too long.

    So clients that send nothing, send slowly or do not read cannot delay the response to a scrape. Canceling `task`
    ends the connection. `waiting_since` is the event loop's time since which the server waits for the client to send or
    read, or None while the client waits for a response.
    """

    def __init__(
        self, client: socket.socket, handler: Handler, connections: set["Connection"], tls: ssl.SSLContext | None
    ) -> None:
        """Add the connection to `connections` and serve it, with TLS if a context is given."""
        self.waiting_since: float | None = asyncio.get_running_loop().time()
        self._handler = handler
        self._connections = connections
        self._is_responding = False
        self._is_last = False
        self._is_lost = False
        # The received bytes, without the request that is being responded to.
        self._buffer = bytearray(_MAX_REQUEST_BYTES)
        self._received = 0
        self._is_discarding = False
        self._progress = asyncio.Event()
        self._is_write_paused = False
        connections.add(self)
        self.task = asyncio.create_task(self._serve(client, tls))
        self.task.add_done_callback(lambda _: connections.discard(self))

    async def _serve(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        timeouts = {"ssl_handshake_timeout": HANDSHAKE_TIMEOUT_SECONDS, "ssl_shutdown_timeout": IDLE_TIMEOUT_SECONDS}
        transport = None
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, client, ssl=tls, **(timeouts if tls is not None else {})
            )
            while not self._is_last:
                await self._serve_request()
            if self._received and len(self._connections) <= MAX_CONNECTIONS:
                # Closing a connection with unread data would reset it, and the client would lose the response.
                self._is_discarding = True
                transport.resume_reading()
                await asyncio.sleep(_LINGER_SECONDS)
            transport.close()
            await asyncio.sleep(IDLE_TIMEOUT_SECONDS)  # until the client has read the response
        except (OSError, asyncio.CancelledError) as error:  # a failed TLS handshake, a timeout, or a lost connection
            if isinstance(error, OSError):
                _log.debug("Connection closed", extra={"fields": {"reason": str(error) or "timeout"}})
            # Its frames refer to a future that refers to the error. Only the garbage collector could free them.
            traceback.clear_frames(error.__traceback__)
        except Exception:  # noqa: BLE001 - the server must continue after any error
            _log.exception("Connection failed")
        finally:
            if transport is not None:
                if not self._is_lost:
                    transport.abort()
                del self._transport  # it refers to this object

    def stop(self) -> None:
        """Close the connection, after the pending response if there is one."""
        self._is_last = True
        is_open = hasattr(self, "_transport")  # otherwise the TLS handshake is pending
        if not self._is_responding and not (is_open and self._transport.get_write_buffer_size()):
            self.task.cancel()

    async def _serve_request(self) -> None:
        request = await self._read_request()
        self.waiting_since = None
        self._is_responding = True
        # No path accepts a body, so none is read.
        self._is_last |= request is None or request.has_body or request.is_last
        await self._handler(request, partial(self._send, request))
        self.waiting_since = asyncio.get_running_loop().time()
        self._is_responding = False

    async def _read_request(self) -> Request | None:
        """Return the next request, or None if it is invalid."""
        while (end := _END_OF_REQUEST.search(self._buffer, 0, self._received)) is None:
            # The first byte of a TLS handshake is no letter. Its client waits for a response to less than a request.
            if self._received == len(self._buffer) or (self._received and not self._buffer[:1].isalpha()):
                return None
            await self._wait_for_client()
        self._received -= end.end()
        return parse_request(self._buffer[: end.start()].decode("latin-1"))

    async def _send(self, request: Request | None, response: HttpResponse) -> None:
        """Send a response, as fast as the client reads. So a slow client needs no copy of the whole body."""
        # With many connections, clients must reconnect for the next request, so that waiting clients come first.
        # Received data is a body or a further request, which the client has to repeat.
        self._is_last |= len(self._connections) > MAX_CONNECTIONS or self._received > 0
        headers = {
            "date": formatdate(usegmt=True),
            "content-length": str(len(response.body)),
            **response.headers,
            **({"connection": "close"} if self._is_last else {}),
        }
        lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        body = response.body if request is None or request.method != "HEAD" else b""
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body[:_WRITE_BUFFER_BYTES])
        for start in range(_WRITE_BUFFER_BYTES, len(body), _WRITE_BUFFER_BYTES):
            while self._is_write_paused:
                await self._wait_for_client()
            self._transport.write(body[start : start + _WRITE_BUFFER_BYTES])
        self._is_last |= self._received > 0

    async def _wait_for_client(self) -> None:
        """Wait until the client has sent or read something.

        Raises `TimeoutError` if it has not sent its request, or not read its response, in time.
        """
        self._progress.clear()
        async with asyncio.timeout_at((self.waiting_since or 0) + IDLE_TIMEOUT_SECONDS):
            await self._progress.wait()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as asyncio calls it
        """Start the idle timeout again, since the client could not send a request before."""
        self._transport = transport
        self.waiting_since = asyncio.get_running_loop().time()
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End the task of the connection."""
        self._is_lost = True
        self.task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return the free part of the buffer, or all of it for data to discard."""
        return memoryview(self._buffer)[0 if self._is_discarding else self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        """Count received bytes, and read no more than fits into the buffer or may be discarded."""
        self._received += nbytes
        if self._received >= (_MAX_DISCARDED_BYTES if self._is_discarding else len(self._buffer)):
            self._transport.pause_reading()
        self._progress.set()

    def pause_writing(self) -> None:
        """Start the idle timeout when the client must read, once for each response."""
        self._is_write_paused = True
        if self.waiting_since is None:
            self.waiting_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        """Continue the response."""
        self._is_write_paused = False
        self._progress.set()
