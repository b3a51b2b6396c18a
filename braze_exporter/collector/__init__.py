"""Readings + ledger → what Prometheus scrapes."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from braze_exporter.cache import Cache, Entry, Reading
from braze_exporter.catalog import GAUGES, Family, Query, Unit, counter, gauge
from braze_exporter.collector.exposition import header, labels_text, sample
from braze_exporter.collector.instruments import OWN, Instruments
from braze_exporter.collector.lessons import revision_ages, timezone_mismatch
from braze_exporter.ledger import Ledger
from braze_exporter.plan import bucket_number, oldest_asked
from braze_exporter.plan import settled as newest_settled

__all__ = ["OWN", "QUERIES", "UP", "Collector", "Instruments", "State", "gauges_of", "is_stale", "state_of"]

SeriesLabels = tuple[tuple[str, str], ...]

UP = Family(
    "braze_up", "gauge", "Whether any query's last fetch was answered (1), or none of those tried (0).", ("workspace",)
)
QUERIES = Family(
    "braze_exporter_queries", "gauge", "Queries of the plan by their state.", ("workspace", "kind", "state")
)


class State(StrEnum):
    """How a query stands; of several that apply, the first."""

    PENDING = "pending"
    STALE = "stale"
    DEFERRED = "deferred"
    FAILED = "failed"
    UP = "up"


def state_of(entry: Entry, now: float) -> State:
    """Return the state of a query at `now`, on the monotonic clock."""
    reading = entry.reading
    if reading is None:
        return State.PENDING
    if is_stale(entry, now):
        return State.STALE
    if entry.deferred:
        return State.DEFERRED
    return State.FAILED if reading.error else State.UP


def is_stale(entry: Entry, now: float) -> bool:
    """Return whether the answer that is held is too old to be shown."""
    return now >= _expiry(entry)


def _expiry(entry: Entry) -> float:
    reading = entry.reading
    answered = None if reading is None else reading.answered_monotonic
    return float("inf") if answered is None else answered + entry.query.max_age


@dataclass(slots=True)
class _Shown:
    """One series of a query: its finished labels, and the last known starts of its latest and its settled bucket.

    The starts outlive the answer that they came from.
    """

    labels: str
    latest_start: int | None = None
    settled_start: int | None = None


@dataclass(slots=True, eq=False)
class _Row:
    """What is shown of one query: the sample lines of its gauges, written when something changes."""

    entry: Entry
    gauges: tuple[Family, ...]
    labels: str
    counter: Family | None = None
    series: dict[SeriesLabels, _Shown] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    stale: bool = False


class Collector:
    """Renders the page of metrics. Thread-safe; whatever Braze did, rendering does not raise."""

    def __init__(self, cache: Cache, ledger: Ledger, instruments: Instruments, monotonic: Callable[[], float]) -> None:
        """Show the queries of `cache`, whose readings are taken into `ledger` from now on."""
        self._cache = cache
        self._ledger = ledger
        self._instruments = instruments
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._groups, self._counters = _rows(cache.entries)
        self._rows = {row.entry: row for _, rows in self._groups for row in rows}
        for row in self._rows.values():
            self._write(row)
        self._revision = (-1, -1)
        self._valid_until = float("-inf")
        self._sections: list[tuple[Family, str]] = []
        self._bodies: dict[bool, bytes] = {}
        cache.subscribe(self._take)

    def render(self, *, openmetrics: bool) -> bytes:
        """Return all metrics in the text format 0.0.4, or in OpenMetrics 1.0.0."""
        return self._queries_body(openmetrics=openmetrics) + self._instruments.render(openmetrics=openmetrics)

    def _queries_body(self, *, openmetrics: bool) -> bytes:
        """Return what depends on the readings; it is made anew only after something of it has changed."""
        self._ledger.save()
        with self._lock:
            now = self._monotonic()
            revision = (self._cache.revision, self._ledger.revision)
            if self._revision != revision or now >= self._valid_until:
                self._revision = revision
                self._age(now)
                self._sections = list(self._join(now))
                self._bodies = {}
            if openmetrics not in self._bodies:
                text = "".join(header(family, openmetrics=openmetrics) + lines for family, lines in self._sections)
                self._bodies[openmetrics] = text.encode()
            return self._bodies[openmetrics]

    def _take(self, entry: Entry, before: Reading | None) -> None:
        """Take in a new reading: count what is new in an answer, learn from it, and write its lines."""
        row, query, reading = self._rows[entry], entry.query, entry.reading
        if reading is not None and reading.error is None and reading.sent_at is not None:
            self._learn(query, reading, before)
            if row.counter is not None:
                for series in reading.series:
                    buckets = [(bucket_number(start, query.unit, query.zone), value) for start, value in series.points]
                    subject = _subject(query, series.labels)
                    oldest = oldest_asked(query, reading.sent_at)
                    self._ledger.record(subject, query.unit, buckets, oldest, reading.sent_at)
        with self._lock:
            row.stale = row.stale and reading is not None and reading.error is not None
            self._write(row)

    def _learn(self, query: Query, reading: Reading, before: Reading | None) -> None:
        """Tell the instruments how late Braze revises, and whether its days are those of the configured zone."""
        for age in revision_ages(query, before, reading):
            self._instruments.observe_revision(query, age)
        mismatch = timezone_mismatch(query, reading)
        if mismatch is not None:
            self._instruments.note_timezone(query, mismatch=mismatch)

    def _age(self, now: float) -> None:
        """Hide the values that have become too old, and note when the next will."""
        self._valid_until = float("inf")
        for row in self._rows.values():
            stale = is_stale(row.entry, now)
            if stale != row.stale:
                row.stale = stale
                self._write(row)
            if not stale:
                self._valid_until = min(self._valid_until, _expiry(row.entry))

    def _write(self, row: _Row) -> None:
        """Write the lines of a row: for each of its families, those of all its series."""
        query, reading = row.entry.query, row.entry.reading
        latest, latest_start, settled, settled_start, up, last_success = names = [family.name for family in row.gauges]
        lines: dict[str, list[str]] = {name: [] for name in names}
        if reading is not None:
            lines[up].append(sample(up, row.labels, 0.0 if reading.error else 1.0))
            for series in reading.series:
                shown = row.series.setdefault(series.labels, _Shown(labels_text((*query.labels, *series.labels))))
                newest = series.points[-1] if series.points else None
                done = newest_settled(series.points, query, reading.sent_at or 0.0)
                if newest is not None:
                    shown.latest_start = newest.start
                    lines[latest] += [] if row.stale else [sample(latest, shown.labels, newest.value)]
                if done is not None:
                    shown.settled_start = done.start
                    lines[settled] += [] if row.stale else [sample(settled, shown.labels, done.value)]
        answered_at = reading.answered_at if reading is not None else None
        lines[last_success].append(sample(last_success, row.labels, answered_at or 0.0))
        for shown in row.series.values():
            if shown.latest_start is not None:
                lines[latest_start].append(sample(latest_start, shown.labels, shown.latest_start))
            if shown.settled_start is not None:
                lines[settled_start].append(sample(settled_start, shown.labels, shown.settled_start))
        row.lines = tuple("".join(found) for found in lines.values())

    def _totals(self, family: Family, rows: Iterable[_Row]) -> str:
        """Return the lines of a counter. What may be shown of it changes when it is saved, not when it is read."""
        return "".join(
            [
                sample(family.name, shown.labels, self._ledger.total(_subject(row.entry.query, labels)))
                for row in rows
                for labels, shown in row.series.items()
            ]
        )

    def _join(self, now: float) -> Iterator[tuple[Family, str]]:
        """Yield every family with all its lines."""
        for gauges, rows in self._groups:
            for index, family in enumerate(gauges):
                yield family, "".join([row.lines[index] for row in rows])
        for family, rows in self._counters:
            yield family, self._totals(family, rows)
        yield from self._summary(now)

    def _summary(self, now: float) -> Iterator[tuple[Family, str]]:
        """Yield what sums up the queries: by workspace, and by state."""
        counts: dict[tuple[str, str, State], int] = {}
        answered: dict[str, bool] = {}
        for entry in self._rows:
            workspace, kind = entry.query.workspace, entry.query.kind.section
            for state in State:
                counts.setdefault((workspace, kind, state), 0)
            counts[workspace, kind, state_of(entry, now)] += 1
            if entry.reading is not None:
                answered[workspace] = answered.get(workspace, False) or entry.reading.error is None
        yield (
            UP,
            "".join(
                sample(UP.name, labels_text([("workspace", workspace)]), float(up))
                for workspace, up in answered.items()
            ),
        )
        yield (
            QUERIES,
            "".join(
                sample(QUERIES.name, labels_text(zip(QUERIES.labels, key, strict=True)), count)
                for key, count in counts.items()
            ),
        )


def gauges_of(query: Query) -> tuple[Family, ...]:
    """Return the gauge families that a query feeds, in the order of `GAUGES`."""
    return tuple(gauge(query.kind, query.noun, query.unit, measure) for measure in GAUGES)


def _rows(
    entries: Iterable[Entry],
) -> tuple[list[tuple[tuple[Family, ...], list[_Row]]], list[tuple[Family, list[_Row]]]]:
    """Return the rows of the entries, grouped by the families of their gauges, and those with a counter by its family.

    A counter exists once for each subject and app, fed by the finest unit. Whether a segment's series counts
    occurrences or users is not known, so there is none for those.
    """
    groups: dict[tuple[str, Unit], tuple[tuple[Family, ...], list[_Row]]] = {}
    finest: dict[tuple[str, ...], _Row] = {}
    for entry in entries:
        query = entry.query
        gauges, rows = groups.setdefault((query.noun.name, query.unit), (gauges_of(query), []))
        row = _Row(entry, gauges, labels_text(query.labels))
        row.series[()] = _Shown(row.labels)
        rows.append(row)
        subject = query.identity[:-1]
        if not query.segment_id:
            known = finest.setdefault(subject, row)
            if query.unit.seconds < known.entry.query.unit.seconds:
                finest[subject] = row
    counters: dict[str, tuple[Family, list[_Row]]] = {}
    for row in finest.values():
        query = row.entry.query
        family, rows = counters.setdefault(query.noun.name, (counter(query.kind, query.noun), []))
        row.counter = family
        rows.append(row)
    return list(groups.values()), list(counters.values())


def _subject(query: Query, labels: SeriesLabels) -> tuple[str, ...]:
    """Return what a counter is of: the query in Braze's own ids, and what tells its series apart."""
    return (*query.counted, *(part for pair in labels for part in pair))
