"""The scrape algorithm: what is asked when, how often, over how many connections, and who waits for it."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import Recorded
from support import HOUR, NOW, THIS_HOUR, Clock, Rig, RunningClock, rig

from braze_exporter.braze.calls import Fetched, Permit, Told
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Kind, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.scheduler.errors import Withheld
from braze_exporter.scheduler.polling import Cache
from braze_exporter.scheduler.query_state import Entry
from braze_exporter.simulator.reply import Reply

EVENTS = "\n".join(f"{{event: event {number:02}}}" for number in range(24))


def quiet() -> Recorded:
    """Return events that exist and never happen."""
    return Recorded(events=[f"event {number:02}" for number in range(24)] + ["purchase", "signup"])


def calls(exporter: Rig) -> int:
    """Return how many requests the simulated Braze has had."""
    return len(exporter.braze.requests)


def test_nothing_is_asked_before_the_first_scrape() -> None:
    """No scrape, no calls: the page is there, with a counter at 0 and nothing else of the query."""
    with rig("{event: purchase}", quiet()) as exporter:
        page = exporter.page()
        assert calls(exporter) == 0
    assert page.value("braze_custom_events_total", event="purchase") == 0
    assert page.value("braze_custom_events_hourly_last_success_timestamp_seconds", event="purchase") == 0
    assert page.of("braze_custom_events_hourly_up") == []
    assert page.of("braze_up") == []
    assert page.value("braze_exporter_queries", state="pending") == 1


def test_a_query_is_asked_once_in_its_refresh() -> None:
    """Scrapes every 15 seconds make a first call, and then twelve in each hour."""
    with rig("{event: purchase}", quiet()) as exporter:
        for hour in range(1, 4):
            for _ in range(HOUR // 15):
                exporter.scrape()
                exporter.clock.advance(15)
            assert calls(exporter) == 1 + 12 * hour


@pytest.mark.parametrize("interval", [60, 100, 290, 300, 310, 1_000])
def test_the_calls_per_hour_never_exceed_the_plan(interval: int) -> None:
    """Whatever the scrape interval is, there is at most one call a refresh, and one a scrape if that is slower."""
    with rig("{event: purchase}", quiet()) as exporter:
        scrapes = 6 * HOUR // interval
        for _ in range(scrapes):
            exporter.scrape()
            exporter.clock.advance(interval)
        expected = min(scrapes, 6 * HOUR // 300)
        assert expected * 0.95 <= calls(exporter) <= expected + 1


def test_an_interval_equal_to_the_refresh_is_always_due() -> None:
    """Scrapes that come a little early, as Prometheus's do, find the query due each time."""
    with rig("{event: purchase}", quiet()) as exporter:
        for number in range(1, 21):
            exporter.scrape()
            assert calls(exporter) == number
            exporter.clock.advance(300 - 2 if number % 2 else 300 + 2)


def test_what_fell_behind_is_not_caught_up_on() -> None:
    """After an hour without scrapes, two scrapes in a row make one call."""
    with rig("{event: purchase}", quiet()) as exporter:
        exporter.scrape()
        exporter.clock.advance(HOUR)
        exporter.scrape()
        exporter.clock.advance(1)
        exporter.scrape()
        assert calls(exporter) == 2


def test_a_failed_query_waits_its_refresh() -> None:
    """A query that was not answered is asked again no sooner than one that was."""
    with rig("{event: purchase}", quiet()) as exporter:
        exporter.braze.fail(response_faults.status(503))
        for _ in range(270 // 15):
            exporter.scrape()
            exporter.clock.advance(15)
        assert calls(exporter) == 1
        exporter.braze.heal()
        page = exporter.scrape()
        assert calls(exporter) == 2
        assert page.value("braze_custom_events_hourly_up") == 1


def test_a_system_clock_that_jumps_changes_no_interval() -> None:
    """Intervals run on the clock that never jumps: setting the system clock neither hastens nor delays a call."""
    with rig("{event: purchase}", quiet()) as exporter:
        exporter.scrape()
        for jump in (-2 * HOUR, 5 * HOUR):
            exporter.clock.now += jump
            exporter.scrape()
            assert calls(exporter) == 1
        exporter.clock.passed += 300
        exporter.scrape()
        assert calls(exporter) == 2


def test_many_scrapes_at_once_make_the_calls_of_one() -> None:
    """Ten scrapes that come while the queries are under way wait for the same answers."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.begin()
        exporter.braze.fail(transfer_faults.hold())
        with ThreadPoolExecutor(10) as pool:
            pages = [pool.submit(exporter.scrape) for _ in range(10)]
            exporter.braze.wait_for(10)
            exporter.braze.heal()
            for page in pages:
                assert page.result().value("braze_exporter_queries", state="up") == 24
        assert calls(exporter) == 24


def test_connections_are_bounded_and_kept_alive() -> None:
    """No more than `concurrency` requests are under way at once, and their connections are used again."""
    with rig(EVENTS, quiet(), rest="budget: {concurrency: 3}\n") as exporter:
        exporter.braze.fail(transfer_faults.delay(0.01))
        for _ in range(3):
            exporter.scrape()
            exporter.clock.advance(300)
        assert calls(exporter) == 72
        assert exporter.braze.concurrency_peak == 3
        assert exporter.server.connections == 3


def test_a_scrape_does_not_wait_beyond_its_deadline() -> None:
    """What is late goes on: the page comes without it, and the next one has it, without another call."""
    with rig("{event: purchase}\n{event: signup}", quiet()) as exporter:
        exporter.begin()
        last_success = "braze_custom_events_hourly_last_success_timestamp_seconds"
        exporter.braze.fail(transfer_faults.hold(), event="purchase")
        page = exporter.scrape(timeout=0.2)
        assert page.value(last_success, event="purchase") == NOW
        assert page.value(last_success, event="signup") == NOW + 300
        exporter.braze.heal("purchase")
        page = exporter.scrape()
        assert page.value(last_success, event="purchase") == NOW + 300
        assert calls(exporter) == 2


def test_the_longest_overdue_is_asked_first() -> None:
    """With one connection, queries go out in the order in which they became due."""
    with rig(
        "{event: event 00, refresh: 10m}\n{event: event 01, refresh: 5m}\n{event: event 02, refresh: 7m}",
        quiet(),
        rest="budget: {concurrency: 1}\n",
    ) as exporter:
        exporter.scrape()
        exporter.clock.advance(HOUR)
        exporter.scrape()
        order = [request.event for request in exporter.braze.requests]
    assert order == ["event 00", "event 01", "event 02", "event 01", "event 02", "event 00"]


def test_429_stops_the_pool_until_the_reset() -> None:
    """After a 429 nothing is asked until the window ends, nobody waits, and the queries are then asked first."""
    with rig(EVENTS, quiet(), rest="budget: {concurrency: 1}\n") as exporter:
        exporter.braze.fail(response_faults.rate_limited(), event="event 05")
        page = exporter.scrape()
        assert calls(exporter) == 6
        assert page.value("braze_exporter_queries", state="up") == 5
        assert page.value("braze_exporter_queries", state="failed") == 1
        assert page.value("braze_exporter_queries", state="pending") == 18
        assert page.value("braze_api_errors_total", reason="rate_limited") == 1
        until_reset = HOUR - NOW % HOUR
        exporter.clock.advance(until_reset - 1)
        page = exporter.scrape(timeout=0)
        assert calls(exporter) == 6
        assert page.value("braze_exporter_queries", state="deferred") == 6
        exporter.braze.heal()
        exporter.clock.advance(1)
        page = exporter.scrape()
        assert calls(exporter) == 30
        assert page.value("braze_exporter_queries", state="up") == 24


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
def test_429_without_a_readable_reset_stops_for_a_minute(headers: dict[str, str | None]) -> None:
    """Without a usable reset the pool rests for 60 seconds."""
    with rig("{event: purchase, refresh: 1s}", quiet()) as exporter:
        exporter.braze.fail(limited(headers), times=1)
        exporter.scrape()
        exporter.clock.advance(59)
        exporter.scrape()
        assert calls(exporter) == 1
        exporter.clock.advance(1)
        exporter.scrape()
        assert calls(exporter) == 2


def test_a_reset_in_seconds_to_go_and_in_lower_case_is_understood() -> None:
    """A small number is a time span, and header names have no case."""
    with rig("{event: purchase, refresh: 1s}", quiet()) as exporter:
        exporter.braze.fail(limited({"X-RateLimit-Reset": None, "x-ratelimit-reset": "90"}), times=1)
        exporter.scrape()
        exporter.clock.advance(89)
        exporter.scrape()
        assert calls(exporter) == 1
        exporter.clock.advance(1)
        exporter.scrape()
        assert calls(exporter) == 2


def test_the_reset_is_a_time_of_brazes_clock() -> None:
    """An exporter whose clock is an hour ahead still waits until Braze's window ends."""
    with rig("{event: purchase, refresh: 1s}", quiet()) as exporter:
        exporter.braze.clock = lambda: exporter.clock.now - HOUR
        exporter.braze.fail(limited({"X-RateLimit-Reset": str(int(NOW) - HOUR + 500)}), times=1)
        exporter.scrape()
        exporter.clock.advance(499)
        exporter.scrape()
        assert calls(exporter) == 1
        exporter.clock.advance(1)
        exporter.scrape()
        assert calls(exporter) == 2


def limited(headers: dict[str, str | None]) -> Fault:
    """Return a 429 with its headers changed."""

    def strike(exchange: Exchange) -> Reply:
        reply = response_faults.status(429)(exchange)
        return response_faults.with_headers(headers)(replace(exchange, reply=reply))

    return strike


def test_closing_lets_those_who_wait_go() -> None:
    """The end of the exporter ends all waiting at once, with requests under way."""
    with rig(EVENTS, quiet()) as exporter:
        exporter.begin()
        exporter.braze.fail(transfer_faults.hold())
        waiting = exporter.exporter.refresh()
        exporter.braze.wait_for(10)
        assert not waiting.done()
        exporter.exporter.close()
        assert waiting.done()
        assert exporter.exporter.refresh().done()
        exporter.braze.heal()
    assert calls(exporter) == 10


@dataclass
class Plain:
    """A source of answers that a test makes up."""

    answer: Callable[[Query], Fetched]
    granted: Collection[Kind]
    at_last: Withheld | None = None

    def admit(self, query: Query) -> Permit | Withheld:
        """Let what is granted go."""
        return self.at_last or self.objection(query) or Permit(lambda _error, _told: None)

    def fetch(self, entry: Entry, permit: Permit) -> Fetched:
        """Answer."""
        fetched = self.answer(entry.query)
        permit.end(None, Told())
        return fetched

    def objection(self, query: Query) -> Withheld | None:
        """Object to what is not granted."""
        return None if query.kind in self.granted else Withheld(query.kind.pool.name)

    def refusal(self, _query: Query) -> BrazeError | None:
        """Refuse nothing."""
        return None

    def is_sought(self, _query: Query) -> bool:
        """Seek nothing."""
        return False

    def history(self, _query: Query, _now: float) -> Sequence[Query]:
        """Have none."""
        return ()


def cached(
    queries: Sequence[Query],
    answer: Callable[[Query], Fetched],
    clock: Clock,
    *,
    concurrency: int = 1,
    granted: Collection[Kind] = (CUSTOM_EVENTS,),
) -> Cache:
    """Return a cache of these queries."""
    cache = Cache(wall=clock.wall, monotonic=clock.monotonic, jitter=lambda: 1.0)
    cache.plan(queries, Plain(answer, granted), concurrency)
    return cache


class Gate:
    """A fetch that ends when it is told to, and knows what is under way."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.changed = threading.Condition()
        self.order: list[str] = []

    def fetch(self, query: Query) -> Fetched:
        """Hold a connection until the gate opens."""
        with self.changed:
            self.order.append(query.subject)
            self.changed.notify_all()
        self.open.acquire()
        return Fetched((), None)

    def wait_until_started(self, count: int) -> None:
        """Return once so many fetches have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.order) >= count, 5), self.order
            assert len(self.order) == count


def test_no_endpoint_takes_all_connections_while_another_waits() -> None:
    """Once another endpoint has queries due, one that holds more than half of the connections starts nothing new."""
    slow = replace(CUSTOM_EVENTS, endpoint="/slow")
    gate, clock = Gate(), Clock()
    slow_queries = [Query("w", slow, Unit.HOUR, f"slow {n}") for n in range(8)]
    quick_queries = [Query("w", CUSTOM_EVENTS, Unit.HOUR, f"quick {n}") for n in range(4)]
    granted = [slow]
    cache = cached([*slow_queries, *quick_queries], gate.fetch, clock, concurrency=4, granted=granted)
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


def test_a_fault_of_our_own_is_a_failure_of_one_query() -> None:
    """An unexpected exception fails its query, is logged, and leaves the thread and the others alive."""
    clock = Clock()

    def fetch(query: Query) -> Fetched:
        if query.subject == "bad":
            raise ZeroDivisionError
        return Fetched((), None)

    queries = [Query("w", CUSTOM_EVENTS, Unit.HOUR, name) for name in ("bad", "good")]
    cache = cached(queries, fetch, clock)
    seen: list[Entry] = []

    class Careless:
        def note_entries(self, _entries: object) -> None:
            raise AssertionError

        def note_hold(self, _entry: object) -> None:
            raise AssertionError

        def note_repair(self, _entry: object, _answer: object) -> None:
            raise AssertionError

        def note_reading(self, entry: Entry, _before: object) -> None:
            seen.append(entry)
            raise ZeroDivisionError

    cache.watch(Careless())
    cache.refresh().result(5)
    clock.advance(300)
    cache.refresh().result(5)
    cache.close()
    bad, good = (entry.reading for entry in cache.entries)
    assert bad is not None
    assert bad.error is not None
    assert bad.error.reason is Reason.BAD_ANSWER
    assert good is not None
    assert good.error is None
    assert len(seen) == 4


def test_a_call_withheld_at_the_last_moment_leaves_the_query_due() -> None:
    """A query that was queued when its pool was stopped is no failure, and is asked when the pool opens."""
    clock = Clock()
    source = Plain(lambda _query: Fetched((), None), (CUSTOM_EVENTS,), at_last=Withheld("default"))
    cache = Cache(wall=clock.wall, monotonic=clock.monotonic, jitter=lambda: 1.0)
    cache.plan([Query("w", CUSTOM_EVENTS, Unit.HOUR, "purchase")], source, 1)
    cache.refresh().result(5)
    (entry,) = cache.entries
    assert entry.reading is None
    assert entry.deferred
    source.at_last = None
    cache.refresh().result(5)
    cache.close()
    assert entry.reading is not None
    assert not entry.deferred


def test_a_failure_keeps_the_last_answer() -> None:
    """What was answered stays in the reading, with its own times, beside the reason of the failure."""
    clock = Clock()
    failure: list[BrazeError] = []

    def fetch(_query: Query) -> Fetched:
        if failure:
            raise failure[0]
        return Fetched((Series(CUSTOM_EVENTS.noun, ()),), None)

    query = Query("w", CUSTOM_EVENTS, Unit.HOUR, "purchase")
    cache = cached([query], fetch, clock)
    cache.refresh().result(5)
    (entry,) = cache.entries
    first = entry.reading
    failure.append(BrazeError(Reason.TIMEOUT, "no answer"))
    clock.advance(300)
    cache.refresh().result(5)
    cache.close()
    assert first is not None
    assert entry.reading is not None
    assert entry.reading.answer is first.answer
    assert str(entry.reading.error) == str(failure[0])


def test_waiting_costs_no_thread_of_its_own() -> None:
    """Fifty scrapes that wait for a slow Braze hold no more threads than the connections."""
    with rig("{event: purchase}", quiet(), clock=RunningClock()) as exporter:
        exporter.braze.fail(transfer_faults.hold())
        before = threading.active_count()
        futures = [exporter.exporter.refresh() for _ in range(50)]
        exporter.braze.wait_for(1)
        assert threading.active_count() <= before + 2  # the watchdog, and who answers in the simulated Braze
        exporter.braze.heal()
        started = time.monotonic()
        assert not wait(futures, 5).not_done
        assert time.monotonic() - started < 5
    assert exporter.page().value("braze_custom_events_hourly_latest_bucket_start_timestamp_seconds") == THIS_HOUR
