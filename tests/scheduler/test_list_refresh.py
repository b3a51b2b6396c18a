"""Test that lists are read about once an hour, without delaying scrapes, and that selector queries follow them."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange
from recorded_counts import RecordedCounts
from support import (
    CURRENT_HOUR,
    KEY,
    ExporterRig,
    MetricsPage,
    running_exporter,
    series_requests,
    wait_until,
    workspace_item_yaml,
    write_file,
)

from braze_exporter.simulator.inventory import Campaign, Inventory, Segment
from braze_exporter.simulator.reply import Reply

LIST_INTERVAL_SECONDS = 3_600
ITEMS, MATCHED, SKIPPED = (f"braze_discovery_items{suffix}" for suffix in ("", "_matched", "_skipped"))
LATEST, UNLISTED = "braze_custom_events_hourly_latest", "braze_query_unlisted"
LAST_SUCCESS = "braze_discovery_list_last_success_timestamp_seconds"
SUSPECT = "braze_discovery_list_suspect"
WELCOME = "f293e280-c0e7-4304-b9b9-62803fc0b053"


def shop(*names: str) -> RecordedCounts:
    """Return events that have occurred five times in this hour."""
    recorded = RecordedCounts()
    for name in names:
        recorded.set(name, CURRENT_HOUR, 5)
    return recorded


def requested_pages(exporter: ExporterRig, path: str = "/events/list") -> int:
    """Return how many pages of a list were requested."""
    return sum(request.path == path for request in exporter.braze.requests)


def read_lists(exporter: ExporterRig) -> None:
    """Scrape, and read the lists that are due."""
    exporter.refresh()
    exporter.read_lists()


def fetching_threads() -> set[str]:
    """Return the names of the threads that fetch."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("fetch ")}


def exposed_events(page: MetricsPage) -> set[str]:
    """Return all events in the page's labels."""
    return {dict(labels)["event"] for _, labels in page.samples if "event" in dict(labels)}


@contextmanager
def running_discovery(events: str, *names: str, extra_yaml: str = "") -> Iterator[ExporterRig]:
    """Run the exporter and a simulator with these events, and read the lists once."""
    with running_exporter(events, shop(*names), extra_yaml=extra_yaml, reads_lists=True) as rig:
        read_lists(rig)
        yield rig


def test_selected_items_are_fetched_by_next_scrape() -> None:
    """The first scrape starts reading the list, and the next one fetches the selected events."""
    with running_exporter("{regex: 'cart_.*'}", shop("cart_a", "cart_b", "other"), reads_lists=True) as exporter:
        exporter.braze.inject(transfer_faults.hold())
        page = exporter.scrape()
        assert exposed_events(page) == set()
        assert page.value("braze_queries", kind="custom_events", state="pending") == 0
        exporter.braze.wait_for(1)
        exporter.braze.clear_faults()
        exporter.read_lists()
        page = exporter.scrape()
        assert exposed_events(page) == {"cart_a", "cart_b"}
        assert page.values(LATEST) == [5, 5]
        counts = [page.value(name, workspace="production", kind="custom_events") for name in (ITEMS, MATCHED, SKIPPED)]
        assert counts == [3, 2, 0]
        assert page.value("braze_api_requests_total", path="/events/list", code="200") == 2
        assert page.value("braze_api_rate_limit_remaining", pool="lists") == 998


def test_regex_with_many_ways_to_match_delays_no_list() -> None:
    """A regex that a backtracking matcher tries in 2^30 ways is applied at once to an event that it does not match."""
    names = ("a" * 60, "a" * 60 + "b")
    with running_exporter(f"{{regex: '{'(?:aa|a)' * 30}b'}}", shop(*names), reads_lists=True) as exporter:
        exporter.read_lists()
        assert [query.subject for query in exporter.exporter.plan.queries] == [names[1]]


def test_list_success_time_is_exposed() -> None:
    """The success time of a list is 0 at first, then that of the last complete read, and disappears with the list."""
    with running_exporter("{regex: '.*'}", shop("a"), reads_lists=True) as exporter:
        assert exporter.page().value(LAST_SUCCESS, workspace="production", list="events") == 0
        read_lists(exporter)
        first = exporter.clock.now
        assert exporter.page().value(LAST_SUCCESS) == first
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exporter.page().value(LAST_SUCCESS) == first + LIST_INTERVAL_SECONDS
        exporter.braze.inject(response_faults.status(500), path="/events/list")
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exporter.page().value(LAST_SUCCESS) == first + LIST_INTERVAL_SECONDS
        exporter.apply_config("{regex: '.*'}", **{"127.0.0.1": "localhost"})
        assert exporter.page().value(LAST_SUCCESS) == 0
        exporter.apply_config("{event: a}", **{"custom_events": "sessions", "{event: a}": "{unit: day}"})
        assert exporter.page().values(LAST_SUCCESS) == []


def test_list_is_read_hourly_while_scraped() -> None:
    """The list is read once an hour while scrapes arrive, and not at all without scrapes."""
    with running_discovery("{regex: '.*'}", "a") as exporter:
        for _ in range(11):
            exporter.clock.advance(300)
            read_lists(exporter)
        assert requested_pages(exporter) == 2
        exporter.clock.advance(300)
        read_lists(exporter)
        assert requested_pages(exporter) == 4
        exporter.clock.advance(86_400)
        assert requested_pages(exporter) == 4
        read_lists(exporter)
        assert requested_pages(exporter) == 6


def test_unchanged_list_changes_nothing() -> None:
    """Reading an unchanged list makes no new plan."""
    with running_discovery("{regex: '.*'}", "a") as exporter:
        plan = exporter.exporter.plan
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert requested_pages(exporter) == 4
        assert exporter.exporter.plan is plan


def test_rejected_key_is_tried_once_by_list() -> None:
    """After a query was rejected, a list tries the key once, since the key may only lack a permission."""
    with running_exporter("{regex: '.*'}\n{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.key = "another"
        for _ in range(3):
            exporter.refresh()
            read_lists(exporter)
        assert [request.path for request in exporter.braze.requests] == ["/events/data_series", "/events/list"]


def test_key_rejected_for_list_is_tried_by_query_at_once() -> None:
    """A key rejected for a list is tried by a query at once, even if no query is due."""
    with running_exporter("{event: a, refresh_interval: 12h}", shop("a"), reads_lists=True) as exporter:
        read_lists(exporter)
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        exporter.braze.key = "another"
        state = "braze_queries"
        read_lists(exporter)
        assert exporter.page().value(state, state="up") == 1
        read_lists(exporter)
        assert exporter.page().value(state, state="failed") == 1
        exporter.braze.key = KEY
        exporter.clock.advance(121)
        read_lists(exporter)
        assert exporter.page().value(state, state="up") == 1


def test_list_with_open_circuit_is_not_deferred() -> None:
    """A list whose circuit is open is not counted as deferred."""
    with running_exporter("{regex: '.*'}\n{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.key = "another"
        for _ in range(5):
            read_lists(exporter)
            exporter.clock.advance(61)
        assert exporter.page().value(
            "braze_api_requests_failed_total", path="/events/data_series", reason="unauthorized"
        )
        assert exporter.page().value("braze_api_requests_deferred_total", pool="lists") == 0


def test_list_result_keeps_circuit_open() -> None:
    """A successful list does not close the circuit of an endpoint whose permission is missing."""
    with running_exporter("{regex: '.*'}\n{event: a}", shop("a", "b"), reads_lists=True) as exporter:
        exporter.braze.permissions = {"events.list"}
        exporter.refresh()
        read_lists(exporter)
        exporter.clock.advance(10)
        assert exposed_events(exporter.scrape()) == {"a", "b"}
        assert requested_pages(exporter, "/events/data_series") == 1
        exporter.clock.advance(110)
        exporter.refresh()
        assert requested_pages(exporter, "/events/data_series") == 2


def test_added_and_removed_items_change_metrics() -> None:
    """An added event is fetched after the next read, a removed one disappears, and the others are unaffected."""
    with running_discovery("{regex: '.*'}", "gone", "stays") as exporter:
        assert exposed_events(exporter.scrape()) == {"gone", "stays"}
        exporter.braze.traffic = shop("stays", "new")
        exporter.clock.advance(LIST_INTERVAL_SECONDS - 1)
        read_lists(exporter)
        assert exposed_events(exporter.scrape()) == {"gone", "stays"}
        exporter.clock.advance(1)
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"gone", "stays", "new"}
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"stays", "new"}
        assert exporter.page().value(LATEST, event="stays") == 0  # the value of the hour that has begun meanwhile
        exporter.clock.advance(60)
        exporter.refresh()
        assert [request.event for request in exporter.braze.requests].count("new") == 1
        assert exporter.page().value("braze_custom_events_total", event="new") == 0


def read_at_minute(exporter: ExporterRig, start: float, minute: float) -> int:
    """Advance the clocks to `minute` after `start`, scrape, and return how many pages this has requested."""
    requested = requested_pages(exporter)
    exporter.clock.advance(start + 60 * minute - exporter.clock.now)
    read_lists(exporter)
    return requested_pages(exporter) - requested


def test_item_is_removed_an_hour_after_it_went_missing() -> None:
    """An item is removed by a read an hour after the first one without it, and the next read follows in 5 minutes."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", "a", "b", "c") as exporter:
        start = exporter.clock.now
        exporter.braze.traffic = shop("a", "c")
        assert read_at_minute(exporter, start, 60) == 2
        assert exposed_events(exporter.scrape()) == {"a", "b", "c"}
        for minute in (61, 65, 119):
            assert read_at_minute(exporter, start, minute) == 0
        exporter.apply_config("{regex: '.*', refresh_interval: 6h}")  # the next scrape reads the list again
        assert read_at_minute(exporter, start, 119.5) == 2
        assert exposed_events(exporter.page()) == {"a", "b", "c"}
        assert read_at_minute(exporter, start, 179) == 0
        assert read_at_minute(exporter, start, 179.5) == 2
        assert exposed_events(exporter.page()) == {"a", "c"}
        exporter.braze.traffic = shop("a", "b", "c")
        assert read_at_minute(exporter, start, 184) == 0
        assert read_at_minute(exporter, start, 184.5) == 2
        assert exposed_events(exporter.page()) == {"a", "b", "c"}
        assert read_at_minute(exporter, start, 244) == 0


def test_item_that_is_listed_again_counts_as_missing_anew() -> None:
    """If a missing item is listed again, it is kept for another hour when it goes missing the next time."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", "a", "b", "c") as exporter:
        plan = exporter.exporter.plan
        for names in (("a",), ("a", "b", "c"), ("a", "c"), ("a", "b")):
            exporter.braze.traffic = shop(*names)
            exporter.clock.advance(LIST_INTERVAL_SECONDS)
            read_lists(exporter)
            assert exporter.exporter.plan.queries == plan.queries
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"a", "b"}


TEN = tuple(f"e{number}" for number in range(10))


@pytest.mark.parametrize("rest", [(), TEN[:4], (*TEN[:4], "new")], ids=len)
def test_list_that_lost_half_of_its_items_is_suspect(rest: Sequence[str], caplog: pytest.LogCaptureFixture) -> None:
    """A list that is short for 200 seconds changes no query, is reported as suspect and is read again soon."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", *TEN) as exporter, caplog.at_level(logging.INFO):
        start, plan = exporter.clock.now, exporter.exporter.plan
        assert exporter.page().value(SUSPECT, workspace="production", list="events") == 0
        exporter.braze.traffic = shop(*rest)
        read_at_minute(exporter, start, 60)
        page = exporter.page()
        assert exporter.exporter.plan is plan
        assert page.value(SUSPECT) == 1
        assert page.value(LAST_SUCCESS) == start
        assert page.value(ITEMS) == 10
        exporter.braze.traffic = shop(*TEN, "new")
        assert read_at_minute(exporter, start, 64) == 0
        assert read_at_minute(exporter, start, 65) == 2
        page = exporter.page()
        assert page.value(SUSPECT) == 0
        assert page.value(ITEMS) == 11
        assert exposed_events(page) == {*TEN, "new"}
        assert read_at_minute(exporter, start, 124) == 0
        lines = [record for record in caplog.records if "suspect" in record.message]
        assert [(record.message, record.fields) for record in lines] == [  # type: ignore[attr-defined] # set by the logger
            (
                "List is suspect, keeping the previous one",
                {
                    "workspace": "production",
                    "list": "events",
                    "items": len(rest),
                    "missing": 10 - len({*rest} & {*TEN}),
                },
            ),
            ("List is no longer suspect", {"workspace": "production", "list": "events"}),
        ]


def test_suspect_list_counts_if_an_hour_later_agrees() -> None:
    """A suspect list is used if a read an hour later lacks more than half of the items too."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", *TEN) as exporter:
        start = exporter.clock.now
        exporter.braze.traffic = shop(*TEN[:3])
        for minute, pages in ((60, 2), (65, 2), (119, 0)):
            assert read_at_minute(exporter, start, minute) == pages
            assert exposed_events(exporter.page()) == {*TEN}
            assert exporter.page().value(SUSPECT) == 1
        assert read_at_minute(exporter, start, 120) == 2
        assert exposed_events(exporter.page()) == {*TEN[:3]}
        assert exporter.page().value(SUSPECT) == 0


@pytest.mark.parametrize(("before", "after"), [(10, 5), (8, 0)])
def test_list_is_not_suspect_without_loss_of_half_of_ten(before: int, after: int) -> None:
    """Half of the items, or a list of fewer than ten, may be missing; the items are removed an hour later."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", *TEN[:before]) as exporter:
        exporter.braze.traffic = shop(*TEN[:after], "new")
        for expected in ({*TEN[:before], "new"}, {*TEN[:after], "new"}):
            exporter.clock.advance(LIST_INTERVAL_SECONDS)
            read_lists(exporter)
            assert exporter.page().value(SUSPECT) == 0
            assert exposed_events(exporter.page()) == expected


def apply_key_file(exporter: ExporterRig, key: Path) -> None:
    """Apply a config that reads the API key from a file."""
    exporter.apply_config("{event: a}", **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {key}"})


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_list_is_read_after_rotation_of_accepted_key(tmp_path: Path, status: int) -> None:
    """A list that the key may not read is read about two minutes after another key is in the file, without a reload.

    Queries still succeed with the previous key.
    """
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        write_file(tmp_path / "key", KEY)
        apply_key_file(exporter, tmp_path / "key")
        read_lists(exporter)
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        exporter.braze.inject(response_faults.status(status), path="/events/list")
        read_lists(exporter)
        exporter.clock.advance(10)
        read_lists(exporter)
        requested = requested_pages(exporter)
        write_file(tmp_path / "key", "another")
        exporter.braze.clear_faults()
        exporter.braze.key = "another"
        exporter.clock.advance(100)
        read_lists(exporter)
        assert requested_pages(exporter) == requested
        exporter.clock.advance(30)
        read_lists(exporter)
        read_lists(exporter)
        assert requested_pages(exporter) == requested + 2
        assert exporter.page().value(LAST_SUCCESS) == exporter.clock.now


def test_rotated_key_reads_lists_of_its_workspace_only(tmp_path: Path) -> None:
    """Another key in the file of one workspace does not read the rejected lists of the others again."""
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        key = write_file(tmp_path / "key", "other")
        item = workspace_item_yaml(exporter.url, "{event: a}", name="staging")
        exporter.braze.inject(response_faults.status(403), path="/events/list")
        exporter.apply_config(
            "{event: a}", extra_yaml=item.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {key}")
        )
        read_lists(exporter)
        assert requested_pages(exporter) == 2
        write_file(tmp_path / "key", "another")
        exporter.clock.advance(130)
        for _ in range(3):
            read_lists(exporter)
        assert requested_pages(exporter) == 3


def test_list_forbidden_during_key_rotation_is_read_at_once(tmp_path: Path) -> None:
    """A 403 for the previous key does not delay a list if it arrives after the key has been rotated."""

    def forbid_later(exchange: Exchange) -> Reply:
        exchange.wait_until_cleared()
        return response_faults.status(403)(exchange)

    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        write_file(tmp_path / "key", KEY)
        apply_key_file(exporter, tmp_path / "key")
        read_lists(exporter)
        exporter.clock.advance(300)
        exporter.braze.inject(response_faults.status(401), path="/events/data_series", times=1)
        assert exporter.scrape().value("braze_query_up", event="a") == 0
        exporter.read_lists()
        exporter.clock.advance(115)
        requested = requested_pages(exporter)
        exporter.braze.inject(forbid_later, path="/events/list")
        apply_key_file(exporter, tmp_path / "key")  # the list is due
        exporter.scrape()
        wait_until(lambda: requested_pages(exporter) == requested + 1, "the list is requested")
        exporter.braze.key = "another"
        write_file(tmp_path / "key", "another")
        exporter.clock.advance(6)
        assert exporter.scrape().value("braze_query_up", event="a") == 1
        exporter.braze.clear_faults()
        exporter.read_lists()
        read_lists(exporter)
        assert requested_pages(exporter) == requested + 3
        assert exporter.page().value(LAST_SUCCESS) == exporter.clock.now


def test_failed_list_keeps_previous_one() -> None:
    """A failure on any page keeps the previous list; the list is retried from its start with increasing delays."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", "a", "b") as exporter:
        assert exposed_events(exporter.scrape()) == {"a", "b"}
        exporter.braze.traffic = shop("other")
        exporter.braze.page_size = 1
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        exporter.braze.reset()
        exporter.braze.inject(response_faults.edited(lambda _: None), path="/events/list", times=1)
        exporter.braze.inject(response_faults.status(503), path="/events/list")
        read_lists(exporter)
        assert requested_pages(exporter) == 2
        assert exposed_events(exporter.page()) == {"a", "b"}
        requested, waits = requested_pages(exporter), []
        for minute in range(1, 200):
            exporter.clock.advance(60)
            read_lists(exporter)
            if requested_pages(exporter) > requested:
                requested = requested_pages(exporter)
                waits.append(minute)
        assert waits == [1, 3, 7, 15, 31, 63, 123, 183]
        exporter.braze.clear_faults()
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"a", "b", "other"}


def test_list_failure_and_recovery_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A list failure is logged when it begins or its reason changes, and so is its end."""
    with running_discovery("{regex: '.*'}", "a") as exporter, caplog.at_level(logging.INFO):
        for fault in (
            response_faults.status(500),
            response_faults.status(500),
            response_faults.html(),
            response_faults.edited(lambda _: None),
        ):
            exporter.braze.inject(fault, path="/events/list")
            exporter.clock.advance(LIST_INTERVAL_SECONDS)
            read_lists(exporter)
        list_lines = [
            (record.message, getattr(record, "fields", {}).get("reason"), getattr(record, "fields", {}).get("list"))
            for record in caplog.records
            if record.message.startswith("List")
        ]
        assert list_lines == [
            ("List could not be read", "server_error", "events"),
            ("List could not be read", "invalid_response", "events"),
            ("List read again", None, "events"),
        ]


def test_counter_waits_for_hourly_selector_list() -> None:
    """A daily query has a counter only once the list shows that no hourly selector matches its event.

    If the key may not read the list, the daily query has the counter.
    """
    events = "{event: purchase, unit: day}\n{regex: '.*'}"
    with running_exporter(events, RecordedCounts(events=["purchase"]), reads_lists=True) as exporter:
        exporter.braze.inject(transfer_faults.hold(), path="/events/list")
        assert exporter.scrape().values("braze_custom_events_total") == []
        exporter.braze.clear_faults(path="/events/list")
        wait_until(lambda: exporter.page().values("braze_custom_events_total") == [0], "the list is read")
    with running_exporter(events, RecordedCounts(events=["purchase"]), reads_lists=True) as exporter:
        exporter.braze.permissions = {"events.data_series"}
        exporter.scrape()
        wait_until(lambda: exporter.page().values("braze_custom_events_total") == [0], "the list is refused")


def test_forbidden_list_is_read_daily(tmp_path: Path) -> None:
    """A list that the key may not read is tried again after a day, or at once with another key."""
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.permissions = {"events.data_series"}
        for _ in range(23):
            read_lists(exporter)
            exporter.clock.advance(LIST_INTERVAL_SECONDS)
        assert requested_pages(exporter) == 1
        assert exporter.page().value("braze_query_up", event="a") == 1
        exporter.apply_config("{event: a}")
        read_lists(exporter)
        assert requested_pages(exporter) == 1
        exporter.braze.key = "another"
        key = write_file(tmp_path / "key", "another")
        exporter.apply_config("{event: a}", **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {key}"})
        read_lists(exporter)
        assert requested_pages(exporter) == 2
        exporter.clock.advance(86_400)
        read_lists(exporter)
        assert requested_pages(exporter) == 3


@pytest.mark.parametrize(
    "changes", [{"production": "staging"}, {"custom_events": "sessions", "{regex: '.*'}": "{unit: day}"}]
)
def test_list_removed_by_reload_is_not_deferred(changes: dict[str, str]) -> None:
    """Lists that a reload removes while they are read or queued are not counted as deferred.

    If the reload removes their workspace, it has no metrics.
    """
    workspace = changes.get("production", "production")
    with running_exporter(
        "{regex: '.*'}", shop("a", "b"), extra_yaml="    purchases: [{regex: '.*'}]\n", reads_lists=True
    ) as exporter:
        exporter.braze.page_size = 1
        exporter.braze.inject(transfer_faults.hold())
        exporter.refresh()
        exporter.braze.wait_for(1)  # the other list waits for the first call of the pool
        removed = [*exporter.exporter._list_refresher._lists.values()]  # noqa: SLF001 - nothing else shows their end
        exporter.apply_config("{regex: '.*'}", **changes)
        exporter.braze.clear_faults()
        # The queue of a removed workspace is dropped, so that its list stays in flight.
        wait_until(lambda: sum(state.in_flight for state in removed) == (workspace == "staging"), "the reads end")
        page = exporter.page()
        assert len(exporter.braze.requests) == 1
    assert page.value("braze_api_requests_deferred_total", pool="lists") == 0
    assert {dict(labels).get("workspace", workspace) for _, labels in page.samples} == {workspace}


def test_deferred_list_resumes() -> None:
    """A list longer than an hour's share is read in parts, and used once it is complete."""
    extra_yaml = "budget: {share: 0.004}\n"
    with running_exporter(
        "{regex: '.*'}", shop(*(f"e{n}" for n in range(6))), extra_yaml=extra_yaml, reads_lists=True
    ) as exporter:
        exporter.braze.page_size = 1
        read_lists(exporter)
        read_lists(exporter)  # not again within a minute
        assert requested_pages(exporter) == 4
        page = exporter.page()
        assert page.value("braze_api_requests_deferred_total", pool="lists") == 1
        assert page.values(ITEMS) == []
        exporter.clock.advance(1_800)
        read_lists(exporter)
        assert requested_pages(exporter) == 6
        exporter.clock.advance(1_800)
        read_lists(exporter)
        assert requested_pages(exporter) == 7
        assert exporter.page().value(ITEMS) == 6


def test_skipped_items_are_exposed(caplog: pytest.LogCaptureFixture) -> None:
    """Items beyond `max_queries` are skipped, counted and logged, and current items are kept."""
    with (
        caplog.at_level(logging.INFO),
        running_discovery("{regex: '.*'}", "m", "n", extra_yaml="max_queries: 2\n") as exporter,
    ):
        assert exporter.page().value(SKIPPED) == 0
        exporter.braze.traffic = shop("a", "m", "n")
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        page = exporter.scrape()
        assert exposed_events(page) == {"m", "n"}
        assert [page.value(name) for name in (ITEMS, MATCHED, SKIPPED)] == [3, 3, 1]
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.message == "Selectors expanded"
        fields = {"workspace": "production", "kind": "custom_events", "items": 3, "matched": 3, "skipped": 1}
        assert record.fields == fields  # type: ignore[attr-defined] # set by the exporter's logger


def test_selector_without_items_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A selector that matches no item is logged once, and a tag with the nearest one that an item has."""
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter, caplog.at_level(logging.WARNING):
        exporter.braze.inventory = Inventory(campaigns=(Campaign(WELCOME, "Welcome", tags=("onboarding",)),))
        exporter.apply_config("{regex: 'b.*'}", extra_yaml="    campaigns: [{tag: onbording}]\n")
        for _ in range(2):
            read_lists(exporter)
            exporter.clock.advance(LIST_INTERVAL_SECONDS)
        fields = [record.fields for record in caplog.records if record.message == "Selector matches no item"]  # type: ignore[attr-defined] # set by the exporter's logger
        hint = '(did you mean "onboarding"?); tags are case-sensitive'
        assert sorted((field["kind"], field["detail"]) for field in fields) == [
            ("campaigns", f'no item in Braze\'s list has the tag "onbording" {hint}'),
            ("custom_events", 'regex "b.*" matches none of 1 item in Braze\'s list'),
        ]


def test_unlisted_event_is_exposed(caplog: pytest.LogCaptureFixture) -> None:
    """A configured event that is not listed is 1 in the metrics, and logged once with suggestions."""
    events = "{event: purchase}\n{event: purchase, unit: day}\n{event: Purchase}"
    with running_exporter(events, shop("purchase"), reads_lists=True) as exporter, caplog.at_level(logging.WARNING):
        assert exporter.scrape().values(UNLISTED) in ([], [0, 1])
        read_lists(exporter)
        for _ in range(2):
            page = exporter.scrape()
            assert page.value(UNLISTED, workspace="production", kind="custom_events", subject="purchase") == 0
            assert page.value(UNLISTED, subject="Purchase") == 1
            assert page.values(ITEMS) == []
            exporter.clock.advance(LIST_INTERVAL_SECONDS)
            read_lists(exporter)
        (record,) = [record for record in caplog.records if record.message == "Subject is missing from Braze's list"]
        fields = {"workspace": "production", "kind": "custom_events", "event": "Purchase", "suggestions": "purchase"}
        assert record.fields == fields  # type: ignore[attr-defined] # set by the exporter's logger
        assert [
            (named.subject, named.suggestions)
            for named in exporter.exporter.plan.configured_subjects
            if not named.is_listed
        ] == [("Purchase", ("purchase",))]
        exporter.braze.traffic = shop("purchase", "Purchases")
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exporter.exporter.plan.configured_subjects[1].suggestions == ("Purchases", "purchase")
        assert [record.message for record in caplog.records].count("Subject is missing from Braze's list") == 1
        exporter.apply_config("{event: purchase}")
        assert exporter.page().values(UNLISTED) == [0]


def test_many_unlisted_events_are_logged_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """If Braze lists none of 50 configured events, twenty are logged by name, and the others as a number."""
    events = "\n".join(f"{{event: event {number}}}" for number in range(50))
    with running_exporter(events, shop("purchase"), reads_lists=True) as exporter, caplog.at_level(logging.WARNING):
        exporter.scrape()
        read_lists(exporter)
        assert sum(exporter.page().values(UNLISTED)) == 50
        records = [record for record in caplog.records if "missing from Braze's list" in record.message]
        assert [record.message for record in records[19:]] == [
            "Subject is missing from Braze's list",
            "More subjects are missing from Braze's lists",
        ]
        assert records[-1].fields == {"subjects": 30}  # type: ignore[attr-defined] # set by the exporter's logger


def test_reload_uses_known_lists() -> None:
    """A reload uses the known lists at once, except for a workspace with another url."""
    with running_discovery("{regex: 'a.*'}", "a1", "a2", "b") as exporter:
        exporter.refresh()
        exporter.braze.reset()
        exporter.clock.advance(10)
        exporter.apply_config("{regex: 'b'}\n{event: a1}")
        page = exporter.scrape()
        assert exposed_events(page) == {"a1", "b"}
        assert [request.event for request in series_requests(exporter.braze)] == ["b"]
        assert page.value(MATCHED) == 1
        exporter.apply_config("{event: a1}")
        assert exporter.page().values(ITEMS) == []
        exporter.apply_config("{regex: 'b'}", **{"127.0.0.1": "localhost"})
        assert exposed_events(exporter.page()) == set()
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"b"}


def test_reload_refreshes_lists() -> None:
    """The next scrape after a reload reads the lists, as another key may belong to another workspace of the url."""
    with running_discovery("{regex: '.*', refresh_interval: 6h}", "a") as exporter:
        exporter.braze.traffic = shop("a", "b")
        exporter.clock.advance(60)
        read_lists(exporter)
        assert requested_pages(exporter) == 2
        exporter.apply_config("{regex: '.*', refresh_interval: 6h}")
        read_lists(exporter)
        assert requested_pages(exporter) == 4
        assert exposed_events(exporter.page()) == {"a", "b"}


def test_scrape_does_not_wait_for_list() -> None:
    """While a list hangs, scrapes and reloads succeed; the list is used once it arrives."""
    with running_exporter("{regex: '.*'}\n{event: a}", shop("a", "b"), reads_lists=True) as exporter:
        exporter.braze.inject(transfer_faults.hold(), path="/events/list")
        started = time.monotonic()
        assert exposed_events(exporter.scrape()) == {"a"}
        exporter.apply_config("{regex: '.*'}\n{event: a}", extra_yaml="max_queries: 100\n")
        assert exposed_events(exporter.scrape()) == {"a"}
        assert time.monotonic() - started < 5
        exporter.braze.clear_faults()
        read_lists(exporter)  # the list that hung belongs to the previous config
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"a", "b"}


def test_list_edit_without_query_change_keeps_plan() -> None:
    """A list change that affects no query, such as an edited campaign, makes no new plan."""
    changes = {"    custom_events:": "    campaigns: [{regex: '.*'}]\n    custom_events:"}
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.inventory = Inventory(campaigns=(Campaign(WELCOME, "Welcome"),))
        exporter.apply_config("{event: a}", **changes)
        for _ in range(3):  # until both lists are read, each after the first call of its pool has probed
            exporter.clock.advance(60)
            read_lists(exporter)
        plan = exporter.exporter.plan
        assert [query.subject for query in plan.queries] == ["a", "Welcome"]
        edited = Campaign(WELCOME, "Welcome", ("new",), last_edited="2026-11-23T12:00:00+00:00")
        exporter.braze.inventory = Inventory(campaigns=(edited,))
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        requested = requested_pages(exporter, "/campaigns/list")
        read_lists(exporter)
        assert requested_pages(exporter, "/campaigns/list") == requested + 2
        assert exporter.exporter.plan is plan


def test_campaigns_have_listed_names() -> None:
    """A configured campaign has no name until the list is read, and then its current name beside its id."""
    changes = {"    custom_events:": f"    campaigns: [{{campaign: {WELCOME}}}]\n    custom_events:"}
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.inventory = Inventory(campaigns=(Campaign(WELCOME, "Welcome"),))
        exporter.apply_config("{event: a}", **changes)
        up = "braze_query_up"
        assert exporter.scrape().value(up, campaign_id=WELCOME, campaign="") == 1
        exporter.clock.advance(60)
        read_lists(exporter)
        page = exporter.page()
        assert page.value(up, campaign_id=WELCOME, campaign="Welcome") == 1
        assert page.value(UNLISTED, kind="campaigns", subject=WELCOME) == 0
        exporter.braze.inventory = Inventory(campaigns=(Campaign(WELCOME, "Hello"), Campaign(WELCOME[::-1], "Hello")))
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exporter.page().value(up, campaign_id=WELCOME, campaign="Hello") == 1
        assert exporter.page().values(up, campaign="Welcome") == []


def test_archived_campaign_keeps_name() -> None:
    """An archived campaign is unlisted and keeps its last name, also if another campaign takes that name."""
    changes = {"    custom_events:": f"    campaigns: [{{campaign: {WELCOME}}}]\n    custom_events:"}
    other = Campaign(WELCOME[::-1], "Welcome")
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.apply_config("{event: a}", **changes)
        for world, name in (
            (Inventory(campaigns=(Campaign(WELCOME, "Welcome"),)), "Welcome"),
            (Inventory(campaigns=()), "Welcome"),
            (Inventory(campaigns=(other,)), "Welcome"),
            (Inventory(campaigns=(Campaign(WELCOME, "Hello"), other)), "Hello"),
        ):
            exporter.braze.inventory = world
            for _ in range(3):
                exporter.clock.advance(LIST_INTERVAL_SECONDS)
                read_lists(exporter)
            page = exporter.page()
            assert page.value("braze_query_up", campaign_id=WELCOME, campaign=name) is not None
            is_listed = WELCOME in {campaign.id for campaign in world.campaigns}
            assert page.value(UNLISTED, kind="campaigns", subject=WELCOME) == (not is_listed)


def test_lists_share_small_budget() -> None:
    """With one call an hour for two lists, both are read."""
    changes = {"    custom_events:": "    purchases: [{regex: '.*', refresh_interval: 1d}]\n    custom_events:"}
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.apply_config("{regex: '.*'}", extra_yaml="budget: {share: 0.001}\n", **changes)
        for _ in range(9):
            read_lists(exporter)
            exporter.clock.advance(3_600)
        assert requested_pages(exporter, "/events/list") >= 3
        assert requested_pages(exporter, "/purchases/product_list") >= 3


def test_lists_leave_calls_to_queries() -> None:
    """In the default pool, a list leaves half of the burst to queries."""
    extra_yaml = "budget: {share: 0.001}\n"
    changes = {"    custom_events:": "    segment_users: [{regex: '.*', refresh_interval: 1h}]\n    custom_events:"}
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.inventory = Inventory(
            segments=tuple(Segment(f"{n:08}{WELCOME[8:]}", f"s{n}") for n in range(300))
        )
        exporter.braze.page_size = 1
        exporter.apply_config("{event: a}", extra_yaml=extra_yaml, **changes)
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert 49 <= requested_pages(exporter, "/segments/list") <= 51


def test_closed_exporter_reads_no_list() -> None:
    """Closing the exporter ends the reading, also in the middle of a list."""
    with running_exporter("{regex: '.*'}", shop("a", "b", "c"), reads_lists=True) as exporter:
        exporter.braze.page_size = 1
        exporter.braze.inject(transfer_faults.hold(), path="/events/list")
        exporter.refresh()
        exporter.braze.wait_for(1)
        exporter.exporter.close()
        exporter.braze.clear_faults()
        wait_until(lambda: not fetching_threads(), "the threads have ended")
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        exporter.refresh()
        assert requested_pages(exporter) == 1


def test_internal_error_is_logged_and_retried(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error while applying a list is logged, and the next read is applied."""
    with running_exporter("{regex: '.*'}", shop("a"), reads_lists=True) as exporter:
        with monkeypatch.context() as patched:
            patched.setattr("braze_exporter.exporter.exporter.expand_selectors", lambda *_: 1 / 0)
            read_lists(exporter)
            wait_until(lambda: "Internal error in a worker thread" in caplog.text, "the error is logged")
        caplog.clear()
        exporter.braze.traffic = shop("a", "b")
        exporter.clock.advance(LIST_INTERVAL_SECONDS)
        read_lists(exporter)
        assert exposed_events(exporter.page()) == {"a", "b"}


def test_list_that_no_selector_needs_has_no_timestamp_until_read() -> None:
    """A list that the key may not read and that no selector needs has no timestamp, so that no alert fires for it."""
    read = "braze_discovery_list_last_success_timestamp_seconds"
    with running_exporter("{event: a}", shop("a"), reads_lists=True) as exporter:
        exporter.braze.permissions = {"events.data_series"}
        read_lists(exporter)
        assert exporter.page().values(read) == []
        exporter.apply_config("{event: a}\n{regex: 'b.*'}")
        assert exporter.page().value(read, list="events") == 0
