"""Runs the fetches of one workspace in a bounded number of threads, the most overdue first."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

# How often a thread checks whether a job that was not admitted may run now, in seconds. When a job of this pool ends,
# the threads check at once.
_RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Job(Protocol):
    """A job that `WorkerPool` can run."""

    @property
    def path(self) -> str:
        """The path of the endpoint."""

    @property
    def next_at(self) -> float:
        """When the job is to run, in seconds of the monotonic clock."""

    @property
    def is_history(self) -> bool:
        """Whether the job has the lowest priority."""


J = TypeVar("J", bound=Job)
A = TypeVar("A")


class WorkerPool(Generic[J, A]):
    """Runs jobs in `concurrency` threads, the most overdue first and those of history last. Thread-safe.

    While several endpoints have queued jobs, each uses at most half of the threads, rounded up.
    """

    def __init__(
        self, name: str, concurrency: int, admit: Callable[[J], A | None], run: Callable[[J, A], None]
    ) -> None:
        """Start the threads. They end after `close` or with the process.

        `admit` is called before each job. While it returns None, the job stays queued. Otherwise `run` is called with
        the job and the result of `admit`. `name` is part of the names of the threads.
        """
        self._max_per_endpoint = (concurrency + 1) // 2
        self._admit = admit
        self._run = run
        self._changed = threading.Condition()
        self._queues: dict[str, list[tuple[bool, float, int, J]]] = {}
        self._running: dict[str, int] = {}
        self._order = itertools.count()
        self._is_closed = False
        try:
            for _ in range(concurrency):
                threading.Thread(target=self._work, name=f"fetch {name}", daemon=True).start()
        except RuntimeError:  # the process may have no further thread
            self.close()
            raise

    def add(self, jobs: Sequence[J]) -> None:
        """Queue jobs. No thread starts any of them before all are queued, so that the most overdue one is first."""
        with self._changed:
            for job in jobs:
                queue = self._queues.setdefault(job.path, [])
                heapq.heappush(queue, (job.is_history, job.next_at, next(self._order), job))
            self._changed.notify(len(jobs))

    def close(self) -> list[J]:
        """Drop the queued jobs and return them. Each thread ends after its current job."""
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
            except Exception:  # noqa: BLE001 - the thread must survive for the other jobs
                _log.exception("Internal error in a worker thread")
            with self._changed:
                self._running[job.path] -= 1
                self._changed.notify_all()  # jobs that exceeded the endpoint limit or were not admitted may run now

    def _take_job(self) -> tuple[J, A] | None:
        """Wait for a job that may run and return it with the result of `admit`, or None if the thread must end."""
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
        """Yield the endpoints that may use another thread, first the one with the most overdue job."""
        queued = {endpoint: queue[0][:3] for endpoint, queue in self._queues.items() if queue}
        if len(queued) > 1:
            queued = {
                endpoint: first
                for endpoint, first in queued.items()
                if self._running.get(endpoint, 0) < self._max_per_endpoint
            }
        yield from sorted(queued, key=queued.__getitem__)
