"""Reads one of Braze's lists page by page, as far as the budget allows.

The pager never waits. If no call may be made now, it raises an exception, and the next read continues at that page.
"""

from typing import Protocol

from braze_exporter.braze.calls import Permit, RateLimitInfo
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.rows import invalid_response
from braze_exporter.scheduler.errors import Deferred

# Braze's rate limit allows this number of pages of events and products per hour. No list should be longer.
MAX_PAGES = 1_000
# The maximum number of characters in a list. The whole list is kept in memory.
MAX_CHARACTERS = 20_000_000


class ProbeInFlight(Deferred):
    """A call was not made, because a probe is in flight and must end first."""


class PageFetcher(Protocol):
    """Fetches pages of lists from Braze."""

    def fetch_page(self, list_endpoint: ListEndpoint, number: int, permit: Permit) -> tuple[ListItem | None, ...]:
        """Fetch one page of a list with one request, using `permit`. The first page has `number` 0.

        An item that cannot be read is None. Raises `BrazeError` if the request fails.
        """


class Admitter(Protocol):
    """Decides whether a call may be made."""

    def admit(self, endpoint: Endpoint) -> Permit | Deferred | None:
        """Return a permit for one call, a `Deferred` if it may not be made now, or None while a probe is in flight."""

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:
        """Return whether a call to `endpoint` is needed to test the key, even if nothing is due."""

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""


class ListPager:
    """Reads one list from its first page to its last.

    The list ends at an empty page; a short page is not the end. Malformed items are skipped, but the first page must
    have a valid one. If items are added while the list is read, pages overlap. An item that is listed twice is returned
    once, as it was last listed.
    """

    def __init__(self, list_endpoint: ListEndpoint, page_fetcher: PageFetcher, admission: Admitter) -> None:
        """Start before the first page."""
        self.list_endpoint = list_endpoint
        self.pages_read = 0
        self._page_fetcher = page_fetcher
        self._admission = admission
        self._items: dict[str, ListItem] = {}
        self._characters = 0

    @property
    def items(self) -> tuple[ListItem, ...]:
        """The items read so far, in the order of the list."""
        return tuple(self._items.values())

    def read(self) -> tuple[ListItem, ...]:
        """Read the remaining pages and return all items in the order of the list.

        Raises `Deferred` if no call may be made now, and `ProbeInFlight` if a probe must end first. After both, the
        next `read` continues at the same page. Raises `BrazeError` if a page fails, is malformed or repeats earlier
        items, and if the list is longer than `MAX_PAGES` or `MAX_CHARACTERS`.
        """
        while page := self._next_page():
            items, before = [item for item in page if item is not None], len(self._items)
            self._items |= {item.id: item for item in items}
            self._characters += sum(len(item.id) + len(item.name) + sum(map(len, item.tags)) for item in items)
            self.pages_read += 1
            if not self._items:
                raise invalid_response(f"page {self.pages_read - 1} has no item with a valid name and id")
            if items and len(self._items) == before:
                raise invalid_response(f"page {self.pages_read - 1} repeats earlier items")
            if self.pages_read == MAX_PAGES or self._characters > MAX_CHARACTERS:
                raise invalid_response(f"the list does not end after {self.pages_read:,} pages")
        return self.items

    def _next_page(self) -> tuple[ListItem | None, ...]:
        permit = self._admission.admit(self.list_endpoint)
        if permit is None:
            raise ProbeInFlight(self.list_endpoint.pool.name)
        if isinstance(permit, Deferred):
            raise permit
        try:
            return self._page_fetcher.fetch_page(self.list_endpoint, self.pages_read, permit)
        finally:
            # This has no effect if `fetch_page` has already ended the permit.
            permit.end(BrazeError(Reason.INVALID_RESPONSE, "internal error"), RateLimitInfo())
