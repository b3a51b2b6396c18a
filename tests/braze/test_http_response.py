"""Test that only a final response belongs to a request, and that unexpected bytes close a connection."""

import contextlib
import http.client
import io
import json
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from certificates import Pki
from raw_server import ESTABLISHED, ROUTES, Route, raw_server, route
from recorded_counts import RecordedCounts
from support import CURRENT_HOUR, KEY, running_exporter

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.transport import MAX_BODY_BYTES, Timeouts, Transport, open_session

EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
EVENTS = [f"event {number:02}" for number in range(30)]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Return a CA and a server certificate."""
    return Pki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def tls(pki: Pki) -> ssl.SSLContext:
    """Return the TLS context of the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "cert.pem", pki.directory / "key.pem")
    return context


def final_response(target: str, size: int = 0) -> bytes:
    """Return a response that repeats the path of its request, padded to `size` bytes."""
    body = json.dumps(urllib.parse.urlsplit(target).path).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %08d\r\n\r\n"
    body += b" " * (size - len(head % 0) - len(body))
    return head % len(body) + body


def late(target: str, connection: socket.socket) -> Iterator[bytes]:
    """Yield interim responses, then the final one after a short wait for another request."""
    yield EARLY_HINTS
    yield PROCESSING + b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY_HINTS[:30]
    yield EARLY_HINTS[30:]
    select.select([connection], [], [], 0.02)
    yield final_response(target)


@contextlib.contextmanager
def client(route_: Route, pki: Pki, connections: int = 1, chunk: float = 5.0) -> Iterator[Callable[[str], object]]:
    """Yield a function that requests a path and returns the path that the response repeats."""
    with contextlib.closing(open_session(connections, str(pki.directory / "ca.pem"), route_.proxies)) as session:
        timeouts = Timeouts(connect=5, read=chunk, total=10)
        transport = Transport(session, route_.url, lambda: KEY, monotonic=time.monotonic, timeouts=timeouts)

        def ask(path: str) -> object:
            received = transport.get(path, {})
            if received.body_error is not None:
                raise received.body_error
            return json.loads(received.body) if received.body else received.status

        yield ask


def relayed(target: str, port: int) -> bytes:
    """Return the response of a simulated Braze on a local port."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as braze:
        braze.request("GET", target, headers={"Authorization": f"Bearer {KEY}"})
        response = braze.getresponse()
        body = response.read()
        headers = "".join(f"{name}: {value}\r\n" for name, value in response.getheaders())
        return f"HTTP/1.1 {response.status} {response.reason}\r\n{headers}\r\n".encode() + body


def test_exporter_with_interim_responses_exports_own_value_of_each_query() -> None:
    """Thirty queries share few connections, and each value and counter belongs to its event."""
    traffic = RecordedCounts(events=EVENTS)
    events = "\n".join(f"{{event: {event}}}" for event in EVENTS)
    with running_exporter(events, traffic) as exporter:

        def respond(target: str, connection: socket.socket) -> Iterator[bytes]:
            yield EARLY_HINTS
            select.select([connection], [], [], 0.02)
            yield relayed(target, exporter.server.port)

        with raw_server(respond) as edge:
            exporter.apply_config(events, **{exporter.url: f"http://127.0.0.1:{edge.port}"})
            for step in range(3):
                for number, event in enumerate(EVENTS):
                    traffic.set(event, CURRENT_HOUR, 1_000 * (step + 1) + number * (step + 1))
                page = exporter.scrape()
                for number, event in enumerate(EVENTS):
                    assert page.value("braze_query_up", event=event) == 1
                    latest = page.value("braze_custom_events_hourly_latest", event=event)
                    assert latest == 1_000 * (step + 1) + number * (step + 1)
                    assert page.value("braze_custom_events_total", event=event) == step * (1_000 + number)
                exporter.clock.advance(300)
    assert len(edge.targets) == 3 * len(EVENTS)
    assert edge.connections <= 10


@pytest.mark.parametrize("name", ROUTES)
def test_interim_responses_are_skipped_and_connections_kept(name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """On each route, forty requests over five connections get their own responses."""
    established = EARLY_HINTS + PROCESSING + ESTABLISHED
    with route(name, late, tls, established) as route_, client(route_, pki, 5) as ask, ThreadPoolExecutor(5) as threads:
        paths = [f"/{number}" for number in range(40)]
        assert list(threads.map(ask, paths)) == paths
    assert len(route_.server.targets) == 40
    assert route_.server.connections <= 5


def chunked(target: str) -> bytes:
    """Return the same response with `Transfer-Encoding: chunked`, in one chunk."""
    head, body = final_response(target).split(b"\r\n\r\n")
    head = head.split(b"\r\n")[0] + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


UNEXPECTED: dict[str, Callable[[str], bytes]] = {
    "a second response": lambda target: final_response(target) + final_response("/not-requested"),
    "a second response in the next buffer": lambda target: (
        final_response(target, io.DEFAULT_BUFFER_SIZE) + final_response("/not-requested")
    ),
    "more bytes than its length": lambda target: final_response(target) + b"x",
    "more bytes than its chunks": lambda target: chunked(target) + b"\r\n",
    "a 204 with a body": lambda _: b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n{}",
    "a 304 with a body": lambda _: b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n{}",
    "an interim response": lambda target: final_response(target) + EARLY_HINTS,
    "both a length and chunks": lambda target: chunked(target).replace(b"\r\n", b"\r\nContent-Length: 3\r\n", 1),
    "two lengths": lambda target: re.sub(rb"(Content-Length: .*\r\n)", rb"\1\1", final_response(target)),
    "a Connection: close header": lambda target: final_response(target).replace(
        b"\r\n", b"\r\nConnection: close\r\n", 1
    ),
    "version 1.0": lambda target: EARLY_HINTS + final_response(target).replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("response", UNEXPECTED)
def test_connection_after_unexpected_bytes_is_closed(response: str, name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """Bytes after a response, or an ambiguous end, close the connection, and the next request gets its own response."""

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        yield UNEXPECTED[response](target)

    with route(name, respond, tls) as route_, client(route_, pki) as ask:
        for path in ("/1", "/2", "/3"):
            assert ask(path) in {path, 204, 304}
    assert route_.server.connections == 3


@pytest.mark.parametrize("name", ROUTES)
def test_connection_after_usual_responses_is_kept(name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """Responses with a length, in chunks, without content or spanning several buffers keep their connection."""
    responses = {
        "/1": final_response("/1"),
        "/2": chunked("/2"),
        "/3": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/4": final_response("/4", 100_000),
        "/5": final_response("/5", io.DEFAULT_BUFFER_SIZE),
    }

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        yield responses["/" + target.rpartition("/")[2]]

    with route(name, respond, tls) as route_, client(route_, pki) as ask:
        assert [ask(path) for path in responses] == ["/1", "/2", 204, "/4", "/5"]
    assert route_.server.connections == 1


@pytest.mark.parametrize("name", ["plain", "TLS", "plain, by a proxy", "plain, by a TLS proxy"])
def test_response_to_no_request_closes_idle_connection(name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """A response that arrives on an idle connection closes it and is not used for the next request."""
    is_idle, is_sent = threading.Event(), threading.Event()

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        yield final_response(target)
        if target.endswith("/1"):
            is_idle.wait(5)
            yield final_response("/not-requested")
            is_sent.set()

    with route(name, respond, tls) as route_, client(route_, pki) as ask:
        assert ask("/1") == "/1"
        is_idle.set()
        assert is_sent.wait(5)
        assert ask("/2") == "/2"
    assert route_.server.connections == 2


@pytest.mark.parametrize("name", ["plain", "TLS", "plain, by a proxy", "plain, by a TLS proxy"])
def test_connection_that_server_ended_is_replaced(name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """If the server closes a connection right after a response, by TCP or only by TLS, the next request succeeds."""
    is_ended = threading.Event()

    def respond(target: str, connection: socket.socket) -> Iterator[bytes]:
        if target.endswith("/2"):
            yield final_response(target)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        yield final_response(target)
        if isinstance(connection, ssl.SSLSocket):
            connection.settimeout(0)
            with contextlib.suppress(ssl.SSLWantReadError):  # the client has not closed its side
                connection.unwrap()
            connection.settimeout(10)
        else:
            connection.shutdown(socket.SHUT_WR)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        is_ended.set()

    with route(name, respond, tls) as route_, client(route_, pki) as ask:
        assert ask("/1") == "/1"
        assert is_ended.wait(5)
        assert ask("/2") == "/2"
    assert route_.server.connections == 2


@pytest.mark.parametrize("name", ROUTES)
def test_response_after_timeout_belongs_to_no_query(name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """The connection of a timed-out request is closed, so its response is not used for the next request."""
    is_next = threading.Event()

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        if target.endswith("/1"):
            yield EARLY_HINTS
            is_next.wait(5)
        is_next.set()
        yield final_response(target)

    with route(name, respond, tls) as route_, client(route_, pki, chunk=0.2) as ask:
        with pytest.raises(BrazeError) as caught:
            ask("/1")
        assert caught.value.reason is Reason.TIMEOUT
        assert ask("/2") == "/2"
    assert route_.server.connections == 2


@pytest.mark.parametrize("name", ROUTES)
def test_connection_of_oversized_body_is_closed(name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """The connection of an oversized body is closed, so the rest of the body is not read as the next response."""

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        yield final_response(target, 2 * MAX_BODY_BYTES if target.endswith("/1") else 0)

    with route(name, respond, tls) as route_, client(route_, pki) as ask:
        with pytest.raises(BrazeError) as caught:
            ask("/1")
        assert caught.value.reason is Reason.TOO_LARGE
        assert ask("/2") == "/2"
    assert route_.server.connections == 2


REFUSED_RESPONSES = {
    "endless interim responses": (b"", EARLY_HINTS, "more than 64 KiB of interim responses"),
    "an endless interim response": (EARLY_HINTS[:-2], b"Link: </a>\r\n", "more than 64 KiB of interim responses"),
    "an interim response without lines": (EARLY_HINTS[:-2], b"a" * 1000, "more than 64 KiB of interim responses"),
    "an upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", b"", "unexpected status 101"),
    "an invalid status number": (b"HTTP/1.1 +103 Hm\r\n\r\n", b"", "unexpected status 103"),
}


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("case", REFUSED_RESPONSES)
def test_interim_responses_beyond_bounds_are_refused(case: str, name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """Interim responses are limited in size, and an upgrade that was not requested is an error."""
    start, chunk, detail = REFUSED_RESPONSES[case]

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        if target.endswith("/2"):
            yield final_response(target)
            return
        yield start
        while chunk:
            yield chunk

    with route(name, respond, tls) as route_, client(route_, pki) as ask:
        with pytest.raises(BrazeError) as caught:
            ask("/1")
        assert caught.value.reason is Reason.CONNECTION
        assert caught.value.detail == f"connection failed: {detail}"
        assert ask("/2") == "/2"
    assert route_.server.connections == 2


@pytest.mark.parametrize("name", ["TLS, by a proxy", "TLS, by a TLS proxy"])
@pytest.mark.parametrize(
    "established",
    [
        EARLY_HINTS * 2_000,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ESTABLISHED + final_response("/not-requested"),
    ],
    ids=["endless interim responses", "an upgrade", "a body", "a response"],
)
def test_tunnel_with_unexpected_bytes_is_refused(established: bytes, name: str, pki: Pki, tls: ssl.SSLContext) -> None:
    """A proxy that sends more than the response to CONNECT receives no request."""

    def respond(target: str, _: socket.socket) -> Iterator[bytes]:
        yield final_response(target)

    with route(name, respond, tls, established) as route_, client(route_, pki) as ask:
        with pytest.raises(BrazeError) as caught:
            ask("/1")
        assert caught.value.reason in {Reason.CONNECTION, Reason.PROXY, Reason.TLS}
    assert route_.server.targets == []
