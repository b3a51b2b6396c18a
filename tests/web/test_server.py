"""Test how long a scrape may wait, how headers are parsed, and which addresses the server listens on."""

import asyncio
import gc
import math
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import bcrypt
import pytest
from certificates import Pki
from hypothesis import given
from hypothesis import strategies as st
from support import free_port, write_file

from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.query_state import Refresh
from braze_exporter.web import listening, request, server
from braze_exporter.web.acceptor import Acceptor
from braze_exporter.web.access import AccessControl
from braze_exporter.web.connection import Connection, HttpResponse, Send
from braze_exporter.web.request import Request


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 10.0),
        ("10", 10.0),
        ("3.25", 3.25),
        ("0", 0.0),
        ("-3", 0.0),
        ("60", 60.0),
        ("3600", 60.0),
        ("inf", 60.0),
        ("-inf", 0.0),
        ("nan", 10.0),
        ("soon", 10.0),
        ("", 10.0),
    ],
)
def test_scrape_timeout_is_clamped(header: str | None, seconds: float) -> None:
    """The timeout is the header's value, clamped to 0 to 60 s; an invalid header counts as absent."""
    assert server.scrape_timeout_seconds(header) == seconds


@given(st.text(max_size=20))
def test_any_timeout_header_gives_a_timeout(header: str) -> None:
    """Any header gives a timeout between 0 and 60 seconds."""
    assert 0 <= server.scrape_timeout_seconds(header) <= 60
    assert math.isfinite(server.scrape_timeout_seconds(header))


class PendingExporter:
    """An exporter whose fetches end only if `is_answered`, and whose writes end only if `is_written`.

    Starting the fetches takes `start_seconds`, and rendering takes `render_seconds`.
    """

    render_seconds = 0.0
    is_answered = False
    is_written = True
    start_seconds = 0.0

    def __init__(self) -> None:
        self.incomplete_count = 0

    def refresh(self) -> Refresh:
        """Return a future that is done if `is_answered`."""
        time.sleep(self.start_seconds)
        refresh = Refresh()
        if self.is_answered:
            refresh.set_result(None)
        return refresh

    def save(self) -> Future[None]:
        """Return a future that is done if `is_written`."""
        future: Future[None] = Future()
        if self.is_written:
            future.set_result(None)
        return future

    def render(self, *, openmetrics: bool) -> list[bytes]:  # noqa: ARG002 - the page is constant
        """Return a page after `render_seconds`."""
        time.sleep(self.render_seconds)
        return [b"page"]

    def count_incomplete_scrape(self) -> None:
        """Count an incomplete scrape."""
        self.incomplete_count += 1


def build_application(exporter: PendingExporter, **options: Any) -> server.Application:  # noqa: ANN401
    """Return the application for `exporter`."""
    return server.Application(cast("Exporter", exporter), **options)


async def scrape(
    application: server.Application, scrape_timeout: str | None, send_seconds: float = 0.0, password: str = ""
) -> tuple[float, bytes]:
    """Send a scrape to an application; return the seconds until its response begins, and the body.

    The client reads the body `send_seconds` late. `password` is a user and its password, separated by a colon.
    """
    started_at, responses = time.monotonic(), []
    headers = {"authorization": f"Basic {b64encode(password.encode()).decode()}"} if password else {}
    headers |= {"x-prometheus-scrape-timeout-seconds": scrape_timeout} if scrape_timeout is not None else {}

    async def send(response: HttpResponse) -> None:
        responses.append((time.monotonic() - started_at, response))
        await asyncio.sleep(send_seconds)

    await application(Request("GET", "/metrics", headers), send)
    ((seconds, response),) = responses
    assert response.status == 200
    return seconds, response.body


@pytest.mark.alone
def test_scrape_waits_until_offset_before_timeout() -> None:
    """A scrape ends the offset before its timeout, and counts as incomplete."""

    async def test() -> None:
        exporter = PendingExporter()
        application = build_application(exporter, timeout_offset_seconds=1.5)
        seconds, body = await scrape(application, "2")
        assert 0.4 < seconds < 1.9
        assert (body, exporter.incomplete_count) == (b"page", 1)
        assert (await scrape(application, "1.4"))[0] < 1

    asyncio.run(test())


@pytest.mark.alone
def test_password_check_counts_as_scrape_time(tmp_path: Path) -> None:
    """The timeout starts when the request arrives, so the password check does not delay the end of a scrape."""
    started_at = time.monotonic()
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(12)).decode()
    check_seconds = time.monotonic() - started_at
    file = write_file(tmp_path / "web.yaml", f"basic_auth_users: {{alice: {hashed}}}")
    access = AccessControl(file, time.monotonic)

    async def test() -> None:
        application = build_application(PendingExporter(), access=access)
        seconds, body = await scrape(application, str(3 * check_seconds), password="alice:secret")  # noqa: S106
        assert 2.9 * check_seconds < seconds < 3.9 * check_seconds
        assert body == b"page"

    with closing(access):
        asyncio.run(test())


@pytest.mark.alone
def test_scrape_waits_less_after_slow_send() -> None:
    """A scrape leaves twice the time in which the last page was sent; the one after it waits as usual again."""

    async def test() -> None:
        application = build_application(PendingExporter(), timeout_offset_seconds=0.1)
        assert (await scrape(application, "2", send_seconds=0.6))[0] > 1.8
        assert 0.3 < (await scrape(application, "2"))[0] < 1.3
        assert (await scrape(application, "2"))[0] > 1.5

    asyncio.run(test())


@pytest.mark.alone
def test_slow_client_without_timeout_shortens_no_scrape() -> None:
    """The time to send a page to a client without a scrape timeout does not shorten the next scrape."""

    async def test() -> None:
        exporter = PendingExporter()
        application = build_application(exporter)
        exporter.is_answered = True
        assert (await scrape(application, None, send_seconds=1))[0] < 1
        exporter.is_answered = False
        assert (await scrape(application, "1"))[0] > 0.8

    asyncio.run(test())


@pytest.mark.alone
def test_scrape_waits_less_after_slow_render() -> None:
    """A scrape leaves twice the time in which a recent page was rendered, even if the last one was fast."""

    async def test() -> None:
        exporter = PendingExporter()
        application = build_application(exporter, timeout_offset_seconds=0.1)
        exporter.render_seconds = 0.6
        assert (await scrape(application, "2"))[0] > 2.3
        exporter.render_seconds = 0.0
        assert (await scrape(application, "2"))[0] < 1.3
        assert (await scrape(application, "2"))[0] < 1.3

    asyncio.run(test())


@pytest.mark.alone
def test_scrape_waits_for_disk_until_deadline() -> None:
    """A scrape waits for the write until its deadline, which is no rendering time and leaves the scrape complete."""

    async def test() -> None:
        exporter = PendingExporter()
        exporter.is_answered, exporter.is_written = True, False
        application = build_application(exporter, timeout_offset_seconds=0.5)
        for _ in range(2):
            seconds, body = await scrape(application, "1")
            assert 0.4 < seconds < 0.9
            assert body == b"page"
        assert exporter.incomplete_count == 0

    asyncio.run(test())


def test_scrape_without_time_to_wait_is_complete_if_nothing_is_due() -> None:
    """A scrape whose timeout is not longer than the offset still learns that no fetch is in flight."""

    async def test() -> None:
        exporter = PendingExporter()
        exporter.is_answered, exporter.start_seconds = True, 0.02
        application = build_application(exporter, timeout_offset_seconds=9)
        assert (await scrape(application, "1"))[1] == b"page"
        assert exporter.incomplete_count == 0

    asyncio.run(test())


@given(st.text(max_size=60))
def test_any_accept_header_is_parsed(header: str) -> None:
    """Any `Accept` or `Accept-Encoding` header selects a format and an encoding."""
    assert request.accepts_openmetrics(header) in {True, False}
    assert request.accepts_gzip(header) in {True, False}


LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=60)


@given(st.just("/") | LATIN_1, LATIN_1 | LATIN_1.map("a: {}".format))
def test_any_request_is_parsed(target: str, headers: str) -> None:
    """Any request is either invalid, or has a path and headers without control characters."""
    parsed = request.parse_request(f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}")
    if parsed is not None:
        assert parsed.path
        assert parsed.has_body in {True, False}
        assert not any(ord(letter) < 32 and letter != "\t" for text in parsed.headers.values() for letter in text)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        (":27293", "", 27293),
        ("localhost:80", "localhost", 80),
        ("[::1]:0", "::1", 0),
        ("10.0.0.1:65535", "10.0.0.1", 65_535),
    ],
)
def test_listen_addresses_are_parsed(address: str, host: str, port: int) -> None:
    """An address consists of a host, which may be empty, and a port."""
    assert listening.split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "27293",
        ":",
        ":65536",
        ":-1",
        ":\N{FULLWIDTH DIGIT EIGHT}",
        "localhost",
        "localhost:http",
        "::1:80",
        "[::1:80",
        "[localhost]:80",
        "ö..com:80",
        "\udc80:80",
        "a\nb:80",
    ],
    ids=ascii,
)
def test_invalid_listen_address_is_refused(address: str) -> None:
    """An address without a valid port or with an invalid host raises `ValueError` with an example."""
    with pytest.raises(ValueError, match=r"is not host:port or :port, such as :27293$"):
        listening.split_address(address)


@contextmanager
def listening_on(*addresses: str) -> Iterator[list[socket.socket]]:
    """Listen on addresses during the block, and yield the sockets."""
    with ExitStack() as stack:
        yield [stack.enter_context(listener) for listener in listening.listen(addresses)]


@pytest.fixture
def has_ipv6() -> None:
    """Skip the test if the machine has no IPv6."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")


@pytest.mark.usefixtures("has_ipv6")
@pytest.mark.parametrize("address", [":0", "[::]:0"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_wildcard_address_listens_on_all_interfaces(address: str, host: str) -> None:
    """`:port` and `[::]:port` listen on IPv4 and IPv6."""
    with (
        listening_on(address) as (listener,),
        socket.create_connection((host, listener.getsockname()[1]), 5) as client,
    ):
        assert client.getpeername()[0] == host
        assert listening.format_address(listener) == f"[::]:{listener.getsockname()[1]}"


def test_port_in_use_is_not_shared() -> None:
    """A port in use on all interfaces is an error, rather than used for IPv4 alone."""
    with listening_on(":0") as (taken,):
        port = taken.getsockname()[1]
        with pytest.raises(listening.ListenError, match=rf"^cannot listen on :{port} \(Address already in use\)$"):
            listening.listen([f":{port}"])


def test_address_with_host_listens_there_only() -> None:
    """With a host, the server listens only on that address, and several addresses have a socket each."""
    with listening_on("127.0.0.1:0", "[::1]:0", "0.0.0.0:0") as listeners:
        hosts = [listening.format_address(listener).rpartition(":")[0] for listener in listeners]
    assert hosts == ["127.0.0.1", "[::1]", "0.0.0.0"]  # noqa: S104


def test_failed_address_closes_the_others() -> None:
    """If the server cannot listen on one of several addresses, it listens on none."""
    with listening_on("127.0.0.1:0") as (taken,):
        free, address = f"127.0.0.1:{free_port()}", listening.format_address(taken)
        with pytest.raises(listening.ListenError, match=f"^cannot listen on {address} "):
            listening.listen([free, address])
        with listening_on(free) as (listener,):
            assert listening.format_address(listener) == free


@pytest.mark.parametrize("message", [b"\x16\x03 garbage", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"])
@pytest.mark.parametrize("has_tls", [False, True])
def test_ended_connections_are_freed_without_garbage_collector(
    tmp_path: Path, message: bytes, *, has_tls: bool
) -> None:
    """Connections and their buffers are freed as soon as they end, also after a failed TLS handshake."""
    pki = Pki.make(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def run() -> None:
        application = build_application(PendingExporter())
        with listening_on("127.0.0.1:0") as (listener,):
            acceptor = Acceptor([listener], application, lambda: tls if has_tls else None)
            client_tls = pki.client() if has_tls and message.startswith(b"GET") else None
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1], ssl=client_tls)
            writer.write(message)
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
            del reader, writer
            await asyncio.gather(*(connection.task for connection in acceptor.connections))
            await asyncio.sleep(0.01)  # until asyncio has called back
            assert not [thing for thing in gc.get_objects() if isinstance(thing, Connection | SSLProtocol)]
            await acceptor.close(1)

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_stop_sends_rest_of_responses() -> None:
    """A client that reads slowly gets its whole response when the server stops, also one that is still buffered."""

    async def handle(request: Request | None, send: Send) -> None:
        assert request is not None
        await send(HttpResponse(200, b"x" * int(request.path[1:]), {}))

    async def request_body(size: int) -> int:
        with listening_on("127.0.0.1:0") as (listener,):
            client = socket.socket()
            acceptor = Acceptor([listener], handle, lambda: None)
            await asyncio.sleep(0)  # until it has limited the send buffers
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(listener.getsockname())
            client.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
            for _ in range(3):  # until the buffers are full
                await asyncio.sleep(0.01)
            (task,) = [connection.task for connection in acceptor.connections]
            closing = asyncio.create_task(acceptor.close(5))
            await asyncio.sleep(0)
            reader, writer = await asyncio.open_connection(sock=client)
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(size)
            writer.close()
            await closing
            await task
            return len(body)

    for size in range(150_000, 300_000, 10_000):
        assert asyncio.run(request_body(size)) == size
