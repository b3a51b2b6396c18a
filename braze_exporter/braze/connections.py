"""Connections whose exchanges have a total timeout, and the pools that create them.

A socket timeout restarts with every byte that arrives. Therefore each read waits at most until the deadline of the
exchange, and connections are opened in a thread, because name resolution cannot be interrupted.
"""

import errno
import http.client
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context

import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions

from braze_exporter.braze.deadline import remaining_seconds
from braze_exporter.braze.http_response import FinalResponse


class ProxyConnectionError(urllib3.exceptions.ProxyError):
    """Raised if a proxy cannot be reached, refuses to connect, or sends a malformed response. The cause has details.

    urllib3 itself raises `ProxyError` also if an established connection through a proxy ends.
    """


class _HTTPConnection(urllib3.connection.HTTPConnection):
    """An HTTP connection that is opened before the deadline of the exchange."""

    response_class = FinalResponse

    def connect(self) -> None:
        """Resolve the name, connect and, if needed, request a tunnel and perform the TLS handshakes, in a thread.

        Errors of the connection's proxy are raised as `ProxyConnectionError`.
        """
        connected: Future[None] = Future()
        arguments = (connected, copy_context().run, self._connect)
        threading.Thread(target=_settle, args=arguments, name="connect", daemon=True).start()
        try:
            connected.result(remaining_seconds())
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            is_malformed = isinstance(error, http.client.HTTPException) or getattr(error, "errno", None) == errno.EPROTO
            is_of_proxy = self.proxy is not None and (is_malformed or not self.has_connected_to_proxy)
            if not connected.done():
                connected.add_done_callback(lambda _: self.close())
            if is_of_proxy:
                raise ProxyConnectionError("Proxy connection failed", error) from error
            if isinstance(error, TimeoutError):
                raise urllib3.exceptions.ConnectTimeoutError(self, "Connection timed out") from error
            raise

    def _connect(self) -> None:
        try:
            super().connect()
        except urllib3.exceptions.NameResolutionError:
            if ":" not in self.host:  # a name, not an IPv6 address
                raise
            cause = OSError(errno.EAFNOSUPPORT, "this machine has no IPv6")
            raise urllib3.exceptions.NewConnectionError(self, str(cause)) from cause


def _settle(future: Future[None], run: Callable[[Callable[[], None]], None], work: Callable[[], None]) -> None:
    """Call `run(work)` and pass its outcome to `future`."""
    try:
        run(work)
    except Exception as error:  # noqa: BLE001 - the thread that waits for the future raises it
        future.set_exception(error)
    else:
        future.set_result(None)


class _HTTPSConnection(_HTTPConnection, urllib3.connection.HTTPSConnection):
    """An HTTPS connection that is opened before the deadline of the exchange."""


class _HTTPConnectionPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSConnectionPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


CONNECTION_POOLS = {"http": _HTTPConnectionPool, "https": _HTTPSConnectionPool}
