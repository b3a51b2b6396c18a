"""In which time zones the days of a series begin, as its own hours tell. Pure."""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from braze_exporter.braze.buckets import midnight

_HOUR = 3_600
# Of zones where it is the same time these are named first.
_KNOWN = (
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
_EARLIEST, _LATEST = 14, 12


def fitting(days: Mapping[date, float], hours: Mapping[int, float], until: float) -> tuple[str, ...]:
    """Return the zones in which the hours of each day add up to what was counted in that day, well-known ones first.

    `hours` are by their start in seconds since the epoch. Only days are judged that had ended everywhere at `until`,
    and whose hours are known wherever they begin. None fits if nothing can be told: too few days, or nothing happened.
    """
    judged = {day: value for day, value in days.items() if _is_covered(day, hours, until)}
    if len(judged) < 2 or not any(judged.values()):  # noqa: PLR2004 - one day may fit by chance
        return ()
    found: dict[tuple[tuple[float, float], ...], bool] = {}
    names = []
    for name in _names():
        spans = tuple(_span(day, ZoneInfo(name)) for day in judged)
        if spans not in found:
            found[spans] = all(
                sum(value for start, value in hours.items() if begin <= start < end) == judged[day]
                for day, (begin, end) in zip(judged, spans, strict=True)
            )
        if found[spans]:
            names.append(name)
    # Where several times of day fit, as for what happens only by day, the days tell nothing.
    return tuple(names) if sum(found.values()) < len(found) else ()


def _is_covered(day: date, hours: Mapping[int, float], until: float) -> bool:
    begin, end = _span(day, ZoneInfo("UTC"))
    first, last = begin - _EARLIEST * _HOUR, end + _LATEST * _HOUR
    return last <= until and all(start in hours for start in range(first, last, _HOUR))


def _span(day: date, zone: ZoneInfo) -> tuple[int, int]:
    """Return when a day begins and ends."""
    return midnight(day, zone), midnight(day + timedelta(days=1), zone)


@cache
def _names() -> tuple[str, ...]:
    known: Iterable[str] = available_timezones() - {"localtime", "Factory"}
    return (*_KNOWN, *sorted({*known} - {*_KNOWN}))
