"""The hourly and daily buckets of the simulated Braze.

Braze does not document when hours start in zones whose offset is not a whole hour. In the simulator, hours start at
full hours of UTC, and a day contains the hours that start in it by the company's zone. Thus each hour belongs to
exactly one day, and a day has 23, 24 or 25 hours in every zone.
"""

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

HOUR_SECONDS = 3_600


def hours_until(end: float, length: int) -> list[int]:
    """Return the starts of `length` hours, oldest first; the last is the one in progress at `end`."""
    last = int(end // HOUR_SECONDS) * HOUR_SECONDS
    return list(range(last - (length - 1) * HOUR_SECONDS, last + 1, HOUR_SECONDS))


def days_until(end: float, length: int, zone: ZoneInfo) -> list[date]:
    """Return `length` local days, oldest first; the last is the one in progress at `end`."""
    last = datetime.fromtimestamp(end, zone).date()
    return [last - timedelta(days=back) for back in reversed(range(length))]


@lru_cache(maxsize=4_096)
def hours_of(day: date, zone: ZoneInfo) -> range:
    """Return the starts of the hours that begin within the local day."""
    first, end = (datetime.combine(day + timedelta(days=n), time(), zone).timestamp() for n in (0, 1))
    return range(-int(-first // HOUR_SECONDS) * HOUR_SECONDS, -int(-end // HOUR_SECONDS) * HOUR_SECONDS, HOUR_SECONDS)


def parse_time(text: str, zone: ZoneInfo) -> float:
    """Return an ISO 8601 datetime or date in seconds since the epoch. Without an offset it is local time in `zone`.

    A date means its local midnight, which fits recorded responses best. Raises `ValueError` if `text` is invalid or
    before the epoch.
    """
    moment = datetime.fromisoformat(text)
    if moment.year < 1970:  # noqa: PLR2004 - the epoch
        raise ValueError("before the epoch")
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
