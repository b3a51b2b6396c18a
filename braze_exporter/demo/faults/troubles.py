"""Which fault strikes which request, and how long a fault may wait."""

import reprlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from threading import Condition
from typing import ParamSpec

from braze_exporter.demo.logbook import Request
from braze_exporter.demo.reply import Disconnect, Reply


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a fault is given: the request, the true reply, and two ways to wait that the simulation can end."""

    request: Request
    reply: Reply
    wait: Callable[[float | None], None]
    """Wait for so many seconds, or for ever; `Disconnect` if the simulation is closed meanwhile."""
    wait_until_healed: Callable[[], None]
    """Wait until this request's fault is healed; `Disconnect` if the simulation is closed meanwhile."""


Fault = Callable[[Exchange], Reply]
"""Makes another reply of the true one, or raises `Disconnect`."""

_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    fault: Fault

    def __call__(self, exchange: Exchange) -> Reply:
        return self.fault(exchange)

    def __str__(self) -> str:
        return self.name


def named(factory: Callable[_P, Fault]) -> Callable[_P, Fault]:
    """Let the faults of the factory print as they were made, `status(503)`: a name for a test."""

    @wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> Fault:
        shown = [*map(reprlib.repr, args), *(f"{name}={reprlib.repr(value)}" for name, value in kwargs.items())]
        return _Named(f"{factory.__name__}({', '.join(shown)})", factory(*args, **kwargs))

    return make


@dataclass(slots=True)
class _Line:
    """The faults of one event: those for so many times in the order given, then the lasting one."""

    counted: deque[Fault] = field(default_factory=deque)
    lasting: Fault | None = None

    def next(self) -> Fault | None:
        return self.counted.popleft() if self.counted else self.lasting


class Troubles:
    """The faults that were asked for. Thread-safe.

    An event's own faults come before those of all requests. Of either, those for a number of times come first, in the
    order given; then the lasting one, which a newer lasting one replaces.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._bell = Condition()
        self._lines: defaultdict[str | None, _Line] = defaultdict(_Line)
        self._heals: Counter[str | None] = Counter()
        self._closes = 0

    def fail(self, fault: Fault, event: str | None, times: int | None) -> None:
        """Let the fault strike requests for the event (None: all), so many times (None: until healed)."""
        with self._bell:
            if times is None:
                self._lines[event].lasting = fault
            else:
                self._lines[event].counted.extend([fault] * times)

    def heal(self, event: str | None) -> None:
        """Take back the faults of the event (None: all of them) and let go what waits for that."""
        with self._bell:
            if event is None:
                self._lines.clear()
            else:
                self._lines.pop(event, None)
            self._heals[event] += 1
            self._bell.notify_all()

    def close(self) -> None:
        """End every wait that has begun, with `Disconnect`."""
        with self._bell:
            self._closes += 1
            self._bell.notify_all()

    def strike(self, request: Request, answer: Callable[[], Reply]) -> Reply:
        """Return the answer, made wrong by the fault that is next for this request, if there is one."""
        with self._bell:
            closes, heals = self._closes, self._healed(request)
            lines = [self._lines[name] for name in (request.event, None) if name in self._lines]
            fault = next((found for found in (line.next() for line in lines) if found), None)

        def closed() -> bool:
            return self._closes != closes

        def wait(seconds: float | None) -> None:
            with self._bell:
                if self._bell.wait_for(closed, seconds):
                    raise Disconnect

        def wait_until_healed() -> None:
            with self._bell:
                self._bell.wait_for(lambda: closed() or self._healed(request) != heals)
                if closed():
                    raise Disconnect

        reply = answer()
        return fault(Exchange(request, reply, wait, wait_until_healed)) if fault else reply

    def _healed(self, request: Request) -> int:
        # A request without an event must not count the healing of all twice.
        return sum(self._heals[name] for name in {None, request.event})
