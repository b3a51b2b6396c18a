"""Test that Braze's lists are read to their end, within the budget and for any form of their pages."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from hypothesis import given
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import KEY, AdmissionRig, Clock, running_braze

from braze_exporter.braze import list_page, transport
from braze_exporter.braze.calls import CallEvent
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import (
    CAMPAIGN_LIST,
    CANVAS_LIST,
    EVENT_LIST,
    LIST_ENDPOINTS,
    PRODUCT_LIST,
    SEGMENT_LIST,
    ListEndpoint,
    ListItem,
)
from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL
from braze_exporter.scheduler import list_reader
from braze_exporter.scheduler.admission import Admission, Deferred
from braze_exporter.scheduler.list_reader import ListPager
from braze_exporter.scheduler.rate_limiter import PoolBudget
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory, Segment
from braze_exporter.simulator.reply import Reply


class ReadDeferredError(Exception):
    """A page may not be read now."""


class ListReading:
    """Reads a list as far as the budget allows."""

    def __init__(self, list_endpoint: ListEndpoint, client: Client, admission: Admission) -> None:
        self.pager = ListPager(list_endpoint)
        self._client = client
        self._admission = admission

    def read(self) -> tuple[ListItem, ...]:
        """Read the remaining pages, and return all items. Raises `ReadDeferredError` if no call may be made now."""
        while True:
            permit = self._admission.admit(self.pager.list_endpoint)
            if isinstance(permit, Deferred):
                raise ReadDeferredError(type(permit).__name__)
            assert permit is not None
            if self.pager.read_page(self._client, permit.end):
                return self.pager.items


@dataclass
class ListSetup:
    """Holds a simulator and what is needed to read its lists with a budget."""

    braze: FaultInjectingBraze
    clock: Clock
    rig: AdmissionRig
    client: Client
    calls: list[CallEvent] = field(default_factory=list)

    def start(self, list_endpoint: ListEndpoint = EVENT_LIST) -> ListReading:
        """Return what reads a list."""
        return ListReading(list_endpoint, self.client, self.rig.admission)

    def names(self, what: ListEndpoint = EVENT_LIST) -> list[str]:
        """Return the names of all items of a list."""
        return [row.name for row in self.start(what).read()]

    @property
    def pages(self) -> list[str]:
        """The requested pages, in order."""
        return [request.params["page"] for request in self.braze.requests]


def names(count: int, what: str = "event") -> list[str]:
    """Return `count` names in alphabetical order."""
    return [f"{what} {number:05}" for number in range(count)]


def make_inventory(count: int) -> Inventory:
    """Return an inventory with `count` items in each list."""
    return Inventory(
        segments=tuple(Segment(f"s{name}", name) for name in names(count, "segment")),
        campaigns=tuple(Campaign(f"c{name}", name) for name in names(count, "campaign")),
        canvases=tuple(Canvas(f"v{name}", name) for name in names(count, "Canvas")),
        products=tuple(names(count, "product")),
    )


@pytest.fixture
def lists() -> Iterator[ListSetup]:
    """Run a simulator with 1,000 items in each list and a share of a tenth."""
    clock = Clock()
    with (
        running_braze(RecordedCounts(events=names(1_000)), clock) as (braze, server),
        contextlib.closing(transport.open_session(1)) as session,
    ):
        braze.inventory = make_inventory(1_000)
        budgets = {DEFAULT_POOL: PoolBudget(0.1, 0.2, 25_000), LISTS_POOL: PoolBudget(0.1, 0.2, 100)}
        rig = AdmissionRig(clock, budgets)
        calls: list[CallEvent] = []
        client = Client(
            transport.Transport(session, server.url, lambda: KEY, monotonic=clock.monotonic),
            workspace="production",
            redact=lambda text: text.replace(KEY, "***"),
            clock=clock,
            on_call=calls.append,
        )
        yield ListSetup(braze, clock, rig, client, calls)


@pytest.mark.parametrize("what", LIST_ENDPOINTS, ids=lambda what: what.path)
def test_pager_reads_whole_list(lists: ListSetup, what: ListEndpoint) -> None:
    """A list is read to its end in its order, and each page is reported as a call."""
    assert lists.names(what) == names(1_000, what.item_names[0])
    pages = {EVENT_LIST: 4, PRODUCT_LIST: 25}.get(what, 10)
    assert lists.pages == [str(number) for number in range(pages + 1)]
    assert [(call.workspace, call.path, call.pool, call.status, call.reason) for call in lists.calls] == [
        ("production", what.path, what.pool.name, 200, None)
    ] * (pages + 1)
    assert lists.calls[-1].rate_limit.remaining == what.pool.limit - pages - 1


def test_pager_with_5000_events_makes_21_calls(lists: ListSetup) -> None:
    """A list of 5,000 events takes twenty pages and one empty page."""
    lists.braze.traffic = RecordedCounts(events=names(5_000))
    assert lists.names() == names(5_000)
    assert len(lists.braze.requests) == 21


@pytest.mark.parametrize("what", LIST_ENDPOINTS, ids=lambda what: what.path)
@pytest.mark.parametrize("page_size", [None, 99, 3])
def test_pager_reads_pages_of_any_size(lists: ListSetup, what: ListEndpoint, page_size: int | None) -> None:
    """Short pages, overlapping pages and a last page without its key lose and duplicate no item."""
    lists.braze.traffic = RecordedCounts(events=names(260))
    lists.braze.inventory = make_inventory(260)
    lists.braze.page_size = page_size
    lists.braze.has_overlapping_pages = True
    lists.braze.omits_empty_key = True
    assert lists.names(what) == names(260, what.item_names[0])


def test_pager_reads_item_fields(lists: ListSetup) -> None:
    """An item has its id, name, tags without nulls, and whether it is tracked."""
    lists.braze.inventory = Inventory(
        segments=(Segment("s1", "A", tags=("one", None)), Segment("s2", "A", is_tracked=False)),
        campaigns=(Campaign("c1", "", ("one", "two")),),
        canvases=(Canvas("v1", "Größe\n🛒", is_archived=True), Canvas("v2", "B")),
        products=("", " P "),
    )
    assert lists.start(SEGMENT_LIST).read() == (ListItem("s1", "A", ("one",)), ListItem("s2", "A", is_tracked=False))
    assert lists.start(CAMPAIGN_LIST).read() == (ListItem("c1", "", ("one", "two")),)
    assert lists.names(CANVAS_LIST) == ["B"]
    assert lists.names(CANVAS_LIST.with_archived()) == ["Größe\n🛒", "B"]
    assert lists.start(PRODUCT_LIST).read() == (ListItem("", ""), ListItem(" P ", " P "))


def test_repeated_item_is_as_listed_last(lists: ListSetup) -> None:
    """An item that is renamed while the list is read appears once, at its first position and with its new name."""
    lists.braze.inventory = Inventory(campaigns=(Campaign("c1", "A"), Campaign("c2", "B"), Campaign("c3", "C")))
    lists.braze.page_size = 2
    lists.braze.has_overlapping_pages = True

    def rename(content: dict[str, Any]) -> None:
        content["campaigns"][0]["name"] = "new"

    lists.braze.inject(response_faults.edited(lambda _: None), times=1)
    lists.braze.inject(response_faults.edited(rename), times=1)
    assert lists.names(CAMPAIGN_LIST) == ["A", "new", "C"]


def test_repeating_list_is_an_error(lists: ListSetup) -> None:
    """A page without new items is an error, since the list would never end."""
    same = response_faults.document({"message": "success", "events": ["a", "b"]})
    lists.braze.inject(same)
    with pytest.raises(BrazeError, match=r"^invalid_response: malformed response: page 1 repeats earlier items$"):
        lists.start().read()
    assert lists.pages == ["0", "1"]


@pytest.mark.parametrize(("most", "pages"), [("MAX_PAGES", 5), ("MAX_CHARACTERS", 3)])
def test_endless_list_is_an_error(lists: ListSetup, monkeypatch: pytest.MonkeyPatch, most: str, pages: int) -> None:
    """A list is an error after `MAX_PAGES` pages or `MAX_CHARACTERS` characters."""
    monkeypatch.setattr(list_reader, most, {"MAX_PAGES": 5, "MAX_CHARACTERS": 2_500}[most])
    lists.rig.set_demand({LISTS_POOL: PoolBudget(1, 0, 1_000)})

    def endless_page(exchange: Exchange) -> Reply:
        rows = [f"{exchange.request.params['page']:>100}{row}" for row in range(5)]
        return response_faults.document({"message": "success", "events": rows})(exchange)

    lists.braze.inject(endless_page)
    with pytest.raises(
        BrazeError, match=f"^invalid_response: malformed response: the list does not end after {pages} pages"
    ):
        lists.start().read()
    assert len(lists.braze.requests) == pages


@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        (
            response_faults.status(403),
            Reason.FORBIDDEN,
            "403 Forbidden: the key lacks the permission events.list: Forbidden",
        ),
        (response_faults.status(401), Reason.UNAUTHORIZED, "401 Unauthorized: the key lacks the permission "),
        (response_faults.status(500), Reason.SERVER_ERROR, "500 Internal Server Error"),
        (
            response_faults.queued(),
            Reason.UNEXPECTED_STATUS,
            "202 Accepted, request queued by Braze during maintenance",
        ),
        (response_faults.message("queued"), Reason.UNEXPECTED_STATUS, "request queued by Braze"),
        (response_faults.message("no"), Reason.INVALID_RESPONSE, "malformed response: message is not success: no"),
        (response_faults.html(), Reason.INVALID_RESPONSE, "response is not JSON"),
        (response_faults.document([]), Reason.INVALID_RESPONSE, "malformed response: not a JSON object"),
        (
            response_faults.document({"message": "success", "events": {}}),
            Reason.INVALID_RESPONSE,
            "malformed response: events is not a list",
        ),
        (transfer_faults.truncated(), Reason.TRUNCATED, "connection closed before the response was complete"),
        (response_faults.redirect("https://example.org"), Reason.UNEXPECTED_STATUS, "302 Found, redirect not followed"),
        (transfer_faults.disconnect(), Reason.CONNECTION, "connection failed: "),
    ],
    ids=str,
)
def test_failed_page_is_an_error(lists: ListSetup, fault: Fault, reason: Reason, detail: str) -> None:
    """A failure in any page fails the list with the same message as for a series, and never shortens the list."""
    lists.braze.inject(response_faults.edited(lambda _: None), times=1)
    lists.braze.inject(fault)
    with pytest.raises(BrazeError) as caught:
        lists.start().read()
    assert caught.value.reason is reason
    assert caught.value.detail.startswith(detail)
    assert KEY not in str(caught.value)
    assert lists.calls[-1].reason is reason


GOOD = {"id": "1", "name": "A", "tags": ["a", None], "analytics_tracking_enabled": True}


@pytest.mark.parametrize(
    "row",
    [
        *(GOOD | change for change in ({"id": None}, {"id": ""}, {"id": 1}, {"id": "\ud800"})),
        *(GOOD | change for change in ({"name": None}, {"name": ["A"]}, {"name": "A\udfff"})),
        {"id": "2"},
        "2",
        None,
    ],
    ids=ascii,
)
def test_item_without_id_or_name_is_skipped(row: object) -> None:
    """An item whose id or name is not valid text is skipped, and the other items are kept."""
    body = json.dumps({"message": "success", "segments": [row, GOOD]}).encode()
    assert list_page.parse_list_page(SEGMENT_LIST, body) == (
        None,
        ListItem("1", "A", ("a",), is_tracked=True),
    )


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({"tags": "a"}, {"tags": ()}),
        ({"tags": [1, ["b"], "c", "\ud800"]}, {"tags": ("c",)}),
        ({"analytics_tracking_enabled": "yes"}, {}),
        ({"analytics_tracking_enabled": None}, {}),
    ],
    ids=ascii,
)
def test_invalid_item_fields_are_ignored(change: dict[str, object], read: dict[str, Any]) -> None:
    """Tags and tracking of a wrong type are treated as missing."""
    body = json.dumps({"message": "success", "segments": [GOOD | change]}).encode()
    expected = ListItem("1", "A", ("a",), is_tracked=True)
    assert list_page.parse_list_page(SEGMENT_LIST, body) == (replace(expected, **read),)


def test_unreadable_items_do_not_end_list(lists: ListSetup) -> None:
    """A page of unreadable items neither ends the list nor counts as a repeated page."""
    for rows in (["a", None, "\ud800"], [5, {}], ["b"], []):
        lists.braze.inject(response_faults.body(json.dumps({"message": "success", "events": rows}).encode()), times=1)
    assert lists.names() == ["a", "b"]
    assert lists.pages == ["0", "1", "2", "3"]


def test_list_without_readable_item_is_an_error(lists: ListSetup) -> None:
    """A list without any readable item is an error, not an empty list: its format is unknown."""
    lists.braze.inject(response_faults.document({"message": "success", "events": [{"name": "a"}, None]}))
    with pytest.raises(
        BrazeError, match=r"^invalid_response: malformed response: page 0 has no item with a valid name and id$"
    ):
        lists.start().read()
    assert lists.pages == ["0"]


@pytest.mark.parametrize("name", ["tags", "analytics_tracking_enabled"])
def test_missing_item_fields_have_defaults(name: str) -> None:
    """Tags and tracking may be missing, and unknown fields are ignored."""
    row = {key: value for key, value in GOOD.items() if key != name} | {"teams": [{}]}
    (item,) = list_page.parse_list_page(
        SEGMENT_LIST, json.dumps({"message": "success", "segments": [row], "x": 1}).encode()
    )
    assert item is not None
    complete = ListItem("1", "A", ("a",), is_tracked=True)
    assert (item.id, item.name, item.is_tracked) == ("1", "A", True)
    assert item.tags == (() if name == "tags" else complete.tags)


@pytest.mark.parametrize("value", [None, []])
def test_null_tags_are_ignored(value: object) -> None:
    """Null tags are treated as missing."""
    row = GOOD | {"tags": value}
    (item,) = list_page.parse_list_page(SEGMENT_LIST, json.dumps({"message": "success", "segments": [row]}).encode())
    assert item is not None
    assert item.tags == ()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner, max_size=5),
    max_leaves=12,
)


texts = st.sampled_from(["", "a", "b", "a \ud800"])
items = st.fixed_dictionaries({"id": texts | anything, "name": texts}, optional={"tags": st.lists(texts) | anything})


@given(st.sampled_from(LIST_ENDPOINTS), st.lists(texts | items, max_size=3) | anything, st.binary(max_size=50))
def test_any_page_is_parsed_or_rejected(list_endpoint: ListEndpoint, content: object, junk: bytes) -> None:
    """Any body gives either items with valid text or a `BrazeError`."""
    for body in (
        json.dumps({"message": "success", list_endpoint.response_key: content}).encode(),
        json.dumps(content).encode(),
        junk,
    ):
        try:
            rows = list_page.parse_list_page(list_endpoint, body)
        except BrazeError as error:
            assert error.reason in {Reason.INVALID_RESPONSE, Reason.UNEXPECTED_STATUS}
        else:
            for row in filter(None, rows):
                "".join((row.id, row.name, *row.tags)).encode()
                assert row.id or not list_endpoint.has_ids


def test_list_over_budget_is_read_in_parts(lists: ListSetup) -> None:
    """A list over the budget resumes where it was deferred, and reads no page twice."""
    lists.rig.set_demand({LISTS_POOL: PoolBudget(0.1, 0.2, 10)})
    lists.braze.page_size = 20
    reading = lists.start()
    for pages in (10, 20, 30, 40, 50):
        with pytest.raises(ReadDeferredError, match=r"^Deferred$"):
            reading.read()
        assert lists.pages == [str(number) for number in range(pages)]
        lists.clock.advance(360)
    assert [row.name for row in reading.read()] == names(1_000)
    assert lists.pages == [str(number) for number in range(51)]


def test_reserve_and_rate_limit_defer_list(lists: ListSetup) -> None:
    """A list is deferred when only the reserve is left, and after a 429."""
    lists.braze.spend_calls(797, pool="lists")
    reading = lists.start()
    with pytest.raises(ReadDeferredError, match=r"^Deferred$"):
        reading.read()
    assert reading.pager.pages_read == 3
    lists.clock.advance(3_600)
    assert len(reading.read()) == 1_000
    lists.braze.spend_calls(1_000, pool="lists")
    lists.rig.set_demand({LISTS_POOL: PoolBudget(0.1, 0, 100)})
    with pytest.raises(BrazeError, match=r"^rate_limited"):
        lists.start().read()
    with pytest.raises(ReadDeferredError):
        lists.start(PRODUCT_LIST).read()
    assert len(lists.names(SEGMENT_LIST)) == 1_000


def test_missing_permission_holds_one_list(lists: ListSetup) -> None:
    """A list without permission is not requested again, and other lists are still read."""
    lists.braze.permissions = {"segments.list"}
    with pytest.raises(BrazeError, match=r"^forbidden: 403 Forbidden: the key lacks the permission events.list"):
        lists.start().read()
    with pytest.raises(ReadDeferredError, match=r"^CircuitOpen$"):
        lists.start().read()
    assert len(lists.names(SEGMENT_LIST)) == 1_000
