"""Renders a page once for all requests that wait for it, so that concurrent requests need little CPU time."""

import asyncio
import contextlib
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# Compared with level 6, pages are a third larger and take half the time.
_GZIP_LEVEL = 1
# Added to the window size, it makes zlib write the header and the checksum of gzip.
_GZIP_FORMAT = 16
# The maximum number of pages that are being sent at a time. A slow client keeps its page in memory.
MAX_READ_PAGES = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RenderKey:
    """The format of a page and its compression."""

    content_type: str
    is_gzipped: bool


class PageRenderer:
    """Renders pages with `render` in up to `threads` threads. It is called with the content type, and returns parts.

    For each `RenderKey`, at most one render runs and one waits for its end. Each request gets a page whose render began
    after the request arrived, so the page is up to date.
    """

    def __init__(self, render: Callable[[str], Iterable[bytes]], threads: int = 2) -> None:
        """Start without pages."""
        self._render = render
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="render")
        self._running: dict[RenderKey, asyncio.Task[bytes | None]] = {}
        self._next: dict[RenderKey, asyncio.Task[bytes | None]] = {}

    async def page(self, key: RenderKey) -> bytes | None:
        """Return the page for `key`, or None if rendering failed. Failures are logged."""
        if key not in self._next:
            self._next[key] = asyncio.get_running_loop().create_task(self._render_after(key, self._running.get(key)))
        return await asyncio.shield(self._next[key])

    async def _render_after(self, key: RenderKey, before: asyncio.Task[bytes | None] | None) -> bytes | None:
        if before is not None:
            await asyncio.wait([before])
        task = self._running[key] = self._next.pop(key)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._render_page, key)
        finally:
            if self._running[key] is task:
                del self._running[key]

    def _render_page(self, key: RenderKey) -> bytes | None:
        """Return a page, or None if rendering failed. Runs in a worker thread."""
        try:
            parts = self._render(key.content_type)
            return b"".join(_compress(parts) if key.is_gzipped else parts)
        except Exception:  # noqa: BLE001 - the server must continue after any error
            _log.exception("Page could not be rendered")
            return None


def _compress(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a single gzip member, so that the whole text is never in memory."""
    compressor = zlib.compressobj(_GZIP_LEVEL, wbits=zlib.MAX_WBITS | _GZIP_FORMAT)
    yield from map(compressor.compress, parts)
    yield compressor.flush()


class PageReaders:
    """Tracks which tasks send which page. If there are too many pages, the tasks of the oldest one are canceled."""

    def __init__(self) -> None:
        """Start without readers."""
        self._tasks: dict[int, list[asyncio.Task[Any] | None]] = {}  # by `id()` of the page, the oldest first

    @contextlib.contextmanager
    def reading(self, page: bytes) -> Iterator[None]:
        """Register the current task as a reader of `page`.

        The task is canceled if too many pages are being read and `page` is the oldest one.
        """
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
