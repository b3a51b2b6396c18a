"""Bucket arithmetic: starts and ends, settled buckets, and the buckets of a baseline. No I/O, no clock."""

import functools
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query

WEEK_SECONDS = 7 * 86_400
# The offsets of all time zones are multiples of this.
OFFSET_STEP_SECONDS = 900

# Results are cached, because every series of a response has the same days, and later responses have them again.
_cached = functools.lru_cache(maxsize=8_192)


@_cached
def midnight(day: date, zone: ZoneInfo) -> int:
    """Return the start of a day in `zone`, in seconds since the epoch."""
    return int(datetime.combine(day, time.min, zone).timestamp())


@_cached
def _day_end(start: int, zone: ZoneInfo) -> int:
    return midnight(datetime.fromtimestamp(start, zone).date() + timedelta(days=1), zone)


@_cached
def _day_number(start: float, zone: ZoneInfo) -> int:
    return datetime.fromtimestamp(start, zone).date().toordinal()


def bucket_start(instant: float, unit: Unit, zone: ZoneInfo) -> int:
    """Return the start of the bucket that contains `instant`, in seconds since the epoch.

    Hours are those of UTC, days those of `zone`.
    """
    if unit is Unit.HOUR:
        return int(instant) // unit.seconds * unit.seconds
    return midnight(datetime.fromtimestamp(instant, zone).date(), zone)


def bucket_end(start: int, unit: Unit, zone: ZoneInfo) -> int:
    """Return the end of the bucket that begins at `start`, in seconds since the epoch.

    A day ends at the next local midnight in `zone`, which is 23, 24 or 25 hours later.
    """
    return start + unit.seconds if unit is Unit.HOUR else _day_end(start, zone)


def bucket_number(start: float, unit: Unit, zone: ZoneInfo) -> int:
    """Return a number that orders buckets: the start of an hour, or the ordinal of the local date of a day.

    The number of a day stays the same if `timezone` is corrected in the config.
    """
    return int(start) if unit is Unit.HOUR else _day_number(start, zone)


def min_requested_bucket_number(query: Query, end: float, length: int) -> int:
    """Return the lower limit of the bucket numbers of `length` buckets up to `end` (see `bucket_number`).

    The limit of hours is between the starts of two hours, unless `end` is at the end of an hour.
    """
    span = length * query.unit.seconds - 1 if query.unit is Unit.HOUR else length - 1
    return bucket_number(end, query.unit, query.zone) - span


def newest_settled_start(starts: Sequence[int], query: Query, sent_at: float) -> int | None:
    """Return the start of the newest settled bucket of a response, or None if it has no settled bucket.

    `starts` are the starts of all its buckets, oldest first; `sent_at` is the time at which it was requested. A bucket
    is settled if it was fetched `settle` or more after its end. The newest bucket of a response is never settled.
    """
    for start in reversed(starts[:-1]):
        if bucket_end(start, query.unit, query.zone) + query.settle_seconds <= sent_at:
            return start
    return None


def oldest_baseline_time(query: Query, now: float) -> float:
    """Return the time before which the baseline of `query` needs no values at `now`.

    Both are in seconds since the epoch. One week more than the median needs is kept, since Braze's data can be late.
    """
    return now - (query.baseline_weeks + 1) * WEEK_SECONDS - query.settle_seconds


def same_buckets_in_earlier_weeks(start: int, query: Query) -> list[int]:
    """Return the starts of the same local buckets as that at `start` in the last `baseline_weeks` weeks.

    Days are compared by their date, since DST may skip the midnight of one. Local hours that DST skips are omitted. If
    `start` and an earlier hour are both repeated by DST, first passes are matched with first passes, and second with
    second.
    """
    local = datetime.fromtimestamp(start, query.zone)
    if query.unit is Unit.DAY:
        weeks = range(1, query.baseline_weeks + 1)
        return [midnight(local.date() - timedelta(weeks=week), query.zone) for week in weeks]
    result = []
    for week in range(1, query.baseline_weeks + 1):
        earlier = local - timedelta(weeks=week)  # local arithmetic, which keeps `fold`
        instant = int(earlier.timestamp())
        if datetime.fromtimestamp(instant, query.zone).replace(tzinfo=None) == earlier.replace(tzinfo=None):
            result.append(instant)
    return result
