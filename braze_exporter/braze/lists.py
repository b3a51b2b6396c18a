"""What Braze lists, as one table, and the rows of its lists."""

from dataclasses import dataclass, replace

from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL, Pool


@dataclass(frozen=True, slots=True)
class ListEndpoint:
    """One list of what there is in Braze, in pages.

    `item_names` are its rows to people, one and several; `response_key` is the field of an answer that holds them.
    `has_ids` tells rows that are objects with an id and a name from names alone. Braze leaves out what is archived, and
    segments always; where `can_be_archived` it is listed `with_archived`.
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
        """Return the list that has archived rows too."""
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
    """One row of a list: Braze's id of it, which is its name where there are names alone, and what else is told.

    `is_tracked` is whether a segment has series. `last_edited` is as Braze writes it, empty where it does not.
    """

    id: str
    name: str
    tags: tuple[str, ...] = ()
    is_tracked: bool = True
    last_edited: str = ""
