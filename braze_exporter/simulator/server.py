"""The HTTP server of `demo`, which runs the simulated Braze."""

import socket
import sys
import threading
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication


def start_server(app: WSGIApplication, host: str, port: int) -> str:
    """Serve `app` until the process ends, and return the URL. Port 0 is any free port. Raises `OSError`."""
    server = _Server(app, host, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each connection in its own thread."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, app: WSGIApplication, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Bind without looking up the host name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log errors of the application, but not that a client disconnects."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        """Log nothing."""
