"""What is shown of one query: the lines of its gauges, written when something of it changes and kept until then."""

from dataclasses import dataclass

from braze_exporter.cache import Answer, Entry
from braze_exporter.catalog import GAUGES, Family, Query, Series, gauge
from braze_exporter.collector.baseline import Baseline
from braze_exporter.collector.exposition import labels_text, sample
from braze_exporter.plan import settled as newest_settled

SeriesLabels = tuple[tuple[str, str], ...]


def gauges_of(query: Query) -> tuple[Family, ...]:
    """Return the gauge families that a query feeds, in the order of `GAUGES`."""
    return tuple(gauge(query.kind, query.noun, query.unit, measure) for measure in GAUGES)


def expiry(entry: Entry) -> float:
    """Return when the answer that is held becomes too old to be shown, on the monotonic clock."""
    answer = entry.reading.answer if entry.reading is not None else None
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

    def __init__(self, entry: Entry, gauges: tuple[Family, ...]) -> None:
        """Begin with what is shown before the first answer; `gauges` are the families of the query."""
        self.entry = entry
        self.series: dict[SeriesLabels, Shown] = {}
        self.lines: tuple[str, ...] = ()
        self.is_stale = False
        self._names = [family.name for family in gauges]
        self._labels = labels_text(entry.query.labels)
        self._of(())
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
        reading = self.entry.reading
        answer = reading.answer if reading is not None else None
        latest, latest_start, settled, settled_start, baseline, up, last_success = self._names
        lines: dict[str, list[str]] = {name: [] for name in self._names}
        if reading is not None:
            lines[up].append(sample(up, self._labels, 0.0 if reading.error else 1.0))
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
