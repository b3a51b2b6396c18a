"""Test that restarts, reloads, names and key changes add no calls to the budget of an API key."""

import contextlib
import logging
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import response_faults
import transfer_faults
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    HOUR,
    KEY,
    Clock,
    MetricsPage,
    Program,
    is_reading_history,
    running_braze,
    series_requests,
    wait_until,
    workspace_item_yaml,
    write_file,
)

from braze_exporter.braze import transport
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.key_state import AUTH_RETRY_SECONDS
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.state import writer
from braze_exporter.state.state_file import open_state_file
from braze_exporter.state.writer import WRITE_INTERVAL_SECONDS

NAMES = [f"event {number:02}" for number in range(60)]
EVENTS = "\n".join(f"{{event: {name}}}" for name in NAMES)
UP = "braze_query_up"
# 1,000 calls an hour, of which the plan needs 720.
SHARE = "budget: {share: 0.004}\n"
CALLS_PER_SECOND = 1_000 / HOUR


@dataclass
class RestartRig:
    """Starts exporters one after the other against one simulated Braze, with one clock and one state file."""

    braze: FaultInjectingBraze
    url: str
    clock: Clock
    session: requests.Session
    path: Path
    environ: dict[str, str] = field(default_factory=lambda: {"BRAZE_API_KEY": KEY})

    @contextlib.contextmanager
    def start(self, *, has_state_file: bool = True) -> Iterator[Exporter]:
        """Run an exporter without a config until the end of the block."""
        with contextlib.ExitStack() as stack:
            state_file = (
                stack.enter_context(contextlib.closing(open_state_file(str(self.path)))) if has_state_file else None
            )
            exporter = Exporter(state_file, clock=self.clock, jitter=lambda: 1.0, reads_lists=False)
            yield stack.enter_context(contextlib.closing(exporter))

    def load(
        self,
        exporter: Exporter,
        *names: str,
        events: str = EVENTS,
        extra_yaml: str = SHARE,
        key: str = "api_key_env: BRAZE_API_KEY",
    ) -> None:
        """Apply a config with one workspace for each name, all with the same url and key."""
        items = [workspace_item_yaml(self.url, events, name=name) for name in names or ("production",)]
        text = f"workspaces:\n{''.join(items)}{extra_yaml}"
        config = load_config(text.replace("api_key_env: BRAZE_API_KEY", key), "config.yaml", self.environ)
        exporter.apply_config(config, build_plan(config), self.session)

    def scrape(self, exporter: Exporter) -> MetricsPage:
        """Fetch the due queries, and return the page."""
        exporter.refresh().result(20)
        return MetricsPage(b"".join(exporter.render(openmetrics=False)).decode())

    @property
    def calls(self) -> int:
        """The number of calls that have reached Braze."""
        return len(self.braze.requests)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[RestartRig]:
    """Run a simulated Braze with the events."""
    clock = Clock()
    with (
        running_braze(RecordedCounts(events=NAMES), clock) as (braze, server),
        contextlib.closing(transport.open_session(10)) as session,
    ):
        yield RestartRig(braze, server.url, clock, session, tmp_path / "state.sqlite")


def test_restarts_share_one_budget(rig: RestartRig) -> None:
    """Eight starts within nine seconds make the calls of one refresh, and those of the share for nine seconds."""
    for number in range(8):
        with rig.start() as exporter:
            rig.load(exporter, f"workspace {number}")  # its queries are new, so that all are due
            rig.scrape(exporter)
        rig.clock.advance(9 / 8)
    assert 60 <= rig.calls <= 60 + 9 * CALLS_PER_SECOND


def test_budget_is_refilled_while_stopped(rig: RestartRig) -> None:
    """The share of the time between two processes is added, up to one refresh."""
    for pause, expected in ((0.0, 60), (90.0, 25), (10 * HOUR, 60), (-HOUR, 0)):
        rig.clock.advance(pause)
        rig.braze.reset()
        with rig.start() as exporter:
            rig.load(exporter, f"after {pause:.0f} s")  # its queries are new, so that all are due
            rig.scrape(exporter)
        assert rig.calls == expected


def test_start_without_state_file_has_one_refresh(rig: RestartRig) -> None:
    """Without a state file each start makes the calls of one refresh."""
    for _ in range(2):
        with rig.start(has_state_file=False) as exporter:
            rig.load(exporter)
            rig.scrape(exporter)
    assert rig.calls == 120


def test_names_share_one_budget_after_reloads(rig: RestartRig) -> None:
    """Eight new names for one url and key, each by a reload, fill nothing."""
    with rig.start(has_state_file=False) as exporter:
        for number in range(8):
            rig.load(exporter, f"name {number}")
            rig.scrape(exporter)
            rig.clock.advance(9 / 8)
    assert 60 <= rig.calls <= 60 + 9 * CALLS_PER_SECOND


def test_names_share_one_refresh_of_lists_pool(rig: RestartRig) -> None:
    """The pool of the purchases allows one refresh at once, not the calls of an hour, whatever the names."""
    items = "".join(f"      - {{product: {name}, refresh_interval: 1h}}\n" for name in NAMES[:20])
    with rig.start(has_state_file=False) as exporter:
        for number in range(8):
            events, sections = f"{{event: {NAMES[0]}}}", f"    purchases:\n{items}"
            rig.load(exporter, f"name {number}", events=events, extra_yaml=sections)
            rig.scrape(exporter)
    assert [request.path for request in rig.braze.requests].count("/purchases/quantity_series") == 20


def test_names_share_one_budget_after_restarts(rig: RestartRig) -> None:
    """Eight new names for one url and key, each by a restart, fill nothing."""
    for number in range(8):
        with rig.start() as exporter:
            rig.load(exporter, f"name {number}")
            rig.scrape(exporter)
        rig.clock.advance(9 / 8)
    assert 60 <= rig.calls <= 60 + 9 * CALLS_PER_SECOND


def test_workspaces_with_equal_key_share_one_budget(rig: RestartRig) -> None:
    """Three names for one url and key use the share once, not three times."""
    with rig.start(has_state_file=False) as exporter:
        for minute in range(60):
            # Other queries each time, so that all are due.
            events = "\n".join(f"{{event: {name} of {minute}, refresh_interval: 15m}}" for name in NAMES)
            rig.load(exporter, "one", "two", "three", events=events)
            rig.scrape(exporter)
            rig.clock.advance(60)
    assert 900 <= rig.calls <= 180 + 1_000


@pytest.mark.parametrize("is_restarted", [False, True])
def test_rotated_key_keeps_budget(rig: RestartRig, *, is_restarted: bool) -> None:
    """Eight new keys of a workspace, each by a reload or a restart, fill nothing; nor does a key that comes back."""
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(rig.start())
        for number in range(8):
            rig.environ["BRAZE_API_KEY"] = rig.braze.key = f"another-key-{number % 5}"
            if is_restarted:
                stack.close()
                exporter = stack.enter_context(rig.start())
            # Other queries each time, so that all are due.
            rig.load(exporter, events="\n".join(f"{{event: {name} of key {number}}}" for name in NAMES))
            rig.scrape(exporter)
            rig.clock.advance(9 / 8)
    assert 60 <= rig.calls <= 60 + 9 * CALLS_PER_SECOND


def test_key_that_comes_back_after_restart_shares_budget(rig: RestartRig) -> None:
    """A key that two workspaces have replaced fills nothing if they return to it, even after a restart."""
    events = EVENTS.splitlines()

    def load(exporter: Exporter, key: str, events: list[str]) -> None:
        rig.environ["BRAZE_API_KEY"] = rig.braze.key = key
        rig.load(exporter, "one", "two", events="\n".join(events))
        rig.scrape(exporter)

    with rig.start() as exporter:
        load(exporter, "first-key", events[:30])
        load(exporter, "second-key", events[:30])
    rig.clock.advance(300)
    with rig.start() as exporter:
        load(exporter, "second-key", events[:30])
        load(exporter, "first-key", events[30:])  # its queries are new, so that all are due
    assert rig.calls == 60 + 60


def test_key_of_reread_file_keeps_budget(rig: RestartRig, tmp_path: Path) -> None:
    """A new key in the key file, which a probe reads, fills nothing, and takes the budget along to a restart."""
    file = write_file(tmp_path / "key", "first-key")
    key = f"api_key_file: {file}"
    with rig.start() as exporter:
        rig.load(exporter, key=key)
        assert rig.scrape(exporter).values(UP) == [0] * 60
        Path(file).write_text(KEY)
        rig.clock.advance(120)
        rig.scrape(exporter)
        assert rig.calls == 1 + 60
    with rig.start() as exporter:
        rig.load(exporter, key=key)
        rig.scrape(exporter)
    assert rig.calls <= 60 + 120 * CALLS_PER_SECOND + 1


@pytest.mark.parametrize("fault", ["rate_limited", "reserve"])
def test_stop_survives_restart(rig: RestartRig, fault: str) -> None:
    """A stop after a 429 or at the reserve lasts until its end, also after a restart, and is shown again."""
    absent = dict.fromkeys(("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"))
    left = response_faults.with_headers({**absent, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600"})
    rig.braze.inject(response_faults.rate_limited("absent", retry_after="600") if fault == "rate_limited" else left)
    for _ in range(4):
        with rig.start() as exporter:
            rig.load(exporter)
            rig.scrape(exporter)
            (workspace,) = exporter.snapshot().active_workspaces.values()
            assert workspace.admission.status().pauses["default"].reason.name == fault.upper()
            page = MetricsPage(b"".join(exporter.render(openmetrics=False)).decode())
            assert page.value("braze_api_rate_limit_remaining") == (0 if fault == "reserve" else None)
        rig.clock.advance(149)
    assert rig.calls == 1
    rig.braze.clear_faults()
    rig.clock.advance(4)
    with rig.start() as exporter:
        rig.load(exporter)
        assert rig.scrape(exporter).values(UP).count(1) > 50


def test_stop_of_renamed_workspace_with_new_key_survives_kill(rig: RestartRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new name and then a new key, both during a stop, end it neither at once nor after SIGKILL."""
    monkeypatch.setattr(writer, "WRITE_INTERVAL_SECONDS", 60)
    rig.braze.inject(response_faults.rate_limited("absent", retry_after="600"))
    with rig.start() as exporter:
        rig.load(exporter)
        rig.scrape(exporter)
        for name, key in (("renamed", KEY), ("renamed", "another-key"), ("again", "another-key")):
            rig.clock.advance(WRITE_INTERVAL_SECONDS)  # then the balances are saved
            exporter.save().result(10)
            rig.environ["BRAZE_API_KEY"] = rig.braze.key = key
            rig.load(exporter, name)
            rig.scrape(exporter)
            exporter.save().result(10)
        rig.path = copy_after_kill(rig)
    with rig.start() as exporter:
        rig.load(exporter, "again")
        rig.scrape(exporter)
    assert rig.calls == 1


def test_doubled_stop_survives_restart(rig: RestartRig) -> None:
    """Consecutive 429s without a reset double the stop, also if a restart is between them."""
    rig.braze.inject(response_faults.rate_limited("absent"))
    for seconds in (60, 120, 240):
        with rig.start() as exporter:
            rig.load(exporter)
            rig.scrape(exporter)
            rig.clock.advance(seconds - 1)
            rig.scrape(exporter)
        rig.clock.advance(1)
    assert rig.calls == 3


@pytest.mark.parametrize("status", [401, 403])
def test_hold_survives_restart(rig: RestartRig, status: int) -> None:
    """A refused key is probed after two minutes, also after restarts; until then all queries are down for it."""
    rig.braze.inject(response_faults.status(status))
    for _ in range(4):
        with rig.start() as exporter:
            rig.load(exporter)
            assert rig.scrape(exporter).values(UP) == [0] * 60
            assert exporter.query_states[30].error is not None
            assert f"{status} " in exporter.query_states[30].error.detail
        rig.clock.advance(29)
    assert rig.calls == 1
    rig.braze.clear_faults()
    rig.clock.advance(4)
    with rig.start() as exporter:
        rig.load(exporter)
        assert rig.scrape(exporter).values(UP).count(1) > 50


def test_restart_does_not_log_recovery_of_held_query(rig: RestartRig, caplog: pytest.LogCaptureFixture) -> None:
    """A query that a restart finds held, and whose next probe fails too, has not succeeded in between."""
    rig.braze.inject(response_faults.status(403))
    for _ in range(2):
        caplog.clear()
        caplog.set_level(logging.INFO)
        with rig.start() as exporter:
            rig.load(exporter, events="{event: purchase}")
            rig.scrape(exporter)
            rig.clock.advance(AUTH_RETRY_SECONDS)
            rig.scrape(exporter)
    assert "Query failed" in caplog.messages
    assert "Queries succeed again" not in caplog.messages


@pytest.mark.parametrize(
    "row", [("maybe", None, None), ("refused", 0.0, "{"), ("refused", 0.0, "[1]"), ("refused", 0.0, '["x", "y", 0]')]
)
def test_damaged_hold_is_ignored(
    rig: RestartRig, caplog: pytest.LogCaptureFixture, row: tuple[str, float | None, str | None]
) -> None:
    """A hold that cannot be read is logged, and the other content of the state file is used."""
    with rig.start() as exporter:
        rig.load(exporter)
        rig.scrape(exporter)
    with contextlib.closing(sqlite3.connect(rig.path)) as connection, connection:
        connection.execute("UPDATE holds SET verdict = ?, held_until = ?, error = ?", row)
    with rig.start() as exporter:
        rig.load(exporter)
        assert rig.scrape(exporter).values(UP) == [1] * 60
    assert "Saved hold could not be read" in caplog.messages
    assert rig.calls == 60


@pytest.mark.parametrize("is_restarted", [False, True])
def test_reload_with_refused_key_probes_nothing(rig: RestartRig, *, is_restarted: bool) -> None:
    """Twenty reloads or restarts with a refused key within two minutes make no call, under any name."""
    rig.braze.inject(response_faults.status(401))
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(rig.start())
        for number in range(20):
            if is_restarted:
                stack.close()
                exporter = stack.enter_context(rig.start())
            rig.load(exporter, f"name {number % 2}", "other", events="{event: purchase}")
            assert rig.scrape(exporter).values(UP) == [0] * 2
            rig.clock.advance(5)
    assert rig.calls == 1


@pytest.mark.parametrize("jump", [-30 * 86_400, 30 * 86_400])
def test_wrong_clock_stops_calls_for_one_window_at_most(rig: RestartRig, jump: float) -> None:
    """If the clock was wrong when the stop was written, the stop ends after a window and a minute at most."""
    rig.clock.now += jump
    rig.braze.inject(response_faults.rate_limited("absent", retry_after="3600"))
    with rig.start() as exporter:
        rig.load(exporter)
        rig.scrape(exporter)
    rig.clock.now -= jump
    rig.braze.clear_faults()
    with rig.start() as exporter:
        rig.load(exporter)
        rig.scrape(exporter)
        rig.clock.advance(HOUR + 60)
        assert rig.scrape(exporter).values(UP) == [1] * 60


def test_state_file_contains_no_key(rig: RestartRig) -> None:
    """The state file identifies the key by a salted digest, which differs between files."""
    digests = set()
    for _ in range(2):
        with rig.start() as exporter:
            rig.load(exporter)
            rig.scrape(exporter)
        assert KEY.encode() not in rig.path.read_bytes()
        with contextlib.closing(sqlite3.connect(rig.path)) as connection:
            digests |= {*connection.execute("SELECT key_digest FROM budgets")}
        rig.path.unlink()
    assert len(digests) == 2


def test_history_leaves_half_to_commands(rig: RestartRig) -> None:
    """History uses half of what the plan leaves of the share; a command beside the exporter may use the rest."""
    events = "\n".join(f"{{event: {name}, baseline: {{weeks: 52}}}}" for name in NAMES[:2])
    with rig.start(has_state_file=False) as exporter:
        rig.load(exporter, events=events, extra_yaml="budget: {share: 0.001}\n")
        for _ in range(4 * 60):
            rig.scrape(exporter)
            wait_until(lambda: not is_reading_history(exporter), "no call is in flight")
            rig.clock.advance(15)
    chunks = [request for request in rig.braze.requests if "ending_at" in request.params]
    # 250 calls an hour, of which the queries need 24.
    assert 100 <= len(chunks) <= 2 + (250 - 24) / 2
    assert 24 <= rig.calls - len(chunks) <= 24 + 2


def test_start_makes_no_call_for_history(rig: RestartRig) -> None:
    """A start spends one refresh at once. History waits for half of what the plan leaves of the share."""
    events = "\n".join(f"{{event: event {number:02}, baseline: {{weeks: 4}}}}" for number in range(40))
    with rig.start(has_state_file=False) as exporter:
        rig.load(exporter, events=events, extra_yaml="budget: {share: 0.01}\n")
        for _ in range(3):
            rig.scrape(exporter)
            wait_until(lambda: not is_reading_history(exporter), "no call is in flight")
        assert rig.calls == 40
        rig.clock.advance(120)
        rig.scrape(exporter)
        wait_until(lambda: not is_reading_history(exporter), "no call is in flight")
    # The share has 2,500 calls an hour. The queries need 480, and history may use half of the others.
    minute = (2_500 - 480) / 2 / 60
    assert rig.calls - 40 == 1 + int(minute)


def copy_after_kill(rig: RestartRig) -> Path:
    """Return a copy of the state file as SIGKILL would leave it."""
    copy = rig.path.with_name("copy")
    for suffix in ("", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{rig.path}{suffix}", f"{copy}{suffix}")
    return copy


def written(rig: RestartRig, column: str) -> object:
    """Return a column of the budget of the default pool as a process would read it after SIGKILL."""
    with contextlib.closing(sqlite3.connect(copy_after_kill(rig))) as connection:
        value: object = connection.execute(f"SELECT {column} FROM budgets WHERE pool = 'default'").fetchone()[0]  # noqa: S608
    return value


def test_state_file_has_no_balance_while_calls_are_made(rig: RestartRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The balance is written once calls have ceased, and taken out again by the next call, but not by a reload."""
    monkeypatch.setattr(writer, "WRITE_INTERVAL_SECONDS", 60)
    with rig.start() as exporter:
        rig.load(exporter)
        rig.scrape(exporter)
    rig.clock.advance(HOUR)
    with rig.start() as exporter:
        assert written(rig, "balance") == 0
        rig.load(exporter, events=EVENTS.partition("\n")[0])
        balances = []
        for seconds in (0.0, WRITE_INTERVAL_SECONDS - 0.1, 0.1):
            rig.clock.advance(seconds)
            exporter.save().result(10)
            balances.append(written(rig, "balance"))
        assert balances == [0, 0, 1]
        rig.load(exporter, events=EVENTS.partition("\n")[0])
        exporter.save().result(10)
        assert written(rig, "balance") == 1
        rig.scrape(exporter)
        wait_until(lambda: written(rig, "balance") == 0, "the balance is taken out")


def test_stop_is_written_at_once(rig: RestartRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop is in the state file soon, so that it survives SIGKILL."""
    monkeypatch.setattr(writer, "WRITE_INTERVAL_SECONDS", 60)
    rig.braze.inject(response_faults.rate_limited("absent"))
    with rig.start() as exporter:
        rig.load(exporter)
        assert written(rig, "stopped_until") is None
        rig.scrape(exporter)
        wait_until(lambda: written(rig, "stopped_until") == rig.clock.now + 60, "the stop is written")
        assert written(rig, "stop_reason") == "rate_limited"


def test_balance_that_cannot_be_taken_out_is_not_used(rig: RestartRig, caplog: pytest.LogCaptureFixture) -> None:
    """If the state file cannot be written at the start, the exporter starts without a balance, and says so once."""
    with rig.start() as exporter:
        rig.load(exporter)
        rig.scrape(exporter)
        rig.clock.advance(HOUR)
    rig.clock.advance(HOUR)
    with contextlib.closing(open_state_file(str(rig.path))) as state_file:
        rig.path.unlink()
        exporter = Exporter(state_file, clock=rig.clock, reads_lists=False)
        with contextlib.closing(exporter):
            rig.load(exporter)
            rig.clock.advance(1 / CALLS_PER_SECOND)
            page = rig.scrape(exporter)
            assert page.value("braze_exporter_state_write_failures_total") == 1
            assert rig.calls == 60 + 1
    lines = [record for record in caplog.records if "State file could not be written" in record.getMessage()]
    assert len(lines) == 1


@pytest.mark.alone
def test_killed_processes_share_one_budget(rig: RestartRig, tmp_path: Path) -> None:
    """SIGKILL during the calls fills nothing."""
    text = f"workspaces:\n{workspace_item_yaml(rig.url, EVENTS)}{SHARE}state_file: {rig.path}\n"
    config = write_file(tmp_path / "config.yaml", text)
    rig.braze.inject(transfer_faults.hold(), event=NAMES[-1])
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool, Program.start([f"--config.file={config}"]) as program:
        pool.submit(program.scrape)
        wait_until(lambda: len(series_requests(rig.braze)) == 60, "all calls are made")
        program.stop(signal.SIGKILL)
    with Program.start([f"--config.file={config}"]) as program:
        program.scrape(timeout=2)
    assert 60 <= len(series_requests(rig.braze)) <= 60 + (time.monotonic() - started) * CALLS_PER_SECOND
