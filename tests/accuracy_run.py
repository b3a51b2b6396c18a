"""Runs the real exporter through virtual time and checks each page against what Braze sent over the connection.

The checks follow the design document and use no calculation of the exporter. They use what each response contained and
when it was requested. A missing sample, an extra sample or a different value is a failure.
"""

import contextlib
import re
import resource
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from accuracy_model import EVENTS, EventModel, Exchange, ExpectedQuery, SimulatedConnection
from simulated_braze import FaultInjectingBraze
from support import HOUR, IOS, KEY, NEW_YORK, Clock, workspace_yaml

from braze_exporter.braze import transport
from braze_exporter.braze.kinds import Unit
from braze_exporter.config.loading import load_config
from braze_exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.state import StateFile, open_state_file

MAX_LENGTH = 100
# Enough to contain the newest settled bucket with a `settle` of one or two hours: 1 bucket, plus 3.
SHORT = 4
HOLD = 120.0

WATCHES = (
    ExpectedQuery("purchase", Unit.HOUR),
    ExpectedQuery("purchase", Unit.HOUR, IOS),
    ExpectedQuery("purchase", Unit.DAY, settle=2 * HOUR, max_age=6 * HOUR, counted=False),  # its hours feed the counter
    ExpectedQuery("signup", Unit.DAY, settle=2 * HOUR, max_age=6 * HOUR),
)
COUNTED = tuple(watch for watch in WATCHES if watch.counted)
_EVENTS = """
{event: purchase, apps: [all, ios]}
{event: purchase, unit: day}
{event: signup, unit: day}
"""
# With one connection, queries are fetched in the same order in each run. Days are fetched rarely, so that their
# `max_age` is twice the refresh interval.
DAYS_REFRESH = 3 * HOUR
_REST = "refresh: {day: 3h}\nbudget: {concurrency: 1}\n"
_SAMPLE = re.compile(r"^(braze_custom_events\w+){(.*)} (\S+)$", re.MULTILINE)
_UP = re.compile(r"^braze_up{.*} (\S+)$", re.MULTILINE)

# The value of each sample on a page, by family name and labels.
Samples = Mapping[tuple[str, str], float]


class ExpectedCounter:
    """Reference implementation of a counter, written from the design.

    The first response is recorded and counts 0. If it is empty, the buckets that were requested start at 0. A rise is
    added, a fall is not subtracted, and a later rise counts only above the highest value seen.
    """

    def __init__(self) -> None:
        self.total = 0
        self.oldest: int | None = None
        self.first: dict[int, int] = {}
        self.most: dict[int, int] = {}
        self.unread: set[int] = set()

    def add_response(self, info: Mapping[int, int], oldest_asked: int, unread: Iterable[int]) -> None:
        """Count the buckets of a response.

        In the first response, its buckets and those in `unread` are recorded without counting.
        """
        if self.oldest is None:
            self.unread = {*unread}
            self.oldest = min(self.unread, default=min(info, default=oldest_asked))
            self.first, self.most = dict(info), dict(info)
        for bucket, value in info.items():
            if bucket in self.unread:
                self.unread.remove(bucket)
                self.most[bucket] = value
            seen = self.most.get(bucket, 0)
            if bucket >= self.oldest and value > seen:
                self.total += value - seen
                self.most[bucket] = value


@dataclass
class ExpectedState:
    """What the exporter must have for a query since it was started, judging by the exchanges on the connection."""

    up: bool | None = None
    answer: Exchange | None = None
    told: Mapping[int, int] = field(default_factory=dict)
    complete_at: float | None = None
    alternates: bool = False
    is_short_next: bool = False
    latest: int | None = None
    settled: int | None = None


@dataclass
class ReceivedResponse:
    """The responses to one query during the life of a counter, from one loss of the state to the next."""

    oldest: int
    times: list[float] = field(default_factory=list)
    shown: float = 0.0


class AccuracyRun:
    """Runs the exporter against a simulated Braze without sockets, with faults in either of them."""

    def __init__(self, world: EventModel, start: float, directory: Path | None) -> None:
        """Start at the time `start`, with a state file in `directory`, or without a state file if that is None."""
        self.world = world
        self.clock = Clock(start)
        self.braze = FaultInjectingBraze(
            key=KEY, traffic=world, clock=self.clock.wall, zone=NEW_YORK, apps=(IOS,), segments=()
        )
        self.wire = SimulatedConnection(self.braze, self.clock, self._note)
        self.is_running = False
        self.is_watched = True
        self._is_disk_full = False
        self.scrapes = 0
        self.calls: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.lives: dict[ExpectedQuery, list[ReceivedResponse]] = {watch: [] for watch in WATCHES}
        self._session = transport.open_session(1)
        self._session.mount("http://", self.wire)
        self._config = load_config(
            workspace_yaml("http://127.0.0.1", _EVENTS, extra_yaml=_REST), "config.yaml", {"BRAZE_API_KEY": KEY}
        )
        self._file = directory / "state.sqlite" if directory else None
        self._exporter: Exporter | None = None
        self._store: StateFile | None = None
        self._held = {watch: ExpectedState() for watch in WATCHES}
        self._tallies = {watch: ExpectedCounter() for watch in COUNTED}
        self._shown = dict.fromkeys(COUNTED, 0.0)
        # Responses that came after the last page. It is not known yet whether they were written to the state file.
        self._unwritten: list[tuple[ExpectedQuery, Exchange, Mapping[int, int]]] = []
        # When the last response in the state file was requested. A start with state requests data back to that time.
        self._asked = dict[ExpectedQuery, float]()
        self._problems: list[str] = []
        self.start()

    def start(self) -> None:
        """Start the exporter with the state that it left, and check the first page before any fetch."""
        self.is_running = True
        self._held = {watch: ExpectedState() for watch in WATCHES}
        self._refused_at: float | None = None
        self._store = open_state_file(str(self._file)) if self._file else None
        self._exporter = Exporter(
            self._store, wall=self.clock.wall, monotonic=self.clock.monotonic, jitter=lambda: 1.0, reads_lists=False
        )
        self._exporter.apply_config(self._config, build_plan(self._config), self._session)
        self.check_page(is_first=True)

    def stop(self, *, how: str = "ended", keep: bool = True) -> None:
        """Stop the exporter, by a clean shutdown or by a simulated power cut, and keep or delete its state file.

        `how` is `ended` or `killed`.
        """
        assert self._exporter is not None
        if any(tally.oldest is None for tally in self._tallies.values()):
            self.empty_disk()
            self.check_page()  # no page shows whether the very first response was written
        left = self._files() if how == "killed" else {}
        self._exporter.close()
        if self._store is not None:
            self._store.close()
        if how == "killed":  # restore the files, because the shutdown may have written to them
            for path in self._files():
                path.unlink()
            for path, content in left.items():
                path.write_bytes(content)
        keep = keep and self._file is not None
        manner = f"{how}, state {'kept' if keep else 'lost'}"
        self.restarts[manner] = self.restarts.get(manner, 0) + 1
        if not keep:
            for path in self._files():
                path.unlink()
            self._tallies = {watch: ExpectedCounter() for watch in COUNTED}
            self._shown = dict.fromkeys(COUNTED, 0.0)
            self._asked, self._unwritten = {}, []
        self._exporter = self._store = None
        self.is_running = False

    def close(self) -> None:
        """Close the exporter, the state file and the session."""
        if self._exporter is not None:
            self._exporter.close()
        if self._store is not None:
            self._store.close()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self) -> None:
        """Fetch the due queries without rendering a page, like a scrape whose client disconnects early."""
        assert self._exporter is not None
        with self._disk():
            self._exporter.refresh().result(timeout=10)

    def scrape(self) -> Samples:
        """Fetch the due queries, then check the page and return its samples."""
        self.scrapes += 1
        self.ask()
        return self.check_page()

    def check_page(self, *, is_first: bool = False) -> Samples:
        """Check the current page and return its samples."""
        assert self._exporter is not None
        with self._disk():
            text = self._exporter.render(openmetrics=False).decode()
        samples = {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(text)}
        self._check_counters(samples, is_first=is_first)
        expected = dict(self._expected())
        for key in sorted(samples.keys() | expected.keys()):
            if samples.get(key) != expected.get(key):
                self._add_problem(f"{key} is {samples.get(key)} and should be {expected.get(key)}")
        for watch in WATCHES:
            self._check_value(watch, samples)
        up = _UP.findall(text)
        tried = [up for up in map(self._is_up, self._held.values()) if up is not None]
        if [float(value) for value in up] != [float(any(tried))] * bool(tried):
            self._add_problem(f"braze_up is {up}, and the queries are {tried}")
        assert not self._problems, "\n".join(self._problems)
        return samples

    @property
    def can_check_page(self) -> bool:
        """Whether checking the page has no side effect: rendering writes pending responses unless the disk is full."""
        return not self._unwritten or self._is_disk_full

    def fill_disk(self) -> None:
        """Make all writes to the state file fail from now on; the counters must not change then."""
        self.check_page()
        self._is_disk_full = True

    def empty_disk(self) -> None:
        """Make writes to the state file succeed again."""
        self._is_disk_full = False

    def age(self, watch: ExpectedQuery) -> float:
        """Return the age in seconds of the last response to a query, or infinity without one."""
        response = self._held[watch].answer
        return self.clock.now - response.received_at if response else float("inf")

    def is_up(self, watch: ExpectedQuery) -> bool:
        """Return whether the last fetch of a query succeeded."""
        return self._held[watch].up is True

    def _note(self, exchange: Exchange) -> None:
        """Record a call.

        This runs in a thread of the exporter, so problems are kept for the check of the next page.
        """
        code = str(exchange.status or "none")
        self.calls[code] = self.calls.get(code, 0) + 1
        (watch,) = (
            watch
            for watch in WATCHES
            if (watch.event, watch.unit, watch.app_id) == (exchange.event, exchange.unit, exchange.app_id)
        )
        held = self._held[watch]
        newest = watch.newest(exchange.told_at)
        exchange = replace(exchange, is_short=held.alternates and held.is_short_next)
        self._check_length(watch, exchange)
        self._check_hold(exchange)
        # After a malformed response, full fetches alternate with short ones. A failing full fetch does not set `up` to
        # False while the short ones succeed.
        is_tolerated = held.alternates and not exchange.is_short and (exchange.is_malformed or exchange.is_trouble)
        if not is_tolerated:
            held.up = exchange.counts is not None
        if exchange.is_trouble:
            held.is_short_next = True
        elif exchange.is_malformed or exchange.counts is not None:
            held.is_short_next = not exchange.is_short
            held.alternates = exchange.is_malformed or exchange.is_short
        if exchange.counts is None:
            return
        if exchange.counts and not exchange.is_short:
            held.complete_at = exchange.asked_at
        buckets = range(newest - len(exchange.counts) + 1, newest + 1)
        info = {bucket: self.world.value(watch, bucket, exchange.told_at) for bucket in buckets}
        if sorted(info.values()) != sorted(exchange.counts):
            self._add_problem(f"the simulated Braze told {exchange.counts} of {watch}, and the world says {info}")
        held.answer, held.told = exchange, info
        if info:
            held.latest = newest
            # A bucket is settled if the request was sent `settle` or more after its end. The newest bucket of a
            # response that runs up to now is never settled.
            trusted = [b for b in info if watch.start(b + 1) + watch.settle <= exchange.asked_at and b != newest]
            held.settled = max(trusted, default=held.settled)
        if watch.counted:
            self._unwritten.append((watch, exchange, info))

    def _check_hold(self, exchange: Exchange) -> None:
        """Check that a 401 or 403 stops requests for `HOLD` seconds, until a probe shows that the key is accepted."""
        if self._refused_at is not None and exchange.asked_at < self._refused_at + HOLD:
            self._add_problem(f"asked at {exchange.asked_at}, after a refusal at {self._refused_at}")
        if exchange.status in (401, 403) or (self._refused_at is not None and not exchange.took_key):
            self._refused_at = exchange.received_at
        else:
            self._refused_at = None

    def _is_up(self, held: ExpectedState) -> bool | None:
        """Return the expected `_up`: whether the last fetch succeeded, or False during a hold after a 401 or 403."""
        return held.up if self._refused_at is None else False

    def _check_length(self, watch: ExpectedQuery, exchange: Exchange) -> None:
        """Check that a fetch requests at least the usual length and back past the last success, up to `MAX_LENGTH`."""
        complete_at = self._held[watch].complete_at
        last = complete_at if complete_at is not None else self._asked.get(watch)
        if exchange.is_short:
            if exchange.length != SHORT:
                self._add_problem(f"{exchange.length} buckets were asked of {watch}, and a short fetch is due")
            return
        reaches = last is None or watch.newest(exchange.asked_at) - exchange.length < watch.newest(last)
        if not watch.usual <= exchange.length <= MAX_LENGTH or not (reaches or exchange.length == MAX_LENGTH):
            self._add_problem(f"{exchange.length} buckets were asked of {watch}, last answered at {last}")

    def _check_counters(self, samples: Samples, *, is_first: bool) -> None:
        """Count the responses since the last page.

        On the first page after a start, the page shows whether the responses before the stop had been written.
        """
        for watch in COUNTED:
            news = [(exchange, info) for result, exchange, info in self._unwritten if result is watch]
            total = samples.get((_name(watch, "total"), _labels(watch)), 0.0)
            if total < self._shown[watch]:
                self._add_problem(f"the counter of {watch} fell from {self._shown[watch]} to {total}")
            self._shown[watch] = total
            if news and (self._is_disk_full or (is_first and total == self._tallies[watch].total)):
                for exchange, _ in news:  # they were not written, or they changed nothing
                    self._note_asked(watch, exchange)
                continue
            for exchange, info in news:
                self._record_exchanges(watch, exchange, info)
            if self._tallies[watch].oldest is not None:
                self.lives[watch][-1].shown = total
        if not self._is_disk_full:
            self._unwritten = []

    def _record_exchanges(self, watch: ExpectedQuery, exchange: Exchange, info: Mapping[int, int]) -> None:
        """Count a response that was written to the state file."""
        oldest_asked = watch.newest(exchange.told_at) - exchange.length + 1
        tally = self._tallies[watch]
        if tally.oldest is None:
            self.lives[watch].append(ReceivedResponse(oldest_asked))
        oldest = watch.newest(exchange.told_at) - watch.usual + 1
        unread = range(oldest, min(info, default=watch.newest(exchange.told_at) + 1)) if exchange.is_short else ()
        tally.add_response(info, oldest_asked, unread)
        self._note_asked(watch, exchange)
        if info:
            self.lives[watch][-1].times.append(exchange.told_at)

    def _note_asked(self, watch: ExpectedQuery, exchange: Exchange) -> None:
        if not exchange.is_short:
            self._asked[watch] = exchange.asked_at

    def _expected(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield each sample that must be on the page."""
        for watch, held in self._held.items():
            labels, response = _labels(watch), held.answer
            up = self._is_up(held)
            if up is not None:
                yield (_name(watch, "up"), labels), float(up)
            yield (_name(watch, "last_success_timestamp_seconds"), labels), response.received_at if response else 0.0
            for measure, bucket in (("latest", held.latest), ("settled", held.settled)):
                if bucket is None:
                    continue
                yield (_name(watch, f"{measure}_bucket_start_timestamp_seconds"), labels), watch.start(bucket)
                if self.age(watch) < watch.max_age and bucket in held.told:
                    yield (_name(watch, measure), labels), held.told[bucket]
        for watch, tally in self._tallies.items():
            yield (_name(watch, "total"), _labels(watch)), tally.total

    def _check_value(self, watch: ExpectedQuery, samples: Samples) -> None:
        """Check the values of a query directly against the event model."""
        labels, response = _labels(watch), self._held[watch].answer
        for measure in ("latest", "settled"):
            value = samples.get((_name(watch, measure), labels))
            start = samples.get((_name(watch, f"{measure}_bucket_start_timestamp_seconds"), labels))
            if value is None:
                continue
            assert response is not None
            if start is None or self.age(watch) >= watch.max_age:
                self._add_problem(
                    f"the {measure} value of {watch} is shown without its bucket, or {self.age(watch)} s old"
                )
                continue
            bucket = watch.newest(start)
            if value != self.world.value(watch, bucket, response.told_at):
                self._add_problem(f"the {measure} value of {watch} was never Braze's at {response.told_at}: {value}")
            running = watch.newest(response.told_at)
            if measure == "latest" and bucket != running:
                self._add_problem(f"the latest bucket of {watch} is {bucket}, and {running} is in progress")
            if measure == "settled" and (
                bucket >= running or watch.start(bucket + 1) + watch.settle > response.asked_at
            ):
                self._add_problem(
                    f"the bucket {bucket} of {watch} is shown as settled, asked for at {response.asked_at}"
                )

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Make all file writes of this process fail while the disk is meant to be full."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if self._is_disk_full and self._file else soft, hard))
        try:
            yield
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


def _name(watch: ExpectedQuery, measure: str) -> str:
    metric_group = "braze_custom_events_filtered" if watch.app_id else "braze_custom_events"
    return f"{metric_group}_{measure}" if measure == "total" else f"{metric_group}_{_ADVERBS[watch.unit]}_{measure}"


_ADVERBS = {Unit.HOUR: "hourly", Unit.DAY: "daily"}
assert set(EVENTS) == {watch.event for watch in WATCHES}


def _labels(watch: ExpectedQuery) -> str:
    event = f'event="{watch.event}"'
    return (
        f'braze_app="ios",{event},segment="",workspace="production"'
        if watch.app_id
        else f'{event},workspace="production"'
    )
