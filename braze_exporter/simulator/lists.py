"""What Braze lists: pages of what there is, answered as documented, with switches for what clients report of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL
from braze_exporter.simulator import parameters
from braze_exporter.simulator.endpoint import Endpoint
from braze_exporter.simulator.inventory import Inventory
from braze_exporter.simulator.request import Request

# The page size of products is not documented.
_EVENTS_PAGE_SIZE, _DEFAULT_PAGE_SIZE, _PRODUCTS_PAGE_SIZE = 250, 100, 40


class ListResponder:
    """Answers the list endpoints, whose pages count from 0 and whose end is a page without rows.

    The switches are plain attributes: `page_size` is another one than documented, `omits_empty_key` leaves out the key
    of the rows where there are none, and `has_overlapping_pages` has every page begin with the last row of the one
    before, as it is when something new came before it meanwhile.
    """

    def __init__(self, events: Callable[[], Collection[str]], inventory: Callable[[], Inventory]) -> None:
        """List the names that `events` returns, and what `inventory` returns, as they are when they are asked for."""
        self._events = events
        self._inventory = inventory
        self.page_size: int | None = None
        self.omits_empty_key = False
        self.has_overlapping_pages = False

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Return what is asked at which path."""
        return {
            "/events/list": Endpoint(LISTS_POOL, "events.list", self._event_names),
            "/segments/list": Endpoint(DEFAULT_POOL, "segments.list", self._segments),
            "/campaigns/list": Endpoint(DEFAULT_POOL, "campaigns.list", self._campaigns),
            "/canvas/list": Endpoint(DEFAULT_POOL, "canvas.list", self._canvases),
            "/purchases/product_list": Endpoint(LISTS_POOL, "purchases.product_list", self._products),
        }

    def _event_names(self, request: Request) -> object:
        """Answer GET /events/list: in alphabetical order."""
        return self._page(request, "events", sorted(self._events()), _EVENTS_PAGE_SIZE)

    def _products(self, request: Request) -> object:
        """Answer GET /purchases/product_list."""
        return self._page(request, "products", self._inventory().products, _PRODUCTS_PAGE_SIZE)

    def _segments(self, request: Request) -> object:
        """Answer GET /segments/list. It has none that are archived."""
        rows = [
            {"id": item.id, "name": item.name, "analytics_tracking_enabled": item.tracked, "tags": item.tags}
            for item in self._inventory().segments
        ]
        return self._page(request, "segments", _sorted(request, rows), _DEFAULT_PAGE_SIZE)

    def _campaigns(self, request: Request) -> object:
        """Answer GET /campaigns/list."""
        rows = [
            {
                "id": item.id,
                "name": item.name,
                "is_api_campaign": item.is_api,
                "tags": item.tags,
                "last_edited": item.last_edited,
            }
            for item in _without_archived(request, self._inventory().campaigns)
        ]
        return self._page(request, "campaigns", _sorted(request, rows), _DEFAULT_PAGE_SIZE)

    def _canvases(self, request: Request) -> object:
        """Answer GET /canvas/list."""
        rows = [
            {"id": item.id, "name": item.name, "tags": item.tags, "last_edited": item.last_edited}
            for item in _without_archived(request, self._inventory().canvases)
        ]
        return self._page(request, "canvases", _sorted(request, rows), _DEFAULT_PAGE_SIZE)

    def _page(self, request: Request, key: str, rows: Sequence[Any], size: int) -> object:
        page, size = parameters.parse_page(request), self.page_size or size
        start = page * size
        items = rows[max(0, start - (self.has_overlapping_pages and start < len(rows))) : start + size]
        return {"message": "success", **({key: items} if items or not self.omits_empty_key else {})}


def _sorted(request: Request, rows: Sequence[Any]) -> Sequence[Any]:
    """Return what was made first first, unless it is asked for the other way."""
    return rows[::-1] if parameters.parse_choice(request, "sort_direction", ("asc", "desc")) == "desc" else rows


def _without_archived(request: Request, result: Sequence[Any]) -> list[Any]:
    """Return what is not archived, or all if that is asked for."""
    with_archived = parameters.parse_choice(request, "include_archived", ("false", "true")) == "true"
    return [item for item in result if with_archived or not item.archived]
