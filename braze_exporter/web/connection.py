"""A client's connection to the server, with limits on idle time, request size and the number of connections."""

import asyncio
import logging
import ssl
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that a client has to send a request, to read the response, or to send the next request. It is more than the
# usual scrape interval of a minute, so that Prometheus can reuse its connection.
IDLE_TIMEOUT_SECONDS = 75.0
# Seconds that a client has for the TLS handshake. The idle timeout includes them.
HANDSHAKE_TIMEOUT_SECONDS = 10.0
# From this number on, idle connections are evicted. Above it, connections are closed after their response.
MAX_CONNECTIONS = 128
# The maximum size of a request. The parser handles it in one step, which takes 2 ms at worst.
_CHUNK_BYTES = 8_192
# The maximum number of lines of a request. Parsing time depends on the lines much more than on the bytes.
_MAX_LINES = 128
# The size of a connection's write buffer. The rest of a response stays in the page, which all readers share.
_WRITE_BUFFER_BYTES = 32_768

_log = logging.getLogger(__name__)


class RequestParser(h11.Connection):
    """Parses requests without their bodies.

    No path accepts a body, and parsing a body of many small chunks would take much CPU time.
    """

    _has_body = False
    _lines = 0

    def receive_data(self, data: bytes) -> None:
        """Add received data to the parser's input."""
        self._lines += data.count(b"\n")
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next parser event."""
        if self._has_body:
            return h11.PAUSED
        if self._lines > _MAX_LINES and self.their_state is h11.IDLE:
            raise h11.RemoteProtocolError("too many lines")
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._lines = 0
            self._has_body = has_body(event.headers)
        return event


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request with these headers has a body. Header names must be lowercase."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
    )


class Connection(H11Protocol):
    """A connection that is closed if its client is idle for too long.

    So clients that send nothing, send slowly or do not read cannot delay the response to a scrape.
    """

    def __init__(self, *args: Any, tls: ssl.SSLContext | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Use TLS with the context `tls`, or plain HTTP if it is None. The other arguments are uvicorn's."""
        super().__init__(*args, **kwargs)
        self.conn = RequestParser(h11.SERVER, _CHUNK_BYTES)
        self._tls = tls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Start the idle timeout, and the TLS handshake if TLS is enabled.

        The handshake starts here instead of in asyncio. So a client counts as a connection during its handshake too.
        """
        self.transport = self._socket = transport
        self.connections.add(self)
        self.waiting_since = self.loop.time()
        self._timer = self.loop.call_later(IDLE_TIMEOUT_SECONDS, self._check_timeout)
        self.is_ended = False
        self._early_data = b""
        self._ignores_input = False
        self._paused_cycle: object = None
        if self._tls is None:
            self._start(transport)
        else:
            transport.pause_reading()
            self._handshake = self.loop.create_task(self._start_tls(self._tls))

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        """Perform the TLS handshake, and process requests only after it."""
        if self._socket.is_closing():
            return
        transport = None
        try:
            transport = await self.loop.start_tls(
                self._socket,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_SECONDS,
                ssl_shutdown_timeout=IDLE_TIMEOUT_SECONDS,
            )
        except OSError as error:  # plain HTTP, no common version, no client certificate, a timeout, a lost connection
            _log.debug("TLS handshake failed", extra={"fields": {"reason": str(error)}})
        finally:
            if transport is None:  # asyncio does not call `connection_lost` after a failed handshake
                self.connection_lost(None)
        if transport is not None:
            self._start(transport)
            self.data_received(self._early_data)

    def _start(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Process received data. Data that arrives before `_start` is kept until then."""
        if self.flow is None:
            self._early_data += data
            return
        for start in range(0, len(data), _CHUNK_BYTES):
            if self._ignores_input or self.transport.is_closing():
                return
            if start and self._is_responding:  # the rest is a body or pipelined requests, which get no response
                self._ignores_input = True
                self.cycle.keep_alive = False
                self.flow.pause_reading()
            else:
                super().data_received(data[start : start + _CHUNK_BYTES])

    def abort(self) -> None:
        """Close the connection at once, even if the client has not read all data."""
        self.is_ended = True
        self._socket.abort()

    @property
    def is_waiting_for_client(self) -> bool:
        """Whether the server waits for the client to send or read. Otherwise the client waits for a response."""
        return not self._is_responding or self.flow.write_paused

    @property
    def _is_responding(self) -> bool:
        """Whether a response is pending."""
        cycle: object = self.cycle  # None before the first request, unlike its type in uvicorn
        return cycle is not None and not self.cycle.response_complete

    def pause_writing(self) -> None:
        """Restart the idle timeout when the client must read, once for each response."""
        super().pause_writing()
        if self._paused_cycle is not self.cycle:
            self._paused_cycle = self.cycle
            self.waiting_since = self.loop.time()

    def on_response_complete(self) -> None:
        """Restart the idle timeout, since the client has to read the response."""
        self.waiting_since = self.loop.time()
        # With many connections, clients must reconnect for the next request, so that waiting clients come first.
        if len(self.connections) > MAX_CONNECTIONS:
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the idle timeout and remove the connection. Further calls have no effect."""
        if self in self.connections:
            self._timer.cancel()
            super().connection_lost(exc)

    def _check_timeout(self) -> None:
        now = self.loop.time()
        if self.is_waiting_for_client and now >= self.waiting_since + IDLE_TIMEOUT_SECONDS:
            self.abort()
        else:
            self._timer = self.loop.call_at(
                max(self.waiting_since, now - IDLE_TIMEOUT_SECONDS / 2) + IDLE_TIMEOUT_SECONDS, self._check_timeout
            )
