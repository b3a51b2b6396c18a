"""A small HTTP/1.1 server for the simulated Braze, which can also close connections early.

It runs any WSGI application and keeps connections alive. It closes a connection if the application raises `Disconnect`
or sends less data than its `Content-Length`.
"""

import io
import itertools
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Protocol, Self, runtime_checkable
from urllib.parse import unquote
from wsgiref.types import WSGIApplication, WSGIEnvironment

_POLL_SECONDS = 0.02  # how often the server checks whether it is closing
_CLOSE_TIMEOUT_SECONDS = 2.0  # how long `close` waits for the threads of connections
_MAX_REQUEST_BYTES = 1_000_000
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, with a timeout of 0


class Disconnect(Exception):  # noqa: N818 - an instruction to the server, not an error
    """Raised to close the connection: with a TCP reset, or regularly if `reset` is false."""

    def __init__(self, *, reset: bool = True) -> None:
        """Create the exception. `reset` selects how the connection is closed."""
        super().__init__()
        self.reset = reset


@runtime_checkable
class _Closeable(Protocol):
    def close(self) -> None: ...


class Server:
    """A running server. `close`, or leaving its context, stops it at once and aborts requests in progress."""

    def __init__(self, app: WSGIApplication, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Listen on the address and start a thread that serves requests."""
        self._app: object = app
        self._http = _HTTPServer(app, host, port, tls)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(_POLL_SECONDS,), daemon=True)
        self._thread.start()
        rendered = f"[{host}]" if ":" in host else host
        self.port: int = self._http.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{rendered}:{self.port}"

    @property
    def connections(self) -> int:
        """The number of connections accepted so far."""
        return self._http.accepted

    def close(self) -> None:
        """Stop listening and close all connections. Calls the application's `close`, if any, to end its waits."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._http.close_connections(self._app.close if isinstance(self._app, _Closeable) else None)

    def __enter__(self) -> Self:
        """Return the server, which is already listening."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the server."""
        self.close()


def serve(app: WSGIApplication, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> Server:
    """Start a server for `app` and return it. It uses a free port by default, and TLS if `tls` is given."""
    return Server(app, host, port, tls)


class _HTTPServer(ThreadingHTTPServer):
    """Accepts connections, serves each in its own thread, and tracks both so that it can end them."""

    request_queue_size = 512

    def __init__(self, app: WSGIApplication, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.app = app
        self.tls = tls
        self.accepted = 0
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the host name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Count the connection and start its thread."""
        assert isinstance(request, socket.socket)
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        self.accepted += 1
        with self._lock:
            self._open[thread] = request
        thread.start()

    def _serve(self, connection: socket.socket, client_address: object) -> None:
        """Serve one connection, including its TLS handshake, so that a slow client does not delay others."""
        try:
            if self.tls:
                connection = self._start_tls(connection, self.tls)
            self.finish_request(connection, client_address)
        except OSError:
            pass  # clients may disconnect at any time
        except Exception:  # noqa: BLE001 - an error of the application must not end the server
            self.handle_error(connection, client_address)
        finally:
            # The socket is not shut down first, because the client would then not receive the reset of `Disconnect`.
            connection.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _start_tls(self, connection: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        secure = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open[threading.current_thread()] = secure
        try:
            secure.do_handshake()
        except OSError:
            secure.close()
            raise
        return secure

    def close_connections(self, wake: Callable[[], object] | None) -> None:
        """Close every connection and wait for its thread to end. `wake` is called to end waits of the application."""
        until = time.monotonic() + _CLOSE_TIMEOUT_SECONDS
        while time.monotonic() < until:
            with self._lock:
                threads = list(self._open)
                for connection in self._open.values():
                    with suppress(OSError):
                        # `SSLSocket.shutdown` would discard the TLS layer while another thread uses it.
                        socket.socket.shutdown(connection, socket.SHUT_RDWR)
            if not threads:
                return
            if wake:
                wake()
            threads[0].join(_POLL_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HTTPServer
    connection: socket.socket

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""

    def respond(self) -> None:
        """Run the application for the request and send its response."""
        try:
            self._run()
        except Disconnect as disconnect:
            self.close_connection = True
            if disconnect.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = respond  # noqa: N815 - inherited names

    def _run(self) -> None:
        responses: list[tuple[str, list[tuple[str, str]]]] = []
        written: list[bytes] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _error: object = None, /
        ) -> Callable[[bytes], object]:
            responses.append((status, headers))
            return written.append

        chunks = self.server.app(self._environ(), start_response)
        try:
            body = iter(chunks)
            first = next(body, b"")  # an application may call start_response as late as here
            self._send(*responses[-1], itertools.chain(written, [first], body))
        finally:
            if isinstance(chunks, _Closeable):
                chunks.close()

    def _send(self, status: str, headers: list[tuple[str, str]], chunks: Iterable[bytes]) -> None:
        """Send a response. The headers are sent with the first chunk, so that a small response is one packet."""
        lengths = [int(value) for name, value in headers if name.lower() == "content-length"]
        old = self.request_version == "HTTP/1.0"
        frames: Iterable[bytes]
        if self.command == "HEAD" or status.startswith(("1", "204", "304")):
            frames = ()
        elif lengths:
            frames = self._limited(chunks, lengths[0])
        elif old:
            frames = chunks
        else:
            headers = [*headers, ("Transfer-Encoding", "chunked")]
            frames = _in_chunks(chunks)
        if old or self.close_connection:
            self.close_connection = True
            headers = [*headers, ("Connection", "close")]
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "", ""]
        pending = "\r\n".join(lines).encode("latin-1")
        for frame in frames:
            self.connection.sendall(pending + frame)
            pending = b""
        if pending:
            self.connection.sendall(pending)

    def _limited(self, chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
        """Yield at most `length` bytes. If the chunks are shorter, the connection is closed after the response."""
        for chunk in chunks:
            yield chunk[:length]
            length -= len(chunk[:length])
        if length:
            self.close_connection = True

    def _environ(self) -> WSGIEnvironment:
        """Read the body of the request and return its WSGI environment.

        The path comes from the request line, because `BaseHTTPRequestHandler` merges leading slashes in `path`.
        """
        path, _, query = self.requestline.split()[1].partition("?")
        length = self.headers.get("Content-Length", "0")
        readable = length.isdecimal() and int(length) <= _MAX_REQUEST_BYTES and "Transfer-Encoding" not in self.headers
        if not readable:
            self.close_connection = True
        fields: dict[str, str] = {}
        for name, value in self.headers.items():
            field = "HTTP_" + name.upper().replace("-", "_")
            fields[field] = f"{fields[field]},{value}" if field in fields else value
        return fields | {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": length,
            "REMOTE_ADDR": str(self.client_address[0]),
            "SERVER_NAME": self.server.server_name,
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": self.request_version,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if self.server.tls else "http",
            "wsgi.input": io.BytesIO(self.rfile.read(int(length)) if readable else b""),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }


def _in_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the chunks in the chunked transfer encoding of HTTP/1.1."""
    for chunk in chunks:
        if chunk:
            yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield b"0\r\n\r\n"


def status_phrase(code: int) -> str:
    """Return the reason phrase of a status code."""
    return responses.get(code, "Unknown")
