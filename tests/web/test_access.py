"""The web configuration follows its files: what counts after a change, and what a change cannot do."""

from pathlib import Path

import bcrypt
import pytest
from certificates import Pki
from support import Clock

from braze_exporter.web.access import AccessControl

TLS = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
MUTUAL = TLS.replace("}", ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}")
USERS = f"basic_auth_users: {{alice: {bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}}}\n"
NOT_TAKEN = "web configuration not taken, the one before goes on"
AGAIN = "web configuration read again"


class Files:
    """A web configuration file with its certificates, and what follows it."""

    def __init__(self, directory: Path, text: str) -> None:
        self.pki = Pki.make(directory)
        self.path = directory / "web.yaml"
        self.path.write_text(text, encoding="utf-8")
        self.clock = Clock()
        self.web = AccessControl(str(self.path), self.clock.monotonic)

    def write(self, text: str) -> None:
        """Write the file anew."""
        self.path.write_text(text, encoding="utf-8")


def logged_problems(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged since the last time."""
    messages = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return messages


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="braze_exporter")


def test_unchanged_files_are_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As long as no file changes, what counts is the same, and there is nothing to say."""
    files = Files(tmp_path, TLS + USERS)
    files.web.config()
    files.clock.advance(1)
    first = files.web.config()
    files.clock.advance(1_000)
    assert files.web.config() is first
    assert logged_problems(caplog) == []


def test_renewed_certificate_is_used_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """New files are taken with the next connection, by a line in the log."""
    files = Files(tmp_path, TLS)
    before = files.web.context()
    files.pki.renew()
    after = files.web.context()
    assert after is not before
    assert logged_problems(caplog) == [AGAIN]
    files.clock.advance(1)
    files.web.context()
    assert logged_problems(caplog) == []


def test_partial_renewal_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While certificate and key do not belong together the pair before goes on, which is told once."""
    files = Files(tmp_path, TLS)
    before = files.web.context()
    certificate, key = files.pki.issue()
    (tmp_path / "cert.pem").write_bytes(certificate)
    for _ in range(100):
        assert files.web.context() is before
        files.clock.advance(0.1)
    (record,) = caplog.records
    assert record.getMessage() == NOT_TAKEN
    assert record.__dict__["fields"]["problem"] == (
        f"{files.path}:1: tls_server_config.key_file: is not the key of the certificate in cert_file: "
        "give the two that were made together"
    )
    logged_problems(caplog)
    (tmp_path / "key.pem").write_bytes(key)
    assert files.web.context() is not before
    assert logged_problems(caplog) == [AGAIN]


def test_missing_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is removed and comes back is told of once, and then read again, though it looks like before."""
    files = Files(tmp_path, TLS)
    before = files.web.context()
    (tmp_path / "key.pem").rename(tmp_path / "away.pem")
    assert files.web.context() is before
    assert logged_problems(caplog) == [NOT_TAKEN]
    (tmp_path / "away.pem").rename(tmp_path / "key.pem")
    assert files.web.context() is not before
    assert logged_problems(caplog) == [AGAIN]


def test_changed_files_are_read_twice(tmp_path: Path) -> None:
    """A file that was written while it was read, within a tick of its clock, looks unchanged a second later."""
    files = Files(tmp_path, TLS)
    files.web.config()
    files.clock.advance(1)
    before = files.web.config()
    files.pki.renew()
    first = files.web.config()
    files.clock.advance(0.9)
    assert first is files.web.config() is not before
    files.clock.advance(0.1)
    second = files.web.config()
    files.clock.advance(1_000)
    assert second is files.web.config() is not first


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (USERS, "", "would end passwords: if that is meant, restart the exporter"),
        (TLS + USERS, TLS, "would end passwords: if that is meant, restart the exporter"),
        (TLS + USERS, "", "would end TLS, passwords: if that is meant, restart the exporter"),
        (MUTUAL, TLS, "would end client certificates: if that is meant, restart the exporter"),
        ("", TLS, "TLS cannot begin while it runs: restart the exporter"),
        (USERS, TLS + USERS, "TLS cannot begin while it runs: restart the exporter"),
    ],
    ids=["passwords", "passwords of TLS", "TLS and passwords", "client certificates", "no TLS", "no TLS but passwords"],
)
def test_weaker_protection_needs_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str, after: str, problem: str
) -> None:
    """A file that is being written begins empty: it opens no door. And a port does not change its protocol."""
    files = Files(tmp_path, before)
    config = files.web.config()
    files.write(after)
    for _ in range(3):
        assert files.web.config() is config
        files.clock.advance(1)
    (record,) = caplog.records
    assert record.__dict__["fields"]["problem"] == f"{files.path}: {problem}"


def test_changed_users_apply(tmp_path: Path) -> None:
    """Passwords may begin while it runs, and users may change, as long as there are some."""
    files = Files(tmp_path, "")
    for names in (["alice"], ["alice", "bob"], ["bob"]):
        files.write("".join(["basic_auth_users:\n", *(f"  {name}: {USERS.split()[2][:-1]}\n" for name in names)]))
        assert list(files.web.config().users) == names
