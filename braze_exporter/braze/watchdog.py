"""A limit for the whole of an exchange: whoever drips headers, trailers or empty pieces is cut off at the deadline.

The time-outs of sockets begin anew with every byte that arrives, and most of an answer is read where nobody looks at a
clock. So another thread looks, and shuts the socket down. Only resolving the name and shaking hands for TLS are beyond
its reach.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import urllib3.connection
import urllib3.connectionpool

from braze_exporter.braze.http_response import FinalResponse, shut_down_socket

# How often the clock is looked at while an exchange is under way, in seconds.
_CHECK_INTERVAL_SECONDS = 0.1
# How long it stays for the next one.
_IDLE_SECONDS = 1.0

_current = threading.local()


class Exchange:
    """One request and its answer. `is_aborted` once its deadline has passed."""

    def __init__(self, deadline: float) -> None:
        """Last until `deadline`."""
        self.deadline = deadline
        self.is_aborted = False
        self.socket: socket.socket | None = None

    def abort(self) -> None:
        """End it: whoever reads or writes the socket is woken by an error or the end."""
        self.is_aborted = True
        if self.socket is not None:
            shut_down_socket(self.socket)


class Watchdog:
    """Cuts off exchanges at their deadlines. Its thread runs as long as there are any, and a little longer."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Look at `monotonic`, which tells seconds that never jump."""
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._exchanges: set[Exchange] = set()
        self._is_running = False

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[Exchange]:
        """Watch over the exchange of this thread for so many seconds."""
        exchange = Exchange(self._monotonic() + seconds)
        with self._changed:
            self._exchanges.add(exchange)
            self._changed.notify()
            if not self._is_running:
                threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
                self._is_running = True
        _current.exchange = exchange
        try:
            yield exchange
        finally:
            _current.exchange = None
            with self._changed:
                self._exchanges.discard(exchange)

    def _watch(self) -> None:
        with self._changed:
            try:
                while self._changed.wait_for(lambda: self._exchanges, _IDLE_SECONDS):
                    self._changed.wait(_CHECK_INTERVAL_SECONDS)
                    now = self._monotonic()
                    for exchange in self._exchanges:
                        if now >= exchange.deadline:
                            exchange.abort()
            finally:
                self._is_running = False


def _register_socket(connection: Any) -> None:  # noqa: ANN401 - a socket, or TLS over the TLS to a proxy
    """Tell the exchange of this thread which socket it uses, or that it uses none any more."""
    exchange: Exchange | None = getattr(_current, "exchange", None)
    if exchange is not None:
        exchange.socket = getattr(connection, "socket", connection)
        if exchange.is_aborted:
            exchange.abort()


class _HTTPConnection(urllib3.connection.HTTPConnection):
    """A connection that tells the exchange of its thread which socket it uses, from the first byte on."""

    response_class = FinalResponse

    def _new_conn(self) -> socket.socket:
        result = super()._new_conn()
        _register_socket(result)
        return result

    def getresponse(self) -> Any:  # noqa: ANN401 - the signature of urllib3
        _register_socket(self.sock)
        return super().getresponse()


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    """The same over TLS."""

    response_class = FinalResponse

    def _new_conn(self) -> socket.socket:
        result = super()._new_conn()
        _register_socket(result)
        return result

    def getresponse(self) -> Any:  # noqa: ANN401
        _register_socket(self.sock)
        return super().getresponse()


class HTTPConnectionPool(urllib3.connectionpool.HTTPConnectionPool):
    """A pool of connections that a watchdog can cut off as long as they are in use."""

    ConnectionCls = _HTTPConnection

    def _put_conn(self, conn: Any) -> None:  # noqa: ANN401
        _register_socket(None)
        super()._put_conn(conn)


class HTTPSConnectionPool(urllib3.connectionpool.HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = _HTTPSConnection

    def _put_conn(self, conn: Any) -> None:  # noqa: ANN401
        _register_socket(None)
        super()._put_conn(conn)


CONNECTION_POOLS = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
