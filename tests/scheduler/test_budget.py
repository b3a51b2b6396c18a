"""Test that the exporter keeps to its share, does not use the reserve, and backs off when Braze fails."""

import random
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Literal

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import RecordedCounts
from support import HOUR, NOW, AdmissionRig, Clock, ExporterRig, running_exporter, wait_until, write_file

from braze_exporter.braze.calls import RateLimitInfo
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CAMPAIGNS, CUSTOM_EVENTS, SeriesKind
from braze_exporter.scheduler.admission import Admission, CircuitOpen, Deferred, Permit
from braze_exporter.scheduler.circuit_breaker import backoff_seconds
from braze_exporter.scheduler.key_state import AUTH_RETRY_SECONDS
from braze_exporter.scheduler.rate_limiter import PoolBudget
from braze_exporter.simulator.reply import Reply
from braze_exporter.state.tables import BudgetRow
from braze_exporter.web.status_response import read_status_response

pytestmark = pytest.mark.no_cover

NAMES = [f"event {number:02}" for number in range(24)]
EVENTS = "\n".join(f"{{event: {name}}}" for name in NAMES)
UP = "braze_query_up"
NEXT_HOUR = (int(NOW) // HOUR + 1) * HOUR


def silent_traffic() -> RecordedCounts:
    """Return traffic in which the events exist but never occur."""
    return RecordedCounts(events=NAMES)


def scrape_until(exporter: ExporterRig, end: float, every: float = 15.0) -> None:
    """Scrape every `every` seconds until the clock reaches `end`."""
    while exporter.clock.now < end:
        exporter.refresh()
        exporter.clock.advance(every)


def test_first_call_probes_and_others_follow_in_same_scrape() -> None:
    """Other queries wait while the first call probes, and are fetched within the same scrape."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(transfer_faults.hold())
        refresh = exporter.exporter.refresh()
        assert not wait([refresh], 0.5).done  # the time in which other queries would be fetched
        assert len(exporter.braze.requests) == 1
        exporter.braze.clear_faults()
        refresh.result(10)
        assert exporter.page().value("braze_queries", state="up") == 24
    assert len(exporter.braze.requests) == 24


def test_reserve_is_kept_when_others_use_the_limit() -> None:
    """When others use nine tenths of each hour's limit, the exporter makes one call an hour and keeps the reserve."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.limit = 10_000
        for _ in range(4):
            exporter.braze.spend_calls(9_000)
            exporter.braze.reset()
            scrape_until(exporter, (int(exporter.clock.now) // HOUR + 1) * HOUR)
            assert len(exporter.braze.requests) == 1
        page = exporter.page()
        assert page.value("braze_api_rate_limit") == 10_000
        assert page.value("braze_api_rate_limit_remaining") == 999
        assert page.value("braze_api_rate_limit_reset_timestamp_seconds") == exporter.clock.now
        # Each query was deferred once, and three of them again.
        assert page.value("braze_api_requests_deferred_total", pool="default") == 24 + 3
        exporter.scrape()  # a new hour without calls of others
        assert exporter.page().value("braze_queries", state="up") == 24


@pytest.mark.parametrize("spent_in_the_end", [7_900, 10_000])
def test_reserve_is_kept_when_others_accelerate(spent_in_the_end: int) -> None:
    """The exporter makes no call once others have used all of the limit except the reserve."""
    with running_exporter(
        EVENTS, silent_traffic(), extra_yaml="refresh_interval: {hour: 1m}\nbudget: {share: 0.5}\n"
    ) as exporter:
        exporter.braze.limit = 10_000
        spent, left = 0, []
        while exporter.clock.now < NEXT_HOUR:
            part = (exporter.clock.now - NOW) / (NEXT_HOUR - NOW)
            should = int(spent_in_the_end * part**2)
            exporter.braze.spend_calls(should - spent)
            spent = should
            before = len(exporter.braze.requests)
            exporter.refresh()
            if len(exporter.braze.requests) > before:
                left.append(10_000 - spent - len(exporter.braze.requests))
            exporter.clock.advance(15)
        assert len(left) > 20
        # Calls of others become visible only in the next response, when a few calls are already in flight.
        assert sum(now < 2_000 for now in left) <= 1
        assert min(left) > 1_800 - 10


def header_formats(limit: str, remaining: str, reset: str) -> dict[str, dict[str, str | None]]:
    """Return the rate limit headers in each supported format."""
    return {
        "lower case": {
            f"x-ratelimit-{name}": text for name, text in zip(HEADER_NAMES, (limit, remaining, reset), strict=True)
        }
        | dict.fromkeys(f"X-RateLimit-{name.title()}" for name in HEADER_NAMES),
        "seconds to go": {"X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": "600"},
        "as a fraction": {"X-RateLimit-Remaining": f"{remaining}.0", "X-RateLimit-Reset": f"{reset}.5"},
    }


HEADER_NAMES = ("limit", "remaining", "reset")


@pytest.mark.parametrize("form", header_formats("", "", ""))
def test_reserve_is_read_from_any_header_format(form: str) -> None:
    """The call whose response reports little left is the last one until the reset, in any header format."""
    headers = header_formats("1000", "100", str(int(NOW) + 600))[form]
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.with_headers(headers), times=1)
        scrape_until(exporter, NOW + 600)
        assert len(exporter.braze.requests) == 1
        exporter.clock.advance(1)
        exporter.scrape()
        assert len(exporter.braze.requests) == 25


@pytest.mark.parametrize("text", ["", " ", None])
def test_empty_headers_stop_nothing(text: str | None) -> None:
    """Empty or missing headers stop no calls; the token bucket still applies."""
    headers = dict.fromkeys(("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"), text)
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.with_headers(headers))
        assert exporter.scrape().value("braze_queries", state="up") == 24


@pytest.mark.parametrize("text", ["-5", "1,234", "249000, 249001", "none", "nan", "inf", "1e308", "0x10", "5,"])
def test_unreadable_remaining_counts_as_none_left(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A number of remaining calls that is negative or unreadable stops the pool until the reset, and is logged."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="refresh_interval: {hour: 1m}\n") as exporter:
        headers = {"X-RateLimit-Remaining": text, "X-RateLimit-Reset": str(int(NOW) + 600)}
        exporter.braze.inject(response_faults.with_headers(headers), times=1)
        scrape_until(exporter, NOW + 600)
        assert len(exporter.braze.requests) == 1
        assert exporter.scrape().value("braze_queries", state="up") == 24
    (line,) = [record for record in caplog.records if record.getMessage() == "Rate limit reached, pausing requests"]
    assert line.__dict__["fields"]["reason"] == f"X-RateLimit-Remaining is invalid: {text}"


@pytest.mark.parametrize(
    ("remaining", "reset"), [("-5", ""), ("5, 6", None), ("-1", "1e308"), ("0", str(int(NOW) * 1000))]
)
def test_unreadable_remaining_without_reset_stops_one_minute(remaining: str, reset: str | None) -> None:
    """Without a valid reset, the stop lasts 60 s."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="refresh_interval: {hour: 1m}\n") as exporter:
        headers = {"X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
        exporter.braze.inject(response_faults.with_headers(headers), times=1)
        scrape_until(exporter, NOW + 75)
        assert [request.time - NOW for request in exporter.braze.requests] == [0] + [60] * 24


@pytest.mark.parametrize(("remaining", "reset", "wait"), [("-5", "", 60), ("0", None, 60), ("100", "600", 600)])
def test_low_remaining_stops_calls_in_known_window(remaining: str, reset: str | None, wait: float) -> None:
    """Few remaining calls stop the pool also if earlier responses gave a later reset."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="refresh_interval: {hour: 1m}\n") as exporter:
        exporter.scrape()
        exporter.braze.inject(
            response_faults.with_headers({"X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset})
        )
        exporter.clock.advance(60)
        exporter.scrape()
        before = len(exporter.braze.requests)
        assert before <= 24 + 10  # the calls in flight
        scrape_until(exporter, NOW + 60 + wait + 15)
        assert [request.time - NOW for request in exporter.braze.requests[before:]] == [60 + wait]


@pytest.mark.parametrize("text", ["249000, 249000", " 249000 ", "249000.0"])
def test_equal_list_members_are_one_number(text: str) -> None:
    """A header that a proxy has repeated counts once."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.with_headers({"X-RateLimit-Remaining": text}))
        page = exporter.scrape()
        assert page.value("braze_queries", state="up") == 24
        assert page.value("braze_api_rate_limit_remaining") == 249_000


@pytest.mark.parametrize("remaining", ["249000", "5", "-5", ""])
@pytest.mark.parametrize("limit", ["250000", "1e308", "1" + "0" * 300, "-1", "0"])
@pytest.mark.parametrize("reset", ["1e308", "-1", f"{int(NOW) + 600}000", f"{int(NOW) + 600}000000", "9" * 300])
def test_absurd_headers_stop_one_minute_at_most(remaining: str, limit: str, reset: str) -> None:
    """Absurd limits and resets are ignored, and the status page still responds."""
    names = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
    headers = dict(zip(names, (limit, remaining, reset), strict=True))
    with running_exporter("{event: event 00}\n{event: event 01}", silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.with_headers(headers))
        exporter.scrape()
        assert read_status_response(exporter.exporter)
        page = exporter.page()
        assert page.values("braze_api_rate_limit_reset_timestamp_seconds") == []
        exporter.clock.advance(60)
        exporter.scrape()
        assert read_status_response(exporter.exporter)
        assert len(exporter.braze.requests) == 2
        exporter.braze.clear_faults()
        exporter.clock.advance(300)
        assert exporter.scrape().values(UP) == [1, 1]


def test_rate_limit_without_headers_doubles_pause() -> None:
    """After a 429 without headers one call probes after 60, 120, 240, 480, 900 and 900 s, until one succeeds."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="refresh_interval: {hour: 1m}\n") as exporter:
        exporter.braze.inject(response_faults.rate_limited("absent"))
        scrape_until(exporter, NOW + 3_600, every=1)
        moments = [round(request.time - NOW) for request in exporter.braze.requests]
        assert moments == [0, 60, 180, 420, 900, 1_800, 2_700]
        exporter.braze.clear_faults()
        exporter.braze.reset()
        assert exporter.scrape().value("braze_queries", state="up") == 24
        assert len(exporter.braze.requests) == 24


HTTP_DATE = format_datetime(datetime.fromtimestamp(NOW + 200, UTC), usegmt=True)
# The seconds until the reset that the simulated Braze sends.
RESET_IN = NEXT_HOUR - NOW


@pytest.mark.parametrize(
    ("variant", "headers", "stop"),
    [
        ("absent", {"Retry-After": "1"}, 60),
        ("absent", {"Retry-After": "200"}, 200),
        ("absent", {"Retry-After": "200.5"}, 201),
        ("absent", {"Retry-After": HTTP_DATE}, 200),
        ("absent", {"X-RateLimit-Retry-After": "200"}, 200),
        ("absent", {"X-RateLimit-Retry-After": HTTP_DATE}, 200),
        ("absent", {"Retry-After": "100", "X-RateLimit-Retry-After": "200"}, 200),
        ("absent", {"Retry-After": "7200"}, HOUR + 60),
        ("absent", {"Retry-After": "1e308"}, 60),
        ("absent", {"Retry-After": "9" * 300}, HOUR + 60),
        ("absent", {"Retry-After": "Mon, 23 Nov 9999 12:20:00 GMT"}, HOUR + 60),
        ("absent", {"Retry-After": "Mon, 23 Nov 2020 12:20:00 GMT"}, 60),
        ("absent", {"Retry-After": "soon"}, 60),
        ("absent", {"Retry-After": "-5"}, 60),
        ("absent", {"Retry-After": ""}, 60),
        ("present", {"Retry-After": "1"}, RESET_IN),
        ("present", {"Retry-After": "7200"}, HOUR + 60),
        ("present", {"Retry-After": str(int(RESET_IN) + 30)}, RESET_IN + 30),
        ("present", {"X-RateLimit-Retry-After": str(int(RESET_IN) + 30)}, RESET_IN + 30),
        ("relative", {"Retry-After": "1"}, RESET_IN),
        ("garbled", {"Retry-After": "90"}, 90),
    ],
)
def test_retry_after_extends_stop(
    variant: Literal["present", "absent", "garbled", "relative"], headers: dict[str, str], stop: float
) -> None:
    """A 429 stops until the reset or a later `Retry-After`, without a reset at least 60 s, at most a window + 60 s."""
    rate_limited = response_faults.rate_limited(variant)

    def fault(exchange: Exchange) -> Reply:
        reply = rate_limited(exchange)
        return replace(reply, headers={**reply.headers, **headers})

    with running_exporter("{event: event 00, refresh_interval: 12h}", silent_traffic()) as exporter:
        exporter.braze.inject(fault, times=1)
        exporter.scrape()
        exporter.clock.advance(stop - 1)
        exporter.scrape()
        assert len(exporter.braze.requests) == 1
        exporter.clock.advance(1)
        assert exporter.scrape().values(UP) == [1]
        assert len(exporter.braze.requests) == 2


def test_queries_over_budget_take_turns() -> None:
    """When the limit shrinks to a third of the plan, all queries are fetched equally less often."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="budget: {share: 0.5}\n") as exporter:
        exporter.scrape()
        exporter.braze.reset()
        exporter.braze.limit = 192  # half of it is 96 calls an hour, a third of the 288 that the plan needs
        scrape_until(exporter, NOW + 12 * HOUR)
        requested = Counter(request.event for request in exporter.braze.requests)
        calls = len(exporter.braze.requests)
        page = exporter.page()
    assert calls <= 24 + 96 * 12
    assert calls >= 90 * 12
    assert set(requested) == set(NAMES)
    assert max(requested.values()) - min(requested.values()) <= 2
    gaps = longest_gaps(exporter)
    assert max(gaps.values()) <= 1.5 * 24 / 96 * HOUR
    assert (page.value("braze_api_requests_deferred_total") or 0) > 100


def longest_gaps(exporter: ExporterRig) -> dict[str, float]:
    """Return the longest time between two requests for each event."""
    last: dict[str, float] = {}
    gaps: dict[str, float] = {}
    for request in exporter.braze.requests:
        name = str(request.event)
        gaps[name] = max(gaps.get(name, 0.0), request.time - last.get(name, request.time))
        last[name] = request.time
    return gaps


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_key_is_probed_every_two_minutes(status: int) -> None:
    """A rejected key marks all queries down, fetched or not; one call probes every two minutes until it works."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(response_faults.status(status))
        page = exporter.scrape()
        rejected_count = len(exporter.braze.requests)
        assert rejected_count <= 10  # requests that were in flight together
        assert page.values(UP) == [0] * 24
        assert page.value("braze_up") == 0
        assert page.value("braze_queries", state="failed") == 24
        assert page.value("braze_api_requests_deferred_total") == 0
        assert (
            page.value("braze_api_requests_failed_total", reason="unauthorized" if status == 401 else "forbidden")
            == rejected_count
        )
        start = exporter.clock.now
        scrape_until(exporter, start + 365, every=5)
        assert [request.time - start for request in exporter.braze.requests[rejected_count:]] == [120, 240, 360]
        exporter.braze.clear_faults()
        exporter.braze.reset()
        assert exporter.scrape().values(UP) == [0] * 24
        scrape_until(exporter, start + 481, every=5)
        assert exporter.page().values(UP) == [1] * 24
        assert exporter.page().value("braze_up") == 1
        assert [request.time - start for request in exporter.braze.requests] == [480] * 24


def test_open_circuit_marks_all_queries_down_until_closed() -> None:
    """A key rejected for one query marks all queries down; when it works again, earlier responses still count."""
    with running_exporter("{event: event 00}\n{event: event 01, refresh_interval: 1h}", silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(response_faults.status(401), times=1)
        assert exporter.scrape().values(UP) == [0, 0]
        exporter.clock.advance(300)
        assert exporter.scrape().values(UP) == [1, 1]
        assert [request.event for request in exporter.braze.requests] == ["event 00"] * 2


BUDGETS = {CUSTOM_EVENTS.pool: PoolBudget(0.1, 0.2, 10)}


def make_call(
    admission: Admission, kind: SeriesKind, error: BrazeError | None, info: RateLimitInfo | None = None
) -> None:
    """Make a call that ends with `error`, and with `info` about the rate limit."""
    permit = admission.admit(kind)
    assert isinstance(permit, Permit)
    permit.end(error, info or RateLimitInfo(is_accepted=True))


def test_missing_permission_holds_one_endpoint() -> None:
    """A 401 or 403 opens the circuit of its endpoint only, unless all endpoints reject the key.

    A probe that shows neither acceptance nor rejection of the key closes no circuit.
    """
    clock = Clock()
    sessions = replace(CUSTOM_EVENTS, path="/sessions/data_series")
    admission = AdmissionRig(clock, BUDGETS, (CUSTOM_EVENTS, sessions)).admission

    def call(reason: Reason | None, kind: object = CUSTOM_EVENTS) -> None:
        assert kind in (CUSTOM_EVENTS, sessions)
        kind_ = CUSTOM_EVENTS if kind is CUSTOM_EVENTS else sessions
        error = BrazeError(reason, str(reason)) if reason is not None else None
        make_call(admission, kind_, error)

    call(Reason.FORBIDDEN)
    assert isinstance(admission.deny_reason(CUSTOM_EVENTS), CircuitOpen)
    assert admission.deny_reason(sessions) is None
    assert admission.open_circuit_error(sessions) is None
    call(Reason.UNAUTHORIZED, sessions)
    assert isinstance(admission.deny_reason(sessions), CircuitOpen)
    for reason in (Reason.TIMEOUT, Reason.SERVER_ERROR, Reason.UNEXPECTED_STATUS):
        clock.advance(AUTH_RETRY_SECONDS - 1)
        assert isinstance(admission.admit(sessions), CircuitOpen)
        clock.advance(1)
        call(reason, sessions)
        assert "unauthorized" in str(admission.open_circuit_error(sessions))
    call(Reason.FORBIDDEN)  # the key is accepted, but its permission is still missing
    assert "unauthorized" in str(admission.open_circuit_error(sessions))
    assert "forbidden" in str(admission.open_circuit_error(CUSTOM_EVENTS))
    clock.advance(AUTH_RETRY_SECONDS)
    call(Reason.BAD_REQUEST)
    assert admission.open_circuit_error(CUSTOM_EVENTS) is None


def test_late_results_leave_hold_unchanged() -> None:
    """The results of calls that began before a 401 neither prolong nor end its hold."""
    clock = Clock()
    admission = AdmissionRig(clock, BUDGETS, (CUSTOM_EVENTS,)).admission
    make_call(admission, CUSTOM_EVENTS, None)
    permits = [admission.admit(CUSTOM_EVENTS) for _ in range(3)]
    for permit, error in zip(permits, [Reason.UNAUTHORIZED, Reason.UNAUTHORIZED, None], strict=True):
        assert isinstance(permit, Permit)
        permit.end(BrazeError(error, "") if error is not None else None, RateLimitInfo(is_accepted=error is None))
        clock.advance(AUTH_RETRY_SECONDS / 3)
    failure = admission.status().key_failure
    assert failure is not None
    assert failure.seconds == 0


def test_budget_of_new_pool_is_written_before_first_call() -> None:
    """A pool is in the state file before its first call, so that a process that is killed then adds no calls."""
    rig = AdmissionRig(Clock(), {})
    writes: list[dict[str, float]] = []

    class Write(Future[bool]):
        """A write that is made when its result is waited for."""

        def result(self, timeout: float | None = None) -> bool:
            """Write all changes."""
            del timeout
            rows = [row for row in rig.budgets.take_changes().values() if isinstance(row, BudgetRow)]
            writes.append({row.pool: row.balance for row in rows})
            return True

    rig.budgets.start_saving(Write)
    for budgets in (BUDGETS, BUDGETS, {**BUDGETS, CAMPAIGNS.pool: PoolBudget(0.1, 0.2, 10)}):
        rig.set_demand(budgets)
    assert writes == [{}, {"default": 0}, {"default": 0, "campaigns": 0}]


def test_changed_key_is_tried_at_once() -> None:
    """One probe is made at once after a reload with another key, but not when only the budget changes."""
    clock = Clock()
    rig = AdmissionRig(clock, BUDGETS)
    admission = rig.admission
    make_call(admission, CUSTOM_EVENTS, BrazeError(Reason.UNAUTHORIZED, ""))
    rig.set_demand(BUDGETS, (CUSTOM_EVENTS,))
    assert admission.deny_reason(CUSTOM_EVENTS) is not None
    rig.change_key("another-key")
    assert admission.deny_reason(CUSTOM_EVENTS) is None
    make_call(admission, CUSTOM_EVENTS, None, RateLimitInfo(is_rate_limited=True))
    assert admission.open_circuit_error(CUSTOM_EVENTS) is None
    assert type(admission.deny_reason(CUSTOM_EVENTS)) is Deferred


def after_clear(fault: Fault) -> Fault:
    """Return a fault that applies only once faults are cleared."""

    def delayed_fault(exchange: Exchange) -> Reply:
        transfer_faults.hold()(exchange)
        return fault(exchange)

    return delayed_fault


def test_late_rejection_of_old_key_is_ignored(tmp_path: Path) -> None:
    """A 401 for a call made before a reload with another key does not open the circuit."""
    key = write_file(tmp_path / "key", "another-key")
    with running_exporter(EVENTS, silent_traffic()) as exporter, ThreadPoolExecutor(1) as pool:
        exporter.skip_first_scrape()
        exporter.braze.inject(after_clear(response_faults.status(401)), event="event 00")
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(24)
        exporter.apply_config(EVENTS, **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {key}"})
        exporter.braze.key = "another-key"
        exporter.braze.clear_faults()
        assert page.result().values(UP).count(0) == 1
        assert page.result().value("braze_up") == 1
        exporter.clock.advance(120)
        assert exporter.scrape().values(UP) == [1] * 24


@pytest.mark.parametrize("events", ["{event: event 00, refresh_interval: 1h, baseline: {weeks: 1}}\n{event: event 01}"])
def test_open_circuit_is_probed_without_due_queries(events: str) -> None:
    """If the rejected query is not repeated, as with history, another query probes after two minutes."""

    def refuse(exchange: Exchange) -> Reply:
        return response_faults.status(401)(exchange) if "ending_at" in exchange.request.params else exchange.reply

    with running_exporter(events.replace("event 01", "event 01, refresh_interval: 1h"), silent_traffic()) as exporter:
        exporter.braze.inject(refuse)
        exporter.scrape()
        exporter.clock.advance(60)
        exporter.scrape()
        wait_until(lambda: exporter.page().values(UP) == [0, 0], "the history is refused")
        exporter.braze.clear_faults()
        exporter.clock.advance(AUTH_RETRY_SECONDS - 1)
        assert exporter.scrape().values(UP) == [0, 0]
        exporter.clock.advance(1)
        exporter.scrape()
        wait_until(lambda: exporter.page().values(UP) == [1, 1], "the key is found to be good")
        usual = [request for request in exporter.braze.requests if "ending_at" not in request.params]
        assert len(usual) <= 3


def test_query_is_fetched_one_refresh_after_early_probe() -> None:
    """A query that probes the key before it is due is fetched again one `refresh_interval` after the probe."""
    sessions = "    sessions: [{unit: hour}]\n"
    with running_exporter("{event: event 00, refresh_interval: 1m}", silent_traffic(), extra_yaml=sessions) as exporter:
        for minute in range(10):
            if minute == 3:
                exporter.braze.inject(response_faults.status(401), times=1)
            exporter.scrape()
            exporter.clock.advance(60)
        times = [request.time - NOW for request in exporter.braze.requests if request.path == "/sessions/data_series"]
    assert times == [0, 240, 540]


OTHER_POOLS = """\
    sessions: [{apps: [all]}]
    campaigns: [{campaign: 0c38a773-8e62-4f0c-9e0f-1a2b3c4d5e6f}]
"""


@pytest.mark.parametrize("extra_yaml", ["", OTHER_POOLS])
def test_unreachable_start_is_probed_by_one_query(extra_yaml: str) -> None:
    """Until Braze has responded, one query at a time probes after 5, 10, 20, 40 and 60 s; then all are fetched."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml=extra_yaml) as exporter:
        exporter.braze.inject(transfer_faults.disconnect())
        scrape_until(exporter, NOW + 200, every=1)
        assert [request.time - NOW for request in exporter.braze.requests] == [0, 5, 15, 35, 75, 135, 195]
        page = exporter.page()
        assert page.values(UP) == [0] * 7
        assert page.value("braze_up") == 0
        assert page.value("braze_api_requests_deferred_total", pool="default") == 0
        assert sum(page.values("braze_queries", state="pending")) == 24 - 7 + 2 * bool(extra_yaml)
        exporter.braze.clear_faults()
        exporter.braze.reset()
        exporter.clock.advance(54)
        exporter.scrape()
        assert exporter.braze.requests == []
        exporter.clock.advance(1)
        assert exporter.scrape().values(UP).count(1) >= 24


def test_one_failing_query_does_not_block_start() -> None:
    """If only the first query gets no response, another one probes next, and all others are fetched."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(transfer_faults.disconnect(), event="event 00")
        exporter.scrape()
        exporter.clock.advance(5)
        assert sorted(exporter.scrape().values(UP)) == [0] + [1] * 23


def test_failing_start_makes_one_call_at_a_time() -> None:
    """While Braze responds with errors of the server, at most one call is in flight at a time."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.status(503))
        assert exporter.scrape().values(UP) == [0] * 24
        assert exporter.braze.concurrency_peak == 1


def test_rejected_start_is_no_outage() -> None:
    """A first response that is an error of the request shows that Braze can be reached."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.status(400), times=1)
        assert sorted(exporter.scrape().values(UP)) == [0] + [1] * 23


def test_outage_after_first_response_delays_each_query() -> None:
    """Once Braze has responded, a failing query waits for its own back-off."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(transfer_faults.disconnect())
        scrape_until(exporter, NOW + 300 + 60)
        assert len(exporter.braze.requests) == 24


def test_rate_limited_query_is_fetched_after_pause() -> None:
    """A query that got a 429 is fetched after the pause, without waiting for its refresh interval."""
    with running_exporter(
        "{event: event 00, refresh_interval: 12h}\n{event: event 01, refresh_interval: 12h}", silent_traffic()
    ) as exporter:
        exporter.braze.inject(response_faults.rate_limited("absent"), times=1)
        exporter.scrape()
        exporter.clock.advance(60)
        assert exporter.scrape().values(UP) == [1, 1]


def test_reload_keeps_backoff() -> None:
    """Reloading the config repeatedly does not reset the back-off of failing queries."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="refresh_interval: {hour: 1m}\n") as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(response_faults.status(503))
        for _ in range(30):
            scrape_until(exporter, exporter.clock.now + 120)
            exporter.apply_config(EVENTS, extra_yaml="refresh_interval: {hour: 1m}\n")
        assert len(exporter.braze.requests) <= 24 * 8


def test_returning_workspace_keeps_spent_budget() -> None:
    """A pause after a 429 is kept when a reload removes the workspace and another one restores it."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.rate_limited())
        exporter.scrape()
        exporter.braze.reset()
        exporter.apply_config("{event: event 00}", production="elsewhere", **{exporter.url: "http://127.0.0.1:9"})
        exporter.apply_config(EVENTS)
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_queries", state="pending") == 24
        assert exporter.braze.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        response_faults.status(500),
        response_faults.status(503),
        transfer_faults.disconnect(),
        transfer_faults.truncated(),
        response_faults.queued(),
        response_faults.message("queued"),
    ],
    ids=str,
)
def test_transient_failures_back_off(fault: Fault) -> None:
    """With a refresh of 5 minutes a failing query is fetched after 5, 10, 15 and 15 minutes, until it succeeds."""
    with running_exporter("{event: event 00}\n{event: event 01}", silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(fault, event="event 00")
        scrape_until(exporter, NOW + 300 + 3_000, every=30)
        # As usual, the query is due earlier by a tenth of its refresh interval.
        assert request_times(exporter, "event 00") == [0, 270, 840, 1_710, 2_580]
        assert len(request_times(exporter, "event 01")) == 11
        exporter.braze.clear_faults()
        exporter.braze.reset()
        start = exporter.clock.now
        scrape_until(exporter, start + 1_600, every=30)
        assert request_times(exporter, "event 00", start) == [450, 750, 1_050, 1_350]


def request_times(exporter: ExporterRig, event: str, start: float = NOW + 300) -> list[float]:
    """Return when an event was requested, in seconds after `start`."""
    return [request.time - start for request in exporter.braze.requests if request.event == event]


@pytest.mark.parametrize(
    "fault",
    [response_faults.status(400), response_faults.status(404), response_faults.html(), response_faults.data(None)],
    ids=str,
)
def test_permanent_failure_waits_refresh_interval(fault: Fault) -> None:
    """A failure that does not pass with time causes no back-off."""
    with running_exporter("{event: event 00}", silent_traffic()) as exporter:
        exporter.braze.inject(fault)
        scrape_until(exporter, NOW + 3_000, every=30)
        is_malformed = exporter.page().value("braze_api_requests_failed_total", reason="invalid_response") != 0
        assert len(exporter.braze.requests) == 11 + is_malformed  # plus an immediate fetch of the newest buckets


@pytest.mark.parametrize(
    ("initial", "maximum", "waits"),
    [
        (60, 900, [60, 120, 240, 480, 900, 900]),
        (300, 900, [300, 600, 900, 900]),
        (3_600, 3_600, [3_600, 3_600]),
    ],
)
def test_backoff_doubles_to_maximum(initial: float, maximum: float, waits: list[float]) -> None:
    """The back-off doubles up to the maximum, after any number of failures."""
    assert [backoff_seconds(initial, failures, maximum) for failures in range(1, len(waits) + 1)] == waits
    assert backoff_seconds(initial, 10**9, maximum, 1.1) == waits[-1]
    assert backoff_seconds(60, 2, 900, 0.9) == 108


@pytest.mark.parametrize("refresh", ["1m", "5m"])
def test_first_minute_after_outage_has_normal_call_rate(refresh: str) -> None:
    """After an hour of 503, no minute has more calls than the busiest minute before the outage."""
    jitter = random.Random(7)  # noqa: S311 - jitter, not secrets
    extra_yaml = f"refresh_interval: {{hour: {refresh}}}\n"
    with running_exporter(
        EVENTS, silent_traffic(), extra_yaml=extra_yaml, jitter=lambda: jitter.uniform(0.9, 1.1)
    ) as exporter:
        scrape_until(exporter, NOW + HOUR)
        normal = fullest_minute(exporter)
        exporter.braze.reset()
        exporter.braze.inject(response_faults.status(503))
        scrape_until(exporter, NOW + 2 * HOUR)
        during = len(exporter.braze.requests)
        exporter.braze.clear_faults()
        exporter.braze.reset()
        scrape_until(exporter, NOW + 2 * HOUR + 60)
        first = len(exporter.braze.requests)
        scrape_until(exporter, NOW + 3 * HOUR)
        assert exporter.page().values(UP) == [1] * 24
    assert during <= 24 * 9
    assert first <= normal
    assert fullest_minute(exporter) <= normal


def fullest_minute(exporter: ExporterRig) -> int:
    """Return the highest number of requests in any 60 seconds."""
    times = sorted(request.time for request in exporter.braze.requests)
    return max(sum(start <= time < start + 60 for time in times) for start in times)


def test_pause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A pause is logged once with its reason and duration, not for each call in flight or each scrape."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(response_faults.rate_limited())
        scrape_until(exporter, NOW + 900)
    lines = [record for record in caplog.records if record.getMessage() == "Rate limit reached, pausing requests"]
    assert len(lines) == 1
    expected = {
        "workspace": "production",
        "pool": "default",
        "reason": "429 Too Many Requests",
        "seconds": HOUR - NOW % HOUR - 300,
    }
    assert lines[0].__dict__["fields"] == expected
