"""Keeps the queries, their responses and their baselines in the state file, so that a restart goes unnoticed."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from braze_exporter.braze.clock import Clock
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.scheduler.query_rows import (
    DECODE_ERRORS,
    BaselineValues,
    SavedHead,
    SavedQueryRow,
    decode_baselines,
    decode_buckets,
    decode_heads,
    encode_baselines,
    encode_buckets,
    encode_heads,
    restore_query_state,
    saved_key,
    to_query_row,
)
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import TableChanges

# The tables with rows of a query.
_TABLES = ("queries", "query_series", "responses", "baselines")

_log = logging.getLogger(__name__)


class RestoredSeries(NamedTuple):
    """What the page showed of a query before the restart, besides its response.

    `heads` are all its series. `starts` are the last known starts of its latest and its settled bucket.
    """

    heads: Sequence[SavedHead]
    starts: tuple[int | None, int | None]
    baselines: BaselineValues


class _StoredQuery(NamedTuple):
    """The rows of a query, as read from the state file."""

    row: SavedQueryRow
    heads: bytes | None
    buckets: bytes | None
    baselines: Sequence[bytes]


class SavedQueries:
    """Restores the queries from the state file, and collects what the next write must change.

    Thread-safe, except that only one thread at a time may restore and set queries.
    """

    def __init__(self, state_file: StateFile, clock: Clock) -> None:
        """Read the queries of `state_file`. Raises `StateFileError` if the file cannot be read."""
        self._clock = clock
        self._lock = threading.Lock()  # of what the next write must change
        heads, buckets = dict(state_file.read_table("query_series")), dict(state_file.read_table("responses"))
        baselines: defaultdict[int, list[bytes]] = defaultdict(list)
        for query_id, _, data in state_file.read_table("baselines"):
            baselines[query_id].append(data)
        self._stored = {
            query_id: _StoredQuery(
                SavedQueryRow(*columns), heads.get(query_id), buckets.get(query_id), baselines[query_id]
            )
            for query_id, _, *columns in state_file.read_table("queries")
        }
        self._ids: set[int] = {*self._stored, *baselines}  # of the queries that have rows
        self._restored: dict[QueryState, RestoredSeries] = {}
        # The functions that make the rows to write, since encoding takes longer than a fetch should hold the lock.
        self._changes: dict[tuple[str, tuple[object, ...]], Callable[[], Sequence[object] | None]] = {}
        self._heads_hashes: dict[int, int] = {}

    def restore(self, query: Query) -> QueryState | None:
        """Return the state of a query that is added to the plan, or None if the state file does not have it."""
        stored = self._stored.pop(saved_key(query)[0], None)
        if stored is None:
            return None
        try:
            heads = decode_heads(stored.heads, query.metric_groups) if stored.heads is not None else []
            series = decode_buckets(heads, stored.buckets) if stored.buckets is not None else ()
            query_state = restore_query_state(query, stored.row, series, self._clock.wall(), self._clock.monotonic())
            baselines = decode_baselines(stored.baselines)
        except DECODE_ERRORS as error:
            fields = {**dict(query.labels), "unit": query.unit, "reason": str(error)}
            _log.warning("Saved query could not be read", extra={"fields": fields})
            return None
        starts = (stored.row.latest_start, stored.row.settled_start)
        self._restored[query_state] = RestoredSeries(heads, starts, baselines)
        return query_state

    def take_series(self, query_state: QueryState) -> RestoredSeries | None:
        """Return the series of a query state that `restore` has returned, once; otherwise None."""
        return self._restored.pop(query_state, None)

    def set_queries(self, queries: Iterable[Query]) -> None:
        """Drop all queries but these, also those that were not restored."""
        with self._lock:
            self._stored.clear()
            removed = self._ids - {saved_key(query)[0] for query in queries}
            self._ids -= removed
            self._changes = {item: make for item, make in self._changes.items() if item[1][0] not in removed}
            for query_id in removed:
                self._heads_hashes.pop(query_id, None)
                self._changes |= {(table, (query_id,)): lambda: None for table in _TABLES}

    def record_query(
        self, query_state: QueryState, starts: tuple[int | None, int | None], heads: tuple[SavedHead, ...] | None
    ) -> None:
        """Save a query whose fetch has just ended, or whose history has grown.

        `starts` are the last known starts of its latest and its settled bucket. `heads` are all its series if its
        response differs from the previous one, otherwise None.
        """
        row = to_query_row(query_state, starts, self._clock.wall(), self._clock.monotonic())
        query_id, identity = saved_key(query_state.query)
        response = query_state.response
        with self._lock:
            self._ids.add(query_id)
            self._changes["queries", (query_id,)] = lambda: (query_id, identity, *row)
            if response is not None and heads is not None:
                self._record_series(query_id, heads, response.series)

    def _record_series(self, query_id: int, heads: tuple[SavedHead, ...], series: tuple[Series, ...]) -> None:
        """Save a response. The heads of its series are written only if they have changed."""
        listed = {item.head.key for item in series}
        known = {head.key for head, _ in heads}
        all_heads = (
            *((head, None if head.key in listed else newest) for head, newest in heads),
            *((item.head, None) for item in series if item.head.key not in known),
        )
        self._changes["responses", (query_id,)] = lambda: (query_id, encode_buckets(all_heads, series))
        hash_of_heads = hash(tuple([(head.key, head.labels, newest) for head, newest in all_heads]))
        if self._heads_hashes.get(query_id) != hash_of_heads:
            self._heads_hashes[query_id] = hash_of_heads
            self._changes["query_series", (query_id,)] = lambda: (query_id, encode_heads(all_heads))

    def record_baselines(self, query: Query, periods: Mapping[int, BaselineValues]) -> None:
        """Save the values of the baselines of a query in `periods`."""
        query_id, _ = saved_key(query)
        with self._lock:
            self._ids.add(query_id)
            for period, values in periods.items():
                self._changes["baselines", (query_id, period)] = partial(_baseline_row, query_id, period, values)

    @property
    def has_changes(self) -> bool:
        """Whether queries have changed since `take_changes`. Does not wait for other threads."""
        return bool(self._changes)

    def take_changes(self) -> TableChanges:
        """Return the rows of the queries that have changed since the last call."""
        with self._lock:
            changes, self._changes = self._changes, {}
        return {item: make() for item, make in changes.items()}


def _baseline_row(query_id: int, period: int, values: BaselineValues) -> Sequence[object] | None:
    """Return the row of a period of baselines, or None if it has no values."""
    return (query_id, period, encode_baselines(values)) if values else None
