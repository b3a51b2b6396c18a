"""Test that hostile or broken clients delay no regular scrape, and that their cost in memory and files is bounded."""

import contextlib
import http.client
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import psutil
import pytest
import transfer_faults
from certificates import Pki
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import MAX_STOP_SECONDS, MetricsPage, Program, running_braze, workspace_yaml, write_file
from wsgi_server import Server

from braze_exporter.web.acceptor import HARD_MAX_CONNECTIONS
from braze_exporter.web.server import MAX_WAITING_SCRAPES

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 60\r\n\r\n"
MEGABYTE = 1_000_000


# The tests measure time and use the whole machine.
pytestmark = pytest.mark.alone


class ClientGroup:
    """Clients of one program, and threads that send for them until the end of the test."""

    def __init__(self, program: Program, stack: contextlib.ExitStack) -> None:
        self.program = program
        self._stack = stack
        self._has_ended = threading.Event()
        self._connecting: list[threading.Thread] = []

    def join(self, count: int, message: bytes = b"", *, reads: int | None = None) -> list[socket.socket]:
        """Connect `count` clients, and send as much of `message` as the server reads.

        `reads` is the size of a client's receive buffer in bytes.
        """
        clients = []
        for _ in range(count):
            client = self._stack.enter_context(socket.socket())
            if reads is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, reads)
            client.settimeout(5)
            client.connect(("127.0.0.1", self.program.port))
            with contextlib.suppress(OSError):
                client.sendall(message)
            clients.append(client)
        return clients

    def connect(self, count: int, message: bytes) -> None:
        """Connect `count` clients in a thread."""
        thread = threading.Thread(target=self.join, args=(count, message), daemon=True)
        thread.start()
        self._connecting.append(thread)

    @property
    def is_connecting(self) -> bool:
        """Whether clients are still being connected."""
        return any(thread.is_alive() for thread in self._connecting)

    def repeat(self, action: Callable[[], object], pause: float = 0.0) -> None:
        """Call `action` repeatedly in a thread, and ignore connection errors."""

        def run() -> None:
            while not self._has_ended.wait(pause):
                with contextlib.suppress(OSError):
                    action()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._stack.callback(thread.join, 5)
        self._stack.callback(self._has_ended.set)

    def resend(self, message: bytes) -> None:
        """Connect and send `message` until the connection breaks, repeatedly in a thread."""

        def once() -> None:
            with socket.create_connection(("127.0.0.1", self.program.port), 1) as client:
                while not self._has_ended.is_set():
                    client.sendall(message)

        self.repeat(once)

    def flood(self, count: int) -> None:
        """Have `count` clients request a page again as soon as they have received one."""

        def once() -> None:
            with contextlib.ExitStack() as stack:
                address = ("127.0.0.1", self.program.port)
                clients = [stack.enter_context(socket.create_connection(address, 2)) for _ in range(count)]
                while not self._has_ended.is_set():
                    for client in clients:
                        client.sendall(SCRAPE)
                    for client in clients:
                        assert read_response(client).status == 200

        self.repeat(once)

    def trickle(self, clients: list[socket.socket], message: bytes) -> None:
        """Send `message` from each of `clients`, a byte at a time."""
        letters = cycle(message)

        def send_byte() -> None:
            letter = bytes([next(letters)])
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(letter)

        self.repeat(send_byte, 0.05)


def read_response(client: socket.socket) -> http.client.HTTPResponse:
    """Return the response of a client after reading it completely."""
    response = http.client.HTTPResponse(client)
    with contextlib.closing(response):
        try:
            response.begin()
            response.read()
        except http.client.HTTPException as error:
            raise ConnectionError from error
    return response


@contextlib.contextmanager
def assert_unaffected(program: Program, *, growth: int = 25 * MEGABYTE, ends: bool = True) -> Iterator[ClientGroup]:
    """Assert that the program stays within its limits while the clients connect and for a moment afterwards.

    `growth` limits the additional memory in bytes. If `ends`, the program is stopped while the clients are connected.
    """
    process = psutil.Process(program.process.pid)
    for _ in range(5):
        assert program.scrape().values("braze_up") == [1]
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        clients = ClientGroup(program, stack)
        yield clients
        files, memory, seconds = list[int](), list[int](), list[float]()
        end = time.monotonic() + 0.7
        while clients.is_connecting or time.monotonic() < end or len(seconds) < 3:
            started = time.monotonic()
            page = program.get("/metrics", {"X-Prometheus-Scrape-Timeout-Seconds": "0.9"})
            seconds.append(time.monotonic() - started)
            assert MetricsPage(page.text).values("braze_up") == [1]
            files.append(process.num_fds())
            memory.append(process.memory_info().rss)
        assert statistics.median(seconds) < 1
        assert max(seconds) < 3  # the machine may be busy with other work
        assert max(files) < HARD_MAX_CONNECTIONS + 50
        assert max(memory) < before + growth
        if ends:
            assert program.stop() < MAX_STOP_SECONDS
    if ends:
        assert_clean_exit(program)


def assert_clean_exit(program: Program) -> None:
    """Assert that a program exited with 0 and logged nothing about its clients."""
    assert program.process.returncode == 0
    assert [line.split('msg="')[1].split('"')[0] for line in program.lines if "msg=" in line] == [
        "Exporter started",
        "Exporter stopped",
    ]
    assert "Traceback" not in program.output


@pytest.fixture
def demo() -> Iterator[Program]:
    """Run the demo."""
    with Program.start(["demo", "--log.level=info"]) as program:
        yield program


@pytest.fixture(scope="module")
def shared_demo() -> Iterator[Program]:
    """Run the demo for all tests of this module, and check it at the end."""
    with Program.start(["demo", "--log.level=info"]) as program:
        for _ in range(20):
            program.scrape()
        yield program
        assert program.stop() < MAX_STOP_SECONDS
        assert_clean_exit(program)


CLIENT_DATA = {
    "no data": b"",
    "half a request": b"GET /metrics HTTP/1.1\r\nHost: ",
    "giant header": b"GET /metrics HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * MEGABYTE,
    "many headers": b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 100_000,
    "thousand headers": SCRAPE[:-2] + b"a:b\r\n" * 1_000 + b"\r\n",
    "request and garbage": SCRAPE + b"\xff\x00 garbage \r\n\r\n" * 10_000,
    "garbage": bytes(range(256)) * 1_000,
    "TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500,
    "many requests": b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000,
    "many scrapes": SCRAPE * 1_000,
    "scrape with Connection: close": SCRAPE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "half a body": b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * MEGABYTE,
    "tiny chunks": b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000,
    "100-continue": b"POST /metrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    "upgrade": b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("message", CLIENT_DATA)
def test_silent_or_odd_clients_delay_no_scrape(shared_demo: Program, message: str) -> None:
    """Clients that send odd data, then stay silent and read nothing, delay no scrape."""
    with assert_unaffected(shared_demo, ends=False) as clients:
        for _ in range(4):
            clients.connect(125, CLIENT_DATA[message])


@pytest.mark.parametrize("message", ["half a request", "many headers", "garbage", "many scrapes", "tiny chunks"])
def test_reconnecting_clients_delay_no_scrape(shared_demo: Program, message: str) -> None:
    """Clients that send as much as they can from four threads, and reconnect when disconnected, delay no scrape."""
    with assert_unaffected(shared_demo, ends=False) as clients:
        for _ in range(4):
            clients.resend(CLIENT_DATA[message])


@pytest.mark.parametrize("message", ["many headers", "tiny chunks"])
def test_slow_clients_delay_no_scrape(shared_demo: Program, message: str) -> None:
    """More clients than the connection limit, each sending one byte at a time, delay no scrape."""
    with assert_unaffected(shared_demo, ends=False) as clients:
        clients.trickle(clients.join(HARD_MAX_CONNECTIONS + 50), CLIENT_DATA[message])


def test_churning_clients_delay_no_scrape(shared_demo: Program) -> None:
    """Clients that connect and disconnect as fast as possible delay no scrape."""
    with assert_unaffected(shared_demo, ends=False) as clients:
        for _ in range(4):
            clients.repeat(lambda: socket.create_connection(("127.0.0.1", shared_demo.port), 1).close())


def test_clients_beyond_open_file_limit_delay_no_scrape(demo: Program) -> None:
    """With a low limit of open files, idle connections are evicted sooner, so that scrapes are not delayed."""
    process = psutil.Process(demo.process.pid)
    for _ in range(3):
        demo.scrape()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (process.num_fds() + 40, hard))
    with assert_unaffected(demo) as clients:
        for _ in range(4):
            clients.connect(50, b"")


def test_many_scrapes_succeed(demo: Program) -> None:
    """More scrapers than the connection limit, each scraping without a pause, delay no scrape."""
    with assert_unaffected(demo) as clients:
        for _ in range(4):
            clients.flood(2 * HARD_MAX_CONNECTIONS // 4)


@pytest.fixture
def braze() -> Iterator[tuple[FaultInjectingBraze, Server]]:
    """Run a simulator with many events, so that the page is large."""
    with running_braze(RecordedCounts(events=[f"event {number}" for number in range(2_000)])) as running:
        yield running


@pytest.fixture
def config(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> str:
    """Write a config with all of the events."""
    events = "\n".join(f"{{event: event {number}}}" for number in range(2_000))
    return write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, events))


def test_clients_not_reading_large_page_use_little_memory(config: str) -> None:
    """Few rendered pages stay in memory, however many clients do not read theirs."""
    with (
        Program.start([f"--config.file={config}"]) as program,
        assert_unaffected(program, growth=100 * MEGABYTE) as clients,  # about 35 pages
    ):
        for _ in range(HARD_MAX_CONNECTIONS + 50):
            (client,) = clients.join(1, SCRAPE, reads=4_096)
            assert client.recv(15) == b"HTTP/1.1 200 OK"  # wait, so that the next client gets a page of its own


def test_tls_clients_not_reading_large_page_use_little_memory(config: str, tmp_path: Path) -> None:
    """A TLS client uses no more page memory than a plain one."""
    pki = Pki.make(tmp_path)
    web = write_file(tmp_path / "web.yaml", "tls_server_config: {cert_file: cert.pem, key_file: key.pem}")
    arguments = [f"--config.file={config}", f"--web.config.file={web}"]
    with (
        Program.start(arguments, tls=pki.client()) as program,
        assert_unaffected(program, growth=150 * MEGABYTE) as clients,  # asyncio uses 256 KiB for each TLS client
        contextlib.ExitStack() as stack,
    ):
        for client in clients.join(HARD_MAX_CONNECTIONS + 50, reads=4_096):
            with contextlib.suppress(OSError):
                secure = pki.client().wrap_socket(client, server_hostname="localhost")
                stack.enter_context(secure)
                secure.sendall(SCRAPE)


def test_slow_reader_gets_whole_page(config: str) -> None:
    """A slow client receives a large page completely, while other clients are served without delay."""
    with Program.start([f"--config.file={config}"]) as program, contextlib.ExitStack() as stack:
        program.scrape()
        (client,) = ClientGroup(program, stack).join(1, SCRAPE.replace(b"60", b"1"), reads=4_096)
        response = http.client.HTTPResponse(client)
        response.begin()
        page = b""
        while chunk := response.read(100_000):
            page += chunk
            assert program.get("/metrics", {"X-Prometheus-Scrape-Timeout-Seconds": "1"}).status == 200
        assert len(page) == int(response.headers["content-length"]) > 1_000_000
        assert len(MetricsPage(page.decode()).values("braze_query_up")) == 2_000


def test_waiting_scrapes_leave_room_for_others(braze: tuple[FaultInjectingBraze, Server], config: str) -> None:
    """At most `MAX_WAITING_SCRAPES` scrapes wait for long; others get the current values at once."""
    braze[0].inject(transfer_faults.hold())
    with Program.start([f"--config.file={config}"]) as program, contextlib.ExitStack() as stack:
        clients = ClientGroup(program, stack)
        waiting = clients.join(MAX_WAITING_SCRAPES, SCRAPE)
        braze[0].wait_for(1)  # the first call probes alone
        scrapers = clients.join(2 * HARD_MAX_CONNECTIONS, SCRAPE, reads=4_096)
        for client in scrapers[-10:]:
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        started = time.monotonic()
        assert program.scrape(timeout=0.9).value("braze_exporter_scrapes_incomplete_total") is not None
        assert time.monotonic() - started < 1
        for client in waiting:
            client.setblocking(False)  # noqa: FBT003 - the method takes no other argument
            with pytest.raises(BlockingIOError):
                client.recv(1)
        braze[0].clear_faults()
        assert program.stop() < MAX_STOP_SECONDS


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n", 400),
        (b"GET /m\xe9trics HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: " + b"x" * 20_000 + b"\r\n\r\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 400),
        (b"GET http://x/-/ready HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET HTTPS://x:80?y HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /-/ready HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\na: b\r\n c\r\n\r\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\na: b\nc: d\r\n\r\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\na : b\r\n\r\n", 400),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"BREW /-/ready HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST /-/ready HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", 413),
        (b"GET /-/ready HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", 413),
        (b"GET /-/ready HTTP/1.1\r\nHost: ;:!\r\nContent-Length: 0\r\n\r\n", 200),
        (b"GET /-/ready HTTP/1.0\r\n\r\n", 200),
        (b"GET /%2d/ready HTTP/1.1\r\nHost: x\r\n\r\n" * 3, 200),
        (b"GET /-/ready?x=%ff HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
    ],
)
def test_invalid_requests_have_statuses(shared_demo: Program, message: bytes, status: int) -> None:
    """Each request gets one status at once; an invalid one ends the connection and logs no traceback."""
    with socket.create_connection(("127.0.0.1", shared_demo.port), 5) as client:
        client.sendall(message)
        assert read_response(client).status == status
        if status in {400, 413}:
            assert client.recv(1) == b""
    assert "Traceback" not in shared_demo.output
