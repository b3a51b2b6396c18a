"""Reads one of Braze's lists page by page."""

from braze_exporter.braze.calls import Permit
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import invalid_response
from braze_exporter.braze.lists import ListEndpoint, ListItem

# Braze's rate limit allows this number of pages of events and products per hour. No list should be longer.
MAX_PAGES = 1_000
# The maximum number of characters in a list. The whole list is kept in memory.
MAX_CHARACTERS = 20_000_000


class ListPager:
    """Reads one list from its first page to its last.

    The list ends at an empty page; a short page is not the end. Malformed items are skipped, but the first page must
    have a valid one. If items are added while the list is read, pages overlap. An item that is listed twice is returned
    once, as it was last listed. `pages_read` is the number of pages with items.
    """

    def __init__(self, list_endpoint: ListEndpoint) -> None:
        """Start before the first page."""
        self.list_endpoint = list_endpoint
        self.pages_read = 0
        self._items: dict[str, ListItem] = {}
        self._characters = 0

    @property
    def items(self) -> tuple[ListItem, ...]:
        """The items read so far, in the order of the list."""
        return tuple(self._items.values())

    def read_page(self, client: Client, permit: Permit) -> bool:
        """Read the next page with one request, using `permit`, and return whether the list has ended.

        Raises `BrazeError` if the page fails, is malformed or repeats earlier items, and if the list is longer than
        `MAX_PAGES` or `MAX_CHARACTERS`.
        """
        page = client.fetch_page(self.list_endpoint, self.pages_read, permit)
        if not page:
            return True
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
        return False
