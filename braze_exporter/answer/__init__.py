"""What an answer of Braze says: status, headers and body → points, a quota, or a `BrazeError`. Pure.

Nothing is guessed: a row that cannot be read makes the whole answer an error of its query, never a zero.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

from braze_exporter.answer.body import content
from braze_exporter.answer.lists import listed
from braze_exporter.answer.rows import Written, bad, written
from braze_exporter.buckets import midnight
from braze_exporter.catalog import MAX_LENGTH, Point, Query, Quota, Reason, Series, Unit

__all__ = ["failure", "listed", "message", "quota", "retry_after", "sent_by_braze_at", "series"]

# Reset headers below this are seconds to go, not a time: no window of Braze's began before September 2001.
_FIRST_EPOCH = 1_000_000_000
# No bucket begins in the future; but clocks differ, and a day begins earlier in the east than in the west.
_AHEAD = 2 * 86_400

_BY_STATUS = {
    202: Reason.QUEUED,  # older documentation: accepted during maintenance, not done
    204: Reason.NO_CONTENT,
    400: Reason.BAD_REQUEST,
    401: Reason.UNAUTHORIZED,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    429: Reason.RATE_LIMITED,
}
_REDIRECTS = (301, 302, 303, 307, 308)
_SUCCESS = (200, 201)


def failure(status: int) -> Reason | None:
    """Return the reason that an HTTP status stands for, or None if its body is to be read."""
    if status in _SUCCESS:
        return None
    if status in _REDIRECTS:
        return Reason.REDIRECT
    if 500 <= status < 600:  # noqa: PLR2004 - the class of server errors
        return Reason.SERVER_ERROR
    return _BY_STATUS.get(status, Reason.HTTP)


def message(body: bytes) -> str:
    """Return what Braze said in the `message` of a body, or nothing."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    said = found.get("message") if isinstance(found, dict) else None
    return said if isinstance(said, str) else ""


def quota(headers: Mapping[str, str], now: float) -> Quota:
    """Return what the rate-limit headers say; `now` is the time of the answer in seconds since the epoch."""
    reset = _number(headers.get("X-RateLimit-Reset"))
    if reset is not None and reset < _FIRST_EPOCH:
        reset += now
    return Quota(_number(headers.get("X-RateLimit-Limit")), _number(headers.get("X-RateLimit-Remaining")), reset)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; Braze documents none, but an edge may send one."""
    return _number(headers.get("Retry-After"))


def sent_by_braze_at(headers: Mapping[str, str]) -> float | None:
    """Return the time at which Braze says that it answered, by its own clock, or None if it does not say."""
    try:
        moment = parsedate_to_datetime(headers.get("Date", ""))
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    """Return a header's number; Braze sends empty headers with a 401."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def series(query: Query, body: bytes, now: float) -> tuple[Series, ...]:
    """Return the series in the `body` of a success, their points sorted, or raise `BrazeError`.

    `now` is the time of the answer in seconds since the epoch. No error repeats anything of the body.
    """
    return tuple(_series(query, found, now) for found in written(query, content(body).get("data")))


def _series(query: Query, found: Written, now: float) -> Series:
    read = _days if query.unit is Unit.DAY else _hours
    starts = read([moment for moment, _ in found.values], query.zone)
    values: dict[int, float] = {}
    for start, (_, value) in zip(starts, found.values, strict=True):
        if values.setdefault(start, value) != value:
            raise bad(f"the bucket of {datetime.fromtimestamp(start, UTC):%Y-%m-%dT%H:%MZ} has two values")
    if values and max(values) > now + _AHEAD:
        raise bad("a row has a time in the future")
    points = tuple(Point(start, values[start]) for start in sorted(values)[-MAX_LENGTH:])
    return Series(found.noun, points, found.labels, found.key)


def _days(written: Iterable[datetime], zone: ZoneInfo) -> list[int]:
    """Return where days begin. Only the written date counts, whatever time and offset stand beside it."""
    return [midnight(moment.date(), zone) for moment in written]


def _hours(written: Sequence[datetime], zone: ZoneInfo) -> list[int]:
    """Return the instants of hours. Those without an offset are local time in `zone`.

    In an autumn night the clocks show one hour twice: of two equal ones in a row the second is the second pass, and one
    alone is the second pass if the answer begins with it and goes on with the next hour.
    """
    clocks = [moment.replace(tzinfo=None) for moment in written]
    order = list(range(len(written)))
    if clocks and clocks[0] > clocks[-1]:
        order.reverse()
    order.sort(key=clocks.__getitem__)
    starts = [0] * len(written)
    for position, at in enumerate(order):
        moment = written[at]
        if moment.tzinfo is None:
            before = clocks[order[position - 1]] if position else None
            after = clocks[order[position + 1]] if position + 1 < len(order) else None
            second = before == moment or (before is None and after == moment + timedelta(hours=1))
            moment = moment.replace(tzinfo=zone, fold=int(second))
        # What begins off the hour, by its own offset, the company's clock and UTC, is no bucket that can be known again
        # in the next answer: it would be counted each time.
        if not any(clock.minute == clock.second == 0 for clock in map(moment.astimezone, (moment.tzinfo, zone, UTC))):
            raise bad("a row has an hour that does not begin on the hour")
        starts[at] = int(moment.timestamp())
    return starts
