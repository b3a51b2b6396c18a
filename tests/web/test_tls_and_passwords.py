"""Test the exporter with `--web.config.file`: TLS and passwords, for regular and hostile clients."""

import base64
import contextlib
import http.client
import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import psutil
import pytest
import trustme
from certificates import Pki
from recorded_counts import RecordedCounts
from support import KEY, MAX_STOP_SECONDS, Program, run_program, running_braze, wait_until, workspace_yaml, write_file

from braze_exporter.web.acceptor import HARD_MAX_CONNECTIONS
from braze_exporter.web.access import POLL_SECONDS

PASSWORD = "correct horse"  # noqa: S105 - used only in this test
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode().replace("$2b$", "$2y$")
TLS = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
MUTUAL = TLS.replace("}", ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}")
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"
HEADERS = "http_server_config: {headers: {X-Frame-Options: deny, Strict-Transport-Security: max-age=60}}\n"


def basic(user: str, password: str) -> dict[str, str]:
    """Return the request headers for a user and a password."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


GOOD = basic("prometheus", PASSWORD)


@dataclass
class WebSetup:
    """Holds a directory with a config and the certificates for a web configuration file."""

    config: str
    directory: Path
    pki: Pki

    def start(self, text: str, tls: ssl.SSLContext | None = None) -> Program:
        """Run the exporter with a web configuration file."""
        return Program.start([f"--config.file={self.config}", f"--web.config.file={self.web(text)}"], tls=tls)

    def web(self, text: str) -> str:
        """Write the web configuration file and return its path."""
        return write_file(self.directory / "web.yaml", text)


@pytest.fixture
def web_setup(tmp_path: Path) -> Iterator[WebSetup]:
    """Run a simulator and write a config for it."""
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        yield WebSetup(config, tmp_path, Pki.make(tmp_path))


def messages(program: Program) -> list[str]:
    """Return the messages of the program's log."""
    return [
        line.split("msg=")[1].split('"')[1] if 'msg="' in line else line.split("msg=")[1].split()[0]
        for line in program.lines
    ]


def serial(program: Program) -> int:
    """Return the serial number of the certificate that the program presents."""
    assert program.tls is not None
    with (
        socket.create_connection(("127.0.0.1", program.port), 10) as plain,
        program.tls.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        peer = secure.getpeercert()
    assert peer is not None
    return int(str(peer["serialNumber"]), 16)


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/reload", "/nowhere", "/-/healthy/", "//-/healthy"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_missing_password_is_401(guarded: Program, path: str, method: str) -> None:
    """Any path, existing or not, is 401 without a password or with a wrong one."""
    for headers in ({}, basic("prometheus", "wrong"), basic("nobody", PASSWORD), {"Authorization": "Bearer x"}):
        response = guarded.get(path, headers, method=method)
        assert response.status == 401
        assert response.headers["www-authenticate"] == 'Basic realm="braze-exporter", charset="UTF-8"'
        assert response.body == (b"" if method == "HEAD" else b"Unauthorized\n")
    assert guarded.get(path, GOOD, method=method).status != 401


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Run the exporter with TLS, a password and response headers."""
    directory = tmp_path_factory.mktemp("guarded")
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        config = write_file(directory / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        web_setup = WebSetup(config, directory, Pki.make(directory))
        with web_setup.start(TLS + USERS + HEADERS, web_setup.pki.client()) as program:
            yield program


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready"])
def test_health_probes_need_no_password(guarded: Program, path: str) -> None:
    """Health probes need no password, only TLS."""
    assert guarded.get(path).status == guarded.get(path, basic("nobody", "")).status == 200


def test_scrape_with_tls_and_password_succeeds(guarded: Program) -> None:
    """A scrape with TLS and a password succeeds, and every response has the configured headers."""
    assert guarded.scrape(headers=GOOD).value("braze_up") == 1
    for path, headers in (("/metrics", GOOD), ("/metrics", {}), ("/-/ready", {}), ("/nowhere", GOOD)):
        response_headers = guarded.get(path, headers).headers
        assert (response_headers["x-frame-options"], response_headers["strict-transport-security"]) == (
            "deny",
            "max-age=60",
        )
        assert response_headers["x-content-type-options"] == "nosniff"


def test_http_2_client_is_served_http_1(guarded: Program) -> None:
    """HTTP/1.1 is negotiated with a client that also offers HTTP/2."""
    assert guarded.tls is not None
    guarded.tls.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", guarded.port), 10) as plain,
        guarded.tls.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "http/1.1"


def test_plain_http_on_tls_port_is_closed(guarded: Program) -> None:
    """A client that does not use TLS is disconnected at once, and nothing is logged."""
    for message in (b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xffgarbage", b"\0" * 100_000):
        with socket.create_connection(("127.0.0.1", guarded.port), 5) as client, contextlib.suppress(ConnectionError):
            client.sendall(message)
            assert b"HTTP" not in client.recv(1_000)
    assert guarded.get("/-/ready").status == 200
    assert messages(guarded) == ["Exporter started"]


@pytest.mark.alone
def test_wrong_passwords_delay_no_scrape(guarded: Program) -> None:
    """While a hundred clients guess, some get 503, and a client with a remembered password is served at once."""
    assert guarded.scrape(headers=GOOD).value("braze_up") == 1
    assert guarded.tls is not None
    with contextlib.ExitStack() as stack:
        guessing = []
        for number in range(100):
            client = http.client.HTTPSConnection("127.0.0.1", guarded.port, timeout=30, context=guarded.tls)
            stack.callback(client.close)
            client.request("GET", "/metrics", headers=basic("prometheus", f"guess {number}"))
            guessing.append(client)
        started = time.monotonic()
        assert guarded.scrape(headers=GOOD).value("braze_up") == 1
        assert time.monotonic() - started < 0.5
        responses = [client.getresponse() for client in guessing]
        bodies = {response.status: response.read().decode() for response in responses}
    assert bodies == {
        401: "Unauthorized\n",
        503: "Service Unavailable. Too many password checks are pending. Retry in a second.\n",
    }


def test_no_secret_is_logged(web_setup: WebSetup) -> None:
    """No key, password or hash is logged."""
    with web_setup.start(TLS + USERS, web_setup.pki.client()) as program:
        for password in (PASSWORD, "a guess"):
            program.get("/metrics", basic("prometheus", password))
    assert messages(program) == ["Exporter started", "Exporter stopped"]
    for secret in (KEY, PASSWORD, HASH[29:], "guess", "PRIVATE"):
        assert secret not in program.output


def test_certificates_and_users_change_without_restart(web_setup: WebSetup) -> None:
    """New certificates and users apply within a second; a certificate without its key and an empty file do not."""
    reloaded, failed = "Web configuration reloaded", "Web configuration reload failed, keeping the previous one"
    with web_setup.start(TLS + USERS, web_setup.pki.client()) as program:
        first = serial(program)
        second = web_setup.pki.renew()
        assert first != second
        wait_until(lambda: serial(program) == second, "the second certificate is served", POLL_SECONDS + 1)
        certificate, key = web_setup.pki.issue()
        (web_setup.directory / "cert.pem").write_bytes(certificate)
        wait_until(lambda: failed in program.output, "the certificate without its key is noticed")
        assert serial(program) == second
        (web_setup.directory / "key.pem").write_bytes(key)
        wait_until(lambda: serial(program) not in {first, second}, "the third certificate is served")

        web_setup.web(TLS + USERS.replace("prometheus", "agent"))
        wait_until(lambda: program.get("/", basic("agent", PASSWORD)).status == 200, "the new user is accepted")
        assert program.get("/", GOOD).status == 401
        web_setup.web("")
        wait_until(lambda: program.output.count(failed) == 2, "the empty file is noticed")
        assert program.get("/", basic("agent", PASSWORD)).status == 200
        assert program.get("/").status == 401
    assert messages(program) == ["Exporter started", reloaded, failed, reloaded, reloaded, failed, "Exporter stopped"]


def test_open_connection_survives_renewal(web_setup: WebSetup) -> None:
    """An open connection survives a renewal, and uses the new users once they are read."""
    with web_setup.start(TLS + USERS, web_setup.pki.client()) as program:
        assert program.tls is not None
        client = http.client.HTTPSConnection("127.0.0.1", program.port, timeout=10, context=program.tls)
        for name in ("client", "agent"):
            web_setup.web(TLS + USERS.replace("prometheus", name))
            wait_until(
                lambda name=name: program.get("/", basic(name, PASSWORD)).status == 200,  # type: ignore[misc] # bound now
                "the users are read",
            )
            web_setup.pki.renew()
            client.request("GET", "/", headers=basic(name, PASSWORD))
            response = client.getresponse()
            assert (response.status, response.read()[:9]) == (200, b"<!doctype")
        client.close()


@pytest.mark.alone
def test_blocked_read_of_web_configuration_delays_no_request(web_setup: WebSetup) -> None:
    """While the disk does not respond to a read of the changed file, requests succeed, and a signal ends the program.

    The new file is used once it can be read.
    """
    with web_setup.start(USERS) as program:
        file, pipe = web_setup.directory / "web.yaml", web_setup.directory / "pipe"
        os.mkfifo(pipe)
        writer = os.open(pipe, os.O_RDWR)  # a reader waits while this is open
        pipe.replace(file)
        time.sleep(3 * POLL_SECONDS)  # until the program reads it
        for _ in range(3):
            started_at = time.monotonic()
            assert program.get("/-/healthy", timeout=5).status == 200
            assert program.get("/", GOOD, timeout=5).status == 200
            assert program.get("/", timeout=5).status == 401
            assert time.monotonic() - started_at < 1
        os.write(writer, USERS.replace("prometheus", "agent").encode())
        os.close(writer)
        wait_until(lambda: program.get("/", basic("agent", PASSWORD)).status == 200, "the new user is accepted")
        writer = os.open(file, os.O_RDWR)
        os.utime(file)
        time.sleep(3 * POLL_SECONDS)
        assert program.stop() < MAX_STOP_SECONDS
        os.close(writer)
    assert program.process.returncode == 0


def test_client_certificates_are_required(web_setup: WebSetup) -> None:
    """With a client CA configured, only clients with a certificate from it are accepted."""
    with web_setup.start(MUTUAL, web_setup.pki.client(signed_by=web_setup.pki.ca)) as program:
        assert program.scrape().value("braze_up") == 1
        for refused in (web_setup.pki.client(), web_setup.pki.client(signed_by=trustme.CA())):
            program.tls = refused
            with pytest.raises(OSError, match=r"without response|reset|EOF|Broken pipe"):  # by TLS version and timing
                program.get("/-/ready")
    assert messages(program) == ["Exporter started", "Exporter stopped"]
    assert program.lines[0].endswith(' protections="TLS,client certificates"\n')


def test_tls_versions_are_enforced(web_setup: WebSetup) -> None:
    """A client without an allowed TLS version is refused."""
    with web_setup.start(TLS.replace("}", ", min_version: TLS13}"), web_setup.pki.client()) as program:
        assert program.get("/-/ready").status == 200
        assert program.tls is not None
        program.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match=r"EOF|reset"):
            program.get("/-/ready")


def test_passwords_work_without_tls(web_setup: WebSetup) -> None:
    """Passwords work without TLS, for use behind a TLS proxy."""
    with web_setup.start(USERS) as program:
        assert program.get("/metrics").status == 401
        assert program.scrape(headers=GOOD).value("braze_up") == 1


@pytest.mark.parametrize("text", ["", TLS])
def test_file_without_passwords_requires_none(web_setup: WebSetup, text: str) -> None:
    """An empty file requires nothing, and a file with only TLS requires no password."""
    with web_setup.start(text, web_setup.pki.client() if text else None) as program:
        assert program.scrape().value("braze_up") == 1


@pytest.mark.alone
def test_silent_tls_clients_delay_no_scrape(web_setup: WebSetup) -> None:
    """More silent TLS clients than allowed open files delay no scrape."""
    with web_setup.start(TLS, web_setup.pki.client()) as program, contextlib.ExitStack() as stack:
        assert program.scrape().value("braze_up") == 1
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE, (HARD_MAX_CONNECTIONS + 150, hard))
        seconds = []
        for number in range(3 * HARD_MAX_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", program.port)))
            if number % 2:
                client.sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a TLS `ClientHello`
            if number % 100 == 0 or number == 3 * HARD_MAX_CONNECTIONS - 1:
                started = time.monotonic()
                assert program.scrape().value("braze_up") == 1
                seconds.append(time.monotonic() - started)
        assert max(seconds) < 1
        process = psutil.Process(program.process.pid)
        assert process.num_fds() < HARD_MAX_CONNECTIONS + 50
        assert process.memory_info().rss < 200_000_000
        assert program.stop() < MAX_STOP_SECONDS
    assert messages(program) == ["Exporter started", "Exporter stopped"]


def test_silent_tls_clients_leave_no_connections(web_setup: WebSetup) -> None:
    """Connections that closed or were evicted in the TLS handshake no longer count, so a later client is kept."""
    with web_setup.start(TLS, web_setup.pki.client()) as program:
        with contextlib.ExitStack() as stack:
            for number in range(3 * HARD_MAX_CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", program.port)))
                if number % 50 == 0:  # so that the server has accepted each client before it is evicted
                    assert program.get("/-/ready").status == 200
        client = http.client.HTTPSConnection("127.0.0.1", program.port, timeout=10, context=program.tls)
        with contextlib.closing(client):
            ports = set()
            for _ in range(3):
                client.request("GET", "/-/ready")
                assert client.getresponse().read() == b"Ready.\n"
                ports.add(client.sock.getsockname()[1])
                assert program.get("/-/ready").status == 200
        assert len(ports) == 1


@pytest.mark.alone
def test_program_ends_with_tls_clients_connected(web_setup: WebSetup) -> None:
    """The exporter stops in time even if clients keep their connections open and ignore the TLS shutdown."""
    with web_setup.start(TLS, web_setup.pki.client()) as program, contextlib.ExitStack() as stack:
        assert program.tls is not None
        for _ in range(50):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", program.port)))
            client = stack.enter_context(program.tls.wrap_socket(plain, server_hostname="localhost"))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert program.stop() < MAX_STOP_SECONDS
    assert program.process.returncode == 0
    assert "Traceback" not in program.output


@pytest.mark.parametrize("command", ["check", "serve"])
def test_invalid_file_is_refused_at_start(web_setup: WebSetup, command: str) -> None:
    """An invalid file prints its problems, one per line, and exits with 1."""
    web = web_setup.web(
        "tls_server_config: {cert_file: missing.pem, key_file: key.pem}\nbasic_auth_users: {a: secret}\n"
    )
    done = run_program(command, f"--config.file={web_setup.config}", f"--web.config.file={web}", BRAZE_API_KEY=KEY)
    assert done.returncode == 1
    assert done.stderr == (
        f"{web}:2: basic_auth_users.a: must be a bcrypt hash, not the password itself or another hash; "
        "create one with htpasswd -nBC 10 \"\" | tr -d ':\\n'\n"
    )


@pytest.mark.parametrize("command", ["check", "serve"])
def test_passwords_without_bcrypt_are_refused_at_start(web_setup: WebSetup, tmp_path: Path, command: str) -> None:
    """Passwords without the package `bcrypt` are a one-line error that says how to install it; TLS works without it."""
    write_file(tmp_path / "bcrypt.py", "raise ImportError\n")
    web = web_setup.web(USERS)
    done = run_program(
        command,
        f"--config.file={web_setup.config}",
        f"--web.config.file={web}",
        BRAZE_API_KEY=KEY,
        PYTHONPATH=str(tmp_path),
    )
    remedy = "run pip install bcrypt"
    expected = f"{web}:1: basic_auth_users: requires the Python package bcrypt; {remedy}\n"
    assert (done.returncode, done.stderr) == (1, expected)
    arguments = [f"--config.file={web_setup.config}", f"--web.config.file={web_setup.web(TLS)}"]
    with Program.start(arguments, {"PYTHONPATH": str(tmp_path)}, tls=web_setup.pki.client()) as program:
        assert program.get("/-/ready").status == 200


@pytest.mark.parametrize(
    ("text", "protections"),
    [
        ("", "neither TLS nor passwords"),
        (TLS, "TLS"),
        (MUTUAL + USERS, "TLS and client certificates and passwords"),
    ],
)
def test_check_prints_protections(web_setup: WebSetup, text: str, protections: str) -> None:
    """`check` also validates the web configuration file and prints which protections it enables."""
    web = web_setup.web(text)
    done = run_program("check", f"--config.file={web_setup.config}", f"--web.config.file={web}", BRAZE_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{web} is valid: {protections}"
