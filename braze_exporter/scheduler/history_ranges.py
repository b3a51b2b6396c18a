"""Which part of a query's history is complete, and which part is missing. Pure functions.

A range of history is a pair of times in seconds since the epoch. It contains the buckets that start from the first to
the second time.
"""

from collections.abc import Iterable
from typing import TypeAlias

from braze_exporter.braze.buckets import WEEK_SECONDS
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.plan import history_bounds

HistoryRange: TypeAlias = tuple[float, float]


def chunk_range(chunk: Query) -> HistoryRange:
    """Return the range that a chunk of history covers."""
    end = float(chunk.ending_at or 0)
    return end + 1 - chunk.length * chunk.unit.seconds, end


def is_needed(chunk: Query, now: float) -> bool:
    """Return whether a baseline needs a chunk of history at `now`. The clock may have been wrong before."""
    (oldest, newest), (start, end) = history_bounds(chunk, now), chunk_range(chunk)
    return start <= newest and end >= oldest


def response_range(query: Query, length: int, ending_at: float | None, requested_at: float) -> HistoryRange:
    """Return the range of the settled buckets in a response to a request for `length` buckets, which may be empty.

    `ending_at` is the end of the requested buckets, or None if they ran up to `requested_at`.
    """
    unit = query.unit.seconds
    end = requested_at - query.settle_seconds - unit
    if ending_at is None:
        return requested_at - (length - 1) * unit, end
    return ending_at + 1 - length * unit, min(ending_at, end)


def merge_ranges(ranges: Iterable[HistoryRange], query: Query, now: float) -> tuple[HistoryRange, ...]:
    """Return the union of `ranges` at `now`, without the time for which no baseline of `query` keeps values.

    A gap that is shorter than a bucket contains no start of a bucket.
    """
    oldest, unit = now - (query.baseline_weeks + 1) * WEEK_SECONDS, query.unit.seconds
    merged: list[HistoryRange] = []
    for start, end in sorted((max(start, oldest), end) for start, end in ranges):
        if end < start:
            continue
        if merged and start - merged[-1][1] < unit:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def missing_ranges(query: Query, ranges: Iterable[HistoryRange], now: float) -> list[HistoryRange]:
    """Return the ranges of the history for the baseline of `query` at `now`, except the known `ranges`.

    The newest one comes first.
    """
    if not query.baseline_weeks:
        return []
    oldest, newest = history_bounds(query, now)
    gaps, end = [], oldest
    for start, range_end in merge_ranges(ranges, query, now):
        if start - end >= query.unit.seconds:
            gaps.append((end, min(start, newest)))
        end = max(end, range_end)
    gaps.append((end, newest))
    return [gap for gap in reversed(gaps) if gap[0] < gap[1]]
