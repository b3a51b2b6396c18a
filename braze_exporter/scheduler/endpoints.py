"""The endpoints of the queries, and the 401 or 403 that blocks all calls to one of them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.admission import Admission, Deferred
from braze_exporter.scheduler.query_state import QueryState

# The workspace and the path of an endpoint. They decide whether a query may be fetched.
EndpointKey: TypeAlias = tuple[str, str]


class QueryEndpoints:
    """The queries by endpoint. Not thread-safe."""

    def __init__(self, query_states: Iterable[QueryState], admission: Callable[[Query], Admission]) -> None:
        """Group `query_states` by endpoint. `admission` returns the admission of the workspace of a query."""
        self._admission = admission
        self._states: dict[EndpointKey, list[QueryState]] = {}
        for query_state in query_states:
            self._states.setdefault(endpoint_key(query_state), []).append(query_state)
        self._circuit_errors: dict[EndpointKey, BrazeError | None] = {}

    def deny_reasons(self) -> dict[EndpointKey, Deferred | None]:
        """Return why no query of an endpoint may be fetched now, or None if it may be."""
        return {
            key: self._admission(query_states[0].query).deny_reason(query_states[0].query.kind)
            for key, query_states in self._states.items()
        }

    def queries_to_probe(self, due: Collection[EndpointKey]) -> list[QueryState]:
        """Return one query for each endpoint that has an open circuit or at which the key must be tested.

        Endpoints in `due` are omitted, since a due query probes them.
        """
        wanted = [
            query_states
            for key, query_states in self._states.items()
            if key not in due
            and (
                self._circuit_errors[key] is not None
                or self._admission(query_states[0].query).is_probe_wanted(query_states[0].query.kind)
            )
        ]
        idle = ([query_state for query_state in query_states if not query_state.in_flight] for query_states in wanted)
        return [min(query_states, key=lambda query_state: query_state.next_at) for query_states in idle if query_states]

    def update_circuits(self) -> Iterator[QueryState]:
        """Set or clear the circuit error of the queries of each endpoint. Yield the queries for which it changes."""
        for key, query_states in self._states.items():
            query = query_states[0].query
            circuit_error = self._admission(query).open_circuit_error(query.kind)
            if key in self._circuit_errors and self._circuit_errors[key] is circuit_error:
                continue
            self._circuit_errors[key] = circuit_error
            for query_state in query_states:
                if query_state.circuit_error is not circuit_error:
                    query_state.circuit_error = circuit_error
                    yield query_state


def endpoint_key(query_state: QueryState) -> EndpointKey:
    """Return the key of the endpoint of a query."""
    return (query_state.query.workspace, query_state.query.kind.path)
