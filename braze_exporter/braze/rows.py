"""Parse the data of a response into series, with times as written. No I/O.

Statistics, channels and steps may be absent or unknown. A null is a hole: a bucket without a number. A value that is
neither a number nor null makes the whole response an error. It is never counted as zero.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import MetricGroup, ResponseFormat
from braze_exporter.braze.names import clean_text, normalize_id
from braze_exporter.braze.query import Query

Row: TypeAlias = Mapping[str, Any]
# The number of a row, None for a hole, or `MISSING` if the row does not have the series.
Column: TypeAlias = list[Any]

# Marks a row that does not have a series.
MISSING = object()
# Marks the value of unique users that several entries of a row have. It is not a hole.
_OMITTED = object()
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
    """One series of a response. `values` has one element for each row of the response.

    `labels` and `key` are as in `Series`.
    """

    metric_group: MetricGroup
    values: Column
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


def parse_rows(query: Query, data: object) -> tuple[list[ParsedTime], list[ParsedSeries]]:
    """Return the times of the rows in `data`, the data of a response to `query`, and the series in their order.

    Raises `BrazeError` if `data` is invalid.
    """
    kind = query.kind
    match kind.response_format:
        case ResponseFormat.ROWS:
            rows = _check_rows(data)
            times = _parse_times(rows)
            return times, [_parse_series(query.metric_group, rows, kind.value_field)]
        case ResponseFormat.CAMPAIGN:
            rows = _check_rows(data)
            times = _parse_times(rows)
            messages, message_revenue, conversions, revenue, recipients = kind.metric_groups
            named = {conversions: "conversions", revenue: _REVENUE_STAT, recipients: "unique_recipients"}
            columns = _MessageColumns(times, rows, _campaign_messages)
            return times, [*_parse_totals(rows, named), *columns.series(messages, message_revenue)]
        case ResponseFormat.CANVAS:
            rows = _check_rows(data.get("stats") if isinstance(data, dict) else None)
            times = _parse_times(rows)
            entries, conversions, revenue, messages, message_revenue = kind.metric_groups
            named = {entries: "entries", conversions: "conversions", revenue: _REVENUE_STAT}
            totals = [_as_mapping(row.get("total_stats")) for row in rows]
            columns = _MessageColumns(times, rows, _canvas_messages)
            return times, [*_parse_totals(totals, named), *columns.series(messages, message_revenue)]


def _check_rows(data: object) -> list[Row]:
    if not isinstance(data, list):
        raise invalid_response("data is not a list")
    if not all(isinstance(row, dict) for row in data):
        raise invalid_response("a row is not an object")
    return data


def _parse_times(rows: Sequence[Row]) -> list[ParsedTime]:
    return [_parse_time(row) for row in rows]


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
    if type(value) is int and 0 <= value <= _MAX_NUMBER:  # almost all values
        return float(value)
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
    can_be_negative = metric_group.can_be_negative
    return ParsedSeries(
        metric_group, [_parse_number(row.get(field), field, can_be_negative=can_be_negative) for row in rows]
    )


def _parse_totals(rows: Sequence[Row], fields: Mapping[MetricGroup, str]) -> Iterator[ParsedSeries]:
    """Yield the series of metric groups without series labels."""
    for metric_group, name in fields.items():
        yield _parse_series(metric_group, rows, name)


class _MessageColumns:
    """The message statistics of a response, as one column for each statistic of each channel of each part.

    If a row has several entries for the same statistic, their values are summed. Unique users cannot be summed, since a
    user may be in several entries, so such a value is omitted.
    """

    def __init__(
        self, times: Sequence[ParsedTime], rows: Sequence[Row], messages: Callable[[Row], Iterator[_MessageStats]]
    ) -> None:
        """Read the statistics that `messages` yields for each row. Raises `BrazeError` if one is invalid."""
        self._length = len(rows)
        self._columns: dict[tuple[_Part, str], dict[str, Column]] = {}
        self._names: dict[_Part, tuple[datetime, str]] = {}
        # The statistics with a value that is neither a number nor null.
        self._non_numbers: set[tuple[tuple[_Part, str], str]] = set()
        # The rows in which a channel of a part has statistics, and those in which Braze sends null instead of them: for
        # the part and the channel, or for all of them (None).
        self._rows_with_stats: dict[tuple[_Part, str], set[int]] = {}
        self._rows_with_null: dict[tuple[_Part | None, str | None], set[int]] = {}
        for index, row in enumerate(rows):
            moment = times[index].moment.replace(tzinfo=None)
            for part, name, channel, stats in messages(row):
                if part is None or channel is None or stats is None:
                    self._rows_with_null.setdefault((part, channel), set()).add(index)
                    continue
                if name and moment >= self._names.get(part, (moment,))[0]:
                    self._names[part] = (moment, name)
                self._rows_with_stats.setdefault((part, channel), set()).add(index)
                self._read_stats(index, (part, channel), stats)

    def _read_stats(self, index: int, owner: tuple[_Part, str], stats: Row) -> None:
        """Read the statistics of one entry in the row at `index`."""
        columns = self._columns.setdefault(owner, {})
        for field, value in stats.items():
            if field in _NON_STATISTIC_FIELDS:
                continue
            stat = clean_text(field)
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                self._non_numbers.add((owner, stat))
                continue
            number = _parse_number(value, field, can_be_negative=field == _REVENUE_STAT)
            column = columns.get(stat)
            if column is None:
                column = columns[stat] = [MISSING] * self._length
            known = column[index]
            if known is MISSING:
                column[index] = number
            elif stat.startswith("unique_"):
                column[index] = _OMITTED
            else:
                column[index] = None if number is None or known is None else known + number

    def series(self, stats_group: MetricGroup, revenue_group: MetricGroup) -> Iterator[ParsedSeries]:
        """Yield a series for each column, labeled with the newest name of its part.

        Revenue has a metric group of its own, since it is not a count. Raises `BrazeError` if a statistic is sometimes
        a number and sometimes something else.
        """
        for owner, columns in self._columns.items():
            part, channel = owner
            holes = set(self._rows_with_stats[owner]).union(
                *(self._rows_with_null.get(key, ()) for key in ((None, None), (part, None), (None, channel), owner))
            )
            for stat, column in columns.items():
                values = [
                    None if value is MISSING and index in holes else MISSING if value is _OMITTED else value
                    for index, value in enumerate(column)
                ]
                if (owner, stat) in self._non_numbers and any(isinstance(value, float) for value in values):
                    raise invalid_response(f"{stat} is not a number")
                if any(value is not MISSING for value in values):
                    metric_group = revenue_group if stat == _REVENUE_STAT else stats_group
                    yield ParsedSeries(
                        metric_group,
                        values,
                        self._labels(metric_group, part, channel, stat),
                        (*part, channel, *(() if metric_group is revenue_group else (stat,))),
                    )

    def _labels(self, metric_group: MetricGroup, part: _Part, channel: str, stat: str) -> tuple[tuple[str, str], ...]:
        id_label = next(label for label in metric_group.series_labels if label.endswith("_id"))
        _, name = self._names.get(part, (None, ""))
        values = {id_label: part.id, id_label.removesuffix("_id"): name, "channel": channel, "stat": stat}
        return tuple((label, values[label]) for label in metric_group.series_labels)


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
