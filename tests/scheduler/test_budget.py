"""Braze is never hurt: the exporter keeps to its share, leaves the reserve alone, and does not press it in trouble."""

import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import Recorded
from support import HOUR, NOW, Clock, Rig, rig, until, write

from braze_exporter.braze.calls import Permit, Told
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Kind
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.errors import Held, Withheld
from braze_exporter.scheduler.query_state import backoff
from braze_exporter.scheduler.rate_limiter import HOLD
from braze_exporter.simulator.reply import Reply

NAMES = [f"event {number:02}" for number in range(24)]
EVENTS = "\n".join(f"{{event: {name}}}" for name in NAMES)
UP = "braze_custom_events_hourly_up"
NEXT_HOUR = (int(NOW) // HOUR + 1) * HOUR


def quiet() -> Recorded:
    """Return events that exist and never happen."""
    return Recorded(events=NAMES)


def scrape_until(exporter: Rig, end: float, every: float = 15.0) -> None:
    """Scrape at an interval until a time."""
    while exporter.clock.now < end:
        exporter.ask()
        exporter.clock.advance(every)


def test_the_first_call_goes_alone_and_the_rest_follow_in_the_same_scrape() -> None:
    """With one call under way of which nothing is known yet, the others wait for it, and nobody for the next scrape."""
    with rig(EVENTS, quiet()) as exporter, ThreadPoolExecutor(1) as pool:
        exporter.braze.fail(transfer_faults.hold())
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(1)
        assert len(exporter.braze.requests) == 1
        exporter.braze.heal()
        assert page.result().value("braze_exporter_queries", state="up") == 24
    assert len(exporter.braze.requests) == 24


def test_production_that_spends_nearly_all_keeps_the_rest() -> None:
    """With nine tenths of every hour's limit spent by others, each hour costs one call, and none of the reserve."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.braze.limit = 10_000
        for _ in range(4):
            exporter.braze.spend(9_000)
            exporter.braze.reset()
            scrape_until(exporter, (int(exporter.clock.now) // HOUR + 1) * HOUR)
            assert len(exporter.braze.requests) == 1
        page = exporter.page()
        assert page.value("braze_api_quota_limit") == 10_000
        assert page.value("braze_api_quota_remaining") == 999
        assert page.value("braze_api_quota_reset_timestamp_seconds") == exporter.clock.now
        assert (
            page.value("braze_api_requests_deferred_total", pool="default") == 24 + 3
        )  # put off once, and three again
        exporter.scrape()  # a new hour in which nobody else spends anything
        assert exporter.page().value("braze_exporter_queries", state="up") == 24


@pytest.mark.parametrize("spent_in_the_end", [7_900, 10_000])
def test_production_that_spends_faster_and_faster_is_never_robbed(spent_in_the_end: int) -> None:
    """While others spend more with every minute, no call is made once a fifth of the limit is all that is left."""
    with rig(EVENTS, quiet(), rest="refresh: {hour: 1m}\nbudget: {share: 0.5}\n") as exporter:
        exporter.braze.limit = 10_000
        spent, left = 0, []
        while exporter.clock.now < NEXT_HOUR:
            part = (exporter.clock.now - NOW) / (NEXT_HOUR - NOW)
            should = int(spent_in_the_end * part**2)
            exporter.braze.spend(should - spent)
            spent = should
            before = len(exporter.braze.requests)
            exporter.ask()
            if len(exporter.braze.requests) > before:
                left.append(10_000 - spent - len(exporter.braze.requests))
            exporter.clock.advance(15)
        assert len(left) > 20
        # What the others spend shows in the next answer, and a few calls are under way by then.
        assert sum(now < 2_000 for now in left) <= 1
        assert min(left) > 1_800 - 10


def forms(limit: str, remaining: str, reset: str) -> dict[str, dict[str, str | None]]:
    """Return the rate-limit headers in the forms that they may have."""
    return {
        "lower case": {f"x-ratelimit-{name}": text for name, text in zip(WORDS, (limit, remaining, reset), strict=True)}
        | dict.fromkeys(f"X-RateLimit-{name.title()}" for name in WORDS),
        "seconds to go": {"X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": "600"},
        "as a fraction": {"X-RateLimit-Remaining": f"{remaining}.0", "X-RateLimit-Reset": f"{reset}.5"},
    }


WORDS = ("limit", "remaining", "reset")


@pytest.mark.parametrize("form", forms("", "", ""))
def test_a_reserve_is_seen_in_any_form_of_the_headers(form: str) -> None:
    """The call that is told that little is left is the last one until the reset, however that is written."""
    headers = forms("1000", "100", str(int(NOW) + 600))[form]
    with rig(EVENTS, quiet()) as exporter:
        exporter.braze.fail(response_faults.with_headers(headers), times=1)
        scrape_until(exporter, NOW + 600)
        assert len(exporter.braze.requests) == 1
        exporter.clock.advance(1)
        exporter.scrape()
        assert len(exporter.braze.requests) == 25


@pytest.mark.parametrize("text", ["", "none", "nan", "-1", None])
def test_headers_that_tell_nothing_stop_nothing(text: str | None) -> None:
    """Empty, garbled or missing headers leave the token bucket in charge."""
    headers = dict.fromkeys(("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"), text)
    with rig(EVENTS, quiet()) as exporter:
        exporter.braze.fail(response_faults.with_headers(headers))
        assert exporter.scrape().value("braze_exporter_queries", state="up") == 24


def test_a_429_without_headers_stops_for_longer_each_time() -> None:
    """One call goes after 60, 120, 240, 480, 900 and 900 seconds; after the first that is answered all go."""
    with rig(EVENTS, quiet(), rest="refresh: {hour: 1m}\n") as exporter:
        exporter.braze.fail(response_faults.rate_limited("absent"))
        scrape_until(exporter, NOW + 3_600, every=1)
        moments = [round(request.time - NOW) for request in exporter.braze.requests]
        assert moments == [0, 60, 180, 420, 900, 1_800, 2_700]
        exporter.braze.heal()
        exporter.braze.reset()
        assert exporter.scrape().value("braze_exporter_queries", state="up") == 24
        assert len(exporter.braze.requests) == 24


def test_a_429_that_says_how_long_is_obeyed() -> None:
    """Without Braze's headers, `Retry-After` counts, as whatever stands in front of Braze would write it."""
    with rig(EVENTS, quiet(), rest="refresh: {hour: 1m}\n") as exporter:
        exporter.braze.fail(response_faults.rate_limited("absent", retry_after="200"), times=1)
        scrape_until(exporter, NOW + 201, every=1)
        assert [request.time - NOW for request in exporter.braze.requests[:2]] == [0, 200]


def test_with_less_budget_than_due_queries_all_get_their_turn() -> None:
    """A limit that shrinks to a third of what is planned stretches the refresh, of all queries alike."""
    with rig(EVENTS, quiet(), rest="budget: {share: 0.5}\n") as exporter:
        exporter.scrape()
        exporter.braze.reset()
        exporter.braze.limit = 192  # of which half is a third of 24 queries times 12
        scrape_until(exporter, NOW + 12 * HOUR)
        asked = Counter(request.event for request in exporter.braze.requests)
        calls = len(exporter.braze.requests)
        page = exporter.page()
    assert calls <= 24 + 96 * 12
    assert calls >= 90 * 12
    assert set(asked) == set(NAMES)
    assert max(asked.values()) - min(asked.values()) <= 2
    gaps = longest_gaps(exporter)
    assert max(gaps.values()) <= 1.5 * 24 / 96 * HOUR
    assert (page.value("braze_api_requests_deferred_total") or 0) > 100


def longest_gaps(exporter: Rig) -> dict[str, float]:
    """Return the longest time between two requests for each event."""
    last: dict[str, float] = {}
    gaps: dict[str, float] = {}
    for request in exporter.braze.requests:
        name = str(request.event)
        gaps[name] = max(gaps.get(name, 0.0), request.time - last.get(name, request.time))
        last[name] = request.time
    return gaps


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_tried_by_one_call_every_two_minutes(status: int) -> None:
    """All that would be refused too is down, without being asked; when the key works again, all go at once."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.begin()
        exporter.braze.fail(response_faults.status(status))
        page = exporter.scrape()
        refused = len(exporter.braze.requests)
        assert refused <= 10  # those that were under way together
        assert page.of(UP) == [0] * 24
        assert page.value("braze_up") == 0
        assert page.value("braze_exporter_queries", state="failed") == 24
        assert page.value("braze_api_requests_deferred_total") == 0
        assert page.value("braze_api_errors_total", reason="unauthorized" if status == 401 else "forbidden") == refused
        start = exporter.clock.now
        scrape_until(exporter, start + 365, every=5)
        assert [request.time - start for request in exporter.braze.requests[refused:]] == [120, 240, 360]
        exporter.braze.heal()
        exporter.braze.reset()
        assert exporter.scrape().of(UP) == [0] * 24
        scrape_until(exporter, start + 481, every=5)
        assert exporter.page().of(UP) == [1] * 24
        assert exporter.page().value("braze_up") == 1
        assert [request.time - start for request in exporter.braze.requests] == [480] * 24


def test_what_is_not_due_is_down_while_it_would_be_refused_and_up_again_after() -> None:
    """A key that is refused to one query shows at once on all, and what was answered before needs no new answer."""
    with rig("{event: event 00}\n{event: event 01, refresh: 1h}", quiet()) as exporter:
        exporter.begin()
        exporter.braze.fail(response_faults.status(401), times=1)
        assert exporter.scrape().of(UP) == [0, 0]
        exporter.clock.advance(300)
        assert exporter.scrape().of(UP) == [1, 1]
        assert [request.event for request in exporter.braze.requests] == ["event 00"] * 2


def end(admission: Admission, kind: Kind, error: BrazeError | None, told: Told | None = None) -> None:
    """Make a call that ends so."""
    permit = admission.admit(kind)
    assert isinstance(permit, Permit)
    permit.end(error, told or Told(answered=True))


def test_a_missing_permission_holds_its_endpoint_alone() -> None:
    """A 401 or a 403 is about one endpoint, until all refuse the key; a trial that says nothing of it frees nothing."""
    clock = Clock()
    admission = Admission(clock.monotonic)
    sessions = replace(CUSTOM_EVENTS, endpoint="/sessions/data_series")
    admission.allow({CUSTOM_EVENTS.pool: 10}, share=0.1, reserve=0.2)
    admission.use((CUSTOM_EVENTS, sessions))

    def call(reason: Reason | None, kind: object = CUSTOM_EVENTS) -> None:
        assert kind in (CUSTOM_EVENTS, sessions)
        found = CUSTOM_EVENTS if kind is CUSTOM_EVENTS else sessions
        error = BrazeError(reason, str(reason)) if reason is not None else None
        end(admission, found, error)

    call(Reason.FORBIDDEN)
    assert isinstance(admission.objection(CUSTOM_EVENTS), Held)
    assert admission.objection(sessions) is None
    assert admission.refusal(sessions) is None
    call(Reason.UNAUTHORIZED, sessions)
    assert isinstance(admission.objection(sessions), Held)
    for reason in (Reason.TIMEOUT, Reason.SERVER_ERROR, Reason.NOT_JSON):
        clock.advance(HOLD - 1)
        assert isinstance(admission.admit(sessions), Held)
        clock.advance(1)
        call(reason, sessions)
        assert "unauthorized" in str(admission.refusal(sessions))
    call(Reason.FORBIDDEN)  # the key is good, and its permission still missing
    assert "unauthorized" in str(admission.refusal(sessions))
    assert "forbidden" in str(admission.refusal(CUSTOM_EVENTS))
    clock.advance(HOLD)
    call(Reason.BAD_REQUEST)
    assert admission.refusal(CUSTOM_EVENTS) is None


def test_another_key_is_tried_at_once() -> None:
    """After a reload with another key, one call may find that it is a good one; another budget has nothing tried."""
    clock = Clock()
    admission = Admission(clock.monotonic)
    admission.allow({CUSTOM_EVENTS.pool: 10}, share=0.1, reserve=0.2)
    end(admission, CUSTOM_EVENTS, BrazeError(Reason.UNAUTHORIZED, ""))
    admission.allow({CUSTOM_EVENTS.pool: 10}, share=0.1, reserve=0.2)
    admission.use((CUSTOM_EVENTS,))
    assert admission.objection(CUSTOM_EVENTS) is not None
    admission.use((CUSTOM_EVENTS,), is_same_key=False)
    assert admission.objection(CUSTOM_EVENTS) is None
    end(admission, CUSTOM_EVENTS, None, Told(refused=True))
    assert admission.refusal(CUSTOM_EVENTS) is None
    assert type(admission.objection(CUSTOM_EVENTS)) is Withheld


def late(fault: Fault) -> Fault:
    """Return a fault that strikes when it is healed."""

    def strike(exchange: Exchange) -> Reply:
        transfer_faults.hold()(exchange)
        return fault(exchange)

    return strike


def test_what_an_old_key_was_told_says_nothing_of_a_new_one(tmp_path: Path) -> None:
    """A refusal that comes after a reload with another key, to a call from before it, holds nobody."""
    key = write(tmp_path / "key", "another-key")
    with rig(EVENTS, quiet()) as exporter, ThreadPoolExecutor(1) as pool:
        exporter.begin()
        exporter.braze.fail(late(response_faults.status(401)), event="event 00")
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(24)
        exporter.use(EVENTS, **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {key}"})
        exporter.braze.key = "another-key"
        exporter.braze.heal()
        assert page.result().of(UP).count(0) == 1
        assert page.result().value("braze_up") == 1
        exporter.clock.advance(120)
        assert exporter.scrape().of(UP) == [1] * 24


@pytest.mark.parametrize("events", ["{event: event 00, refresh: 1h, baseline: {weeks: 1}}\n{event: event 01}"])
def test_a_hold_ends_though_nothing_is_due(events: str) -> None:
    """If what was refused is not asked again, as with history, another query finds out after two minutes."""

    def refuse(exchange: Exchange) -> Reply:
        return response_faults.status(401)(exchange) if "ending_at" in exchange.request.params else exchange.reply

    with rig(events.replace("event 01", "event 01, refresh: 1h"), quiet()) as exporter:
        exporter.braze.fail(refuse)
        exporter.scrape()
        until(lambda: exporter.page().of(UP) == [0, 0], "the history is refused")
        exporter.braze.heal()
        exporter.clock.advance(HOLD - 1)
        assert exporter.scrape().of(UP) == [0, 0]
        exporter.clock.advance(1)
        exporter.scrape()
        until(lambda: exporter.page().of(UP) == [1, 1], "the key is found to be good")
        usual = [request for request in exporter.braze.requests if "ending_at" not in request.params]
        assert len(usual) <= 3


@pytest.mark.parametrize("fault", [response_faults.status(503), transfer_faults.disconnect()], ids=str)
def test_braze_in_trouble_at_the_start_is_asked_one_by_one(fault: Fault) -> None:
    """Until there is a first answer, no two calls are under way at once."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.braze.fail(fault)
        assert exporter.scrape().of(UP) == [0] * 24
        assert exporter.braze.concurrency_peak == 1


def test_a_query_that_met_a_429_is_asked_when_the_stop_ends() -> None:
    """It was put off like the others, and does not wait for its refresh."""
    with rig("{event: event 00, refresh: 12h}\n{event: event 01, refresh: 12h}", quiet()) as exporter:
        exporter.braze.fail(response_faults.rate_limited("absent"), times=1)
        exporter.scrape()
        exporter.clock.advance(60)
        assert exporter.scrape().of(UP) == [1, 1]


def test_a_reload_does_not_hasten_what_waits_for_brazes_recovery() -> None:
    """A config that is read again and again changes nothing for queries in trouble."""
    with rig(EVENTS, quiet(), rest="refresh: {hour: 1m}\n") as exporter:
        exporter.begin()
        exporter.braze.fail(response_faults.status(503))
        for _ in range(30):
            scrape_until(exporter, exporter.clock.now + 120)
            exporter.use(EVENTS, rest="refresh: {hour: 1m}\n")
        assert len(exporter.braze.requests) <= 24 * 8


def test_a_workspace_that_comes_back_has_spent_what_it_had() -> None:
    """A stop outlives a reload without the workspace."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.braze.fail(response_faults.rate_limited())
        exporter.scrape()
        exporter.braze.reset()
        exporter.use("{event: event 00}", production="elsewhere", **{exporter.url: "http://127.0.0.1:9"})
        exporter.use(EVENTS)
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_exporter_queries", state="pending") == 24
        assert exporter.braze.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        response_faults.status(500),
        response_faults.status(503),
        transfer_faults.disconnect(),
        transfer_faults.truncated(),
        response_faults.queued(),
    ],
    ids=str,
)
def test_a_query_that_fails_by_brazes_trouble_waits_longer_each_time(fault: Fault) -> None:
    """With a refresh of 5 minutes it is asked after 5, 10, 15 and 15 minutes; an answer ends that."""
    with rig("{event: event 00}\n{event: event 01}", quiet()) as exporter:
        exporter.begin()
        exporter.braze.fail(fault, event="event 00")
        scrape_until(exporter, NOW + 300 + 3_000, every=30)
        # It is due a tenth of its refresh early, as ever.
        assert moments(exporter, "event 00") == [0, 270, 840, 1_710, 2_580]
        assert len(moments(exporter, "event 01")) == 11
        exporter.braze.heal()
        exporter.braze.reset()
        start = exporter.clock.now
        scrape_until(exporter, start + 1_600, every=30)
        assert moments(exporter, "event 00", start) == [450, 750, 1_050, 1_350]


def moments(exporter: Rig, event: str, start: float = NOW + 300) -> list[float]:
    """Return when an event was asked for, in seconds after `start`."""
    return [request.time - start for request in exporter.braze.requests if request.event == event]


@pytest.mark.parametrize(
    "fault",
    [response_faults.status(400), response_faults.status(404), response_faults.html(), response_faults.data(None)],
    ids=str,
)
def test_a_query_that_is_wrong_itself_waits_its_refresh(fault: Fault) -> None:
    """What will not get better by waiting is asked as often as ever."""
    with rig("{event: event 00}", quiet()) as exporter:
        exporter.braze.fail(fault)
        scrape_until(exporter, NOW + 3_000, every=30)
        is_malformed = exporter.page().value("braze_api_errors_total", reason="bad_answer") != 0
        assert len(exporter.braze.requests) == 11 + is_malformed  # the newest buckets, at once


@pytest.mark.parametrize(
    ("refresh", "waits"),
    [
        (60, [60, 120, 240, 480, 900, 900]),
        (300, [300, 600, 900, 900]),
        (3_600, [3_600, 3_600]),
    ],
)
def test_the_backoff_doubles_to_a_quarter_of_an_hour(refresh: float, waits: list[float]) -> None:
    """It ends at the larger of 15 minutes and the refresh, after however many failures."""
    assert [backoff(refresh, failures, 1.0) for failures in range(1, len(waits) + 1)] == waits
    assert backoff(refresh, 10**9, 1.1) == waits[-1]
    assert backoff(60, 2, 0.9) == 108


@pytest.mark.parametrize("refresh", ["1m", "5m"])
def test_after_an_outage_the_first_minute_brings_no_more_calls_than_a_normal_one(refresh: str) -> None:
    """An hour of 503 ends, and no minute after it has more calls than the fullest one before it."""
    jitter = random.Random(7)  # noqa: S311 - moments, not secrets
    rest = f"refresh: {{hour: {refresh}}}\n"
    with rig(EVENTS, quiet(), rest=rest, jitter=lambda: jitter.uniform(0.9, 1.1)) as exporter:
        scrape_until(exporter, NOW + HOUR)
        normal = fullest_minute(exporter)
        exporter.braze.reset()
        exporter.braze.fail(response_faults.status(503))
        scrape_until(exporter, NOW + 2 * HOUR)
        during = len(exporter.braze.requests)
        exporter.braze.heal()
        exporter.braze.reset()
        scrape_until(exporter, NOW + 2 * HOUR + 60)
        first = len(exporter.braze.requests)
        scrape_until(exporter, NOW + 3 * HOUR)
        assert exporter.page().of(UP) == [1] * 24
    assert during <= 24 * 9
    assert first <= normal
    assert fullest_minute(exporter) <= normal


def fullest_minute(exporter: Rig) -> int:
    """Return the most requests that any span of a minute held."""
    times = sorted(request.time for request in exporter.braze.requests)
    return max(sum(start <= time < start + 60 for time in times) for start in times)


def test_a_stop_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What stopped, why, and for how long; not for each call that was under way, and not for each scrape."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.begin()
        exporter.braze.fail(response_faults.rate_limited())
        scrape_until(exporter, NOW + 900)
    lines = [record for record in caplog.records if re.match("no calls until", record.getMessage())]
    assert len(lines) == 1
    expected = {"workspace": "production", "pool": "default", "because": "HTTP 429", "seconds": HOUR - NOW % HOUR - 300}
    assert lines[0].__dict__["fields"] == expected
