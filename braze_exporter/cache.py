"""Query → reading: what is held of every query, and who fetches it when.

Prometheus is the scheduler: nothing is fetched unless someone asks. Whoever asks, a query is fetched about once in its
`refresh`, at most once at a time, over the bounded connections of its workspace. Whoever waits may stop waiting; the
fetch goes on, and its reading is there for the next.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from braze_exporter.catalog import BrazeError, Fetched, Query, Reason, Series, Withheld
from braze_exporter.lane import Lane

# A query is due a little before its time, so that a scrape interval equal to its refresh finds it due each time.
EARLY = 0.1
# What is fetched once, and was not answered, can wait for an hour.
BACKGROUND_RETRY = 3_600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """The series of an answer, and when it was asked for and when it was here, in seconds since the epoch.

    `sent_at` is by Braze's clock if ours is ahead of it; `received_monotonic` is on the clock that never jumps.
    """

    series: tuple[Series, ...]
    sent_at: float
    received_at: float
    received_monotonic: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What is held of a query that was asked: the newest answer, if there ever was one, and why the last fetch failed.

    `error` is None if the last fetch was answered.
    """

    answer: Answer | None
    error: BrazeError | None


@dataclass(slots=True, eq=False)
class Entry:
    """The state of one query, which only the cache changes.

    `reading` is replaced whole, and None until the first try. `next_at` is on the monotonic clock. `busy` means queued
    or under way, `deferred` that the query was due when it was last looked at, but withheld. `background` is for what
    is fetched once, after all else, and without anyone waiting.
    """

    query: Query
    next_at: float
    reading: Reading | None = None
    busy: bool = False
    deferred: bool = False
    background: bool = False
    waiting: list["_Waiter"] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked."""
        return self.query.kind.endpoint

    def is_due(self, now: float) -> bool:
        """Return whether the query should be fetched at `now`, on the monotonic clock."""
        return now >= self.next_at - EARLY * self.query.refresh


# Called with an entry that has a new reading, and the one it had before.
Listener = Callable[[Entry, Reading | None], None]


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
    """Holds the readings of `queries` and has them fetched when they are asked for. Thread-safe."""

    def __init__(
        self,
        queries: Sequence[Query],
        fetch: Callable[[Query, Reading | None], Fetched],
        grants: Callable[[Query], bool],
        concurrency: int,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        background: Sequence[Query] = (),
    ) -> None:
        """Fetch what `grants` allows by `fetch`; it is given the reading before, and raises `Withheld` or `BrazeError`.

        `concurrency` is the number of fetches at once for each workspace. `wall` tells seconds since the epoch,
        `monotonic` seconds that never jump. `background` queries are fetched until they are answered once, when nothing
        else is queued. `revision` changes whenever an entry does.
        """
        self._fetch = fetch
        self._grants = grants
        self._wall = wall
        self._monotonic = monotonic
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        now = monotonic()
        self.revision = 0
        self.entries = tuple(Entry(query, next_at=now) for query in queries)
        self.background = dict.fromkeys(Entry(query, next_at=now, background=True) for query in background)
        workspaces = dict.fromkeys(query.workspace for query in queries)
        self._lanes = {name: Lane(name, concurrency, self._run) for name in workspaces}
        self._waiter = _Waiter()
        self._waiter.end_if_done()
        self._closed = False

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
        due = [entry for entry in (*self.entries, *self.background) if not entry.busy and entry.is_due(now)]
        for entry in due:
            entry.busy = self._grants(entry.query)
            self._defer(entry, deferred=not entry.busy)
        return [entry for entry in due if entry.busy]

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with each entry that has a new reading and the one it had before, one at a time."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Begin no more fetches and end all waiting. Fetches under way end by themselves, or with the process."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.close()
            for entry in self.entries:
                self._release(entry)

    def _run(self, entry: Entry) -> None:
        """Fetch one query, in a thread of its lane."""
        query = entry.query
        sent_at = self._wall()
        fetched: Fetched | None = None
        error: BrazeError | None = None
        try:
            fetched = self._fetch(query, entry.reading)
        except Withheld:
            with self._lock:
                self._defer(entry, deferred=True)
                self._release(entry)
            return
        except BrazeError as failure:
            error = failure
        except Exception:  # noqa: BLE001 - whatever it was, this query is not answered, and the others go on
            _log.exception("a fetch failed by a fault of the exporter", extra={"fields": dict(query.labels)})
            error = BrazeError(Reason.BAD_ANSWER, "a fault of the exporter itself: see the log")
        with self._lock:
            self._schedule(entry, answered=fetched is not None)
            before = entry.reading
            if fetched is None:
                entry.reading = Reading(before.answer if before is not None else None, error)
            else:
                # If our clock is ahead of Braze's, Braze's counts: nothing settles too early.
                asked_at = sent_at if fetched.answered_at is None else min(sent_at, fetched.answered_at)
                entry.reading = Reading(Answer(fetched.series, asked_at, self._wall(), self._monotonic()), None)
            for listener in self._listeners:
                try:
                    listener(entry, before)
                except Exception:  # noqa: BLE001 - the thread lives on, and the scrapes that wait are let go
                    _log.exception("a reading was not taken in", extra={"fields": dict(query.labels)})
            self.revision += 1  # after the listeners: who sees the new revision sees what they made of it
            self._release(entry)

    def _defer(self, entry: Entry, *, deferred: bool) -> None:
        if entry.deferred != deferred:
            entry.deferred = deferred
            self.revision += 1

    def _schedule(self, entry: Entry, *, answered: bool) -> None:
        """Set the next time: one refresh after the last, so that the calls per hour are 3600 / refresh."""
        now = self._monotonic()
        if entry.background:
            if answered:
                del self.background[entry]
            entry.next_at = now + BACKGROUND_RETRY
            return
        entry.next_at += entry.query.refresh
        if entry.is_due(now):  # it fell behind: nothing is caught up on
            entry.next_at = now + entry.query.refresh

    def _release(self, entry: Entry) -> None:
        entry.busy = False
        waiting, entry.waiting = entry.waiting, []
        for waiter in waiting:
            waiter.one_done()
