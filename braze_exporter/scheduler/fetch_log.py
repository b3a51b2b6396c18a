"""Tells the log when queries cease to be answered, the first few by name, and when none fails for a reason any more."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from braze_exporter.braze.calls import Call
from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import Kind
from braze_exporter.scheduler.admission import REJECTED
from braze_exporter.scheduler.plan import Discovered, Plan
from braze_exporter.scheduler.query_state import Answer, Entry, Reading

# So many queries of a workspace are named that fail for one reason; the rest is summed up. The metrics name them all.
MOST_NAMED = 3
# A clock that is further off than this, beyond the time that the answer took, is worth a word.
CLOCK_TOLERANCE = 60.0

_log = logging.getLogger(__name__)


class _Group(NamedTuple):
    """What queries have in common that are named together: for a 401 this is what was refused too."""

    workspace: str
    reason: Reason
    refused: str


@dataclass(slots=True)
class _Outage:
    """The queries of a workspace that fail for one reason, the most there were, and whether the rest was summed up."""

    failing: set[Entry] = field(default_factory=set)
    worst: int = 0
    summed_up: bool = False


class Journal:
    """Notes what happens to queries, which comes one at a time, and calls, which come from many threads."""

    def __init__(self) -> None:
        """Begin with nothing failing."""
        self._outages: dict[_Group, _Outage] = {}
        self._failing: dict[Entry, _Group] = {}
        self._unlisted: set[tuple[str, Kind, str]] = set()
        self._discovered: dict[tuple[str, Kind], Discovered] = {}
        self._lock = threading.Lock()
        self._off: set[str] = set()

    def note_entries(self, entries: Sequence[Entry]) -> None:
        """Forget the queries that are not in the plan any more."""
        for entry in [entry for entry in self._failing if entry.gone]:
            self._leave(entry)
        with self._lock:
            self._off &= {entry.query.workspace for entry in entries}

    def note_reading(self, entry: Entry, before: Reading | None) -> None:  # noqa: ARG002 - what counts is what it knows
        """Log what a new reading changes."""
        self.note_hold(entry)

    def note_repair(self, entry: Entry, answer: Answer) -> None:
        """Log nothing: what older buckets tell changes nothing about the query."""

    def note_hold(self, entry: Entry) -> None:
        """Log it if a query is not answered for another reason than before, or answered again."""
        error, before = entry.error, self._failing.get(entry)
        if error is None:
            if before is not None:
                self._leave(entry)
            return
        # A 401 is of the key or of a permission, and what it is of is known by what holds the query.
        detail = error.detail if error.reason is Reason.UNAUTHORIZED else ""
        group = _Group(entry.query.workspace, error.reason, detail)
        if before is not None and before.reason is error.reason and (before == group or entry.held is None):
            return
        if before is not None:
            self._leave(entry, is_still_failing=before.reason is error.reason)
        self._failing[entry] = group
        self._enter(group, entry, error.detail)

    def note_lists(self, plan: Plan) -> None:
        """Log what Braze's lists lack that the config names, and what wildcards take and is left out, once."""
        unlisted = {(named.workspace, named.kind, named.subject): named for named in plan.named if not named.is_listed}
        for named in (named for key, named in unlisted.items() if key not in self._unlisted):
            fields = {"workspace": named.workspace, "kind": named.kind.section, named.kind.subject: named.subject}
            if named.nearest:
                fields["nearest"] = ", ".join(named.nearest)
            _log.warning("not in Braze's list", extra={"fields": fields})
        self._unlisted = {*unlisted}
        for found in plan.discovered:
            if found != self._discovered.get((found.workspace, found.kind)):
                fields = {"workspace": found.workspace, "kind": found.kind.section}
                counts = {"found": found.found, "matched": found.matched, "left_out": found.left_out}
                level = logging.WARNING if found.left_out else logging.INFO
                _log.log(level, "wildcards take of Braze's list", extra={"fields": fields | counts})
        self._discovered = {(found.workspace, found.kind): found for found in plan.discovered}

    def note_call(self, call: Call) -> None:
        """Log when a pool comes to rest, when our clock and Braze's begin to differ, and when they agree again."""
        if call.rests is not None:
            why = "HTTP 429" if call.reason is Reason.RATE_LIMITED else "what is left of Braze's limit is in reserve"
            fields = {"workspace": call.workspace, "pool": call.pool, "because": why, "seconds": round(call.rests)}
            _log.warning("no calls until Braze's window ends", extra={"fields": fields})
        if call.clock_offset is None:
            return
        is_off = abs(call.clock_offset) > CLOCK_TOLERANCE + call.seconds
        with self._lock:
            if is_off == (call.workspace in self._off):
                return
            self._off ^= {call.workspace}
        fields = {"workspace": call.workspace, "braze_is_ahead_by_seconds": round(call.clock_offset)}
        if is_off:
            _log.warning("our clock and Braze's differ: buckets settle too early or late", extra={"fields": fields})
        else:
            _log.info("our clock and Braze's agree again", extra={"fields": fields})

    def _enter(self, group: _Group, entry: Entry, detail: str) -> None:
        outage = self._outages.setdefault(group, _Outage())
        outage.failing.add(entry)
        outage.worst = max(outage.worst, len(outage.failing))
        query = entry.query
        if group.refused == REJECTED:  # that is of the workspace: no query is named
            if not outage.summed_up:
                fields = {"workspace": group.workspace, "reason": group.reason, "detail": detail}
                _log.warning("API key rejected", extra={"fields": fields})
            outage.summed_up = True
        elif len(outage.failing) <= MOST_NAMED:
            fields = {**dict(query.labels), "unit": query.unit, "reason": group.reason, "detail": detail}
            _log.warning("query not answered", extra={"fields": fields})
        elif not outage.summed_up:
            outage.summed_up = True
            fields = {"workspace": group.workspace, "reason": group.reason}
            _log.warning("more queries not answered for the same reason", extra={"fields": fields})

    def _leave(self, entry: Entry, *, is_still_failing: bool = False) -> None:
        group = self._failing.pop(entry)
        outage = self._outages[group]
        outage.failing.discard(entry)
        if not outage.failing:
            del self._outages[group]
            if not is_still_failing:
                fields = {"workspace": group.workspace, "reason": group.reason, "queries": outage.worst}
                _log.info("no query fails for this reason any more", extra={"fields": fields})
