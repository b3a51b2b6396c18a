"""Test when a scrape fetches which queries, how often, over how many connections, and what it waits for."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import RecordedCounts
from support import CURRENT_HOUR, HOUR, NOW, Clock, ExporterRig, RunningClock, running_exporter, wait_until

from braze_exporter.braze.calls import Response
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Unit
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series, only_head
from braze_exporter.scheduler.admission import Admission, Deferred, Permit
from braze_exporter.scheduler.clients import WorkspaceClient
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.rate_limiter import Priority
from braze_exporter.scheduler.scheduler import Scheduler
from braze_exporter.simulator.reply import Reply

EVENTS = "\n".join(f"{{event: event {number:02}}}" for number in range(24))


def silent_traffic() -> RecordedCounts:
    """Return traffic in which the events exist but never occur."""
    return RecordedCounts(events=[f"event {number:02}" for number in range(24)] + ["purchase", "signup"])


def calls(exporter: ExporterRig) -> int:
    """Return how many requests the simulator has received."""
    return len(exporter.braze.requests)


def test_no_call_before_first_scrape() -> None:
    """Before the first scrape no call is made; the page has the counter at 0 and no query status."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        page = exporter.page()
        assert calls(exporter) == 0
    assert page.value("braze_custom_events_total", event="purchase") == 0
    assert page.value("braze_query_last_success_timestamp_seconds", event="purchase") == 0
    assert page.values("braze_query_up") == []
    assert page.values("braze_up") == []
    assert page.value("braze_queries", state="pending") == 1


def test_query_is_fetched_once_per_refresh_interval() -> None:
    """Scrapes every 15 seconds make one call at first, and then twelve an hour."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        for hour in range(1, 4):
            for _ in range(HOUR // 15):
                exporter.scrape()
                exporter.clock.advance(15)
            assert calls(exporter) == 1 + 12 * hour


@pytest.mark.parametrize("interval", [60, 100, 290, 300, 310, 1_000])
def test_calls_per_hour_never_exceed_plan(interval: int) -> None:
    """At any scrape interval, a query makes at most one call per refresh interval and per scrape."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        scrapes = 6 * HOUR // interval
        for _ in range(scrapes):
            exporter.scrape()
            exporter.clock.advance(interval)
        expected = min(scrapes, 6 * HOUR // 300)
        assert expected * 0.95 <= calls(exporter) <= expected + 1


def test_scrape_interval_equal_to_refresh_is_always_due() -> None:
    """A query is due at each scrape of the same interval, even if a scrape is slightly early."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        for number in range(1, 21):
            exporter.scrape()
            assert calls(exporter) == number
            exporter.clock.advance(300 - 2 if number % 2 else 300 + 2)


def test_late_query_is_fetched_once() -> None:
    """After an hour without scrapes, two scrapes in a row make one call."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        exporter.scrape()
        exporter.clock.advance(HOUR)
        exporter.scrape()
        exporter.clock.advance(1)
        exporter.scrape()
        assert calls(exporter) == 2


def test_failed_query_waits_refresh_interval() -> None:
    """A failed query is not fetched again sooner than a successful one."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(response_faults.status(503))
        for _ in range(270 // 15):
            exporter.scrape()
            exporter.clock.advance(15)
        assert calls(exporter) == 1
        exporter.braze.clear_faults()
        page = exporter.scrape()
        assert calls(exporter) == 2
        assert page.value("braze_query_up") == 1


def test_clock_jump_changes_no_interval() -> None:
    """Changes of the system clock neither hasten nor delay a call, since intervals use the monotonic clock."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        exporter.scrape()
        exporter.clock.advance(10)  # the budget allows another call
        for jump in (-2 * HOUR, 5 * HOUR):
            exporter.clock.now += jump
            exporter.scrape()
            assert calls(exporter) == 1
        exporter.clock.elapsed += 300
        exporter.scrape()
        assert calls(exporter) == 2


def test_concurrent_scrapes_share_calls() -> None:
    """Ten scrapes that arrive while fetches are in flight share their results."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(transfer_faults.hold())
        with ThreadPoolExecutor(10) as pool:
            pages = [pool.submit(exporter.scrape) for _ in range(10)]
            exporter.braze.wait_for(10)
            exporter.braze.clear_faults()
            for page in pages:
                assert page.result().value("braze_queries", state="up") == 24
        assert calls(exporter) == 24


def test_connections_are_limited_and_reused() -> None:
    """At most `concurrency` requests are in flight at once, and connections are reused."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="budget: {concurrency: 3}\n") as exporter:
        exporter.braze.inject(transfer_faults.delay(0.01))
        for _ in range(3):
            exporter.scrape()
            exporter.clock.advance(300)
        assert calls(exporter) == 72
        assert exporter.braze.concurrency_peak == 3
        assert exporter.server.connections == 3


def test_scrape_ends_at_deadline() -> None:
    """A late fetch continues after the scrape's deadline; the next page has its result without another call."""
    with running_exporter("{event: purchase}\n{event: signup}", silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        last_success = "braze_query_last_success_timestamp_seconds"
        exporter.braze.inject(transfer_faults.hold(), event="purchase")
        exporter.refresh(timeout=0.2)
        wait_until(lambda: exporter.page().value(last_success, event="signup") == NOW + 300, "the other is fetched")
        assert exporter.page().value(last_success, event="purchase") == NOW
        exporter.braze.clear_faults("purchase")
        page = exporter.scrape()
        assert page.value(last_success, event="purchase") == NOW + 300
        assert calls(exporter) == 2


def test_most_overdue_query_is_fetched_first() -> None:
    """With one connection, queries are fetched in the order in which they became due."""
    with running_exporter(
        "{event: event 00, refresh_interval: 10m}\n{event: event 01, refresh_interval: 5m}\n"
        "{event: event 02, refresh_interval: 7m}",
        silent_traffic(),
        extra_yaml="budget: {concurrency: 1}\n",
    ) as exporter:
        exporter.scrape()
        exporter.clock.advance(HOUR)
        exporter.scrape()
        order = [request.event for request in exporter.braze.requests]
    assert order == ["event 00", "event 01", "event 02", "event 01", "event 02", "event 00"]


def test_rate_limit_pauses_pool_until_reset() -> None:
    """After a 429, no query is fetched until the window ends, and no scrape waits."""
    with running_exporter(EVENTS, silent_traffic(), extra_yaml="budget: {concurrency: 1}\n") as exporter:
        exporter.braze.inject(response_faults.rate_limited(), event="event 05")
        page = exporter.scrape()
        assert calls(exporter) == 6
        assert page.value("braze_queries", state="up") == 5
        assert page.value("braze_queries", state="failed") == 1
        assert page.value("braze_queries", state="pending") == 18
        assert page.value("braze_api_requests_failed_total", reason="rate_limited") == 1
        until_reset = HOUR - NOW % HOUR
        exporter.clock.advance(until_reset - 1)
        page = exporter.scrape(timeout=0)
        assert calls(exporter) == 6
        assert page.value("braze_queries", state="deferred") == 6
        exporter.braze.clear_faults()
        exporter.clock.advance(1)
        page = exporter.scrape()
        assert calls(exporter) == 30
        assert page.value("braze_queries", state="up") == 24


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Reset": None},
        {"X-RateLimit-Reset": ""},
        {"X-RateLimit-Reset": "soon"},
        {"X-RateLimit-Reset": "nan"},
        {"X-RateLimit-Reset": str(int(NOW) - 10)},
        {"X-RateLimit-Reset": str(int(NOW) + 100_000)},
    ],
    ids=["missing", "empty", "a word", "nan", "past", "tomorrow"],
)
def test_rate_limit_without_reset_pauses_one_minute(headers: dict[str, str | None]) -> None:
    """After a 429 without a usable reset the pool pauses for 60 seconds."""
    with running_exporter("{event: purchase, refresh_interval: 1s}", silent_traffic()) as exporter:
        exporter.braze.inject(rate_limited(headers), times=1)
        assert_pauses_after_call(exporter, 60)


def test_relative_lower_case_reset_is_parsed() -> None:
    """A small reset value is a number of seconds, and header names are case-insensitive."""
    with running_exporter("{event: purchase, refresh_interval: 1s}", silent_traffic()) as exporter:
        exporter.braze.inject(rate_limited({"X-RateLimit-Reset": None, "x-ratelimit-reset": "90"}), times=1)
        assert_pauses_after_call(exporter, 90)


def test_reset_is_by_braze_clock() -> None:
    """An exporter whose clock is an hour ahead still waits until Braze's window ends."""
    with running_exporter("{event: purchase, refresh_interval: 1s}", silent_traffic()) as exporter:
        exporter.braze.clock = lambda: exporter.clock.now - HOUR
        exporter.braze.inject(rate_limited({"X-RateLimit-Reset": str(int(NOW) - HOUR + 500)}), times=1)
        assert_pauses_after_call(exporter, 500)


def assert_pauses_after_call(exporter: ExporterRig, seconds: float) -> None:
    """Check that a scrape makes one call, and that the next call is made `seconds` later, not a second earlier."""
    exporter.scrape()
    exporter.clock.advance(seconds - 1)
    exporter.scrape()
    assert calls(exporter) == 1
    exporter.clock.advance(1)
    exporter.scrape()
    assert calls(exporter) == 2


def rate_limited(headers: dict[str, str | None]) -> Fault:
    """Return a fault that sends a 429 with changed headers."""

    def fault_with_headers(exchange: Exchange) -> Reply:
        reply = response_faults.status(429)(exchange)
        return response_faults.with_headers(headers)(replace(exchange, reply=reply))

    return fault_with_headers


def test_close_releases_waiting_scrapes() -> None:
    """Closing the exporter ends all waits at once, even with requests in flight."""
    with running_exporter(EVENTS, silent_traffic()) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(transfer_faults.hold())
        waiting = exporter.exporter.refresh()
        exporter.braze.wait_for(10)
        assert not waiting.done()
        exporter.exporter.close()
        assert waiting.done()
        assert exporter.exporter.refresh().done()
        exporter.braze.clear_faults()
    assert calls(exporter) == 10


class StubClient(Client):
    """Fetches made-up responses."""

    def __init__(self, respond: Callable[[Query], Response]) -> None:
        self._respond = respond

    def fetch(self, query: Query, *_: object) -> Response:
        """Return the made-up response."""
        return self._respond(query)


class StubAdmission(Admission):
    """Allows only calls to the endpoints in `granted`, and registers the permits that have ended."""

    def __init__(self, granted: Collection[Endpoint]) -> None:
        self.granted = granted
        self.denial: Deferred | None = None
        self.ended: list[BrazeError | None] = []

    is_reached = True

    def admit(self, endpoint: Endpoint, priority: Priority = Priority.QUERY) -> Permit | Deferred:  # noqa: ARG002
        """Return a permit for an allowed call, otherwise why it is deferred."""
        return (
            self.denial
            or self.deny_reason(endpoint)
            or Permit(lambda: None, lambda error, _info: self.ended.append(error))
        )

    def deny_reason(self, endpoint: Endpoint) -> Deferred | None:
        """Return why a call is deferred, or `None` if its endpoint is in `granted`."""
        return None if endpoint in self.granted else Deferred()

    def open_circuit_error(self, endpoint: Endpoint) -> BrazeError | None:  # noqa: ARG002
        """Return `None`, as no circuit is open."""
        return None

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:  # noqa: ARG002
        """Return `False`, as no probe is needed."""
        return False


def make_scheduler(
    queries: Sequence[Query],
    respond: Callable[[Query], Response],
    clock: Clock,
    *,
    concurrency: int = 1,
    admission: StubAdmission | None = None,
) -> Scheduler:
    """Return a `Scheduler` for these queries. Calls for custom events are allowed, unless `admission` is given."""
    scheduler = Scheduler(clock=clock, jitter=lambda: 1.0)
    client = WorkspaceClient(StubClient(respond), admission or StubAdmission([CUSTOM_EVENTS]))
    scheduler.set_queries(queries, {"w": client}, concurrency)
    return scheduler


class BlockingFetcher:
    """Fetches that block until the test releases them, recorded in the order of their starts."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.changed = threading.Condition()
        self.order: list[str] = []

    def fetch(self, query: Query) -> Response:
        """Block until the semaphore is released, then return an empty response."""
        with self.changed:
            self.order.append(query.subject)
            self.changed.notify_all()
        self.open.acquire()
        return Response((), NOW, NOW, 0.0)

    def wait_until_started(self, count: int) -> None:
        """Wait until exactly `count` fetches have started."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.order) >= count, 5), self.order
            assert len(self.order) == count


def test_endpoint_uses_half_the_connections_while_others_wait() -> None:
    """An endpoint with half of the connections starts no further fetch while another endpoint has due queries."""
    slow = replace(CUSTOM_EVENTS, path="/slow")
    gate, clock = BlockingFetcher(), Clock()
    slow_queries = [Query("w", slow, Unit.HOUR, f"slow {n}") for n in range(8)]
    quick_queries = [Query("w", CUSTOM_EVENTS, Unit.HOUR, f"quick {n}") for n in range(4)]
    granted = [slow]
    cache = make_scheduler(
        [*slow_queries, *quick_queries], gate.fetch, clock, concurrency=4, admission=StubAdmission(granted)
    )
    cache.refresh()
    gate.wait_until_started(4)
    granted.append(CUSTOM_EVENTS)
    done = cache.refresh()
    for count in (5, 6):
        gate.open.release()
        gate.wait_until_started(count)
    for _ in range(10):
        gate.open.release()
    done.result(5)
    cache.close()
    assert [name.split()[0] for name in gate.order[:6]] == ["slow"] * 4 + ["quick"] * 2
    assert len(gate.order) == 12


def test_internal_error_fails_one_query(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception fails its query, releases its permit and is logged; others are still fetched."""
    clock, admission = Clock(), StubAdmission([CUSTOM_EVENTS])

    def fetch(query: Query) -> Response:
        if query.subject == "bad":
            raise ZeroDivisionError
        return Response((), NOW, NOW, 0.0)

    queries = [Query("w", CUSTOM_EVENTS, Unit.HOUR, name) for name in ("bad", "good")]
    seen: list[QueryState] = []

    def fail(query_state: QueryState, *_: object) -> None:
        seen.append(query_state)
        raise ZeroDivisionError

    cache = make_scheduler(queries, fetch, clock, admission=admission)
    cache.on_fetched = fail
    cache.refresh().result(5)
    clock.advance(300)
    cache.refresh().result(5)
    cache.close()
    bad, good = cache.query_states
    assert bad.error is not None
    assert bad.error.reason is Reason.INVALID_RESPONSE
    assert good.has_result
    assert good.error is None
    assert len(seen) == 4
    wait_until(lambda: len(admission.ended) == 4, "each permit has ended")
    assert caplog.messages.count("Internal error during a fetch") == 2
    assert caplog.messages.count("Internal error while processing a fetch result") == 4
    caplog.clear()


def test_late_deferred_call_leaves_query_due() -> None:
    """A query that is deferred after it was queued does not fail, and is fetched when its pool allows."""
    clock = Clock()
    admission = StubAdmission([CUSTOM_EVENTS])
    admission.denial = Deferred()
    query = Query("w", CUSTOM_EVENTS, Unit.HOUR, "purchase")
    cache = make_scheduler([query], lambda _query: Response((), NOW, NOW, 0.0), clock, admission=admission)
    cache.refresh().result(5)
    (entry,) = cache.query_states
    assert not entry.has_result
    assert entry.is_deferred
    admission.denial = None
    cache.refresh().result(5)
    cache.close()
    assert entry.has_result
    assert not entry.is_deferred


def test_failed_fetch_keeps_last_response() -> None:
    """After a failed fetch the last response is kept beside the error."""
    clock = Clock()
    failure: list[BrazeError] = []

    def fetch(_query: Query) -> Response:
        if failure:
            raise failure[0]
        return Response((Series(only_head(CUSTOM_EVENTS.metric_group)),), NOW, NOW, 0.0)

    query = Query("w", CUSTOM_EVENTS, Unit.HOUR, "purchase")
    cache = make_scheduler([query], fetch, clock)
    cache.refresh().result(5)
    (entry,) = cache.query_states
    first = entry.response
    failure.append(BrazeError(Reason.TIMEOUT, "request timed out"))
    clock.advance(300)
    cache.refresh().result(5)
    cache.close()
    assert first is not None
    assert entry.response is first
    assert str(entry.error) == str(failure[0])


def test_waiting_scrape_uses_no_thread() -> None:
    """Scrapes that wait for a slow Braze use no threads of their own."""
    with running_exporter("{event: purchase}", silent_traffic(), clock=RunningClock()) as exporter:
        exporter.braze.inject(transfer_faults.hold())
        before = threading.active_count()
        futures = [exporter.exporter.refresh() for _ in range(50)]
        exporter.braze.wait_for(1)
        assert threading.active_count() <= before + 2  # for connecting, and the simulator's thread for the request
        exporter.braze.clear_faults()
        started = time.monotonic()
        assert not wait(futures, 5).not_done
        assert time.monotonic() - started < 5
    assert exporter.page().value("braze_query_latest_bucket_start_timestamp_seconds") == CURRENT_HOUR
