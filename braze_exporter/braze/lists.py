"""What Braze lists, as one table, and the rows of its lists."""

from dataclasses import dataclass, replace

from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL, Pool


@dataclass(frozen=True, slots=True)
class Listing:
    """One list of what there is in Braze, in pages.

    `what` are its rows to people, one and several; `key` is the field of an answer that holds them. `has_ids` tells
    rows that are objects with an id and a name from names alone. Braze leaves out what is archived, and segments
    always; where `can_be_archived` it is listed `with_archived`.
    """

    what: tuple[str, str]
    endpoint: str
    permission: str
    pool: Pool
    key: str
    has_ids: bool = True
    can_be_archived: bool = False
    parameters: tuple[tuple[str, str], ...] = ()

    def with_archived(self) -> "Listing":
        """Return the list that has archived rows too."""
        return replace(self, parameters=(("include_archived", "true"),))


EVENT_LIST = Listing(("event", "events"), "/events/list", "events.list", LISTS_POOL, "events", has_ids=False)
SEGMENT_LIST = Listing(("segment", "segments"), "/segments/list", "segments.list", DEFAULT_POOL, "segments")
CAMPAIGN_LIST = Listing(
    ("campaign", "campaigns"), "/campaigns/list", "campaigns.list", DEFAULT_POOL, "campaigns", can_be_archived=True
)
CANVAS_LIST = Listing(
    ("Canvas", "Canvases"), "/canvas/list", "canvas.list", DEFAULT_POOL, "canvases", can_be_archived=True
)
PRODUCT_LIST = Listing(
    ("product", "products"),
    "/purchases/product_list",
    "purchases.product_list",
    LISTS_POOL,
    "products",
    has_ids=False,
)

LISTINGS: tuple[Listing, ...] = (EVENT_LIST, SEGMENT_LIST, CAMPAIGN_LIST, CANVAS_LIST, PRODUCT_LIST)


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a list: Braze's id of it, which is its name where there are names alone, and what else is told.

    `is_tracked` is whether a segment has series. `last_edited` is as Braze writes it, empty where it does not.
    """

    id: str
    name: str
    tags: tuple[str, ...] = ()
    is_tracked: bool = True
    last_edited: str = ""
