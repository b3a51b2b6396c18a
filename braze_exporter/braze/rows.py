"""Parse the rows of a response: their times as written, and their numbers as columns, one for each series. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from braze_exporter.braze.columns import parse_column
from braze_exporter.braze.errors import invalid_response
from braze_exporter.braze.json_objects import Row, as_mapping
from braze_exporter.braze.kinds import ResponseFormat
from braze_exporter.braze.message_columns import (
    REVENUE_STAT,
    Column,
    MessageColumns,
    campaign_messages,
    canvas_messages,
)
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series, only_head

# Years outside this range are errors, and could exceed the range of `datetime` arithmetic.
_VALID_YEARS = range(2000, 2200)
# The longest dates, such as `2026-11-23` and `2026-W48-1`. The shortest date with an hour is `20261123T12`.
_DATE_LENGTH = len("YYYY-MM-DD")


class ParsedTime(NamedTuple):
    """The time of a row as written, and whether it is a date without a time."""

    moment: datetime
    is_date: bool


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
    for head, values in _columns(query, rows):
        yield Series(head, starts, values, zone)


def _columns(query: Query, rows: Sequence[Row]) -> Iterator[Column]:
    kind = query.kind
    match kind.response_format:
        case ResponseFormat.ROWS:
            yield from _parse_fields(rows, {query.metric_group: kind.value_field})
        case ResponseFormat.CAMPAIGN:
            stats_group, message_revenue, conversions, revenue, recipients = kind.metric_groups
            fields = {conversions: "conversions", revenue: REVENUE_STAT, recipients: "unique_recipients"}
            yield from _parse_fields(rows, fields)
            yield from MessageColumns(rows, campaign_messages).columns(stats_group, message_revenue)
        case ResponseFormat.CANVAS:
            entries, conversions, revenue, stats_group, message_revenue = kind.metric_groups
            fields = {entries: "entries", conversions: "conversions", revenue: REVENUE_STAT}
            yield from _parse_fields([as_mapping(row.get("total_stats")) for row in rows], fields)
            yield from MessageColumns(rows, canvas_messages).columns(stats_group, message_revenue)


def _parse_fields(rows: Sequence[Row], fields: Mapping[MetricGroup, str]) -> Iterator[Column]:
    """Yield the columns of metric groups without series labels."""
    for metric_group, field in fields.items():
        column = [row.get(field) for row in rows]
        values = parse_column(column, field, can_be_negative=metric_group.can_be_negative)
        yield only_head(metric_group), values
