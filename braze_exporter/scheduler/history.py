"""Plans the calls for the history of baselines, a few at a time."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from braze_exporter.braze.clock import Clock
from braze_exporter.scheduler.endpoints import endpoint_key
from braze_exporter.scheduler.history_ranges import (
    HistoryRange,
    build_chunks,
    chunk_range,
    count_chunks,
    is_needed,
    merge_ranges,
    missing_ranges,
    response_range,
)
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.repair import halve_length

# No chunks are made for an endpoint that has as many, since a chunk takes 1 kB and there may be thousands.
MAX_QUEUED_HISTORY = 500
# Seconds after the addition of a history chunk of one bucket from which it is given up if its response is too large.
# Until then it is retried, since the cause may be temporary.
_OVERSIZED_HISTORY_SECONDS = 86_400.0

_log = logging.getLogger(__name__)


class History:
    """The history chunks of all queries with a baseline. Not thread-safe.

    `chunks` are those that are to be fetched next. A chunk is made when a scrape can fetch it, since a year of hours
    for each of 2,000 queries has 170,000 chunks.
    """

    def __init__(self, clock: Clock) -> None:
        """Start without queries."""
        self._clock = clock
        self.chunks: dict[QueryState, None] = {}
        # The queries whose history may have missing ranges that no chunk covers.
        self._incomplete: dict[QueryState, None] = {}
        self._oversized: set[tuple[str, ...]] = set()

    def set_queries(self, query_states: Iterable[QueryState]) -> None:
        """Replace the queries."""
        self._incomplete = {query_state: None for query_state in query_states if query_state.query.baseline_weeks}
        for chunk in [chunk for chunk in self.chunks if chunk.owner not in self._incomplete]:
            self._drop(chunk)
        self._oversized &= {query_state.query.identity for query_state in self._incomplete}

    def restart(self, query_state: QueryState) -> None:
        """Read all history of a query again, since its baseline has another number of weeks."""
        query_state.added_at, query_state.history = self._clock.wall(), ()
        self._oversized.discard(query_state.query.identity)
        for chunk in list(query_state.chunks):
            self._drop(chunk)

    def due_chunks(self, can_fetch: Callable[[QueryState], bool]) -> list[QueryState]:
        """Return the due chunks of the queries that `can_fetch`. Make chunks up to `MAX_QUEUED_HISTORY` an endpoint."""
        now = self._clock.monotonic()
        due = [chunk for chunk in self.chunks if not chunk.in_flight and chunk.is_due(now) and can_fetch(chunk)]
        queued = Counter(map(endpoint_key, self.chunks))
        for query_state in list(self._incomplete):
            key = endpoint_key(query_state)
            if queued[key] < MAX_QUEUED_HISTORY and can_fetch(query_state):
                del self._incomplete[query_state]
                added = self._make_chunks(query_state)
                queued[key] += len(added)
                due += added
        return due

    def record_success(self, query_state: QueryState, sent_at: float) -> None:
        """Register the history in the response to a query or a chunk. `sent_at` is in seconds since the epoch."""
        owner, query, request = query_state.owner or query_state, query_state.query, query_state.repair.request
        if not query.baseline_weeks:
            return
        length, ending_at = (query.length, query.ending_at) if request is None else (request.length, request.ending_at)
        self._complete(owner, response_range(query, length, ending_at, sent_at), sent_at)
        if query_state.is_history:
            self._drop(query_state)
        elif self._missing_ranges(owner):
            self._incomplete[owner] = None

    def record_oversized(self, chunk: QueryState, owner: QueryState) -> None:
        """Request shorter chunks for the history of `owner`, because the response to `chunk` was too large.

        A chunk of one bucket is given up after a day. This is logged once per query.
        """
        query = chunk.query
        owner.chunk_length = min(owner.chunk_length or query.length, halve_length(query.length))
        if query.length > owner.chunk_length:
            for other in [other for other in owner.chunks if not other.in_flight or other is chunk]:
                self._drop(other)
            self._incomplete[owner] = None
        elif self._clock.wall() - chunk.added_at >= _OVERSIZED_HISTORY_SECONDS:
            self._complete(owner, chunk_range(query), self._clock.wall())
            self._drop(chunk)
            if query.identity not in self._oversized:
                self._oversized.add(query.identity)
                fields = {**dict(query.labels), "unit": query.unit}
                _log.warning("History response too large, baseline is incomplete", extra={"fields": fields})

    def remaining(self) -> Mapping[str, int]:
        """Return the number of calls for history that remain, by workspace. Workspaces without any are omitted."""
        calls = Counter(chunk.query.workspace for chunk in self.chunks)
        for query_state in self._incomplete:
            query = query_state.query
            calls[query.workspace] += sum(
                count_chunks(query, *gap, query_state.chunk_length or query.kind.max_length)
                for gap in self._missing_ranges(query_state)
            )
        return +calls

    def _missing_ranges(self, owner: QueryState) -> list[HistoryRange]:
        """Return the ranges that are neither complete nor covered by a chunk."""
        ranges = (*owner.history, *(chunk_range(chunk.query) for chunk in owner.chunks))
        return missing_ranges(owner.query, ranges, self._clock.wall())

    def _make_chunks(self, owner: QueryState) -> list[QueryState]:
        """Return new chunks for the missing history of a query, and drop those that are no longer needed."""
        query, now = owner.query, self._clock.wall()
        for chunk in list(owner.chunks):
            if not chunk.in_flight and not is_needed(chunk.query, now):
                self._drop(chunk)
        length = owner.chunk_length or query.kind.max_length
        added = [
            QueryState(chunk, now, next_at=self._clock.monotonic(), owner=owner)
            for gap in self._missing_ranges(owner)
            for chunk in build_chunks(query, *gap, length)
        ]
        owner.chunks += added
        self.chunks.update(dict.fromkeys(added))
        return added

    def _drop(self, chunk: QueryState) -> None:
        """Remove a chunk. If it is in flight, its response is ignored."""
        chunk.is_removed = True
        del self.chunks[chunk]
        if chunk.owner is not None:
            chunk.owner.chunks.remove(chunk)

    def _complete(self, owner: QueryState, covered: HistoryRange, now: float) -> None:
        owner.history = merge_ranges((*owner.history, covered), owner.query, now)
