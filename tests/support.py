"""Shared test helpers: a controllable clock, parsed metrics pages, and the exporter in this process or as a program."""

import contextlib
import functools
import http.client
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self
from zoneinfo import ZoneInfo

import requests
from prometheus_client.parser import text_string_to_metric_families
from simulated_braze import FaultInjectingBraze
from wsgi_server import Server, serve

from braze_exporter.braze import clock, transport
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.pools import Endpoint, Pool
from braze_exporter.braze.series import Series, SeriesHead
from braze_exporter.config.loading import Config, load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.metrics import self_families
from braze_exporter.metrics.counters import Counters
from braze_exporter.metrics.families import Family
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.budgets import Budgets, Demand, WorkspaceKey
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.scheduler.rate_limiter import PoolBudget
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.traffic import Counts
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.writer import StateChanges

KEY = "b7f3c1de-the-secret-key-of-a-test-90ab"
HOUR = 3_600
# A Monday in winter, 07:20 in New York.
NOW = datetime(2026, 11, 23, 12, 20, tzinfo=UTC).timestamp()
# The start of the hour that contains `NOW`.
CURRENT_HOUR = int(NOW) // HOUR * HOUR
NEW_YORK = ZoneInfo("America/New_York")
IOS = "3bbc4555-8fa0-4c9b-a5c0-4505edf3e064"
VIP = "6d68ea15-26c4-4109-835a-65b81773a5e2"
# The time within which the program must end after a signal: the grace period of responses, and the end of the process.
MAX_STOP_SECONDS = 2.0

# All families of the exporter's own metrics.
SELF_FAMILIES = [family for family in vars(self_families).values() if isinstance(family, Family)]

Labels = frozenset[tuple[str, str]]
# A label and a line in the text format of Prometheus.
_LABEL = re.compile(r'[a-zA-Z_]\w*="[^"\\]*(?:\\[\\"n][^"\\]*)*"')
_SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*)(?:\{{({_LABEL.pattern}(?:,{_LABEL.pattern})*)\}})? [-+.\w]+")


class Clock(clock.Clock):
    """A clock that advances only when a test calls `advance()`."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.elapsed = 0.0

    def wall(self) -> float:
        """Return the current time in seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """Return a time in seconds that never jumps back."""
        return self.elapsed

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self.now += seconds
        self.elapsed += seconds


class RunningClock(Clock):
    """A clock whose monotonic time is real, for tests of real waiting."""

    def monotonic(self) -> float:
        """Return the real monotonic time in seconds."""
        return time.monotonic()


class SavedCounters(Counters):
    """Counters of a state file, or in memory, that are written at once."""

    def __init__(self, state_file: StateFile | None = None) -> None:
        super().__init__(state_file)
        self.changes = StateChanges(state_file, [self], self.export_written)

    def save(self) -> None:
        """Write what has changed, and export the new totals."""
        self.changes.write()


class MetricsPage:
    """The samples of a metrics page in the text format.

    The format of every line is checked. Lines are parsed when a test needs them, because that takes longer than the
    scrape.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = [line for line in text.split("\n") if line and line[0] != "#"]
        series = Counter(map(_series_key, self._lines))
        assert series.total() == len(series), f"duplicate samples: {series.most_common(3)}"

    @functools.cached_property
    def samples(self) -> Mapping[tuple[str, Labels], float]:
        """The values of all samples, by name and labels."""
        return _parse_samples(self._lines)

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the values of all samples with this name and at least these labels."""
        wanted = set(labels.items())
        lines = [line for line in self._lines if line.startswith((name + "{", name + " "))]
        return [value for (_, found), value in _parse_samples(lines).items() if wanted <= found]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of the only sample with this name and at least these labels, or None if there is none."""
        values = self.values(name, **labels)
        assert len(values) <= 1, f"{len(values)} samples of {name}{labels}"
        return values[0] if values else None


def _series_key(line: str) -> tuple[str, frozenset[str]]:
    """Return the name and the escaped labels of a line in the text format."""
    sample = _SAMPLE.fullmatch(line)
    assert sample is not None, f"invalid line: {line}"
    return sample[1], frozenset(_LABEL.findall(sample[2] or ""))


def _parse_samples(lines: Sequence[str]) -> dict[tuple[str, Labels], float]:
    """Return the values of lines in the text format, by name and labels."""
    families = text_string_to_metric_families("\n".join(lines))
    return {(item.name, frozenset(item.labels.items())): item.value for family in families for item in family.samples}


@dataclass
class ExporterRig:
    """The exporter in this process, over real sockets against a simulated Braze, with clocks that the test controls."""

    clock: Clock
    braze: FaultInjectingBraze
    exporter: Exporter
    server: Server
    session: requests.Session

    def apply_config(self, events: str, *, extra_yaml: str = "", **changes: str) -> None:
        """Apply another config: its text with each key of `changes` replaced by the value."""
        text = workspace_yaml(self.url, events, extra_yaml=extra_yaml)
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        config = load_config(text, "config.yaml", {"BRAZE_API_KEY": KEY})
        self.exporter.apply_config(config, build_plan(config), self.session)

    @property
    def url(self) -> str:
        """The URL of the simulated Braze."""
        return self.server.url

    def scrape(self, timeout: float = 10.0) -> MetricsPage:
        """Fetch the due queries, wait for them for at most `timeout` seconds, and return the page."""
        self.refresh(timeout)
        return self.page()

    def refresh(self, timeout: float = 10.0) -> None:
        """Fetch the due queries and wait for them without rendering a page.

        This is like a scrape whose client disconnects early. Wait for at most `timeout` seconds.
        """
        wait([self.exporter.refresh()], timeout)

    def skip_first_scrape(self) -> None:
        """Do the first scrape, clear the request log, and make all queries due again.

        The first scrape after a start sends its first call alone.
        """
        self.scrape()
        self.braze.reset()
        self.clock.advance(300)

    def read_lists(self) -> None:
        """Read the lists that are due, and wait until none is in flight."""
        refresher = self.exporter._list_refresher  # noqa: SLF001 - no scrape waits for lists
        for start in (bool, refresher.refresh):  # an earlier read may be about to be deferred
            start()
            wait_until(lambda: not any(item.in_flight for item in refresher._lists.values()), "no list is read")  # noqa: SLF001

    def wait_for_history(self) -> bool:
        """Wait until each queued call for history is done or deferred, and return whether all history has been read."""
        wait_until(lambda: not is_reading_history(self.exporter), "no call for history is in flight")
        return not self.exporter.snapshot().remaining_history

    def page(self) -> MetricsPage:
        """Save the counters, and return the current page without fetching anything."""
        self.exporter.save().result(10)
        return MetricsPage(b"".join(self.exporter.render(openmetrics=False)).decode())


def is_reading_history(exporter: Exporter) -> bool:
    """Return whether a call for history is queued or being made. No scrape waits for it."""
    return any(query_state.history.is_reading for query_state in exporter.query_states)


def workspace_yaml(url: str, events: str, *, name: str = "production", extra_yaml: str = "") -> str:
    """Return the YAML of a config with one workspace.

    `events` has one flow mapping on each line. `extra_yaml` is appended to the end of the file.
    """
    return "workspaces:\n" + workspace_item_yaml(url, events, name=name) + extra_yaml


def workspace_item_yaml(url: str, events: str, *, name: str = "production") -> str:
    """Return the YAML of one item of `workspaces`."""
    lines = "".join(f"      - {line.strip()}\n" for line in events.strip().splitlines())
    return f"""\
  - name: {name}
    url: {url}
    api_key_env: BRAZE_API_KEY
    timezone: {NEW_YORK}
    apps: {{ios: {IOS}}}
    segments: {{vip: {VIP}}}
    custom_events:
{lines}"""


def build_test_config(sections: Mapping[str, object], **settings: object) -> Config:
    """Return a config of one workspace with `sections`; `settings` are top-level keys beside `workspaces`."""
    item = {
        "name": "production",
        "instance": "US-01",
        "api_key_env": "BRAZE_API_KEY",
        "timezone": str(NEW_YORK),
        "apps": {"ios": IOS},
        "segments": {"vip": VIP},
        **sections,
    }
    return load_config(json.dumps({"workspaces": [item], **settings}), "config.yaml")


def all_sections_yaml(campaign: str, canvas: str, product: str) -> str:
    """Return the YAML of all sections except events, to append to a workspace, with the given ids and product."""
    return f"""\
    sessions:
      - apps: [all, ios]
        segments: [all, vip]
      - unit: day
    purchases:
      - unit: hour
      - product: {product!r}
        apps: [all, ios]
    revenue:
      - unit: day
      - product: {product!r}
        unit: day
    segment_users:
      - segment: vip
    new_users:
      - apps: [all, ios]
    uninstalls:
      - apps: [all]
    daily_active_users:
      - apps: [all]
    monthly_active_users:
      - apps: [all]
    campaigns:
      - campaign: {campaign}
    canvases:
      - canvas: {canvas}
"""


@contextlib.contextmanager
def running_braze(traffic: Counts, clock: Clock | None = None) -> Iterator[tuple[FaultInjectingBraze, Server]]:
    """Run a simulated Braze, and yield it with its server."""
    braze = FaultInjectingBraze(
        key=KEY,
        traffic=traffic,
        clock=clock.wall if clock else time.time,
        zone=NEW_YORK,
        apps=(IOS,),
        segments=(VIP,),
    )
    with serve(braze) as running:
        yield braze, running


@contextlib.contextmanager
def running_exporter(
    events: str,
    traffic: Counts,
    *,
    extra_yaml: str = "",
    clock: Clock | None = None,
    timeouts: transport.Timeouts = transport.DEFAULT_TIMEOUTS,
    jitter: Callable[[], float] = lambda: 1.0,
    reads_lists: bool = False,
) -> Iterator[ExporterRig]:
    """Run the exporter with a config of one workspace against a simulated Braze with `traffic`.

    It reads no lists unless `reads_lists`.
    """
    clock = clock or Clock()
    with running_braze(traffic, clock) as (braze, server), contextlib.closing(transport.open_session(10)) as session:
        exporter = Exporter(clock=clock, jitter=jitter, timeouts=timeouts, reads_lists=reads_lists)
        with contextlib.closing(exporter):
            rig = ExporterRig(clock, braze, exporter, server, session)
            rig.apply_config(events, extra_yaml=extra_yaml)
            yield rig


@dataclass
class HttpResponse:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass
class Program:
    """The exporter in a separate process, as users run it."""

    process: subprocess.Popen[Any]
    port: int
    tls: ssl.SSLContext | None = None
    log: IO[str] | None = None
    output_at_end: str = ""

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
        tls: ssl.SSLContext | None = None,
        prefix: Sequence[str] = (),
    ) -> Self:
        """Start the program on `port` (default: a free one) and wait until it is ready, over HTTPS if `tls` is given.

        `prefix` is a command that runs the command in its remaining arguments.

        Raises `AssertionError` if the program is not ready within 20 seconds.
        """
        is_free_port, port = port is None, port or free_port()
        command = [
            *prefix,
            sys.executable,
            "-m",
            "braze_exporter",
            *arguments,
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        # A file needs no thread that reads it.
        log = tempfile.TemporaryFile("a+", encoding="utf-8")  # noqa: SIM115 - closed by `stop`
        process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            env={**os.environ, "BRAZE_API_KEY": KEY, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        program = cls(process, port, tls, log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            if program.is_responding("/-/ready"):
                return program
            time.sleep(0.02)
        program.stop()
        if is_free_port and "Address already in use" in program.output:  # another program was faster
            return cls.start(arguments, environment, None, tls, prefix)
        raise AssertionError("the program did not become ready:\n" + program.output)

    @property
    def output(self) -> str:
        """The output so far of a program that `start` started. Its log is complete only at the end."""
        assert self.log is not None
        if self.log.closed:
            return self.output_at_end
        self.log.seek(0)
        return self.log.read()

    @property
    def lines(self) -> list[str]:
        """The lines of the program's output so far."""
        return list(io.StringIO(self.output))

    def is_responding(self, path: str) -> bool:
        """Return whether a request of `path` gets a 200."""
        with contextlib.suppress(OSError):
            return self.get(path).status == 200
        return False

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, timeout: float = 30.0, method: str = "GET"
    ) -> HttpResponse:
        """Send a request to the program and return the response."""
        connection = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            if self.tls is None
            else http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.tls)
        )
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return HttpResponse(response.status, names, response.read())
        finally:
            connection.close()

    def scrape(self, timeout: float = 30.0, headers: Mapping[str, str] | None = None) -> MetricsPage:
        """Scrape the program as Prometheus does, in the text format."""
        request_headers = {"X-Prometheus-Scrape-Timeout-Seconds": str(timeout), **(headers or {})}
        response = self.get("/metrics", request_headers, timeout + 5)
        assert response.status == 200
        return MetricsPage(response.text)

    def stop(self, signal: int | None = None, timeout: float = 10.0) -> float:
        """Stop the program by a signal (default: SIGTERM), and return the seconds that this took."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal) if signal else self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        seconds = time.monotonic() - started
        if self.log is not None:
            self.output_at_end = self.output
            self.log.close()
        return seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def make_series(
    metric_group: MetricGroup,
    *points: tuple[int, float],
    labels: tuple[tuple[str, str], ...] = (),
    key: tuple[str, ...] = (),
) -> Series:
    """Return a series with these points. Without a `key` it is the only one of its metric group."""
    head = SeriesHead(metric_group, labels, key or (metric_group.name,))
    return Series(head, tuple(start for start, _ in points), array("d", [value for _, value in points]))


def run_program(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program until it exits, with no environment variables but `environment` and those for coverage."""
    command = [sys.executable, "-m", "braze_exporter", *arguments]
    inherited = {name: value for name, value in os.environ.items() if name.startswith("COV")}
    return subprocess.run(  # noqa: S603 - our own program
        command, input=stdin, capture_output=True, text=True, timeout=30, env={**inherited, **environment}, check=False
    )


def unprivileged_prefix() -> Sequence[str]:
    """Return a command prefix that removes the capabilities of root, which can read and write any file."""
    return ("setpriv", "--bounding-set=-all", "--no-new-privs") if os.getuid() == 0 else ()


class AdmissionRig:
    """The admission of one workspace, with budgets and endpoints that the test sets."""

    _KEY = WorkspaceKey("production", "https://rest.iad-01.braze.com")

    def __init__(self, clock: Clock, budgets: Mapping[Pool, PoolBudget], endpoints: Collection[Endpoint] = ()) -> None:
        self.budgets = Budgets(clock)
        self.admission = self._open(KEY)
        self.set_demand(budgets, endpoints)

    def set_demand(self, budgets: Mapping[Pool, PoolBudget], endpoints: Collection[Endpoint] = ()) -> None:
        """Set the budgets and the endpoints in use."""
        self.budgets.set_demands({self._KEY: Demand(budgets, endpoints)})

    def change_key(self, key: str) -> None:
        """Use another API key."""
        self._open(key)

    def _open(self, key: str) -> Admission:
        text = workspace_yaml(self._KEY.url, "{event: purchase}", name=self._KEY.workspace)
        config = load_config(text, "config.yaml", {"BRAZE_API_KEY": key})
        return self.budgets.open_admissions(config)[self._KEY.workspace]


def series_requests(braze: FaultInjectingBraze) -> list[Request]:
    """Return the requests for series so far, without those for lists."""
    return [request for request in braze.requests if not request.path.endswith("list")]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until another thread or process makes `condition` true; `what` describes it.

    Raises `AssertionError` after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port of the loopback interface that is not in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def copy_during_transaction(database: Path, statement: str, copy: Path, *, is_synced: bool = True) -> None:
    """Copy a database and its journal as they are after kill -9 in the middle of a transaction.

    If `is_synced`, a part of the statement's changes is already in the database file.
    """
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA cache_size = {1 if is_synced else 1_000}")
        connection.execute("BEGIN")
        connection.execute(statement)
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{database}{suffix}", f"{copy}{suffix}")
        connection.execute("ROLLBACK")


def write_file(path: Path, text: str) -> str:
    """Write a text file and return its path."""
    path.write_text(text, encoding="utf-8")
    return str(path)
