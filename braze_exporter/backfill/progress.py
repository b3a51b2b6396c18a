"""Show the progress of a backfill: as a bar on a terminal, otherwise as a line once a minute."""

import os
from collections import deque
from collections.abc import Callable
from typing import TextIO

from braze_exporter.config.plurals import pluralize
from braze_exporter.config.values import format_rounded_up

# The time between two lines if the stream is not a terminal.
_LINE_INTERVAL_SECONDS = 60.0
# The time over which the rate is measured.
_RATE_WINDOW_SECONDS = 60.0
_MAX_BAR_WIDTH, _MIN_BAR_WIDTH, _DEFAULT_WIDTH = 40, 10, 80


def format_rate(per_second: float) -> str:
    """Return a rate as text, in calls per second or, below 1, in calls per hour."""
    return f"{per_second:.1f} calls/s" if per_second >= 1 else f"{per_second * 3_600:,.0f} calls/h"


class Progress:
    """Shows the progress on a stream."""

    def __init__(self, stream: TextIO, monotonic: Callable[[], float]) -> None:
        """Write to `stream`. `monotonic` returns seconds of a monotonic clock."""
        self._stream = stream
        self._monotonic = monotonic
        self._is_terminal = stream.isatty()
        self._samples: deque[tuple[float, int]] = deque()
        self._printed_at = float("-inf")
        self._printed_pause_text = ""

    def print_line(self, text: str) -> None:
        """Write a line. On a terminal, it replaces the bar."""
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")

    def update(self, done: int, total: int, pause_text: str = "") -> None:
        """Show that `done` of `total` calls are completed: as a bar on a terminal, otherwise as a line once a minute.

        `pause_text` describes the current pause, if any. When it changes, a line is written in both cases.
        """
        now = self._monotonic()
        text = self._format_text(done, total, pause_text, now)
        has_pause_changed, self._printed_pause_text = pause_text != self._printed_pause_text, pause_text
        if has_pause_changed or (now - self._printed_at >= _LINE_INTERVAL_SECONDS and not self._is_terminal):
            self._printed_at = now
            self.print_line(text)
        if self._is_terminal:
            columns = self._terminal_width()
            self._write("\r" + f"{_format_bar(done, total, columns - len(text) - 4)}{text}"[: columns - 1] + "\x1b[K")

    def clear(self) -> None:
        """Remove the bar."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _terminal_width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _DEFAULT_WIDTH
        except OSError:  # the terminal was closed
            return _DEFAULT_WIDTH

    def _format_text(self, done: int, total: int, pause_text: str, now: float) -> str:
        self._samples.append((now, done))
        while now - self._samples[0][0] > _RATE_WINDOW_SECONDS:
            self._samples.popleft()
        started_at, done_before = self._samples[0]
        text = f"{done:,} of {pluralize(total, 'call', 'calls')}"
        if pause_text:
            return f"{text}, {pause_text}"
        if done == done_before or now == started_at:
            return text
        per_second = (done - done_before) / (now - started_at)
        return f"{text}, {format_rate(per_second)}, {format_rounded_up((total - done) / per_second)} left"

    def _write(self, text: str) -> None:
        print(text, end="", file=self._stream, flush=True)


def _format_bar(done: int, total: int, columns: int) -> str:
    """Return the bar, or an empty text if it does not fit into `columns`."""
    width = min(columns, _MAX_BAR_WIDTH)
    full = width * done // max(total, 1)
    return f"[{'#' * full}{'.' * (width - full)}] " if width >= _MIN_BAR_WIDTH else ""
