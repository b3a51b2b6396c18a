"""Test that the API key appears in no log line, metric, page, error or `repr`, in all kinds of failures."""

import base64
import contextlib
import gc
import os
import re
import select
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import response_faults
import transfer_faults
import trustme
import wsgi_server
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    KEY,
    NEW_YORK,
    Clock,
    ExporterRig,
    Program,
    free_port,
    run_program,
    running_braze,
    running_exporter,
    wait_until,
    workspace_item_yaml,
    write_file,
)

pytestmark = pytest.mark.no_cover

SERIES = "/events/data_series"
PROXY_PASSWORD = "the-password-of-the-proxy"  # noqa: S105 - the password of a proxy that exists only in this test
# The secrets as they are, and in encoded or partial forms.
FORMS = {KEY, quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode(), KEY[:18], KEY[-18:], PROXY_PASSWORD}
NAMES = ["purchase", "signup"]

# Responses with the key in them, and other failures.
FAULTS = {
    "401": response_faults.status(401),
    "400": response_faults.status(400, f"Invalid API key: {KEY}"),
    "429": response_faults.status(429, f"{KEY} has made too many calls"),
    "503": response_faults.status(503, KEY, [KEY]),
    "message": response_faults.message(f"no {KEY}"),
    "not JSON": response_faults.body(KEY.encode()),
    "a time": response_faults.time(KEY),
    "a value": response_faults.count(KEY),
    "redirect": response_faults.redirect(f"http://127.0.0.1:9/{KEY}"),
    "broken redirect": response_faults.redirect(f"http://[{KEY}"),
    "headers": response_faults.with_headers(
        {"Date": KEY, "X-RateLimit-Limit": KEY, "X-RateLimit-Reset": KEY, "X-Request-Id": KEY}
    ),
    "content type": response_faults.with_headers({"Content-Type": KEY, "Content-Encoding": KEY}),
    "compressed": transfer_faults.garbled_gzip(),
    "broken": transfer_faults.disconnect(),
    "truncated": transfer_faults.truncated(),
}


def found_secrets(text: str) -> set[str]:
    """Return which forms of the secrets a text contains."""
    return {form for form in FORMS if form.lower() in text.lower()}


def write_config(items: str, directory: Path, *, key: str = KEY) -> str:
    """Write a config whose key is in a file."""
    file = write_file(directory / "key", key)
    text = "workspaces:\n" + items.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {file}")
    return write_file(directory / "config.yaml", text)


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_key_is_in_no_output_of_a_full_run(form: str, tmp_path: Path) -> None:
    """The key is in no output through all faults, an unknown host, untrusted TLS, all pages, reloads and signals."""
    with (
        running_braze(RecordedCounts(events=NAMES)) as (braze, _),
        wsgi_server.serve(braze, tls=untrusted()) as secure,
        contextlib.ExitStack() as stack,
    ):
        # With one url the workspaces would share the key state.
        urls = {name: stack.enter_context(wsgi_server.serve(braze)).url for name in FAULTS}
        items = "".join(workspace_item_yaml(urls[name], f'{{event: "{name}"}}', name=f'"{name}"') for name in FAULTS)
        items += workspace_item_yaml("https://rest.iad-99.braze.invalid", "{event: purchase}", name="nowhere")
        items += workspace_item_yaml(secure.url, "{event: purchase}", name="untrusted")
        items += workspace_item_yaml(f"http://127.0.0.1:{free_port()}", "{event: purchase}", name="unreachable")
        for name, fault in FAULTS.items():
            braze.inject(fault, event=name)
        path = write_config(items, tmp_path)
        arguments = [f"--config.file={path}", "--log.level=debug", f"--log.format={form}", "--web.enable-lifecycle"]
        with Program.start(arguments) as program:
            page = program.scrape(60)
            outputs = [page.text]
            write_config(f"{items}{KEY}\n", tmp_path)
            response = program.get("/-/reload", method="POST")
            assert (response.status, "invalid YAML" in response.text) == (500, True)
            outputs.append(response.text)
            write_config(items, tmp_path, key=f"{KEY} {KEY}")
            response = program.get("/-/reload", method="POST")
            assert (response.status, "the key contains invalid characters" in response.text) == (500, True)
            outputs.append(response.text)
            write_config(items, tmp_path)
            os.kill(program.process.pid, signal.SIGHUP)
            wait_until(lambda: "Completed loading of configuration file" in program.output, "it is reloaded")
            for wanted in ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/key", "/config.yaml"):
                for method in ("GET", "POST", "HEAD"):
                    response = program.get(wanted, {"Accept": "application/openmetrics-text"}, method=method)
                    outputs.append(response.text + str(response.headers))
    assert page.value("braze_up", workspace="400") == 0
    failures = sum(page.values("braze_api_requests_failed_total", path=SERIES))
    assert failures == len(FAULTS) - 2 + 3  # odd headers are no error
    assert page.value("braze_api_requests_failed_total", path=SERIES, workspace="nowhere", reason="dns") == 1
    assert page.value("braze_api_requests_failed_total", path=SERIES, workspace="untrusted", reason="tls") == 1
    assert page.value("braze_api_requests_failed_total", path=SERIES, workspace="unreachable", reason="connection") == 1
    assert all(request.key == KEY for request in braze.requests)
    assert [found_secrets(text) for text in [*outputs, program.output]] == [set()] * (len(outputs) + 1)
    assert "Invalid API key: ***" in program.output


def untrusted() -> ssl.SSLContext:
    """Return a server context with a certificate of an unknown CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_key_is_in_no_repr() -> None:
    """No object of the exporter or of its libraries shows the key in `repr` or `str`, after successes and failures."""
    with running_exporter(
        "{event: purchase}\n{event: signup}", RecordedCounts(events=NAMES), clock=Clock()
    ) as exporter:
        for fault in FAULTS.values():
            exporter.braze.inject(fault, event="purchase")
            exporter.scrape()
            exporter.clock.advance(4_000)
        assert {request.key for request in exporter.braze.requests} == {KEY}
        printed = list(object_texts(exporter))
    assert len(printed) > 50
    assert not [text for text in printed if found_secrets(text)]


def object_texts(exporter: ExporterRig) -> Iterator[str]:
    """Yield the `repr` and `str` of each object that the exporter refers to, directly or indirectly."""
    seen: set[int] = set()
    waiting: list[object] = [exporter.exporter, exporter.session]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | str | bytes) or len(seen) > 100_000:
            continue
        seen.add(id(thing))
        module = type(thing).__module__
        if module.startswith(("braze_exporter.", "requests", "urllib3", "pydantic")) and ".demo" not in module:
            yield repr(thing) + str(thing)
        if not module.startswith(("tests", "_pytest", "pytest")):
            waiting += [near for near in gc.get_referents(thing) if type(near).__name__ not in {"module", "function"}]


# Keys of several forms, as users might paste them instead of the key's file or variable.
PASTED_KEYS = (
    "b7f3c1de-1234-1234-1234-123456789abc",
    "b7f3c1de12341234123412345678cafe",
    "B7F3C1DE12341234123412345678CAFE",
    "Bearer b7f3c1de-1234-1234-1234-123456789abc",
    "'b7f3c1de-1234-1234-1234-123456789abc'",
    "b7f3c1de-1234-1234-1234-123456789abc\\n",
    "QmFzZTY0IG9mIGEga2V5/that+has+slashes==",
    "keyofsmalllettersonly",
)


def key_fragments(text: str) -> list[str]:
    """Return all 8-character pieces of the pasted keys that a text contains."""
    keys = [re.sub(r"^Bearer |[\\\\n']+$|^'", "", pasted) for pasted in PASTED_KEYS]
    return [chunk for key in keys for chunk in (key[at : at + 8] for at in range(len(key) - 7)) if chunk in text]


def write_pasted_config(directory: Path, place: str) -> str:
    """Write a config with one workspace for each pasted key, given as the value of `place`."""
    workspaces = [
        workspace_item_yaml("https://rest.iad-01.braze.com", "{event: purchase}", name=f"w{number}").replace(
            "api_key_env: BRAZE_API_KEY", f'{place}: "{key}"'
        )
        for number, key in enumerate(PASTED_KEYS)
    ]
    return write_file(directory / "config.yaml", "workspaces:\n" + "".join(workspaces))


@pytest.mark.parametrize("place", ["api_key_file", "api_key_env", "api_key", "token"])
@pytest.mark.parametrize("command", ["check", "rules", "dashboard", "discover", "serve"])
def test_misplaced_key_is_refused_and_not_repeated(command: str, place: str, tmp_path: Path) -> None:
    """Each command names the setting and what belongs there, without the key."""
    done = run_program(command, f"--config.file={write_pasted_config(tmp_path, place)}")
    assert done.returncode == 1
    assert done.stderr.count(f"].{place}: ") >= len(PASTED_KEYS) - 3
    assert not key_fragments(done.stdout + done.stderr)


@pytest.mark.parametrize("place", ["api_key_file", "api_key_env"])
@pytest.mark.parametrize("command", ["check", "rules", "dashboard"])
def test_possible_path_is_a_warning_without_value(command: str, place: str, tmp_path: Path) -> None:
    """A key that could be a path or a name is a warning until it is read; the warning does not repeat its value."""
    item = workspace_item_yaml("https://rest.iad-01.braze.com", "{event: purchase}")
    path = write_file(
        tmp_path / "config.yaml",
        "workspaces:\n" + item.replace("api_key_env: BRAZE_API_KEY", f"{place}: keyofsmalllettersonly"),
    )
    done = run_program(command, f"--config.file={path}")
    assert done.returncode == 0
    assert re.fullmatch(rf"warning: .*:4: workspaces\[0\]\.{place}: .* must be .*not the key itself.*\n", done.stderr)
    assert not key_fragments(done.stdout + done.stderr)


@pytest.mark.parametrize("place", ["api_key_file", "api_key_env"])
def test_misplaced_key_is_in_no_log_and_no_response(place: str, tmp_path: Path) -> None:
    """A failed reload reports the misplaced key in the log, in its response and on the status page, without the key."""
    with running_braze(RecordedCounts(events=NAMES)) as (_, server):
        path = write_config(workspace_item_yaml(server.url, "{event: purchase}"), tmp_path)
        arguments = [f"--config.file={path}", "--log.level=debug", "--web.enable-lifecycle"]
        with Program.start(arguments) as program:
            write_pasted_config(tmp_path, place)
            response = program.get("/-/reload", method="POST")
            page = program.get("/")
    assert response.status == 500
    assert response.text.count("not the key itself") == len(PASTED_KEYS)
    assert "not the key itself" in program.output
    assert not key_fragments(response.text + page.text + program.output)


@contextmanager
def proxy(target: int) -> Iterator[tuple[int, list[bytes]]]:
    """Run a proxy that connects each CONNECT to the port `target`; yield its port and the request heads it received."""
    seen: list[bytes] = []

    def lead(client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n") and (chunk := client.recv(1)):
                head += chunk
            seen.append(head)
            with socket.create_connection(("127.0.0.1", target)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                pair = {client: server, server: client}
                while True:
                    for source in select.select(list(pair), [], [], 10)[0]:
                        data = source.recv(65_536)
                        if not data:
                            return
                        pair[source].sendall(data)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=lead, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], seen
        listener.shutdown(socket.SHUT_RDWR)


def test_environment_proxy_is_used_and_sees_no_key(tmp_path: Path) -> None:
    """HTTPS_PROXY is used with its user and password in UTF-8, for a host that only the proxy can resolve.

    The CA bundle that the environment names is used. A `.netrc` for that host does not replace the key, and NO_PROXY is
    obeyed.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("rest.braze.test").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "bundle.pem")
    write_file(tmp_path / ".netrc", "machine rest.braze.test login someone password else\n")
    braze = FaultInjectingBraze(key=KEY, traffic=RecordedCounts(events=NAMES), clock=Clock().wall, zone=NEW_YORK)
    path = write_config(workspace_item_yaml("https://rest.braze.test", "{event: purchase}\n{event: signup}"), tmp_path)
    with wsgi_server.serve(braze, tls=context) as server, proxy(server.port) as (port, seen):
        environment = {
            "HOME": str(tmp_path),
            "NETRC": str(tmp_path / ".netrc"),
            "HTTPS_PROXY": f"http://zoë ☃:{PROXY_PASSWORD}%23@127.0.0.1:{port}",
            "REQUESTS_CA_BUNDLE": str(tmp_path / "bundle.pem"),
        }
        with Program.start([f"--config.file={path}", "--log.level=debug"], environment) as program:
            page = program.scrape()
        assert page.values("braze_query_up") == [1, 1]
        assert {request.key for request in braze.requests} == {KEY}
        assert {head.split()[1] for head in seen} == {b"rest.braze.test:443"}
        expected = base64.b64encode(f"zoë ☃:{PROXY_PASSWORD}#".encode())
        assert all(expected in head and KEY.encode() not in head for head in seen)
        braze.reset()
        with Program.start([f"--config.file={path}"], environment | {"NO_PROXY": "10.0.0.0/8, *.test"}) as direct:
            page = direct.scrape()  # the exporter resolves the name itself
        assert page.value("braze_api_requests_failed_total", path=SERIES, reason="dns") == 1
        assert braze.requests == []
    assert not found_secrets(program.output + direct.output)


@pytest.mark.parametrize(
    "response", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"HTTP/1.1 503 no\r\n\r\n", b""]
)
def test_failing_proxy_is_counted_as_proxy(response: bytes, tmp_path: Path) -> None:
    """An error response of a proxy is not a response of Braze, and the password of the proxy is not logged."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                with listener.accept()[0] as client:
                    client.recv(65_536)
                    client.sendall(response)

    path = write_config(workspace_item_yaml("https://rest.braze.test", "{event: purchase}"), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        address = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{listener.getsockname()[1]}"
        with Program.start([f"--config.file={path}", "--log.level=debug"], {"HTTPS_PROXY": address}) as program:
            page = program.scrape()
        listener.shutdown(socket.SHUT_RDWR)
    assert page.value("braze_api_requests_failed_total", path=SERIES, reason="proxy") == 1
    assert page.value("braze_api_requests_total", path=SERIES, code="none") == 1
    assert page.value("braze_query_up") == 0
    assert not found_secrets(program.output + page.text)
