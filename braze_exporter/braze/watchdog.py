"""A total timeout for exchanges: a server that sends slowly is disconnected at the deadline.

Socket timeouts restart with every byte that arrives, and libraries read most of a response without checking a clock.
Therefore a separate thread checks the deadlines and shuts sockets down. It does not cover name resolution and the TLS
handshake.
"""

import contextlib
import errno
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions

from braze_exporter.braze.http_response import FinalResponse, shut_down_socket

# The time between two checks of the deadlines while exchanges are in flight.
_CHECK_INTERVAL_SECONDS = 0.1
# How long the thread waits for the next exchange before it ends.
_IDLE_SECONDS = 1.0

_current = threading.local()


class Exchange:
    """One request and its response. `is_aborted` is true once the deadline has passed."""

    def __init__(self, deadline: float) -> None:
        """Create an exchange with a `deadline` in seconds of the watchdog's clock."""
        self.deadline = deadline
        self.is_aborted = False
        self.socket: socket.socket | None = None

    def abort(self) -> None:
        """Shut down the socket. Blocked reads and writes then fail or return the end of the stream."""
        self.is_aborted = True
        if self.socket is not None:
            shut_down_socket(self.socket)


class Watchdog:
    """Aborts exchanges at their deadlines. Its thread runs while exchanges are in flight and shortly after."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Use `monotonic`, which returns seconds of a monotonic clock."""
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._exchanges: set[Exchange] = set()
        self._is_running = False

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[Exchange]:
        """Limit the exchange of the current thread to `seconds`. The context manager yields the `Exchange`."""
        exchange = Exchange(self._monotonic() + seconds)
        with self._changed:
            self._exchanges.add(exchange)
            self._changed.notify()
            if not self._is_running:
                threading.Thread(target=self._abort_overdue_exchanges, name="watchdog", daemon=True).start()
                self._is_running = True
        _current.exchange = exchange
        try:
            yield exchange
        finally:
            _current.exchange = None
            with self._changed:
                self._exchanges.discard(exchange)

    def _abort_overdue_exchanges(self) -> None:
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


def _register_socket(connection: Any) -> None:  # noqa: ANN401 - a socket, or urllib3's TLS within the TLS to a proxy
    """Set the socket that the exchange of the current thread uses, or None if it no longer uses one."""
    exchange: Exchange | None = getattr(_current, "exchange", None)
    if exchange is not None:
        exchange.socket = getattr(connection, "socket", connection)
        if exchange.is_aborted:
            exchange.abort()


class ProxyConnectionError(urllib3.exceptions.ProxyError):
    """Raised if a proxy cannot be reached, refuses to connect, or sends a malformed response. The cause has details.

    urllib3 itself raises `ProxyError` also if an established connection through a proxy ends.
    """


@contextlib.contextmanager
def _connecting(connection: urllib3.connection.HTTPConnection) -> Iterator[None]:
    """Raise the errors of the connection's proxy as `ProxyConnectionError`."""
    try:
        yield
    except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
        is_malformed = isinstance(error, http.client.HTTPException) or getattr(error, "errno", None) == errno.EPROTO
        if connection.proxy is not None and (is_malformed or not connection.has_connected_to_proxy):
            raise ProxyConnectionError("Proxy connection failed", error) from error
        raise


class _HTTPConnection(urllib3.connection.HTTPConnection):
    """An HTTP connection that registers its socket with the exchange of the current thread before the first byte."""

    response_class = FinalResponse

    def connect(self) -> None:
        with _connecting(self):
            super().connect()

    def _new_conn(self) -> socket.socket:
        result = super()._new_conn()
        _register_socket(result)
        return result

    def getresponse(self) -> Any:  # noqa: ANN401 - inherited signature of urllib3
        _register_socket(self.sock)
        return super().getresponse()


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    """An HTTPS connection that registers its socket with the exchange of the current thread before the first byte."""

    response_class = FinalResponse

    def connect(self) -> None:
        with _connecting(self):
            super().connect()

    def _new_conn(self) -> socket.socket:
        result = super()._new_conn()
        _register_socket(result)
        return result

    def getresponse(self) -> Any:  # noqa: ANN401
        _register_socket(self.sock)
        return super().getresponse()


class HTTPConnectionPool(urllib3.connectionpool.HTTPConnectionPool):
    """A pool of HTTP connections that a watchdog can abort while they are in use."""

    ConnectionCls = _HTTPConnection

    def _put_conn(self, conn: Any) -> None:  # noqa: ANN401
        _register_socket(None)
        super()._put_conn(conn)


class HTTPSConnectionPool(urllib3.connectionpool.HTTPSConnectionPool):
    """A pool of HTTPS connections that a watchdog can abort while they are in use."""

    ConnectionCls = _HTTPSConnection

    def _put_conn(self, conn: Any) -> None:  # noqa: ANN401
        _register_socket(None)
        super()._put_conn(conn)


CONNECTION_POOLS = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
