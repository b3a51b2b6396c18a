"""What was read → OpenMetrics text, family by family and series by series, each in the order of time.

promtool takes no series whose samples go back in time, and reads the whole text once for each block, in any order.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from prometheus_client.utils import floatToGoString

from braze_exporter.backfill.request import BackfillError, Wish
from braze_exporter.backfill.resume_file import Spool
from braze_exporter.braze.buckets import bucket_number
from braze_exporter.braze.kinds import Noun, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, Series
from braze_exporter.config.document import shown
from braze_exporter.metrics.exposition import header, labels_text
from braze_exporter.metrics.families import Family, counter, gauge
from braze_exporter.scheduler.plan import Plan, counting

_BUFFER = 1024 * 1024

Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Written:
    """What was written: how many samples and series, and the times of the first and the last bucket's samples.

    `silent` is of how many queries Braze told no bucket at all, `gaps` how many buckets it left out between others.
    """

    samples: int = 0
    series: int = 0
    oldest: float = float("inf")
    newest: float = float("-inf")
    silent: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    """A series: the query that it comes from, what to ask the spool for its points, and its finished labels."""

    query: Query
    series: Series
    number: int
    labels: str


def write(wish: Wish, plan: Plan, spool: Spool) -> Written:
    """Write all that is wanted to the output of `wish`, whole or not at all; raise `BackfillError` if it cannot be."""
    path = wish.text
    writer = _Writer(wish, spool)
    try:
        path.unlink(missing_ok=True)  # of a run that was killed
        with path.open("x", encoding="utf-8", newline="\n", buffering=_BUFFER) as file:
            file.writelines(writer.lines(plan))
            file.flush()
            os.fsync(file.fileno())
        if wish.output.exists():
            raise BackfillError(f"{shown(wish.output, 200)} was made by another program meanwhile: move it away")
        path.rename(wish.output)
    except OSError as error:
        text = f"{shown(wish.output, 200)} cannot be written ({error.strerror}): make room for it, or make it writable"
        raise BackfillError(text) from None
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return writer.written


class _Writer:
    """Makes the lines, and keeps count of them."""

    def __init__(self, wish: Wish, spool: Spool) -> None:
        self._wish = wish
        self._spool = spool
        self.written = Written()

    def lines(self, plan: Plan) -> Iterator[str]:
        """Yield the text, some lines at a time."""
        families = self._families(plan)
        if not families:
            raise BackfillError("Braze has told no bucket of any query in that time: there is nothing to write")
        for family in sorted(families, key=lambda family: family.name):
            yield header(family, openmetrics=True)
            for row in sorted(families[family], key=lambda row: row.labels):
                self.written.series += 1
                yield from self._sample_lines(family, row)
        yield "# EOF\n"

    def _families(self, plan: Plan) -> Mapping[Family, list[_Row]]:
        """Return the series of each family, without those that have no bucket; look for what Braze left out."""
        found: dict[Family, list[_Row]] = {}
        feeders = set(counting(plan.queries).values())
        for query in plan.queries:
            rows = [row for row in self._rows(query) if self._has_points(row)]
            self.written.silent += not rows
            for row in rows:
                noun = row.series.noun
                found.setdefault(gauge(query.kind, noun, query.unit, "settled"), []).append(row)
                if query in feeders and row.series.is_counted:
                    found.setdefault(counter(query.kind, noun), []).append(row)
        return found

    def _rows(self, query: Query) -> list[_Row]:
        """Return the series of a query, with the labels that Prometheus would store; to it, an empty one is none.

        Two variations or steps may have had one name, one after the other. The newest keeps it, as it has it in a
        scrape; the others have their id behind it, as those have that are in one answer.
        """
        rows: dict[tuple[Noun, Labels], _Row] = {}
        for number, series in self._spool.series(query):
            own = series
            while (own.noun, own.labels) in rows:
                own = own.with_id
            labels = [(name, value) for name, value in (*query.labels, *own.labels, *self._wish.labels) if value]
            rows[own.noun, own.labels] = _Row(query, series, number, labels_text(labels))
        return [*rows.values()]

    def _has_points(self, row: _Row) -> bool:
        """Return whether anything of a series is wanted; note from when until when, and count what is missing between.

        A statistic of messages may come and go, but not a number of the whole.
        """
        query, written = row.query, self.written
        found = [(bucket_number(point.start, query.unit, query.zone), stamp) for point, stamp in self._wanted(row)]
        if not found:
            return False
        written.oldest, written.newest = min(written.oldest, found[0][1]), max(written.newest, found[-1][1])
        if not row.series.key:
            step = query.unit.seconds if query.unit is Unit.HOUR else 1
            written.gaps += sum((after - before) // step - 1 for (before, _), (after, _) in pairwise(found))
        return True

    def _wanted(self, row: _Row) -> Iterator[tuple[Point, float]]:
        return self._wish.wanted(row.query, self._spool.points(row.number))

    def _sample_lines(self, family: Family, row: _Row) -> Iterator[str]:
        """Yield the lines of a series."""
        name = f"{family.name}{row.labels}"
        for value, stamp in self._totals(row) if family.type == "counter" else self._values(row):
            self.written.samples += 1
            yield f"{name} {floatToGoString(value)} {_seconds(stamp)}\n"

    def _values(self, row: _Row) -> Iterator[tuple[float, float]]:
        """Yield value and time of the samples of a gauge: one a bucket."""
        return ((point.value, stamp) for point, stamp in self._wanted(row))

    def _totals(self, row: _Row) -> Iterator[tuple[float, float]]:
        """Yield value and time of the samples of a counter: one a bucket, by whose value it rises, and a 0 before.

        It never falls: where the revenue of a bucket is negative, it stands still, as that of the exporter does.
        """
        total: float | None = None
        for point, stamp in self._wanted(row):
            if total is None:
                total = 0.0
                yield total, point.start + row.query.settle
            total += max(point.value, 0.0)
            yield total, stamp


def _seconds(stamp: float) -> str:
    return str(int(stamp)) if stamp.is_integer() else f"{stamp:.3f}"
