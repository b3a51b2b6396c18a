"""Accepts connections up to a limit and evicts idle ones.

Above the limit, clients wait in the listen backlog, where they use no memory of the exporter.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from heapq import nsmallest

from braze_exporter.web.connection import MAX_CONNECTIONS, Connection, Handler

# Each connection uses a file descriptor, and with TLS also 0.3 MB. The usual limit is 1,024 file descriptors.
HARD_MAX_CONNECTIONS = 2 * MAX_CONNECTIONS
# Connections that have been idle for a shorter time are not evicted, since their data may not have been read yet.
_MIN_IDLE_SECONDS = 0.25
# Seconds until the next attempt to accept a connection.
_RETRY_SECONDS = 0.01
# The socket's send buffer. By default, the kernel buffers megabytes for a client that does not read.
_SEND_BUFFER_BYTES = 131_072
# How many connections are evicted if the process has reached its limit of file descriptors.
_EVICTED = 64


class Acceptor:
    """Accepts the connections of all `listeners`. `connections` are the open ones.

    All listeners share the limits. From `MAX_CONNECTIONS` on, each new connection evicts the one that has been idle
    longest. At `HARD_MAX_CONNECTIONS` new clients wait, so that no connection with a pending response is closed for
    them.
    """

    def __init__(
        self, listeners: Sequence[socket.socket], handler: Handler, get_tls: Callable[[], ssl.SSLContext | None]
    ) -> None:
        """Start accepting. `handler` handles the requests. `get_tls` returns the TLS context of a new connection."""
        self._handler = handler
        self._get_tls = get_tls
        self.connections: set[Connection] = set()
        self._tasks = [asyncio.create_task(self._accept(listener)) for listener in listeners]

    async def close(self, timeout_seconds: float) -> None:
        """Stop accepting, and wait up to `timeout_seconds` for pending responses."""
        for task in self._tasks:
            task.cancel()
        for connection in self.connections:
            connection.stop()
        await asyncio.wait(
            [*self._tasks, *(connection.task for connection in self.connections)], timeout=timeout_seconds
        )

    async def _accept(self, listener: socket.socket) -> None:
        # Accepted sockets inherit these options. Without TCP_NODELAY, the end of a page waits 40 ms for the client's
        # acknowledgment. asyncio sets it only for listeners that it created.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)  # noqa: FBT003 - the only argument
        with listener:
            while True:
                try:
                    client, _ = await asyncio.get_running_loop().sock_accept(listener)
                except ConnectionAbortedError:
                    continue
                except OSError:  # usually because the process has reached its limit of file descriptors
                    self._evict_idle(_EVICTED)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                Connection(client, self._handler, self.connections, self._get_tls())
                self._evict_idle(len(self.connections) - MAX_CONNECTIONS)
                while len(self.connections) >= HARD_MAX_CONNECTIONS:
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._evict_idle(len(self.connections) - MAX_CONNECTIONS)

    def _evict_idle(self, count: int) -> None:
        """End up to `count` connections, those idle longest first."""
        latest = asyncio.get_running_loop().time() - _MIN_IDLE_SECONDS
        idle = [
            (since, connection.task)
            for connection in self.connections
            if (since := connection.waiting_since) is not None and since <= latest
        ]
        for _, task in nsmallest(count, idle, key=lambda item: item[0]):
            task.cancel()
