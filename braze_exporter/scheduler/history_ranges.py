"""Which part of a query's history is complete, which part is missing, and the calls that read it. Pure functions.

A range of history is a pair of times in seconds since the epoch. It contains the buckets that start from the first to
the second time.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, bucket_start
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.repair import MARGIN_BUCKETS

HistoryRange: TypeAlias = tuple[float, float]


def history_bounds(query: Query, now: float) -> tuple[float, float]:
    """Return the oldest and the newest time of the history for the baseline of `query` at `now`.

    The history covers the weeks of the baseline plus `settle`, and ends where the buckets of a usual fetch begin.
    """
    unit = query.unit.seconds
    oldest = now - query.baseline_weeks * WEEK_SECONDS - query.settle_seconds - MARGIN_BUCKETS * unit
    return oldest, now - (query.length - MARGIN_BUCKETS) * unit


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


def count_chunks(query: Query, oldest: float, newest: float, length: int) -> int:
    """Return the number of queries that `build_chunks` would return."""
    return math.ceil((newest - oldest) / _chunk_step(query, length))


def build_chunks(query: Query, oldest: float, newest: float, length: int) -> tuple[Query, ...]:
    """Return the queries that read the buckets from `oldest` to the one that contains `newest`, one call each.

    Each call reads `length` buckets. The newest chunk comes first. Each one ends at the last second of a bucket. If it
    has several buckets, it overlaps the next chunk by one, since days differ in length.
    """
    step = _chunk_step(query, length)
    count = count_chunks(query, oldest, newest, length)
    return tuple(
        replace(query, ending_at=_last_second(newest - number * step, query), length=length) for number in range(count)
    )


def _chunk_step(query: Query, length: int) -> float:
    """Return the seconds from the end of a chunk to that of the next one."""
    return max(1, length - 1) * query.unit.seconds


def _last_second(instant: float, query: Query) -> int:
    """Return the last second of the bucket that contains `instant`."""
    return bucket_end(bucket_start(instant, query.unit, query.zone), query.unit, query.zone) - 1
