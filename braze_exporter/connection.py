"""A client's connection to our server, with a limit to what it may cost: in time, and in number."""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that a client has for its turn: to send a request, to read the answer, to come back. Prometheus comes back
# within a minute or so, and a connection that is kept saves it a new one each time.
PATIENCE = 75.0
# Seconds that a client has of it to agree on TLS.
HANDSHAKE = 10.0
# Each is a file descriptor, of which a process usually has 1,024.
MOST = 256

_log = logging.getLogger(__name__)


class Connection(H11Protocol):
    """Ends when its client is waited for too long, or when others come and it has been there longest.

    So neither silence nor a trickle of bytes nor an answer that nobody reads can keep a proper scrape from its answer.
    """

    def __init__(self, *args: Any, tls: Callable[[], ssl.SSLContext | None] | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Speak TLS in the context that `tls` returns, if it does; the other arguments are uvicorn's."""
        super().__init__(*args, **kwargs)
        self._tls = tls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin with the client's turn; if there are too many connections, end another one.

        TLS begins here and not in the server: there a client that never says anything would not be one of those that
        are counted.
        """
        self.transport = self._socket = transport
        self.connections.add(self)
        self.since = self.loop.time()
        self._timer = self.loop.call_later(PATIENCE, self._look)
        self.is_ended = False
        self._early = b""
        context = self._tls() if self._tls is not None else None
        if context is None:
            super().connection_made(transport)
        else:
            transport.pause_reading()
            self._handshake = self.loop.create_task(self._agree(context))
        if len(self.connections) > MOST:
            others = (other for other in self.connections if isinstance(other, Connection) and not other.is_ended)
            min(others, key=lambda other: (not other.is_awaited, other.since)).end()

    async def _agree(self, context: ssl.SSLContext) -> None:
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
                ssl_handshake_timeout=HANDSHAKE,
                ssl_shutdown_timeout=PATIENCE,
            )
        except OSError as error:  # no TLS, none that both speak, no certificate, too late, or gone
            _log.debug("no TLS with a client", extra={"fields": {"reason": str(error)}})
        finally:
            if transport is None:  # nobody else would say so
                self.connection_lost(None)
        if transport is not None:
            super().connection_made(transport)
            self.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        """Take what the client says; it may say more before this end of the handshake has run."""
        if self.flow is None:
            self._early += data
        elif data:
            super().data_received(data)

    def end(self) -> None:
        """End at once: to close would wait for what was sent to be read."""
        self.is_ended = True
        self._socket.abort()

    @property
    def is_awaited(self) -> bool:
        """Whether it is the client's turn, and not ours to answer."""
        cycle: object = self.cycle  # None before the first request, though uvicorn does not say so
        return cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Begin the client's next turn, which is to read what was sent."""
        self.since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, once."""
        if self in self.connections:
            self._timer.cancel()
            super().connection_lost(exc)

    def _look(self) -> None:
        now = self.loop.time()
        if self.is_awaited and now >= self.since + PATIENCE:
            self.end()
        else:
            self._timer = self.loop.call_at(max(self.since, now - PATIENCE / 2) + PATIENCE, self._look)
