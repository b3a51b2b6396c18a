"""Runs the real exporter through virtual time and checks each page against what Braze sent over the connection.

The checks do not use the exporter's calculations. The expected samples follow from the content of each response and
the time of its request. A missing sample, an extra sample or a different value is a failure.
"""

import contextlib
import re
import resource
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import pytest
from accuracy_model import EVENTS, EventModel, ExpectedQuery, RecordedExchange, SimulatedConnection
from simulated_braze import FaultInjectingBraze
from support import HOUR, IOS, KEY, NEW_YORK, Clock, workspace_yaml

from braze_exporter.braze import transport
from braze_exporter.braze.kinds import Unit
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.state import writer
from braze_exporter.state.state_file import StateFile, open_state_file

MAX_LENGTH = 100
# Enough to contain the newest settled bucket with a `settle` of one or two hours: 1 bucket, plus 3.
SHORT_LENGTH = 4
HOLD_SECONDS = 120.0

QUERIES = (
    ExpectedQuery("purchase", Unit.HOUR),
    ExpectedQuery("purchase", Unit.HOUR, IOS),
    # The counter of `purchase` is computed from its hourly query.
    ExpectedQuery("purchase", Unit.DAY, settle=2 * HOUR, max_age=6 * HOUR, has_counter=False),
    ExpectedQuery("signup", Unit.DAY, settle=2 * HOUR, max_age=6 * HOUR),
)
COUNTER_QUERIES = tuple(query for query in QUERIES if query.has_counter)
_EVENTS = """
{event: purchase, apps: [all, ios]}
{event: purchase, unit: day}
{event: signup, unit: day}
"""
# With one connection, queries are fetched in the same order in each run. Days are fetched rarely, so that their
# `max_age` is twice the refresh interval.
DAYS_REFRESH_SECONDS = 3 * HOUR
_SETTINGS = "refresh_interval: {day: 3h}\nbudget: {concurrency: 1}\n"
_SAMPLE = re.compile(r"^(braze_(?:custom_events|query)_(?!unlisted)\w+){(.*)} (\S+)$", re.MULTILINE)
_UP = re.compile(r"^braze_up{.*} (\S+)$", re.MULTILINE)

# The value of each sample on a page, by family name and labels.
Samples = Mapping[tuple[str, str], float]


class ExpectedCounter:
    """Reference implementation of a counter.

    The first response counts 0. If it is empty, the buckets that had settled are unknown, and the others start at 0. A
    rise is added, a fall is not subtracted, and a later rise counts only above the highest value seen.
    """

    def __init__(self) -> None:
        self.total = 0
        self.oldest: int | None = None
        self.first: dict[int, int] = {}
        self.highest: dict[int, int] = {}
        self.unread: set[int] = set()

    def add_response(self, values: Mapping[int, int], oldest_requested: int, unread: Iterable[int]) -> None:
        """Count the buckets of a response.

        In the first response, its buckets and those in `unread` are recorded without counting.
        """
        if self.oldest is None:
            self.unread = {*unread}
            self.oldest = min(self.unread, default=min(values, default=oldest_requested))
            self.first, self.highest = dict(values), dict(values)
        for bucket, value in values.items():
            if bucket in self.unread:
                self.unread.remove(bucket)
                self.highest[bucket] = value
            seen = self.highest.get(bucket, 0)
            if bucket >= self.oldest and value > seen:
                self.total += value - seen
                self.highest[bucket] = value


@dataclass
class ExpectedState:
    """The expected state of a query, derived from the exchanges on the connection. The state file keeps it."""

    up: bool | None = None
    response: RecordedExchange | None = None
    values: Mapping[int, int] = field(default_factory=dict)
    completed_at: float | None = None
    is_alternating: bool = False
    is_short_next: bool = False
    latest: int | None = None
    settled: int | None = None


@dataclass
class CounterHistory:
    """The times of the responses to a query while the exporter kept its counter, and the last value of the counter."""

    oldest: int
    times: list[float] = field(default_factory=list)
    last_total: float = 0.0


@dataclass(frozen=True)
class SavedState:
    """What the state file has, with which the next start continues, and its content.

    `requested_at` is when the last response in it was requested. A start requests data back to that time.
    """

    states: Mapping[ExpectedQuery, ExpectedState] = field(
        default_factory=lambda: {query: ExpectedState() for query in QUERIES}
    )
    requested_at: Mapping[ExpectedQuery, float] = field(default_factory=dict)
    rejected_at: float | None = None
    files: Mapping[Path, bytes] = field(default_factory=dict)


class AccuracyRun:
    """Runs the exporter against a simulated Braze without sockets. Both can have faults."""

    def __init__(self, model: EventModel, start: float, directory: Path | None) -> None:
        """Start at the time `start`, with a state file in `directory`, or without a state file if that is None."""
        self.model = model
        self.clock = Clock(start)
        self.braze = FaultInjectingBraze(
            key=KEY, traffic=model, clock=self.clock.wall, zone=NEW_YORK, apps=(IOS,), segments=()
        )
        self.connection = SimulatedConnection(self.braze, self.clock, self._on_exchange)
        self.is_running = False
        self.is_scraped = True
        self._is_disk_full = False
        self.scrapes = 0
        self.calls: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.counter_histories: dict[ExpectedQuery, list[CounterHistory]] = {query: [] for query in QUERIES}
        self._session = transport.open_session(1)
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(writer, "WRITE_INTERVAL_SECONDS", 1e6)  # only pages and rejections cause writes
        self._session.mount("http://", self.connection)
        self._config = load_config(
            workspace_yaml("http://127.0.0.1", _EVENTS, extra_yaml=_SETTINGS), "config.yaml", {"BRAZE_API_KEY": KEY}
        )
        self._file = directory / "state.sqlite" if directory else None
        self._exporter: Exporter | None = None
        self._store: StateFile | None = None
        self._states: Mapping[ExpectedQuery, ExpectedState]
        self._requested_at: dict[ExpectedQuery, float]
        self._rejected_at: float | None
        self._saved = SavedState()
        self._expected_counters = {query: ExpectedCounter() for query in COUNTER_QUERIES}
        self._last_totals = dict.fromkeys(COUNTER_QUERIES, 0.0)
        # Responses that came after the last write of the state file.
        self._unwritten: list[tuple[ExpectedQuery, RecordedExchange, Mapping[int, int]]] = []
        self.lost_responses = 0
        self._problems: list[str] = []
        self.start()

    def start(self) -> None:
        """Start the exporter with the state that it left, and check the first page before any fetch."""
        self.is_running = True
        self._states = {query: replace(state) for query, state in self._saved.states.items()}
        self._requested_at, self._rejected_at = dict(self._saved.requested_at), self._saved.rejected_at
        self._store = open_state_file(str(self._file)) if self._file else None
        self._exporter = Exporter(self._store, clock=self.clock, jitter=lambda: 1.0, reads_lists=False)
        self._exporter.apply_config(self._config, build_plan(self._config), self._session)
        self.check_page()

    def stop(self, *, how: str = "ended", keep: bool = True) -> None:
        """Stop the exporter, by a clean shutdown or as by kill -9, and keep or delete its state file.

        `how` is `ended` or `killed`. A killed exporter leaves the state file as it was after the last page.
        """
        assert self._exporter is not None
        with self._disk():
            self._exporter.close()
        if self._store is not None:
            self._store.close()
        if how == "ended" and not self._is_disk_full:
            self._record_write()
        for path in self._files():
            if not keep or how == "killed":
                path.unlink()
        keep = keep and self._file is not None
        manner = f"{how}, state {'kept' if keep else 'lost'}"
        self.restarts[manner] = self.restarts.get(manner, 0) + 1
        if not keep:
            self._saved = SavedState()
            self._expected_counters = {query: ExpectedCounter() for query in COUNTER_QUERIES}
            self._last_totals = dict.fromkeys(COUNTER_QUERIES, 0.0)
        elif how == "killed":
            for path, content in self._saved.files.items():
                path.write_bytes(content)
        self.lost_responses += len(self._unwritten)
        self._unwritten = []
        self._exporter = self._store = None
        self.is_running = False

    def close(self) -> None:
        """Close the exporter, the state file and the session."""
        if self._exporter is not None:
            self._exporter.close()
        if self._store is not None:
            self._store.close()
        self._session.close()
        self._patch.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetch_due(self) -> None:
        """Fetch the due queries without rendering a page, like a scrape whose client disconnects early."""
        assert self._exporter is not None
        with self._disk():
            self._exporter.refresh().result(timeout=10)

    def scrape(self) -> Samples:
        """Fetch the due queries, then check the page and return its samples."""
        self.scrapes += 1
        self.fetch_due()
        return self.check_page()

    def check_page(self, *, writes: bool = True) -> Samples:
        """Check the current page and return its samples.

        Without `writes`, it is like the page of a scrape that stops waiting for the disk: its totals must be those of
        the last write.
        """
        assert self._exporter is not None
        with self._disk():
            if writes:
                self._exporter.save().result(10)
            text = b"".join(self._exporter.render(openmetrics=False)).decode()
        if writes and not self._is_disk_full:
            self._record_write()
        samples = {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(text)}
        self._check_totals(samples)
        expected = dict(self._expected())
        for key in sorted(samples.keys() | expected.keys()):
            if samples.get(key) != expected.get(key):
                self._add_problem(f"{key} is {samples.get(key)} and should be {expected.get(key)}")
        for query in QUERIES:
            self._check_value(query, samples)
        up = _UP.findall(text)
        tried = [up for up in map(self._is_up, self._states.values()) if up is not None]
        if [float(value) for value in up] != [float(any(tried))] * bool(tried):
            self._add_problem(f"braze_up is {up}, and the queries are {tried}")
        assert not self._problems, "\n".join(self._problems)
        return samples

    @property
    def can_check_page(self) -> bool:
        """Whether checking the page has no side effect: rendering writes pending responses unless the disk is full."""
        return not self._unwritten or self._is_disk_full

    def fill_disk(self) -> None:
        """Make all writes to the state file fail from now on. The counters must then not change."""
        self.check_page()
        self._is_disk_full = True

    def free_disk(self) -> None:
        """Make writes to the state file succeed again."""
        self._is_disk_full = False

    def age(self, query: ExpectedQuery) -> float:
        """Return the age in seconds of the last response to a query, or infinity without one."""
        response = self._states[query].response
        return self.clock.now - response.received_at if response else float("inf")

    def is_up(self, query: ExpectedQuery) -> bool:
        """Return whether the last fetch of a query succeeded."""
        return self._states[query].up is True

    def _on_exchange(self, exchange: RecordedExchange) -> None:
        """Record a call.

        This runs in a thread of the exporter, so problems are kept for the check of the next page.
        """
        code = str(exchange.status or "none")
        self.calls[code] = self.calls.get(code, 0) + 1
        (query,) = (
            query
            for query in QUERIES
            if (query.event, query.unit, query.app_id) == (exchange.event, exchange.unit, exchange.app_id)
        )
        state = self._states[query]
        newest = query.newest(exchange.responded_at)
        exchange = replace(exchange, is_short=state.is_alternating and state.is_short_next)
        self._check_length(query, exchange)
        self._check_hold(exchange)
        # After a malformed response, full fetches alternate with short ones. A failing full fetch does not set `up` to
        # False while the short ones succeed.
        is_tolerated = (
            state.is_alternating and not exchange.is_short and (exchange.is_malformed or exchange.is_transient_failure)
        )
        if not is_tolerated:
            state.up = exchange.counts is not None
        if exchange.is_transient_failure:
            state.is_short_next = True
        elif exchange.is_malformed or exchange.counts is not None:
            state.is_short_next = not exchange.is_short
            state.is_alternating = exchange.is_malformed or exchange.is_short
        if exchange.counts is None:
            return
        if exchange.counts and not exchange.is_short:
            state.completed_at = exchange.requested_at
        buckets = range(newest - len(exchange.counts) + 1, newest + 1)
        values = {bucket: self.model.value(query, bucket, exchange.responded_at) for bucket in buckets}
        if sorted(values.values()) != sorted(exchange.counts):
            self._add_problem(f"the simulated Braze sent {exchange.counts} for {query}, and the model has {values}")
        state.response, state.values = exchange, values
        if values:
            state.latest = newest
            # A bucket is settled if the request was sent `settle` or more after its end. The newest bucket of a
            # response that runs up to now is never settled.
            settled = [b for b in values if query.start(b + 1) + query.settle <= exchange.requested_at and b != newest]
            state.settled = max(settled, default=state.settled)
        if query.has_counter:
            self._unwritten.append((query, exchange, values))
            if not exchange.is_short:
                self._requested_at[query] = exchange.requested_at

    def _check_hold(self, exchange: RecordedExchange) -> None:
        """Check that a 401 or 403 stops requests for `HOLD_SECONDS`, until a probe shows that the key is accepted."""
        if self._rejected_at is not None and exchange.requested_at < self._rejected_at + HOLD_SECONDS:
            self._add_problem(
                f"request at {exchange.requested_at}, within {HOLD_SECONDS} s of a 401 or 403 at {self._rejected_at}"
            )
        if exchange.status in (401, 403) or (self._rejected_at is not None and not exchange.is_key_accepted):
            self._rejected_at = exchange.received_at
        else:
            self._rejected_at = None

    def _is_up(self, state: ExpectedState) -> bool | None:
        """Return the expected `_up`: whether the last fetch succeeded, or False during a hold after a 401 or 403."""
        return state.up if self._rejected_at is None else False

    def _check_length(self, query: ExpectedQuery, exchange: RecordedExchange) -> None:
        """Check that a fetch requests at least the usual length and back past the last success, up to `MAX_LENGTH`."""
        complete_at = self._states[query].completed_at
        last = complete_at if complete_at is not None else self._requested_at.get(query)
        if exchange.is_short:
            if exchange.length != SHORT_LENGTH:
                self._add_problem(f"{exchange.length} buckets of {query} were requested, but a short fetch is due")
            return
        reaches = last is None or query.newest(exchange.requested_at) - exchange.length < query.newest(last)
        if not query.usual_length <= exchange.length <= MAX_LENGTH or not (reaches or exchange.length == MAX_LENGTH):
            self._add_problem(f"{exchange.length} buckets of {query} were requested; last success at {last}")

    def _check_totals(self, samples: Samples) -> None:
        """Check that no counter fell, also across a restart: a page shows only totals that the state file has."""
        for query in COUNTER_QUERIES:
            total = samples.get((_name(query, "total"), _labels(query)), 0.0)
            if total < self._last_totals[query]:
                self._add_problem(f"the counter of {query} fell from {self._last_totals[query]} to {total}")
            self._last_totals[query] = total
            if self._expected_counters[query].oldest is not None:
                self.counter_histories[query][-1].last_total = total

    def _record_write(self) -> None:
        """Count the responses since the last write, and record what the state file has now."""
        for query, exchange, values in self._unwritten:
            self._count_exchange(query, exchange, values)
        self._unwritten = []
        states = {query: replace(state) for query, state in self._states.items()}
        self._saved = SavedState(states, dict(self._requested_at), self._rejected_at, self._files())

    def _count_exchange(self, query: ExpectedQuery, exchange: RecordedExchange, values: Mapping[int, int]) -> None:
        """Count a response that was written to the state file."""
        oldest_requested = query.newest(exchange.responded_at) - exchange.length + 1
        expected_counter = self._expected_counters[query]
        if expected_counter.oldest is None:
            self.counter_histories[query].append(CounterHistory(oldest_requested))
        oldest = query.newest(exchange.responded_at) - query.usual_length + 1
        end = oldest
        if exchange.is_short:
            end = min(values, default=query.newest(exchange.responded_at) + 1)
        elif not values:
            end = query.newest(exchange.requested_at - query.settle)
        unread = range(oldest, end)
        expected_counter.add_response(values, oldest_requested, unread)
        if values:
            self.counter_histories[query][-1].times.append(exchange.responded_at)

    def _expected(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield each sample that must be on the page."""
        for query, state in self._states.items():
            labels, query_labels, response = _labels(query), _query_labels(query), state.response
            up = self._is_up(state)
            if up is not None:
                yield ("braze_query_up", query_labels), float(up)
            last_success = response.received_at if response else 0.0
            yield ("braze_query_last_success_timestamp_seconds", query_labels), last_success
            yield ("braze_query_max_age_seconds", query_labels), query.max_age
            for measure, bucket in (("latest", state.latest), ("settled", state.settled)):
                if bucket is None:
                    continue
                yield (f"braze_query_{measure}_bucket_start_timestamp_seconds", query_labels), query.start(bucket)
                if self.age(query) < query.max_age and bucket in state.values:
                    yield (_name(query, measure), labels), state.values[bucket]
        for query, expected_counter in self._expected_counters.items():
            yield (_name(query, "total"), _labels(query)), expected_counter.total

    def _check_value(self, query: ExpectedQuery, samples: Samples) -> None:
        """Check the values of a query directly against the event model."""
        labels, response = _labels(query), self._states[query].response
        for measure in ("latest", "settled"):
            value = samples.get((_name(query, measure), labels))
            start = samples.get((f"braze_query_{measure}_bucket_start_timestamp_seconds", _query_labels(query)))
            if value is None:
                continue
            assert response is not None
            if start is None or self.age(query) >= query.max_age:
                self._add_problem(f"the {measure} value of {query} has no bucket start, or is {self.age(query)} s old")
                continue
            bucket = query.newest(start)
            if value != self.model.value(query, bucket, response.responded_at):
                self._add_problem(f"the {measure} value of {query} was not Braze's at {response.responded_at}: {value}")
            current = query.newest(response.responded_at)
            if measure == "latest" and bucket != current:
                self._add_problem(f"the latest bucket of {query} is {bucket}, but {current} is in progress")
            if measure == "settled" and (
                bucket >= current or query.start(bucket + 1) + query.settle > response.requested_at
            ):
                self._add_problem(
                    f"the bucket {bucket} of {query}, requested at {response.requested_at}, is exported as settled"
                )

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Make all file writes of this process fail during the block if the simulated disk is full."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if self._is_disk_full and self._file else soft, hard))
        try:
            yield
            if self._is_disk_full and self._exporter is not None:
                self._exporter.save().result(10)  # no write succeeds after the block
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def _add_problem(self, problem: str) -> None:
        self._problems.append(f"{datetime.fromtimestamp(self.clock.now, NEW_YORK)}: {problem}")

    def _files(self) -> dict[Path, bytes]:
        """Return the contents of the state file and of the files that SQLite may have created beside it."""
        if self._file is None:
            return {}
        result = {}
        for suffix in ("", "-journal", "-wal", "-shm"):
            path = self._file.with_name(self._file.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                result[path] = path.read_bytes()
        return result


def _name(query: ExpectedQuery, measure: str) -> str:
    metric_group = "braze_custom_events_by_app" if query.app_id else "braze_custom_events"
    return f"{metric_group}_{measure}" if measure == "total" else f"{metric_group}_{_ADVERBS[query.unit]}_{measure}"


_ADVERBS = {Unit.HOUR: "hourly", Unit.DAY: "daily"}
assert set(EVENTS) == {query.event for query in QUERIES}


def _labels(query: ExpectedQuery) -> str:
    event = f'event="{query.event}",workspace="production"'
    return f'braze_app="ios",{event}' if query.app_id else event


def _query_labels(query: ExpectedQuery) -> str:
    return (
        f'braze_app="{"ios" if query.app_id else ""}",campaign="",campaign_id="",canvas="",canvas_id="",'
        f'event="{query.event}",kind="custom_events",product="",segment="",unit="{query.unit}",workspace="production"'
    )
