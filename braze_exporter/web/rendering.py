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
MOST_READ = 16
# Seconds: most queries are asked more often, and most pages between have little that is new.
_LATELY = 3_600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a page may be: its form, and whether it is compressed."""

    form: str
    gzipped: bool


class Pages:
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
        self._took: deque[tuple[float, float]] = deque()  # when a page was made, and how long that took, longest first
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="render")
        self._begun: dict[Kind, asyncio.Task[bytes | None]] = {}
        self._next: dict[Kind, asyncio.Task[bytes | None]] = {}

    @property
    def seconds(self) -> float:
        """How long a page takes that has much to show: the longest of the last hour."""
        while self._took and self._took[0][0] < self._monotonic() - _LATELY:
            self._took.popleft()
        return self._took[0][1] if self._took else 0.0

    async def page(self, kind: Kind) -> bytes | None:
        """Return a page, or None by a fault that is in the log."""
        if kind not in self._next:
            self._next[kind] = asyncio.get_running_loop().create_task(self._make(kind, self._begun.get(kind)))
        return await asyncio.shield(self._next[kind])

    async def _make(self, kind: Kind, before: asyncio.Task[bytes | None] | None) -> bytes | None:
        if before is not None:
            await asyncio.wait([before])
        begun = self._begun[kind] = self._next.pop(kind)
        try:
            page, seconds = await asyncio.get_running_loop().run_in_executor(self._threads, self._made, kind)
            self._note(seconds)
            return page
        finally:
            if self._begun[kind] is begun:
                del self._begun[kind]

    def _made(self, kind: Kind) -> tuple[bytes | None, float]:
        """Return a page, in a thread of its own, and how many seconds that took."""
        began = self._monotonic()
        page = None
        try:
            made = self._render(kind.form)
            page = gzip.compress(made, _GZIP_LEVEL, mtime=0) if kind.gzipped else made
        except Exception:  # noqa: BLE001 - whatever it was, the server goes on
            _log.exception("a page could not be made")
        return page, self._monotonic() - began

    def _note(self, seconds: float) -> None:
        """Take note of how long a page took, and forget the shorter ones before."""
        while self._took and self._took[-1][1] <= seconds:
            self._took.pop()
        self._took.append((self._monotonic(), seconds))


class Readers:
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
        if len(self._tasks) > MOST_READ:
            for reader in next(iter(self._tasks.values())):
                if reader is not None:
                    reader.cancel()
        try:
            yield
        finally:
            tasks.remove(task)
            if not tasks:
                del self._tasks[id(page)]
