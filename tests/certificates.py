"""Certificates for tests: files for a server, for its clients and for invalid setups."""

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@dataclass(frozen=True)
class Pki:
    """A CA, and a directory with `ca.pem` and with `cert.pem` and `key.pem` of a server on this machine."""

    ca: trustme.CA
    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Create a CA and write the files to `directory`."""
        pki = cls(trustme.CA(), directory)
        pki.ca.cert_pem.write_to_path(str(directory / "ca.pem"))
        pki.renew()
        return pki

    def renew(self) -> int:
        """Write a new server certificate and key, and return the serial number of the certificate."""
        certificate, key = self.issue()
        for name, content in (("cert.pem", certificate), ("key.pem", key)):
            # A file that is written twice within one tick of the kernel's clock may look unchanged.
            new = self.directory / f"{name}.new"
            new.write_bytes(content)
            new.replace(self.directory / name)
        return x509.load_pem_x509_certificate(certificate).serial_number

    def issue(self) -> tuple[bytes, bytes]:
        """Return a new certificate for this machine, and its key, both as PEM."""
        issued = self.ca.issue_cert("localhost", "127.0.0.1")
        return b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()

    def client(self, signed_by: trustme.CA | None = None) -> ssl.SSLContext:
        """Return the TLS context of a client that trusts the CA, with a client certificate if `signed_by` is given."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if signed_by is not None:
            signed_by.issue_cert("client").configure_cert(context)
        return context


def write_mistakes(directory: Path) -> None:
    """Write keys that a server cannot use, and a certificate whose key is too weak."""
    key = rsa.generate_private_key(65_537, 2_048)
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - deliberately weak
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, weak.public_key(), 1, now, now + dt.timedelta(days=1))
        .sign(weak, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    passphrase = serialization.BestAvailableEncryption(b"hunter2")
    plain = serialization.NoEncryption()
    for file, private_key, form, encryption in (
        ("other-type.pem", key, serialization.PrivateFormat.PKCS8, plain),
        ("encrypted.pem", key, serialization.PrivateFormat.PKCS8, passphrase),
        ("encrypted-traditional.pem", key, serialization.PrivateFormat.TraditionalOpenSSL, passphrase),
        ("weak-key.pem", weak, serialization.PrivateFormat.PKCS8, plain),
    ):
        (directory / file).write_bytes(private_key.private_bytes(serialization.Encoding.PEM, form, encryption))
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(directory / "other.pem"))
    (directory / "weak.pem").write_bytes(certificate)
