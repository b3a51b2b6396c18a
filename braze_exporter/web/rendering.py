"""Pages that are shared: a flood of scrapes costs what one after the other costs."""

import asyncio
import contextlib
import gzip
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# Level 1 makes the page a third larger than level 6 and costs half the time.
_GZIP_LEVEL = 1
# Different pages that may be read at a time. Who reads slowly, or not at all, holds one in memory.
MAX_READ_PAGES = 16
# Seconds: most queries are asked more often, and most pages between have little that is new.
_RECENT_SECONDS = 3_600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RenderKey:
    """What a page may be: its form, and whether it is compressed."""

    content_type: str
    is_gzipped: bool


class PageRenderer:
    """Makes the pages of `render`, which is told which form is wanted, in so many `threads`.

    Of each kind at most one is being made, and one waits for that to end. Whoever asks gets one that is begun
    afterwards, so it shows what was held when it was asked for.
    """

    def __init__(
        self, render: Callable[[str], bytes], threads: int = 2, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Make nothing yet. `monotonic` tells seconds that never jump."""
        self._render = render
        self._monotonic = monotonic
        self._durations: deque[tuple[float, float]] = (
            deque()
        )  # when a page was made, and how long that took, longest first
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="render")
        self._running: dict[RenderKey, asyncio.Task[bytes | None]] = {}
        self._next: dict[RenderKey, asyncio.Task[bytes | None]] = {}

    @property
    def render_seconds(self) -> float:
        """How long a page takes that has much to show: the longest of the last hour."""
        while self._durations and self._durations[0][0] < self._monotonic() - _RECENT_SECONDS:
            self._durations.popleft()
        return self._durations[0][1] if self._durations else 0.0

    async def page(self, key: RenderKey) -> bytes | None:
        """Return a page, or None by a fault that is in the log."""
        if key not in self._next:
            self._next[key] = asyncio.get_running_loop().create_task(self._render_after(key, self._running.get(key)))
        return await asyncio.shield(self._next[key])

    async def _render_after(self, key: RenderKey, before: asyncio.Task[bytes | None] | None) -> bytes | None:
        if before is not None:
            await asyncio.wait([before])
        task = self._running[key] = self._next.pop(key)
        try:
            page, seconds = await asyncio.get_running_loop().run_in_executor(self._threads, self._render_page, key)
            self._record_duration(seconds)
            return page
        finally:
            if self._running[key] is task:
                del self._running[key]

    def _render_page(self, key: RenderKey) -> tuple[bytes | None, float]:
        """Return a page, in a thread of its own, and how many seconds that took."""
        started_at = self._monotonic()
        page = None
        try:
            text = self._render(key.content_type)
            page = gzip.compress(text, _GZIP_LEVEL, mtime=0) if key.is_gzipped else text
        except Exception:  # noqa: BLE001 - whatever it was, the server goes on
            _log.exception("a page could not be made")
        return page, self._monotonic() - started_at

    def _record_duration(self, seconds: float) -> None:
        """Take note of how long a page took, and forget the shorter ones before."""
        while self._durations and self._durations[-1][1] <= seconds:
            self._durations.pop()
        self._durations.append((self._monotonic(), seconds))


class PageReaders:
    """Knows who reads which page, and lets go of those who read the oldest when too many different ones are read."""

    def __init__(self) -> None:
        """Know nobody yet."""
        self._tasks: dict[int, list[asyncio.Task[Any] | None]] = {}  # by the identity of the page, the oldest first

    @contextlib.contextmanager
    def reading(self, page: bytes) -> Iterator[None]:
        """Count the task that runs as a reader of `page`; it is cancelled if the page becomes too old."""
        task = asyncio.current_task()
        tasks = self._tasks.setdefault(id(page), [])
        tasks.append(task)
        if len(self._tasks) > MAX_READ_PAGES:
            for reader in next(iter(self._tasks.values())):
                if reader is not None:
                    reader.cancel()
        try:
            yield
        finally:
            tasks.remove(task)
            if not tasks:
                del self._tasks[id(page)]
