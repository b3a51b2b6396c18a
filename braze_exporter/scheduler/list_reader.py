"""Reads one of Braze's lists page by page, or for a command to its end, with retries."""

from collections.abc import Callable
from dataclasses import dataclass

from braze_exporter.braze.calls import EndOfCall
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError, invalid_response
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.config.plurals import pluralize
from braze_exporter.scheduler.admission import CircuitOpen, Permit
from braze_exporter.scheduler.clients import WorkspaceClient

# Braze's rate limit allows this number of pages of events and products per hour. No list should be longer.
MAX_PAGES = 1_000
# The maximum number of characters in a list. The whole list is kept in memory.
MAX_CHARACTERS = 20_000_000
# Seconds before each retry of a page after a transient failure.
_RETRY_SECONDS = (1.0, 5.0)


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

    def read_page(self, client: Client, on_end: EndOfCall) -> bool:
        """Read the next page with one request, and return whether the list has ended.

        `on_end` is called with the outcome of the request. Raises `BrazeError` if the page fails, is malformed or
        repeats earlier items, and if the list is longer than `MAX_PAGES` or `MAX_CHARACTERS`.
        """
        page = client.fetch_page(self.list_endpoint, self.pages_read, on_end)
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
            raise invalid_response(f"the list does not end after {pluralize(self.pages_read, 'page', 'pages')}")
        return False


@dataclass(frozen=True, slots=True)
class ListResult:
    """The items of a list, its archived items, and the `failure` that made the list incomplete.

    `failure` is empty if the list was read to its end.
    """

    items: tuple[ListItem, ...] = ()
    archived_items: tuple[ListItem, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class ListReader:
    """Reads the lists of one workspace, without the caching and scheduling of `ListRefresher`.

    If Braze does not respond, the first list is tried again, and the others fail at once for the same reason.
    """

    workspace: WorkspaceClient
    sleep: Callable[[float], None]

    def read(self, list_endpoint: ListEndpoint, *, include_archived: bool) -> ListResult:
        """Read a list and return its items, and its archived items if `include_archived` is true.

        If a page fails, the result holds the items read so far and the reason.
        """
        unreachable = self.workspace.admission.unreachable_error
        if unreachable is not None:
            return ListResult(failure=unreachable.detail)
        items, failure = self._read_items(list_endpoint)
        if failure or not (include_archived and list_endpoint.can_be_archived):
            return ListResult(items, failure=failure)
        items_with_archived, failure = self._read_items(list_endpoint.with_archived())
        known = {item.id for item in items}
        return ListResult(items, tuple(item for item in items_with_archived if item.id not in known), failure)

    def _read_items(self, list_endpoint: ListEndpoint) -> tuple[tuple[ListItem, ...], str]:
        """Return the items of a list, and why they are incomplete, or an empty text if they are complete."""
        pager = ListPager(list_endpoint)
        pauses, failure = list(_RETRY_SECONDS), "Braze does not respond"
        while True:
            permit = self.workspace.admission.admit(list_endpoint)
            if isinstance(permit, CircuitOpen):
                rejection = self.workspace.admission.open_circuit_error(list_endpoint)
                if rejection is not None or not pauses:
                    return pager.items, rejection.detail if rejection is not None else failure
                self.sleep(pauses.pop(0))
                continue
            if not isinstance(permit, Permit):
                reason = f"budget of the {list_endpoint.pool.name} pool is used up"
                return pager.items, f"{reason}; raise budget.share, or run the command again in an hour"
            permit.begin()
            try:
                if pager.read_page(self.workspace.client, permit.end):
                    return pager.items, ""
            except BrazeError as error:
                failure = error.detail
                if not (error.is_transient and pauses):
                    return pager.items, failure
                self.sleep(pauses.pop(0))
