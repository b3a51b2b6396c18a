"""Test that `check --live` fetches each query once and prints one line per cause, the problems last."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pytest
import response_faults
import transfer_faults
from braze_variants import UnknownEvent
from fault_injection import Exchange, Fault
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    CURRENT_HOUR,
    HOUR,
    IOS,
    KEY,
    NEW_YORK,
    NOW,
    VIP,
    Clock,
    free_port,
    run_program,
    running_braze,
    workspace_item_yaml,
    workspace_yaml,
    write_file,
)

from braze_exporter.backfill.command_context import CommandContext
from braze_exporter.braze import time_zones, transport
from braze_exporter.commands import check_live
from braze_exporter.config.loading import load_config
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.inventory import Campaign, Inventory, Segment
from braze_exporter.simulator.reply import Reply
from braze_exporter.simulator.times import hours_of

EVENTS = "{event: purchase, apps: [all, ios]}\n{event: purchase, unit: day}\n{event: signup, baseline: {weeks: 4}}"
NO_PROBLEM_OUTPUT = """\
production: 4 of 4 queries succeeded
production: timezone America/New_York is correct: hourly values add up to daily values
production: the newest hour with a count above 0 has not ended yet. One response does not show how late Braze revises \
hours; see braze_bucket_revision_delay_seconds
0 problems, 0 notes
"""


@dataclass
class CheckLiveRig:
    """Holds a simulated Braze, and runs the command in this process."""

    braze: FaultInjectingBraze
    url: str
    clock: Clock

    def check(
        self, events: str = EVENTS, *, extra_yaml: str = "", key: str = KEY, zone: str = ""
    ) -> tuple[bool, list[str]]:
        """Run the command; return whether it found no problem, and the lines it printed."""
        text = workspace_yaml(self.url, events, extra_yaml=extra_yaml).replace(str(NEW_YORK), zone or str(NEW_YORK))
        config = load_config(text, "config.yaml", {"BRAZE_API_KEY": key})
        out, clock = io.StringIO(), self.clock
        with contextlib.closing(transport.open_session(10)) as session:
            ctx = CommandContext(
                session,
                clock,
                clock.advance,
                out,
                io.StringIO(),
                lambda _: None,
            )
            good = check_live.check_live(config, build_plan(config), ctx)
        assert key not in out.getvalue()
        return good, out.getvalue().splitlines()

    def problems(self, events: str = EVENTS, **changes: str) -> list[str]:
        """Return the reported problems, and check that the result of the command agrees with them."""
        good, lines = self.check(events, **changes)
        start = "production: problem: "
        result = [line.removeprefix(start) for line in lines if line.startswith(start)]
        assert good == (not result)
        assert lines == sorted(lines[:-1], key=lambda line: (start in line, "production: note: " in line)) + lines[-1:]
        assert lines[-1].startswith(f"{len(result)} problem{'s' if len(result) != 1 else ''}, ")
        return result


def counts() -> RecordedCounts:
    """Return varying counts of two events for the last 120 hours."""
    recorded = RecordedCounts()
    for back in range(120):
        for event, app in (("purchase", ""), ("purchase", IOS), ("signup", "")):
            recorded.set(event, CURRENT_HOUR - back * HOUR, 1 + back * back % 97, app_id=app)
    return recorded


@pytest.fixture
def braze() -> Iterator[CheckLiveRig]:
    """Run a simulated Braze with all events of `EVENTS` and the segment of the config."""
    clock = Clock()
    with running_braze(counts(), clock) as (running, server):
        running.inventory = Inventory(segments=(Segment(VIP, "Very important"),))
        yield CheckLiveRig(running, server.url, clock)


def test_check_live_with_valid_config_finds_no_problem(braze: CheckLiveRig) -> None:
    """Each query is fetched once, without history, along with the lists needed; the output summarizes the results."""
    assert braze.check() == (True, NO_PROBLEM_OUTPUT.splitlines())
    requested = [(request.path, request.params.get("length")) for request in braze.braze.requests]
    assert sorted(requested, key=str) == [("/events/data_series", "100")] * 4 + [
        ("/events/list", None),
        ("/events/list", None),
        ("/segments/list", None),
        ("/segments/list", None),
    ]


def test_response_larger_than_1_mib_is_read(braze: CheckLiveRig) -> None:
    """A response of more than 1 MiB, such as that of a campaign for 100 days, is no problem."""
    campaign = "0c38a773-8e62-4f0c-9e0f-1a2b3c4d5e6f"
    channels = ("ios_push", "android_push", "web_push")
    variations = tuple(f"Variation {number} " + "of the long welcome series " * 8 for number in range(9))
    sizes = []

    def measured(exchange: Exchange) -> Reply:
        sizes.append(len(exchange.reply.read()))
        return exchange.reply

    braze.braze.inventory = Inventory(
        segments=(Segment(VIP, "Very important"),),
        campaigns=(Campaign(campaign, "Welcome", channels=channels, variations=variations),),
    )
    braze.braze.inject(measured, path="/campaigns/data_series")
    assert braze.problems("{event: purchase}", extra_yaml=f"    campaigns: [{{campaign: {campaign}}}]\n") == []
    assert sizes[0] > 1024**2


def test_oversized_response_is_requested_again_for_fewer_buckets(braze: CheckLiveRig) -> None:
    """An oversized response is no problem if a shorter request for the newest hours succeeds."""

    def oversized(exchange: Exchange) -> Reply:
        return (
            transfer_faults.huge(9 * 1024**2)(exchange)
            if exchange.request.params["length"] == "100"
            else exchange.reply
        )

    braze.braze.inject(oversized, event="signup")
    assert braze.problems() == []
    lengths = [request.params["length"] for request in braze.braze.requests if request.event == "signup"]
    assert lengths == ["100", "4"]


def test_malformed_and_oversized_responses_are_distinguished(braze: CheckLiveRig) -> None:
    """A malformed response is a problem, also if other queries need shorter requests."""
    braze.braze.inject(transfer_faults.huge(9 * 1024**2), event="signup")
    braze.braze.inject(response_faults.count(-1, row=0), event="purchase")
    assert braze.problems("{event: purchase}\n{event: signup}") == [
        "custom_events purchase (hourly): malformed response: count is not a non-negative number",
        "custom_events signup (hourly): response is larger than 8 MiB",
    ]


def response_of_holes() -> Fault:
    """Return a fault that responds with null for the count of each bucket."""
    return response_faults.edited(
        lambda content: content.update(data=[{**row, "count": None} for row in content["data"]])
    )


def test_response_of_holes_only_is_reported(braze: CheckLiveRig) -> None:
    """A response in which no bucket has a number is reported as such, not as zeros or an unknown event."""
    braze.braze.inject(response_of_holes(), path="/events/data_series")
    assert braze.problems("{event: signup}") == [
        "custom_events signup (hourly): no bucket of the response has a number"
    ]


def test_single_zero_is_reported_in_singular(braze: CheckLiveRig) -> None:
    """A response with one hour is reported as one hour."""
    hour = datetime.fromtimestamp(CURRENT_HOUR, NEW_YORK).isoformat()
    braze.braze.inject(response_faults.data([{"time": hour, "count": 0}]), path="/events/data_series")
    note = "custom_events signup (hourly): all values of the last 1 hour are 0"
    assert f"production: note: {note}" in braze.check("{event: signup}")[1]


def test_check_live_program_succeeds(tmp_path: Path) -> None:
    """The program prints the output of `check` and then the results; the exit code is 1 if there is a problem."""
    with running_braze(RecordedCounts(events=["purchase"])) as (running, server):
        running.inventory = Inventory(segments=(Segment(VIP, "Very important"),))
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        done = run_program("check", "--live", f"--config.file={config}", BRAZE_API_KEY=KEY)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[3:] == [
            "production: 1 of 1 query succeeded",
            "production: note: custom_events purchase (hourly): all values of the last 100 hours are 0",
            "0 problems, 1 note",
        ]
        running.inject(response_faults.status(503, "Down for a moment"), event="purchase")
        done = run_program("check", "--live", f"--config.file={config}", BRAZE_API_KEY=KEY)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[3:] == [
            "production: note: 0 of 1 query succeeded",
            "production: problem: custom_events purchase (hourly): 503 Service Unavailable: Down for a moment",
            "1 problem, 1 note",
        ]
        done = run_program("check", "--live", f"--config.file={config}")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith(
            "environment variable BRAZE_API_KEY is not set; set it to the REST API key"
        )


def test_config_from_pipe_is_checked_live() -> None:
    """The config may come from a pipe, which can be read only once."""
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        text = workspace_yaml(server.url, "{event: purchase}")
        done = run_program("check", "--live", "--config.file=/dev/stdin", stdin=text, BRAZE_API_KEY=KEY)
    assert done.stderr == ""
    assert "production: 1 of 1 query succeeded" in done.stdout.splitlines()


def test_missing_permission_is_reported_once(braze: CheckLiveRig) -> None:
    """A missing permission is one problem for all its queries; for a list it is only a note."""
    braze.braze.permissions = {"segments.list"}
    good, lines = braze.check()
    assert not good
    assert (
        lines
        == """\
production: note: 0 of 4 queries succeeded
production: note: the list of events could not be read, so configured subjects were not checked: 403 Forbidden: the \
key lacks the permission events.list: Access Denied
production: problem: all 4 queries: 403 Forbidden: the key lacks the permission events.data_series: Access Denied
1 problem, 2 notes
""".splitlines()
    )
    braze.braze.permissions = {"segments.list", "events.data_series"}
    assert braze.problems() == []


def test_rejected_key_error_names_instance(braze: CheckLiveRig) -> None:
    """A rejected key is one problem, which says that the key may belong to another instance."""
    (problem,) = braze.problems(key="another-key")
    assert problem.startswith("401 Unauthorized: API key rejected (check that it is a REST API key of this workspace")
    assert problem.endswith(
        f". Each API key belongs to one instance; this key may belong to another instance than {braze.url}"
    )
    assert len(braze.braze.requests) == 3  # one for each list and one for the queries


def test_401_of_one_endpoint_is_reported_as_permission(braze: CheckLiveRig) -> None:
    """A 401 of one endpoint or list names its permission, and all other checks are made."""
    sessions = "    sessions:\n      - {}\n"
    braze.braze.inject(response_faults.status(401), path="/sessions/data_series")
    (problem,) = braze.problems(extra_yaml=sessions)
    lacks = "401 Unauthorized: the key lacks the permission"
    assert problem == f"sessions (hourly): {lacks} sessions.data_series (or the key is rejected)"
    assert "production: note: 4 of 5 queries succeeded" in braze.check(extra_yaml=sessions)[1]
    braze.braze.clear_faults()
    braze.braze.inject(response_faults.status(401), path="/events/list")
    good, lines = braze.check()
    assert good
    assert lines[-2].startswith("production: note: the list of events could not be read, so configured subjects were ")
    assert f"{lacks} events.list" in lines[-2]
    braze.braze.clear_faults()
    braze.braze.inject(
        response_faults.status(401), path="/events/data_series"
    )  # no query succeeds, but the lists are read
    (problem,) = braze.problems("{event: purchase}")
    assert f"{lacks} events.data_series" in problem


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("unknown", UnknownEvent)
def test_unknown_event_is_reported(braze: CheckLiveRig, unknown: UnknownEvent, listed: bool) -> None:  # noqa: FBT001 - a case
    """An event missing from Braze's list is reported with a suggestion; without the list, Braze's response decides."""
    braze.braze.unknown_event = unknown
    if not listed:
        braze.braze.permissions = {"events.data_series", "segments.list"}
    query = "custom_events Purchase (hourly)"
    problems_by_response = {
        UnknownEvent.ZEROS: [],
        UnknownEvent.EMPTY: [f"{query}: the response has no data; check the spelling of the name"],
        UnknownEvent.NO_DATA: [f"{query}: malformed response: data is not a list"],
        UnknownEvent.REJECTED: [f"{query}: 400 Bad Request: event must be a string of the custom event name"],
    }
    missing = ['event "Purchase" is missing from Braze\'s list (did you mean "purchase"?); names are case-sensitive']
    assert set(braze.problems("{event: Purchase}\n{event: signup}")) == {
        *problems_by_response[unknown],
        *(missing if listed else []),
    }
    if unknown is UnknownEvent.ZEROS:
        _, lines = braze.check("{event: Purchase}")
        assert f"production: note: {query}: all values of the last 100 hours are 0" in lines


def test_selected_items_are_fetched(braze: CheckLiveRig) -> None:
    """Items that a selector matches are fetched; no matches, and more than fit, are a problem."""
    good, lines = braze.check("{regex: 'p.*'}")
    assert good
    assert lines[:2] == [
        "production: 1 of 1 query succeeded",
        "production: custom_events: selectors match 1 of 2 items in Braze's list",
    ]
    braze.braze.traffic = RecordedCounts(events=["purchase"])
    assert "production: custom_events: selectors match 1 of 1 item in Braze's list" in braze.check("{regex: '.*'}")[1]
    braze.braze.traffic = RecordedCounts(events=["purchase", "signup"])
    (problem,) = braze.problems("{regex: 'x.*'}\n{regex: 'p.*'}")
    assert problem == 'custom_events: regex "x.*" matches none of 2 items in Braze\'s list'
    (problem,) = braze.problems("{regex: '.*'}", extra_yaml="max_queries: 1\n")
    assert problem == (
        "custom_events: selectors match 2 of 2 items in Braze's list, 1 skipped; raise max_queries or budget.share, or "
        "match fewer items"
    )
    braze.braze.permissions = {"events.data_series", "segments.list"}
    (problem,) = braze.problems("{regex: '.*'}")
    assert problem.startswith(
        "the list of events could not be read, so selectors could not be expanded: 403 Forbidden: the "
    )


def test_tag_without_items_is_reported_with_nearest_tags(braze: CheckLiveRig) -> None:
    """A tag that no campaign has is reported with the nearest tag, and a tag without a name that matches as such."""
    campaign = Campaign("0c38a773-8e62-4f0c-9e0f-1a2b3c4d5e6f", "Welcome", tags=("Lifecycle", "push"))
    braze.braze.inventory = Inventory(segments=(Segment(VIP, "Very important"),), campaigns=(campaign,))
    listed = "Braze's list"
    tags = "    campaigns: [{tag: lifecycle}, {tag: summer}, {tag: push}, {tag: push, regex: 'x.*'}]\n"
    assert braze.problems("{event: purchase}", extra_yaml=tags) == [
        f'campaigns: no item in {listed} has the tag "lifecycle" (did you mean "Lifecycle"?); tags are case-sensitive',
        f'campaigns: no item in {listed} has the tag "summer"; tags are case-sensitive',
        f'campaigns: regex "x.*" matches none of 1 item in {listed} with the tag "push"',
    ]


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (response_faults.html(), "response is not JSON"),
        (response_faults.document([]), "malformed response: not a JSON object"),
        (response_faults.document({"status": "ok"}), "malformed response: message is not success"),
        (response_faults.html(404), "404 Not Found"),
        (response_faults.redirect("https://login.example"), "302 Found, redirect not followed"),
    ],
)
def test_host_that_is_not_braze_is_one_problem(braze: CheckLiveRig, fault: Fault, detail: str) -> None:
    """If no response can be Braze's, the url is the one problem; if a list was read, the failed queries are."""
    remedy = "set url to the REST endpoint, such as https://rest.iad-01.braze.com"
    braze.braze.inject(fault)
    assert braze.problems() == [f"{braze.url} is not Braze's REST API: {detail}; {remedy}"]
    braze.braze.clear_faults()
    braze.braze.inject(fault, path="/events/data_series")
    assert braze.problems() == [f"all 4 queries: {detail}"]


def test_failure_of_queries_and_lists_is_one_problem(braze: CheckLiveRig) -> None:
    """If the lists fail for the same reason as the queries, only the queries are reported."""
    braze.braze.inject(response_faults.html(503))
    good, lines = braze.check()
    assert not good
    assert lines == [
        "production: note: 0 of 4 queries succeeded",
        "production: problem: all 4 queries: 503 Service Unavailable",
        "1 problem, 1 note",
    ]


def test_unreachable_host_is_one_problem(braze: CheckLiveRig) -> None:
    """If Braze does not respond, the first list is tried twice, nothing else is tried, and one problem is reported.

    Workspaces with the same problem share its line.
    """
    braze.url = f"http://127.0.0.1:{free_port()}"
    detail = f"{braze.url} cannot be reached: connection failed: Connection refused"
    assert braze.problems() == [detail]
    assert braze.clock.elapsed == 6
    other = workspace_item_yaml(braze.url, "{event: purchase}", name="other")
    _, lines = braze.check("{event: purchase}", extra_yaml=other)
    assert lines[-2:] == [f"production, other: problem: {detail}", "1 problem, 1 note"]


def test_segments_without_series_are_reported(braze: CheckLiveRig) -> None:
    """A segment without tracking, or missing from Braze's list, is reported with its alias and its name."""
    braze.braze.inventory = Inventory(segments=(Segment(VIP.upper(), "Very important", is_tracked=False),))
    assert braze.problems("{event: purchase}") == [
        'segment "vip" ("Very important" in Braze) has no series; enable its analytics tracking in Braze'
    ]
    braze.braze.inventory = Inventory()
    assert braze.problems("{event: purchase}") == [
        'the id of segment "vip" is missing from Braze\'s list; it may be archived, or belong to another workspace'
    ]


def test_wrong_timezone_is_reported_with_matching_zones(braze: CheckLiveRig) -> None:
    """If the hours add up to the days only in other timezones, these and the fix are reported."""
    braze.braze.zone = ZoneInfo("Europe/Paris")
    (problem,) = braze.problems()
    assert problem.startswith(
        "timezone America/New_York is wrong, because hourly values add up to daily values in Europe/Berlin, "
    )
    assert problem.endswith("; set timezone to the company's time zone in Braze")
    assert braze.problems(zone="Europe/Paris") == []


def test_newest_day_not_today_is_reported(braze: CheckLiveRig) -> None:
    """Without hourly queries, a wrong timezone is reported if the newest day is tomorrow's."""
    braze.braze.zone = ZoneInfo("Pacific/Auckland")
    (problem,) = braze.problems("{event: purchase, unit: day}")
    assert problem.startswith(
        "custom_events purchase (daily): the newest day is 2026-11-24, which is not today in America/"
    )
    assert problem.endswith("; set timezone to the company's time zone in Braze")


def test_newest_day_not_today_is_reported_for_holes(braze: CheckLiveRig) -> None:
    """A wrong timezone is reported from the days of a response even if none of them has a number."""
    braze.braze.zone = ZoneInfo("Pacific/Auckland")
    braze.braze.inject(response_of_holes(), path="/events/data_series")
    no_number, mismatch = braze.problems("{event: purchase, unit: day}")
    assert no_number == "custom_events purchase (daily): no bucket of the response has a number"
    assert mismatch.startswith(
        "custom_events purchase (daily): the newest day is 2026-11-24, which is not today in America/"
    )


def test_response_without_current_day_is_no_problem(braze: CheckLiveRig) -> None:
    """An event without a row for the current day does not make the timezone wrong if another event has one."""
    braze.braze.inject(response_faults.edited(lambda document: document["data"].pop()), event="signup")
    assert braze.problems("{event: purchase, unit: day}\n{event: signup, unit: day}") == []


def test_late_data_is_reported(braze: CheckLiveRig) -> None:
    """If the newest hour with a count ended longer ago than `settle`, a problem is reported."""
    braze.braze.traffic = RecordedCounts(events=["purchase", "signup"])
    braze.braze.traffic.set("purchase", CURRENT_HOUR - 3 * HOUR, 5)
    (problem,) = braze.problems("{event: purchase}\n{event: signup}")
    assert problem == (
        "the newest hour with a count above 0 ended 140 min ago, but settle is 60 min; Braze is delayed, or settle is "
        "too short"
    )
    good, lines = braze.check("{event: purchase}", extra_yaml="settle: {hour: 3h}\n")
    assert good
    assert lines[1].startswith("production: the newest hour with a count above 0 ended 140 min ago. One response does ")


def test_check_live_leaves_reserve(braze: CheckLiveRig) -> None:
    """If the remaining limit reaches the reserve, the queries that were not fetched are reported."""
    braze.braze.spend_calls(200_000 - 3)
    (problem,) = braze.problems()
    assert problem.startswith("custom_events ")
    assert problem.endswith(": deferred, because the budget or Braze's rate limit allows no more calls now")
    assert len([request for request in braze.braze.requests if request.path == "/events/data_series"]) == 1


ZONES = st.sampled_from(["UTC", "America/New_York", "Asia/Tokyo", "Europe/Paris", "America/Sao_Paulo", "Asia/Kolkata"])


@settings(max_examples=30)
@given(ZONES, st.integers(0), st.integers(0, 365 * 24))
@example("UTC", 0, 2_676)  # the clock changes in Casablanca
def test_matching_zones_are_found_from_hours_and_days(name: str, seed: int, later: int) -> None:
    """The matching zones include the correct one, and all of them give the same daily sums."""
    now, zone, random = CURRENT_HOUR + later * HOUR, ZoneInfo(name), Random(seed)  # noqa: S311 - counts, no secrets
    hours = {now - back * HOUR: float(random.randint(0, 9_999)) for back in range(100)}
    newest = datetime.fromtimestamp(now, zone).date()
    days = {day: total(hours, day, zone) for day in (newest - timedelta(days=back) for back in range(14))}
    fits = time_zones.find_matching_zones(days, hours, now + 1_200.0)
    assert name in fits
    whole = [day for day in days if all(hour in hours for hour in range(hours_of(day, zone)[0] - 28 * HOUR, now, HOUR))]
    ended = [day for day in whole if hours_of(day, ZoneInfo("UTC"))[-1] + 13 * HOUR <= now]  # in every zone
    assert all(total(hours, day, ZoneInfo(other)) == days[day] for other in fits for day in ended)
    assert time_zones.find_matching_zones({newest: days[newest]}, hours, now + 1_200.0) == ()


def total(hours: Mapping[int, float], day: date, zone: ZoneInfo) -> float:
    """Return the sum of the hours of a day."""
    return sum(hours.get(hour, 0.0) for hour in hours_of(day, zone))


def test_matching_zones_need_hours_of_days_in_every_zone() -> None:
    """Zones are inferred only if all hours of two days are known, and have ended, between UTC+14 and UTC-12."""
    dates = date(2026, 3, 10), date(2026, 3, 11)
    begin, end = hours_of(dates[0], NEW_YORK)[0], hours_of(dates[1], NEW_YORK)[-1] + HOUR
    # Midnight in New York is 04:00 UTC then.
    hours = {start: float(start % 7_919) for start in range(begin - 18 * HOUR, end + 8 * HOUR, HOUR)}
    days = {day: total(hours, day, NEW_YORK) for day in dates}
    oldest, newest = min(hours), max(hours)
    until = newest + HOUR
    assert time_zones.find_matching_zones(days, hours, until)[0] == "America/New_York"
    assert time_zones.find_matching_zones(days, hours, until - 1) == ()
    for start in (oldest, newest):
        known = {hour: value for hour, value in hours.items() if hour != start}
        assert time_zones.find_matching_zones(days, known, until) == ()


def test_matching_zones_without_counts_are_none() -> None:
    """If all counts are zero, every timezone would match, so none is returned."""
    hours = {CURRENT_HOUR - back * HOUR: 0.0 for back in range(100)}
    days = {datetime.fromtimestamp(NOW, NEW_YORK).date() - timedelta(days=back): 0.0 for back in range(14)}
    assert time_zones.find_matching_zones(days, hours, NOW) == ()
    assert time_zones.find_matching_zones({}, {}, NOW) == ()


def test_check_live_uses_half_of_lists_share(braze: CheckLiveRig) -> None:
    """Lists and purchases together make at most half of the share of the lists' pool, and the rest is reported."""
    braze.braze.page_size = 1
    braze.braze.inventory = Inventory(
        segments=(Segment(VIP, "Very important"),), products=tuple(f"product {number:02}" for number in range(40))
    )
    entries = "".join(f"      - {{product: 'product {number:02}'}}\n" for number in range(40))
    purchases = f"    purchases:\n{entries}refresh_interval: {{day: 1h, hour: 1h}}\n"
    (problem,) = braze.problems("{event: purchase}", extra_yaml=purchases)
    assert problem.endswith(": deferred, because the budget or Braze's rate limit allows no more calls now")
    paths = [request.path for request in braze.braze.requests]
    lists_pool = {"/events/list", "/purchases/product_list", "/purchases/quantity_series"}
    assert sum(path in lists_pool for path in paths) == 50


@pytest.mark.parametrize(("seconds", "calls"), [(60, 5), (58, 1)])
def test_check_live_uses_half_of_rest(braze: CheckLiveRig, seconds: int, calls: int) -> None:
    """In the default pool, the calls are at most half of what the plan leaves of the share, but at least one."""
    # The share has 250 calls an hour. The four queries need 60 or 62 each.
    extra_yaml = f"refresh_interval: {{hour: {seconds}s, day: {seconds}s}}\nbudget: {{share: 0.001}}\n"
    (problem,) = braze.problems(EVENTS.replace(", baseline: {weeks: 4}", ""), extra_yaml=extra_yaml)
    assert problem.endswith(": deferred, because the budget or Braze's rate limit allows no more calls now")
    assert len([request for request in braze.braze.requests if request.path != "/events/list"]) == calls
