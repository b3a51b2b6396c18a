"""The items that a company has created in Braze: segments, campaigns, Canvases and products.

Items are in the order of their creation. Ids have the recorded form, which is not always that of RFC 4122.
"""

from dataclasses import dataclass

Tags = tuple[str | None, ...]
"""Names of tags. According to Braze's own client, a tag can be null."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment. It has series and can be used as a filter only if `is_tracked` is true."""

    id: str
    name: str
    is_tracked: bool = True
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign. `last_edited` is in the format of Braze.

    It sends messages over each of `channels`. If `variations` is empty, it has a single variation without a name. If
    `has_control` is true, it has a control group that receives no messages.
    """

    id: str
    name: str
    tags: Tags = ()
    is_archived: bool = False
    is_api: bool = False
    last_edited: str = "2026-03-02T10:15:00+00:00"
    channels: tuple[str, ...] = ("email",)
    variations: tuple[str, ...] = ()
    has_control: bool = False


@dataclass(frozen=True, slots=True)
class Canvas:
    """A Canvas with several `steps`. A step is its name and the channel of its message, empty if it sends none."""

    id: str
    name: str
    tags: Tags = ()
    is_archived: bool = False
    last_edited: str = "2026-03-02T10:15:00+00:00"
    steps: tuple[tuple[str, str], ...] = (("Welcome", "email"), ("Wait a day", ""), ("Reminder", "ios_push"))


@dataclass(frozen=True, slots=True)
class Inventory:
    """All items of a workspace. Empty by default."""

    segments: tuple[Segment, ...] = ()
    campaigns: tuple[Campaign, ...] = ()
    canvases: tuple[Canvas, ...] = ()
    products: tuple[str, ...] = ()


VIP_SEGMENT_ID = "1d94e6b2-83c7-4f5a-a0d8-6b72f19c3e45"

# The items of the online shop. Two campaigns have the same name, as can happen in Braze.
SHOP_INVENTORY = Inventory(
    segments=(
        Segment(VIP_SEGMENT_ID, "VIP customers", tags=("loyalty",)),
        Segment("8ec1961c-c936-46da-a5a6-f4370e36f748", "Newsletter subscribers", tags=("newsletter",)),
        Segment(
            "57fc9c54-aff6-4122-8410-7b59dcfa920f", "Cart abandoned in the last 7 days", tags=("cart", "lifecycle")
        ),
        Segment("81de03b2-43b7-4a9b-b970-9d7bcb51f10a", "Lapsed: no session for 30 days", tags=("lifecycle", None)),
        Segment("c7b810a7-e71d-4ff1-bd13-0c43c20638c6", "First week", tags=("onboarding",)),
        Segment("b73eb4ee-4812-4bfd-8eb3-0f1d5a01ae28", "QA devices", is_tracked=False),
    ),
    campaigns=(
        Campaign("f293e280-c0e7-4304-b9b9-62803fc0b053", "Welcome email", ("onboarding",)),
        Campaign("63752ca5-0338-4415-a082-9de1fffb4aad", "Order confirmation", ("transactional",), is_api=True),
        Campaign(
            "c88ddaf1-385c-4415-8360-bb0a64f5ffd8",
            "Cart reminder",
            ("cart", "lifecycle"),
            channels=("ios_push", "android_push"),
            variations=("With a picture", "Without"),
            has_control=True,
        ),
        Campaign("e0e9b418-6c1d-4247-83c4-a5b0cddd8fea", "Black Friday 2025", ("sale",), is_archived=True),
        Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", ("lifecycle", None)),
        Campaign("7f365fdd-dc5a-4339-ae2a-db1f146a8820", "Win-back", ("lifecycle",)),
        Campaign("26f7a4ee-9cd9-4a9c-9516-2517e50a3c82", "Weekly newsletter", ("newsletter",)),
        Campaign("5b02561f-b058-48ee-9666-4fa2e8f96f56", "Back in stock: “your size” is here!", ("cart",)),
    ),
    canvases=(
        Canvas("4ffe74b7-ca90-4046-ae7f-68b1b337f6a6", "Onboarding, 14 days", ("onboarding",)),
        Canvas(
            "907e197e-e85f-41b9-aa82-b505a4abcccd",
            "Abandoned cart",
            ("cart", "lifecycle"),
            steps=(("After an hour", "ios_push"), ("After a day", "email"), ("After a day", "sms")),
        ),
        Canvas("9a75491c-fd0f-462c-b822-570d1de87b3a", "After the purchase"),
        Canvas("e66fbd94-e63e-4e1b-afaf-ba22d0423942", "Birthday (old)", ("loyalty",), is_archived=True),
    ),
    products=(
        "Espresso machine",
        "Gift card",
        "Grinder",
        "Mug “Largo”",
        "Beans: Yirgacheffe, 250 g",
        "Beans: House blend, 1 kg",
        "Filter papers #4",
    ),
)
