"""Test that requests share rendered pages, and that no page is older than its request."""

import asyncio
import gzip
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from itertools import product

import pytest

from braze_exporter.web.rendering import MAX_READ_PAGES, PageReaders, PageRenderer, RenderKey

PLAIN_KEY = RenderKey("plain", is_gzipped=False)


class BlockingRenderer:
    """Renders a counter, and blocks until the test lets it finish."""

    def __init__(self) -> None:
        self.content = 0
        self.has_begun = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.rendered: list[str] = []

    def render(self, form: str) -> list[bytes]:
        """Return a page with the value of `content` at its start."""
        self.rendered.append(f"{self.content} {form}")
        content = [f"{self.rendered[-1]} ".encode()] * 1_000
        self.has_begun.release()
        assert self.may_end.acquire(timeout=10)
        return content


def run_in_event_loop(test: Callable[[BlockingRenderer, PageRenderer], Coroutine[None, None, None]]) -> None:
    """Run a test in an event loop."""

    async def run() -> None:
        renderer = BlockingRenderer()
        await asyncio.wait_for(test(renderer, PageRenderer(renderer.render)), 10)

    asyncio.run(run())


async def wait_until_begun(renderer: BlockingRenderer) -> None:
    """Wait until the rendering of a page has started."""
    await asyncio.to_thread(renderer.has_begun.acquire)


async def request_pages(pages: PageRenderer, count: int, kind: RenderKey = PLAIN_KEY) -> list[Awaitable[bytes | None]]:
    """Request a page `count` times and return the pending results."""
    result: list[Awaitable[bytes | None]] = [asyncio.ensure_future(pages.page(kind)) for _ in range(count)]
    await asyncio.sleep(0)
    return result


def test_concurrent_requests_share_pages() -> None:
    """Requests that arrive while a page is rendered share the next one, which has all changes up to their arrival."""

    async def test(renderer: BlockingRenderer, pages: PageRenderer) -> None:
        first = await request_pages(pages, 50)
        await wait_until_begun(renderer)
        renderer.content = 1
        second = await request_pages(pages, 50)
        renderer.content = 2
        second += await request_pages(pages, 50)
        renderer.may_end.release(2)
        assert {page[:8] for page in await asyncio.gather(*first) if page} == {b"0 plain "}
        assert {page[:8] for page in await asyncio.gather(*second) if page} == {b"2 plain "}
        renderer.content = 3
        (last,) = await request_pages(pages, 1)
        renderer.may_end.release()
        assert str(await last).startswith("b'3 plain")
        assert renderer.rendered == ["0 plain", "2 plain", "3 plain"]

    run_in_event_loop(test)


def test_each_key_has_its_own_page() -> None:
    """Each content type and compression has its own page, and the compressed one unpacks to the same bytes."""

    async def test(renderer: BlockingRenderer, pages: PageRenderer) -> None:
        renderer.may_end.release(4)
        kinds = [RenderKey(*result) for result in product(("plain", "other"), (False, True))]
        rendered = await asyncio.gather(*(pages.page(kind) for kind in [*kinds, *kinds]))
        assert rendered[:4] == rendered[4:]
        for kind, page in zip(kinds, rendered[:4], strict=True):
            assert page is not None
            plain = gzip.decompress(page) if kind.is_gzipped else page
            assert plain == f"0 {kind.content_type} ".encode() * 1_000
        assert len(renderer.rendered) == 4

    run_in_event_loop(test)


def test_cancelled_request_does_not_affect_others() -> None:
    """A cancelled request does not cancel the rendering for others."""

    async def test(renderer: BlockingRenderer, pages: PageRenderer) -> None:
        impatient, patient = await request_pages(pages, 2)
        await wait_until_begun(renderer)
        assert isinstance(impatient, asyncio.Future)
        impatient.cancel()
        renderer.may_end.release()
        assert await patient == b"0 plain " * 1_000

    run_in_event_loop(test)


def test_render_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A failed rendering returns `None` to all its requests and is logged once, and the next request renders again."""
    faults = [ValueError("bad luck")]

    def render(_form: str) -> list[bytes]:
        if faults:
            raise faults.pop()
        return [b"go", b"od"]

    async def request() -> tuple[list[bytes | None], bytes | None]:
        pages = PageRenderer(render)
        return await asyncio.gather(*(pages.page(PLAIN_KEY) for _ in range(50))), await pages.page(PLAIN_KEY)

    caplog.set_level(logging.ERROR)
    pages_of_requests, after = asyncio.run(request())
    assert (set(pages_of_requests), after) == ({None}, b"good")
    assert [record.getMessage() for record in caplog.records] == ["Page could not be rendered"]
    caplog.clear()


def test_oldest_page_readers_are_cancelled() -> None:
    """With too many different pages being read, all readers of the oldest page are cancelled and no others."""

    async def read() -> tuple[list[bool], list[bool]]:
        readers = PageReaders()

        async def read_page(page: bytes) -> None:
            with readers.reading(page):
                await asyncio.Event().wait()

        pages = [bytes([number]) * 2 for number in range(MAX_READ_PAGES + 1)]
        oldest = [asyncio.create_task(read_page(pages[0])) for _ in range(3)]
        others = [asyncio.create_task(read_page(page)) for page in [*pages[1:-1] * 5]]
        await asyncio.sleep(0)
        assert not any(task.done() for task in [*oldest, *others])
        newest = asyncio.create_task(read_page(pages[-1]))
        await asyncio.wait(oldest)
        await asyncio.sleep(0)
        return [task.cancelled() for task in oldest], [task.done() for task in [*others, newest]]

    cancelled, others = asyncio.run(read())
    assert all(cancelled)
    assert not any(others)
