"""Test that changes of the web configuration and its files are applied, except those that weaken protection."""

from pathlib import Path

import bcrypt
import pytest
from certificates import Pki
from support import Clock

from braze_exporter.web.access import AccessControl
from braze_exporter.web.config_file import WebConfig

TLS = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
TLS_13 = TLS.replace("}", ", min_version: TLS13}")
TLS_12 = TLS.replace("}", ", max_version: TLS12}")
HEADERS = "http_server_config: {headers: {X-Frame-Options: deny}}\n"
MUTUAL = TLS.replace("}", ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}")
USERS = f"basic_auth_users: {{alice: {bcrypt.hashpw(b'secret', b'$2b$04$abcdefghijklmnopqrstuu').decode()}}}\n"
FAILED = "Web configuration reload failed, keeping the previous one"
RELOADED = "Web configuration reloaded"


class WebConfigFiles:
    """Holds a web configuration file, its certificates, and the `AccessControl` that follows it."""

    def __init__(self, directory: Path, text: str) -> None:
        self.pki = Pki.make(directory)
        self.path = directory / "web.yaml"
        self.path.write_text(text, encoding="utf-8")
        self.clock = Clock()
        self.web = AccessControl(str(self.path), self.clock.monotonic)

    def read(self) -> WebConfig:
        """Read changed files, and return the configuration in use."""
        self.web.update()
        return self.web.config

    def write(self, text: str) -> None:
        """Replace the content of the file."""
        self.path.write_text(text, encoding="utf-8")


def logged_problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that were logged since the last call."""
    messages = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return messages


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="braze_exporter")


def test_unchanged_files_are_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unchanged files are not read again, and nothing is logged."""
    files = WebConfigFiles(tmp_path, TLS + USERS)
    files.read()
    files.clock.advance(1)
    first = files.read()
    files.clock.advance(1_000)
    assert files.read() is first
    assert logged_problems(caplog) == []


def test_renewed_certificate_is_used_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A renewed certificate is used for the next connection, and the change is logged once."""
    files = WebConfigFiles(tmp_path, TLS)
    before = files.read().tls
    files.pki.renew()
    after = files.read().tls
    assert after is not before
    assert logged_problems(caplog) == [RELOADED]
    files.clock.advance(1)
    files.read()
    assert logged_problems(caplog) == []


def test_partial_renewal_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While certificate and key do not match, the previous pair stays in use, and the problem is logged once."""
    files = WebConfigFiles(tmp_path, TLS)
    before = files.read().tls
    certificate, key = files.pki.issue()
    (tmp_path / "cert.pem").write_bytes(certificate)
    for _ in range(100):
        assert files.read().tls is before
        files.clock.advance(0.1)
    (record,) = caplog.records
    assert record.getMessage() == FAILED
    assert record.__dict__["fields"]["problem"] == (
        f"{files.path}:1: tls_server_config.key_file: does not match the certificate in cert_file; "
        "provide the key of that certificate"
    )
    logged_problems(caplog)
    (tmp_path / "key.pem").write_bytes(key)
    assert files.read().tls is not before
    assert logged_problems(caplog) == [RELOADED]


def test_missing_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing file is logged once, and read again when it is back, even if it looks unchanged."""
    files = WebConfigFiles(tmp_path, TLS)
    before = files.read().tls
    (tmp_path / "key.pem").rename(tmp_path / "away.pem")
    assert files.read().tls is before
    assert logged_problems(caplog) == [FAILED]
    (tmp_path / "away.pem").rename(tmp_path / "key.pem")
    assert files.read().tls is not before
    assert logged_problems(caplog) == [RELOADED]


def test_changed_files_are_read_twice(tmp_path: Path) -> None:
    """A changed file is read again a second later, since a write within one clock tick of a read looks unchanged."""
    files = WebConfigFiles(tmp_path, TLS)
    files.read()
    files.clock.advance(1)
    before = files.read()
    files.pki.renew()
    first = files.read()
    files.clock.advance(0.9)
    assert first is files.read() is not before
    files.clock.advance(0.1)
    second = files.read()
    files.clock.advance(1_000)
    assert second is files.read() is not first


@pytest.mark.parametrize(
    ("before", "after", "weaker"),
    [
        (USERS, "", "passwords"),
        (TLS + USERS, TLS, "passwords"),
        (TLS + USERS, "", "TLS, min_version, max_version, passwords"),
        (MUTUAL, TLS, "client certificates"),
        (MUTUAL, MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"), "client certificates"),
        (TLS_13, TLS, "min_version"),
        (TLS, TLS_12, "max_version"),
        (HEADERS + USERS, USERS, "x-frame-options"),
        ("", TLS, ""),
        (USERS, TLS + USERS, ""),
    ],
)
def test_weaker_protection_needs_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str, after: str, weaker: str
) -> None:
    """A change that weakens a protection or starts TLS needs a restart, as a half-written file may be empty."""
    files = WebConfigFiles(tmp_path, before)
    config = files.read()
    files.write(after)
    for _ in range(3):
        assert files.read() is config
        files.clock.advance(1)
    (record,) = caplog.records
    assert record.__dict__["fields"]["problem"] == (
        f"{files.path}: change would weaken or remove {weaker}; restart the exporter to apply it"
        if weaker
        else f"{files.path}: TLS cannot be enabled at run time; restart the exporter"
    )


@pytest.mark.parametrize(("before", "after"), [(TLS, TLS_13), (TLS_12, TLS), (TLS, MUTUAL), (USERS, USERS + HEADERS)])
def test_stronger_protection_applies(tmp_path: Path, before: str, after: str) -> None:
    """A change that strengthens a protection applies without a restart."""
    files = WebConfigFiles(tmp_path, before)
    config = files.read()
    files.write(after)
    assert files.read() is not config


def test_changed_users_apply(tmp_path: Path) -> None:
    """Passwords can be introduced and users changed without a restart, as long as at least one user remains."""
    files = WebConfigFiles(tmp_path, "")
    for names in (["alice"], ["alice", "bob"], ["bob"]):
        files.write("".join(["basic_auth_users:\n", *(f"  {name}: {USERS.split()[2][:-1]}\n" for name in names)]))
        assert list(files.read().users) == names
