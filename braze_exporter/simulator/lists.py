"""The list endpoints. They follow Braze's documentation."""

from collections.abc import Mapping, Sequence
from typing import Any

from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL
from braze_exporter.simulator import parameters
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.workspace import Endpoint, SimulatedWorkspace

# The page size of products is not documented.
_EVENTS_PAGE_SIZE, _DEFAULT_PAGE_SIZE, _PRODUCTS_PAGE_SIZE = 250, 100, 40


class ListEndpoints(SimulatedWorkspace):
    """Responds to requests of the list endpoints. Pages are numbered from 0; a page past the end has no items."""

    def list_endpoints(self) -> Mapping[str, Endpoint]:
        """Return the endpoints by path."""
        return {
            "/events/list": (LISTS_POOL, self._event_names),
            "/segments/list": (DEFAULT_POOL, self._segments),
            "/campaigns/list": (DEFAULT_POOL, self._campaigns),
            "/canvas/list": (DEFAULT_POOL, self._canvases),
            "/purchases/product_list": (LISTS_POOL, self._products),
        }

    def _event_names(self, request: Request) -> object:
        """Respond to GET /events/list with the event names in alphabetical order."""
        return self.page(request, "events", sorted(self.traffic.events), _EVENTS_PAGE_SIZE)

    def _products(self, request: Request) -> object:
        """Respond to GET /purchases/product_list."""
        return self.page(request, "products", self.inventory.products, _PRODUCTS_PAGE_SIZE)

    def _segments(self, request: Request) -> object:
        """Respond to GET /segments/list, which never has archived segments."""
        rows = [
            {"id": item.id, "name": item.name, "analytics_tracking_enabled": item.is_tracked, "tags": item.tags}
            for item in self.inventory.segments
        ]
        return self.page(request, "segments", _sorted(request, rows), _DEFAULT_PAGE_SIZE)

    def _campaigns(self, request: Request) -> object:
        """Respond to GET /campaigns/list."""
        rows = [
            {
                "id": item.id,
                "name": item.name,
                "is_api_campaign": item.is_api,
                "tags": item.tags,
                "last_edited": item.last_edited,
            }
            for item in _without_archived(request, self.inventory.campaigns)
        ]
        return self.page(request, "campaigns", _sorted(request, rows), _DEFAULT_PAGE_SIZE)

    def _canvases(self, request: Request) -> object:
        """Respond to GET /canvas/list."""
        rows = [
            {"id": item.id, "name": item.name, "tags": item.tags, "last_edited": item.last_edited}
            for item in _without_archived(request, self.inventory.canvases)
        ]
        return self.page(request, "canvases", _sorted(request, rows), _DEFAULT_PAGE_SIZE)

    def page(self, request: Request, key: str, rows: Sequence[Any], size: int) -> object:
        """Return the page of `rows` that is requested, under `key`."""
        start = parameters.parse_page(request) * size
        return {"message": "success", key: rows[start : start + size]}


def _sorted(request: Request, rows: Sequence[Any]) -> Sequence[Any]:
    """Return the rows by creation time, oldest first unless the request has `sort_direction=desc`."""
    return rows[::-1] if parameters.parse_choice(request, "sort_direction", ("asc", "desc")) == "desc" else rows


def _without_archived(request: Request, result: Sequence[Any]) -> list[Any]:
    """Return the items that are not archived, or all if the request has `include_archived=true`."""
    with_archived = parameters.parse_choice(request, "include_archived", ("false", "true")) == "true"
    return [item for item in result if with_archived or not item.is_archived]
