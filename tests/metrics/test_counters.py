"""Test that counters only rise, count each occurrence once, and are saved before they are shown."""

import contextlib
import math
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from support import (
    CURRENT_HOUR,
    HOUR,
    IOS,
    KEY,
    Clock,
    MetricsPage,
    SavedCounters,
    copy_during_transaction,
    running_braze,
    running_exporter,
    wait_until,
    workspace_yaml,
)

from braze_exporter.braze.kinds import MAX_LENGTH, Unit
from braze_exporter.braze.series import ABSENT, HOLE
from braze_exporter.braze.transport import open_session
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.metrics.counters import MAX_UNSAVED
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.state.counter_state import CounterKey
from braze_exporter.state.errors import StateFileError
from braze_exporter.state.state_file import open_state_file

DAY = 24 * HOUR
PURCHASES = ("production", "https://rest.iad-01.braze.com", "custom_events", "purchase", "", "", "", "")


def record(
    counters: SavedCounters, buckets: dict[int, float], *, unit: Unit = Unit.DAY, requested_from: int = 0
) -> float:
    """Record one response, save the counters, and return the total that is shown."""
    record_series(
        counters, PURCHASES, buckets, unit, requested_from=requested_from, requested_at=float(max(buckets, default=0))
    )
    counters.save()
    return counters.total(PURCHASES)


def record_series(
    counters: SavedCounters,
    key: CounterKey,
    buckets: Mapping[int, float],
    unit: Unit = Unit.DAY,
    *series_key: str,
    requested_from: int = 0,
    requested_at: float | None = None,
    new_from: int | None = None,
) -> None:
    """Record one response with one series."""
    numbers = tuple(sorted(buckets))
    column = (series_key, array("d", [buckets[number] for number in numbers]), True)
    counters.record(
        key, unit, numbers, [column], requested_from=requested_from, requested_at=requested_at, new_from=new_from
    )


@dataclass(frozen=True)
class Report:
    """A response to a query with several series, with the arguments of `Counters.record`.

    Each of `columns` has a value for each of `numbers`. The series `hidden` is not exported.
    """

    numbers: tuple[int, ...]
    columns: Mapping[str, Sequence[float]]
    requested_from: int
    is_complete: bool
    unknown: Sequence[int]
    new_from: int | None
    zone: str

    def record(self, counters: SavedCounters) -> dict[str, float]:
        """Record the response, save the counters, and return the totals on the next page."""
        counters.release(PURCHASES)
        counters.record(
            PURCHASES,
            Unit.DAY,
            self.numbers,
            [(_series_key(name), array("d", values), name != "hidden") for name, values in self.columns.items()],
            requested_from=self.requested_from,
            requested_at=1.0,
            is_complete=self.is_complete,
            unknown=self.unknown,
            new_from=self.new_from,
            zone=self.zone,
        )
        counters.save()
        return {name: counters.expose(PURCHASES, [_series_key(name)])[0] for name in SERIES}


SERIES = ("", "email", "sms", "hidden")


def _series_key(name: str) -> tuple[str, ...]:
    return (name,) if name else ()


def make_report(draw: Random) -> Report:
    """Return a random response for some days, which may lack series, values and days."""
    numbers = tuple(sorted(draw.sample(range(1, draw.choice((10, 10, 10, 150))), draw.randint(0, 6))))
    values = (-2.0, 0.0, 1.0, 2.0, 3.0, 5.0, 9.0, HOLE, ABSENT)
    return Report(
        numbers,
        {name: draw.choices(values, k=len(numbers)) for name in SERIES if draw.random() < 0.7},
        requested_from=draw.randint(1, 9),
        is_complete=draw.random() < 0.5,
        unknown=draw.choice(((), (), range(3, 7), range(20, 130))),
        new_from=draw.choice((None, 2, 4)),
        zone=draw.choice(("", "", "Europe/Paris", "Asia/Tokyo")),
    )


@dataclass
class ModelCounter:
    """The expected counter of one series, bucket by bucket. None is a bucket without a number yet."""

    floor: int
    total: float
    highest: dict[int, float | None] = field(default_factory=dict)

    def count(self, number: int, value: float) -> None:
        """Count a value."""
        highest = self.highest.get(number, 0.0)
        if highest is None:
            self.highest[number] = max(value, 0.0)
        elif number >= self.floor and value > highest:
            self.total += value - highest
            self.highest[number] = value


class ModelCounters:
    """The expected counters of a query."""

    def __init__(self) -> None:
        self._zone = ""
        self._numbers: set[int] = set()
        self._counters: dict[str, ModelCounter] = {}

    def record(self, report: Report) -> dict[str, float]:
        """Count the rises of a response, and return the totals on the next page.

        A new series has been on no page, so that what it counted is shown on the page after the next.
        """
        former = {name: counter.total for name, counter in self._counters.items()}
        if report.zone and self._zone and report.zone != self._zone:
            self._zone, self._numbers, self._counters = "", set(), {}
        self._zone = self._zone or report.zone
        if report.is_complete and report.numbers:
            self._forget(min(report.requested_from, *report.numbers))
        is_new = not self._counters.keys() >= report.columns.keys()
        self._numbers |= {*report.numbers, *(report.unknown if is_new else ())}
        if len(self._numbers) > MAX_LENGTH:
            self._forget(sorted(self._numbers)[-MAX_LENGTH])
        shown = dict.fromkeys(SERIES, 0.0) | {name: counter.total for name, counter in self._counters.items()}
        for name, values in report.columns.items():
            buckets = {number: v for number, v in zip(report.numbers, values, strict=True) if v != ABSENT}
            is_new = name not in self._counters
            if is_new:
                self._counters[name] = self._make_counter(report, buckets, former.get(name, 0.0))
            for number, value in buckets.items():
                if number in self._numbers and not math.isnan(value):
                    self._counters[name].count(number, value)
            shown[name] = former.get(name, 0.0) if is_new and name in {"email", "sms"} else self._counters[name].total
        return shown

    def _forget(self, oldest: int) -> None:
        """Forget the buckets before `oldest`, which then never count."""
        if min(self._numbers, default=oldest) < oldest:
            self._numbers = {number for number in self._numbers if number >= oldest}
            for counter in self._counters.values():
                counter.floor = max(counter.floor, oldest)

    def _make_counter(self, report: Report, buckets: Mapping[int, float], total: float) -> ModelCounter:
        """Return the counter of a new series. Its first response counts 0, unless `new_from` is given."""
        if report.new_from is not None:
            return ModelCounter(report.new_from, total)
        first: dict[int, float | None] = dict.fromkeys(report.unknown)
        first |= {number: None if math.isnan(value) else max(value, 0.0) for number, value in buckets.items()}
        return ModelCounter(min(first, default=report.requested_from), total, first)


def test_counters_equal_model() -> None:
    """Each page has the totals of a model that keeps each bucket of each series in a dictionary."""
    for seed in range(1_000):
        draw, counters, model = Random(seed), SavedCounters(), ModelCounters()  # noqa: S311 - does not need to be secure
        for _ in range(8):
            report = make_report(draw)
            assert report.record(counters) == model.record(report), f"seed {seed}: {report}"


def test_new_series_counts_from_zero(tmp_path: Path) -> None:
    """A series that appears after the first response counts from `new_from`; a known series counts its rises."""
    path = str(tmp_path / "state.sqlite")
    with contextlib.closing(open_state_file(path)) as store:
        counters = SavedCounters(store)
        record_series(counters, PURCHASES, {7: 5.0}, Unit.DAY, "email", requested_from=5)
        counters.save()
        assert counters.total(PURCHASES, ("email",)) == 0
    with contextlib.closing(open_state_file(path)) as store:
        counters = SavedCounters(store)
        record_series(counters, PURCHASES, {7: 6.0}, Unit.DAY, "email", requested_from=5, new_from=7)
        record_series(counters, PURCHASES, {6: 2.0, 7: 3.0, 8: 4.0}, Unit.DAY, "sms", requested_from=5, new_from=7)
        counters.save()
        keys = [("email",), ("sms",)]
        assert counters.expose(PURCHASES, keys) == [0, 0]  # a page has both before they rise
        counters.release(PURCHASES)
        counters.save()
        assert counters.expose(PURCHASES, keys) == [1, 7]  # buckets before `new_from` do not count


@pytest.mark.parametrize("new_from", [None, 7], ids=["in first response", "in later response"])
def test_new_series_is_exposed_as_zero_after_restart(path: str, new_from: int | None) -> None:
    """After a restart, a series that may have been on no page is 0 on a page before it shows what was counted."""
    with open_counters(path) as counters:
        record_series(counters, PURCHASES, {7: 3.0}, Unit.DAY, "sms", new_from=new_from)
        counters.save()
    totals = []
    with open_counters(path) as counters:
        for value in (4.0, 5.0, 6.0):
            counters.release(PURCHASES)
            record_series(counters, PURCHASES, {7: value}, Unit.DAY, "sms")
            counters.save()
            totals += counters.expose(PURCHASES, [("sms",)])
    assert totals == ([0, 2, 3] if new_from is None else [0, 5, 6])


def test_unchanged_counters_are_not_written() -> None:
    """An unchanged response causes no write if `requested_at` is None."""
    counters = SavedCounters()
    record_series(counters, PURCHASES, {7: 5.0}, Unit.DAY)
    counters.save()
    revision = counters.revision
    record_series(counters, PURCHASES, {7: 5.0}, Unit.DAY)
    counters.save()
    assert counters.revision == revision


@given(st.lists(st.dictionaries(st.integers(0, 30), st.integers(0, 50).map(float), max_size=12), max_size=12))
@settings(max_examples=30)
def test_restart_with_state_keeps_totals(responses: list[dict[int, float]]) -> None:
    """Counters that are closed and opened between responses equal counters that stay open."""
    going_on = SavedCounters()
    with tempfile.TemporaryDirectory() as directory:
        for buckets in responses:
            with open_counters(f"{directory}/state.sqlite") as restarted:
                assert record(restarted, buckets) == record(going_on, buckets)


def test_unreachable_buckets_are_removed() -> None:
    """Only the newest 100 buckets of a series are kept, and older buckets never count."""
    counters = SavedCounters()
    record(counters, {0: 1.0})
    totals = [record(counters, {bucket: 1.0}) for bucket in range(1, 3 * MAX_LENGTH)]
    assert totals[-1] == 3 * MAX_LENGTH - 1
    assert record(counters, {1: 1_000.0}) == 3 * MAX_LENGTH - 1


def test_buckets_that_no_usual_response_has_are_forgotten(path: str) -> None:
    """A complete response removes the buckets that neither it nor its request has; they never count again."""
    with contextlib.closing(open_state_file(path)) as store:
        counters = SavedCounters(store)

        def record_next(value: float, *numbers: int, is_complete: bool = True) -> tuple[float, int]:
            column = ((), array("d", [value] * len(numbers)), True)
            oldest = numbers[-1] - 23
            counters.record(
                PURCHASES,
                Unit.DAY,
                numbers,
                [column],
                requested_from=oldest,
                requested_at=1.0,
                is_complete=is_complete,
            )
            counters.save()
            return counters.total(PURCHASES), len(store.read_counters()[PURCHASES].numbers)

        usual, repair = range(77, 101), [*range(2, 76), *range(77, 101)]
        assert record_next(1.0, *repair) == (0, 98)
        assert record_next(2.0, *usual, is_complete=False) == (24, 98)
        assert record_next(3.0, *usual) == (48, 24)
        assert record_next(9.0, *repair) == (48 + 24 * 6, 98)
        assert record_next(5.0, 300) == (48 + 24 * 6 + 5, 1)
        assert record_next(50.0, 99, 300) == (48 + 24 * 6 + 50, 2)


def test_changed_unit_keeps_total() -> None:
    """When the unit changes between hours and days, the first response of the new unit counts 0."""
    counters = SavedCounters()
    record(counters, {738_000: 100.0})
    assert record(counters, {738_000: 130.0}) == 30.0
    assert record(counters, {0: 7.0, HOUR: 8.0}, unit=Unit.HOUR) == 30.0
    assert record(counters, {0: 7.0, HOUR: 9.0}, unit=Unit.HOUR) == 31.0
    assert record(counters, {738_000: 140.0, 738_001: 50.0}) == 31.0
    assert record(counters, {738_001: 51.0}) == 32.0


def test_totals_are_shown_after_save() -> None:
    """A total that is not saved yet is not shown."""
    counters = SavedCounters()
    record(counters, {0: 1.0})
    record_series(counters, PURCHASES, {0: 5.0}, requested_at=1.0)
    assert counters.total(PURCHASES) == 0.0
    counters.save()
    assert counters.total(PURCHASES) == 4.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a state file that does not exist yet."""
    return str(tmp_path / "state.sqlite")


@contextlib.contextmanager
def open_counters(path: str) -> Iterator[SavedCounters]:
    """Open a state file, and close it at the end."""
    with contextlib.closing(open_state_file(path, wait=0.1)) as store:
        yield SavedCounters(store)


def test_counter_survives_restart(path: str) -> None:
    """The total, the known buckets and the time of the last request survive a restart."""
    with open_counters(path) as counters:
        record(counters, {0: 1.0, 1: 1.0})
        assert record(counters, {0: 1.0, 1: 5.0}) == 4.0
    with open_counters(path) as counters:
        assert counters.total(PURCHASES) == 4.0
        assert counters.last_requested(PURCHASES) == 1.0
        assert record(counters, {0: 1.0, 1: 6.0, 2: 2.0}) == 7.0


def test_unused_counters_are_removed_after_100_days(path: str) -> None:
    """A counter unused for 100 days is removed with its series and restarts at 0; counters in use stay forever."""
    signup, campaign = (*PURCHASES[:3], "signup", *[""] * 4), (*PURCHASES[:2], "campaigns", "welcome", *[""] * 4)
    key_sets = ({PURCHASES}, {PURCHASES, signup}, set[tuple[str, ...]]())

    def record_unused(counters: SavedCounters, value: float, day: int) -> None:
        record_series(counters, signup, {day: value}, Unit.DAY, requested_at=DAY * day)
        record_series(counters, campaign, {day: value}, Unit.DAY, "email", requested_at=DAY * day)

    def record_purchases(counters: SavedCounters, day: int) -> None:
        record_series(counters, PURCHASES, {24 * day: 1.0}, requested_at=DAY * day)
        counters.save()

    def expose(counters: SavedCounters) -> list[float]:
        return counters.expose(signup, [()]) + counters.expose(campaign, [("email",)])

    with open_counters(path) as counters:
        for value in (2.0, 5.0):
            record_unused(counters, value, 7)
            counters.save()
            expose(counters)
        record_purchases(counters, 107)
        for keys_in_use in key_sets:
            counters.remove_expired(keys_in_use)
        record_purchases(counters, 108)
        assert expose(counters) == [3, 3]
        counters.remove_expired(key_sets[2])
        counters.remove_expired({signup, campaign})
        assert expose(counters) == [3, 3]
        counters.remove_expired(key_sets[1])
        assert expose(counters) == [3, 0]
        record_unused(counters, 9.0, 108)  # the series returns before its removal is saved
        counters.remove_expired(key_sets[1])
        counters.save()
        assert expose(counters) == [12, 0]
        record_unused(counters, 10.0, 108)
        counters.save()
    with open_counters(path) as counters:
        assert counters.total(PURCHASES) == 1
        assert expose(counters) == [13, 1]
        record_purchases(counters, 209)
        counters.remove_expired(key_sets[0])
        counters.save()
    with contextlib.closing(open_state_file(path)) as store:
        assert set(store.read_counters()) == {PURCHASES}


def test_counter_with_labels_of_another_is_removed() -> None:
    """A counter is removed if a query with the same labels has another url or other ids, and no other is."""
    former = ("production", "https://old.example", "custom_events", "purchase", "ios", "1", "vip", "2")
    is_removed = dict.fromkeys(range(len(former)), False) | {1: True, 5: True, 7: True}
    for part, expected in is_removed.items():
        counters = SavedCounters()
        for value in (1.0, 4.0):
            record_series(counters, former, {0: value})
        counters.save()
        counters.remove_replaced({(*former[:part], "other", *former[part + 1 :])})
        assert counters.total(former) == (0 if expected else 3), f"part {part}"
        counters.remove_replaced({former})
        assert counters.total(former) == (0 if expected else 3)


@pytest.mark.parametrize(("oldest", "left"), [(3, {"email", "sms"}), (4, {"sms"}), (5, {"sms"}), (6, set[str]())])
def test_series_without_reachable_bucket_is_removed(path: str, oldest: int, left: set[str]) -> None:
    """A series is removed if all its buckets are older than `oldest`, holes included, unless it is kept."""
    with open_counters(path) as counters:
        for value in (1.0, 4.0):
            columns = {"email": (value, ABSENT), "sms": (value, HOLE), "hidden": (value, ABSENT)}
            Report((3, 5), columns, 3, is_complete=True, unknown=(), new_from=None, zone="").record(counters)
        counters.remove_unreachable(PURCHASES, {("hidden",)}, oldest)
        counters.save()
        counters.remove_unreachable(("unknown",), (), oldest)
    with open_counters(path) as counters:
        assert {name for name in SERIES if counters.total(PURCHASES, (name,)) == 3} == left | {"hidden"}


def test_failed_removal_is_retried(path: str) -> None:
    """If the state file cannot be written, a removal is retried with the next successful write."""
    removed = (*PURCHASES[:3], "signup", *PURCHASES[4:])
    with contextlib.closing(open_state_file(path)) as store:
        counters = SavedCounters(store)
        record_series(counters, removed, {0: 1.0}, requested_at=0.0)
        record_series(counters, PURCHASES, {0: 1.0}, requested_at=101.0 * DAY)
        counters.save()
        counters.remove_expired({PURCHASES})
        store._connection.execute("PRAGMA query_only = 1")  # noqa: SLF001 - simulates a read-only disk
        with pytest.raises(StateFileError):
            counters.save()
        assert set(store.read_counters()) == {PURCHASES, removed}
        store._connection.execute("PRAGMA query_only = 0")  # noqa: SLF001
        assert counters.changes.has_changes
        counters.save()
        assert not counters.changes.has_changes
        assert set(store.read_counters()) == {PURCHASES}


def test_second_process_waits_for_lock(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A second process that waits for the lock opens the file when the first closes it."""
    first = open_state_file(path)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(open_state_file, path, wait=10)
        wait_until(lambda: "State file is locked by another exporter, waiting" in caplog.messages, "it waits")
        assert not second.done()
        first.close()
        second.result().close()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE counters",
        "ALTER TABLE counter_buckets RENAME COLUMN packed TO known",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -1",
        "UPDATE counter_buckets SET packed = 'nonsense'",
        "UPDATE counter_buckets SET packed = x'789c030000000001'",  # no content
        "DELETE FROM counters",
        """UPDATE counters SET key = '["production"]'; UPDATE counter_buckets SET key = '["production"]'""",
    ],
)
def test_invalid_state_file_is_moved_aside(path: str, statement: str, caplog: pytest.LogCaptureFixture) -> None:
    """A state file with a valid header but an invalid schema or content is moved aside; counters restart at 0."""
    with open_counters(path) as counters:
        record(counters, {0: 1.0})
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(statement)
    assert_moved_aside(path, caplog)


@pytest.mark.parametrize(
    ("start", "end"), [(100, None), (110, None), (100, 4_096), (4_096, 8_192), (16, 60), (44, 48)], ids=str
)
def test_damaged_state_file_is_moved_aside(
    path: str, start: int, end: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A state file with a valid header that is damaged elsewhere or truncated is moved aside."""
    with open_counters(path) as counters:
        record(counters, {0: 1.0})
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:start] + (b"\xff" * (end - start) + content[end:] if end is not None else b""))
    assert_moved_aside(path, caplog)


def assert_moved_aside(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that the state file is moved aside unchanged and logged, and that a new one is created."""
    content = Path(path).read_bytes()
    with open_counters(path) as counters:
        assert counters.total(PURCHASES) == 0.0
        assert counters.last_requested(PURCHASES) is None
        assert record(counters, {0: 1.0}) == 0.0
        assert record(counters, {0: 3.0}) == 2.0
    (aside,) = Path(path).parent.glob("state.sqlite.damaged-*")
    assert aside.read_bytes() == content
    assert [entry.getMessage() for entry in caplog.records] == [
        "State file is damaged, moving it aside and resetting counters"
    ]


def test_moved_state_file_replaces_no_other(path: str) -> None:
    """The journal is moved too, files moved aside earlier are not overwritten, and a link to the state file stays."""
    link = f"{path}.link"
    Path(link).symlink_to(path)
    with open_counters(link) as counters:
        record(counters, {0: 1.0})
    damaged = Path(path).read_bytes()[:200]
    Path(path).write_bytes(damaged)
    journal = bytes(512)  # as after a transaction
    Path(f"{path}-journal").write_bytes(journal)
    now = datetime.now(UTC)
    names = [f"{path}.damaged-{now + timedelta(seconds=second):%Y%m%dT%H%M%SZ}" for second in range(60)]
    for name in (*names, *(f"{name}-2-journal" for name in names)):
        Path(name).write_bytes(b"older")
    with open_counters(link) as counters:
        assert record(counters, {0: 1.0}) == 0.0
    assert Path(link).readlink() == Path(path)
    assert {Path(name).read_bytes() for name in (*names, *(f"{name}-2-journal" for name in names))} == {b"older"}
    (aside,) = Path(path).parent.glob("*Z-3")
    assert (aside.read_bytes(), Path(f"{aside}-journal").read_bytes()) == (damaged, journal)


@pytest.mark.parametrize("where", [":memory:", "file:state?mode=memory"])
def test_special_sqlite_name_is_a_file(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a special meaning in SQLite still creates a file on disk."""
    monkeypatch.chdir(tmp_path)
    with open_counters(where) as counters:
        record(counters, {0: 1.0})
    assert (tmp_path / where).stat().st_size > 0


@pytest.mark.parametrize(
    ("broken", "mended"),
    [("max_page_count = 1", "max_page_count = 1000000"), ("query_only = ON", "query_only = OFF")],
    ids=["full disk", "read-only disk"],
)
def test_total_stays_while_writes_fail(path: str, broken: str, mended: str) -> None:
    """While writes fail, the shown total stays, and the next successful write catches up."""
    with contextlib.closing(open_state_file(path)) as store:
        counters = SavedCounters(store)
        record(counters, {0: 1.0})
        assert record(counters, {0: 5.0}) == 4.0
        store._connection.execute(f"PRAGMA {broken}")  # noqa: SLF001 - simulates a broken disk
        counters.record_names({("production", "url", "campaigns", str(number)): "x" * 100 for number in range(100)})
        for buckets in (dict.fromkeys(range(1, 99), 12345.678), {0: 6.0}):
            with pytest.raises(StateFileError):
                record(counters, buckets)
            assert counters.total(PURCHASES) == 4.0
        store._connection.execute(f"PRAGMA {mended}")  # noqa: SLF001
        counters.save()
        assert counters.total(PURCHASES) == pytest.approx(5.0 + 98 * 12_345.678)


@pytest.mark.parametrize("is_synced", [False, True])
def test_killed_write_is_rolled_back(path: str, tmp_path: Path, *, is_synced: bool) -> None:
    """The journal of a killed write is rolled back, whether or not the database file was already modified."""
    subjects = [(*PURCHASES[:3], f"event {number}", *PURCHASES[4:]) for number in range(500)]
    with open_counters(path) as counters:
        for value in (1.0, 3.0):
            for subject in subjects:
                record_series(counters, subject, {0: value}, requested_at=0.0)
            counters.save()
    (tmp_path / "killed").mkdir()
    killed = tmp_path / "killed" / "state.sqlite"
    copy_during_transaction(Path(path), "UPDATE counter_buckets SET packed = 7", killed, is_synced=is_synced)
    assert killed.with_name("state.sqlite-journal").read_bytes().startswith(bytes(8)) is not is_synced
    with open_counters(str(killed)) as counters:
        assert {counters.total(subject) for subject in subjects} == {2}
        record(counters, {0: 1.0})
    assert sorted(file.name for file in killed.parent.iterdir()) == ["state.sqlite", "state.sqlite.lock"]


WRITER = """
import sys
from array import array
from braze_exporter.braze.kinds import Unit
from braze_exporter.metrics.counters import Counters
from braze_exporter.state.writer import StateChanges
from braze_exporter.state.state_file import open_state_file
state_file = open_state_file(sys.argv[1])
ledger = Counters(state_file)
changes = StateChanges(state_file, [ledger], ledger.export_written)
subject = ("production", "url", "custom_events", "purchase", "", "", "", "")
value = ledger.total(subject)
def record():
    ledger.record(subject, Unit.HOUR, (0,), [((), array("d", [value]), True)], requested_from=0, requested_at=0.0)
record()
while True:
    value += 1
    record()
    changes.write()
    print(ledger.total(subject), flush=True)
"""


def test_kill_9_loses_no_shown_total(path: str) -> None:
    """After SIGKILL during writes, the next process never shows a lower total than before."""
    last_shown = 0.0
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:  # noqa: S603
            assert writer.stdout is not None
            seen = [float(writer.stdout.readline()) for _ in range(20)]
            os.kill(writer.pid, signal.SIGKILL)
            seen += [float(line) for line in writer.stdout if line.endswith("\n")]
        assert seen[0] >= last_shown
        assert seen == sorted(seen)
        last_shown = seen[-1]
        with open_counters(path) as counters:
            restored = counters.total(("production", "url", "custom_events", "purchase", "", "", "", ""))
        assert restored >= last_shown


def test_counter_belongs_to_name_of_app_in_config(path: str) -> None:
    """A counter with a new name of the same app starts at 0, and one with the former name continues."""
    recorded = RecordedCounts(events=["purchase", "signup"])
    clock = Clock()
    with running_braze(recorded, clock) as (_, server):

        def totals(events: str, app: str, *steps: int) -> list[float]:
            text = workspace_yaml(server.url, events.replace("ios", app)).replace("{ios:", f"{{{app}:")
            config = load_config(text, "config.yaml", {"BRAZE_API_KEY": KEY})
            with contextlib.closing(open_session(1)) as session, contextlib.closing(open_state_file(path)) as store:
                exporter = Exporter(store, clock=clock, reads_lists=False)
                exporter.apply_config(config, build_plan(config), session)
                with contextlib.closing(exporter):
                    for step in (0, *steps):
                        count = recorded.count("purchase", CURRENT_HOUR, 0, IOS)
                        recorded.set("purchase", CURRENT_HOUR, count + step, IOS)
                        clock.advance(300)
                        exporter.refresh().result(5)
                    exporter.save().result(5)
                    page = MetricsPage(b"".join(exporter.render(openmetrics=False)).decode())
                    return page.values("braze_custom_events_by_app_total", event="purchase", braze_app=app)

        assert totals("{event: purchase, apps: [ios]}", "ios", 7, 5) == [12]
        assert totals("{event: signup}\n{event: purchase, apps: [all, ios]}", "iphone", 3) == [3]
        assert totals("{event: signup}", "ios") == []
        assert totals("{event: purchase, apps: [ios]}", "ios", 1) == [16]


@pytest.mark.parametrize(("days", "total"), [(99, 5), (101, 0)])
def test_returning_event_restarts_or_continues(days: int, total: float) -> None:
    """A counter that returns continues, or restarts at 0 after more than 100 days."""
    recorded = RecordedCounts(events=["purchase", "signup"])
    with running_exporter("{event: purchase}\n{event: signup}", recorded) as exporter:
        exporter.skip_first_scrape()
        recorded.set("signup", CURRENT_HOUR, 5)
        assert exporter.scrape().value("braze_custom_events_total", event="signup") == 5
        exporter.apply_config("{event: purchase}")
        exporter.clock.advance(days * DAY)
        recorded.set("purchase", CURRENT_HOUR + days * DAY, 1)
        exporter.scrape()
        exporter.apply_config("{event: purchase}")
        exporter.apply_config("{event: purchase}\n{event: signup}")
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_custom_events_total", event="signup") == total


@pytest.mark.parametrize(("many", "is_saved"), [(3, True), (MAX_UNSAVED, False)])
def test_refresh_saves_many_changes(monkeypatch: pytest.MonkeyPatch, many: int, *, is_saved: bool) -> None:
    """Many changes are saved while other queries are fetched; few are saved when the page is rendered."""
    monkeypatch.setattr("braze_exporter.metrics.counters.MAX_UNSAVED", many)
    monkeypatch.setattr("braze_exporter.state.writer.WRITE_INTERVAL_SECONDS", 60)
    names = [f"event {number}" for number in range(6)]
    events = "\n".join(f"{{event: {name}}}" for name in names)
    with running_exporter(events, RecordedCounts(events=names), extra_yaml="budget: {concurrency: 1}\n") as exporter:
        exporter.refresh()
        counters = exporter.exporter._counters  # noqa: SLF001 - the page looks the same, but took longer
        if is_saved:
            wait_until(lambda: counters.revision > 0, "the counters are saved")
        assert (counters.revision > 0) is is_saved
