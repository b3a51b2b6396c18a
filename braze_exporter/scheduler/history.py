"""The history of a baseline: which part of it has been read, and the next call for the rest.

A range of history is a pair of times in seconds since the epoch. Its first bucket contains the first time, and its last
one starts at the second time or before. Nothing here reads a clock.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, bucket_start, oldest_baseline_time
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.circuit_breaker import backoff_seconds
from braze_exporter.scheduler.repair import MARGIN_BUCKETS, first_start, halve_length, newest_length

# Seconds until a chunk of history whose call failed is requested again.
HISTORY_RETRY_SECONDS = 3_600.0
# Seconds until the next chunk after a failed call. They double with each consecutive failure, up to
# `HISTORY_RETRY_SECONDS`.
_FIRST_WAIT_SECONDS = 60.0

HistoryRange: TypeAlias = tuple[float, float]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class History:
    """The history of one query with a baseline, which is read in chunks, the newest first. Not thread-safe.

    `complete` has the ranges that have been read. `is_reading` is true while a call for a chunk is queued or made. No
    chunk is due before `next_at`, in seconds of the monotonic clock.
    """

    complete: tuple[HistoryRange, ...] = ()
    is_reading: bool = False
    next_at: float = -math.inf
    _max_length: float = math.inf
    # The chunks whose calls failed or whose buckets had not all settled, with the time of the next attempt.
    _failed: dict[HistoryRange, float] = field(default_factory=dict)
    _failures: int = 0  # the number of consecutive failures
    _retry_at: float = -math.inf
    _has_gap: bool = False

    def next_chunk(self, query: Query, now: float, monotonic: float) -> Query | None:
        """Return the query for the newest missing chunk, or None if none is due.

        `now` is in seconds since the epoch, `monotonic` in seconds of the monotonic clock. If none is due, `next_at` is
        when one will be, or a time in the past if the history is complete.
        """
        if monotonic < self._retry_at:
            self.next_at = self._retry_at
            return None
        self._failed = {chunk: retry_at for chunk, retry_at in self._failed.items() if retry_at > monotonic}
        gaps = missing_ranges(query, (*self.complete, *self._failed), now)
        if not gaps:
            self.next_at = min(self._failed.values(), default=-math.inf)
            return None
        newest = bucket_start(gaps[0][1] - 1, query.unit, query.zone)
        ending_at = bucket_end(newest, query.unit, query.zone) - 1
        return replace(query, ending_at=ending_at, length=self._chunk_length(query))

    def count_calls(self, query: Query, now: float) -> int:
        """Return the number of calls for the chunks that are missing at `now`, in seconds since the epoch."""
        seconds = self._chunk_length(query) * query.unit.seconds
        gaps = missing_ranges(query, self.complete, now)
        return sum(math.ceil((newest - oldest) / seconds) for oldest, newest in gaps)

    def record_response(self, query: Query, length: int, ending_at: float | None, sent_at: float) -> None:
        """Register a response to a request for `length` buckets up to `ending_at`, or up to now if that is None."""
        self._add_range(query, response_range(query, length, ending_at, sent_at), sent_at)
        self.next_at = -math.inf

    def record_chunk(self, chunk: Query, sent_at: float, monotonic: float) -> None:
        """Register a response to the call for `chunk`, sent at `sent_at` by Braze's clock.

        If not all its buckets had settled, the clocks differ, and the chunk is requested again later.
        """
        self.record_response(chunk, chunk.length, chunk.ending_at, sent_at)
        self._failures = 0
        if chunk.ending_at is not None and sent_at - chunk.settle_seconds - chunk.unit.seconds < chunk.ending_at:
            self._failed[chunk_range(chunk)] = monotonic + HISTORY_RETRY_SECONDS

    def record_failure(self, chunk: Query, error: BrazeError, now: float, monotonic: float) -> None:
        """Register that the call for `chunk` failed with `error`.

        After an oversized response, shorter chunks are requested. A chunk of one bucket is given up, which is logged.
        After any other failure, the chunk is requested again after `HISTORY_RETRY_SECONDS`, and other chunks wait too.
        """
        if error.reason is not Reason.TOO_LARGE:
            self._failures += 1
            self._retry_at = monotonic + backoff_seconds(_FIRST_WAIT_SECONDS, self._failures, HISTORY_RETRY_SECONDS)
            self._failed[chunk_range(chunk)] = monotonic + HISTORY_RETRY_SECONDS
        elif chunk.length > 1:
            self._max_length = halve_length(chunk.length)
        else:
            if not self._has_gap:
                fields = {**dict(chunk.labels), "unit": chunk.unit, "reason": error.reason, "detail": error.detail}
                _log.warning("History response too large, baseline is incomplete", extra={"fields": fields})
            self._has_gap = True
            self._add_range(chunk, chunk_range(chunk), now)

    def _chunk_length(self, query: Query) -> int:
        return int(min(self._max_length, query.kind.max_length))

    def _add_range(self, query: Query, covered: HistoryRange, now: float) -> None:
        self.complete = merge_ranges((*self.complete, covered), query, now)


def history_bounds(query: Query, now: float) -> HistoryRange:
    """Return the oldest and the newest time of the history for the baseline of `query` at `now`.

    The history covers the weeks of the baseline plus `settle`, and ends where the settled buckets of a usual fetch
    begin.
    """
    unit = query.unit.seconds
    oldest = now - query.baseline_weeks * WEEK_SECONDS - query.settle_seconds - MARGIN_BUCKETS * unit
    newest_buckets = max(query.length - MARGIN_BUCKETS, newest_length(query.unit, query.settle_seconds) - 1)
    return oldest, now - newest_buckets * unit


def chunk_range(chunk: Query) -> HistoryRange:
    """Return the range that a chunk of history covers."""
    end = float(chunk.ending_at or 0)
    return float(first_start(end, chunk.length, chunk)), end


def response_range(query: Query, length: int, ending_at: float | None, requested_at: float) -> HistoryRange:
    """Return the range of the settled buckets in a response to a request for `length` buckets, which may be empty.

    `ending_at` is the end of the requested buckets, or None if they ran up to `requested_at`.
    """
    unit = query.unit.seconds
    end = requested_at - query.settle_seconds - unit
    if ending_at is None:
        return requested_at - (length - 1) * unit, end
    return float(first_start(ending_at, length, query)), min(ending_at, end)


def merge_ranges(ranges: Iterable[HistoryRange], query: Query, now: float) -> tuple[HistoryRange, ...]:
    """Return the union of `ranges` at `now`, without the time for which no baseline of `query` keeps values.

    A gap that is shorter than a bucket contains no start of a bucket.
    """
    oldest, unit = oldest_baseline_time(query, now), query.unit.seconds
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

    The newest one comes first. Nothing is missing after the last known range, since the next usual fetch requests it.
    """
    if not query.baseline_weeks:
        return []
    oldest, newest = history_bounds(query, now)
    gaps, end = [], oldest
    for start, range_end in merge_ranges(ranges, query, now) or [(newest, newest)]:
        if start - end >= query.unit.seconds:
            gaps.append((end, min(start, newest)))
        end = max(end, range_end)
    return [gap for gap in reversed(gaps) if gap[0] < gap[1]]
