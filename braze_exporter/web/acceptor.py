"""Accepts connections up to a limit and evicts idle ones.

Above the limit, clients wait in the listen backlog, where they use no memory of the exporter.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from heapq import nsmallest

from braze_exporter.web.connection import MAX_CONNECTIONS, Connection

# Each connection uses a file descriptor, and with TLS also 0.3 MB. The usual limit is 1,024 file descriptors.
HARD_MAX_CONNECTIONS = 2 * MAX_CONNECTIONS
# Connections that have been idle for a shorter time are not evicted, since their data may not have been read yet.
_MIN_IDLE_SECONDS = 0.25
# Seconds until the next attempt to accept a connection.
_RETRY_SECONDS = 0.01
# The socket's send buffer. By default, the kernel buffers megabytes for a client that does not read.
_SEND_BUFFER_BYTES = 131_072
# The maximum number of connections that are accepted before the event loop serves the existing ones.
_MAX_ACCEPTS = 64


class Acceptor:
    """Accepts the connections of all `listeners`. uvicorn uses it like an `asyncio.Server`.

    All listeners share the limits. From `MAX_CONNECTIONS` on, each new connection evicts the one that has been idle
    longest. At `HARD_MAX_CONNECTIONS` new clients wait, so that no connection with a pending response is closed for
    them.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_connection: Callable[[], Connection],
        connections: Collection[object],
    ) -> None:
        """Start accepting. `make_connection` creates a connection, and `connections` contains the open connections."""
        self._listeners = listeners
        self._make_connection = make_connection
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._accepting: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        # Accepted sockets inherit these options. Without TCP_NODELAY, the end of a page waits 40 ms for the client's
        # acknowledgment. asyncio sets it only for listeners that it created.
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setblocking(False)  # noqa: FBT003 - the only argument
        self._resume()

    def close(self) -> None:
        """Stop accepting."""
        self._pause()

    async def wait_closed(self) -> None:
        """Do nothing, since nothing is left to close."""

    def _resume(self) -> None:
        self._timer = None
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _pause(self, seconds: float | None = None) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._resume) if seconds is not None else None

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_MAX_ACCEPTS):
            connections = len(self._connections) + len(self._accepting)
            if connections >= MAX_CONNECTIONS:
                self._evict_idle(connections - MAX_CONNECTIONS + 1)
            if connections >= HARD_MAX_CONNECTIONS:
                self._pause(_RETRY_SECONDS)
                return
            try:
                client, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # usually because the process has reached its limit of file descriptors
                self._evict_idle(_MAX_ACCEPTS)
                self._pause(_RETRY_SECONDS)
                return
            client.setblocking(False)  # noqa: FBT003 - the only argument
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._make_connection, client))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _evict_idle(self, count: int) -> None:
        """Abort up to `count` connections, those idle longest first."""
        latest = self._loop.time() - _MIN_IDLE_SECONDS
        others = (other for other in self._connections if isinstance(other, Connection) and not other.is_ended)
        idle = [other for other in others if other.is_waiting_for_client and other.waiting_since <= latest]
        for other in nsmallest(count, idle, key=lambda other: other.waiting_since):
            other.abort()
