"""The arithmetic of buckets: when they begin and end, which have settled, and which are compared. Pure, no clock."""

import functools
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series

WEEK_SECONDS = 7 * 86_400

# The same days come in each of the many series of an answer, and with every answer again.
_cached = functools.lru_cache(maxsize=8_192)


@_cached
def midnight(day: date, zone: ZoneInfo) -> int:
    """Return the instant at which a day begins in `zone`."""
    return int(datetime.combine(day, time.min, zone).timestamp())


@_cached
def _day_end(start: int, zone: ZoneInfo) -> int:
    return midnight(datetime.fromtimestamp(start, zone).date() + timedelta(days=1), zone)


@_cached
def _day_number(start: float, zone: ZoneInfo) -> int:
    return datetime.fromtimestamp(start, zone).date().toordinal()


def bucket_start(instant: float, unit: Unit, zone: ZoneInfo) -> int:
    """Return the instant at which the bucket begins in which `instant` lies: an hour of UTC, or a day in `zone`."""
    if unit is Unit.HOUR:
        return int(instant) // unit.seconds * unit.seconds
    return midnight(datetime.fromtimestamp(instant, zone).date(), zone)


def bucket_end(start: int, unit: Unit, zone: ZoneInfo) -> int:
    """Return the instant (seconds since the epoch) at which the bucket that begins at `start` ends.

    An hour is an hour. A day ends at the next local midnight in `zone`, 23, 24 or 25 hours later.
    """
    return start + unit.seconds if unit is Unit.HOUR else _day_end(start, zone)


def bucket_number(start: float, unit: Unit, zone: ZoneInfo) -> int:
    """Return a number for the bucket that begins at `start`: its instant, or its civil date as a count of days.

    It rises by time, and that of a day stays the same if the zone is corrected.
    """
    return int(start) if unit is Unit.HOUR else _day_number(start, zone)


def oldest_requested_bucket(query: Query, sent_at: float) -> int:
    """Return the lowest number that a bucket can have which a usual fetch at `sent_at` asks for."""
    units = query.length * query.unit.seconds - 1 if query.unit is Unit.HOUR else query.length - 1
    return bucket_number(sent_at, query.unit, query.zone) - units


def bucket_starts(result: Sequence[Series]) -> list[int]:
    """Return the start of each bucket that any of the series has, holes included, oldest first."""
    points = {start for series in result for start, _ in series.points}
    return sorted(points.union(*(series.holes for series in result)))


def newest_settled(starts: Sequence[int], query: Query, sent_at: float) -> int | None:
    """Return the start of the newest bucket that was settled when its response was requested at `sent_at`, or None.

    A bucket is settled by a fetch that was sent `settle` or more after its end. The newest bucket of a response that
    runs up to now is never settled, whatever the clocks say. `starts` are those of all its buckets, oldest first.
    """
    for start in reversed(starts[:-1]):
        if bucket_end(start, query.unit, query.zone) + query.settle <= sent_at:
            return start
    return None


def same_buckets_in_earlier_weeks(start: int, query: Query) -> list[int]:
    """Return the starts of the buckets at the same local time as that at `start` in each of the `weeks` before.

    A local hour that a spring night leaves out is left out; one that an autumn night repeats pairs with the same pass.
    """
    local = datetime.fromtimestamp(start, query.zone)
    result = []
    for week in range(1, query.baseline_weeks + 1):
        earlier = local - timedelta(weeks=week)  # on the wall's clock, keeping the pass
        instant = int(earlier.timestamp())
        if datetime.fromtimestamp(instant, query.zone).replace(tzinfo=None) == earlier.replace(tzinfo=None):
            result.append(instant)
    return result
