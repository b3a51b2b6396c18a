"""The interface of those that handle changes of queries."""

from collections.abc import Sequence
from typing import Protocol

from braze_exporter.scheduler.query_state import FetchResult, QueryState, Response


class Listener(Protocol):
    """Receives the changes of query states, one call at a time."""

    def on_queries(self, query_states: Sequence[QueryState]) -> None:
        """Handle a new set of queries. `query_states` are all query states, in the order of the plan."""

    def on_result(self, query_state: QueryState, previous: FetchResult | None) -> None:
        """Handle a new result of a query. `previous` is its previous result, or None."""

    def on_repair(self, query_state: QueryState, response: Response) -> None:
        """Handle a response with older buckets of a query, which no gauge shows."""

    def on_end(self, query_state: QueryState) -> None:
        """Handle the end of a fetch of a query or of a chunk of its history, after all other changes."""

    def on_circuit_change(self, query_state: QueryState) -> None:
        """Handle a query whose `circuit_error` has changed without a fetch of it."""
