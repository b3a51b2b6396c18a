"""The page at `/` says what the metrics say, in words that are true, and looking at it asks Braze for nothing."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
import response_faults
import transfer_faults
from recorded_counts import Recorded
from support import HOUR, KEY, NEW_YORK, NOW, THIS_HOUR, Rig, rig, until

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Unit
from braze_exporter.braze.query import Query
from braze_exporter.metrics.self_metrics import State
from braze_exporter.scheduler.admission import Standing
from braze_exporter.scheduler.query_state import Entry, Reading
from braze_exporter.scheduler.rate_limiter import Cause, Rest
from braze_exporter.simulator.application import UnknownEvent
from braze_exporter.simulator.inventory import Campaign, World
from braze_exporter.simulator.message_rows import made_up
from braze_exporter.simulator.traffic import Shape, Traffic
from braze_exporter.web import status_messages
from braze_exporter.web.status_page import StatusPage
from braze_exporter.web.status_response import facts, status_response
from braze_exporter.web.status_types import Facts, QueryFacts

EVENTS = """
{event: purchase, apps: [all, ios], segments: [all, vip], baseline: {weeks: 2}}
{event: purchase, unit: day}
{event: signup}
"""
REFUSED_403 = "refused: 403, the key lacks events.data_series"


def shop() -> Traffic:
    """Return what happens in a shop."""
    shape = Shape(500, apps={"3bbc4555-8fa0-4c9b-a5c0-4505edf3e064": 0.5})
    return Traffic(1, NEW_YORK, {"purchase": shape, "signup": shape})


@pytest.fixture
def exporter() -> Iterator[Rig]:
    """Run the exporter in this process, not scraped yet."""
    with rig(EVENTS, shop()) as found:
        yield found


def named(facts: Facts, name: str, unit: str = "hour") -> QueryFacts:
    """Return what is told of the unfiltered query of that name."""
    (found,) = (
        query
        for query in facts["queries"]
        if "braze_app" not in query["labels"] and query["name"] == name and query["unit"] == unit
    )
    return found


def words_of(exporter: Rig, name: str = "purchase") -> str:
    """Return in which words the state of a query is told."""
    return named(status_response(exporter.exporter), name)["words"]


def sentences(exporter: Rig) -> list[str]:
    """Return in which sentences the health of the workspace is told, and before them how urgent it is."""
    (workspace,) = status_response(exporter.exporter)["workspaces"]
    return [workspace["level"], *workspace["sentences"]]


def assert_same_as_metrics(exporter: Rig) -> None:
    """Hold every number of the facts to the page of metrics."""
    exporter.rest()
    page = exporter.page()
    facts = status_response(exporter.exporter)
    for query in facts["queries"]:
        family = query["metrics"][0].removesuffix("_settled")
        labels = query["labels"]
        for measure in ("latest", "settled", "baseline"):
            assert query[measure] == page.value(f"{family}_{measure}", **labels), (measure, query)
        for measure in ("latest", "settled"):
            start = page.value(f"{family}_{measure}_bucket_start_timestamp_seconds", **labels)
            assert query[f"{measure}_start"] == start  # type: ignore[literal-required]
        assert (query["answered_at"] or 0) == page.value(f"{family}_last_success_timestamp_seconds", **labels)
        if query["state"] != "pending":
            assert page.value(f"{family}_up", **labels) == (query["error"] is None)
        assert query["total"] == (page.value(query["metrics"][1], **labels) if len(query["metrics"]) > 1 else None)
    for pool in facts["workspaces"][0]["pools"]:
        assert pool["remaining"] == page.value("braze_api_quota_remaining")
        assert pool["reset_at"] == page.value("braze_api_quota_reset_timestamp_seconds")
        assert pool["limit"] == page.value("braze_api_quota_limit") or pool["remaining"] is None
    for state in State:
        told = sum(query["state"] == state for query in facts["queries"])
        assert told == page.value("braze_exporter_queries", state=state)


def test_the_numbers_are_those_of_the_metrics(exporter: Rig) -> None:
    """At first, when all is answered, when some of it fails, when it is too old, and when it is answered again."""
    assert_same_as_metrics(exporter)
    exporter.scrape()
    until(lambda: exporter.scrape().of("braze_custom_events_hourly_baseline") != [], "history is read")
    assert_same_as_metrics(exporter)
    assert named(status_response(exporter.exporter), "purchase")["baseline"] is not None
    exporter.braze.fail(response_faults.status(503), event="signup")
    exporter.clock.advance(900)
    exporter.scrape()
    assert_same_as_metrics(exporter)
    exporter.clock.advance(HOUR)
    assert_same_as_metrics(exporter)
    assert {query["settled"] for query in status_response(exporter.exporter)["queries"]} == {None}
    exporter.braze.heal()
    exporter.scrape()
    assert_same_as_metrics(exporter)


def test_a_look_asks_for_nothing(exporter: Rig) -> None:
    """However much is due, to look at the page is no scrape."""
    status_response(exporter.exporter)
    exporter.scrape()
    exporter.rest()
    exporter.braze.reset()
    exporter.clock.advance(2 * HOUR)
    for _ in range(5):
        status_response(exporter.exporter)
    assert exporter.braze.requests == []


def test_before_the_first_scrape(exporter: Rig) -> None:
    """Nothing is asked, and it is said why."""
    facts = status_response(exporter.exporter)
    assert facts["scraped_at"] is None
    assert facts["troubles"] == ["Nobody scrapes: Braze is asked only when Prometheus asks for /metrics."]
    assert words_of(exporter) == "not asked yet: Braze is asked when Prometheus scrapes"
    assert sentences(exporter)[:2] == ["new", "6 of 6 queries are not asked yet."]
    assert named(facts, "purchase")["points"] is None
    assert named(facts, "purchase")["next_at"] is None
    assert facts["workspaces"][0]["pools"][0]["remaining"] is None


def test_while_it_is_asked_for_the_first_time(exporter: Rig) -> None:
    """It is being asked now."""
    exporter.braze.fail(transfer_faults.hold())
    exporter.exporter.refresh()
    exporter.braze.wait_for(1)
    assert words_of(exporter) == "not asked yet: being asked now"
    assert named(status_response(exporter.exporter), "purchase")["busy"]


def test_all_is_well() -> None:
    """All queries are answered, with and without data, and nothing else is said."""
    with rig("{event: purchase}\n{event: nothing}", shop()) as exporter:
        exporter.braze.unknown_event = UnknownEvent.EMPTY
        exporter.scrape()
        assert status_response(exporter.exporter)["troubles"] == []
        assert sentences(exporter) == ["good", "All 2 queries are answered."]
        assert words_of(exporter) == "answering"
        assert words_of(exporter, "nothing") == "answering, without data"
        empty = named(status_response(exporter.exporter), "nothing")["points"]
        assert empty == {"first": 0, "starts": [], "values": [], "settled": 0, "ended": 0}
        exporter.use("{event: purchase}")
        assert sentences(exporter) == ["good", "The only query is answered."]


def rate_limited(exporter: Rig) -> None:
    """Have a 429 come."""
    exporter.braze.fail(response_faults.rate_limited(), times=1)


def spent(exporter: Rig) -> None:
    """Have others spend what is not in reserve."""
    exporter.braze.spend(205_000)


@pytest.mark.parametrize(
    ("trouble", "first", "then", "health"),
    [
        (rate_limited, "refused: 429, rate limit until 08:00", "waiting: rate limit until 08:00", "rate limit"),
        (spent, "answering", "waiting: reserve of the rate limit until 08:00", "reserve of the rate limit"),
    ],
)
def test_a_pool_that_rests(trouble: Callable[[Rig], None], first: str, then: str, health: str) -> None:
    """It is told why nothing is asked, and until when in the time of the workspace; the next fetch is then."""
    with rig("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        exporter.clock.advance(300)
        trouble(exporter)
        exporter.scrape()
        assert words_of(exporter) == first
        exporter.clock.advance(300)
        exporter.scrape()
        assert words_of(exporter) == then
        assert sentences(exporter)[:2] == ["waiting", f"No calls: {health} until 08:00."]
        assert named(status_response(exporter.exporter), "purchase")["next_at"] == THIS_HOUR + HOUR
        exporter.clock.advance(HOUR - 300)  # nobody has scraped since the window ended
        assert words_of(exporter) in {"waiting for the next scrape", "too old: waiting for the next scrape"}


def test_a_budget_that_is_spent() -> None:
    """Without a budget for all that is due, what waits is told to wait for the budget."""
    events = "\n".join(f"{{event: event {number}, refresh: 1h}}" for number in range(3))
    with rig(events, Recorded(events=[]), rest="budget: {share: 0.001}\n") as exporter:
        exporter.braze.limit = 1_000  # of which a thousandth is a call an hour
        exporter.scrape()
        exporter.clock.advance(HOUR)
        exporter.scrape()
        waiting = [query for query in status_response(exporter.exporter)["queries"] if query["state"] == "deferred"]
        assert len(waiting) == 2
        assert {query["words"] for query in waiting} == {"waiting: budget until 09:20"}


def test_a_key_that_is_refused(exporter: Rig) -> None:
    """The words name what the key lacks, and when that is tried again."""
    exporter.braze.fail(response_faults.status(403))
    exporter.scrape()
    assert {
        query["words"].removeprefix("not asked yet: ") for query in status_response(exporter.exporter)["queries"]
    } == {REFUSED_403}
    assert sentences(exporter)[:2] == [
        "bad",
        "403 Forbidden: the key lacks the permission events.data_series. Next attempt at 07:22.",
    ]
    assert {query["next_at"] for query in status_response(exporter.exporter)["queries"]} == {NOW + 120}
    exporter.clock.advance(120)
    again = "403 Forbidden: the key lacks the permission events.data_series. Next attempt with the next scrape."
    assert sentences(exporter)[1] == again
    exporter.braze.heal()
    exporter.braze.key = "another"
    exporter.scrape()
    assert "refused: 401 Unauthorized: API key rejected" in words_of(exporter)
    assert sentences(exporter)[:2] == ["bad", "401 Unauthorized: API key rejected. Next attempt at 07:24."]
    assert KEY not in str(status_response(exporter.exporter))


def read_lists(exporter: Rig) -> None:
    """Have the lists read that are due, and wait until nothing is read any more."""
    exporter.ask()
    inside = exporter.exporter._discovery  # noqa: SLF001 - no scrape waits for it
    inside.refresh()
    until(lambda: not any(one.busy for one in inside._lists.values()), "no list is read")  # noqa: SLF001


def test_a_workspace_of_wildcards_is_not_well_before_its_list_is_read() -> None:
    """Nothing is good while entries wait for a list, or take nothing of it, or what they take is left out."""
    with rig("{match: 'p.*|s.*'}", shop(), rest="max_queries: 1\n", reads_lists=True) as exporter:
        waits = "The match and tag entries of custom_events wait for Braze's list of events."
        assert sentences(exporter) == ["new", waits]
        exporter.braze.permissions = {"events.data_series"}
        read_lists(exporter)
        unread = "Braze's list of events cannot be read (refused: 403, the key lacks events.list). Next attempt"
        assert sentences(exporter) == ["bad", f"{unread} at Tue 07:20.", waits]
        exporter.clock.advance(86_400)
        assert sentences(exporter)[1] == f"{unread} with the next scrape."
        exporter.braze.permissions = {"events.list", "events.data_series"}
        read_lists(exporter)
        exporter.scrape()
        taken = "Of 2 events that Braze lists, the match and tag entries of custom_events take"
        left_out = f"{taken} 2, less 1 for want of room: raise max_queries or budget.share, or match less."
        assert sentences(exporter) == ["waiting", left_out, "The only query is answered."]
        exporter.use("{match: 'p.*|s.*'}")
        exporter.clock.advance(300)
        exporter.scrape()
        assert sentences(exporter) == ["good", "All 2 queries are answered.", f"{taken} 2."]
        exporter.use("{match: 'x'}")
        read_lists(exporter)
        assert sentences(exporter) == ["waiting", f"{taken} none."]
        exporter.braze.fail(response_faults.status(503), path="/events/list")
        exporter.clock.advance(HOUR)
        read_lists(exporter)
        failing = (
            "Braze's list of events cannot be read (failing: HTTP 503, Braze is in trouble). Next attempt at 08:26"
        )
        assert sentences(exporter) == [
            "bad",
            f"{failing}. The one before is used.",
            f"{taken} none.",
        ]


def test_a_key_that_a_list_alone_finds_refused_is_told_with_the_time_of_the_list() -> None:
    """Where there is no query yet it is the list that tries the key again."""
    with rig("{match: '.*'}", shop(), reads_lists=True) as exporter:
        exporter.braze.key = "another"
        read_lists(exporter)
        refused = "Braze's list of events cannot be read (refused: 401 Unauthorized: API key rejected)"
        assert sentences(exporter)[:2] == ["bad", f"{refused}. Next attempt at 07:22."]
        assert len(sentences(exporter)) == 3
        exporter.use("{match: '.*'}\n{event: purchase}")
        read_lists(exporter)
        assert sentences(exporter)[:2] == ["bad", "401 Unauthorized: API key rejected. Next attempt at 07:22."]
        assert "list of events cannot be read" not in " ".join(sentences(exporter))


def test_a_list_that_is_for_names_alone_alarms_nobody() -> None:
    """Without the permission for a list that no entry takes of, all is well, and it is said what is missing."""
    with rig("{event: purchase}", shop(), reads_lists=True) as exporter:
        exporter.braze.permissions = {"events.data_series"}
        read_lists(exporter)
        refused = "Braze's list of events cannot be read (refused: 403, the key lacks events.list)"
        unread = f"{refused}. Next attempt at Tue 07:20. No value depends on it."
        assert sentences(exporter) == ["good", "The only query is answered.", unread]


def test_what_braze_does_not_list_is_told_with_the_nearest_names() -> None:
    """A typing error is told by name with what may be meant, of many the first three; names are no more than text."""
    script = "<script>alert(1)</script>"
    events = f"{{event: purchse}}\n{{event: signup}}\n{{event: '{script}'}}\n{{event: purchse, unit: day}}"
    with rig(events, shop(), reads_lists=True) as exporter:
        exporter.braze.unknown_event = UnknownEvent.EMPTY
        read_lists(exporter)
        exporter.clock.advance(300)
        exporter.scrape()
        unlisted = 'Braze does not list the event "purchse": did you mean "purchase"?'
        odd = f'Braze does not list the event "{script}".'
        assert sentences(exporter) == ["waiting", unlisted, odd, "All 4 queries are answered."]
        assert script not in StatusPage(lambda: status_response(exporter.exporter)).html().decode()
        exporter.use("\n".join(f"{{event: x{number}}}" for number in range(1_005)))
        told = [text for text in sentences(exporter) if "list" in text]
        assert told == [
            *(f'Braze does not list the event "x{number}".' for number in range(3)),
            "Nor does it list 1,002 more: see braze_query_unlisted.",
        ]
        exporter.use("{event: signup}")
        exporter.scrape()
        assert sentences(exporter) == ["good", "The only query is answered."]


def test_failures_are_counted(exporter: Rig) -> None:
    """Braze's trouble is told by its status, and from the second time on by how often in a row."""
    exporter.scrape()
    exporter.braze.fail(response_faults.status(503, "come back later"))
    for expected in ("", ", 2 times in a row", ", 3 times in a row"):
        exporter.clock.advance(1_100)
        exporter.scrape()
        assert words_of(exporter) == f"failing: HTTP 503, Braze is in trouble{expected}"
    error = named(status_response(exporter.exporter), "purchase")["error"]
    assert error == {"reason": "server_error", "detail": "HTTP 503: come back later", "failures": 3}
    exporter.clock.advance(HOUR)
    assert words_of(exporter) == "too old: failing: HTTP 503, Braze is in trouble, 3 times in a row"


def test_nobody_scrapes_any_more(exporter: Rig) -> None:
    """What becomes too old says that nobody has asked for it."""
    exporter.scrape()
    exporter.clock.advance(299)
    assert status_response(exporter.exporter)["troubles"] == []
    exporter.clock.advance(HOUR)
    assert len(status_response(exporter.exporter)["troubles"]) == 1
    assert words_of(exporter) == "too old: nobody has scraped since"
    assert sentences(exporter)[:2] == ["bad", "6 of 6 queries are too old."]


def test_every_failure_has_words() -> None:
    """Whatever the reason, it is told in words, and without what a template leaves."""
    query = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase")
    found = set()
    for reason in Reason:
        entry = Entry(query, NOW, 0.0, reading=Reading(None, BrazeError(reason, "HTTP 418: teapot")))
        found.add(status_messages.of_query(entry, State.FAILED, None, str))
    assert len(found) == len(Reason)
    assert all(text.startswith(("refused: ", "failing: ")) and "{" not in text for text in found)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "07:20"),
        (60, "07:21"),
        (59.7, "07:21"),
        (61, "07:21"),
        (58, "07:21"),
        (75, "07:21:15"),
        (16 * HOUR + 40 * 60, "Tue 00:00"),
        (23 * HOUR, "Tue 06:20"),
    ],
)
def test_the_clock_on_the_wall(seconds: float, expected: str) -> None:
    """Times are those of the workspace, with seconds and the day only where they are needed."""
    assert status_messages.clock(NOW + seconds, NEW_YORK, NOW) == expected


def test_what_is_wrong_with_the_exporter_itself() -> None:
    """A config that cannot be used, and a state file that cannot be written."""
    found = status_messages.of_exporter(is_scraped=True, is_config_good=False, counters_stand_still=True)
    assert [text.split()[1] for text in found] == ["config", "state"]
    with rig("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        exporter.exporter.note_failed_reload()
        assert status_response(exporter.exporter)["troubles"] == found[:1]


def test_a_wrong_zone_is_told() -> None:
    """If Braze's days are not those of the config, it is said what to set."""
    with rig("{event: purchase, unit: day}", shop()) as exporter:
        exporter.braze.zone = ZoneInfo("Pacific/Auckland")
        exporter.scrape()
        assert sentences(exporter)[:2] == [
            "bad",
            "Braze's newest day is not today in America/New_York: set timezone to that of the company in Braze.",
        ]


def test_history_that_is_being_read_is_told(exporter: Rig) -> None:
    """How many calls the baselines still take; all other news goes first."""
    assert sentences(exporter)[-1] == "History for baselines is being read: 16 calls to go."

    def is_done() -> bool:
        exporter.scrape()
        exporter.clock.advance(60)
        return sentences(exporter) == ["good", "All 6 queries are answered."]

    until(is_done, "history is read")


def test_several_pools_and_refusals_are_all_told() -> None:
    """The most urgent first: what is refused, what rests."""
    standing = Standing({"lists": Rest(Cause.RESERVE, 60.0)}, None, {})
    assert status_messages.of_workspace(Counter({State.UP: 2}), standing, {}, lambda seconds: f"+{seconds:g}") == (
        status_messages.Level.WAITING,
        ["No calls: reserve of the rate limit until +60.", "All 2 queries are answered."],
    )


def test_one_number_stands_for_a_campaign() -> None:
    """A campaign is a query, however many series it has: what was sent over all channels stands for it."""
    campaign = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", channels=("email", "sms"))
    today = int(datetime(2026, 11, 23, tzinfo=NEW_YORK).timestamp())
    with rig("{event: purchase}", shop(), rest=f"    campaigns:\n      - campaign: {campaign.id}\n") as exporter:
        exporter.braze.world = World(campaigns=(campaign,))
        exporter.braze.figures = figures = Recorded()
        before = named(status_response(exporter.exporter), campaign.id, "day")
        figures.set(f"campaigns/{campaign.id}", today - 24 * HOUR, 1_000)
        exporter.scrape()
        figures.set(f"campaigns/{campaign.id}", today, 70)
        exporter.clock.advance(900)
        exporter.scrape()
        facts = status_response(exporter.exporter)
        found = named(facts, campaign.id, "day")
    assert (before["latest"], before["total"], len(before["series"])) == (None, None, 3)
    assert facts["workspaces"][0]["queries"] == 2
    assert (found["latest"], found["settled"], found["baseline"], found["total"]) == (140, 2_000, None, 140)
    assert found["points"] is not None
    assert found["points"]["values"][-2:] == [2_000, 140]
    assert found["tags"] == [("unit", "daily"), ("count", "campaign messages"), ("stat", "sent")]
    series = {(one["noun"], *one["labels"]): one["settled"] for one in found["series"]}
    assert series["campaign unique recipients",] == 980
    assert series["campaign messages", "sms", made_up(campaign.id, ""), "delivered"] == 970


def test_what_has_settled_and_what_may_change() -> None:
    """Of 24 hours at twenty past, the newest is in progress, the one before has ended, and 22 have settled."""
    with rig("{event: purchase}\n{event: purchase, unit: day}", shop()) as exporter:
        exporter.scrape()
        found = status_response(exporter.exporter)
        hours, days = named(found, "purchase")["points"], named(found, "purchase", "day")["points"]
        assert hours is not None
        assert (hours["first"], hours["starts"]) == (THIS_HOUR - 23 * HOUR, None)
        assert (len(hours["values"]), hours["ended"], hours["settled"]) == (24, 23, 22)
        assert days is not None
        assert days["starts"] is not None
        assert days["starts"][-1] == datetime(2026, 11, 23, 5, tzinfo=UTC).timestamp()
        assert (len(days["values"]), days["ended"], days["settled"]) == (14, 13, 13)


def test_missing_hours_are_a_gap() -> None:
    """If an hour is missing, each of the others has its own start."""
    with rig("{event: purchase}", shop()) as exporter:

        def change(found: dict[str, list[object]]) -> None:
            del found["data"][5]

        exporter.braze.fail(response_faults.edited(change))
        exporter.scrape()
        points = named(status_response(exporter.exporter), "purchase")["points"]
        assert points is not None
        assert points["starts"] is not None
        assert len(points["starts"]) == len(points["values"]) == 23


def test_a_limit_that_braze_tells_counts_for_the_budget() -> None:
    """What is allowed and what is in reserve are parts of the limit that Braze told, not of the usual one."""
    with rig("{event: purchase}", shop()) as exporter:
        exporter.braze.limit = 10_000
        (before,) = status_response(exporter.exporter)["workspaces"][0]["pools"]
        exporter.scrape()
        (after,) = status_response(exporter.exporter)["workspaces"][0]["pools"]
    assert (before["limit"], before["allowed"], before["reserve"]) == (250_000, 25_000, 50_000)
    assert (after["limit"], after["allowed"], after["reserve"]) == (10_000, 1_000, 2_000)
    assert (after["planned"], after["remaining"]) == (12, 9_999)


def test_of_a_workspace_that_has_just_gone_nothing_is_told(exporter: Rig) -> None:
    """During a reload the queries may be older or newer than the workspaces: then they are left out."""
    inside = exporter.exporter
    found = facts(
        now=NOW,
        monotonic=0.0,
        version="1",
        scraped_at=NOW,
        in_use={},
        views=inside._collector.views(),  # noqa: SLF001 - what a reload does in between
        instruments=inside._instruments,  # noqa: SLF001
        lists={},
        history_left={},
        counters_stand_still=False,
    )
    assert (found["workspaces"], found["queries"]) == ([], [])


def test_two_thousand_queries_are_told_quickly() -> None:
    """Facts and page take little; a generous bound, for machines that are busy."""
    events = "\n".join(f"{{event: event {number}}}" for number in range(2_000))
    with rig(events, Recorded(events=[]), rest="budget: {share: 0.5}\n") as exporter:
        exporter.scrape(60)
        page = exporter.page()
        assert page.value("braze_exporter_queries", state="up") == 2_000
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            status_response(exporter.exporter)
            seconds.append(time.perf_counter() - began)
    print(f"facts of 2,000 queries: {min(seconds) * 1_000:.1f} ms")
    assert min(seconds) < 0.5
