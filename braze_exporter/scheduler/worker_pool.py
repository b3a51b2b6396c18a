"""The connections of one workspace: threads that take the next thing to fetch, the longest overdue first."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

# How soon it is tried again, in seconds, whether a job may run for which another one was waited. The end of a job of
# this lane is noticed at once.
_RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Job(Protocol):
    """What a lane needs to know of what it runs."""

    @property
    def path(self) -> str:
        """The endpoint that is asked."""

    @property
    def next_at(self) -> float:
        """When it became due."""

    @property
    def is_history(self) -> bool:
        """Whether all others go first."""


J = TypeVar("J", bound=Job)
A = TypeVar("A")


class WorkerPool(Generic[J, A]):
    """Runs jobs in `concurrency` threads, background ones last.

    No endpoint holds more than half of the threads, rounded up, while another has jobs queued. Thread-safe.
    """

    def __init__(
        self, name: str, concurrency: int, admit: Callable[[J], A | None], run: Callable[[J, A], None]
    ) -> None:
        """Start the threads; they end with `close` or with the process.

        Each job is run with what `admit` returns for it; while that is None it stays queued.
        """
        self._max_per_endpoint = (concurrency + 1) // 2
        self._admit = admit
        self._run = run
        self._changed = threading.Condition()
        self._queues: dict[str, list[tuple[bool, float, int, J]]] = {}
        self._running: dict[str, int] = {}
        self._order = itertools.count()
        self._is_closed = False
        for _ in range(concurrency):
            threading.Thread(target=self._work, name=f"fetch {name}", daemon=True).start()

    def add(self, jobs: Sequence[J]) -> None:
        """Queue jobs, all before the first is taken."""
        with self._changed:
            for job in jobs:
                queue = self._queues.setdefault(job.path, [])
                heapq.heappush(queue, (job.is_history, job.next_at, next(self._order), job))
            self._changed.notify(len(jobs))

    def close(self) -> list[J]:
        """Drop what is queued, and return it; end the threads, each after what it is at."""
        with self._changed:
            self._is_closed = True
            dropped = [job for queue in self._queues.values() for *_, job in queue]
            self._queues.clear()
            self._changed.notify_all()
            return dropped

    def _work(self) -> None:
        while (taken := self._take_job()) is not None:
            job, admitted = taken
            try:
                self._run(job, admitted)
            except Exception:  # noqa: BLE001 - the thread lives on for the others
                _log.exception("a fetch was not brought to its end")
            with self._changed:
                self._running[job.path] -= 1
                self._changed.notify_all()  # another endpoint, or those that are not admitted, may have waited for this

    def _take_job(self) -> tuple[J, A] | None:
        """Wait for a job that may be run and return it with what admits it, or None to end."""
        with self._changed:
            while not self._is_closed:
                for endpoint in self._eligible_endpoints():
                    admitted = self._admit(self._queues[endpoint][0][-1])
                    if admitted is not None:
                        *_, job = heapq.heappop(self._queues[endpoint])
                        self._running[endpoint] = self._running.get(endpoint, 0) + 1
                        return job, admitted
                self._changed.wait(_RETRY_SECONDS if any(self._queues.values()) else None)
            return None

    def _eligible_endpoints(self) -> Iterator[str]:
        """Yield the endpoints that may have another thread, first the one whose first job is the longest overdue."""
        queued = {endpoint: queue[0][:3] for endpoint, queue in self._queues.items() if queue}
        if len(queued) > 1:
            queued = {e: first for e, first in queued.items() if self._running.get(e, 0) < self._max_per_endpoint}
        yield from sorted(queued, key=queued.__getitem__)
