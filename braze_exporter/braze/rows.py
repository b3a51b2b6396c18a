"""Parse the data of a response into series, with times as written. No I/O.

Statistics, channels and steps may be absent or unknown. A null is a hole: a bucket without a number. A value that is
neither a number nor null makes the whole response an error. It is never counted as zero.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import MetricGroup, ResponseFormat
from braze_exporter.braze.names import clean_text, normalize_id
from braze_exporter.braze.query import Query

Row: TypeAlias = Mapping[str, Any]
Values: TypeAlias = list[tuple["ParsedTime", float | None]]

# Years outside this range are errors, and could exceed the range of `datetime` arithmetic.
_VALID_YEARS = range(2000, 2200)
# The longest dates, such as `2026-11-23` and `2026-W48-1`. The shortest date with an hour is `20261123T12`.
_DATE_LENGTH = len("YYYY-MM-DD")
# The fields of a message entry that are not statistics.
_NON_STATISTIC_FIELDS = {"variation_api_id", "variation_name", "name"}
# Larger numbers are not exact in floating point, and their sums could exceed its range.
_MAX_NUMBER = 2.0**53
# The only statistic of a message that can be negative, because of refunds.
_REVENUE_STAT = "revenue"


class ParsedTime(NamedTuple):
    """The time of a row as written, and whether it is a date without a time."""

    moment: datetime
    is_date: bool


@dataclass(frozen=True, slots=True)
class ParsedSeries:
    """One series of a response. `values` has the time of each row as written and the value, or None for a hole.

    `labels` and `key` are as in `Series`.
    """

    metric_group: MetricGroup
    values: Values
    labels: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()


class _Part(NamedTuple):
    """What identifies a variation of a campaign or a step of a Canvas: its id, or its name if it has no id.

    `name` is empty if there is an id, since the name of an id can change.
    """

    id: str
    name: str


class _MessageStats(NamedTuple):
    """The statistics of one channel of a part, and the name of the part.

    `stats` is None if Braze sends null instead of statistics. Then `part` is None if the null applies to all parts, and
    `channel` is None if it applies to all channels.
    """

    part: _Part | None
    name: str
    channel: str | None
    stats: Row | None


_NULL_STATS = _MessageStats(None, "", None, None)


def invalid_response(detail: str) -> BrazeError:
    """Return the error for an invalid response. `detail` must contain no value of the body."""
    return BrazeError(Reason.INVALID_RESPONSE, f"malformed response: {detail}")


def parse_rows(query: Query, data: object) -> list[ParsedSeries]:
    """Return the series in `data`, the data of a response to `query`. Raises `BrazeError` if it is invalid."""
    kind = query.kind
    match kind.response_format:
        case ResponseFormat.ROWS:
            rows = _check_rows(data)
            return [_parse_series(query.metric_group, rows, kind.value_field)]
        case ResponseFormat.CAMPAIGN:
            rows = _check_rows(data)
            messages, message_revenue, conversions, revenue, recipients = kind.metric_groups
            named = {conversions: "conversions", revenue: _REVENUE_STAT, recipients: "unique_recipients"}
            return [*_parse_totals(rows, named), *_parse_messages(messages, message_revenue, rows, _campaign_messages)]
        case ResponseFormat.CANVAS:
            rows = _check_rows(data.get("stats") if isinstance(data, dict) else None)
            entries, conversions, revenue, messages, message_revenue = kind.metric_groups
            named = {entries: "entries", conversions: "conversions", revenue: _REVENUE_STAT}
            totals = [{**_as_mapping(row.get("total_stats")), "time": row.get("time")} for row in rows]
            return [*_parse_totals(totals, named), *_parse_messages(messages, message_revenue, rows, _canvas_messages)]


def _check_rows(data: object) -> list[Row]:
    if not isinstance(data, list):
        raise invalid_response("data is not a list")
    if not all(isinstance(row, dict) for row in data):
        raise invalid_response("a row is not an object")
    return data


def _parse_time(row: Row) -> ParsedTime:
    """Return the time of a row as written. Raises `BrazeError` if it is missing or invalid."""
    time = row.get("time")
    if not isinstance(time, str):
        raise invalid_response("a row has no time")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise invalid_response("a time is not in ISO 8601") from None
    if moment.year not in _VALID_YEARS:
        raise invalid_response("a time is out of range")
    return ParsedTime(moment, len(time) <= _DATE_LENGTH)


def _parse_number(value: object, field: str, *, can_be_negative: bool = False) -> float | None:
    """Return `value` as a number, or None for a hole. Raises `BrazeError` if it is neither a valid number nor null."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number) or (number < 0 and not can_be_negative):
        raise invalid_response(f"{field} is not a {'' if can_be_negative else 'non-negative '}number")
    if abs(number) > _MAX_NUMBER:
        raise invalid_response(f"{field} is too large")
    return number


def _parse_series(metric_group: MetricGroup, rows: Sequence[Row], field: str) -> ParsedSeries:
    return ParsedSeries(
        metric_group,
        [
            (_parse_time(row), _parse_number(row.get(field), field, can_be_negative=metric_group.can_be_negative))
            for row in rows
        ],
    )


def _parse_totals(rows: Sequence[Row], fields: Mapping[MetricGroup, str]) -> Iterator[ParsedSeries]:
    """Yield the series of metric groups without series labels."""
    for metric_group, name in fields.items():
        yield _parse_series(metric_group, rows, name)


def _parse_messages(
    stats_group: MetricGroup,
    revenue_group: MetricGroup,
    rows: Sequence[Row],
    messages: Callable[[Row], Iterator[_MessageStats]],
) -> Iterator[ParsedSeries]:
    """Yield a series for each statistic of each channel of each part, labeled with the newest name of the part.

    Revenue has a metric group of its own, since it is not a count. If a row has several entries for the same statistic,
    their values are summed. Unique users cannot be summed, since a user may be in several entries, so such a value is
    omitted.
    """
    days = sorted((_read_day(row, messages) for row in rows), key=lambda day: day.time.moment.replace(tzinfo=None))
    names = {part: name for day in days for part, name in day.names.items() if name}
    for part, channel, stat in dict.fromkeys(key for day in days for key in day.numbers):
        values = [(day.time, *value_or_hole) for day in days if (value_or_hole := day.value(part, channel, stat))]
        if any((part, channel, stat) in day.non_numbers for day in days) and any(
            value is not None for _, value in values
        ):
            raise invalid_response(f"{stat} is not a number")
        if not values:
            continue
        is_revenue = stat == _REVENUE_STAT
        metric_group = revenue_group if is_revenue else stats_group
        id_label = next(label for label in metric_group.series_labels if label.endswith("_id"))
        label_values = {id_label: part.id, id_label.removesuffix("_id"): names.get(part, ""), "channel": channel}
        label_values["stat"] = stat
        labels = tuple((label, label_values[label]) for label in metric_group.series_labels)
        yield ParsedSeries(metric_group, values, labels, (*part, channel, *(() if is_revenue else (stat,))))


@dataclass(frozen=True, slots=True)
class _DayStats:
    """The message statistics of one row.

    `numbers` holds the values by part, channel and statistic, and `non_numbers` the keys of values that are not
    numbers. `entries` are the parts and channels that have statistics. `nulls` are those that are null; None means all
    of them. `names` are the names of the parts.
    """

    time: ParsedTime
    numbers: dict[tuple[_Part, str, str], list[float | None]] = field(default_factory=dict)
    non_numbers: set[tuple[_Part, str, str]] = field(default_factory=set)
    entries: set[tuple[_Part, str]] = field(default_factory=set)
    nulls: set[tuple[_Part | None, str | None]] = field(default_factory=set)
    names: dict[_Part, str] = field(default_factory=dict)

    def value(self, part: _Part, channel: str, stat: str) -> tuple[float | None] | None:
        """Return a tuple with the value of a statistic (None for a hole), or None if the day has no value for it."""
        numbers = self.numbers.get((part, channel, stat))
        if numbers is None:
            is_hole = (part, channel) in self.entries or not self.nulls.isdisjoint(
                {(None, None), (part, None), (None, channel), (part, channel)}
            )
            return (None,) if is_hole else None
        if len(numbers) > 1 and stat.startswith("unique_"):
            return None
        return (None if None in numbers else sum(filter(None, numbers)),)


def _read_day(row: Row, messages: Callable[[Row], Iterator[_MessageStats]]) -> _DayStats:
    """Return the message statistics of a row."""
    day = _DayStats(_parse_time(row))
    for part, name, channel, stats in messages(row):
        if part is None or channel is None or stats is None:
            day.nulls.add((part, channel))
            continue
        day.names[part] = name or day.names.get(part, "")
        day.entries.add((part, channel))
        for stat, value in stats.items():
            key = (part, channel, clean_text(stat))
            if stat in _NON_STATISTIC_FIELDS:
                continue
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
                day.numbers.setdefault(key, []).append(
                    _parse_number(value, stat, can_be_negative=stat == _REVENUE_STAT)
                )
            else:
                day.non_numbers.add(key)
    return day


def _campaign_messages(row: Row) -> Iterator[_MessageStats]:
    """Yield the message statistics in a row of a campaign.

    Each channel has a list with one entry per variation. The list may be empty. The entry of a control group has
    enrolled users, but no sent messages. The entries of multivariate campaigns may have a name and no id.
    """
    if row.get("messages") is None:
        yield _NULL_STATS
    for channel, entries in _as_mapping(row.get("messages")).items():
        if entries is None:
            yield _NULL_STATS._replace(channel=clean_text(channel))
        for entry in _as_mappings(entries):
            name = clean_text(entry.get("variation_name"))
            part = _identify_part(entry.get("variation_api_id"), name)
            yield _MessageStats(part, name, clean_text(channel), entry)


def _canvas_messages(row: Row) -> Iterator[_MessageStats]:
    """Yield the message statistics in a row of a Canvas.

    The row maps step ids to objects with the step's name and a list of entries per channel.
    """
    if row.get("step_stats") is None:
        yield _NULL_STATS
    for step, stats in _as_mapping(row.get("step_stats")).items():
        step_stats = _as_mapping(stats)
        name = clean_text(step_stats.get("name"))
        part = _identify_part(step, name)
        if step_stats.get("messages") is None:
            yield _NULL_STATS._replace(part=part)
        for channel, entries in _as_mapping(step_stats.get("messages")).items():
            if entries is None:
                yield _NULL_STATS._replace(part=part, channel=clean_text(channel))
            for entry in _as_mappings(entries):
                yield _MessageStats(part, name, clean_text(channel), entry)


def _identify_part(part_id: object, name: str) -> _Part:
    """Return the part with this id, or with this name if the id is missing or empty."""
    known_id = normalize_id(clean_text(part_id))
    return _Part(known_id, "" if known_id else name)


def _as_mapping(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _as_mappings(value: object) -> list[Row]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
