"""Test how failures of a proxy are told from failures of the connection to Braze through it."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme
import urllib3.util.connection
from certificates import Pki
from raw_server import raw_server, route
from support import KEY

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.transport import Timeouts, Transport, open_session

FAILING_RESPONSES = {
    "407": (b"HTTP/1.1 407 No\r\n\r\n", "proxy responded 407 Proxy Authentication Required"),
    "403": (b"HTTP/1.1 403 Forbidden\r\n\r\n", "proxy responded 403 Forbidden"),
    "502": (b"HTTP/1.1 502 Bad\r\nContent-Length: 3\r\n\r\nabc", "proxy responded 502 Bad Gateway"),
    "an unknown status": (b"HTTP/1.1 599 Oh\r\n\r\n", "proxy responded 599"),
    "an upgrade": (b"HTTP/1.1 101 Switching\r\n\r\n", "proxy responded 101 Switching Protocols"),
    "nothing": (b"", "proxy connection failed: RemoteDisconnected"),
    "no HTTP": (b"220 mail ESMTP\r\n", "proxy connection failed: BadStatusLine"),
    "endless interim responses": (
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 4_000,
        "proxy connection failed: more than 64 KiB of interim responses",
    ),
}


def failure(url: str, proxies: Mapping[str, str], ca_bundle: str | None = None) -> BrazeError | None:
    """Send a request through a proxy and return the error, or None if there is a response."""
    with contextlib.closing(open_session(1, ca_bundle, proxies)) as session:
        timeouts = Timeouts(connect=2, read=2, total=5)
        transport = Transport(session, url, lambda: KEY, monotonic=time.monotonic, timeouts=timeouts)
        try:
            transport.get("/events/data_series", {})
        except BrazeError as error:
            return error
    return None


def proxied_failure(proxy: str) -> tuple[Reason, str]:
    """Return the reason and the detail of the error of a request to `rest.braze.test` through a proxy."""
    error = failure("https://rest.braze.test", {"https": proxy})
    assert error is not None
    assert error.is_transient
    assert "password" not in str(error)
    return error.reason, error.detail


@pytest.mark.parametrize("case", FAILING_RESPONSES)
def test_failing_response_to_connect_is_proxy_failure(case: str) -> None:
    """A proxy that refuses CONNECT, or whose response is malformed, is reported with its status or the problem."""
    response, detail = FAILING_RESPONSES[case]

    def respond(_target: str, connection: socket.socket) -> Iterator[bytes]:
        yield response
        connection.shutdown(socket.SHUT_RDWR)

    with raw_server(respond) as server:
        assert proxied_failure(f"http://user:password@127.0.0.1:{server.port}") == (Reason.PROXY, detail)
        assert server.targets == ["rest.braze.test:443"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unreachable_proxy_is_proxy_failure(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy whose port is closed or whose name is unknown is a failure of the proxy, not of Braze's host.

    So is the address of a proxy that the machine cannot reach.
    """
    address = f"{scheme}://user:password@127.0.0.1:9"
    assert proxied_failure(address) == (Reason.PROXY, "proxy connection failed: Connection refused")
    address = f"{scheme}://user:password@proxy.invalid:8080"
    assert proxied_failure(address) == (Reason.PROXY, "host name of the proxy could not be resolved")
    monkeypatch.setattr(urllib3.util.connection, "HAS_IPV6", False)
    address = f"{scheme}://user:password@[::1]:8080"
    assert proxied_failure(address) == (Reason.PROXY, "proxy connection failed: this machine has no IPv6")


def test_untrusted_proxy_is_proxy_failure() -> None:
    """A certificate of a proxy that the CA bundle does not cover is a failure of the proxy."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def respond(_target: str, _connection: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 407 No\r\n\r\n"

    with raw_server(respond, context) as server:
        reason, detail = proxied_failure(f"https://user:password@127.0.0.1:{server.port}")
    assert reason is Reason.PROXY
    assert detail.startswith("proxy connection failed: ")
    assert "unable to get local issuer certificate" in detail


@pytest.mark.parametrize("proxy", ["proxy", "TLS proxy"])
def test_closed_connection_behind_proxy_is_connection_failure(proxy: str, tmp_path: Path) -> None:
    """A connection that Braze closes is a failed connection, also through a working proxy."""
    pki = Pki.make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "cert.pem", pki.directory / "key.pem")

    def close(_target: str, connection: socket.socket) -> Iterator[bytes]:
        yield b""
        connection.shutdown(socket.SHUT_RDWR)

    with route(f"TLS, by a {proxy}", close, context) as route_:
        closed = failure(route_.url, route_.proxies, str(pki.directory / "ca.pem"))
    assert closed is not None
    assert (closed.reason, closed.detail) == (Reason.CONNECTION, "connection failed: RemoteDisconnected")


def test_untrusted_certificate_behind_proxy_is_tls_failure(tmp_path: Path) -> None:
    """Through a working proxy, a certificate of Braze that the CA bundle does not cover is a TLS failure."""
    pki = Pki.make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "cert.pem", pki.directory / "key.pem")

    def respond(_target: str, _connection: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    with route("TLS, by a proxy", respond, context) as route_:
        assert failure(route_.url, route_.proxies, str(pki.directory / "ca.pem")) is None
        error = failure(route_.url, route_.proxies)
    assert error is not None
    assert error.reason is Reason.TLS
