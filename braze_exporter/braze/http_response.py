"""HTTP responses on kept-alive connections: each request gets its own final response, or an error.

`http.client` treats any interim response except 100 as the final one. It also drops data that it has buffered beyond
the end of a response. In both cases a later request on the connection could get the response to an earlier one.
"""

import contextlib
import errno
import http.client
import io
import re
import socket
import ssl
from typing import Any

from braze_exporter.braze.deadline import remaining_seconds

_MAX_INTERIM_BYTES = 64 * 1024
# All 1xx except 101, which ends HTTP on the connection. The exporter never requests an upgrade.
_INTERIM = re.compile(rb"HTTP/\S+\s+1(?!01)\d\d\s")
_FIRST_FINAL_STATUS = 200


class _TimedReader(io.RawIOBase):
    """Reads from a connection until the deadline of the exchange."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        self._raw = raw
        self._connection = connection

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:  # noqa: ANN401 - inherited signature
        """Read once. Raises `TimeoutError` at the deadline, or earlier if the connection's own timeout is shorter."""
        timeout = self._connection.gettimeout()
        if timeout:  # 0 does not wait
            self._connection.settimeout(min(timeout, remaining_seconds()))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Close the connection's reader."""
        self._raw.close()
        super().close()


class _ResponseReader(io.BufferedReader):
    """Reads one response and skips the interim ones before it.

    Closing the reader shuts down the connection if anything arrived after the response.
    """

    def __init__(self, raw: io.RawIOBase, connection: socket.socket) -> None:
        super().__init__(_TimedReader(raw, connection))
        self._connection = connection
        self._is_final = False

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line of the final response. Raises `OSError` if the interim responses are too large."""
        line = super().readline(size)
        skipped = 0
        while not self._is_final and _INTERIM.match(line):
            while line.strip():
                skipped += len(line)
                if skipped > _MAX_INTERIM_BYTES:
                    raise OSError(errno.EPROTO, f"more than {_MAX_INTERIM_BYTES // 1024} KiB of interim responses")
                line = super().readline(size)
            line = super().readline(size)
        self._is_final = True
        return line

    def close(self) -> None:
        """Close the reader, and shut down the connection if there is unread data on it."""
        if not self.closed and not self._is_server_silent():
            with contextlib.suppress(OSError):  # the connection has already ended
                # Within the TLS to a proxy, urllib3's TLS has no method for this.
                socket.socket.shutdown(getattr(self._connection, "socket", self._connection), socket.SHUT_RDWR)
        super().close()

    def _is_server_silent(self) -> bool:
        """Return whether nothing has arrived after the response: neither data nor the end of the connection."""
        try:
            timeout = self._connection.gettimeout()
            self._connection.settimeout(0)
            try:
                return self.read(1) is None
            finally:
                self._connection.settimeout(timeout)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False


class FinalResponse(http.client.HTTPResponse):
    """The final response to a request. Set it as the `response_class` of a connection."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Read from `sock`. The other arguments are those of `http.client.HTTPResponse`."""
        super().__init__(sock, *args, **kwargs)
        self.fp = _ResponseReader(self.fp.detach(), sock)

    def begin(self) -> None:
        """Read the headers. Raises `OSError` if the status is not that of a final response."""
        super().begin()
        if self.status < _FIRST_FINAL_STATUS:
            raise OSError(errno.EPROTO, f"unexpected status {self.status}")
        framing = [name for name in self.headers if name.lower() in {"content-length", "transfer-encoding"}]
        if len(framing) > 1:  # servers and proxies disagree about where such a response ends
            self.will_close = True
