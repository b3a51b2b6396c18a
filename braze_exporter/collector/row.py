"""What is shown of one query: the lines of its gauges, written when something of it changes and kept until then."""

import functools
from dataclasses import dataclass

from braze_exporter.catalog import GAUGES, Family, Kind, Noun, Series, Unit, gauge
from braze_exporter.collector.baseline import Baseline
from braze_exporter.collector.exposition import labels_text, sample
from braze_exporter.plan import settled as newest_settled
from braze_exporter.reading import Answer, Entry

SeriesLabels = tuple[tuple[str, str], ...]


@functools.cache
def _gauges(kind: Kind, noun: Noun, unit: Unit) -> tuple[Family, ...]:
    """Return the gauge families of a noun, in the order of `GAUGES`."""
    return tuple(gauge(kind, noun, unit, measure) for measure in GAUGES)


def expiry(entry: Entry) -> float:
    """Return when the answer that is held becomes too old to be shown, on the monotonic clock."""
    answer = entry.answer
    return float("inf") if answer is None else answer.received_monotonic + entry.query.max_age


@dataclass(slots=True)
class Shown:
    """One series of a query: its finished labels, what is usual, and the starts of its latest and settled bucket.

    The starts are the last known ones; they outlive the answer that they came from.
    """

    labels: str
    baseline: Baseline | None = None
    latest_start: int | None = None
    settled_start: int | None = None


class Row:
    """The lines of one query, for each of its families. Not thread-safe."""

    def __init__(self, entry: Entry, before: "Row | None" = None) -> None:
        """Begin with what is shown of the `entry` as it is, and with what the row `before` had learned of it."""
        query = entry.query
        self.entry = entry
        self.gauges = _gauges(query.kind, query.noun, query.unit)
        self.series: dict[SeriesLabels, Shown] = {}
        self.lines: tuple[str, ...] = ()
        self.is_stale: bool = before is not None and before.is_stale
        self._names = [family.name for family in self.gauges]
        self._labels = labels_text(query.labels)
        self._of(())
        for labels, shown in before.series.items() if before is not None else ():
            known = self._of(labels)
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
            shown = self._of(series.labels)
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
        answer = self.entry.answer
        latest, latest_start, settled, settled_start, baseline, up, last_success = self._names
        lines: dict[str, list[str]] = {name: [] for name in self._names}
        if self.entry.is_tried:
            lines[up].append(sample(up, self._labels, 0.0 if self.entry.error else 1.0))
        lines[last_success].append(
            sample(last_success, self._labels, answer.received_at if answer is not None else 0.0)
        )
        if answer is not None and not self.is_stale:
            for series in answer.series:
                for name, value in zip((latest, settled, baseline), self._values(series, answer), strict=True):
                    if value is not None:
                        lines[name].append(sample(name, self._of(series.labels).labels, value))
        for shown in self.series.values():
            for name, start in ((latest_start, shown.latest_start), (settled_start, shown.settled_start)):
                if start is not None:
                    lines[name].append(sample(name, shown.labels, start))
        self.lines = tuple("".join(found) for found in lines.values())

    def _of(self, labels: SeriesLabels) -> Shown:
        """Return what is shown of the series with these labels beside those of the query."""
        if labels not in self.series:
            self.series[labels] = Shown(labels_text((*self.entry.query.labels, *labels)))
        return self.series[labels]

    def _values(self, series: Series, answer: Answer) -> tuple[float | None, float | None, float | None]:
        """Return the latest value, the settled one and what is usual for it, and note where their buckets start."""
        shown = self._of(series.labels)
        if not series.points:
            return None, None, None
        latest = series.points[-1]
        shown.latest_start = latest.start
        done = newest_settled(series.points, self.entry.query, answer.sent_at)
        if done is None:
            return latest.value, None, None
        shown.settled_start = done.start
        return latest.value, done.value, shown.baseline.of(done.start) if shown.baseline is not None else None
