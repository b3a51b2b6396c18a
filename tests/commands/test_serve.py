"""Test the program as a user runs it: its pages, signals, exit codes and log."""

import gzip
import http.client
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import response_faults
import transfer_faults
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    HOUR,
    KEY,
    MAX_STOP_SECONDS,
    MetricsPage,
    Program,
    free_port,
    run_program,
    running_braze,
    series_requests,
    wait_until,
    workspace_item_yaml,
    workspace_yaml,
    write_file,
)
from wsgi_server import Server

from braze_exporter.simulator import demo_config
from braze_exporter.state.errors import StateFileError
from braze_exporter.state.state_file import open_state_file

# The Accept headers of Prometheus 2.42 and 3.5.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def braze() -> Iterator[tuple[FaultInjectingBraze, Server]]:
    """Run a simulated Braze with two events whose counts are all zero."""
    with running_braze(RecordedCounts(events=["purchase", "signup"])) as running:
        yield running


@pytest.fixture
def config(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> str:
    """Write a config with two queries."""
    text = workspace_yaml(braze[1].url, "{event: purchase}\n{event: signup}")
    return write_file(tmp_path / "config.yaml", text)


@pytest.fixture
def program(config: str) -> Iterator[Program]:
    """Run the exporter."""
    with Program.start([f"--config.file={config}"]) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "content_type", "text"),
    [
        ("/-/healthy", "text/plain; charset=utf-8", "Healthy.\n"),
        ("/-/ready", "text/plain; charset=utf-8", "Ready.\n"),
        ("/", "text/html; charset=utf-8", "<title>Braze exporter</title>"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "braze_exporter_build_info"),
    ],
)
def test_pages_have_content_types(program: Program, path: str, content_type: str, text: str) -> None:
    """Each page responds to GET with its content type and to HEAD without a body; other methods get 405."""
    got, head, post = (program.get(path, method=method) for method in ("GET", "HEAD", "POST"))
    assert (got.status, got.headers["content-type"]) == (200, content_type)
    assert text in got.text
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", content_type)
    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/foo", "/metrics/", "/metric", "/-/", "/-/quit", "//metrics", "/%2e%2e/metrics"])
def test_unknown_path_is_404(program: Program, path: str) -> None:
    """An unknown path gets 404 with a hint at `/metrics`."""
    response = program.get(path)
    assert response.status == 404
    assert "/metrics" in response.text


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (None, False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=much", True),
    ],
)
def test_metrics_format_is_negotiated(program: Program, accept: str | None, openmetrics: bool) -> None:  # noqa: FBT001
    """OpenMetrics is sent if the client accepts it with at least the same quality as the text format."""
    response = program.get("/metrics", {"Accept": accept} if accept else None)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0") == openmetrics
    assert response.text.endswith("# EOF\n") == openmetrics


def test_repeated_accept_header_is_read_completely(program: Program) -> None:
    """The formats of two `Accept` lines count as those of one."""
    formats = ("text/plain;q=0.5", "application/openmetrics-text")
    for first, second in (formats, formats[::-1]):
        assert program.get("/metrics", {"Accept": first, "accept": second}).text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("encoding", "compressed"), [("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("identity", False)]
)
def test_metrics_page_is_gzipped_on_request(program: Program, encoding: str, compressed: bool) -> None:  # noqa: FBT001
    """The page is compressed with gzip only if the client accepts it."""
    response = program.get("/metrics", {"Accept-Encoding": encoding})
    assert (response.headers.get("content-encoding") == "gzip") == compressed
    assert b"braze_exporter_build_info" in (gzip.decompress(response.body) if compressed else response.body)
    assert len(response.body) == int(response.headers["content-length"])


@pytest.mark.alone
@pytest.mark.parametrize(("header", "longest"), [("0.7", 0.2), ("0.3", 0.0), ("-5", 0.0), ("0", 0.0)])
def test_scrape_ends_within_prometheus_timeout(
    braze: tuple[FaultInjectingBraze, Server], program: Program, header: str, longest: float
) -> None:
    """If Braze does not respond, the scrape ends half a second before its timeout with 200 and counts as incomplete."""
    braze[0].inject(transfer_faults.hold())
    started = time.monotonic()
    response = program.get("/metrics", {"X-Prometheus-Scrape-Timeout-Seconds": header})
    elapsed = time.monotonic() - started
    assert response.status == 200
    assert longest <= elapsed < longest + 1
    page = MetricsPage(response.text)
    assert page.values("braze_query_up") == []
    assert page.value("braze_exporter_scrapes_incomplete_total") == 1
    braze[0].clear_faults()
    assert program.scrape().values("braze_query_up") == [1, 1]
    assert len(series_requests(braze[0])) == 2


@pytest.mark.alone
def test_scrape_ends_timeout_offset_before_timeout(braze: tuple[FaultInjectingBraze, Server], config: str) -> None:
    """`--timeout-offset` is how long before its timeout a scrape ends."""
    braze[0].inject(transfer_faults.hold())
    with Program.start([f"--config.file={config}", "--timeout-offset=2.5"]) as program:
        for timeout, longest in (("3.5", 1.0), ("2", 0.0)):
            started = time.monotonic()
            assert program.get("/metrics", {"X-Prometheus-Scrape-Timeout-Seconds": timeout}).status == 200
            assert longest <= time.monotonic() - started < longest + 0.8


@pytest.mark.alone
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_program_with_requests_in_flight(
    braze: tuple[FaultInjectingBraze, Server], program: Program, stop: signal.Signals
) -> None:
    """A signal ends the program with 0 within two seconds, and a waiting scrape still gets its page."""
    braze[0].inject(transfer_faults.hold())
    with socket.create_connection(("127.0.0.1", program.port)) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 60\r\n\r\n")
        braze[0].wait_for(1)
        seconds = program.stop(stop)
        page = b""
        while chunk := scraper.recv(65_536):
            page += chunk
    assert seconds < 2
    assert program.process.returncode == 0
    assert page.startswith(b"HTTP/1.1 200 OK")
    assert b"braze_exporter_build_info" in page
    assert "Traceback" not in program.output
    assert [line.split('msg="')[1].split('"')[0] for line in program.lines] == ["Exporter started", "Exporter stopped"]


def test_disconnected_scraper_is_not_waited_for(braze: tuple[FaultInjectingBraze, Server], program: Program) -> None:
    """Scrapes that disconnect while Braze does not respond are not counted as incomplete and use no resources."""
    braze[0].inject(transfer_faults.hold())
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", program.port)) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 2\r\n\r\n")
    braze[0].wait_for(1)
    # This scrape is incomplete. It ends after the time that the others would have waited.
    assert program.scrape(2).value("braze_exporter_scrapes_incomplete_total") == 1
    braze[0].clear_faults()
    assert program.scrape().values("braze_query_up") == [1, 1]
    assert len(series_requests(braze[0])) == 2


def test_connection_is_reused_for_scrapes(program: Program) -> None:
    """Connections are kept alive between scrapes."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port)
    ports = set()
    for _ in range(3):
        connection.request("GET", "/metrics")
        assert connection.getresponse().read()
        ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(ports) == 1


def test_reused_connection_is_not_slower(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """No part of a page is delayed by delayed TCP acknowledgments, which take 40 ms."""
    events = "\n".join(f"{{event: event {number}}}" for number in range(40))  # so that the page has several parts
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, events))
    seconds = []
    with Program.start([f"--config.file={config}"]) as program:
        connection = http.client.HTTPConnection("127.0.0.1", program.port)
        for _ in range(30):
            started = time.monotonic()
            connection.request("GET", "/metrics")
            assert connection.getresponse().read()
            seconds.append(time.monotonic() - started)
        connection.close()
    assert statistics.median(seconds) < 0.03


def test_outage_logs_few_lines(tmp_path: Path) -> None:
    """If many queries fail for one reason, only a few are logged, as JSON if configured, and never with the key."""
    names = [f"event {number}" for number in range(6)]
    with running_braze(RecordedCounts(events=names)) as (braze, server):
        braze.inject(response_faults.status(401))
        events = "\n".join(f"{{event: {name}}}" for name in names)
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, events))
        with Program.start([f"--config.file={config}", "--log.format=json"]) as program:
            program.scrape()
            wait_until(lambda: "API key rejected" in program.output, "the list endpoint has rejected the key")
    lines = [json.loads(line) for line in program.lines]
    failing = [*["Query failed"] * 3, "More queries failed for the same reason"]
    unread = "List could not be read"
    assert [line["msg"] for line in lines] == [
        "Exporter started",
        *failing,
        unread,
        "API key rejected",
        "Exporter stopped",
    ]
    assert [line["level"] for line in lines] == ["INFO", *["WARN"] * 6, "INFO"]
    assert lines[1]["reason"] == lines[6]["reason"] == "unauthorized"
    assert lines[1]["workspace"] == lines[6]["workspace"] == "production"
    assert "REST endpoint" in lines[6]["detail"]
    assert KEY not in program.output


def test_api_key_file_is_read(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """The key from `api_key_file` is sent to Braze without its trailing newline."""
    file = write_file(tmp_path / "key", KEY + "\n")
    text = workspace_yaml(braze[1].url, "{event: purchase}").replace(
        "api_key_env: BRAZE_API_KEY", f"api_key_file: {file}"
    )
    with Program.start([f"--config.file={write_file(tmp_path / 'config.yaml', text)}"]) as program:
        assert program.scrape().value("braze_up") == 1
    assert [request.key for request in series_requests(braze[0])] == [KEY]


def test_workspaces_are_independent(tmp_path: Path) -> None:
    """Each workspace uses its own Braze and key."""
    traffic = RecordedCounts(events=["purchase"])
    with running_braze(traffic) as (first, item), running_braze(traffic) as (second, two):
        second.key = "another"
        text = "workspaces:\n" + workspace_item_yaml(item.url, "{event: purchase}", name="one")
        text += workspace_item_yaml(two.url, "{event: purchase}", name="two").replace("BRAZE_API_KEY", "OTHER_KEY")
        config = write_file(tmp_path / "config.yaml", text)
        with Program.start([f"--config.file={config}"], {"OTHER_KEY": "another"}) as program:
            page = program.scrape()
    assert page.value("braze_up", workspace="one") == page.value("braze_up", workspace="two") == 1
    assert [request.key for request in series_requests(first)] == [KEY]
    assert [request.key for request in series_requests(second)] == ["another"]


def test_netrc_and_proxies_do_not_affect_loopback(
    braze: tuple[FaultInjectingBraze, Server], config: str, tmp_path: Path
) -> None:
    """A `.netrc` entry does not replace the key, and loopback addresses use no proxy."""
    write_file(tmp_path / ".netrc", "default login someone password else\n")
    environment = {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc"), "ALL_PROXY": "http://127.0.0.1:9"}
    with Program.start([f"--config.file={config}"], environment) as program:
        assert program.scrape().value("braze_up") == 1
    assert {request.key for request in braze[0].requests} == {KEY}


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[tuple[RecordedCounts, str, str]]:
    """Run a simulated Braze and write a config with a state file; yield the counts, the config and the state file."""
    recorded = RecordedCounts(events=["purchase"])
    with running_braze(recorded) as (_, server):
        state = str(tmp_path / "state.sqlite")
        extra_yaml = f"state_file: {state}\nbudget: {{share: 0.5}}\n"
        text = workspace_yaml(server.url, "{event: purchase, refresh_interval: 1s}", extra_yaml=extra_yaml)
        yield recorded, write_file(tmp_path / "config.yaml", text), state


def test_counter_survives_kill_9(counted: tuple[RecordedCounts, str, str]) -> None:
    """After SIGKILL the counter continues from its last value and includes what Braze reported meanwhile."""
    recorded, config, _ = counted
    this_hour = int(time.time()) // HOUR * HOUR
    for number in range(3):
        with Program.start([f"--config.file={config}"]) as program:
            recorded.set("purchase", this_hour, 10 + 100 * number)
            expected = 100 * number
            wait_until(
                lambda program=program, expected=expected: (  # type: ignore[misc] # bound now
                    program.scrape().value("braze_custom_events_total") == expected
                ),
                "counts of the downtime are in the counter",
            )
            recorded.set("purchase", this_hour, 50 + 100 * number)
            wait_until(
                lambda program=program, expected=expected: (  # type: ignore[misc]
                    program.scrape().value("braze_custom_events_total") == expected + 40
                ),
                "new counts are in the counter",
            )
            program.stop(signal.SIGKILL)


def test_second_exporter_with_same_state_file_is_refused(counted: tuple[RecordedCounts, str, str]) -> None:
    """A second exporter with the same state file waits, then fails; a signal ends the wait immediately."""
    _, config, state = counted
    with Program.start([f"--config.file={config}"]):
        command = [
            sys.executable,
            "-m",
            "braze_exporter",
            f"--config.file={config}",
            "--web.listen-address=127.0.0.1:0",
        ]
        environment = {**os.environ, "BRAZE_API_KEY": KEY}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as second:  # noqa: S603
            process = psutil.Process(second.pid)
            wait_until(
                lambda: f"{state}.lock" in [file.path for file in process.open_files()],
                "the second exporter tries to open the file",
            )
            with pytest.raises(subprocess.TimeoutExpired):
                second.wait(1)
            second.terminate()
            (line,) = second.communicate(timeout=2)[1].splitlines()
            assert line.endswith(f'"State file is locked by another exporter, waiting" file={state} timeout=30s')
        assert second.returncode == 0
        locked = f"{state} is locked by another exporter; use one state file per exporter, or wait until it has stopped"
        with pytest.raises(StateFileError, match=re.escape(locked)):
            open_state_file(state, wait=0.2)


def test_check_prints_calls_per_hour(tmp_path: Path) -> None:
    """`check` prints queries, calls and a warning for a missing key, exits with 0, and uses no network."""
    events = "{event: purchase, apps: [all, ios], baseline: {weeks: 4}}\n{event: a, unit: day}"
    text = workspace_yaml("https://rest.iad-01.braze.com", events)
    config = write_file(tmp_path / "config.yaml", text)
    done = run_program("check", f"--config.file={config}")
    assert done.returncode == 0
    assert done.stdout == (
        f"{config} is valid: 3 queries\n"
        "production: 3 queries need 28 calls per hour in the default pool, plus 14 calls once for "
        "baselines; budget.share allows 25,000 of 250,000\n"
        "production: the API key needs the permission events.data_series; optional, for names and for subjects that "
        "Braze does not list: events.list\n"
    )
    assert done.stderr == (
        f"warning: {config}:4: workspaces[0].api_key_env: environment variable BRAZE_API_KEY is not set\n"
    )


def test_check_prints_raised_settings(tmp_path: Path) -> None:
    """`check` prints each duration in the file that is raised to a minimum, with the kind and the minimum."""
    extra_yaml = """\
    purchases: [{refresh_interval: 5m}, {product: Mug}, {product: Cup, refresh_interval: 20m}]
    uninstalls:
      - settle: 1h
        max_age: 30m
    monthly_active_users: [{settle: 2d}]
refresh_interval: {hour: 5m}
max_age: 1h
"""
    events = "{event: a, refresh_interval: 45m}\n{event: b}"
    text = workspace_yaml("https://rest.iad-01.braze.com", events, extra_yaml=extra_yaml)
    config = write_file(tmp_path / "config.yaml", text)
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.removeprefix(f"{config}:") for line in done.stdout.splitlines()[4:]] == [
        "11: workspaces[0].purchases[0].refresh_interval: is raised to 15m for purchases, the minimum",
        "13: workspaces[0].uninstalls[0].settle: is raised to 1d for uninstalls, the minimum",
        "14: workspaces[0].uninstalls[0].max_age: is raised to 2h for uninstalls, twice the refresh_interval",
        "16: refresh_interval.hour: is raised to 15m for purchases, the minimum",
        "17: max_age: is raised to 1h30m for custom_events, twice the refresh_interval",
        "17: max_age: is raised to 2h for monthly_active_users, twice the refresh_interval",
    ]


def test_check_prints_permissions_of_each_workspace(tmp_path: Path) -> None:
    """`check` prints the permissions of the queries and of the lists of selectors, and those of other lists apart."""
    text = "workspaces:\n" + workspace_item_yaml("https://rest.iad-01.braze.com", "{event: a}\n{event: b}", name="one")
    text += "    sessions: [{}]\n    campaigns: [{tag: lifecycle}]\n"
    text += workspace_item_yaml("https://rest.iad-02.braze.com", "{event: a}\n{regex: 'b.*'}", name="two")
    done = run_program("check", f"--config.file={write_file(tmp_path / 'config.yaml', text)}", BRAZE_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        (
            "one: the API key needs the permissions events.data_series, sessions.data_series, campaigns.data_series, "
            "campaigns.list; optional, for names and for subjects that Braze does not list: events.list"
        ),
        "two: the API key needs the permissions events.data_series, events.list",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
@pytest.mark.parametrize("command", ["check", "rules"])
def test_output_is_utf_8_in_any_environment(tmp_path: Path, command: str, encoding: str) -> None:
    """Names that the encoding of the environment lacks are printed as UTF-8."""
    text = workspace_yaml("https://rest.iad-01.braze.com", "{event: günstig 🎉, alerts: {silent: 2h}}")
    config = write_file(tmp_path / "wörk 🎉.yaml", text)
    done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY, PYTHONIOENCODING=f"{encoding}:strict")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert ("wörk 🎉.yaml is valid" if command == "check" else 'event="günstig 🎉"') in done.stdout


def test_unencodable_path_is_escaped(tmp_path: Path) -> None:
    """A path that is not UTF-8 is printed with an escape."""
    text = workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}")
    config = write_file(tmp_path / os.fsdecode(b"\xff.yaml"), text)
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}/\\udcff.yaml is valid")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_plan_over_share_is_refused(tmp_path: Path, command: str) -> None:
    """`check` and `serve` refuse a config with too many calls an hour and print the figures and the setting."""
    events = "\n".join(f"{{event: event {number}}}" for number in range(10))
    text = workspace_yaml(
        "https://rest.iad-01.braze.com", events, extra_yaml="refresh_interval: {hour: 1s}\nbudget: {share: 0.1}\n"
    )
    config = write_file(tmp_path / "config.yaml", text)
    done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"{config}:2: workspaces[0]: 10 queries need 36,000 calls per hour, but budget.share allows 25,000 of "
        "250,000 in the default pool; set refresh_interval ≥ 2s for hourly custom_events, or configure fewer queries\n"
    )


def test_plan_of_workspaces_with_equal_keys_over_share_is_refused(tmp_path: Path) -> None:
    """`serve` refuses workspaces that need too many calls together, if keys from different sources are equal."""
    first, second = (
        workspace_item_yaml("https://rest.iad-01.braze.com", "{event: purchase, refresh_interval: 20s}", name=name)
        for name in ("one", "two")
    )
    second = second.replace("BRAZE_API_KEY", "OTHER_API_KEY")
    config = write_file(tmp_path / "config.yaml", f"workspaces:\n{first}{second}budget: {{share: 0.001}}\n")
    done = run_program("serve", f"--config.file={config}", BRAZE_API_KEY=KEY, OTHER_API_KEY=KEY)
    problem = 'with "two" (same url and API key), 2 queries need 360 calls per hour, but budget.share allows 250 of '
    assert done.returncode == 1
    assert done.stderr.startswith(f"{config}:2: workspaces[0]: {problem}")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_invalid_config_lists_every_problem(tmp_path: Path, command: str) -> None:
    """All problems are printed at once, one a line with file, line and path, and the exit code is 1."""
    config = write_file(
        tmp_path / "config.yaml", "workspaces:\n  - title: x\n    url: http://example.com\nrefresh_interval: 5m\n"
    )
    done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"{config}:") for line in lines)
    assert len(lines) == 6
    assert "Traceback" not in done.stderr


def test_missing_config_file_is_an_error(tmp_path: Path) -> None:
    """A missing config file gives a one-line error that names the flag."""
    missing = tmp_path / "missing.yaml"
    done = run_program(f"--config.file={missing}")
    expected = (
        f"{missing}: cannot be read (No such file or directory); set --config.file to the path of the config file\n"
    )
    assert (done.returncode, done.stderr) == (1, expected)


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_every_listen_address_is_served(config: str, command: str) -> None:
    """`--web.listen-address` is repeatable: each address is served, and the log names all of them."""
    host, port = "127.0.0.2", free_port()
    arguments = [command, f"--web.listen-address={host}:{port}", "--log.level=info"]
    with Program.start([*arguments, *([f"--config.file={config}"] if command == "serve" else [])]) as program:
        with socket.create_connection((host, port), 5) as client:
            client.sendall(b"GET /-/ready HTTP/1.0\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert program.get("/-/ready").text == "Ready.\n"
        assert program.stop() < MAX_STOP_SECONDS
    assert program.process.returncode == 0
    assert f" addresses={host}:{port},127.0.0.1:{program.port} protections=none\n" in program.output


def test_start_line_describes_exporter(counted: tuple[RecordedCounts, str, str]) -> None:
    """The line at the start has the version, the files, the numbers of workspaces and queries, and the addresses."""
    _, config, state = counted
    with Program.start([f"--config.file={config}"]) as program:
        program.stop()
    assert program.lines[0].partition("msg=")[2] == (
        f'"Exporter started" version=0.1.0 config={config} workspaces=1 queries=1 state_file={state} '
        f"addresses=127.0.0.1:{program.port} protections=none\n"
    )


def test_one_port_in_use_serves_nothing(config: str) -> None:
    """If one of several addresses is in use, the program fails with one line and serves none of them."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free, address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = [f"--web.listen-address={each}" for each in (free, address)]
        done = run_program(f"--config.file={config}", *addresses, BRAZE_API_KEY=KEY)
    expected = (
        f"cannot listen on {address} (Address already in use); choose another address with --web.listen-address\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_foreign_listen_address_is_an_error(config: str, host: str) -> None:
    """An address that the machine does not have gives a one-line error that names the flag."""
    done = run_program(f"--config.file={config}", f"--web.listen-address={host}:1234", BRAZE_API_KEY=KEY)
    assert done.returncode == 1
    expected = (
        rf"cannot listen on {re.escape(host)}:1234 \([^()]+\); choose another address with --web.listen-address\n"
    )
    assert re.fullmatch(expected, done.stderr)


def test_listen_address_may_be_name_with_ipv6_only(config: str, tmp_path: Path) -> None:
    """A name that has only an IPv6 address is an address to listen on."""
    resolver = """\
import socket

def resolve(host, *arguments, real=socket.getaddrinfo, **options):
    return real("::1" if host == "ipv6.test" else host, *arguments, **options)

socket.getaddrinfo = resolve
"""
    write_file(tmp_path / "sitecustomize.py", resolver)
    address = "--web.listen-address=ipv6.test:0"
    with Program.start([f"--config.file={config}", address], {"PYTHONPATH": str(tmp_path)}) as program:
        pass
    assert " addresses=[::1]:" in program.lines[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "contains no PEM certificate"),
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
    ],
)
def test_invalid_ca_bundle_is_an_error(config: str, tmp_path: Path, name: str, reason: str) -> None:
    """An invalid CA bundle from the environment gives a one-line error."""
    (tmp_path / "empty").touch()
    bundle = str(tmp_path / name)
    done = run_program(
        f"--config.file={config}", "--web.listen-address=127.0.0.1:0", BRAZE_API_KEY=KEY, SSL_CERT_FILE=bundle
    )
    assert done.returncode == 1
    remedy = "set a file of CA certificates, or unset the variable"
    assert done.stderr == f"SSL_CERT_FILE: {bundle} cannot be used ({reason}); {remedy}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--web.listen-address=nowhere"],
        ["--web.listen-address=:70000"],
        ["--unknown"],
        ["fly"],
        ["--web.listen-address=a\nb"],
        ["--web.listen-address=a..b:1"],
        ["check", "--log.level=info"],
        ["--log.level=loud"],
        *([f"--timeout-offset={seconds}"] for seconds in ("-0.5", "nan", "inf", "1s", "")),
        ["demo", "--timeout-offset=1"],
        ["--config", "x"],
        ["--config.file="],
        ["rules", "--config.file="],
        ["backfill", "--start=2026-01-01", "--output="],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    """Wrong usage exits with 2 and prints one line that names the help."""
    done = run_program(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"braze-exporter( serve| demo| check| rules| backfill)?: error: .+; see braze-exporter\1? --help\n", done.stderr
    )


def test_wrong_usage_names_flag_and_problem() -> None:
    """The line about wrong usage names the flag and its problem."""
    negative = run_program("--timeout-offset=-1").stderr
    assert ": error: argument --timeout-offset: -1 is not a number of seconds, such as 0.5; see " in negative


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("-c x", 'serve: error: unknown argument -c (did you mean "--config.file"?)'),
        ("-config.file=x", 'serve: error: unknown argument -config.file (did you mean "--config.file"?)'),
        ("--config=x", 'serve: error: unknown argument --config (did you mean "--config.file"?)'),
        ("check --web.config=x", 'check: error: unknown argument --web.config (did you mean "--web.config.file"?)'),
        ("--log-level=debug", 'serve: error: unknown argument --log-level (did you mean "--log.level"?)'),
        (f"--api-key={KEY}", "serve: error: unknown argument --api-key"),
        (f"check {KEY}", "check: error: unknown argument ***"),
        ("check config.yaml", "check: error: unknown argument config.yaml"),
    ],
)
def test_unknown_argument_is_refused_with_nearest_flag(arguments: str, problem: str) -> None:
    """The error about an unknown argument suggests the flag that was probably meant, and does not show values."""
    done = run_program(*arguments.split())
    command = problem.partition(":")[0]
    assert done.stderr == f"braze-exporter {problem}; see braze-exporter {command} --help\n"


def test_help_says_where_flags_are() -> None:
    """The help of the program says how to get the flags of a command."""
    assert run_program("--help").stdout.endswith("For the flags of a command, run braze-exporter COMMAND --help.\n")


@pytest.mark.parametrize("arguments", [["--version"], ["serve", "--version"], ["--config.file=x", "--version"]])
def test_version_is_printed(arguments: list[str]) -> None:
    """`--version` prints one line, also among the flags of `serve`."""
    done = run_program(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "braze-exporter 0.1.0\n", "")


@pytest.mark.parametrize(
    ("variable", "record", "revision"),
    [
        ("0a1b2c3", {"vcs_info": {"vcs": "git", "commit_id": "9f8e7d6"}}, "0a1b2c3"),
        ("", {"vcs_info": {"vcs": "git", "commit_id": "9f8e7d6"}}, "9f8e7d6"),
        ("", {"dir_info": {"editable": True}}, "unknown"),
        ("", None, "unknown"),
        ("\udcff", None, "unknown"),
    ],
)
def test_build_info_has_revision(variable: str, record: object, revision: str, config: str, tmp_path: Path) -> None:
    """The revision is that of the environment, or the one that pip recorded for an installation from Git."""
    info = tmp_path / "site" / "braze_exporter-0.1.0.dist-info"
    info.mkdir(parents=True)
    write_file(info / "METADATA", "Metadata-Version: 2.1\nName: braze-exporter\nVersion: 0.1.0\n")
    if record is not None:
        write_file(info / "direct_url.json", json.dumps({"url": "https://git.example/braze-exporter"} | record))  # type: ignore[operator]
    environment = {"BRAZE_EXPORTER_REVISION": variable, "PYTHONPATH": str(info.parent)}
    with Program.start([f"--config.file={config}"], environment) as program:
        page = program.get("/metrics").text
    expected = f'braze_exporter_build_info{{python_version="{platform.python_version()}",revision="{revision}",'
    assert f'{expected}version="0.1.0"}} 1.0\n' in page


@pytest.mark.alone
def test_demo_runs_without_account() -> None:
    """`demo` prints its addresses and a scrape config, serves plausible metrics, and ends cleanly on SIGINT."""
    with Program.start(["demo"]) as program:
        page = program.scrape()
        port = program.port
        assert program.stop(signal.SIGINT) < MAX_STOP_SECONDS
    assert program.process.returncode == 0
    output = program.output
    assert f"http://127.0.0.1:{port}/metrics" in output
    assert f'targets: ["127.0.0.1:{port}"]' in output
    assert "Simulated Braze: http://127.0.0.1:" in output
    assert f"REST API key:    {demo_config.KEY}\n" in output
    assert "Traceback" not in output
    assert output.endswith("in the last ten minutes\n\n")
    up, queries = page.values("braze_queries", state="up"), page.values("braze_queries")
    assert page.value("braze_up", workspace="demo") == 1
    assert sum(up) == sum(queries) > 30
    assert all(up)
    events = {dict(labels)["event"] for name, labels in page.samples if name == "braze_custom_events_hourly_latest"}
    assert len(events) >= 5
    for name in ("hourly_settled", "daily_settled", "by_app_hourly_settled", "by_app_daily_settled"):
        assert any(value > 0 for value in page.values(f"braze_custom_events_{name}"))


def test_demo_prints_port_that_system_chose() -> None:
    """With port 0, `demo` prints the ports on which it listens, by IPv4 or IPv6."""
    with Program.start(["demo", "--web.listen-address=127.0.0.2:0", "--braze.listen-address=[::1]:0"]) as program:
        wait_until(lambda: "Status page:" in program.output, "the address is printed")
        printed = re.search(r"Status page: +http://127\.0\.0\.2:(\d+)\n", program.output)
        assert printed is not None
        socket.create_connection(("127.0.0.2", int(printed[1])), 5).close()
        printed = re.search(r"Simulated Braze: +http://\[::1\]:(\d+)\n", program.output)
        assert printed is not None
        socket.create_connection(("::1", int(printed[1])), 5).close()


def test_demo_braze_accepts_printed_key() -> None:
    """The simulated Braze of `demo` accepts the printed key at the address of its flag."""
    port = free_port()
    with Program.start(["demo", f"--braze.listen-address=127.0.0.1:{port}"]) as program:
        simulated_braze = Program(program.process, port)
        path = "/events/data_series?event=purchase_completed&length=3&unit=hour"
        response = simulated_braze.get(path, {"Authorization": f"Bearer {demo_config.KEY}"})
        refused = simulated_braze.get(path)
    data = json.loads(response.text)["data"]
    assert len(data) == 3
    assert refused.status == 401
    assert int(response.headers["x-ratelimit-reset"]) % HOUR == 0


@pytest.mark.parametrize("flag", ["--web.listen-address", "--braze.listen-address"])
def test_demo_port_in_use_is_an_error(flag: str) -> None:
    """A port of `demo` in use gives a one-line error that names its flag."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_program("demo", "--web.listen-address=127.0.0.1:0", f"{flag}={address}")
    expected = f"cannot listen on {address} (Address already in use); choose another address with {flag}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.parametrize("flag", ["--braze.listen-address=0.0.0.0:0", "--braze.listen-address=example.com:80"])
def test_simulated_braze_listens_on_loopback_only(flag: str) -> None:
    """`demo` refuses to serve the simulated Braze on an address that is not loopback."""
    done = run_program("demo", flag, "--web.listen-address=127.0.0.1:0")
    assert done.returncode == 1
    assert done.stderr == f"{flag} is not a loopback address; set one, such as 127.0.0.1:0\n"
