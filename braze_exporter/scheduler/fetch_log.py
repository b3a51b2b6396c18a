"""Logs each change in the state of queries, lists, pools and clocks once.

For each failure reason, the first few failing queries are logged by name. The recovery is logged when no query fails
for that reason any more.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from braze_exporter.braze.calls import CallEvent
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import SeriesKind
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.key_state import KEY_REJECTED_DETAIL
from braze_exporter.scheduler.plan import Plan, SelectionResult
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.rate_limiter import PAUSE_TEXTS, PauseReason

# The number of queries of a workspace that are logged by name for each failure reason, and for failures of history.
# Further ones are not, since the metrics show them.
MAX_LOGGED_QUERIES = 3
# The number of subjects of the config that are logged by name if a read of a list lacks them.
MAX_LOGGED_SUBJECTS = 20
# A difference between the clocks is logged if it exceeds this value plus the duration of the call.
CLOCK_TOLERANCE_SECONDS = 60.0

_log = logging.getLogger(__name__)


class _FailureGroup(NamedTuple):
    """The key by which failing queries are grouped in the log.

    `auth_detail` is the error detail of a 401, which distinguishes a rejected key from a missing permission. It is
    empty for other reasons.
    """

    workspace: str
    reason: Reason
    auth_detail: str


@dataclass(slots=True)
class _Outage:
    """The queries of a workspace that fail for one reason.

    `max_failing` is the highest number of queries that failed at the same time. `is_summarized` is true once the line
    for all further queries has been logged.
    """

    failing: set[QueryState] = field(default_factory=set)
    max_failing: int = 0
    is_summarized: bool = False


class FetchLog:
    """Writes log lines for changes of queries, lists and calls.

    Only `log_call` may be called by several threads at once.
    """

    def __init__(self) -> None:
        """Start without failing queries."""
        self._outages: dict[_FailureGroup, _Outage] = {}
        self._failing: dict[QueryState, _FailureGroup] = {}
        self._history_failures: Counter[str] = Counter()
        self._unlisted: set[tuple[str, SeriesKind, str]] = set()
        self._selection_results: dict[tuple[str, SeriesKind], SelectionResult] = {}
        self._lock = threading.Lock()  # of `_clock_differs`
        self._clock_differs: set[str] = set()

    def drop_removed(self, query_states: Iterable[QueryState]) -> None:
        """Drop the queries and workspaces that are no longer in the plan, which has these `query_states`."""
        for query_state in [query_state for query_state in self._failing if query_state.is_removed]:
            self._remove_failure(query_state)
        with self._lock:
            self._clock_differs &= {query_state.query.workspace for query_state in query_states}

    def log_query(self, query_state: QueryState) -> None:
        """Log if a query begins to fail, fails for another reason, or recovers."""
        error, before = query_state.error, self._failing.get(query_state)
        if error is None:
            if before is not None:
                self._remove_failure(query_state)
            return
        # A 401 can mean a rejected key or a missing permission. The circuit error shows which.
        detail = error.detail if error.reason is Reason.UNAUTHORIZED else ""
        group = _FailureGroup(query_state.query.workspace, error.reason, detail)
        if (
            before is not None
            and before.reason is error.reason
            and (before == group or query_state.circuit_error is None)
        ):
            return
        if before is not None:
            self._remove_failure(query_state, is_still_failing=before.reason is error.reason)
        self._failing[query_state] = group
        self._add_failure(group, query_state, error.detail)

    def log_history(self, chunk: Query, error: BrazeError | None) -> None:
        """Log the first failures of calls for history in a workspace, until one succeeds again."""
        if error is None:
            self._history_failures.pop(chunk.workspace, None)
            return
        self._history_failures[chunk.workspace] += 1
        if self._history_failures[chunk.workspace] <= MAX_LOGGED_QUERIES:
            fields = {**dict(chunk.labels), "unit": chunk.unit, "reason": error.reason, "detail": error.detail}
            _log.warning("History could not be read", extra={"fields": fields})

    def log_lists(self, plan: Plan) -> None:
        """Log subjects of the config that Braze does not list, and the results of selectors, if they have changed."""
        unlisted = {
            (subject.workspace, subject.kind, subject.subject): subject
            for subject in plan.configured_subjects
            if not subject.is_listed
        }
        new = [subject for key, subject in unlisted.items() if key not in self._unlisted]
        for subject in new[:MAX_LOGGED_SUBJECTS]:
            kind = subject.kind
            fields = {
                "workspace": subject.workspace,
                "kind": kind.section,
                (kind.subject_parameter if kind.is_identified_by_id else kind.subject_label): subject.subject,
            }
            if subject.suggestions:
                fields["suggestions"] = ", ".join(subject.suggestions)
            _log.warning("Subject is missing from Braze's list", extra={"fields": fields})
        if len(new) > MAX_LOGGED_SUBJECTS:
            more = {"subjects": len(new) - MAX_LOGGED_SUBJECTS}
            _log.warning("More subjects are missing from Braze's lists", extra={"fields": more})
        self._unlisted = {*unlisted}
        for selection in plan.selection_results:
            if selection != self._selection_results.get((selection.workspace, selection.kind)):
                fields = {"workspace": selection.workspace, "kind": selection.kind.section}
                counts = {
                    "items": selection.listed_count,
                    "matched": selection.matched_count,
                    "skipped": selection.skipped_count,
                }
                level = logging.WARNING if selection.skipped_count else logging.INFO
                _log.log(level, "Selectors expanded", extra={"fields": fields | counts})
                for mismatch in selection.mismatches:
                    _log.warning("Selector matches no item", extra={"fields": fields | {"detail": mismatch}})
        self._selection_results = {
            (selection.workspace, selection.kind): selection for selection in plan.selection_results
        }

    def log_call(self, call: CallEvent) -> None:
        """Log if a pool pauses, or if the exporter's clock begins to differ from Braze's or agrees with it again."""
        if call.pause_seconds is not None:
            invalid = call.rate_limit.invalid_remaining
            reason = f"X-RateLimit-Remaining is invalid: {invalid}" if invalid else PAUSE_TEXTS[PauseReason.RESERVE]
            if call.reason is Reason.RATE_LIMITED:
                reason = PAUSE_TEXTS[PauseReason.RATE_LIMITED]
            fields = {
                "workspace": call.workspace,
                "pool": call.pool,
                "reason": reason,
                "seconds": round(call.pause_seconds),
            }
            _log.warning("Rate limit reached, pausing requests", extra={"fields": fields})
        if call.clock_offset is None:
            return
        is_off = abs(call.clock_offset) > CLOCK_TOLERANCE_SECONDS + call.seconds
        with self._lock:
            if is_off == (call.workspace in self._clock_differs):
                return
            self._clock_differs ^= {call.workspace}
        fields = {"workspace": call.workspace, "braze_ahead_seconds": round(call.clock_offset)}
        if is_off:
            _log.warning("Clock differs from Braze's", extra={"fields": fields})
        else:
            _log.info("Clock agrees with Braze's again", extra={"fields": fields})

    def _add_failure(self, group: _FailureGroup, query_state: QueryState, detail: str) -> None:
        outage = self._outages.setdefault(group, _Outage())
        outage.failing.add(query_state)
        outage.max_failing = max(outage.max_failing, len(outage.failing))
        query = query_state.query
        if group.auth_detail == KEY_REJECTED_DETAIL:  # the whole workspace is affected, so no query is named
            if not outage.is_summarized:
                fields = {"workspace": group.workspace, "reason": group.reason, "detail": detail}
                _log.warning("API key rejected", extra={"fields": fields})
            outage.is_summarized = True
        elif len(outage.failing) <= MAX_LOGGED_QUERIES:
            fields = {**dict(query.labels), "unit": query.unit, "reason": group.reason, "detail": detail}
            _log.warning("Query failed", extra={"fields": fields})
        elif not outage.is_summarized:
            outage.is_summarized = True
            fields = {"workspace": group.workspace, "reason": group.reason}
            _log.warning("More queries failed for the same reason", extra={"fields": fields})

    def _remove_failure(self, query_state: QueryState, *, is_still_failing: bool = False) -> None:
        group = self._failing.pop(query_state)
        outage = self._outages[group]
        outage.failing.discard(query_state)
        if not outage.failing:
            del self._outages[group]
            if not is_still_failing:
                fields = {"workspace": group.workspace, "reason": group.reason, "queries": outage.max_failing}
                _log.info("Queries succeed again", extra={"fields": fields})
