"""Test the simulator's HTTP server with different WSGI applications."""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.validate import validator

import pytest
import requests
import transfer_faults
import trustme
from fault_injection import Fault
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from wsgi_server import Disconnect, Server, serve

RequestSeries = Callable[..., requests.Response]


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Return the method, path and query of the request."""
    body = " ".join((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])).encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body + environ["wsgi.input"].read()[:0]]


def stream(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Return a body in parts, one of them empty, without a length."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"one "
    yield b""
    yield b"two"


def exchange(server: Server, *requests_sent: bytes) -> bytes:
    """Send bytes over one connection and return all bytes that are received."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"".join(requests_sent))
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_server_runs_application() -> None:
    """The application receives the method, the decoded path and the unchanged query string."""
    with serve(hello) as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert requests.get(f"{server.url}/a%20b/%C3%A9?x=%20y", timeout=5).content == "GET /a b/é x=%20y".encode()
        assert requests.post(f"{server.url}//x", data=b"body", timeout=5).content == b"POST //x "


def test_connections_are_reused_and_counted() -> None:
    """Requests of one session share a connection, and another session uses its own."""
    with serve(hello) as server, requests.Session() as item, requests.Session() as other:
        for _ in range(5):
            item.get(server.url, timeout=5)
            item.post(server.url, data=b"a body that is read by nobody", timeout=5)
        assert server.connections == 1
        other.get(server.url, timeout=5)
        assert server.connections == 2


def test_small_response_is_one_packet() -> None:
    """The head and body of a small response are sent together, so that one read returns both."""
    with serve(hello) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        for _ in range(3):
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65_536).endswith(b"\r\n\r\nGET /x ")


def test_body_of_unknown_length_is_chunked() -> None:
    """A body without a length is sent in chunks without the empty parts, and the connection is kept."""
    with serve(stream) as server:
        content = exchange(
            server, *[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"]
        )
    assert content.count(b"Transfer-Encoding: chunked\r\n") == 2
    assert content.count(b"\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n") == 2
    assert content.count(b"Connection: close\r\n") == 1


def test_http_1_0_client_gets_no_chunks() -> None:
    """An HTTP/1.0 client gets no chunks; the end of the connection ends the body."""
    with serve(stream) as server:
        head, body = exchange(server, b"GET / HTTP/1.0\r\n\r\n").split(b"\r\n\r\n", 1)
    assert b"chunked" not in head
    assert body == b"one two"


@pytest.mark.parametrize("app", [hello, stream])
def test_head_response_has_no_body(app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]) -> None:
    """The response to HEAD has no body."""
    with serve(app) as server:
        assert exchange(server, b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n")


def test_body_longer_than_announced_is_cut() -> None:
    """A body is cut at its announced length, so that the connection stays usable."""

    def too_long_body(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        return [b"ab", b"cde", b"f"]

    with serve(too_long_body) as server:
        content = exchange(server, b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert [part.partition(b"\r\n\r\n")[2] for part in content.split(b"HTTP/1.1 ")] == [b"", b"abc", b"abc"]


def test_written_data_comes_first() -> None:
    """Data passed to WSGI's `write` is sent before the returned body."""

    def writing_app(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])(b"first ")
        return [b"second"]

    with serve(writing_app) as server:
        assert requests.get(server.url, timeout=5).content == b"first second"


def test_large_request_body_ends_connection() -> None:
    """A request whose body is not read gets its response, and then the connection is closed."""
    with serve(hello) as server:
        content = exchange(server, b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
    assert content.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close\r\n" in content


def test_response_iterable_is_always_closed() -> None:
    """The returned iterable is closed after both a complete and an aborted response."""
    closed = []

    class Chunks:
        def __init__(self, path: str) -> None:
            self.path = path

        def __iter__(self) -> Iterator[bytes]:
            yield b"x"
            if self.path == "/broken":
                raise Disconnect

        def close(self) -> None:
            closed.append(self.path)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Chunks:
        start_response("200 OK", [])
        return Chunks(environ["PATH_INFO"])

    with serve(app) as server:
        assert requests.get(f"{server.url}/whole", timeout=5).content == b"x"
        with pytest.raises(requests.RequestException):
            requests.get(f"{server.url}/broken", timeout=5)
    assert sorted(closed) == ["/broken", "/whole"]


def test_application_errors_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception in the application breaks the connection and prints its traceback; the server keeps running."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/bug":
            raise RuntimeError("a bug")
        return hello(environ, start_response)

    with serve(app) as server:
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/bug", timeout=5)
        assert requests.get(server.url, timeout=5).status_code == 200
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_disconnected_clients_are_ignored(
    braze: FaultInjectingBraze, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client that disconnects before, during or after its request causes no output."""
    head = b"GET /events/data_series?event=purchase&length=2 HTTP/1.1\r\nAuthorization: Bearer secret\r\n"
    braze.inject(transfer_faults.huge())
    for sent in (b"", head, head + b"\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(sent)
    braze.wait_for(1)
    server.close()
    assert tuple(capfd.readouterr()) == ("", "")


def test_tls_is_served(capfd: pytest.CaptureFixture[str]) -> None:
    """With a TLS context the server uses TLS, and clients that do not cause no output."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    with serve(hello, tls=theirs) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=ours, timeout=5)
            for _ in range(2):
                connection.request("GET", "/x")
                assert connection.getresponse().read() == b"GET /x "
            connection.close()
            silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert server.connections == 2
    assert tuple(capfd.readouterr()) == ("", "")


def test_tls_connection_is_reset(braze: FaultInjectingBraze) -> None:
    """A connection can be reset under TLS, too."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    braze.inject(transfer_faults.disconnect())
    with serve(braze, tls=theirs) as server:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=ours, timeout=5)
        connection.request("GET", "/events/data_series")
        with pytest.raises(ConnectionResetError):
            connection.getresponse()
        connection.close()


@pytest.mark.alone
@pytest.mark.parametrize(
    "fault",
    [transfer_faults.hang(), transfer_faults.hold(), transfer_faults.delay(60), transfer_faults.huge()],
    ids=str,
)
def test_close_ends_requests(
    request_series: RequestSeries, braze: FaultInjectingBraze, server: Server, fault: Fault
) -> None:
    """Closing ends requests in flight and idle connections at once, and leaves no threads."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as idle:
        braze.inject(fault)

        def give_up() -> None:
            with contextlib.suppress(requests.RequestException):
                request_series(stream=None)

        threads = [threading.Thread(target=give_up) for _ in range(3)]
        for thread in threads:
            thread.start()
        braze.wait_for(3)
        started_at = time.monotonic()
        server.close()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started_at < 1
        assert idle.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if "serve" in thread.name]
    with pytest.raises(requests.ConnectionError):
        request_series()


def test_close_twice_is_allowed(server: Server) -> None:
    """A closed server can be closed again."""
    server.close()
    server.close()
    assert server.connections == 0


def test_application_is_served_again(braze: FaultInjectingBraze) -> None:
    """An application can be served again on the same port, with its counts kept."""
    with serve(braze) as server:
        port = server.port
    with serve(braze, port=port) as server, requests.Session() as session:
        session.headers["Authorization"] = "Bearer secret"
        response = session.get(f"{server.url}/events/data_series?event=purchase&length=1&unit=hour", timeout=5)
        assert response.json()["data"] == [{"time": "2024-10-14T13:00:00+00:00", "count": 5}]


def test_many_connections_are_served() -> None:
    """A hundred clients that connect at once all get a response."""
    with serve(hello) as server, ThreadPoolExecutor(100) as pool:
        bodies = pool.map(lambda n: requests.get(f"{server.url}/{n}", timeout=5).content, range(100))
        assert list(bodies) == [f"GET /{n} ".encode() for n in range(100)]
        assert server.connections == 100


def test_simulator_conforms_to_wsgi(braze: FaultInjectingBraze, traffic: RecordedCounts) -> None:
    """The simulator passes the checks of `wsgiref.validate`."""
    traffic.set("x", 0, 1)
    with serve(validator(braze)) as server:
        headers = {"Authorization": "Bearer secret"}
        response = requests.get(f"{server.url}/events/data_series?event=x&length=1", headers=headers, timeout=5)
        assert (response.status_code, response.json()["message"]) == (200, "success")
