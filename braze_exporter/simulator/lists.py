"""What Braze lists: pages of what there is, answered as documented, with switches for what clients report of them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL
from braze_exporter.simulator import parameters
from braze_exporter.simulator.endpoint import Endpoint
from braze_exporter.simulator.inventory import World
from braze_exporter.simulator.request import Request

# The page size of products is not documented.
_EVENTS, _USUAL, _PRODUCTS = 250, 100, 40


class Lists:
    """Answers the list endpoints, whose pages count from 0 and whose end is a page without rows.

    The switches are plain attributes: `page_size` is another one than documented, `ends_without_key` leaves out the key
    of the rows where there are none, and `shifts` has every page begin with the last row of the one before, as it is
    when something new came before it meanwhile.
    """

    def __init__(self, events: Callable[[], Collection[str]], world: Callable[[], World]) -> None:
        """List the names that `events` returns, and what `world` returns, as they are when they are asked for."""
        self._events = events
        self._world = world
        self.page_size: int | None = None
        self.ends_without_key = False
        self.shifts = False

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
        return self._page(request, "events", sorted(self._events()), _EVENTS)

    def _products(self, request: Request) -> object:
        """Answer GET /purchases/product_list."""
        return self._page(request, "products", self._world().products, _PRODUCTS)

    def _segments(self, request: Request) -> object:
        """Answer GET /segments/list. It has none that are archived."""
        rows = [
            {"id": one.id, "name": one.name, "analytics_tracking_enabled": one.tracked, "tags": one.tags}
            for one in self._world().segments
        ]
        return self._page(request, "segments", _sorted(request, rows), _USUAL)

    def _campaigns(self, request: Request) -> object:
        """Answer GET /campaigns/list."""
        rows = [
            {
                "id": one.id,
                "name": one.name,
                "is_api_campaign": one.is_api,
                "tags": one.tags,
                "last_edited": one.last_edited,
            }
            for one in _shown(request, self._world().campaigns)
        ]
        return self._page(request, "campaigns", _sorted(request, rows), _USUAL)

    def _canvases(self, request: Request) -> object:
        """Answer GET /canvas/list."""
        rows = [
            {"id": one.id, "name": one.name, "tags": one.tags, "last_edited": one.last_edited}
            for one in _shown(request, self._world().canvases)
        ]
        return self._page(request, "canvases", _sorted(request, rows), _USUAL)

    def _page(self, request: Request, key: str, rows: Sequence[Any], size: int) -> object:
        page, size = parameters.page(request), self.page_size or size
        start = page * size
        found = rows[max(0, start - (self.shifts and start < len(rows))) : start + size]
        return {"message": "success", **({key: found} if found or not self.ends_without_key else {})}


def _sorted(request: Request, rows: Sequence[Any]) -> Sequence[Any]:
    """Return what was made first first, unless it is asked for the other way."""
    return rows[::-1] if parameters.choice(request, "sort_direction", ("asc", "desc")) == "desc" else rows


def _shown(request: Request, found: Sequence[Any]) -> list[Any]:
    """Return what is not archived, or all if that is asked for."""
    with_archived = parameters.choice(request, "include_archived", ("false", "true")) == "true"
    return [one for one in found if with_archived or not one.archived]
