"""A client's connection to our server, with a limit to what it may cost: in time, and in number."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that a client has for its turn: to send a request, to read the answer, to come back. Prometheus comes back
# within a minute or so, and a connection that is kept saves it a new one each time.
PATIENCE = 75.0
# Each is a file descriptor, of which a process usually has 1,024.
MOST = 256


class Connection(H11Protocol):
    """Ends when its client is waited for too long, or when others come and it has been there longest.

    So neither silence nor a trickle of bytes nor an answer that nobody reads can keep a proper scrape from its answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin with the client's turn; if there are too many connections, end another one."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self._timer = self.loop.call_later(PATIENCE, self._look)
        self.is_ended = False
        if len(self.connections) > MOST:
            others = (other for other in self.connections if isinstance(other, Connection) and not other.is_ended)
            min(others, key=lambda other: (not other.is_awaited, other.since)).end()

    def end(self) -> None:
        """End at once: to close would wait for what was sent to be read."""
        self.is_ended = True
        self.transport.abort()

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
        """End."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        now = self.loop.time()
        if self.is_awaited and now >= self.since + PATIENCE:
            self.end()
        else:
            self._timer = self.loop.call_at(max(self.since, now - PATIENCE / 2) + PATIENCE, self._look)
