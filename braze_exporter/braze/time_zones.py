"""The names of time zones, and the inference of the zone of daily buckets from hourly buckets. No I/O."""

from collections.abc import Mapping
from datetime import date, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from braze_exporter.braze.buckets import midnight

_HOUR_SECONDS = 3_600
# These are returned first, since many zones have the same offsets.
_PREFERRED_ZONES = (
    "UTC",
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Los_Angeles",
    "America/Sao_Paulo",
    "Europe/London",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Asia/Singapore",
    "Asia/Tokyo",
    "Australia/Sydney",
)
# The largest offsets from UTC. 100 hours, the maximum of a request, cover two days in all zones between them.
_MAX_HOURS_AHEAD, _MAX_HOURS_BEHIND = 14, 12


def find_matching_zones(days: Mapping[date, float], hours: Mapping[int, float], until: float) -> tuple[str, ...]:
    """Return the zones in which the hourly values of each day add up to its daily value, well-known zones first.

    The keys of `hours` are bucket starts in seconds since the epoch. A day is compared only if it had ended in every
    zone at `until` and all its hours are known for every zone. The result is empty if fewer than two such days exist,
    if all their values are 0, or if every zone fits.
    """
    complete_days = {day: value for day, value in days.items() if _is_covered(day, hours, until)}
    if len(complete_days) < 2 or not any(complete_days.values()):  # noqa: PLR2004 - a single day may fit by chance
        return ()
    matches: dict[tuple[tuple[float, float], ...], bool] = {}
    names = []
    for name in _zone_names():
        spans = tuple(_day_span(day, ZoneInfo(name)) for day in complete_days)
        if spans not in matches:
            matches[spans] = all(
                sum(value for start, value in hours.items() if begin <= start < end) == complete_days[day]
                for day, (begin, end) in zip(complete_days, spans, strict=True)
            )
        if matches[spans]:
            names.append(name)
    # If every zone fits, the values do not depend on the zone (for example if all events happen in the daytime).
    return tuple(names) if sum(matches.values()) < len(matches) else ()


def _is_covered(day: date, hours: Mapping[int, float], until: float) -> bool:
    begin, end = _day_span(day, ZoneInfo("UTC"))
    first, last = begin - _MAX_HOURS_AHEAD * _HOUR_SECONDS, end + _MAX_HOURS_BEHIND * _HOUR_SECONDS
    return last <= until and all(start in hours for start in range(first, last, _HOUR_SECONDS))


def _day_span(day: date, zone: ZoneInfo) -> tuple[int, int]:
    """Return the start and the end of a day, in seconds since the epoch."""
    return midnight(day, zone), midnight(day + timedelta(days=1), zone)


@cache
def known_zones() -> frozenset[str]:
    """Return the names of all time zones.

    `ZoneInfo` also accepts names that are not in this set, such as right/UTC, which counts leap seconds.
    """
    return frozenset(available_timezones() - {"localtime", "Factory"})


@cache
def _zone_names() -> tuple[str, ...]:
    return (*_PREFERRED_ZONES, *sorted(known_zones() - {*_PREFERRED_ZONES}))
