"""Parse the rows of a response: their times as written, and their numbers as columns, one for each series. No I/O.

Statistics, channels and steps may be absent or unknown. A null is a hole: a bucket without a number. A value that is
neither a number nor null makes the whole response an error. It is never counted as zero.
"""

import functools
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import MetricGroup, ResponseFormat
from braze_exporter.braze.names import clean_text, normalize_id
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import ABSENT, HOLE, Series

Row: TypeAlias = Mapping[str, Any]

# Marks a row that does not have a series, and the value of unique users that several entries of a row have.
_MISSING, _OMITTED = object(), object()
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


class _Part(NamedTuple):
    """What identifies a variation of a campaign or a step of a Canvas: its id, or its name if it has no id.

    `name` is empty if there is an id, since the name of an id can change.
    """

    id: str
    name: str


# The statistics of one channel of a part: the part and its name, the channel and the entry. If Braze sends null instead
# of an entry, the part is None if the null applies to all parts, and the channel is None if it applies to all channels.
_MessageStats: TypeAlias = tuple[_Part | None, str, str | None, Row | None]


def invalid_response(detail: str) -> BrazeError:
    """Return the error for an invalid response. `detail` must contain no value of the body."""
    return BrazeError(Reason.INVALID_RESPONSE, f"malformed response: {detail}")


def select_rows(query: Query, data: object) -> list[Row]:
    """Return the rows in `data`, the data of a response to `query`. Raises `BrazeError` if there are none."""
    if query.kind.response_format is ResponseFormat.CANVAS:
        data = data.get("stats") if isinstance(data, dict) else None
    if not isinstance(data, list):
        raise invalid_response("data is not a list")
    if not all(isinstance(row, dict) for row in data):
        raise invalid_response("a row is not an object")
    return data


def parse_time(row: Row) -> ParsedTime:
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


def parse_columns(query: Query, rows: Sequence[Row], starts: tuple[int, ...], zone: str) -> Iterator[Series]:
    """Yield the series of a response to `query`, whose `rows` are ordered by time and begin at `starts`.

    `zone` is as in `Series`. Raises `BrazeError` if a number is invalid.
    """
    kind, build = query.kind, functools.partial(Series, starts=starts, zone=zone)
    match kind.response_format:
        case ResponseFormat.ROWS:
            yield from _parse_fields(rows, {query.metric_group: kind.value_field}, build)
        case ResponseFormat.CAMPAIGN:
            stats_group, message_revenue, conversions, revenue, recipients = kind.metric_groups
            fields = {conversions: "conversions", revenue: _REVENUE_STAT, recipients: "unique_recipients"}
            yield from _parse_fields(rows, fields, build)
            yield from _MessageColumns(rows, _campaign_messages).series(stats_group, message_revenue, build)
        case ResponseFormat.CANVAS:
            entries, conversions, revenue, stats_group, message_revenue = kind.metric_groups
            fields = {entries: "entries", conversions: "conversions", revenue: _REVENUE_STAT}
            yield from _parse_fields([_as_mapping(row.get("total_stats")) for row in rows], fields, build)
            yield from _MessageColumns(rows, _canvas_messages).series(stats_group, message_revenue, build)


def _parse_fields(
    rows: Sequence[Row], fields: Mapping[MetricGroup, str], build: Callable[..., Series]
) -> Iterator[Series]:
    """Yield the series of metric groups without series labels."""
    for metric_group, field in fields.items():
        column = [row.get(field) for row in rows]
        yield build(metric_group, values=_parse_column(column, field, can_be_negative=metric_group.can_be_negative))


def _parse_column(values: Sequence[Any], field: str, *, can_be_negative: bool) -> "array[float]":
    """Return the values of a series. Raises `BrazeError` if one is neither a valid number nor null."""
    if {*map(type, values)} == {int} and min(values) >= 0 and max(values) <= _MAX_NUMBER:  # almost all columns
        return array("d", values)
    return array("d", [_parse_number(value, field, can_be_negative=can_be_negative) for value in values])


def _parse_number(value: object, field: str, *, can_be_negative: bool) -> float:
    """Return `value` as a number, `HOLE` or `ABSENT`. Raises `BrazeError` if it is neither a valid number nor null."""
    if value is None:
        return HOLE
    if value is _MISSING or value is _OMITTED:
        return ABSENT
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number) or (number < 0 and not can_be_negative):
        raise invalid_response(f"{field} is not a {'' if can_be_negative else 'non-negative '}number")
    if abs(number) > _MAX_NUMBER:
        raise invalid_response(f"{field} is too large")
    return number


class _MessageColumns:
    """The message statistics of a response, as one column for each statistic of each channel of each part.

    If a row has several entries for the same statistic, their values are summed. Unique users cannot be summed, since a
    user may be in several entries, so such a value is omitted.
    """

    def __init__(self, rows: Sequence[Row], messages: Callable[[Row], Iterator[_MessageStats]]) -> None:
        """Read the statistics that `messages` yields for each row."""
        self._length = len(rows)
        self._columns: dict[tuple[_Part, str], dict[str, list[Any]]] = {}
        self._names: dict[_Part, str] = {}
        # The rows in which a channel of a part has statistics, and those in which Braze sends null instead of them: for
        # the part and the channel, or for all of them (None).
        self._rows_with_stats: dict[tuple[_Part, str], set[int]] = {}
        self._rows_with_null: dict[tuple[_Part | None, str | None], set[int]] = {}
        for index, row in enumerate(rows):
            for part, name, channel, stats in messages(row):
                if part is None or channel is None or stats is None:
                    self._rows_with_null.setdefault((part, channel), set()).add(index)
                    continue
                if name:
                    self._names[part] = name
                self._rows_with_stats.setdefault((part, channel), set()).add(index)
                self._read_stats(index, self._columns.setdefault((part, channel), {}), stats)

    def _read_stats(self, index: int, columns: dict[str, list[Any]], stats: Row) -> None:
        """Read the statistics of one entry in the row at `index`."""
        for field, value in stats.items():
            column = columns.get(field)
            if column is None:
                # Different fields may have the same text as a label.
                column = columns.setdefault(clean_text(field), [_MISSING] * self._length)
                columns[field] = column
            known = column[index]
            column[index] = value if known is _MISSING else _add_entries(known, value, field)

    def series(
        self, stats_group: MetricGroup, revenue_group: MetricGroup, build: Callable[..., Series]
    ) -> Iterator[Series]:
        """Yield what `build` returns for each column, labeled with the newest name of its part.

        Revenue has a metric group of its own, since it is not a count. Raises `BrazeError` if a statistic is sometimes
        a number and sometimes something else.
        """
        for owner, columns in self._columns.items():
            part, channel = owner
            holes = set(self._rows_with_stats[owner]).union(
                *(self._rows_with_null.get(key, ()) for key in ((None, None), (part, None), (None, channel), owner))
            )
            for stat, column in columns.items():
                if stat in _NON_STATISTIC_FIELDS or stat != clean_text(stat):
                    continue
                types = {*map(type, column)}
                if types - {int, float, NoneType, object} and types & {int, float}:
                    raise invalid_response(f"{stat} is not a number")
                if not types <= {int, float, NoneType, object} or types == {object}:
                    continue
                if object in types:
                    values = [None if value is _MISSING and at in holes else value for at, value in enumerate(column)]
                else:
                    values = column
                metric_group = revenue_group if stat == _REVENUE_STAT else stats_group
                yield build(
                    metric_group,
                    self._labels(metric_group, part, channel, stat),
                    (*part, channel, *(() if metric_group is revenue_group else (stat,))),
                    values=_parse_column(values, stat, can_be_negative=stat == _REVENUE_STAT),
                )

    def _labels(self, metric_group: MetricGroup, part: _Part, channel: str, stat: str) -> tuple[tuple[str, str], ...]:
        id_label = next(label for label in metric_group.series_labels if label.endswith("_id"))
        values = {
            id_label: part.id,
            id_label.removesuffix("_id"): self._names.get(part, ""),
            "channel": channel,
            "stat": stat,
        }
        return tuple([(label, values[label]) for label in metric_group.series_labels])


def _add_entries(known: Any, value: Any, field: str) -> object:  # noqa: ANN401 - values of JSON
    """Return the sum of a statistic in two entries of a row."""
    if field.startswith("unique_"):
        return _OMITTED
    if known is None or value is None:
        return None
    if not {type(known), type(value)} & {int, float}:
        return value
    return sum(_parse_number(each, field, can_be_negative=field == _REVENUE_STAT) for each in (known, value))


def _campaign_messages(row: Row) -> Iterator[_MessageStats]:
    """Yield the message statistics in a row of a campaign.

    Each channel has a list with one entry per variation. The list may be empty. The entry of a control group has
    enrolled users, but no sent messages. The entries of multivariate campaigns may have a name and no id.
    """
    if row.get("messages") is None:
        yield None, "", None, None
    for channel, entries in _as_mapping(row.get("messages")).items():
        if entries is None:
            yield None, "", clean_text(channel), None
        for entry in _as_mappings(entries):
            name = clean_text(entry.get("variation_name"))
            part = _identify_part(entry.get("variation_api_id"), name)
            yield part, name, clean_text(channel), entry


def _canvas_messages(row: Row) -> Iterator[_MessageStats]:
    """Yield the message statistics in a row of a Canvas.

    The row maps step ids to objects with the step's name and a list of entries per channel.
    """
    if row.get("step_stats") is None:
        yield None, "", None, None
    for step, stats in _as_mapping(row.get("step_stats")).items():
        step_stats = _as_mapping(stats)
        name = clean_text(step_stats.get("name"))
        part = _identify_part(step, name)
        if step_stats.get("messages") is None:
            yield part, "", None, None
        for channel, entries in _as_mapping(step_stats.get("messages")).items():
            if entries is None:
                yield part, "", clean_text(channel), None
            for entry in _as_mappings(entries):
                yield part, name, clean_text(channel), entry


def _identify_part(part_id: object, name: str) -> _Part:
    """Return the part with this id, or with this name if the id is missing or empty."""
    known_id = normalize_id(clean_text(part_id))
    return _Part(known_id, "" if known_id else name)


def _as_mapping(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _as_mappings(value: object) -> list[Row]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
