"""In which time zones the days of a series begin, as its own hours tell. Pure."""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from braze_exporter.braze.buckets import midnight

_HOUR_SECONDS = 3_600
# Of zones where it is the same time these are named first.
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
# A day begins and ends so many hours at most before it does in UTC, and after: in a hundred hours there are two whole.
_MAX_HOURS_AHEAD, _MAX_HOURS_BEHIND = 14, 12


def find_matching_zones(days: Mapping[date, float], hours: Mapping[int, float], until: float) -> tuple[str, ...]:
    """Return the zones in which the hours of each day add up to what was counted in that day, well-known ones first.

    `hours` are by their start in seconds since the epoch. Only days are judged that had ended everywhere at `until`,
    and whose hours are known wherever they begin. None fits if nothing can be told: too few days, or nothing happened.
    """
    complete_days = {day: value for day, value in days.items() if _is_covered(day, hours, until)}
    if len(complete_days) < 2 or not any(complete_days.values()):  # noqa: PLR2004 - one day may fit by chance
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
    # Where several times of day fit, as for what happens only by day, the days tell nothing.
    return tuple(names) if sum(matches.values()) < len(matches) else ()


def _is_covered(day: date, hours: Mapping[int, float], until: float) -> bool:
    begin, end = _day_span(day, ZoneInfo("UTC"))
    first, last = begin - _MAX_HOURS_AHEAD * _HOUR_SECONDS, end + _MAX_HOURS_BEHIND * _HOUR_SECONDS
    return last <= until and all(start in hours for start in range(first, last, _HOUR_SECONDS))


def _day_span(day: date, zone: ZoneInfo) -> tuple[int, int]:
    """Return when a day begins and ends."""
    return midnight(day, zone), midnight(day + timedelta(days=1), zone)


@cache
def _zone_names() -> tuple[str, ...]:
    known: Iterable[str] = available_timezones() - {"localtime", "Factory"}
    return (*_PREFERRED_ZONES, *sorted({*known} - {*_PREFERRED_ZONES}))
