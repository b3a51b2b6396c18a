"""How far it is: a bar where someone looks on, a line now and then where nobody does."""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

# Where nobody looks on, a line every so many seconds.
_NOW_AND_THEN = 60.0
# The pace is that of the last so many seconds.
_PACE_OVER = 60.0
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_LONGEST_BAR, _SHORTEST_BAR, _USUAL_WIDTH = 40, 10, 80


def span(seconds: float) -> str:
    """Return how long something takes, in words, about: `40 s`, `12 min`, `3 h`, `2 days`."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"


def pace(per_second: float) -> str:
    """Return how fast it goes, in calls a second or, if that is slow, an hour."""
    return f"{per_second:.1f} calls/s" if per_second >= 1 else f"{per_second * _HOUR:,.0f} calls/h"


def count(number: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


@dataclass(frozen=True, slots=True)
class State:
    """How far it is: calls that are answered of all, and why none is made now, if so."""

    done: int
    total: int
    waiting: str = ""


class Progress:
    """Shows the state on a stream."""

    def __init__(self, stream: TextIO | None, monotonic: Callable[[], float]) -> None:
        """Write to `stream`, if there is one and somebody reads it. `monotonic` tells seconds that never jump."""
        self._stream = stream
        self._monotonic = monotonic
        self._is_terminal = stream is not None and not stream.closed and stream.isatty()
        self._seen: deque[tuple[float, int]] = deque()
        self._said_at = float("-inf")
        self._said_waiting = ""

    def say(self, text: str) -> None:
        """Write a line."""
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")

    def show(self, state: State) -> None:
        """Show the state: a bar in its place each time, a line now and then, and one for each thing it waits for."""
        now = self._monotonic()
        text = self._text(state, now)
        is_news, self._said_waiting = state.waiting != self._said_waiting, state.waiting
        if is_news or (now - self._said_at >= _NOW_AND_THEN and not self._is_terminal):
            self._said_at = now
            self.say(text)
        if self._is_terminal:
            columns = self._columns()
            self._write("\r" + f"{_bar(state, columns - len(text) - 4)}{text}"[: columns - 1] + "\x1b[K")

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _columns(self) -> int:
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns if self._stream is not None else 0
        except (OSError, ValueError):
            width = 0
        return width or _USUAL_WIDTH

    def _text(self, state: State, now: float) -> str:
        self._seen.append((now, state.done))
        while now - self._seen[0][0] > _PACE_OVER:
            self._seen.popleft()
        began, done = self._seen[0]
        text = f"{state.done:,} of {count(state.total, 'call', 'calls')}"
        if state.waiting:
            return f"{text}, {state.waiting}"
        if state.done == done or now == began:
            return text
        per_second = (state.done - done) / (now - began)
        return f"{text}, {pace(per_second)}, {span((state.total - state.done) / per_second)} left"

    def _write(self, text: str) -> None:
        """Write, if somebody reads; the work goes on without."""
        with suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()


def _bar(state: State, room: int) -> str:
    """Return the bar, if there is room for one."""
    width = min(room, _LONGEST_BAR)
    full = width * state.done // max(state.total, 1)
    return f"[{'#' * full}{'.' * (width - full)}] " if width >= _SHORTEST_BAR else ""
