"""Test the simulator's lists over real sockets."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import response_faults
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from wsgi_server import Server

from braze_exporter.simulator.inventory import SHOP_INVENTORY, Campaign, Canvas, Inventory, Segment
from braze_exporter.simulator.traffic import SHOP_SEGMENTS

Get = Callable[..., requests.Response]

LISTS = {
    "/events/list": ("events", "events.list"),
    "/segments/list": ("segments", "segments.list"),
    "/campaigns/list": ("campaigns", "campaigns.list"),
    "/canvas/list": ("canvases", "canvas.list"),
    "/purchases/product_list": ("products", "purchases.product_list"),
}


def names(prefix: str, count: int) -> list[str]:
    """Return `count` names in alphabetical order."""
    return [f"{prefix} {number:04}" for number in range(count)]


@pytest.fixture
def big(braze: FaultInjectingBraze) -> FaultInjectingBraze:
    """Return a simulated Braze with 251 events, 41 products, and 101 items of each other list."""
    braze.traffic = RecordedCounts(events=names("event", 251))
    braze.inventory = Inventory(
        segments=tuple(Segment(f"s{n}", name, is_tracked=n % 2 == 0) for n, name in enumerate(names("segment", 101))),
        campaigns=tuple(Campaign(f"c{n}", name) for n, name in enumerate(names("campaign", 101))),
        canvases=tuple(Canvas(f"v{n}", name) for n, name in enumerate(names("canvas", 101))),
        products=tuple(names("product", 41)),
    )
    return braze


@pytest.fixture
def get(server: Server) -> Iterator[Get]:
    """Return a function that requests a path with parameters over one session."""
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer secret"
        yield lambda path, **params: session.get(server.url + path, params=params, timeout=5)


def rows(get: Get, path: str, **params: object) -> list[Any]:
    """Return the rows of a successful page."""
    response = get(path, **params)
    assert response.status_code == 200
    document = response.json()
    assert document.pop("message") == "success"
    (items,) = document.values()
    assert set(document) == {LISTS[path][0]}
    return list(items)


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/events/list", 250),
        ("/segments/list", 100),
        ("/campaigns/list", 100),
        ("/canvas/list", 100),
        ("/purchases/product_list", 40),
    ],
)
def test_pages_start_at_0_and_end_empty(get: Get, path: str, size: int) -> None:
    """Pages start at 0, have the documented size, and are empty after the last one."""
    assert [len(rows(get, path, page=page)) for page in range(4)] == [size, 1, 0, 0]
    assert rows(get, path) == rows(get, path, page=0)
    assert rows(get, path, page=1)[0] not in rows(get, path, page=0)


def test_items_are_as_recorded(braze: FaultInjectingBraze, get: Get) -> None:
    """Items have the recorded and documented fields; a tag may be null."""
    braze.inventory = Inventory(
        segments=(Segment("s1", "A", tags=("one", None)), Segment("s2", "B", is_tracked=False)),
        campaigns=(Campaign("c1", "A", ("one",), is_api=True, last_edited="2022-11-29T14:59:02+00:00"),),
        canvases=(Canvas("v1", "A", (None,), last_edited="2022-11-29T14:59:02+00:00"),),
        products=("P",),
    )
    assert rows(get, "/events/list") == ["purchase", "quiet"]
    assert rows(get, "/segments/list") == [
        {"id": "s1", "name": "A", "analytics_tracking_enabled": True, "tags": ["one", None]},
        {"id": "s2", "name": "B", "analytics_tracking_enabled": False, "tags": []},
    ]
    edited = "2022-11-29T14:59:02+00:00"
    assert rows(get, "/campaigns/list") == [
        {"id": "c1", "name": "A", "is_api_campaign": True, "tags": ["one"], "last_edited": edited}
    ]
    assert rows(get, "/canvas/list") == [{"id": "v1", "name": "A", "tags": [None], "last_edited": edited}]
    assert rows(get, "/purchases/product_list") == ["P"]


@pytest.mark.parametrize("path", ["/campaigns/list", "/canvas/list"])
def test_archived_items_are_hidden(braze: FaultInjectingBraze, get: Get, path: str) -> None:
    """Archived items are listed only on request."""
    braze.inventory = Inventory(
        campaigns=(Campaign("1", "A"), Campaign("2", "B", is_archived=True)),
        canvases=(Canvas("1", "A"), Canvas("2", "B", is_archived=True)),
    )
    for params, ids in (
        ({}, ["1"]),
        ({"include_archived": "false"}, ["1"]),
        ({"include_archived": "true"}, ["1", "2"]),
    ):
        assert [row["id"] for row in rows(get, path, **params)] == ids


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("path", ["/segments/list", "/campaigns/list", "/canvas/list"])
def test_sort_direction_is_respected(get: Get, path: str) -> None:
    """Items are sorted by creation, in the requested direction."""
    oldest = rows(get, path)[0]
    assert rows(get, path, sort_direction="asc")[0] == oldest
    assert rows(get, path, sort_direction="desc", page=1) == [oldest]


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("path", LISTS)
def test_empty_page_can_omit_key(braze: FaultInjectingBraze, get: Get, path: str) -> None:
    """Pages after the end can be configured to omit the key."""
    braze.omits_empty_key = True
    assert len(rows(get, path, page=1)) == 1
    assert get(path, page=2).json() == {"message": "success"}


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("path", LISTS)
def test_page_size_can_be_changed(braze: FaultInjectingBraze, get: Get, path: str) -> None:
    """The page size can be reduced without losing items."""
    whole = [*rows(get, path), *rows(get, path, page=1)]
    braze.page_size = 30
    pages = [rows(get, path, page=page) for page in range(9)]
    assert max(map(len, pages)) == 30
    assert [row for page in pages for row in page] == whole


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("path", LISTS)
def test_overlapping_pages_can_be_enabled(braze: FaultInjectingBraze, get: Get, path: str) -> None:
    """Pages can be configured to begin with the last row of the previous page, and the list still ends."""
    braze.has_overlapping_pages = True
    first, second = rows(get, path), rows(get, path, page=1)
    assert second[0] == first[-1]
    assert len(second) == 2
    assert rows(get, path, page=2) == []


@pytest.mark.parametrize(
    ("path", "params", "message"),
    [
        ("/events/list", {"page": "-1"}, "page must be a non-negative integer"),
        ("/events/list", {"page": "one"}, "page must be a non-negative integer"),
        ("/events/list", {"page": ""}, "page must be a non-negative integer"),
        ("/segments/list", {"sort_direction": "up"}, "sort_direction must be one of asc, desc"),
        ("/campaigns/list", {"include_archived": "1"}, "include_archived must be one of false, true"),
    ],
)
def test_wrong_list_parameters_are_400(get: Get, path: str, params: dict[str, str], message: str) -> None:
    """An invalid parameter is 400."""
    response = get(path, **params)
    assert (response.status_code, response.json()) == (400, {"message": message})


def test_events_and_products_share_lists_pool(braze: FaultInjectingBraze, get: Get) -> None:
    """The lists of events and products share a pool of 1,000 calls an hour; other lists use the default pool."""
    left = [
        (response.headers["X-RateLimit-Limit"], response.headers["X-RateLimit-Remaining"])
        for response in (get(path) for path in LISTS)
    ]
    default_pool = [("250000", str(count)) for count in (249_999, 249_998, 249_997)]
    assert left == [("1000", "999"), *default_pool, ("1000", "998")]
    braze.spend_calls(998, pool="lists")
    assert [get(path).status_code for path in LISTS] == [429, 200, 200, 200, 429]


@pytest.mark.parametrize("path", LISTS)
def test_missing_permission_is_403(braze: FaultInjectingBraze, get: Get, path: str) -> None:
    """An endpoint whose permission the key lacks is 403."""
    permission = LISTS[path][1]
    braze.permissions = {name for _, name in LISTS.values()} - {permission}
    assert [other for other in LISTS if get(other).status_code == 403] == [path]
    assert get(path).json() == {"message": "Access Denied"}
    braze.permissions = {permission}
    assert [other for other in LISTS if get(other).status_code == 200] == [path]
    assert get("/events/data_series", event="purchase", length=1).status_code == 403


def test_faults_apply_to_a_path(braze: FaultInjectingBraze, get: Get) -> None:
    """A fault of a path applies after the faults of an event and before general faults."""
    braze.inject(response_faults.status(500))
    braze.inject(response_faults.status(503), path="/events/list")
    braze.inject(response_faults.status(502), path="/events/data_series")
    braze.inject(response_faults.status(504), event="purchase", path="/events/data_series", times=1)
    assert get("/events/list").status_code == 503
    assert get("/canvas/list").status_code == 500
    requested = [get("/events/data_series", event="purchase", length=1).status_code for _ in range(2)]
    assert requested == [504, 502]
    braze.clear_faults(path="/events/list")
    assert get("/events/list").status_code == 500
    braze.clear_faults()
    assert get("/events/data_series", event="purchase", length=1).status_code == 200


def test_demo_inventory_is_plausible() -> None:
    """The demo has difficult items: a duplicate name, archived and untracked items, and a null tag."""
    inventory = SHOP_INVENTORY
    ids = [
        *(item.id for item in inventory.segments),
        *(item.id for item in inventory.campaigns),
        *(item.id for item in inventory.canvases),
    ]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) for text in ids)
    campaign_names = [item.name for item in inventory.campaigns]
    assert len(set(campaign_names)) < len(campaign_names)
    assert (
        {item.is_tracked for item in inventory.segments}
        == {item.is_archived for item in inventory.canvases}
        == {True, False}
    )
    assert any(None in item.tags for item in inventory.segments)
    assert SHOP_SEGMENTS["vip"] in {item.id for item in inventory.segments}
