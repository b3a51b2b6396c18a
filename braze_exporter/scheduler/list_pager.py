"""A list of Braze's, read page by page to its end, as far as the budget lets it. It waits for nothing by itself."""

from typing import Protocol

from braze_exporter.braze.calls import Permit, RateLimitInfo
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.pools import Endpoint
from braze_exporter.scheduler.errors import Deferred

# So many pages are all that Braze answers in an hour of events and products; no list has reason to be longer.
MAX_PAGES = 1_000
# Nor to hold more letters: names are short, and all that is read is kept.
MAX_CHARACTERS = 20_000_000


class ProbeInFlight(Deferred):
    """A call was not made, because another one goes alone just now."""


class PageFetcher(Protocol):
    """Who asks Braze for a page."""

    def fetch_page(self, list_endpoint: ListEndpoint, number: int, permit: Permit) -> tuple[ListItem | None, ...]:
        """Ask once, with leave to, for a page from 0; raise `BrazeError` if it is not answered.

        A row that cannot be read is None.
        """


class Admitter(Protocol):
    """Who says whether a call may be made."""

    def admit(self, endpoint: Endpoint) -> Permit | Deferred | None:
        """Return leave to make one call, or why it is not to be made now, or None while another one goes alone."""

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:
        """Return whether a call is wanted for what it will show of the key, though nothing is due."""

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""


class ListPager:
    """The way through one list. A list ends where a page has no rows: a short page is no sign of it.

    Rows that cannot be read are left out, unless none can. Where rows come while it is read, pages overlap; what is
    listed twice is there once, as it was listed last.
    """

    def __init__(self, list_endpoint: ListEndpoint, page_fetcher: PageFetcher, admission: Admitter) -> None:
        """Begin before the first page."""
        self.list_endpoint = list_endpoint
        self.pages_read = 0
        self._page_fetcher = page_fetcher
        self._admission = admission
        self._items: dict[str, ListItem] = {}
        self._characters = 0

    @property
    def items(self) -> tuple[ListItem, ...]:
        """What was read so far, in the order of the list."""
        return tuple(self._items.values())

    def read(self) -> tuple[ListItem, ...]:
        """Read on to the end, and return all rows in the order of the list.

        Raises `Deferred` where no call may be made now, and `ProbeInFlight` if that is only until another one has
        ended: the next time it goes on there. Raises `BrazeError` if a page was not answered, or the list does not end.
        """
        while page := self._next_page():
            items, before = [row for row in page if row is not None], len(self._items)
            self._items |= {row.id: row for row in items}
            self._characters += sum(len(row.id) + len(row.name) + sum(map(len, row.tags)) for row in items)
            self.pages_read += 1
            if not self._items:
                raise self._invalid_list(f"no row of page {self.pages_read - 1} has a name and an id that are text")
            if items and len(self._items) == before:
                raise self._invalid_list(f"page {self.pages_read - 1} repeats what came before it")
            if self.pages_read == MAX_PAGES or self._characters > MAX_CHARACTERS:
                raise self._invalid_list(f"there is no end to it after {self.pages_read:,} pages")
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
            permit.end(
                BrazeError(Reason.INVALID_RESPONSE, "a fault of the exporter itself"), RateLimitInfo()
            )  # if it has not ended

    def _invalid_list(self, why: str) -> BrazeError:
        return BrazeError(
            Reason.INVALID_RESPONSE, f"the list of {self.list_endpoint.item_names[1]} cannot be read: {why}"
        )
