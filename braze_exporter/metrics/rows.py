"""What is shown of one query: the lines of its gauges, written when something of it changes and kept until then."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from braze_exporter.braze.buckets import bucket_end, starts
from braze_exporter.braze.buckets import settled as newest_settled
from braze_exporter.braze.kinds import Kind, Noun, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, Series
from braze_exporter.metrics.baseline import Baseline
from braze_exporter.metrics.exposition import labels_text, sample
from braze_exporter.metrics.families import GAUGES, Family, gauge
from braze_exporter.scheduler.query_state import Answer, Entry

SeriesLabels: TypeAlias = tuple[tuple[str, str], ...]


@functools.cache
def _gauges(kind: Kind, noun: Noun, unit: Unit) -> tuple[Family, ...]:
    """Return the gauge families of a noun, in the order of `GAUGES`."""
    return tuple(gauge(kind, noun, unit, measure) for measure in GAUGES)


def expiry(entry: Entry) -> float:
    """Return when the answer that is held becomes too old to be shown, on the monotonic clock."""
    answer = entry.answer
    return float("inf") if answer is None else answer.received_monotonic + entry.query.max_age


class Held(NamedTuple):
    """The points of a series, oldest first, and how many had settled, and had ended, when they were asked for."""

    points: tuple[Point, ...] = ()
    settled: int = 0
    ended: int = 0


class Values(NamedTuple):
    """The values of the gauges of a series; None is what is not shown."""

    latest: float | None = None
    settled: float | None = None
    baseline: float | None = None


_NOTHING = Held()
_NONE = Values()


@dataclass(slots=True)
class Shown:
    """One series of a query, without its points: its finished labels, what is usual, and what its gauges show.

    The starts of the latest and the settled bucket are the last known ones; they outlive the answer they came from.
    """

    series: Series
    labels: str
    baseline: Baseline | None = None
    held: Held = _NOTHING
    values: Values = _NONE
    latest_start: int | None = None
    settled_start: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One series of a query, without its points, as the gauges show it, with what is held and where it comes from.

    `starts` are those of the latest and the settled bucket. `total` is what the counter shows, None if the series feeds
    none.
    """

    entry: Entry
    series: Series
    answer: Answer | None
    held: Held
    values: Values
    starts: tuple[int | None, int | None]
    total: float | None


class Row:
    """The lines of one query, for each of its families. Not thread-safe."""

    def __init__(self, entry: Entry, before: "Row | None" = None) -> None:
        """Begin with what is shown of the `entry` as it is, and with what the row `before` had learned of it."""
        query = entry.query
        self.entry = entry
        self.query = query
        self.gauges = tuple(family for noun in query.nouns for family in _gauges(query.kind, noun, query.unit))
        self.series: dict[tuple[str, ...], Shown] = {}
        # Which series has, or had, which labels.
        self.owners: dict[tuple[str, SeriesLabels], tuple[str, ...]] = before.owners if before is not None else {}
        self.lines: tuple[str, ...] = ()
        self.answer: Answer | None = None
        self.is_stale: bool = before is not None and before.is_stale
        self._labels = labels_text(query.labels)
        for noun in query.nouns:
            if not noun.breakdown:
                self._of(Series(noun, ()))
        for shown in before.series.values() if before is not None else ():
            known = self._of(shown.series)
            known.latest_start, known.settled_start = shown.latest_start, shown.settled_start
            if shown.baseline is not None and shown.baseline.query.weeks == query.weeks:
                known.baseline = shown.baseline
                known.baseline.query = query
        self.write()

    def learn(self, answer: Answer, *, is_history: bool) -> None:
        """Take in what an answer, of the query or of its history, says of what is usual.

        The newest bucket of an answer that runs up to now has not settled, whatever the clocks say.
        """
        for series in answer.series if self.entry.query.weeks else ():
            shown = self._of(series)
            if shown.baseline is None:
                shown.baseline = Baseline(self.entry.query)
            shown.baseline.learn(series.points if is_history else series.points[:-1], answer.sent_at)

    def age(self, now: float) -> None:
        """Hide or show the values, as the age of the answer at `now` wants it."""
        is_stale = now >= expiry(self.entry)
        if is_stale != self.is_stale:
            self.is_stale = is_stale
            self.write()

    def write(self) -> None:
        """Write the lines, for each family those of all series."""
        entry, query, answer = self.entry, self.entry.query, self.entry.answer
        self._take(answer)
        up = (0.0 if entry.error else 1.0) if entry.is_tried else None
        last_success = answer.received_at if answer is not None else 0.0
        lines: list[str] = []
        for noun in query.nouns:
            of_noun = [shown for shown in self.series.values() if shown.series.noun is noun]
            *names, up_name, last_success_name = [family.name for family in _gauges(query.kind, noun, query.unit)]
            lines += (
                _lines(name, [(shown.labels, _measured(shown)[at]) for shown in of_noun])
                for at, name in enumerate(names)
            )
            lines += (_lines(up_name, [(self._labels, up)]), _lines(last_success_name, [(self._labels, last_success)]))
        self.lines = tuple(lines)

    def _take(self, answer: Answer | None) -> None:
        """Judge the series of an answer, and forget those of the one before.

        The series of a noun show values of one and the same bucket, for they are added up: what is gone, a variation or
        a step, would go on to show its last day for as long as answers reach back to it.
        """
        self.answer = answer
        for shown in self.series.values():
            shown.held, shown.values = _NOTHING, _NONE
        if answer is None:
            return
        query = self.entry.query
        for noun in query.nouns:
            of_noun = [series for series in answer.series if series.noun is noun]
            known = starts(of_noun)
            newest, done = known[-1] if known else None, newest_settled(known, query, answer.sent_at)
            for series in of_noun:
                if series.key and not series.points and series.identity not in self.series:
                    continue  # only nulls so far: whether it is a statistic is not known
                shown = self._of(series)
                shown.held = _held(series.points, query, answer.sent_at, done)
                if not self.is_stale:
                    shown.values = _values(shown, series.holes, newest, done)

    def views(self, total: Callable[[Series], float | None]) -> Iterator[View]:
        """Yield what the lines show, series by series."""
        for shown in self.series.values():
            starts = shown.latest_start, shown.settled_start
            yield View(self.entry, shown.series, self.answer, shown.held, shown.values, starts, total(shown.series))

    def _of(self, series: Series) -> Shown:
        """Return what is shown of the series, which may have got other labels.

        If another one has ever had its name, it has its id behind that: else a counter would seem to jump to that of
        the newcomer.
        """
        named = series.without_buckets
        while self.owners.setdefault((named.noun.name, named.labels), named.identity) != named.identity:
            named = named.with_id
        shown = self.series.get(named.identity)
        if shown is None or shown.series.labels != named.labels:
            labels = labels_text((*self.entry.query.labels, *named.labels))
            shown = replace(shown, series=named, labels=labels) if shown is not None else Shown(named, labels)
            self.series[named.identity] = shown
        return shown


def _measured(shown: Shown) -> tuple[float | None, ...]:
    """Return the values of the gauges that each series has, in the order of `GAUGES`."""
    latest, settled, baseline = shown.values
    return latest, shown.latest_start, settled, shown.settled_start, baseline


def _lines(name: str, values: Iterable[tuple[str, float | None]]) -> str:
    return "".join([sample(name, labels, value) for labels, value in values if value is not None])


def _held(points: tuple[Point, ...], query: Query, sent_at: float, done: int | None) -> Held:
    """Return the points of an answer that was asked for at `sent_at`, and how they stand.

    `done` is the start of the newest settled bucket, None if none has settled.
    """
    settled = ended = len(points)
    while settled and (done is None or points[settled - 1].start > done):
        settled -= 1
    while ended and bucket_end(points[ended - 1].start, query.unit, query.zone) > sent_at:
        ended -= 1
    return Held(points, settled, ended)


def _values(shown: Shown, holes: Sequence[int], newest: int | None, done: int | None) -> Values:
    """Return the latest value, the settled one and what is usual for it, and note where their buckets start.

    Values are of the bucket that starts at `newest`, and of that at `done`, or there are none. A hole has no start.
    """
    points, settled, _ = shown.held
    latest = None
    if newest in holes:
        shown.latest_start = None
    elif points:
        shown.latest_start = points[-1].start
        latest = points[-1].value if points[-1].start == newest else None
    if done in holes:
        shown.settled_start = None
        return Values(latest)
    if not settled:
        return Values(latest)
    value, shown.settled_start = points[settled - 1].value, points[settled - 1].start
    if done != shown.settled_start:
        return Values(latest)
    return Values(latest, value, shown.baseline.of(done) if shown.baseline is not None else None)
