"""Test that the status page at `/` agrees with the metrics, has accurate messages, and makes no call to Braze."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import response_faults
import transfer_faults
from braze_variants import UnknownEvent
from recorded_counts import RecordedCounts
from support import (
    CURRENT_HOUR,
    HOUR,
    KEY,
    NEW_YORK,
    NOW,
    ExporterRig,
    running_exporter,
    wait_until,
    workspace_item_yaml,
    workspace_yaml,
)

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Unit
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load_config
from braze_exporter.metrics.collector import query_status
from braze_exporter.metrics.self_families import QueryStatus
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.key_state import BlockingFailure
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.rate_limiter import Pause, PauseReason
from braze_exporter.simulator.inventory import Campaign, Inventory
from braze_exporter.simulator.traffic import Traffic, TrafficShape
from braze_exporter.web import status_messages, status_response
from braze_exporter.web.status_response import read_status_response

EVENTS = """
{event: purchase, apps: [all, ios], segments: [all, vip], baseline: {weeks: 2}}
{event: purchase, unit: day}
{event: signup}
"""
FORBIDDEN = "403 Forbidden: the key lacks the permission events.data_series"


def shop() -> Traffic:
    """Return simulated traffic with two events."""
    shape = TrafficShape(500, apps={"3bbc4555-8fa0-4c9b-a5c0-4505edf3e064": 0.5})
    return Traffic(1, NEW_YORK, {"purchase": shape, "signup": shape})


@pytest.fixture
def exporter() -> Iterator[ExporterRig]:
    """Run the exporter in this process, not scraped yet."""
    with running_exporter(EVENTS, shop()) as exporter_:
        yield exporter_


def find_query(status: dict[str, Any], name: str, unit: str = "hour") -> Any:  # noqa: ANN401 - decoded JSON
    """Return the status data of the unfiltered query with that name."""
    (found,) = (
        query
        for query in status["queries"]
        if query["properties"].keys().isdisjoint({"app", "segment"}) and query["name"] == name and query["unit"] == unit
    )
    return found


def query_message(exporter: ExporterRig, name: str = "purchase") -> str:
    """Return the message for the state of a query."""
    message: str = find_query(read_status_response(exporter.exporter), name)["message"]
    return message


def workspace_messages(exporter: ExporterRig) -> list[str]:
    """Return the health level of the workspace, followed by its messages."""
    (workspace,) = read_status_response(exporter.exporter)["workspaces"]
    return [workspace["level"], *workspace["messages"]]


def assert_same_as_metrics(exporter: ExporterRig) -> None:
    """Assert that every number of the status response equals that of the metrics page."""
    exporter.wait_for_history()
    page = exporter.page()
    status = read_status_response(exporter.exporter)
    for query in status["queries"]:
        family = query["metrics"][0].partition("_settled")[0]
        labels = dict(re.findall(r'(\w+)="(.*?)"', query["metrics"][0]))
        query_labels = {"unit": query["unit"], "braze_app": "", "segment": "", "product": "", **labels}
        last_success = "braze_query_last_success_timestamp_seconds"
        for measure in ("latest", "settled", "baseline"):
            assert query[measure] == page.value(f"{family}_{measure}", **labels), (measure, query)
        if query["starts"]:
            latest_start = page.value("braze_query_latest_bucket_start_timestamp_seconds", **query_labels)
            settled_start = page.value("braze_query_settled_bucket_start_timestamp_seconds", **query_labels)
            assert query["starts"][-1] == latest_start
            assert query["starts"][query["settled_count"] - 1] == settled_start
        assert (query["last_success_at"] or 0) == page.value(last_success, **query_labels)
        if query["state"] != "pending":
            assert page.value("braze_query_up", **query_labels) == (query["error"] is None)
        counters = [selector.partition("{")[0] for selector in query["metrics"][1:]]
        assert [query["total"]] == ([page.value(counter, **labels) for counter in counters] or [None])
    for pool in status["workspaces"][0]["pools"]:
        assert pool["remaining"] == page.value("braze_api_rate_limit_remaining")
        assert pool["reset_at"] == page.value("braze_api_rate_limit_reset_timestamp_seconds")
        assert pool["limit"] == page.value("braze_api_rate_limit") or pool["remaining"] is None
    for state in QueryStatus:
        count = sum(query["state"] == state for query in status["queries"])
        assert count == page.value("braze_queries", state=state)


def test_page_values_equal_metrics(exporter: ExporterRig) -> None:
    """Status values equal the metrics before the first fetch, after successes and failures, and when stale."""
    assert_same_as_metrics(exporter)
    exporter.scrape()
    while not exporter.wait_for_history():
        exporter.clock.advance(60)
        exporter.scrape()
    assert_same_as_metrics(exporter)
    assert find_query(read_status_response(exporter.exporter), "purchase")["baseline"] is not None
    exporter.braze.inject(response_faults.status(503), event="signup")
    exporter.clock.advance(900)
    exporter.scrape()
    assert_same_as_metrics(exporter)
    exporter.clock.advance(HOUR)
    assert_same_as_metrics(exporter)
    assert {query["settled"] for query in read_status_response(exporter.exporter)["queries"]} == {None}
    exporter.braze.clear_faults()
    exporter.scrape()
    assert_same_as_metrics(exporter)


def test_page_makes_no_braze_calls(exporter: ExporterRig) -> None:
    """Viewing the page does not scrape, however many queries are due."""
    read_status_response(exporter.exporter)
    exporter.scrape()
    exporter.wait_for_history()
    exporter.braze.reset()
    exporter.clock.advance(2 * HOUR)
    read_status_response(exporter.exporter)
    status = read_status_response(exporter.exporter)
    assert (status["scraped_at"], {query["in_flight"] for query in status["queries"]}) == (NOW, {False})
    assert exporter.braze.requests == []


def test_missing_first_scrape_is_shown(exporter: ExporterRig) -> None:
    """Before the first scrape the page says that queries run only on a scrape."""
    status = read_status_response(exporter.exporter)
    assert status["scraped_at"] is None
    assert status["errors"] == ["No scrape yet. Queries run only when Prometheus scrapes /metrics."]
    assert query_message(exporter) == "pending: not fetched yet"
    assert workspace_messages(exporter)[:2] == ["pending", "6 of 6 queries pending."]
    assert find_query(status, "purchase")["last_success_at"] is None
    assert find_query(status, "purchase")["next_at"] is None
    assert status["workspaces"][0]["pools"][0]["remaining"] is None


def test_first_fetch_in_flight_is_shown(exporter: ExporterRig) -> None:
    """The first fetch is shown while it is in flight."""
    exporter.braze.inject(transfer_faults.hold())
    exporter.exporter.refresh()
    exporter.braze.wait_for(1)
    assert query_message(exporter) == "pending: fetch in progress"
    assert find_query(read_status_response(exporter.exporter), "purchase")["in_flight"]


def test_fetch_during_page_changes_no_query_of_it(exporter: ExporterRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a query describes the same moment as its status, even if a fetch ends between the two."""

    def determine_status(query_state: QueryState, now: float) -> QueryStatus:
        status = query_status(query_state, now)
        if not exporter.braze.requests:
            exporter.scrape()
        return status

    exporter.braze.inject(response_faults.status(503))
    monkeypatch.setattr(status_response, "query_status", determine_status)
    assert query_message(exporter) == "pending: not fetched yet"


def test_healthy_workspace_is_shown() -> None:
    """A workspace whose queries all succeed, with or without data, has no other message."""
    with running_exporter("{event: purchase}\n{event: nothing}", shop()) as exporter:
        exporter.braze.unknown_event = UnknownEvent.EMPTY
        exporter.scrape()
        assert read_status_response(exporter.exporter)["errors"] == []
        assert workspace_messages(exporter) == ["ok", "All 2 queries are up."]
        assert query_message(exporter) == "up"
        assert query_message(exporter, "nothing") == "up, no data"
        empty = find_query(read_status_response(exporter.exporter), "nothing")
        assert (empty["starts"], empty["values"], empty["settled_count"]) == ((), [], 0)
        exporter.apply_config("{event: purchase}")
        assert workspace_messages(exporter) == ["ok", "The only query is up."]


def rate_limited(exporter: ExporterRig) -> None:
    """Let the next call get a 429."""
    exporter.braze.inject(response_faults.rate_limited(), times=1)


def spend_limit(exporter: ExporterRig) -> None:
    """Let other clients use all calls except the reserve."""
    exporter.braze.spend_calls(205_000)


@pytest.mark.parametrize(
    ("problem", "first", "reason"),
    [
        (rate_limited, "failed: 429 Too Many Requests, requests paused until 08:00", "429 Too Many Requests"),
        (spend_limit, "up", "only budget.reserve is left"),
    ],
)
def test_paused_pool_is_shown(problem: Callable[[ExporterRig], None], first: str, reason: str) -> None:
    """A paused pool shows its reason and its end in the workspace's time zone; the next fetch is then."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        exporter.clock.advance(300)
        problem(exporter)
        exporter.scrape()
        assert query_message(exporter) == first
        exporter.clock.advance(300)
        exporter.scrape()
        assert query_message(exporter) == f"deferred until 08:00 ({reason})"
        assert workspace_messages(exporter)[:2] == [
            "warning",
            f"Requests in the default pool are paused until 08:00 ({reason}).",
        ]
        assert find_query(read_status_response(exporter.exporter), "purchase")["next_at"] == CURRENT_HOUR + HOUR
        exporter.clock.advance(HOUR - 300)  # no scrape since the window ended
        assert query_message(exporter) in {"deferred until the next scrape", "stale: deferred until the next scrape"}


def test_spent_budget_is_shown() -> None:
    """Queries that are deferred for the budget show when it allows the next call."""
    events = "\n".join(f"{{event: event {number}, refresh_interval: 1h}}" for number in range(3))
    with running_exporter(events, RecordedCounts(events=[]), extra_yaml="budget: {share: 0.001}\n") as exporter:
        exporter.braze.limit = 1_000  # a thousandth of it is one call an hour
        exporter.scrape()
        exporter.clock.advance(HOUR)
        exporter.scrape()
        waiting = [
            query for query in read_status_response(exporter.exporter)["queries"] if query["state"] == "deferred"
        ]
        assert len(waiting) == 2
        assert {query["message"] for query in waiting} == {"deferred until 09:20 (budget.share is used up)"}


def test_rejected_key_is_shown(exporter: ExporterRig) -> None:
    """The message names the missing permission and the time of the next attempt."""
    exporter.braze.inject(response_faults.status(403))
    exporter.scrape()
    exporter.read_lists()  # before the key changes
    messages = {query["message"] for query in read_status_response(exporter.exporter)["queries"]}
    assert messages == {f"failed: {FORBIDDEN}"}
    assert exporter.page().values("braze_queries", state="failed") == [len(exporter.page().values("braze_query_up"))]
    assert workspace_messages(exporter)[:2] == [
        "error",
        "403 Forbidden: the key lacks the permission events.data_series. Next attempt at 07:22.",
    ]
    assert {query["next_at"] for query in read_status_response(exporter.exporter)["queries"]} == {NOW + 120}
    exporter.clock.advance(120)
    again = "403 Forbidden: the key lacks the permission events.data_series. Next attempt at the next scrape."
    assert workspace_messages(exporter)[1] == again
    exporter.braze.clear_faults()
    exporter.braze.key = "another"
    exporter.scrape()
    assert "failed: 401 Unauthorized: API key rejected" in query_message(exporter)
    assert workspace_messages(exporter)[:2] == ["error", "401 Unauthorized: API key rejected. Next attempt at 07:24."]
    assert KEY not in str(read_status_response(exporter.exporter))


def test_unreachable_braze_is_shown(exporter: ExporterRig) -> None:
    """Until Braze has responded, the workspace shows the failure and when the next call is made."""
    exporter.braze.inject(transfer_faults.disconnect())
    exporter.scrape()
    exporter.scrape()
    assert workspace_messages(exporter)[:2] == [
        "error",
        "Braze has not responded yet: connection failed. Next attempt at 07:20:05.",
    ]
    assert {query["next_at"] for query in read_status_response(exporter.exporter)["queries"]} == {NOW + 5}
    exporter.braze.clear_faults()
    exporter.clock.advance(5)
    exporter.scrape()
    assert "not responded" not in " ".join(workspace_messages(exporter))


def read_lists(exporter: ExporterRig) -> None:
    """Refresh the lists that are due and wait until none is in flight."""
    exporter.refresh()
    inside = exporter.exporter._list_refresher  # noqa: SLF001 - no scrape waits for the lists
    inside.refresh()
    wait_until(lambda: not any(item.in_flight for item in inside._lists.values()), "no list fetch is in flight")  # noqa: SLF001


def test_suspect_list_is_shown() -> None:
    """A list that has lost its items is a warning, and the selector still matches the previous items."""
    names = [f"e{number}" for number in range(10)]
    with running_exporter("{regex: 'e.*'}", RecordedCounts(events=names), reads_lists=True) as exporter:
        read_lists(exporter)
        exporter.clock.advance(3_600)
        exporter.braze.traffic = RecordedCounts()
        read_lists(exporter)
        assert workspace_messages(exporter)[:2] == [
            "warning",
            "Braze's list of events lacks more than half of its items. The previous list is used for an hour.",
        ]


def test_selector_workspace_waits_for_list() -> None:
    """A workspace is not healthy while selectors wait for a list, match nothing, or have skipped items."""
    with running_exporter("{regex: 'p.*|s.*'}", shop(), extra_yaml="max_queries: 1\n", reads_lists=True) as exporter:
        waits = "Selectors of custom_events are waiting for Braze's list of events."
        assert workspace_messages(exporter) == ["pending", waits]
        exporter.braze.permissions = {"events.data_series"}
        read_lists(exporter)
        forbidden = "403 Forbidden: the key lacks the permission events.list"
        unread = f"Braze's list of events could not be read: {forbidden}. Next attempt"
        assert workspace_messages(exporter) == ["error", f"{unread} at Tue 07:20.", waits]
        exporter.clock.advance(86_400)
        assert workspace_messages(exporter)[1] == f"{unread} at the next scrape."
        exporter.braze.permissions = {"events.list", "events.data_series"}
        read_lists(exporter)
        exporter.scrape()
        selectors = "Selectors of custom_events match"
        skipped = f"{selectors} 2 of 2 events, 1 skipped. Raise max_queries or budget.share, or match fewer events."
        assert workspace_messages(exporter) == ["warning", skipped, "The only query is up."]
        exporter.apply_config("{regex: 'p.*|s.*'}")
        exporter.clock.advance(300)
        exporter.scrape()
        assert workspace_messages(exporter) == ["ok", "All 2 queries are up.", f"{selectors} 2 of 2 events."]
        exporter.apply_config("{regex: 'p.*'}\n" + "\n".join(f"{{regex: 'x{number}'}}" for number in range(5)))
        exporter.scrape()
        assert workspace_messages(exporter) == [
            "warning",
            *(f'Selector of custom_events: regex "x{n}" matches none of 2 items in Braze\'s list.' for n in range(3)),
            "Selectors of custom_events: 2 more match no item.",
            "The only query is up.",
            f"{selectors} 1 of 2 events.",
        ]
        exporter.apply_config("{regex: 'x'}")
        read_lists(exporter)
        mismatch = 'Selector of custom_events: regex "x" matches none of 2 items in Braze\'s list.'
        assert workspace_messages(exporter) == ["warning", mismatch]
        exporter.braze.inject(response_faults.status(503), path="/events/list")
        exporter.clock.advance(HOUR)
        read_lists(exporter)
        failed = "Braze's list of events could not be read: 503 Service Unavailable. Next attempt at 08:26"
        assert workspace_messages(exporter) == [
            "error",
            f"{failed}. The previous list is used.",
            mismatch,
        ]


def test_key_rejected_for_list_is_shown_with_list_retry() -> None:
    """Without a query, the list shows when the key is tried again."""
    with running_exporter("{regex: '.*'}", shop(), reads_lists=True) as exporter:
        exporter.braze.key = "another"
        read_lists(exporter)
        rejected = "Braze's list of events could not be read: 401 Unauthorized: API key rejected"
        assert workspace_messages(exporter)[:2] == ["error", f"{rejected}. Next attempt at 07:22."]
        assert len(workspace_messages(exporter)) == 3
        exporter.apply_config("{regex: '.*'}\n{event: purchase}")
        read_lists(exporter)
        assert workspace_messages(exporter)[:2] == [
            "error",
            "401 Unauthorized: API key rejected. Next attempt at 07:22.",
        ]
        assert "could not be read" not in " ".join(workspace_messages(exporter))


def test_failed_name_list_is_no_problem() -> None:
    """A forbidden list that no selector uses is shown, but does not affect the health."""
    with running_exporter("{event: purchase}", shop(), reads_lists=True) as exporter:
        exporter.braze.permissions = {"events.data_series"}
        read_lists(exporter)
        forbidden = "Braze's list of events could not be read: 403 Forbidden: the key lacks the permission events.list"
        unread = f"{forbidden}. Next attempt at Tue 07:20. No values depend on it."
        assert workspace_messages(exporter) == ["ok", "The only query is up.", unread]


def test_list_is_read_again_after_pause_of_its_pool() -> None:
    """A list that failed with a 429 shows the end of the pause as its next attempt."""
    with running_exporter("{regex: '.*'}", shop(), reads_lists=True) as exporter:
        exporter.braze.inject(response_faults.rate_limited())
        read_lists(exporter)
        assert workspace_messages(exporter)[:3] == [
            "error",
            "Braze's list of events could not be read: 429 Too Many Requests. Next attempt at 08:00.",
            "Requests in the lists pool are paused until 08:00 (429 Too Many Requests).",
        ]


def test_unlisted_subjects_are_shown_with_suggestions() -> None:
    """Unlisted subjects are shown with suggestions, at most three by name."""
    script = "<script>alert(1)</script>"
    events = f"{{event: purchse}}\n{{event: signup}}\n{{event: '{script}'}}\n{{event: purchse, unit: day}}"
    with running_exporter(events, shop(), reads_lists=True) as exporter:
        exporter.braze.unknown_event = UnknownEvent.EMPTY
        read_lists(exporter)
        exporter.clock.advance(300)
        exporter.scrape()
        unlisted = 'Missing from Braze\'s list of events: "purchse" (did you mean "purchase"?).'
        odd = f'Missing from Braze\'s list of events: "{script}".'
        assert workspace_messages(exporter) == ["warning", unlisted, odd, "All 4 queries are up."]
        exporter.apply_config("\n".join(f"{{event: x{number}}}" for number in range(1_005)))
        messages = [text for text in workspace_messages(exporter) if "list" in text]
        assert messages == [
            *(f'Missing from Braze\'s list of events: "x{number}".' for number in range(3)),
            "Missing from Braze's lists: 1,002 more. See braze_query_unlisted.",
        ]
        exporter.apply_config("{event: signup}")
        exporter.scrape()
        assert workspace_messages(exporter) == ["ok", "The only query is up."]


def test_failures_in_a_row_are_shown(exporter: ExporterRig) -> None:
    """A failure shows its status and, from the second time on, how often it occurred in a row."""
    exporter.scrape()
    exporter.braze.inject(response_faults.status(503, "come back later"))
    for expected in ("", ", 2 times in a row", ", 3 times in a row"):
        exporter.clock.advance(1_100)
        exporter.scrape()
        assert query_message(exporter) == f"failed: 503 Service Unavailable{expected}"
    error = find_query(read_status_response(exporter.exporter), "purchase")["error"]
    assert error == "server_error: 503 Service Unavailable: come back later"
    exporter.clock.advance(HOUR)
    assert query_message(exporter) == "stale: 503 Service Unavailable, 3 times in a row"


def test_missing_scrapes_are_shown(exporter: ExporterRig) -> None:
    """Stale queries say that no scrape has arrived."""
    exporter.scrape()
    exporter.clock.advance(299)
    assert read_status_response(exporter.exporter)["errors"] == []
    exporter.clock.advance(HOUR)
    assert read_status_response(exporter.exporter)["errors"] == [
        "No scrape in the last 5 minutes. Queries run only when Prometheus scrapes /metrics."
    ]
    assert query_message(exporter) == "stale: no recent scrape"
    assert workspace_messages(exporter)[:2] == ["error", "6 of 6 queries stale."]


def test_every_reason_has_a_message() -> None:
    """Every `Reason` has its own message without unfilled placeholders."""
    query = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase")
    texts = set()
    for reason in Reason:
        entry = QueryState(query, 0.0, fetch_error=BrazeError(reason, f"the {reason}: teapot"))
        texts.add(status_messages.query_message(entry, QueryStatus.FAILED, None, str))
    assert len(texts) == len(Reason)
    assert all(text.startswith("failed: ") and "{" not in text for text in texts)


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
def test_times_are_formatted(seconds: float, expected: str) -> None:
    """Times are in the workspace's time zone, with seconds and the weekday only where needed."""
    assert status_messages.format_time(NOW + seconds, NEW_YORK, NOW) == expected


def test_exporter_problems_are_shown() -> None:
    """A failed config reload and a state file that cannot be written are shown."""
    messages = status_messages.exporter_messages(scrape_age=0.0, is_config_good=False, are_counters_stalled=True)
    assert messages == [
        "Configuration reload failed, keeping the previous one. See the log.",
        "State file could not be written, counters are not updated. See the log.",
    ]
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        exporter.exporter.record_failed_reload()
        assert read_status_response(exporter.exporter)["errors"] == messages[:1]


def test_timezone_mismatch_is_shown() -> None:
    """A time zone mismatch shows which setting to change."""
    with running_exporter("{event: purchase, unit: day}", shop()) as exporter:
        exporter.braze.zone = ZoneInfo("Pacific/Auckland")
        exporter.scrape()
        assert workspace_messages(exporter)[:2] == [
            "error",
            "Braze's newest day is not today in America/New_York. Set timezone to the company's time zone in Braze.",
        ]


@pytest.mark.no_cover
def test_pending_history_is_shown(exporter: ExporterRig) -> None:
    """The page shows the remaining calls for baseline history after all other messages."""
    assert workspace_messages(exporter)[-1] == "Fetching history for baselines: 16 calls left."

    def is_done() -> bool:
        exporter.scrape()
        exporter.clock.advance(60)
        return workspace_messages(exporter) == ["ok", "All 6 queries are up."]

    wait_until(is_done, "the history is fetched")


def test_several_pauses_and_failures_are_shown() -> None:
    """Each paused pool is shown before the state of the queries."""
    pause = Pause(PauseReason.RESERVE, 60.0)
    limiter_status = LimiterStatus({"default": pause, "lists": pause}, None, {}, None)
    assert status_messages.workspace_messages(
        Counter({QueryStatus.UP: 2}), limiter_status, {}, lambda seconds: f"+{seconds:g}"
    ) == [
        *(
            (
                status_messages.Level.WARNING,
                f"Requests in the {pool} pool are paused until +60 (only budget.reserve is left).",
            )
            for pool in ("default", "lists")
        ),
        (status_messages.Level.OK, "All 2 queries are up."),
    ]


def test_rejected_endpoint_waits_for_pause_of_its_pool() -> None:
    """The next attempt at an endpoint that rejects the key is not before the end of the pause of its pool."""
    failure = BlockingFailure(BrazeError(Reason.FORBIDDEN, FORBIDDEN), 60.0)
    pauses = {"default": Pause(PauseReason.RESERVE, 600.0), "lists": Pause(PauseReason.RESERVE, 900.0)}
    limiter_status = LimiterStatus(pauses, None, {CUSTOM_EVENTS.path: failure}, None)
    messages = status_messages.workspace_messages(
        Counter(), limiter_status, {CUSTOM_EVENTS.path: "default"}, lambda seconds: f"+{seconds:g}"
    )
    assert messages[0] == (status_messages.Level.ERROR, f"{FORBIDDEN}. Next attempt at +600.")


def test_campaign_is_shown_as_one_value() -> None:
    """A campaign is shown as one query, whose value is the number of messages sent over all channels."""
    campaign = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", channels=("email", "sms"))
    today = int(datetime(2026, 11, 23, tzinfo=NEW_YORK).timestamp())
    with running_exporter(
        "{event: purchase}", shop(), extra_yaml=f"    campaigns:\n      - campaign: {campaign.id}\n"
    ) as exporter:
        exporter.braze.inventory = Inventory(campaigns=(campaign,))
        exporter.braze.series_counts = figures = RecordedCounts()
        before = find_query(read_status_response(exporter.exporter), campaign.id, "day")
        figures.set(f"campaigns/{campaign.id}", today - 24 * HOUR, 1_000)
        exporter.scrape()
        figures.set(f"campaigns/{campaign.id}", today, 70)
        exporter.clock.advance(900)
        exporter.scrape()
        status = read_status_response(exporter.exporter)
        found = find_query(status, campaign.id, "day")

        def remove_email(content: dict[str, Any]) -> None:
            for row in content["data"]:
                del row["messages"]["email"]

        exporter.braze.inject(response_faults.edited(remove_email), path="/campaigns/data_series")
        exporter.clock.advance(900)
        exporter.scrape()
        only_sms = find_query(read_status_response(exporter.exporter), campaign.id, "day")
    assert (before["latest"], before["total"]) == (None, None)
    assert len(status["queries"]) == 2
    assert (found["latest"], found["settled"], found["baseline"], found["total"]) == (140, 2_000, None, 140)
    assert found["values"][-2:] == [2_000, 140]
    assert (only_sms["latest"], only_sms["total"], only_sms["values"][-2:]) == (70, 140, [1_000, 70])
    assert only_sms["starts"] == found["starts"]
    assert found["tags"] == ["daily", "campaign messages"]
    selector = f'braze_campaign_messages_daily_settled{{workspace="production", campaign_id="{campaign.id}"'
    assert found["metrics"][0] == f'{selector}, campaign="", stat=~"sent|impressions"}}'


def test_settled_points_are_counted() -> None:
    """At 12:20, of 24 hours 22 have settled: the newest is in progress, and the one before may still change."""
    with running_exporter("{event: purchase}\n{event: purchase, unit: day}", shop()) as exporter:
        exporter.scrape()
        status = read_status_response(exporter.exporter)
        hours, days = find_query(status, "purchase"), find_query(status, "purchase", "day")
        assert hours["starts"] == tuple(CURRENT_HOUR - number * HOUR for number in range(23, -1, -1))
        assert (len(hours["values"]), hours["settled_count"]) == (24, 22)
        assert days["starts"][-1] == datetime(2026, 11, 23, 5, tzinfo=UTC).timestamp()
        assert (len(days["values"]), days["settled_count"]) == (14, 13)


def test_hole_has_no_value() -> None:
    """An hour without a number has a start but no value, and is not counted as zero."""
    with running_exporter("{event: purchase}", shop()) as exporter:

        def change(content: dict[str, Any]) -> None:
            content["data"][5]["count"] = None
            del content["data"][4]

        exporter.braze.inject(response_faults.edited(change))
        exporter.scrape()
        query = find_query(read_status_response(exporter.exporter), "purchase")
        assert len(query["starts"]) == len(query["values"]) == 23
        assert [index for index, value in enumerate(query["values"]) if value is None] == [4]


def test_reported_limit_is_shown_in_budget() -> None:
    """The budget and the reserve are fractions of the limit that Braze reported, not of the default limit."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.braze.limit = 10_000
        (before,) = read_status_response(exporter.exporter)["workspaces"][0]["pools"]
        exporter.scrape()
        (after,) = read_status_response(exporter.exporter)["workspaces"][0]["pools"]
    assert (before["limit"], before["allowed"], before["reserve"]) == (250_000, 25_000, 50_000)
    assert (after["limit"], after["allowed"], after["reserve"]) == (10_000, 1_000, 2_000)
    assert (after["planned"], after["remaining"]) == (12, 9_999)


def test_page_during_reload_shows_remaining_workspaces(exporter: ExporterRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of a reload that removes or adds a workspace, the page shows the others."""
    scheduler, shown = exporter.exporter._scheduler, []  # noqa: SLF001 - reads the page between two steps of a reload
    set_queries = scheduler.set_queries

    def read() -> None:
        status = read_status_response(exporter.exporter)
        numbers = Counter(query["metrics"][0].split('"')[1] for query in status["queries"])
        shown.append([(name, numbers[name]) for name in (workspace["name"] for workspace in status["workspaces"])])

    def set_queries_slowly(*arguments: Any) -> None:  # noqa: ANN401
        read()
        set_queries(*arguments)
        read()

    exporter.scrape()
    monkeypatch.setattr(scheduler, "set_queries", set_queries_slowly)
    one = workspace_yaml(exporter.url, "{event: purchase}", name="staging")
    for text in (one, one + workspace_item_yaml(exporter.url, "{event: signup}"), one):
        config = load_config(text, "config.yaml", {"BRAZE_API_KEY": KEY})
        exporter.exporter.apply_config(config, build_plan(config), exporter.session)
        read()
    staging, production = ("staging", 1), ("production", 1)
    assert shown == [
        *([("production", 6)], [], [staging]),
        *([staging], [staging], [staging, production]),
        *([staging, production], [staging], [staging]),
    ]


@pytest.mark.no_cover
def test_page_data_of_2000_queries_is_fast() -> None:
    """The status response for 2,000 queries takes less than half a second, a generous bound for busy machines."""
    events = "\n".join(f"{{event: event {number}}}" for number in range(2_000))
    with running_exporter(events, RecordedCounts(events=[]), extra_yaml="budget: {share: 0.5}\n") as exporter:
        exporter.scrape(60)
        page = exporter.page()
        assert page.value("braze_queries", state="up") == 2_000
        seconds = []
        for _ in range(5):
            started_at = time.perf_counter()
            read_status_response(exporter.exporter)
            seconds.append(time.perf_counter() - started_at)
    print(f"status of 2,000 queries: {min(seconds) * 1_000:.1f} ms")
    assert min(seconds) < 0.5
