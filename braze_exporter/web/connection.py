"""A client's connection to our server, with a limit to what it may cost: in time, and in number."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that a client has for its turn: to send a request, to read the answer, to come back. Prometheus comes back
# within a minute or so, and a connection that is kept saves it a new one each time.
IDLE_TIMEOUT_SECONDS = 75.0
# Seconds that a client has of it to agree on TLS.
HANDSHAKE_TIMEOUT_SECONDS = 10.0
# Beyond so many connections those make way that we wait for, and those that were answered.
MAX_CONNECTIONS = 128
# Bytes that a request may have, which are looked at in one go: 2 ms at worst.
_CHUNK_BYTES = 8_192
# Lines that a request may have: each costs far more than its bytes.
_MAX_LINES = 128
# Bytes of an answer that wait for a client to read; the rest waits with the page, which all share.
_WRITE_BUFFER_BYTES = 32_768

_log = logging.getLogger(__name__)


class RequestParser(h11.Connection):
    """Reads requests, and nothing of their bodies: no page takes one, and a body in crumbs is a lot of work."""

    _has_body = False
    _lines = 0

    def receive_data(self, data: bytes) -> None:
        """Take what the client says."""
        self._lines += data.count(b"\n")
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return what comes next."""
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
    """Return whether a request with these headers, in small letters, has a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in headers
    )


class Connection(H11Protocol):
    """Ends when its client is waited for too long.

    So neither silence nor a trickle of bytes nor an answer that nobody reads can keep a proper scrape from its answer.
    """

    def __init__(self, *args: Any, tls: Callable[[], ssl.SSLContext | None] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Speak TLS in the context that `tls` returns, if it does; the other arguments are uvicorn's."""
        super().__init__(*args, **kwargs)
        self.conn = RequestParser(h11.SERVER, _CHUNK_BYTES)
        self._tls = tls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin with the client's turn.

        TLS begins here and not in the server, so that a client that never says anything is counted from the start.
        """
        self.transport = self._socket = transport
        self.connections.add(self)
        self.waiting_since = self.loop.time()
        self._timer = self.loop.call_later(IDLE_TIMEOUT_SECONDS, self._check_timeout)
        self.is_ended = False
        self._early_data = b""
        self._ignores_input = False
        self._read: object = None
        context = self._tls() if self._tls is not None else None
        if context is None:
            self._start(transport)
        else:
            transport.pause_reading()
            self._handshake = self.loop.create_task(self._start_tls(context))

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        """Agree with the client on TLS, and only then let it speak."""
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
        except OSError as error:  # no TLS, none that both speak, no certificate, too late, or gone
            _log.debug("no TLS with a client", extra={"fields": {"reason": str(error)}})
        finally:
            if transport is None:  # nobody else would say so
                self.connection_lost(None)
        if transport is not None:
            self._start(transport)
            self.data_received(self._early_data)

    def _start(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what the client says; it may say more before this end of the handshake has run."""
        if self.flow is None:
            self._early_data += data
            return
        for start in range(0, len(data), _CHUNK_BYTES):
            if self._ignores_input or self.transport.is_closing():
                return
            if start and self._is_responding:  # a body, or a long line of requests: neither is answered
                self._ignores_input = True
                self.cycle.keep_alive = False
                self.flow.pause_reading()
            else:
                super().data_received(data[start : start + _CHUNK_BYTES])

    def abort(self) -> None:
        """End at once: to close would wait for what was sent to be read."""
        self.is_ended = True
        self._socket.abort()

    @property
    def is_waiting_for_client(self) -> bool:
        """Whether it is the client's turn, to ask or to read, and not ours to answer."""
        return not self._is_responding or self.flow.write_paused

    @property
    def _is_responding(self) -> bool:
        """Whether a request is being answered."""
        cycle: object = self.cycle  # None before the first request, though uvicorn does not say so
        return cycle is not None and not self.cycle.response_complete

    def pause_writing(self) -> None:
        """Begin the client's turn to read, once for each answer."""
        super().pause_writing()
        if self._read is not self.cycle:
            self._read = self.cycle
            self.waiting_since = self.loop.time()

    def on_response_complete(self) -> None:
        """Begin the client's next turn, which is to read what was sent."""
        self.waiting_since = self.loop.time()
        if (
            len(self.connections) > MAX_CONNECTIONS
        ):  # so that those who ask again line up behind those who have not been answered
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, once."""
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
