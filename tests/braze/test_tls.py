"""Test which certificates of Braze, or of a proxy that inspects TLS, are accepted."""

import contextlib
import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from raw_server import raw_server
from support import KEY

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.transport import Transport, open_session


def issue(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, signing_key: ec.EllipticCurvePrivateKey, *, is_ca: bool
) -> bytes:
    """Return a certificate as PEM that is valid today and has no key identifiers."""
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]),
        key.public_key(),
        x509.random_serial_number(),
        now - dt.timedelta(days=1),
        now + dt.timedelta(days=1),
    )
    builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    if not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(signing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_chain_without_identifiers(directory: Path, context: ssl.SSLContext) -> None:
    """Write a CA to `ca.pem`, and let a server use a certificate of it; neither has key identifiers."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (directory / "ca.pem").write_bytes(issue("ca", "ca", ca_key, ca_key, is_ca=True))
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "key.pem").write_bytes(key.private_bytes(*formats))
    (directory / "cert.pem").write_bytes(issue("server", "ca", key, ca_key, is_ca=False))
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")


def write_intermediate(directory: Path, context: ssl.SSLContext) -> None:
    """Write an intermediate CA without its root to `ca.pem`, and let a server use a certificate of it."""
    intermediate = trustme.CA().create_child_ca()
    intermediate.cert_pem.write_to_path(str(directory / "ca.pem"))
    intermediate.issue_cert("localhost").configure_cert(context)


def write_other_ca(directory: Path, context: ssl.SSLContext) -> None:
    """Write a CA to `ca.pem`, and let a server use a certificate of another one."""
    trustme.CA().cert_pem.write_to_path(str(directory / "ca.pem"))
    trustme.CA().issue_cert("localhost").configure_cert(context)


def write_other_host(directory: Path, context: ssl.SSLContext) -> None:
    """Write a CA to `ca.pem`, and let a server use a certificate of it for another host."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    ca.issue_cert("rest.braze.test").configure_cert(context)


@pytest.mark.parametrize(
    ("write", "failure"),
    [
        (write_chain_without_identifiers, None),
        (write_intermediate, None),
        (write_other_ca, "unable to get local issuer certificate"),
        (write_other_host, "Hostname mismatch"),
    ],
)
def test_certificate_is_verified_as_by_curl(
    tmp_path: Path, write: Callable[[Path, ssl.SSLContext], None], failure: str | None
) -> None:
    """A CA needs no key identifiers and no root; another CA and another host are refused, on every Python version."""

    def respond(_target: str, _connection: socket.socket) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    write(tmp_path, context)
    with (
        raw_server(respond, context) as server,
        contextlib.closing(open_session(1, str(tmp_path / "ca.pem"))) as session,
    ):
        transport = Transport(session, f"https://localhost:{server.port}", lambda: KEY, monotonic=time.monotonic)
        if failure is None:
            assert transport.get("/events/data_series", {}).body == b"{}"
            return
        with pytest.raises(BrazeError, match=failure) as refused:
            transport.get("/events/data_series", {})
        assert refused.value.reason is Reason.TLS
        assert server.targets == []
