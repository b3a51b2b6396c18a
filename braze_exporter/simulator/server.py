"""The HTTP server of `demo`, which runs the simulated Braze."""

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import unquote

from braze_exporter.simulator.application import SimulatedBraze
from braze_exporter.simulator.request import Request


def start_server(braze: SimulatedBraze, host: str, port: int) -> str:
    """Serve `braze` until the process ends, and return the URL. Port 0 is any free port. Raises `OSError`."""
    server = _Server(braze, host, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"


class _Server(ThreadingHTTPServer):
    """Serves each connection in its own thread."""

    request_queue_size = 128

    def __init__(self, braze: SimulatedBraze, host: str, port: int) -> None:
        self.braze = braze
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the host name, which can take seconds."""
        TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log internal errors, but not that a client disconnects."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a response is sent at once
    server: _Server

    def do_GET(self) -> None:
        """Respond to a request."""
        path, _, query = self.path.partition("?")
        braze = self.server.braze
        reply = braze.respond(Request.parse("GET", unquote(path), query, self.headers.items(), braze.clock()))
        body = reply.read()
        self.send_response_only(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""
