"""Which fault strikes which request, and how long a fault may wait."""

import reprlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from threading import Condition
from typing import NamedTuple, ParamSpec

from braze_exporter.simulator.reply import Disconnect, Reply
from braze_exporter.simulator.request import Request


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


class Aim(NamedTuple):
    """What a fault strikes: the requests for an event, those at a path, those that are both, or, with neither, all."""

    event: str | None = None
    path: str | None = None


ALL = Aim()


def _aims(request: Request) -> list[Aim]:
    """Return the aims that a request is in, the narrowest first."""
    event, path = request.event, request.path
    return [*([Aim(event, path), Aim(event)] if event is not None else []), Aim(path=path), ALL]


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
    """The faults of one aim: those for so many times in the order given, then the lasting one."""

    counted: deque[Fault] = field(default_factory=deque)
    lasting: Fault | None = None

    def next(self) -> Fault | None:
        return self.counted.popleft() if self.counted else self.lasting


class Troubles:
    """The faults that were asked for. Thread-safe.

    The faults of the narrowest aim come first. Of each, those for a number of times come first, in the order given;
    then the lasting one, which a newer lasting one replaces.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._bell = Condition()
        self._lines: defaultdict[Aim, _Line] = defaultdict(_Line)
        self._heals: Counter[Aim] = Counter()
        self._closes = 0

    def fail(self, fault: Fault, aim: Aim, times: int | None) -> None:
        """Let the fault strike the requests in `aim`, so many times (None: until healed)."""
        with self._bell:
            if times is None:
                self._lines[aim].lasting = fault
            else:
                self._lines[aim].counted.extend([fault] * times)

    def heal(self, aim: Aim) -> None:
        """Take back the faults of the aim (of all aims if it is all) and let go what waits for that."""
        with self._bell:
            if aim == ALL:
                self._lines.clear()
            else:
                self._lines.pop(aim, None)
            self._heals[aim] += 1
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
            lines = [self._lines[aim] for aim in _aims(request) if aim in self._lines]
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
        return sum(self._heals[aim] for aim in _aims(request))
