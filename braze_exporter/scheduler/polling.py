"""Query → reading: what is held of every query, and who fetches it when.

Prometheus is the scheduler: nothing is fetched unless someone asks. Whoever asks, a query is fetched about once in its
`refresh`, at most once at a time, over the bounded connections of its workspace. Whoever waits may stop waiting; the
fetch goes on, and its reading is there for the next.
"""

import itertools
import logging
import operator
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeAlias

from braze_exporter.braze.buckets import starts
from braze_exporter.braze.calls import Fetched, Permit, Told
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import Kind
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.errors import Held, Withheld
from braze_exporter.scheduler.query_state import Answer, Entry, Reading, place
from braze_exporter.scheduler.repair import halves
from braze_exporter.scheduler.worker_pool import Lane

# So much of what is fetched once is queued by a scrape; there may be thousands.
MOST_BACKGROUND = 500

# The workspace and the endpoint of a query: they decide whether it may be asked.
Sort: TypeAlias = tuple[str, str]

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Who asks Braze for the cache."""

    def admit(self, query: Query) -> Permit | Withheld | None:
        """Return leave to ask for `query`, or why it is not to be asked now, or None while another is asked alone."""

    def fetch(self, entry: Entry, permit: Permit) -> Fetched:
        """Ask once, with leave to, for the query of `entry`; raise `BrazeError` if it is not answered."""

    def objection(self, query: Query) -> Withheld | None:
        """Return why `query` would not be asked now, or None if it would."""

    def refusal(self, query: Query) -> BrazeError | None:
        """Return the error that holds all queries of that sort, if one does."""

    def is_sought(self, query: Query) -> bool:
        """Return whether one query of that sort is to be asked to see how the key stands, though none is due."""

    def history(self, query: Query, now: float) -> Iterable[Query]:
        """Return what is to be fetched once, beside a `query` that is new at `now`, in seconds since the epoch."""


class Watcher(Protocol):
    """Who wants to know what changes; told of one thing at a time."""

    def note_entries(self, entries: Sequence[Entry]) -> None:
        """Take note of all entries, in their order: some are new, others gone, or ask under other names."""

    def note_reading(self, entry: Entry, before: Reading | None) -> None:
        """Take note of an entry that has a new reading, and of the one that it had before."""

    def note_repair(self, entry: Entry, answer: Answer) -> None:
        """Take note of older buckets of an entry, which are not shown."""

    def note_hold(self, entry: Entry) -> None:
        """Take note of an entry that is held, or not held any more, without having been asked."""


class _Waiter:
    """Counts the queries that a scrape waits for, and resolves its future after the last."""

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # so that one who stops waiting cannot cancel it
        self.outstanding = 0

    def one_done(self) -> None:
        self.outstanding -= 1
        self.end_if_done()

    def end_if_done(self) -> None:
        if self.outstanding == 0:
            self.future.set_result(None)


class Cache:
    """Holds the readings of queries and has them fetched when they are asked for. Thread-safe."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
        on_deferred: Callable[[str, Kind], None] = lambda _workspace, _kind: None,
    ) -> None:
        """Begin without queries.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump, `jitter` a factor for the waiting
        after failures. `on_deferred` is told of the workspace and the kind of each query that is due and withheld.
        `revision` changes whenever an entry does.
        """
        self._wall = wall
        self._monotonic = monotonic
        self._jitter = jitter
        self._on_deferred = on_deferred
        self._watchers: list[Watcher] = []
        self._lock = threading.Lock()
        self.revision = 0
        self.entries: tuple[Entry, ...] = ()
        self.background: dict[Entry, None] = {}
        self._sorts: dict[Sort, list[Entry]] = {}
        self._held: dict[Sort, BrazeError | None] = {}
        self._lanes: dict[str, Lane[Entry, Permit | Withheld]] = {}
        self._concurrency = 0
        self._waiter = _Waiter()
        self._waiter.end_if_done()
        self._closed = False

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` what changes from now on, one thing at a time."""
        self._watchers.append(watcher)

    def plan(self, queries: Sequence[Query], source: Source, concurrency: int) -> None:
        """Hold these queries from now on, and fetch them from `source`, at most `concurrency` at once for a workspace.

        Those that ask for the same as before go on with what is held of them.
        """
        with self._lock:
            self._source = source
            known = {place(entry.query): entry for entry in self.entries}
            self._keep_history({place(query): query.weeks for query in queries}, known)
            self.entries = tuple(self._entry(query, known.pop(place(query), None)) for query in queries)
            for entry in known.values():
                entry.gone = True
                self._let_go(entry)
            self._open_lanes(dict.fromkeys(query.workspace for query in queries), concurrency)
            self._sorts = {}
            for entry in self.entries:
                self._sorts.setdefault(_sort(entry), []).append(entry)
            for watcher in self._watchers:
                watcher.note_entries(self.entries)
            self.revision += 1
            self._held = {}
            for sort in self._sorts:
                self._spread_hold(sort)

    def _keep_history(self, weeks: Mapping[tuple[object, ...], int], known: Mapping[tuple[object, ...], Entry]) -> None:
        """Forget what is to be fetched once for queries that went, or that look back over other weeks now."""
        for piece in list(self.background):
            owner = place(piece.query)
            if owner not in known or weeks.get(owner) != known[owner].query.weeks:
                piece.gone = True
                del self.background[piece]

    def _entry(self, query: Query, entry: Entry | None) -> Entry:
        """Return the entry that goes on as `query`, or a new one, with what is to be fetched once for it."""
        now = self._monotonic()
        is_new = entry is None
        entry = entry or Entry(query, self._wall(), next_at=now)
        if is_new or entry.query.weeks != query.weeks:
            entry.planned_at = self._wall()
            pieces = self._source.history(query, entry.planned_at)
            added = [Entry(piece, entry.planned_at, next_at=now, background=True) for piece in pieces]
            self.background.update(dict.fromkeys(added))
        entry.change(query, now)
        return entry

    def _open_lanes(self, workspaces: Iterable[str], concurrency: int) -> None:
        """Have a lane of that width for each workspace, and end the others."""
        wanted = {name: self._lanes.pop(name, None) for name in workspaces}
        if concurrency != self._concurrency:
            self._lanes |= {name: lane for name, lane in wanted.items() if lane is not None}
            wanted = dict.fromkeys(wanted)
        for lane in self._lanes.values():
            for entry in lane.close():
                self._release(entry)
        self._concurrency = concurrency
        self._lanes = {name: lane or Lane(name, concurrency, self._admit, self._run) for name, lane in wanted.items()}

    def refresh(self) -> Future[None]:
        """Have every due query fetched; return a future that is done when no fetch is queued or under way.

        What is withheld is not waited for. To stop waiting, leave the future alone.
        """
        with self._lock:
            added = [] if self._closed else self._take_due(self._monotonic())
            for name, lane in self._lanes.items():
                lane.add([entry for entry in added if entry.query.workspace == name])
            if added or self._waiter.future.done():  # else it waits for the same
                self._waiter = _Waiter()
                for entry in self.entries:
                    if entry.busy:
                        self._waiter.outstanding += 1
                        entry.waiting.append(self._waiter)
                self._waiter.end_if_done()
            return self._waiter.future

    def _take_due(self, now: float) -> list[Entry]:
        """Mark what is due as queued, or as deferred if it is withheld, and return the former."""
        due = [entry for entry in self.entries if not entry.busy and entry.is_due(now)]
        due += self._trials({_sort(entry) for entry in due})
        objections = {sort: self._source.objection(entries[0].query) for sort, entries in self._sorts.items()}
        background = (
            piece
            for piece in self.background
            if not piece.busy and piece.is_due(now) and objections[_sort(piece)] is None
        )
        due += itertools.islice(background, MOST_BACKGROUND)
        for entry in due:
            objection = objections[_sort(entry)]
            entry.busy = objection is None
            if objection is not None:
                self._note_objection(entry, objection)
        return [entry for entry in due if entry.busy]

    def _trials(self, due: Collection[Sort]) -> list[Entry]:
        """Return a query of each sort that is held, or sought, and has none `due`, to find out how the key stands."""
        wanted = [
            entries
            for sort, entries in self._sorts.items()
            if sort not in due and (self._held[sort] is not None or self._source.is_sought(entries[0].query))
        ]
        idle = ([entry for entry in entries if not entry.busy] for entries in wanted)
        return [min(entries, key=lambda entry: entry.next_at) for entries in idle if entries]

    def note_refusals(self) -> None:
        """Take note of what is refused, or not any more, as a call that was for no query has shown."""
        with self._lock:
            self._spread_refusals()

    def history_left(self) -> Mapping[str, int]:
        """Return how many calls each workspace still makes for the history of its baselines, if any."""
        with self._lock:
            return Counter(entry.query.workspace for entry in self.background)

    def close(self) -> None:
        """Begin no more fetches and end all waiting. Fetches under way end by themselves, or with the process."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.close()
            for entry in self.entries:
                self._release(entry)

    def _admit(self, entry: Entry) -> Permit | Withheld | None:
        return Withheld("gone") if entry.gone else self._source.admit(entry.query)

    def _run(self, entry: Entry, admitted: Permit | Withheld) -> None:
        """Fetch one query, in a thread of its lane, or put it off."""
        if isinstance(admitted, Withheld):
            with self._lock:
                self._note_objection(entry, admitted)
                self._release(entry)
            return
        sent_at = self._wall()
        fetched: Fetched | None = None
        error: BrazeError | None = None
        try:
            fetched = self._source.fetch(entry, admitted)
        except BrazeError as failure:
            error = failure.bare()
        except Exception:  # noqa: BLE001 - whatever it was, this query is not answered, and the others go on
            _log.exception("a fetch failed by a fault of the exporter", extra={"fields": dict(entry.query.labels)})
            error = BrazeError(Reason.BAD_ANSWER, "a fault of the exporter itself: see the log")
        admitted.end(error, Told())  # in case the fetch did not come to that
        with self._lock:
            if not entry.gone:
                self._note_objection(entry, None)
                self._spread_refusals()  # first, so that the log has what this fetch has shown of the key
                self._take(entry, fetched, error, sent_at)
            self._release(entry)

    def _take(self, entry: Entry, fetched: Fetched | None, error: BrazeError | None, sent_at: float) -> None:
        """Take in how a fetch ended."""
        now = self._monotonic()
        entry.schedule(now, error, self._jitter())
        before = entry.reading
        if error is not None:
            outcome = entry.repair.note_failure(entry.query, error)
            if outcome.is_due:
                entry.next_at = min(entry.next_at, now)
            if outcome.is_tolerated:
                return
            if entry.background and error.reason is Reason.TOO_LARGE:
                self._halve(entry)
            entry.reading = Reading(entry.answer, error)
        elif fetched is not None:
            if entry.background:
                del self.background[entry]
            # If our clock is ahead of Braze's, Braze's counts: nothing settles too early.
            asked_at = sent_at if fetched.answered_at is None else min(sent_at, fetched.answered_at)
            answer = self._answer(entry, fetched, asked_at)
            if entry.repair.request is not None and entry.repair.request.ending_at is not None:
                self._tell(entry, operator.methodcaller("note_repair", entry, answer))
                return
            entry.reading = Reading(answer, None)
        self._tell(entry, operator.methodcaller("note_reading", entry, before))

    def _answer(self, entry: Entry, fetched: Fetched, asked_at: float) -> Answer:
        """Return the answer that was fetched, and what it means for the repair."""
        request = entry.repair.request
        oldest = next(iter(starts(fetched.series)), None)
        outcome = entry.repair.note_success(entry.query, asked_at, oldest)
        return Answer(
            fetched.series,
            asked_at,
            self._wall(),
            self._monotonic(),
            is_complete=outcome.is_complete,
            is_short=request is not None and request.length < entry.query.length,
        )

    def _halve(self, entry: Entry) -> None:
        """Replace a piece of history that is oversized by its halves, and others of its query that are as long."""
        owner, length = place(entry.query), entry.query.length
        for piece in list(self.background):
            is_as_long = place(piece.query) == owner and piece.query.length >= length
            found = halves(piece.query) if is_as_long and (piece is entry or not piece.busy) else ()
            if found:
                piece.gone = True
                del self.background[piece]
                added = [Entry(half, piece.planned_at, next_at=self._monotonic(), background=True) for half in found]
                self.background.update(dict.fromkeys(added))

    def _spread_refusals(self) -> None:
        """Hold what is refused since, and let go what is not any more."""
        for sort, held in self._held.items():
            if self._source.refusal(self._sorts[sort][0].query) is not held:
                self._spread_hold(sort)

    def _spread_hold(self, sort: Sort) -> None:
        """Hold all queries that Braze would refuse as well, or let them go if it would not any more."""
        entries = self._sorts[sort]
        held = self._held[sort] = self._source.refusal(entries[0].query)
        for entry in entries:
            if entry.held is not held:
                entry.held = held
                self._tell(entry, operator.methodcaller("note_hold", entry))

    def _tell(self, entry: Entry, what: Callable[[Watcher], None]) -> None:
        for watcher in self._watchers:
            try:
                what(watcher)
            except Exception:  # noqa: BLE001 - the thread lives on, and the scrapes that wait are let go
                _log.exception("a reading was not taken in", extra={"fields": dict(entry.query.labels)})
        self.revision += 1  # after the watchers: who sees the new revision sees what they made of it

    def _note_objection(self, entry: Entry, objection: Withheld | None) -> None:
        deferred = objection is not None and not isinstance(objection, Held)
        if entry.deferred != deferred:
            entry.deferred = deferred
            self.revision += 1
            if deferred and not entry.background:
                self._on_deferred(entry.query.workspace, entry.query.kind)

    def _release(self, entry: Entry) -> None:
        entry.busy = False
        self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        waiting, entry.waiting = entry.waiting, []
        for waiter in waiting:
            waiter.one_done()


def _sort(entry: Entry) -> Sort:
    return (entry.query.workspace, entry.query.kind.endpoint)
