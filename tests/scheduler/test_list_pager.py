"""Lists of Braze's are read to their end, whatever their pages are like, and within the budget."""

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
from recorded_counts import Recorded
from simulated_braze import FaultInjectingBraze
from support import KEY, Clock, simulated

from braze_exporter.braze import list_page, transport
from braze_exporter.braze.calls import Call, Told
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import (
    CAMPAIGN_LIST,
    CANVAS_LIST,
    EVENT_LIST,
    LISTINGS,
    PRODUCT_LIST,
    SEGMENT_LIST,
    Listed,
    Listing,
)
from braze_exporter.braze.pools import DEFAULT_POOL, LISTS_POOL
from braze_exporter.scheduler import list_pager
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.errors import Held, Withheld
from braze_exporter.scheduler.list_pager import Walk
from braze_exporter.simulator.inventory import Campaign, Canvas, Segment, World
from braze_exporter.simulator.reply import Reply


@dataclass
class Lists:
    """A simulated Braze, and who walks through its lists with a budget."""

    braze: FaultInjectingBraze
    clock: Clock
    admission: Admission
    client: Client
    calls: list[Call] = field(default_factory=list)

    def walk(self, what: Listing = EVENT_LIST) -> Walk:
        """Return the way through a list."""
        return Walk(what, self.client, self.admission)

    def names(self, what: Listing = EVENT_LIST) -> list[str]:
        """Return the names of all rows of a list."""
        return [row.name for row in self.walk(what).go_on()]

    @property
    def pages(self) -> list[str]:
        """Return the pages that were asked for, in order."""
        return [request.params["page"] for request in self.braze.requests]


def names(count: int, what: str = "event") -> list[str]:
    """Return so many names in alphabetical order."""
    return [f"{what} {number:05}" for number in range(count)]


def world(count: int) -> World:
    """Return so much of everything."""
    return World(
        segments=tuple(Segment(f"s{name}", name) for name in names(count, "segment")),
        campaigns=tuple(Campaign(f"c{name}", name) for name in names(count, "campaign")),
        canvases=tuple(Canvas(f"v{name}", name) for name in names(count, "Canvas")),
        products=tuple(names(count, "product")),
    )


@pytest.fixture
def lists() -> Iterator[Lists]:
    """Run a Braze with 1,000 of everything, with a tenth of its limits to be used."""
    clock = Clock()
    with (
        simulated(Recorded(events=names(1_000)), clock) as (braze, server),
        contextlib.closing(transport.open_session(1)) as session,
    ):
        braze.world = world(1_000)
        admission = Admission(clock.monotonic)
        admission.allow({DEFAULT_POOL: 25_000, LISTS_POOL: 100}, share=0.1, reserve=0.2)
        calls: list[Call] = []
        client = Client(
            transport.Transport(session, server.url, lambda: KEY, proxies={}, monotonic=clock.monotonic),
            workspace="production",
            redact=lambda text: text.replace(KEY, "***"),
            wall=clock.wall,
            monotonic=clock.monotonic,
            on_call=calls.append,
        )
        yield Lists(braze, clock, admission, client, calls)


@pytest.mark.parametrize("what", LISTINGS, ids=lambda what: what.endpoint)
def test_all_that_is_listed_is_read(lists: Lists, what: Listing) -> None:
    """A list is read to its end, in its order, and each page is a call that is told of."""
    assert lists.names(what) == names(1_000, what.what[0])
    pages = {EVENT_LIST: 4, PRODUCT_LIST: 25}.get(what, 10)
    assert lists.pages == [str(number) for number in range(pages + 1)]
    assert [(call.workspace, call.endpoint, call.pool, call.code, call.reason) for call in lists.calls] == [
        ("production", what.endpoint, what.pool.name, 200, None)
    ] * (pages + 1)
    assert lists.calls[-1].quota.remaining == what.pool.limit - pages - 1


def test_5000_events_cost_20_calls_and_one_to_see_the_end(lists: Lists) -> None:
    """Five thousand events are twenty pages, and a page without rows."""
    lists.braze.traffic = Recorded(events=names(5_000))
    assert lists.names() == names(5_000)
    assert len(lists.braze.requests) == 21


@pytest.mark.parametrize("what", LISTINGS, ids=lambda what: what.endpoint)
@pytest.mark.parametrize("page_size", [None, 99, 3])
def test_pages_of_any_kind(lists: Lists, what: Listing, page_size: int | None) -> None:
    """Short pages, pages that shift, and an end without its key lose nothing and make nothing twice."""
    lists.braze.traffic = Recorded(events=names(260))
    lists.braze.world = world(260)
    lists.braze.lists.page_size = page_size
    lists.braze.lists.shifts = True
    lists.braze.lists.ends_without_key = True
    assert lists.names(what) == names(260, what.what[0])


def test_what_is_told_of_rows(lists: Lists) -> None:
    """A row has its id, name, tags without nulls, whether it is tracked, and when it was edited."""
    lists.braze.world = World(
        segments=(Segment("s1", "A", tags=("one", None)), Segment("s2", "A", tracked=False)),
        campaigns=(Campaign("c1", "", ("one", "two"), last_edited="2022-11-29T14:59:02+00:00"),),
        canvases=(Canvas("v1", "Größe\n🛒", archived=True), Canvas("v2", "B")),
        products=("", " P "),
    )
    assert lists.walk(SEGMENT_LIST).go_on() == (Listed("s1", "A", ("one",)), Listed("s2", "A", is_tracked=False))
    edited = "2022-11-29T14:59:02+00:00"
    assert lists.walk(CAMPAIGN_LIST).go_on() == (Listed("c1", "", ("one", "two"), last_edited=edited),)
    assert lists.names(CANVAS_LIST) == ["B"]
    assert lists.names(CANVAS_LIST.with_archived()) == ["Größe\n🛒", "B"]
    assert lists.walk(PRODUCT_LIST).go_on() == (Listed("", ""), Listed(" P ", " P "))


def test_what_is_listed_twice_is_as_it_was_listed_last(lists: Lists) -> None:
    """A campaign that is renamed while the list is read is there once, by its new name, where it was first."""
    lists.braze.world = World(campaigns=(Campaign("c1", "A"), Campaign("c2", "B"), Campaign("c3", "C")))
    lists.braze.lists.page_size = 2
    lists.braze.lists.shifts = True

    def rename(found: dict[str, Any]) -> None:
        found["campaigns"][0]["name"] = "new"

    lists.braze.fail(response_faults.edited(lambda _: None), times=1)
    lists.braze.fail(response_faults.edited(rename), times=1)
    assert lists.names(CAMPAIGN_LIST) == ["A", "new", "C"]


def test_a_list_that_repeats_itself_is_left(lists: Lists) -> None:
    """A page that has nothing new would come again for ever."""
    same = response_faults.document({"message": "success", "events": ["a", "b"]})
    lists.braze.fail(same)
    with pytest.raises(BrazeError, match=r"^bad_answer: the list of events cannot be read: page 1 repeats what came"):
        lists.walk().go_on()
    assert lists.pages == ["0", "1"]


@pytest.mark.parametrize(("most", "pages"), [("MOST_PAGES", 5), ("MOST_LETTERS", 3)])
def test_a_list_without_an_end_is_left(lists: Lists, monkeypatch: pytest.MonkeyPatch, most: str, pages: int) -> None:
    """A list that goes on for ever ends the reading after so many pages, or so many letters."""
    monkeypatch.setattr(list_pager, most, {"MOST_PAGES": 5, "MOST_LETTERS": 2_500}[most])
    lists.admission.allow({LISTS_POOL: 1_000}, share=1, reserve=0)

    def more(exchange: Exchange) -> Reply:
        rows = [f"{exchange.request.params['page']:>100}{row}" for row in range(5)]
        return response_faults.document({"message": "success", "events": rows})(exchange)

    lists.braze.fail(more)
    with pytest.raises(
        BrazeError, match=f"^bad_answer: the list of events .* there is no end to it after {pages} pages"
    ):
        lists.walk().go_on()
    assert len(lists.braze.requests) == pages


@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        (
            response_faults.status(403),
            Reason.FORBIDDEN,
            "HTTP 403: the key needs the permission events.list: Forbidden",
        ),
        (response_faults.status(401), Reason.UNAUTHORIZED, "401 Unauthorized: the key lacks the permission "),
        (response_faults.status(500), Reason.SERVER_ERROR, "HTTP 500"),
        (response_faults.queued(), Reason.QUEUED, "HTTP 202"),
        (response_faults.message("queued"), Reason.QUEUED, "Braze has queued the request"),
        (response_faults.message("no"), Reason.BAD_ANSWER, "the message is not success: no"),
        (response_faults.html(), Reason.NOT_JSON, "the body is not JSON"),
        (response_faults.document([]), Reason.BAD_ANSWER, "the body is not an object"),
        (response_faults.document({"message": "success", "events": {}}), Reason.BAD_ANSWER, "events is not a list"),
        (transfer_faults.truncated(), Reason.TRUNCATED, "the connection broke"),
        (response_faults.redirect("https://example.org"), Reason.REDIRECT, "HTTP 302"),
        (transfer_faults.disconnect(), Reason.CONNECTION, "the connection failed"),
    ],
    ids=str,
)
def test_a_page_that_is_not_answered_is_an_error(lists: Lists, fault: Fault, reason: Reason, detail: str) -> None:
    """A fault in any page makes an error of the list, in the same words as of a series, and never a shorter list."""
    lists.braze.fail(response_faults.edited(lambda _: None), times=1)
    lists.braze.fail(fault)
    with pytest.raises(BrazeError) as caught:
        lists.walk().go_on()
    assert caught.value.reason is reason
    assert caught.value.detail.startswith(detail)
    assert KEY not in str(caught.value)
    assert lists.calls[-1].reason is reason


GOOD = {"id": "1", "name": "A", "tags": ["a", None], "analytics_tracking_enabled": True, "last_edited": "2022"}


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
def test_a_row_without_an_id_and_a_name_is_left_out(row: object) -> None:
    """A row whose id or name is no text that can be written is none, and the others are as they are."""
    body = json.dumps({"message": "success", "segments": [row, GOOD]}).encode()
    assert list_page.listed(SEGMENT_LIST, body) == (None, Listed("1", "A", ("a",), is_tracked=True, last_edited="2022"))


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ({"tags": "a"}, {"tags": ()}),
        ({"tags": [1, ["b"], "c", "\ud800"]}, {"tags": ("c",)}),
        ({"analytics_tracking_enabled": "yes"}, {}),
        ({"analytics_tracking_enabled": None}, {}),
        ({"last_edited": 5}, {"last_edited": ""}),
    ],
    ids=ascii,
)
def test_what_is_odd_in_a_row_is_not_told(change: dict[str, object], read: dict[str, Any]) -> None:
    """Tags, tracking and times of another type are as if they were missing."""
    body = json.dumps({"message": "success", "segments": [GOOD | change]}).encode()
    usual = Listed("1", "A", ("a",), is_tracked=True, last_edited="2022")
    assert list_page.listed(SEGMENT_LIST, body) == (replace(usual, **read),)


def test_a_list_goes_on_behind_rows_that_cannot_be_read(lists: Lists) -> None:
    """A page of odd rows is no end and no repetition, and what is readable is all there is."""
    for rows in (["a", None, "\ud800"], [5, {}], ["b"], []):
        lists.braze.fail(response_faults.body(json.dumps({"message": "success", "events": rows}).encode()), times=1)
    assert lists.names() == ["a", "b"]
    assert lists.pages == ["0", "1", "2", "3"]


def test_a_list_of_which_no_row_can_be_read_is_an_error(lists: Lists) -> None:
    """Where nothing can be read, the list has another form than is known: that is no list without rows."""
    lists.braze.fail(response_faults.document({"message": "success", "events": [{"name": "a"}, None]}))
    with pytest.raises(
        BrazeError, match=r"^bad_answer: the list of events cannot be read: no row of page 0 has a name"
    ):
        lists.walk().go_on()
    assert lists.pages == ["0"]


@pytest.mark.parametrize("name", ["tags", "analytics_tracking_enabled", "last_edited"])
def test_what_is_not_told_may_be_missing(name: str) -> None:
    """Tags, tracking and the time of the last change may be missing, and unknown fields are there for others."""
    row = {key: value for key, value in GOOD.items() if key != name} | {"teams": [{}]}
    (found,) = list_page.listed(SEGMENT_LIST, json.dumps({"message": "success", "segments": [row], "x": 1}).encode())
    assert found is not None
    usual = Listed("1", "A", ("a",), is_tracked=True, last_edited="2022")
    assert (found.id, found.name, found.is_tracked) == ("1", "A", True)
    assert found.tags == (() if name == "tags" else usual.tags)
    assert found.last_edited == ("" if name == "last_edited" else usual.last_edited)


@pytest.mark.parametrize("value", [None, []])
def test_tags_and_times_may_be_null(value: object) -> None:
    """Null is nothing."""
    row = GOOD | {"tags": value, "last_edited": None}
    (found,) = list_page.listed(SEGMENT_LIST, json.dumps({"message": "success", "segments": [row]}).encode())
    assert found is not None
    assert (found.tags, found.last_edited) == ((), "")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]), inner, max_size=5),
    max_leaves=12,
)


@given(st.sampled_from(LISTINGS), anything, st.binary(max_size=50))
def test_any_page_is_rows_or_an_error(what: Listing, found: object, junk: bytes) -> None:
    """No body makes anything but rows of text that can be written, or a `BrazeError`."""
    for body in (json.dumps({"message": "success", what.key: found}).encode(), json.dumps(found).encode(), junk):
        try:
            rows = list_page.listed(what, body)
        except BrazeError as error:
            assert error.reason in {Reason.NOT_JSON, Reason.BAD_ANSWER, Reason.QUEUED}
        else:
            for row in filter(None, rows):
                "".join((row.id, row.name, *row.tags, row.last_edited)).encode()
                assert row.id or not what.has_ids


def test_a_list_longer_than_the_budget_is_read_as_the_budget_comes(lists: Lists) -> None:
    """With ten calls at once and a hundred an hour it goes on where it was withheld, and no page is read twice."""
    lists.admission.allow({LISTS_POOL: 10}, share=0.1, reserve=0.2)
    lists.braze.lists.page_size = 20
    walk = lists.walk()
    for pages in (10, 20, 30, 40, 50):
        with pytest.raises(Withheld, match=r"^lists$"):
            walk.go_on()
        assert lists.pages == [str(number) for number in range(pages)]
        lists.clock.advance(360)
    assert [row.name for row in walk.go_on()] == names(1_000)
    assert lists.pages == [str(number) for number in range(51)]


def test_the_reserve_and_a_429_withhold(lists: Lists) -> None:
    """A list is not read where the calls that are left are in reserve, and no more after a 429."""
    lists.braze.spend(797, pool="lists")
    walk = lists.walk()
    with pytest.raises(Withheld, match=r"^lists$"):
        walk.go_on()
    assert walk.pages == 3
    lists.clock.advance(3_600)
    assert len(walk.go_on()) == 1_000
    lists.braze.spend(1_000, pool="lists")
    lists.admission.allow({LISTS_POOL: 100}, share=0.1, reserve=0)
    with pytest.raises(BrazeError, match=r"^rate_limited"):
        lists.walk().go_on()
    with pytest.raises(Withheld):
        lists.walk(PRODUCT_LIST).go_on()
    assert len(lists.names(SEGMENT_LIST)) == 1_000


def test_a_missing_permission_holds_its_list_alone(lists: Lists) -> None:
    """Of a list that the key may not read no second page is asked for; the others are read."""
    lists.braze.permissions = {"segments.list"}
    with pytest.raises(BrazeError, match=r"^forbidden: HTTP 403: the key needs the permission events.list"):
        lists.walk().go_on()
    with pytest.raises(Held, match=r"^/events/list$"):
        lists.walk().go_on()
    assert len(lists.names(SEGMENT_LIST)) == 1_000


def test_while_another_call_goes_alone_a_list_is_withheld(lists: Lists) -> None:
    """The first call of a pool goes alone, and a list does not wait for its end."""
    alone = lists.admission.admit(PRODUCT_LIST)
    assert not isinstance(alone, Withheld)
    assert alone is not None
    with pytest.raises(Withheld, match=r"^lists$"):
        lists.walk().go_on()
    alone.end(None, Told(answered=True))
    assert len(lists.names()) == 1_000


def test_a_fault_of_ours_lets_others_go(lists: Lists) -> None:
    """Whatever happens in a call, its leave ends, so that none waits for it for ever."""

    class Broken:
        def page(self, *_: object) -> tuple[Listed | None, ...]:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Walk(EVENT_LIST, Broken(), lists.admission).go_on()
    assert len(lists.names()) == 1_000
