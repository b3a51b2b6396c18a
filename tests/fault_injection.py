"""Selects the fault for each request to the simulated Braze, and provides waits for faults."""

import reprlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from threading import Condition
from typing import NamedTuple, ParamSpec

from wsgi_server import Disconnect

from braze_exporter.simulator.reply import Reply
from braze_exporter.simulator.request import Request


@dataclass(frozen=True, slots=True)
class Exchange:
    """The input of a fault: the request, the correct reply, and two functions that wait."""

    request: Request
    reply: Reply
    wait: Callable[[float | None], None]
    """Wait for this many seconds, or forever if None. Raises `Disconnect` if the simulation is closed meanwhile."""
    wait_until_cleared: Callable[[], None]
    """Wait until this request's fault is cleared. Raises `Disconnect` if the simulation is closed meanwhile."""


Fault = Callable[[Exchange], Reply]
"""Returns the reply to send instead of the correct one, or raises `Disconnect`."""

_P = ParamSpec("_P")


class FaultTarget(NamedTuple):
    """The requests that a fault applies to: those for an event, those of a path, those of both, or all."""

    event: str | None = None
    path: str | None = None


ALL_REQUESTS = FaultTarget()


def _targets(request: Request) -> list[FaultTarget]:
    """Return the targets that match a request, the narrowest first."""
    event, path = request.event, request.path
    return [
        *([FaultTarget(event, path), FaultTarget(event)] if event is not None else []),
        FaultTarget(path=path),
        ALL_REQUESTS,
    ]


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    fault: Fault

    def __call__(self, exchange: Exchange) -> Reply:
        return self.fault(exchange)

    def __str__(self) -> str:
        return self.name


def with_name(factory: Callable[_P, Fault]) -> Callable[_P, Fault]:
    """Give each fault that `factory` returns the text of its call, such as `status(503)`, as its name in test ids."""

    @wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> Fault:
        arguments = [*map(reprlib.repr, args), *(f"{name}={reprlib.repr(value)}" for name, value in kwargs.items())]
        return _Named(f"{factory.__name__}({', '.join(arguments)})", factory(*args, **kwargs))

    return make


@dataclass(slots=True)
class _FaultQueue:
    """The faults of one target: first those with a number of times, in the given order, then the permanent one."""

    counted: deque[Fault] = field(default_factory=deque)
    permanent: Fault | None = None

    def next(self) -> Fault | None:
        return self.counted.popleft() if self.counted else self.permanent


class FaultInjector:
    """Holds the injected faults and applies them to requests. Thread-safe.

    The faults of the narrowest target have precedence. Within a target, faults with a number of times apply first, in
    the order of their injection, then the permanent fault. A newer permanent fault replaces it.
    """

    def __init__(self) -> None:
        """Start without faults."""
        self._changed = Condition()
        self._queues: defaultdict[FaultTarget, _FaultQueue] = defaultdict(_FaultQueue)
        self._clears: Counter[FaultTarget] = Counter()
        self._closes = 0

    def inject(self, fault: Fault, target: FaultTarget, times: int | None) -> None:
        """Apply the fault to the next `times` requests in `target`, or until cleared if `times` is None."""
        with self._changed:
            if times is None:
                self._queues[target].permanent = fault
            else:
                self._queues[target].counted.extend([fault] * times)

    def clear(self, target: FaultTarget) -> None:
        """Remove the faults of the target (of all targets if it is `ALL_REQUESTS`), and end their waits."""
        with self._changed:
            if target == ALL_REQUESTS:
                self._queues.clear()
            else:
                self._queues.pop(target, None)
            self._clears[target] += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End all current waits with `Disconnect`."""
        with self._changed:
            self._closes += 1
            self._changed.notify_all()

    def apply(self, request: Request, response: Callable[[], Reply]) -> Reply:
        """Return the reply to a request, changed by the next fault for this request, if there is one."""
        with self._changed:
            closes, clears = self._closes, self._clear_count(request)
            queues = [self._queues[target] for target in _targets(request) if target in self._queues]
            fault = next((queued for queued in (line.next() for line in queues) if queued), None)

        def closed() -> bool:
            return self._closes != closes

        def wait(seconds: float | None) -> None:
            with self._changed:
                if self._changed.wait_for(closed, seconds):
                    raise Disconnect

        def wait_until_cleared() -> None:
            with self._changed:
                self._changed.wait_for(lambda: closed() or self._clear_count(request) != clears)
                if closed():
                    raise Disconnect

        reply = response()
        return fault(Exchange(request, reply, wait, wait_until_cleared)) if fault else reply

    def _clear_count(self, request: Request) -> int:
        return sum(self._clears[target] for target in _targets(request))
