"""Moves the counters of schema 1 to the tables of schema 2."""

import json
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.names import normalize_id
from braze_exporter.braze.series import HOLE
from braze_exporter.state.contents import counter_changes
from braze_exporter.state.counter_state import Counter, CounterKey, CounterState, SeriesKey
from braze_exporter.state.errors import DamagedError
from braze_exporter.state.tables import apply_changes

# The metric groups of schema 1 that have another name now, and those whose statistic `revenue` has its own group now.
_RENAMED_GROUPS = {"campaign_revenue": "campaign_revenue_dollars", "canvas_revenue": "canvas_revenue_dollars"}
_MESSAGE_REVENUE_GROUPS = {
    "campaign_messages": "campaign_message_revenue_dollars",
    "canvas_messages": "canvas_message_revenue_dollars",
}
# The kinds whose subjects had ids in the keys of schema 1.
_KINDS_WITH_IDS = ("campaigns", "canvases")


class Aliases(NamedTuple):
    """The aliases of the config for apps and segments, each by workspace name, url and Braze's id."""

    apps: Mapping[tuple[str, str, str], str]
    segments: Mapping[tuple[str, str, str], str]


NO_ALIASES = Aliases(apps={}, segments={})


def migrate_counters(connection: sqlite3.Connection, aliases: Aliases) -> None:
    """Move the counters of schema 1 into the tables of schema 2.

    If ids differ only in case, the counter with the newest request is kept. Raises `DamagedError` if a counter is
    invalid.
    """
    select = "SELECT subject, unit, total, floor, asked_at, seen FROM accounts ORDER BY asked_at"
    lower_case_aliases = Aliases(
        *(
            {(workspace, url, normalize_id(of_id)): name for (workspace, url, of_id), name in names.items()}
            for names in aliases
        )
    )
    states: dict[CounterKey, CounterState] = {}
    try:
        for key, *row in connection.execute(select):
            query_key, series_key = _migrate_key(json.loads(key), lower_case_aliases)
            state = states.setdefault(query_key, CounterState(Unit.DAY, 0.0))
            _add_counter(state, series_key, row, has_several=query_key[2] in _KINDS_WITH_IDS)
    except (ValueError, TypeError, LookupError) as error:
        raise DamagedError(f"cannot be read: {error}") from error
    rows = {key: state.to_row() for key, state in states.items()}
    apply_changes(connection, counter_changes(rows, {key: state.pack_counters() for key, state in states.items()}))
    connection.execute("DROP TABLE accounts")


def _add_counter(state: CounterState, series_key: SeriesKey, row: Sequence[Any], *, has_several: bool) -> None:
    """Add a counter of schema 1. Raises `ValueError` or `TypeError` if its `row` is invalid.

    A query that `has_several` series has a row without a key of a series, for the time of the last request.
    """
    unit, total, floor, requested_at, highest = row
    state.unit = Unit(unit)
    values = {int(number): HOLE if value is None else float(value) for number, value in json.loads(highest)}
    if not series_key:
        state.requested_at = float(requested_at)
    if series_key or not has_several:
        state.add_buckets(values)
        column = array("d", [values.get(number, 0.0) for number in state.numbers])
        counter = Counter(int(floor), column, max(values, default=int(floor)), float(total))
        state.add_counter(series_key, counter)


def _migrate_key(key: Sequence[str], aliases: Aliases) -> tuple[CounterKey, SeriesKey]:
    """Return the keys of schema 2 for a key of schema 1. Raises `ValueError` or `TypeError` if the key is invalid."""
    workspace, url, kind, subject, app, segment, *series = key
    app_id, segment_id = normalize_id(app), normalize_id(segment)
    query_key = (
        workspace,
        url,
        kind,
        normalize_id(subject) if kind in _KINDS_WITH_IDS else subject,
        aliases.apps.get((workspace, url, app_id), ""),
        app_id,
        aliases.segments.get((workspace, url, segment_id), ""),
        segment_id,
    )
    return query_key, tuple(_migrate_series(series))


def _migrate_series(series: Sequence[str]) -> Sequence[str]:
    """Return the key of a series in schema 2. The name of a part, which identifies only parts without an id, is empty.

    In schema 1, only parts with an id had counters.
    """
    match series:
        case [("campaign_messages" | "canvas_messages") as group, part, channel, "revenue"]:
            return (_MESSAGE_REVENUE_GROUPS[group], normalize_id(part), "", channel)
        case [("campaign_messages" | "canvas_messages") as group, part, channel, statistic]:
            return (group, normalize_id(part), "", channel, statistic)
        case [group, *rest]:
            return (_RENAMED_GROUPS.get(group, group), *rest)
        case _:
            return ()
