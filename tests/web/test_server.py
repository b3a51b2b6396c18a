"""Test how long a scrape may wait, how headers are parsed, and which addresses the server listens on."""

import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import free_port

from braze_exporter.web import listening, server


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 9.5),
        ("10", 9.5),
        ("3.25", 2.75),
        ("0.5", 0.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("60", 59.5),
        ("3600", 59.5),
        ("inf", 59.5),
        ("-inf", 0.0),
        ("nan", 9.5),
        ("soon", 9.5),
        ("", 9.5),
    ],
)
def test_scrape_waits_prometheus_timeout_minus_margin(header: str | None, seconds: float) -> None:
    """The wait is the header's value, clamped to 0 to 60 s, less half a second; an invalid header counts as absent."""
    assert server.scrape_wait_seconds(header) == seconds


def test_scrape_wait_excludes_render_time() -> None:
    """The wait is shortened by the render time, down to 0."""
    assert [server.scrape_wait_seconds("10", seconds) for seconds in (0, 3, 20)] == [9.5, 6.5, 0]


@given(st.text(max_size=20))
def test_any_timeout_header_gives_a_wait(header: str) -> None:
    """Any header gives a wait between 0 and 59.5 seconds."""
    assert 0 <= server.scrape_wait_seconds(header) <= 59.5
    assert math.isfinite(server.scrape_wait_seconds(header))


@given(st.text(max_size=60))
def test_any_accept_header_is_parsed(header: str) -> None:
    """Any `Accept` or `Accept-Encoding` header selects a format and an encoding."""
    assert server.accepts_openmetrics(header) in {True, False}
    assert server.accepts_gzip(header) in {True, False}


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
