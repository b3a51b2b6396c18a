"""Runs the calls of each workspace in a bounded number of threads, the most overdue first."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from braze_exporter.braze.calls import RateLimitInfo
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.scheduler.admission import Deferred, Permit
from braze_exporter.scheduler.rate_limiter import Priority

# How often a thread checks whether a job that was not admitted may run now, in seconds. When a job of this pool ends,
# the threads check at once.
_RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One call to the endpoint with this `path`, due at `next_at`, in seconds of the monotonic clock.

    `admit` returns a permit for the call, a `Deferred` if it may not be made now, or None while it must wait for a
    probe. `run` gets the permit and makes the call, or gets the `Deferred`. It may queue a further job.
    """

    path: str
    priority: Priority
    next_at: float
    admit: Callable[[], Permit | Deferred | None]
    run: Callable[[Permit | Deferred], None]


class WorkerPool:
    """Runs jobs in `concurrency` threads by priority, the most overdue first. Thread-safe.

    While several endpoints have queued jobs, each uses at most half of the threads, rounded up. So do the jobs for
    history at any time, so that queries need not wait for slow responses to them.
    """

    def __init__(self, name: str, concurrency: int) -> None:
        """Start the threads. They end after `close` or with the process. `name` is part of their names."""
        self._max_per_endpoint = (concurrency + 1) // 2
        self._changed = threading.Condition()
        self._queues: dict[str, list[tuple[Priority, float, int, Job]]] = {}
        self._running: dict[str, int] = {}
        self._running_history = 0
        self._order = itertools.count()
        self._is_closed = False
        try:
            for _ in range(concurrency):
                threading.Thread(target=self._work, name=f"fetch {name}", daemon=True).start()
        except RuntimeError:  # the process may have no further thread
            self.close()
            raise

    def add(self, jobs: Sequence[Job]) -> None:
        """Queue jobs. No thread starts any of them before all are queued, so that the most overdue one is first."""
        with self._changed:
            for job in jobs:
                queue = self._queues.setdefault(job.path, [])
                heapq.heappush(queue, (job.priority, job.next_at, next(self._order), job))
            self._changed.notify(len(jobs))

    def close(self) -> list[Job]:
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
                if isinstance(admitted, Permit):
                    admitted.begin()
                job.run(admitted)
            except Exception:  # noqa: BLE001 - the thread must survive for the other jobs
                _log.exception("Internal error in a worker thread", extra={"fields": {"path": job.path}})
            if isinstance(admitted, Permit):  # has no effect unless an internal error prevented the call
                admitted.end(BrazeError(Reason.INVALID_RESPONSE, "internal error"), RateLimitInfo())
            with self._changed:
                self._running[job.path] -= 1
                self._running_history -= job.priority is Priority.HISTORY
                self._changed.notify_all()  # jobs that exceeded the endpoint limit or were not admitted may run now

    def _take_job(self) -> tuple[Job, Permit | Deferred] | None:
        """Wait for a job that may run and return it with the result of `admit`, or None if the thread must end."""
        with self._changed:
            while not self._is_closed:
                for path in self._eligible_paths():
                    admitted = _admit(self._queues[path][0][-1])
                    if admitted is not None:
                        *_, job = heapq.heappop(self._queues[path])
                        self._running[path] = self._running.get(path, 0) + 1
                        self._running_history += job.priority is Priority.HISTORY
                        return job, admitted
                self._changed.wait(_RETRY_SECONDS if any(self._queues.values()) else None)
            return None

    def _eligible_paths(self) -> Iterator[str]:
        """Yield the paths whose endpoints may use another thread, first the one with the most overdue job."""
        queued = {path: queue[0][:3] for path, queue in self._queues.items() if queue}
        if self._running_history >= self._max_per_endpoint:
            queued = {path: first for path, first in queued.items() if first[0] is not Priority.HISTORY}
        if len(queued) > 1:
            queued = {
                path: first for path, first in queued.items() if self._running.get(path, 0) < self._max_per_endpoint
            }
        yield from sorted(queued, key=queued.__getitem__)


def _admit(job: Job) -> Permit | Deferred | None:
    """Return the result of `admit`, or a `Deferred` if that fails, since the thread must survive for the other jobs."""
    try:
        return job.admit()
    except Exception:  # noqa: BLE001
        _log.exception("Internal error before a call", extra={"fields": {"path": job.path}})
        return Deferred()


class WorkerPools:
    """The worker pools of all workspaces. Not thread-safe."""

    def __init__(self) -> None:
        """Start without pools."""
        self._pools: dict[str, WorkerPool] = {}
        self._concurrency = 0

    def open(self, workspaces: Collection[str], concurrency: int) -> None:
        """Keep or create one `WorkerPool` of `concurrency` threads per workspace, and close all others.

        If the concurrency has changed, the queued jobs move to the new pool. If a thread cannot be started, nothing is
        changed.
        """
        is_kept = concurrency == self._concurrency
        kept = {name: pool for name, pool in self._pools.items() if is_kept and name in workspaces}
        opened: dict[str, WorkerPool] = {}
        try:
            for name in workspaces:
                if name not in kept:
                    opened[name] = WorkerPool(name, concurrency)
        except RuntimeError:
            for worker_pool in opened.values():
                worker_pool.close()
            raise
        for name, worker_pool in self._pools.items():
            jobs = worker_pool.close() if name not in kept else []
            if name in opened:
                opened[name].add(jobs)
        self._concurrency, self._pools = concurrency, kept | opened

    def add(self, jobs: Iterable[tuple[str, Job]]) -> bool:
        """Queue jobs for the workspaces with these names, and return whether all have pools. Other jobs are dropped."""
        by_workspace: dict[str, list[Job]] = {}
        for workspace, job in jobs:
            by_workspace.setdefault(workspace, []).append(job)
        for workspace in by_workspace.keys() & self._pools.keys():
            self._pools[workspace].add(by_workspace[workspace])
        return by_workspace.keys() <= self._pools.keys()

    def close(self) -> None:
        """Drop all queued jobs. Each thread ends after its current job."""
        for worker_pool in self._pools.values():
            worker_pool.close()
        self._pools = {}
