"""Parse the status, headers and body of a response into series, rate-limit headers or a `BrazeError`. No I/O.

An invalid row makes the whole response an error. It is never counted as zero.
"""

import functools
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from braze_exporter.braze.body import parse_body
from braze_exporter.braze.buckets import OFFSET_STEP_SECONDS, bucket_number, midnight, min_requested_bucket_number
from braze_exporter.braze.calls import RateLimit
from braze_exporter.braze.errors import Reason, invalid_response
from braze_exporter.braze.json_objects import compact_object
from braze_exporter.braze.kinds import MAX_LENGTH, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.rows import ParsedTime, parse_columns, parse_time, select_rows
from braze_exporter.braze.series import ABSENT, Series

# Smaller values of the reset header are seconds from now, since as epoch seconds they would be before September 2001.
_MIN_EPOCH_RESET = 1_000_000_000
# A reset that is further away is invalid, such as one in milliseconds. Braze's windows last an hour at most.
_MAX_RESET_SECONDS = 86_400.0
# A larger limit is invalid.
_MAX_LIMIT = 1e9
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")
# How far in the future an hour may start, since Braze's clock and the local clock can differ.
_MAX_HOUR_AHEAD_SECONDS = 300.0
# The length of the shortest day.
_MIN_DAY_SECONDS = 23 * 3_600
# How many days in the future a day may be. In zones further east than `timezone`, tomorrow may have started.
_MAX_DAYS_AHEAD = 1
# How many buckets before the requested ones are accepted. Braze does not document which bucket `ending_at` is in.
_MAX_BUCKETS_BEFORE = 2

# Objects of larger bodies are compacted. For the others that would take more time.
_LARGE_BODY_BYTES = 256 * 1024

_REASON_BY_STATUS = {
    400: Reason.BAD_REQUEST,
    401: Reason.UNAUTHORIZED,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    429: Reason.RATE_LIMITED,
}
_SUCCESS_STATUSES = (200, 201)


def reason_for_status(status: int) -> Reason | None:
    """Return the failure reason for an HTTP status, or None if the status is a success."""
    if status in _SUCCESS_STATUSES:
        return None
    if 500 <= status < 600:  # noqa: PLR2004 - the range of server errors
        return Reason.SERVER_ERROR
    return _REASON_BY_STATUS.get(status, Reason.UNEXPECTED_STATUS)


def read_message(body: bytes) -> str:
    """Return the `message` in a JSON body, or an empty string if it has none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    message = document.get("message") if isinstance(document, dict) else None
    return message if isinstance(message, str) else ""


def parse_rate_limit(headers: Mapping[str, str], now: float) -> RateLimit:
    """Return the rate limit in the headers of a response.

    `now` is the time of the response in seconds since the epoch, by Braze's clock. If the number of remaining calls is
    invalid, no call may remain. An invalid limit or reset is ignored.
    """
    limit = _parse_number(headers.get("X-RateLimit-Limit", ""))
    written_remaining = headers.get("X-RateLimit-Remaining", "").strip()
    remaining = _parse_number(written_remaining)
    resets_in = _parse_seconds(headers.get("X-RateLimit-Reset", ""), now)
    return RateLimit(
        limit if limit is not None and 1 <= limit <= _MAX_LIMIT else None,
        0.0 if remaining is None and written_remaining else remaining,
        now + resets_in if resets_in is not None and abs(resets_in) <= _MAX_RESET_SECONDS else None,
        invalid_remaining=written_remaining if remaining is None else "",
    )


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the number of seconds that the headers ask to wait after `now`, the time of the response, or None.

    Braze documents neither header. A proxy or CDN in front of Braze may send `Retry-After`, as seconds or as a date.
    Clients of Braze read `X-RateLimit-Retry-After` too.
    """
    texts = [headers.get(name, "") for name in ("Retry-After", "X-RateLimit-Retry-After")]
    seconds = [_parse_seconds(text, now) for text in texts]
    dates = [_parse_http_date(text) for text in texts]
    waits = [*seconds, *(None if date is None else date - now for date in dates)]
    return max((wait for wait in waits if wait is not None and wait >= 0), default=None)


def parse_date(headers: Mapping[str, str]) -> float | None:
    """Return the time in the `Date` header in seconds since the epoch, or None if it is absent or invalid."""
    return _parse_http_date(headers.get("Date", ""))


def _parse_http_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _parse_number(text: str) -> float | None:
    """Return the number in a header, or None if it is empty or invalid. Equal members of a list are one number.

    Braze sends empty headers with a 401. A proxy may merge a repeated header into a list.
    """
    members = {member.strip() for member in text.split(",")}
    member = members.pop()
    number = float(member) if not members and _NUMBER.fullmatch(member) else math.inf
    return number if math.isfinite(number) else None


def _parse_seconds(text: str, now: float) -> float | None:
    """Return a time in a header in seconds after `now`, or None. Large numbers are seconds since the epoch."""
    number = _parse_number(text)
    return number - now if number is not None and number >= _MIN_EPOCH_RESET else number


def check_starts(query: Query, starts: Iterable[int], length: int, earliest: float, latest: float) -> None:
    """Raise `BrazeError` if a bucket of a response is in the future, or older than those that were requested.

    The arguments are as in `parse_series`.
    """
    end = earliest if query.ending_at is None else query.ending_at
    unit, zone = query.unit, query.zone
    oldest = min_requested_bucket_number(query, end, length + _MAX_BUCKETS_BEFORE)
    newest = (
        latest + _MAX_HOUR_AHEAD_SECONDS if unit is Unit.HOUR else bucket_number(latest, unit, zone) + _MAX_DAYS_AHEAD
    )
    for start in starts:
        number = bucket_number(start, unit, zone)
        if number > newest:
            raise invalid_response("a time is in the future")
        if number < oldest:
            raise invalid_response("a row is older than the requested buckets")


def parse_series(query: Query, body: bytes, length: int, earliest: float, latest: float) -> tuple[Series, ...]:
    """Return the series in the `body` of a successful response, ordered by time.

    `length` is the number of buckets that were requested. `earliest` and `latest` are the limits of the time of the
    response, in seconds since the epoch: the local clock and Braze's may differ. Raises `BrazeError` if the response is
    malformed. The error contains no value of the body, but may contain the name of a field.
    """
    unit, zone = query.unit, query.zone
    hook = compact_object if len(body) > _LARGE_BODY_BYTES else None
    rows = select_rows(query, parse_body(body, hook).get("data"))
    times = [parse_time(row) for row in rows]
    starts = (_parse_days if unit is Unit.DAY else _parse_hours)(times, zone)
    check_starts(query, starts, length, earliest, latest)
    has_local_hours = unit is Unit.HOUR and any(time.moment.tzinfo is None for time in times)
    order = sorted(range(len(starts)), key=starts.__getitem__)
    in_order = _intern(tuple([starts[index] for index in order]))
    series = parse_columns(query, [rows[index] for index in order], in_order, str(zone) if has_local_hours else "")
    if len({*starts}) < len(starts):
        series = map(_merge_duplicates, series)
    return tuple(map(_limit_length, series) if len(starts) > MAX_LENGTH else series)


@functools.lru_cache(maxsize=256)  # the responses to many queries have the same buckets
def _intern(starts: tuple[int, ...]) -> tuple[int, ...]:
    return starts


def _merge_duplicates(series: Series) -> Series:
    """Return the series with one bucket for all rows with the same start. A number there replaces a hole."""
    values: dict[int, float] = {}
    for start, value in zip(series.starts, series.values, strict=True):
        known = values.get(start, ABSENT)
        if math.isfinite(known) and math.isfinite(value) and known != value:
            raise invalid_response(
                f"bucket {datetime.fromtimestamp(start, UTC):%Y-%m-%dT%H:%MZ} has two different values"
            )
        if not math.isfinite(known) and value != ABSENT:
            values[start] = value
        values.setdefault(start, ABSENT)
    return series._replace(starts=tuple(values), values=array("d", values.values()))


def _limit_length(series: Series) -> Series:
    return series._replace(starts=series.starts[-MAX_LENGTH:], values=series.values[-MAX_LENGTH:])


def _parse_days(written: Iterable[ParsedTime], zone: ZoneInfo) -> list[int]:
    """Return the start of each day in `zone`. Only the date in the text counts; time and offset are ignored."""
    return [midnight(time.moment.date(), zone) for time in written]


def _parse_hours(times: Sequence[ParsedTime], zone: ZoneInfo) -> list[int]:
    """Return the start of each hour. Times without an offset are local times in `zone`.

    At the end of DST local hours occur twice. Of two rows with the same time, the newer one is the second pass. A
    single row is the second pass if that is one hour after the row before it. The oldest row of the response is the
    second pass if the next row is one hour later.

    Raises `BrazeError` if a time is a date only or not on the hour, or if the rows are days.
    """
    if any(time.is_date for time in times):
        raise invalid_response("a row has a date instead of an hour")
    written = [time.moment for time in times]
    local_times = [moment.replace(tzinfo=None) for moment in written]
    order = list(range(len(written)))
    if local_times and local_times[0] > local_times[-1]:
        order.reverse()
    starts, has_minutes = [0] * len(written), False
    repetitions, seen = Counter(local_times), set[datetime]()
    oldest, next_hour = min(local_times, default=None), 0.0
    for index in order:
        moment = written[index]
        if moment.tzinfo is None:
            second_pass = moment.replace(tzinfo=zone, fold=1)
            if repetitions[moment] > 1:
                is_second_pass = moment in seen
            elif moment == oldest:
                is_second_pass = moment + timedelta(hours=1) in repetitions
            else:
                is_second_pass = second_pass.timestamp() == next_hour
            seen.add(moment)
            moment = second_pass.replace(fold=int(is_second_pass))
        starts[index] = int(moment.timestamp())
        next_hour = starts[index] + Unit.HOUR.seconds
        has_minutes |= not any(
            clock.minute == clock.second == 0 for clock in map(moment.astimezone, (moment.tzinfo, zone, UTC))
        )
    # A time must be on the hour by its own offset, the zone or UTC, or else by another zone: all hours of a response
    # then begin the same multiple of 15 minutes after those of UTC. Otherwise the bucket could not be identified in the
    # next response, and its value would be counted again.
    offsets = {start % Unit.HOUR.seconds for start in starts}
    is_one_zone = len(starts) > 1 and len(offsets) == 1 and not any(offset % OFFSET_STEP_SECONDS for offset in offsets)
    if has_minutes and not is_one_zone:
        raise invalid_response("a time is not on the hour")
    in_order = sorted({*starts})
    if len(in_order) > 1 and all(after - before >= _MIN_DAY_SECONDS for before, after in pairwise(in_order)):
        raise invalid_response("the rows are days instead of hours")
    return starts
