"""Write the fetched history as OpenMetrics text, grouped by family and series.

The samples of a series are in the order of time, because promtool rejects others. The order of the series does not
matter, because promtool reads the whole text for each block.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from prometheus_client.utils import floatToGoString

from braze_exporter.backfill.request import BackfillError, BackfillRequest
from braze_exporter.backfill.resume_file import ResumeFile
from braze_exporter.braze.buckets import bucket_number
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, SeriesHead
from braze_exporter.config.document import shorten_path
from braze_exporter.metrics.exposition import format_header, format_labels
from braze_exporter.metrics.families import Family, build_counter, build_gauge
from braze_exporter.scheduler.plan import Plan, counter_sources

_BUFFER_BYTES = 1024 * 1024


@dataclass(slots=True)
class ExportSummary:
    """The number of samples and series that were written, and the times of the oldest and the newest sample.

    `empty_queries` is the number of queries without samples. `gaps` is the number of buckets without a sample between
    others. Times are in seconds since the epoch.
    """

    samples: int = 0
    series: int = 0
    oldest: float = float("inf")
    newest: float = float("-inf")
    empty_queries: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class _SeriesRow:
    """A series with its query, its `number` in the resume file and its formatted labels."""

    query: Query
    head: SeriesHead
    number: int
    labels: str


def write_openmetrics(request: BackfillRequest, plan: Plan, resume_file: ResumeFile) -> ExportSummary:
    """Write the samples in the range of `request` to its output, and return a summary.

    The output is written completely or not at all. Raises `BackfillError` if that fails.
    """
    path = request.unfinished_output_path
    writer = _Writer(request, resume_file)
    try:
        path.unlink(missing_ok=True)  # a killed run may have left it
        with path.open("x", encoding="utf-8", newline="\n", buffering=_BUFFER_BYTES) as file:
            file.writelines(writer.generate_lines(plan))
            file.flush()
            os.fsync(file.fileno())
        if os.path.lexists(request.output):
            text = f"{shorten_path(request.output)} was created by another program during the backfill; move the file"
            raise BackfillError(text)
        path.rename(request.output)
    except OSError as error:
        text = (
            f"{shorten_path(request.output)} cannot be written ({error.strerror}); free disk space, or make it writable"
        )
        raise BackfillError(text) from None
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return writer.summary


class _Writer:
    """Generates the lines, and the summary of their content."""

    def __init__(self, request: BackfillRequest, resume_file: ResumeFile) -> None:
        self._request = request
        self._resume_file = resume_file
        self.summary = ExportSummary()

    def generate_lines(self, plan: Plan) -> Iterator[str]:
        """Yield the text, one or a few lines at a time. Raises `BackfillError` if there are no samples."""
        families = self._group_rows(plan)
        if not families:
            raise BackfillError("nothing to write, because Braze returned no buckets of any query in this time range")
        for family in sorted(families, key=lambda family: family.name):
            yield format_header(family, openmetrics=True)
            for row in sorted(families[family], key=lambda row: row.labels):
                self.summary.series += 1
                yield from self._sample_lines(family, row)
        yield "# EOF\n"

    def _group_rows(self, plan: Plan) -> Mapping[Family, list[_SeriesRow]]:
        """Return the series of each family that have samples. Adds all series and empty queries to the summary."""
        rows_by_family: dict[Family, list[_SeriesRow]] = {}
        sources = set(counter_sources(plan.queries).values())
        for query in plan.queries:
            rows = [row for row in self._build_rows(query) if self._add_to_summary(row)]
            self.summary.empty_queries += not rows
            for row in rows:
                metric_group = row.head.metric_group
                rows_by_family.setdefault(build_gauge(query.kind, metric_group, query.unit, "settled"), []).append(row)
                if query in sources and row.head.has_counter:
                    rows_by_family.setdefault(build_counter(query.kind, metric_group), []).append(row)
        return rows_by_family

    def _build_rows(self, query: Query) -> list[_SeriesRow]:
        """Return the exported series of a query with the labels that Prometheus stores, which excludes empty ones."""
        rows = []
        for number, head in self._resume_file.read_series(query):
            if query.selects(head.labels):
                labels = (*query.labels, *head.labels, *self._request.labels)
                text = format_labels([(name, value) for name, value in labels if value])
                rows.append(_SeriesRow(query, head, number, text))
        return rows

    def _add_to_summary(self, row: _SeriesRow) -> bool:
        """Add the times and gaps of the samples of a series to the summary. Return whether the series has samples.

        Gaps of message statistics are not counted, because responses may omit them on some days.
        """
        query, summary = row.query, self.summary
        buckets = [
            (bucket_number(point.start, query.unit, query.zone), timestamp)
            for point, timestamp in self._select_points(row)
        ]
        if not buckets:
            return False
        summary.oldest, summary.newest = min(summary.oldest, buckets[0][1]), max(summary.newest, buckets[-1][1])
        if row.head.is_only:
            step = query.unit.seconds if query.unit is Unit.HOUR else 1
            summary.gaps += sum((after - before) // step - 1 for (before, _), (after, _) in pairwise(buckets))
        return True

    def _select_points(self, row: _SeriesRow) -> Iterator[tuple[Point, float]]:
        return self._request.select_points(row.query, self._resume_file.read_points(row.number))

    def _sample_lines(self, family: Family, row: _SeriesRow) -> Iterator[str]:
        """Yield the lines of a series."""
        samples = ((point.value, timestamp) for point, timestamp in self._select_points(row))
        for value, timestamp in self._counter_samples(row) if family.type == "counter" else samples:
            self.summary.samples += 1
            yield f"{family.name}{row.labels} {floatToGoString(value)} {_format_seconds(timestamp)}\n"

    def _counter_samples(self, row: _SeriesRow) -> Iterator[tuple[float, float]]:
        """Yield the value and the time of the samples of a counter: first a 0, then one per bucket.

        Each bucket adds its value. Negative revenue is not subtracted, as in the exporter.
        """
        total: float | None = None
        for point, timestamp in self._select_points(row):
            if total is None:
                total = 0.0
                yield total, point.start + row.query.settle_seconds
            total += max(point.value, 0.0)
            yield total, timestamp


def _format_seconds(timestamp: float) -> str:
    return str(int(timestamp)) if timestamp.is_integer() else f"{timestamp:.3f}"
