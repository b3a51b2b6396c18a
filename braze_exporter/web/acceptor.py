"""Lets clients in while there is room, and makes room; the others wait in the backlog, where they cost nothing."""

import asyncio
import socket
from collections.abc import Callable, Collection
from heapq import nsmallest

from braze_exporter.web.connection import MAX_CONNECTIONS, Connection

# Each connection is a file descriptor, of which a process usually has 1,024, and with TLS a third of a megabyte.
HARD_MAX_CONNECTIONS = 2 * MAX_CONNECTIONS
# Seconds that a client is waited for at least: what it said may still have to be read.
_MIN_IDLE_SECONDS = 0.25
# Seconds until it is tried again to let the next one in.
_RETRY_SECONDS = 0.01
# Bytes of an answer that the kernel keeps for a client that does not read; left alone, it takes megabytes.
_SEND_BUFFER_BYTES = 131_072
_MAX_ACCEPTS = 64  # who are let in before those who are there have their turn


class Acceptor:
    """Accepts the connections of `listener`. To uvicorn it is a server of asyncio's.

    If there are more than MOST, those make way whose clients are waited for longest. If they are FULL nevertheless, the
    next client waits: no one who is to be answered is hung up on for one who comes later.
    """

    def __init__(
        self, listener: socket.socket, make: Callable[[], Connection], connections: Collection[object]
    ) -> None:
        """Begin to accept; `make` makes a connection, and `connections` has those that there are."""
        self._listener = listener
        self._make = make
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._accepting: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        # Inherited by what is accepted. Without the latter the end of a page waits 40 ms for the client to confirm its
        # beginning; asyncio sets it only for a listener that was made otherwise.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)  # noqa: FBT003 - its only argument
        self._resume()

    def close(self) -> None:
        """Accept no more."""
        self._pause()

    async def wait_closed(self) -> None:
        """Return: nothing is left to close."""

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._accept)

    def _pause(self, seconds: float | None = None) -> None:
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._resume) if seconds is not None else None

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTS):
            connections = len(self._connections) + len(self._accepting)
            if connections >= MAX_CONNECTIONS:
                self._evict_idle(connections - MAX_CONNECTIONS + 1)
            if connections >= HARD_MAX_CONNECTIONS:
                self._pause(_RETRY_SECONDS)
                return
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # the process has no file descriptor left for it
                self._evict_idle(_MAX_ACCEPTS)
                self._pause(_RETRY_SECONDS)
                return
            client.setblocking(False)  # noqa: FBT003 - its only argument
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, client))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _evict_idle(self, count: int) -> None:
        """End up to `count` connections, those whose clients are waited for longest."""
        latest = self._loop.time() - _MIN_IDLE_SECONDS
        others = (other for other in self._connections if isinstance(other, Connection) and not other.is_ended)
        idle = [other for other in others if other.is_waiting_for_client and other.waiting_since <= latest]
        for other in nsmallest(count, idle, key=lambda other: other.waiting_since):
            other.abort()
