"""Asks Braze for history, several calls at once and each until it is answered, and has the spool keep what came.

It goes by the same rules as the exporter: one admission a workspace, and a rest for Braze when Braze is in trouble.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from braze_exporter.backfill.request import BackfillError, Wish, written
from braze_exporter.backfill.resume_file import Spool
from braze_exporter.braze.calls import Call, Permit
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.config.document import shown
from braze_exporter.scheduler.admission import REFUSALS, Admission
from braze_exporter.scheduler.errors import Withheld
from braze_exporter.scheduler.rate_limiter import Entered, Gate, Passage
from braze_exporter.scheduler.repair import chunks, halved
from braze_exporter.scheduler.worker_pool import Lane

# How long Braze is left alone when it is in trouble, in seconds; it doubles with each failure that follows.
FIRST_REST = 1.0
LONGEST_REST = 300.0
# So many failures in a row, which is about a quarter of an hour, end the run.
MOST_FAILURES = 12
# What says something of the query, and would be said again.
_HOPELESS = {Reason.BAD_REQUEST, Reason.NOT_FOUND, Reason.BAD_ANSWER, Reason.TOO_LARGE}
# What leaves no doubt that Braze can answer.
_ANSWERED = {*_HOPELESS, *REFUSALS, Reason.RATE_LIMITED}
# So many calls wait in memory for each connection: of millions, not all need to.
_AHEAD = 2

# The workspace and the endpoint of calls.
_Sort = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Wait:
    """Why no call is made in a workspace, and until when, in seconds that never jump."""

    workspace: str
    because: str
    until: float


@dataclass(slots=True, eq=False)
class _Job:
    """A call to make: a piece of the history of a query. `newer` are the calls for the rest of that piece.

    The newest part comes last: with it the spool takes the whole piece for read.
    """

    query: Query
    piece: Query
    newer: tuple[Query, ...] = ()
    next_at: float = 0.0
    background: bool = False

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked."""
        return self.query.kind.endpoint


@dataclass(frozen=True, slots=True)
class _Leave:
    """Leave to make a call, and how it passed the gate."""

    permit: Permit
    entered: Entered


class _Road:
    """The way to one workspace, with a gate that is shut for a while when Braze is in trouble."""

    def __init__(self, client: Client, admission: Admission) -> None:
        self.client = client
        self.admission = admission
        self.gate = Gate(on_trial=False)
        self.failures = 0


class Reader:
    """Makes the calls of a backfill, in threads of its own. Thread-safe.

    `answered` counts the calls that were answered; `aside` has the queries that Braze refuses, each with its error, for
    which no more calls are made.
    """

    def __init__(self, wish: Wish, spool: Spool, *, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """Begin without calls. `wall` tells seconds since the epoch, `monotonic` seconds that never jump."""
        self._wish = wish
        self._spool = spool
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._roads: dict[str, _Road] = {}
        self._lanes: dict[str, Lane[_Job, _Leave | Withheld]] = {}
        self._groups: dict[_Sort, list[Query]] = {}
        self._sources: dict[_Sort, Iterator[_Job]] = {}
        self._again: dict[_Sort, deque[_Job]] = {}
        self._waits: dict[tuple[str, str], Wait] = {}
        self._max_lengths: dict[Query, int] = {}
        self._open = 0
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self.answered = 0
        self.aside: dict[Query, BrazeError] = {}

    def note_call(self, call: Call) -> None:
        """Take note of a call that brought its pool to rest."""
        if call.rests is not None:
            until = self._monotonic() + call.rests
            is_refused = call.reason is Reason.RATE_LIMITED
            because = "Braze answered HTTP 429" if is_refused else "what is left of Braze's rate limit is in reserve"
            with self._lock:
                self._waits[call.workspace, call.pool] = Wait(call.workspace, because, until)

    def start(self, roads: Mapping[str, tuple[Client, Admission]], queries: Iterable[Query], concurrency: int) -> None:
        """Begin to ask what is missing of `queries`, by the client and the admission of each workspace."""
        groups = self._groups
        for query in queries:
            groups.setdefault((query.workspace, query.kind.endpoint), []).append(query)
        self._sources = {sort: self._missing(group) for sort, group in groups.items()}
        self._again = {sort: deque() for sort in groups}
        first = {sort: [*islice(source, concurrency * _AHEAD)] for sort, source in self._sources.items()}
        self._open = sum(map(len, first.values()))
        self._roads = {workspace: _Road(*road) for workspace, road in roads.items()}
        self._lanes = {name: Lane(name, concurrency, self._admit, self._run) for name in roads}
        for (workspace, _), jobs in first.items():
            self._lanes[workspace].add(jobs)
        if not self._open:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, but no longer than that; return whether it has come. Raise what has brought it about."""
        has_ended = self._ended.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return has_ended

    def waiting(self) -> Wait | None:
        """Return why nothing is asked now of a workspace, if there is more to it than the pace of the budget."""
        with self._lock:
            now = self._monotonic()
            return next((wait for wait in self._waits.values() if now < wait.until), None)

    def close(self) -> None:
        """Make no more calls. Those under way end with the process."""
        for lane in self._lanes.values():
            lane.close()

    def _missing(self, queries: Iterable[Query]) -> Iterator[_Job]:
        """Yield the calls that are to be made, the queries by turns: one in trouble does not keep the others."""
        turns = deque((query, iter(self._endings(query))) for query in queries)
        while turns:
            query, endings = turns.popleft()
            ending_at = None if query in self.aside else next(endings, None)
            if ending_at is not None:
                yield _Job(query, replace(query, ending_at=ending_at, length=query.kind.longest))
                turns.append((query, endings))

    def _endings(self, query: Query) -> list[int | None]:
        """Return of the calls that are missing what they end at, which takes a tenth of their memory."""
        return [piece.ending_at for piece in self._spool.missing(self._wish.pieces(query))]

    def _admit(self, job: _Job) -> _Leave | Withheld | None:
        """Return leave to make a call, or None while it has to wait, or that nobody wants it any more."""
        with self._lock:
            if job.query in self.aside:
                return Withheld("aside")
            road = self._roads[job.query.workspace]
            if road.gate.passage(self._monotonic()) is not Passage.OPEN:
                return None
            permit = road.admission.admit(job.query.kind)
            return _Leave(permit, road.gate.enter()) if isinstance(permit, Permit) else None

    def _run(self, job: _Job, leave: _Leave | Withheld) -> None:
        """Make a call, in a thread of its lane, and see to what is next."""
        try:
            following = self._following(job, again=isinstance(leave, _Leave) and not self._is_done(job, leave))
        except Exception as failure:  # noqa: BLE001 - who waits for the end is told
            self._end(failure)
            return
        if following is not None:
            self._lanes[job.query.workspace].add([following])

    def _following(self, job: _Job, *, again: bool) -> _Job | None:
        """Return the next call of that sort, if there is one; without any, and none under way, that is the end.

        A call that is to be made `again` waits for all others.
        """
        sort = (job.query.workspace, job.endpoint)
        with self._lock:
            if again:
                self._again[sort].append(job)
            following = next(self._sources[sort], None)
            if following is None and self._again[sort]:
                following = self._again[sort].popleft()
            self._open -= following is None
            if not self._open:
                self._ended.set()
            return following

    def _end(self, failure: Exception) -> None:
        with self._lock:
            self._failure = self._failure or failure
            self._ended.set()

    def _is_done(self, job: _Job, leave: _Leave) -> bool:
        """Make a call; return whether that was it. Raise `BackfillError` if there is no point in another."""
        self._shorten(job)
        road, asked_at = self._roads[job.query.workspace], self._wall()
        error: BrazeError | None = None
        try:
            fetched = road.client.fetch(job.piece, job.piece.length, leave.permit)
        except BrazeError as failure:
            error = failure.bare()
        else:
            self._check_clock(job.query, asked_at if fetched.answered_at is None else fetched.answered_at)
            self._spool.keep(job.piece, fetched.series)
        with self._lock:
            self._note(road, job.query, error, leave.entered)
            if error is None and job.newer:
                job.piece, job.newer = job.newer[0], job.newer[1:]
                return False
            if error is not None and error.reason is Reason.TOO_LARGE and job.piece.length > 1:
                self._max_lengths[job.query] = halved(job.piece.length)
                return False
            if error is None:
                self.answered += 1
            elif error.reason in REFUSALS:  # and so would the others of its endpoint be
                self.aside |= dict.fromkeys(self._groups[job.query.workspace, job.endpoint], error)
            elif error.reason in _HOPELESS:
                self.aside[job.query] = error
        return error is None or error.reason in _HOPELESS | REFUSALS

    def _shorten(self, job: _Job) -> None:
        """Cut the piece of a job into such as have fitted a response of its query."""
        with self._lock:
            max_length = self._max_lengths.get(job.query, job.piece.length)
        job.piece, *newer = chunks(job.piece, max_length)
        job.newer = (*newer, *job.newer)

    def _check_clock(self, query: Query, asked_at: float) -> None:
        """Refuse what may not have settled yet by Braze's clock."""
        if asked_at < self._wish.end.of(query.zone):
            text = f"to Braze it is {written(asked_at)}, before --end={self._wish.end}: set the clock of this machine"
            raise BackfillError(f"{shown(query.workspace)}: {text}")

    def _note(self, road: _Road, query: Query, error: BrazeError | None, entered: Entered) -> None:
        """Let Braze rest after a trouble that is news, and give up after many in a row, or once the key is rejected."""
        workspace = shown(query.workspace)
        is_news, is_trouble = road.gate.is_news(entered), error is not None and error.reason not in _ANSWERED
        road.gate.leave(entered, passed=not is_trouble)
        refusal = road.admission.standing().refusal
        if refusal is not None:
            raise BackfillError(f"{workspace}: {refusal.error.detail}")
        if not is_news:
            return
        if error is None or not is_trouble:
            road.failures = 0
            return
        now, rest = self._monotonic(), min(FIRST_REST * 2**road.failures, LONGEST_REST)
        road.failures += 1
        if road.failures == MOST_FAILURES:
            raise BackfillError(f"{workspace}: nothing is answered, for long: {error.detail}")
        road.gate.shut(now + rest)
        self._waits[query.workspace, ""] = Wait(query.workspace, error.detail, now + rest)
