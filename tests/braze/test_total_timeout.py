"""Test that an exchange ends at its deadline, wherever it stalls, and what requests contain."""

import contextlib
import socket
import tempfile
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping

import pytest
import trustme
from support import KEY

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.transport import MAX_BODY_BYTES, RawResponse, Timeouts, Transport, open_session

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


def gzip_without_end() -> Iterator[bytes]:
    """Yield a gzip response of endless blocks that decompress to nothing."""
    yield HEAD + b"Content-Encoding: gzip\r\n\r\n" + b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
    while True:
        yield EMPTY_BLOCK


def endless_chunks(start: bytes, chunk: bytes) -> Callable[[], Iterator[bytes]]:
    """Return a function that yields `start` and then `chunk` forever."""

    def chunks() -> Iterator[bytes]:
        yield start
        while True:
            yield chunk

    return chunks


ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "silence": endless_chunks(b"", b""),
    "a status line byte by byte": endless_chunks(b"HTTP/1.1 200 ", b"O"),
    "a header byte by byte": endless_chunks(HEAD + b"X-Drip: ", b"a"),
    "header after header": endless_chunks(HEAD, b"X-Drip: a\r\n"),
    "continue after continue": endless_chunks(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "interim response after interim response": endless_chunks(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "an interim response header by header": endless_chunks(b"HTTP/1.1 103 Early Hints\r\n", b"Link: </a>\r\n"),
    "an interim response byte by byte": endless_chunks(b"HTTP/1.1 103 Early Hints\r\n", b"a"),
    "the size of a chunk": endless_chunks(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailer after trailer": endless_chunks(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: a\r\n"),
    "a body byte by byte": endless_chunks(HEAD + b"Content-Length: 100000\r\n\r\n", b" "),
    "a body without a length": endless_chunks(HEAD + b"\r\n", b" "),
    "empty gzip blocks": gzip_without_end,
    "a redirect with a body": endless_chunks(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n", b" "),
}


@contextlib.contextmanager
def serve_chunks(chunks: Callable[[], Iterator[bytes]], authority: trustme.CA | None = None) -> Iterator[str]:
    """Serve one connection with the chunks, slowly, until the client disconnects; yield the URL."""
    done = threading.Event()

    def response(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            connection = stack.enter_context(listener.accept()[0])
            if authority is not None:
                import ssl  # noqa: PLC0415

                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                authority.issue_cert("127.0.0.1").configure_cert(context)
                connection = stack.enter_context(context.wrap_socket(connection, server_side=True))
            connection.recv(65_536)
            for chunk in chunks():
                connection.sendall(chunk)
                if done.wait(0.01):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=response, args=(listener,), daemon=True)
        thread.start()
        scheme = "http" if authority is None else "https"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        done.set()
    thread.join(5)
    assert not thread.is_alive()


def send_request(
    url: str,
    ca_bundle: str | None = None,
    *,
    proxies: Mapping[str, str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> RawResponse:
    """Send one request with a deadline of half a second."""
    with contextlib.closing(open_session(1, ca_bundle, proxies)) as session:
        timeouts = Timeouts(connect=5, read=5, total=0.5)
        transport = Transport(session, url, lambda: KEY, monotonic=monotonic, timeouts=timeouts)
        return transport.get("/events/data_series", {})


def failure_reason(url: str, ca_bundle: str | None = None) -> Reason | None:
    """Send one request and return the reason of its failure, or None."""
    try:
        received = send_request(url, ca_bundle)
    except BrazeError as error:
        return error.reason
    return received.body_error.reason if received.body_error is not None else None


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("name", ENDLESS)
def test_endless_response_is_cut_off_at_deadline(name: str, tls: bool) -> None:  # noqa: FBT001
    """An endless response fails as a timeout at the deadline, with and without TLS."""
    authority = trustme.CA() if tls else None
    with serve_chunks(ENDLESS[name], authority) as url, tempfile.NamedTemporaryFile() as bundle:
        if authority is not None:
            bundle.write(authority.cert_pem.bytes())
            bundle.flush()
        started = time.monotonic()
        assert failure_reason(url, bundle.name if tls else None) is Reason.TIMEOUT
        assert 0.4 < time.monotonic() - started < 3


def test_response_that_waited_through_suspend_is_too_late() -> None:
    """A response that arrives at once after the machine was suspended for longer than the deadline is a timeout."""
    now = 0.0

    def chunks() -> Iterator[bytes]:
        nonlocal now
        yield b""  # until the client waits for the response
        now = 3_600.0
        yield HEAD + b"Content-Length: 2\r\n\r\n{}"

    with serve_chunks(chunks) as url:
        received = send_request(url, monotonic=lambda: now)
    assert received.body_error is not None
    assert received.body_error.reason is Reason.TIMEOUT


ENDLESS_CONNECTIONS: dict[str, tuple[Callable[[], Iterator[bytes]], str, Reason]] = {
    "a TLS handshake byte by byte": (endless_chunks(b"\x16\x03\x03\x40\x00", b"\0"), "", Reason.TIMEOUT),
    "the TLS handshake of a proxy": (endless_chunks(b"\x16\x03\x03\x40\x00", b"\0"), "https", Reason.PROXY),
    "a proxy's status line byte by byte": (endless_chunks(b"HTTP/1.1 200 ", b"O"), "http", Reason.TIMEOUT),
    "a proxy's header after header": (endless_chunks(HEAD, b"X-Drip: a\r\n"), "http", Reason.TIMEOUT),
}


@pytest.mark.parametrize("name", ENDLESS_CONNECTIONS)
def test_endless_connecting_is_cut_off_at_deadline(name: str) -> None:
    """A TLS handshake or a response to CONNECT that never ends fails at the deadline."""
    chunks, proxy_scheme, reason = ENDLESS_CONNECTIONS[name]
    with serve_chunks(chunks) as url:
        proxies = {"https": url.replace("http", proxy_scheme)} if proxy_scheme else {}
        started = time.monotonic()
        with pytest.raises(BrazeError) as caught:
            send_request(url.replace("http", "https"), proxies=proxies)
        assert 0.4 < time.monotonic() - started < 3
    assert caught.value.reason is reason


def test_unanswered_connection_is_cut_off_at_deadline() -> None:
    """A host that does not answer connection attempts fails as a timeout at the deadline."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # the queue of the listener is full
            client = stack.enter_context(socket.socket())
            client.setblocking(False)  # noqa: FBT003 - the method takes no other argument
            client.connect_ex(listener.getsockname())
        started = time.monotonic()
        assert failure_reason(f"http://127.0.0.1:{listener.getsockname()[1]}") is Reason.TIMEOUT
        assert 0.4 < time.monotonic() - started < 3


def test_endless_name_resolution_is_cut_off_at_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer fails as a timeout at the deadline, and its late answer opens no connection."""
    resolve, may_resolve = socket.getaddrinfo, threading.Event()

    def resolve_late(*arguments: object) -> object:
        may_resolve.wait(10)
        return resolve(*arguments)  # type: ignore[arg-type] # those of the caller

    monkeypatch.setattr(socket, "getaddrinfo", resolve_late)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        assert failure_reason(f"http://localhost:{listener.getsockname()[1]}") is Reason.TIMEOUT
        assert 0.4 < time.monotonic() - started < 3
        may_resolve.set()
        with listener.accept()[0] as connection:
            connection.settimeout(5)
            assert connection.recv(1) == b""


def test_redirect_body_is_limited() -> None:
    """The body of a redirect is limited in size like any other."""

    def chunks() -> Iterator[bytes]:
        yield b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 100000000\r\n\r\n"
        while True:
            yield b" " * 1_000_000

    with serve_chunks(chunks) as url:
        tracemalloc.start()
        received = send_request(url)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert received.status == 302
    assert received.body_error is not None
    assert peak < MAX_BODY_BYTES + 4_000_000


def test_cookies_are_not_stored() -> None:
    """A cookie set by a response is not sent with the next request."""
    seen: list[bytes] = []

    def response(listener: socket.socket) -> None:
        for _ in range(2):
            with listener.accept()[0] as connection:
                seen.append(connection.recv(65_536))
                connection.sendall(HEAD + b"Set-Cookie: a=b\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.closing(open_session(1)) as session:
        thread = threading.Thread(target=response, args=(listener,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = Transport(session, url, lambda: KEY, monotonic=time.monotonic)
        for _ in range(2):
            assert transport.get("/", {}).status == 200
        thread.join(5)
    assert len(seen) == 2
    assert [*session.cookies] == []
    assert not any(b"cookie" in request.lower() for request in seen)


def test_request_headers_are_as_documented() -> None:
    """The request has the documented request line, bearer token and encoding."""
    seen: list[bytes] = []

    def response(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            seen.append(connection.recv(65_536))
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=response, args=(listener,), daemon=True)
        thread.start()
        send_request(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(5)
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "GET /events/data_series HTTP/1.1"
    assert f"Authorization: Bearer {KEY}" in lines
    assert "Accept-Encoding: gzip" in lines


def test_gzip_chunks_of_test_are_empty() -> None:
    """The blocks of `gzip_without_end` are valid and empty, so only the deadline ends the response."""
    decoder = zlib.decompressobj(wbits=-15)
    assert decoder.decompress(EMPTY_BLOCK * 10) == b""
    assert not decoder.eof
