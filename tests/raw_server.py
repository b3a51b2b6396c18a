"""An HTTP server that sends scripted bytes, and routes to it: with or without TLS and a proxy."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Script = Callable[[str, socket.socket], Iterable[bytes]]


@dataclass
class RawServer:
    """A running server: `targets` are the request targets so far, and `connections` is the number of accepted ones."""

    port: int
    script: Script
    targets: list[str] = field(default_factory=list)
    connections: int = 0

    def serve(self, connection: socket.socket) -> None:
        """Send what the script yields for each request of a connection."""
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while target := _read_target(lines):
                self.targets.append(target)
                for chunk in self.script(target, connection):
                    connection.sendall(chunk)


def _read_target(lines: Iterable[bytes]) -> str:
    head: list[bytes] = []
    for line in lines:
        if line == b"\r\n":
            return head[0].split()[1].decode()
        head.append(line)
    return ""


@contextlib.contextmanager
def raw_server(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Run a server that sends what `script` yields for each request target; `script` also gets the connection."""

    def shake_hands(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            server.serve(connection if tls is None else tls.wrap_socket(connection, server_side=True))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(10)
                server.connections += 1
                threading.Thread(target=shake_hands, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = RawServer(listener.getsockname()[1], script)
        threading.Thread(target=accept, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def tunnel_to(port: int, response: bytes) -> Script:
    """Return the script of a proxy that sends `response` to each CONNECT and then relays to a local port."""

    def relay(_: str, client: socket.socket) -> Iterator[bytes]:
        yield response
        with socket.create_connection(("127.0.0.1", port)) as server:
            pair = {client: server, server: client}
            while True:
                for source in select.select(list(pair), [], [], 10)[0]:
                    data = source.recv(65_536)
                    if not data:
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    pair[source].sendall(data)

    return relay


@dataclass(frozen=True)
class Route:
    """How a request reaches a server: the base `url` and the `proxies` by scheme."""

    server: RawServer
    url: str
    proxies: Mapping[str, str] = field(default_factory=dict)


ROUTES = ["plain", "TLS", "plain, by a proxy", "plain, by a TLS proxy", "TLS, by a proxy", "TLS, by a TLS proxy"]
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@contextlib.contextmanager
def route(name: str, script: Script, tls: ssl.SSLContext, established: bytes = ESTABLISHED) -> Iterator[Route]:
    """Run the servers of one of the `ROUTES`; a proxy sends `established` to a CONNECT."""
    scheme, _, proxy = name.partition(", by a ")
    scheme = "https" if scheme == "TLS" else "http"
    proxy_scheme = "https" if proxy == "TLS proxy" else "http"
    proxy_tls = tls if proxy_scheme == "https" else None
    with contextlib.ExitStack() as stack:
        if scheme == "http" and proxy:  # the proxy responds itself
            server = stack.enter_context(raw_server(script, proxy_tls))
            yield Route(server, "http://braze.test", {"http": f"{proxy_scheme}://127.0.0.1:{server.port}"})
            return
        server = stack.enter_context(raw_server(script, tls if scheme == "https" else None))
        url = f"{scheme}://127.0.0.1:{server.port}"
        if not proxy:
            yield Route(server, url)
            return
        proxy_server = stack.enter_context(raw_server(tunnel_to(server.port, established), proxy_tls))
        yield Route(server, url, {"https": f"{proxy_scheme}://127.0.0.1:{proxy_server.port}"})
