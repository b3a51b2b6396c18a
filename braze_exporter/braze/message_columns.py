"""Parse the message statistics of campaigns and Canvases into columns, one for each series. No I/O.

Statistics, channels and steps may be absent or unknown.
"""

import functools
from array import array
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

from braze_exporter.braze.columns import MISSING, OMITTED, are_amounts, parse_column, parse_number
from braze_exporter.braze.errors import invalid_response
from braze_exporter.braze.json_objects import Row, as_mapping, as_mappings
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.names import clean_text, normalize_id
from braze_exporter.braze.series import SeriesHead

# The fields of a message entry that are not statistics.
_NON_STATISTIC_FIELDS = {"variation_api_id", "variation_name", "name"}
# The field of revenue, and the only statistic of a message that can be negative, because of refunds.
REVENUE_STAT = "revenue"

# What identifies a series, and its values.
Column: TypeAlias = tuple[SeriesHead, "array[float]"]


class _Part(NamedTuple):
    """What identifies a variation of a campaign or a step of a Canvas: its id, or its name if it has no id.

    `name` is empty if there is an id, since the name of an id can change.
    """

    id: str
    name: str


# The statistics of one channel of a part: the part and its name, the channel and the entry. If Braze sends null instead
# of an entry, the part is None if the null applies to all parts, and the channel is None if it applies to all channels.
MessageStats: TypeAlias = tuple[_Part | None, str, str | None, Row | None]


class _Channel:
    """The entries of one channel of a part. `rows` has the index of the row of each, in ascending order."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._entries: dict[tuple[str, ...], list[tuple[int, Row]]] = {}  # those with the same fields

    def add(self, index: int, entry: Row) -> None:
        """Add an entry in the row at `index`."""
        self.rows.append(index)
        self._entries.setdefault(tuple(entry), []).append((index, entry))

    def statistics(self, length: int, holes: Container[int]) -> tuple[tuple[str, ...], Sequence["array[float]"]]:
        """Return the names of the statistics, and the values of each in `length` rows.

        `holes` are the rows that should have all statistics. Raises `BrazeError` if a statistic is sometimes a number
        and sometimes something else.
        """
        if len(self._entries) == 1 and self.rows == [*range(length)]:  # as almost always
            ((fields, entries),) = self._entries.items()
            stats, indexes = _statistic_fields(fields)
            columns = [*zip(*[entry.values() for _, entry in entries], strict=True)]
            numbers = [*chain.from_iterable([columns[index] for index in indexes])]
            if are_amounts(numbers):
                flat = array("d", numbers)
                return stats, [flat[at : at + length] for at in range(0, len(flat), length)]
        parsed = {stat: _parse_stat(stat, column, holes) for stat, column in self._columns(length).items()}
        known = {stat: values for stat, values in parsed.items() if values is not None}
        return tuple(known), [*known.values()]

    def _columns(self, length: int) -> Mapping[str, Sequence[Any]]:
        """Return the values of each field that can be a statistic, in `length` rows."""
        columns: dict[str, Sequence[Any]] = {}
        for fields, entries in self._entries.items():
            rows = [index for index, _ in entries]
            for field, values in zip(fields, zip(*(entry.values() for _, entry in entries), strict=True), strict=True):
                stat = clean_text(field)
                if stat in _NON_STATISTIC_FIELDS:
                    continue
                column = [*columns.get(stat, [MISSING] * length)]
                for index, value in zip(rows, values, strict=True):
                    column[index] = value if column[index] is MISSING else _add_entries(column[index], value, stat)
                columns[stat] = column
        return columns


@functools.lru_cache(maxsize=1_024)  # most entries have the same fields
def _statistic_fields(fields: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the fields that can be statistics, and their indexes. If their names are not unique, return none."""
    known = {clean_text(field): index for index, field in enumerate(fields)}
    if len(known) < len(fields):
        return (), ()
    chosen = {stat: index for stat, index in known.items() if stat not in _NON_STATISTIC_FIELDS}
    return tuple(chosen), tuple(chosen.values())


@functools.lru_cache(maxsize=8_192)  # all responses to a query have the same series
def _message_heads(
    groups: tuple[MetricGroup, MetricGroup], part: _Part, name: str, channel: str, stats: tuple[str, ...]
) -> tuple[SeriesHead, ...]:
    """Return the heads of the series of a channel of a part. `groups` are those of the counts and of the revenue."""
    stats_group, revenue_group = groups
    id_label = next(label for label in stats_group.series_labels if label.endswith("_id"))
    values_by_label = {"channel": channel, id_label: part.id, id_label.removesuffix("_id"): name}
    labels = tuple([(label, values_by_label[label]) for label in revenue_group.series_labels])
    key = (*part, channel)
    return tuple(
        SeriesHead(revenue_group, labels, (revenue_group.name, *key))
        if stat == REVENUE_STAT
        else SeriesHead(stats_group, (*labels, _stat_label(stat)), (stats_group.name, *key, stat))
        for stat in stats
    )


@functools.lru_cache(maxsize=1_024)  # all channels have the same statistics
def _stat_label(stat: str) -> tuple[str, str]:
    return "stat", stat


class MessageColumns:
    """The message statistics of a response, by channel and part.

    If a row has several entries for the same statistic, their values are summed. Unique users cannot be summed, since a
    user may be in several entries, so such a value is omitted.
    """

    def __init__(self, rows: Sequence[Row], messages: Callable[[Row], Iterator[MessageStats]]) -> None:
        """Read the statistics that `messages` yields for each row."""
        self._length = len(rows)
        self._channels: defaultdict[tuple[_Part, str], _Channel] = defaultdict(_Channel)
        self._names: dict[_Part, str] = {}
        # The rows in which Braze sends null instead of statistics: for the part and the channel, or for all (None).
        self._rows_with_null: dict[tuple[_Part | None, str | None], set[int]] = {}
        for index, row in enumerate(rows):
            for part, name, channel, entry in messages(row):
                if part is None or channel is None or entry is None:
                    self._rows_with_null.setdefault((part, channel), set()).add(index)
                    continue
                if name:
                    self._names[part] = name
                self._channels[part, channel].add(index, entry)

    def columns(self, stats_group: MetricGroup, revenue_group: MetricGroup) -> Iterator[Column]:
        """Yield each column, labeled with the newest name of its part.

        Revenue has a metric group of its own, since it is not a count. Raises `BrazeError` if a statistic is sometimes
        a number and sometimes something else.
        """
        for (part, channel), of_channel in self._channels.items():
            names = ((None, None), (part, None), (None, channel), (part, channel))
            holes = {*of_channel.rows}.union(*(self._rows_with_null.get(name, ()) for name in names))
            stats, columns = of_channel.statistics(self._length, holes)
            heads = _message_heads((stats_group, revenue_group), part, self._names.get(part, ""), channel, stats)
            yield from zip(heads, columns, strict=True)


def _parse_stat(stat: str, column: Sequence[Any], holes: Container[int]) -> "array[float] | None":
    """Return the values of a column, or None if it is not a statistic. `holes` are the rows that should have it."""
    types = {*map(type, column)}
    if not types <= {int, float, NoneType, object}:
        if types & {int, float}:
            raise invalid_response(f"{stat} is not a number")
        return None
    if object in types:
        column = [None if value is MISSING and index in holes else value for index, value in enumerate(column)]
    return parse_column(column, stat, can_be_negative=stat == REVENUE_STAT)


def _add_entries(known: Any, value: Any, field: str) -> object:  # noqa: ANN401 - values of JSON
    """Return the sum of a statistic in two entries of a row."""
    if field.startswith("unique_"):
        return OMITTED
    if known is None or value is None:
        return None
    if not {type(known), type(value)} & {int, float}:
        return value
    return sum(parse_number(each, field, can_be_negative=field == REVENUE_STAT) for each in (known, value))


def campaign_messages(row: Row) -> Iterator[MessageStats]:
    """Yield the message statistics in a row of a campaign.

    Each channel has a list with one entry per variation. The list may be empty. The entry of a control group has
    enrolled users, but no sent messages. The entries of multivariate campaigns may have a name and no id.
    """
    if row.get("messages") is None:
        yield None, "", None, None
    for name_of_channel, entries in as_mapping(row.get("messages")).items():
        channel = clean_text(name_of_channel)
        if entries is None:
            yield None, "", channel, None
        for entry in as_mappings(entries):
            part, name = _identify_part(entry.get("variation_api_id"), entry.get("variation_name"))
            yield part, name, channel, entry


def canvas_messages(row: Row) -> Iterator[MessageStats]:
    """Yield the message statistics in a row of a Canvas.

    The row maps step ids to objects with the step's name and a list of entries per channel.
    """
    if row.get("step_stats") is None:
        yield None, "", None, None
    for step, stats in as_mapping(row.get("step_stats")).items():
        step_stats = as_mapping(stats)
        part, name = _identify_part(step, step_stats.get("name"))
        if step_stats.get("messages") is None:
            yield part, "", None, None
        for name_of_channel, entries in as_mapping(step_stats.get("messages")).items():
            channel = clean_text(name_of_channel)
            if entries is None:
                yield part, "", channel, None
            for entry in as_mappings(entries):
                yield part, name, channel, entry


def _identify_part(part_id: object, name: object) -> tuple[_Part, str]:
    """Return the part with this id, or with this name if the id is missing or empty, and the name."""
    return _make_part(part_id if isinstance(part_id, str) else "", name if isinstance(name, str) else "")


@functools.lru_cache(maxsize=8_192)  # all rows have the same parts
def _make_part(part_id: str, name: str) -> tuple[_Part, str]:
    known_id, clean_name = normalize_id(clean_text(part_id)), clean_text(name)
    return _Part(known_id, "" if known_id else clean_name), clean_name
