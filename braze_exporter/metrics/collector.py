"""Readings + ledger → what Prometheus scrapes."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from braze_exporter.braze.buckets import bucket_number, bucket_start, oldest_asked, starts
from braze_exporter.braze.kinds import Kind, Noun, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.metrics.counters import Ledger
from braze_exporter.metrics.data_quality import revision_ages, timezone_mismatch
from braze_exporter.metrics.exposition import header, labels_text, sample
from braze_exporter.metrics.families import Family, counter, info
from braze_exporter.metrics.rows import Row, View, expiry
from braze_exporter.metrics.self_metrics import QUERIES, UP, Instruments, State
from braze_exporter.scheduler.plan import counting
from braze_exporter.scheduler.polling import Cache
from braze_exporter.scheduler.query_state import Answer, Entry, Reading, place


def state_of(entry: Entry, now: float) -> State:
    """Return the state of a query at `now`, on the monotonic clock."""
    if entry.reading is None:
        return State.PENDING
    if now >= expiry(entry):
        return State.STALE
    if entry.deferred:
        return State.DEFERRED
    return State.FAILED if entry.error else State.UP


class Collector:
    """Renders the page of metrics. Thread-safe; whatever Braze did, rendering does not raise."""

    def __init__(self, cache: Cache, ledger: Ledger, instruments: Instruments, monotonic: Callable[[], float]) -> None:
        """Show the queries of `cache`, whose readings are taken into `ledger` from now on."""
        self._cache = cache
        self._ledger = ledger
        self._instruments = instruments
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._groups: list[tuple[tuple[Family, ...], list[Row]]] = []
        self._rows: dict[tuple[object, ...], Row] = {}
        self._counters: list[tuple[Family, Noun, list[Row]]] = []
        self._counting: set[Entry] = set()
        self._revision = (-1, -1)
        self._valid_until = float("-inf")
        self._sections: list[tuple[Family, str]] = []
        self._bodies: dict[bool, bytes] = {}
        cache.watch(self)

    def render(self, *, openmetrics: bool) -> bytes:
        """Return all metrics in the text format 0.0.4, or in OpenMetrics 1.0.0."""
        self._ledger.save()
        return self._queries_body(openmetrics=openmetrics) + self._instruments.render(openmetrics=openmetrics)

    def _queries_body(self, *, openmetrics: bool) -> bytes:
        """Return what depends on the readings; it is made anew only after something of it has changed."""
        with self._lock:
            now = self._monotonic()
            revision = (self._cache.revision, self._ledger.revision)
            if self._revision != revision or now >= self._valid_until:
                self._revision = revision
                self._sections = list(self._join(now))
                self._valid_until = min(
                    (expiry(row.entry) for row in self._rows.values() if not row.is_stale), default=float("inf")
                )
                self._bodies = {}
            if openmetrics not in self._bodies:
                text = "".join(header(family, openmetrics=openmetrics) + lines for family, lines in self._sections)
                self._bodies[openmetrics] = text.encode(errors="replace")  # one bad name is not to cost the page
            return self._bodies[openmetrics]

    def views(self) -> list[View]:
        """Return what the page of metrics shows of the queries, in the order of the plan, and ask for nothing."""
        with self._lock:
            now = self._monotonic()
            for row in self._rows.values():
                row.age(now)
            return [view for row in self._rows.values() for view in row.views(self._total_of(row))]

    def _total_of(self, row: Row) -> Callable[[Series], float | None]:
        query, counts = row.entry.query, row.entry in self._counting
        return lambda series: self._ledger.total(_subject(query, series)) if counts and series.is_counted else None

    def note_entries(self, entries: Sequence[Entry]) -> None:
        """Show these queries from now on; those that stayed go on with what is known of them."""
        with self._lock:
            rows = {place(entry.query): self._row(entry) for entry in entries}
            self._rows = rows
            self._groups = _grouped(rows.values())
            self._counters = _counters(rows.values())
            self._counting = {row.entry for *_, counting in self._counters for row in counting}
        self._ledger.forget_others({entry.query.counted for entry in entries})

    def _row(self, entry: Entry) -> Row:
        """Return the row of an entry: the one that is there, if its query is the same."""
        row = self._rows.get(place(entry.query))
        return row if row is not None and row.entry is entry and row.query == entry.query else Row(entry, row)

    def note_hold(self, entry: Entry) -> None:
        """Write the lines of an entry that is held, or not held any more."""
        with self._lock:
            self._rows[place(entry.query)].write()

    def note_reading(self, entry: Entry, before: Reading | None) -> None:
        """Take in a new reading: count what is new in an answer, learn from it, and write the lines."""
        reading = entry.reading
        answer = reading.answer if reading is not None and reading.error is None else None
        if answer is not None and not entry.background:
            self._learn(entry.query, answer, before.answer if before is not None else None)
            if entry in self._counting:
                self._count(entry.query, answer)
        with self._lock:
            row = self._rows[place(entry.query)]
            if answer is not None:
                row.learn(answer, is_history=entry.background)
                row.is_stale = row.is_stale and entry.background
            row.write()

    def note_repair(self, entry: Entry, answer: Answer) -> None:
        """Take in older buckets, which are not shown: count what is new in them, and learn what is usual."""
        if entry in self._counting:
            self._count(entry.query, answer)
        with self._lock:
            self._rows[place(entry.query)].learn(answer, is_history=True)

    def _learn(self, query: Query, answer: Answer, before: Answer | None) -> None:
        """Tell the instruments how late Braze revises, and whether its days are those of the configured zone."""
        for age in revision_ages(query, before, answer) if before is not None else ():
            self._instruments.observe_revision(query, age)
        mismatch = timezone_mismatch(query, answer)
        if mismatch is not None:
            self._instruments.note_timezone(query, mismatch=mismatch)

    def _count(self, query: Query, answer: Answer) -> None:
        """Have the ledger count what is new in an answer.

        Where answers have several series, when they were asked for is told by an account of the query itself. One that
        appears later has risen from nothing since the answer before; what it tells of earlier days is no news.
        """
        oldest, several = oldest_asked(query, answer.sent_at), len(query.nouns) > 1
        last = self._ledger.last_asked(query.counted) if several else None
        new_from = bucket_number(last, query.unit, query.zone) if last is not None else None
        asked_at = None if answer.is_short else answer.sent_at
        told: set[int] = set()
        for series in answer.series:
            buckets = [(bucket_number(start, query.unit, query.zone), value) for start, value in series.points]
            holes = [bucket_number(start, query.unit, query.zone) for start in series.holes]
            told.update(number for number, _ in buckets)
            told.update(holes)
            if series.is_counted:
                subject = _subject(query, series)
                unknown = [*holes, *_unread(query, answer, oldest)] if holes or answer.is_short else ()
                self._ledger.record(
                    subject,
                    query.unit,
                    buckets,
                    oldest,
                    None if several else asked_at,
                    is_complete=answer.is_complete,
                    unknown=unknown,
                    new_from=new_from,
                )
        if several:
            of_query = [(number, 0.0) for number in told]
            self._ledger.record(query.counted, query.unit, of_query, oldest, asked_at, is_complete=answer.is_complete)

    def _join(self, now: float) -> Iterator[tuple[Family, str]]:
        """Yield every family with all its lines."""
        for gauges, rows in self._groups:
            for row in rows:
                row.age(now)
            for index, family in enumerate(gauges):
                yield family, "".join([row.lines[index] for row in rows])
        for family, noun, rows in self._counters:
            yield family, self._totals(family, noun, rows)
        yield from self._infos()
        yield from self._summary(now)

    def _totals(self, family: Family, noun: Noun, rows: Iterable[Row]) -> str:
        """Return the lines of a counter. What may be shown of it changes when it is saved, not when it is read."""
        return "".join(
            [
                sample(family.name, shown.labels, self._ledger.total(_subject(row.entry.query, shown.series)))
                for row in rows
                for shown in row.series.values()
                if shown.series.noun is noun and shown.series.is_counted
            ]
        )

    def _infos(self) -> Iterator[tuple[Family, str]]:
        """Yield what maps the names of subjects to their ids, where the config has ids."""
        found: dict[Kind, dict[tuple[str, ...], float]] = {}
        for query in (entry.query for entry in self._cache.entries if entry.query.kind.is_named):
            found.setdefault(query.kind, {})[query.workspace, query.subject, query.subject_id] = 1.0
        for kind, values in found.items():
            yield info(kind), _lines(info(kind), values.items())

    def _summary(self, now: float) -> Iterator[tuple[Family, str]]:
        """Yield what sums up the queries: by workspace, and by state."""
        kinds = [(workspace, kind.section) for workspace, kind in self._instruments.kinds]
        counts = {(workspace, kind, state): 0 for workspace, kind in kinds for state in State}
        answered: dict[str, bool] = {}
        for entry in self._cache.entries:
            workspace, kind = entry.query.workspace, entry.query.kind.section
            counts[workspace, kind, state_of(entry, now)] += 1
            if entry.is_tried:
                answered[workspace] = answered.get(workspace, False) or entry.error is None
        yield UP, _lines(UP, (((workspace,), float(up)) for workspace, up in answered.items()))
        yield QUERIES, _lines(QUERIES, counts.items())


def _unread(query: Query, answer: Answer, oldest: int) -> Iterable[int]:
    """Return the numbers of the buckets of a usual response, from `oldest` on, that a short one does not have."""
    if not answer.is_short:
        return ()
    step = query.unit.seconds if query.unit is Unit.HOUR else 1
    known = starts(answer.series)
    after_now = bucket_start(answer.sent_at, query.unit, query.zone) + query.unit.seconds
    first = bucket_number(known[0] if known else after_now, query.unit, query.zone)
    return range(first - step, oldest - 1, -step)


def _lines(family: Family, values: Iterable[tuple[tuple[str, ...], float]]) -> str:
    """Return the lines of a family from the values of its labels and of its samples."""
    return "".join(
        sample(family.name, labels_text(zip(family.labels, labels, strict=True)), value) for labels, value in values
    )


def _grouped(rows: Iterable[Row]) -> list[tuple[tuple[Family, ...], list[Row]]]:
    """Return the rows, those with the same families together."""
    groups: dict[tuple[Family, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.gauges, []).append(row)
    return list(groups.items())


def _counters(rows: Iterable[Row]) -> list[tuple[Family, Noun, list[Row]]]:
    """Return the counter families, each with its noun and the rows that feed it."""
    found = {row.entry.query: row for row in rows}
    counters: dict[str, tuple[Family, Noun, list[Row]]] = {}
    for query in counting(found).values():
        for noun in query.nouns:
            if noun.is_additive:
                family = counter(query.kind, noun)
                counters.setdefault(family.name, (family, noun, []))[-1].append(found[query])
    return list(counters.values())


def _subject(query: Query, series: Series) -> tuple[str, ...]:
    """Return what a counter is of: the query in Braze's own ids, and what tells its series apart if it has several."""
    return (*query.counted, *series.identity) if len(query.nouns) > 1 else query.counted
