"""The hourly and daily buckets of the simulated Braze, and the formats of their times.

Braze does not document the format of hours, nor when hours start in zones whose offset is not a whole hour. In the
simulator, hours start at full hours of UTC, and a day contains the hours that start in it by the company's zone. Thus
each hour belongs to exactly one day, and a day has 23, 24 or 25 hours in every zone.
"""

from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, auto
from functools import lru_cache
from zoneinfo import ZoneInfo

HOUR_SECONDS = 3_600


class HourFormat(Enum):
    """The format of times with `unit=hour`, which Braze documents only as "ISO 8601 extended"."""

    OFFSET = auto()
    """2024-10-14T13:00:00+00:00, the format of `last_edited` in recorded responses."""
    ZULU = auto()
    """2024-10-14T13:00:00Z."""
    LOCAL = auto()
    """2024-10-14T09:00:00-04:00, in the company's zone."""
    FRACTIONAL = auto()
    """2024-10-14T13:00:00.000+00:00, the format of `updated_at` of catalogs in recorded responses."""
    ZONELESS = auto()
    """2024-10-14T09:00:00, local time without an offset. At the end of DST one hour occurs twice."""

    def write(self, start: int, zone: ZoneInfo) -> str:
        """Return the formatted time of the hour that starts at `start`."""
        utc = datetime.fromtimestamp(start, UTC)
        match self:
            case HourFormat.OFFSET:
                return utc.isoformat()
            case HourFormat.ZULU:
                return utc.strftime("%Y-%m-%dT%H:%M:%SZ")
            case HourFormat.LOCAL:
                return utc.astimezone(zone).isoformat()
            case HourFormat.FRACTIONAL:
                return utc.isoformat(timespec="milliseconds")
            case HourFormat.ZONELESS:
                return utc.astimezone(zone).replace(tzinfo=None).isoformat()


class DayFormat(Enum):
    """The format of times with `unit=day`."""

    DATE = auto()
    """2022-12-08, as in every recorded daily series."""
    MIDNIGHT = auto()
    """2022-12-08T00:00:00-05:00, local midnight with its offset."""

    def write(self, day: date, zone: ZoneInfo) -> str:
        """Return the formatted time of the day."""
        match self:
            case DayFormat.DATE:
                return day.isoformat()
            case DayFormat.MIDNIGHT:
                return datetime.combine(day, time(), zone).isoformat()


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
