"""The table of Braze's list endpoints, and the items of the lists."""

from dataclasses import dataclass, replace

from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL, Pool


@dataclass(frozen=True, slots=True)
class ListEndpoint:
    """A paginated list endpoint of Braze.

    `item_names` are the singular and the plural for messages. `response_key` is the field of a response that holds the
    items. If `has_ids` is true, items are objects with an id and a name; otherwise they are names. Braze omits archived
    items. If `can_be_archived` is true, `with_archived` returns an endpoint that includes them; segments have no such
    option.
    """

    item_names: tuple[str, str]
    path: str
    permission: str
    pool: Pool
    response_key: str
    has_ids: bool = True
    can_be_archived: bool = False
    parameters: tuple[tuple[str, str], ...] = ()

    def with_archived(self) -> "ListEndpoint":
        """Return the same endpoint with the parameter that includes archived items."""
        return replace(self, parameters=(("include_archived", "true"),))


EVENT_LIST = ListEndpoint(("event", "events"), "/events/list", "events.list", LISTS_POOL, "events", has_ids=False)
SEGMENT_LIST = ListEndpoint(("segment", "segments"), "/segments/list", "segments.list", DEFAULT_POOL, "segments")
CAMPAIGN_LIST = ListEndpoint(
    ("campaign", "campaigns"), "/campaigns/list", "campaigns.list", DEFAULT_POOL, "campaigns", can_be_archived=True
)
CANVAS_LIST = ListEndpoint(
    ("Canvas", "Canvases"), "/canvas/list", "canvas.list", DEFAULT_POOL, "canvases", can_be_archived=True
)
PRODUCT_LIST = ListEndpoint(
    ("product", "products"),
    "/purchases/product_list",
    "purchases.product_list",
    LISTS_POOL,
    "products",
    has_ids=False,
)

LIST_ENDPOINTS: tuple[ListEndpoint, ...] = (EVENT_LIST, SEGMENT_LIST, CAMPAIGN_LIST, CANVAS_LIST, PRODUCT_LIST)


@dataclass(frozen=True, slots=True)
class ListItem:
    """An item of a list.

    `id` is Braze's id, or the name if the list has names only. `is_tracked` is whether a segment has series (Braze's
    analytics tracking).
    """

    id: str
    name: str
    tags: tuple[str, ...] = ()
    is_tracked: bool = True
