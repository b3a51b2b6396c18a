"""Test that a backfill respects the budget, fetches each chunk once, backs off on failures and loses no data."""

import contextlib
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import response_faults
import transfer_faults
from backfills import SETTLED, TARGET, BackfillRig, prepared_backfill, unfiltered_labels
from braze_variants import UnknownEvent
from fault_injection import Exchange, Fault
from recorded_counts import RecordedCounts
from support import HOUR, KEY, NEW_YORK, NOW, Clock, wait_until

from braze_exporter.backfill.request import BackfillError
from braze_exporter.braze import transport
from braze_exporter.braze.pools import Endpoint
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.admission import Admission, Deferred, Permit
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.reply import Reply

# The hours of several months and the number of calls. Each call returns 100 hours, one of which overlaps the next call.
EVENT, START, END = "{event: purchase}", "2026-06-01", "2026-11-01"
HOURS, CALLS = 153 * 24 - 2, 38


def silent_traffic() -> RecordedCounts:
    """Return two events whose counts are all zero."""
    return RecordedCounts(events=["purchase", "signup"])


def requested_calls(backfill: BackfillRig) -> list[tuple[str, str]]:
    """Return the event and the `ending_at` parameter of each request that Braze received."""
    return [(request.params["event"], request.params["ending_at"]) for request in backfill.braze.requests]


def fail_after_ten_responses(backfill: BackfillRig) -> None:
    """Run a backfill that fails after ten responses were saved, and clear the recorded requests."""
    backfill.braze.limit = 1_000  # so that it pauses after ten calls
    running = backfill.begin()
    wait_until(lambda: "10 of 38 calls" in backfill.progress_text, "ten responses are saved")
    backfill.braze.inject(response_faults.status(403))
    with pytest.raises(BackfillError, match=r"The responses to 10 of 38 calls are saved"):
        running.end(step=60)
    backfill.braze.limit = 250_000
    backfill.braze.clear_faults()
    backfill.braze.reset()


def is_complete(backfill: BackfillRig, event: str = "purchase", hours: int = HOURS) -> bool:
    """Return whether the output has every hour of the event."""
    return len(backfill.output_samples[SETTLED, unfiltered_labels(event=event)]) == hours


def test_chunks_are_fetched_once_with_100_hours_each(tmp_path: Path) -> None:
    """Each chunk is fetched once with 100 hours, at most ten at a time, and the resume file is removed at the end."""
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        backfill.run()
        assert len(set(requested_calls(backfill))) == len(requested_calls(backfill)) == CALLS
        assert {request.params["length"] for request in backfill.braze.requests} == {"100"}
        assert backfill.braze.concurrency_peak <= 10
        assert is_complete(backfill)
        assert [*tmp_path.iterdir()] == [backfill.request.output]
    assert (
        "1 query from 2026-06-01 to 2026-11-01: 38 calls to make. At 3.5 calls/s, half of what the exporter leaves of"
        in backfill.progress_text
    )


def test_backfill_leaves_exporter_share(tmp_path: Path) -> None:
    """The request rate stays within half of the share that the exporter leaves, after one call per connection."""
    extra_yaml = "refresh_interval: {hour: 1m}\nbudget: {share: 0.1, concurrency: 4}\n"
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END, extra_yaml=extra_yaml) as backfill:
        backfill.braze.limit = 1_000
        running, passed, expected = backfill.begin(), 0, 4
        left = (0.1 - 60 / 250_000) / 2 * 1_000 / HOUR
        while expected < CALLS:
            all_calls_made = partial(lambda count: len(requested_calls(backfill)) == count, expected)
            wait_until(all_calls_made, f"{expected} calls are made")
            backfill.clock.advance(100)
            passed += 100
            expected = int(4 + left * passed)
        running.end()
        assert len(requested_calls(backfill)) == CALLS


def test_backfill_beside_exporter_reading_history_keeps_share(tmp_path: Path) -> None:
    """Together, a backfill and an exporter that reads history make at most the calls of the share, plus the bursts."""
    events = "\n".join(f"{{event: event {number}, baseline: {{weeks: 52}}}}" for number in range(5))
    traffic = RecordedCounts(events=[f"event {number}" for number in range(5)])
    # The burst of the backfill, one call per connection, is more than its share allows between two steps of the clock.
    extra_yaml = "budget: {share: 0.02, concurrency: 16}\n"
    with (
        prepared_backfill(tmp_path, events, traffic, START, END, extra_yaml=extra_yaml) as backfill,
        contextlib.closing(transport.open_session(4)) as session,
    ):
        clock = backfill.clock
        exporter = Exporter(clock=clock, reads_lists=False)
        with contextlib.closing(exporter):
            config = load_config(backfill.config, "config.yaml", {"BRAZE_API_KEY": KEY})
            exporter.apply_config(config, build_plan(config), session)
            running = backfill.begin()
            for _ in range(120 // 10):
                exporter.refresh().result(20)
                wait_until(partial(is_unchanged, backfill), "no call is made")
                clock.advance(10)
            together = len(backfill.braze.requests)
        assert 100 <= together <= 0.02 * 250_000 * 120 / HOUR + (5 + 5) + 16
        running.end()


def is_unchanged(backfill: BackfillRig) -> bool:
    """Return whether Braze has received no request for the time in which a waiting thread tries again."""
    before = len(backfill.braze.requests)
    threading.Event().wait(0.25)
    return len(backfill.braze.requests) == before


def test_backfill_without_remaining_budget_is_refused(tmp_path: Path) -> None:
    """If the exporter needs the whole share, the backfill is refused, and the error names `budget.share`."""
    extra_yaml = "refresh_interval: {hour: 2s}\nbudget: {share: 0.0072}\n"
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END, extra_yaml=extra_yaml) as backfill:
        with pytest.raises(
            BackfillError, match=r"production: the exporter needs 1,800 of the 1,800 calls per hour that budget\.share"
        ):
            backfill.run()
        assert backfill.braze.requests == []


def test_backfill_leaves_shared_budget_to_all_workspaces(tmp_path: Path) -> None:
    """If two workspaces with the same url and key need the whole share together, the backfill is refused."""
    event = "{event: purchase, refresh_interval: 4s}"
    with prepared_backfill(tmp_path, event, silent_traffic(), START, END) as backfill:
        second = backfill.config.removeprefix("workspaces:\n").replace("production", "second")
        backfill.config += f"{second}budget: {{share: 0.0072}}\n"
        with pytest.raises(BackfillError, match=r"production: the exporter needs 1,800 of the 1,800 calls per hour"):
            backfill.run()
        assert backfill.braze.requests == []


def test_backfill_with_one_call_per_hour_runs(tmp_path: Path) -> None:
    """If the exporter leaves two calls per hour of the share, the backfill makes one."""
    # The share has 2,000 calls an hour. The queries need 1,800, 180 and 18.
    refreshes = {"a": "2s", "b": "20s", "c": "200s"}
    events = "\n".join(f"{{event: {name}, refresh_interval: {refresh}}}" for name, refresh in refreshes.items())
    traffic, extra_yaml = RecordedCounts(events=[*refreshes]), "budget: {share: 0.008}\n"
    with prepared_backfill(tmp_path, events, traffic, "2026-11-01", "2026-11-02", extra_yaml=extra_yaml) as backfill:
        start = backfill.clock.now
        backfill.begin().end(step=100)
        times = [request.time - start for request in backfill.braze.requests]
    assert len(times) == 3
    assert all(time >= HOUR * number for number, time in enumerate(times))


def test_fully_used_pool_without_calls_is_ignored(tmp_path: Path) -> None:
    """If the exporter needs the whole share of a pool for which the backfill has no calls, the backfill runs."""
    products = "".join(f"      - {{product: product {number}, unit: day}}\n" for number in range(25))
    start, end = "2026-10-01T00:00:00Z", "2026-10-01T12:00:00Z"  # no whole day
    extra_yaml = f"    purchases:\n{products}"
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), start, end, extra_yaml=extra_yaml) as backfill:
        backfill.run()
        assert len(requested_calls(backfill)) == 1
        assert len(backfill.output_samples[SETTLED, unfiltered_labels(event="purchase")]) == 12 - 2
    assert (
        f"26 queries from {start} to {end}: 1 call to make. At 3.5 calls/s, half of what the exporter leaves of "
        "budget.share, they take about 1s"
    ) in backfill.progress_text


def assert_paused_until_reset(backfill: BackfillRig) -> None:
    """Check that all calls but the first were made after the reset, and that the output is complete."""
    assert min(request.time for request in backfill.braze.requests[1:]) >= NOW + 40 * 60
    assert is_complete(backfill)


def test_reserve_reached_pauses_until_window_end(tmp_path: Path) -> None:
    """When the remaining limit reaches the reserve, the backfill pauses and reports the reason and the end."""
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        backfill.braze.spend_calls(200_000)
        running = backfill.begin()
        reason = "production paused until 13:00:00 UTC: only budget.reserve is left"
        wait_until(lambda: reason in backfill.progress_text, "the progress shows the pause")
        running.end(step=60)
        assert_paused_until_reset(backfill)


def test_rate_limited_backfill_pauses_until_reset(tmp_path: Path) -> None:
    """After a 429 no request is sent until the reset; then the failed call is repeated."""
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        backfill.braze.inject(response_faults.rate_limited(), times=1)
        running = backfill.begin()
        reason = "UTC: 429 Too Many Requests"
        wait_until(lambda: reason in backfill.progress_text, "the progress shows the pause")
        running.end(step=60)
        assert len(requested_calls(backfill)) == CALLS + 1
        assert_paused_until_reset(backfill)


def oversized(exchange: Exchange, max_length: int = 30) -> Reply:
    """Return the correct counts, but in a body of more than 8 MiB if more than `max_length` buckets are requested."""
    is_oversized = int(exchange.request.params["length"]) > max_length
    return transfer_faults.huge(9 * 1024**2)(exchange) if is_oversized else exchange.reply


def test_oversized_responses_are_requested_in_smaller_chunks(tmp_path: Path) -> None:
    """After an oversized response, smaller chunks are requested, and each hour has one sample."""
    with prepared_backfill(
        tmp_path, EVENT, silent_traffic(), "2026-10-16", END, extra_yaml="budget: {concurrency: 1}\n"
    ) as backfill:
        backfill.braze.inject(oversized)
        backfill.run()
        lengths = [request.params["length"] for request in backfill.braze.requests]
        assert lengths[:2] == ["100", "50"]
        assert [*lengths[2:]] == ["25"] * 4 * 4
        assert is_complete(backfill, hours=16 * 24 - 2)


def test_oversized_bucket_is_rejected(tmp_path: Path) -> None:
    """If the response for a single bucket is oversized, the query is rejected."""
    with prepared_backfill(
        tmp_path, EVENT, silent_traffic(), START, END, extra_yaml="budget: {concurrency: 1}\n"
    ) as backfill:
        backfill.braze.inject(transfer_faults.huge(9 * 1024**2))
        with pytest.raises(BackfillError, match="Braze rejected 1 query"):
            backfill.run()
        lengths = [request.params["length"] for request in backfill.braze.requests]
        assert lengths == ["100", "50", "25", "13", "7", "4", "2", "1"]


@pytest.mark.parametrize("max_length", [30, 1])
def test_oversized_responses_after_interrupt_are_complete(tmp_path: Path, max_length: int) -> None:
    """A chunk that was only partly fetched in smaller requests is fetched again by the next run.

    The first part of one bucket ends where the next older chunk does, which is still missing.
    """
    with prepared_backfill(
        tmp_path, EVENT, silent_traffic(), "2026-10-01", END, extra_yaml="budget: {concurrency: 1}\n"
    ) as backfill:
        backfill.braze.inject(partial(oversized, max_length=max_length))
        running = backfill.begin()
        while len(backfill.braze.requests) < 20:
            backfill.clock.advance(1)
            backfill.braze.wait_for(len(backfill.braze.requests) + 1)
        backfill.braze.inject(response_faults.status(403))
        with pytest.raises(BackfillError, match=r"of 8 calls are saved"):
            running.end(step=60)
        backfill.braze.clear_faults()
        backfill.run()
        assert is_complete(backfill, hours=31 * 24 - 2)


@pytest.mark.parametrize(
    "problem",
    [response_faults.status(503), transfer_faults.disconnect(), transfer_faults.truncated(), response_faults.queued()],
)
def test_transient_failures_are_retried(tmp_path: Path, problem: Fault) -> None:
    """After each transient failure the backfill waits twice as long, then probes with one call; no data is lost."""
    clock = Clock()
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END, clock=clock) as backfill:
        backfill.braze.inject(problem, times=5)
        running = backfill.begin()
        reason = "production paused until 12:20:01 UTC: "
        wait_until(lambda: reason in backfill.progress_text, "the progress shows the pause")
        running.end()
        times = [request.time - Clock().now for request in backfill.braze.requests]
        assert is_complete(backfill)
    assert len(times) == CALLS + 5
    assert all(later >= earlier for earlier, later in zip([0, 1, 3, 7, 15, 31], times, strict=False))


def test_failing_call_does_not_block_others(tmp_path: Path) -> None:
    """A failing query is retried after the others, so that their data is kept before the backfill gives up."""
    clock = Clock()
    with prepared_backfill(
        tmp_path, "{event: signup}\n{event: purchase}", silent_traffic(), START, END, clock=clock
    ) as backfill:
        backfill.braze.inject(response_faults.status(500), event="signup")
        with pytest.raises(BackfillError, match="12 attempts in a row failed: 500 Internal Server Error"):
            backfill.begin().end(step=30)
        backfill.set_events("{event: purchase}")
        backfill.braze.reset()
        backfill.run()
        assert len(requested_calls(backfill)) < CALLS / 2
        assert is_complete(backfill)


def test_internal_error_before_call_ends_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that an internal error prevents is not left out of the output."""
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        admit, failures = Admission.admit, [MemoryError()]

        def fail_once(admission: Admission, endpoint: Endpoint) -> Permit | Deferred | None:
            if failures:
                raise failures.pop()
            return admit(admission, endpoint)

        monkeypatch.setattr(Admission, "admit", fail_once)
        with pytest.raises(RuntimeError, match="internal error before a call"):
            backfill.run()
        assert not (tmp_path / "history.om").exists()
        assert "Internal error before a call" in caplog.messages
        caplog.clear()
        backfill.run()
        assert is_complete(backfill)


def test_long_outage_ends_backfill_and_keeps_resume_file(tmp_path: Path) -> None:
    """After 15 minutes of failures the backfill ends with advice, and the next run fetches only missing chunks."""
    clock = Clock()
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END, clock=clock) as backfill:
        backfill.braze.limit = 1_000  # so that it pauses after ten calls
        running = backfill.begin()
        wait_until(lambda: "10 of 38 calls" in backfill.progress_text, "ten responses are saved")
        backfill.braze.reset()
        backfill.braze.inject(response_faults.status(503))
        with pytest.raises(
            BackfillError,
            match=r"^production: 12 attempts in a row failed: 503 Service Unavailable.*\. "
            r"The responses to 10 of 38 calls are saved in .*history\.om\.partial; "
            r"run the same command again to resume$",
        ):
            running.end(step=30)
        assert len(requested_calls(backfill)) <= 12 + 9
        assert not backfill.request.output.exists()
        backfill.braze.limit = 250_000
        backfill.braze.clear_faults()
        backfill.braze.reset()
        backfill.run()
        assert (
            len(set(requested_calls(backfill))) == CALLS - 10
        )  # one call of the first run may still have been in flight
        assert is_complete(backfill)
    assert "28 calls to make, 10 already completed" in backfill.progress_text


def test_simultaneous_failures_count_once(tmp_path: Path) -> None:
    """Calls that fail together are one failure. After the last of twelve failures in a row, no call is made."""

    def fail_after_clear(exchange: Exchange) -> Reply:
        transfer_faults.hold()(exchange)
        return response_faults.status(503)(exchange)

    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        backfill.braze.inject(transfer_faults.gzipped(), times=1)  # the first call is alone
        backfill.braze.inject(fail_after_clear)
        running = backfill.begin()
        backfill.braze.wait_for(10)
        backfill.braze.clear_faults()
        backfill.braze.inject(response_faults.status(503))
        # Before that, the clock may not advance: another call would begin.
        wait_until(lambda: "paused until" in backfill.progress_text, "the progress shows the pause")
        with pytest.raises(BackfillError, match="12 attempts in a row failed"):
            running.end(step=30)
        assert len(requested_calls(backfill)) == 10 + 11


def test_rejected_key_ends_backfill_with_one_error_line(tmp_path: Path) -> None:
    """A rejected key ends the backfill without more requests, the key is not shown, and fetched data is kept."""
    clock = Clock()
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END, clock=clock) as backfill:
        backfill.braze.limit = 1_000
        running = backfill.begin()
        wait_until(lambda: "10 of 38 calls" in backfill.progress_text, "ten responses are saved")
        backfill.braze.key = "another"
        backfill.braze.reset()
        with pytest.raises(
            BackfillError,
            match=r"^production: 401 Unauthorized: API key rejected .*The responses to 10 of 38 calls are saved",
        ) as error:
            running.end(step=60)
        assert KEY not in str(error.value)
        assert len(requested_calls(backfill)) <= 10


def test_missing_permission_ends_backfill(tmp_path: Path) -> None:
    """A 403 ends the backfill, and the error names the missing permission."""
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        backfill.braze.inject(response_faults.status(403))
        with pytest.raises(BackfillError, match=r"403 Forbidden: the key lacks the permission events\.data_series"):
            backfill.run()
        assert len(requested_calls(backfill)) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_endpoint_does_not_block_others(tmp_path: Path, status: int) -> None:
    """After its first calls, a rejected endpoint is skipped; the error names its permission, and other data is kept."""
    extra_yaml = "    sessions:\n      - apps: [all, ios]\n    new_users:\n      - {}\n"
    with prepared_backfill(
        tmp_path, "{event: purchase}", silent_traffic(), START, END, extra_yaml=extra_yaml
    ) as backfill:
        backfill.braze.inject(response_faults.status(status), path="/sessions/data_series")
        backfill.braze.inject(response_faults.status(status), path="/kpi/new_users/data_series")
        with pytest.raises(BackfillError, match=r"^Braze rejected 3 queries, such as ") as error:
            backfill.run()
        for permission in ("sessions.data_series", "kpi.new_users.data_series"):
            assert str(error.value).count(permission) == 1
        assert "API key rejected" not in str(error.value)
        rejected_requests = [request for request in backfill.braze.requests if request.path != "/events/data_series"]
        assert len(rejected_requests) <= 2 * 5  # those that were in flight together
        backfill.set_events("{event: purchase}")
        backfill.braze.reset()
        backfill.run()
        assert requested_calls(backfill) == []
        assert is_complete(backfill)


def test_rejected_queries_are_no_outage(tmp_path: Path) -> None:
    """All queries are tried, even if Braze rejects more of them than the failures that end a backfill."""
    names = [f"event {number}" for number in range(13)]
    events = "\n".join(f"{{event: {name}}}" for name in names)
    with prepared_backfill(tmp_path, events, RecordedCounts(events=names), "2026-11-01", "2026-11-02") as backfill:
        backfill.braze.inject(response_faults.status(400))
        with pytest.raises(BackfillError, match=r"^Braze rejected 13 queries"):
            backfill.run()


def test_rejected_query_does_not_block_others(tmp_path: Path) -> None:
    """A rejected query is named and no output is written; without it, the next run needs no more requests."""
    with prepared_backfill(tmp_path, "{event: gone}\n{event: purchase}", silent_traffic(), START, END) as backfill:
        backfill.braze.unknown_event = UnknownEvent.REJECTED
        with pytest.raises(
            BackfillError,
            match=r"^Braze rejected 1 query, such as workspace=production, event=gone \(hourly\): 400 Bad Request: .*"
            r"\. Fix the config, or remove these queries from it\. The responses to 38 of 76 calls are saved",
        ):
            backfill.run()
        assert len(requested_calls(backfill)) < CALLS + 30
        assert not backfill.request.output.exists()
        backfill.set_events("{event: purchase}")
        backfill.braze.reset()
        backfill.run()
        assert requested_calls(backfill) == []
        assert "0 calls to make, 38 already completed\n" in backfill.progress_text
        assert is_complete(backfill)


def test_changed_config_fetches_new_queries_only(tmp_path: Path) -> None:
    """A resume file can be used with other events and labels, but not with another span."""
    with prepared_backfill(tmp_path, EVENT, silent_traffic(), START, END) as backfill:
        fail_after_ten_responses(backfill)
        backfill.set_span(START, "2026-10-31")
        with pytest.raises(
            BackfillError, match=r"was created with --start=2026-06-01 --end=2026-11-01; set the same values to resume"
        ):
            backfill.run()
        backfill.set_span(START, END)
        backfill.set_events("{event: purchase}\n{event: signup}")
        backfill.request = replace(backfill.request, labels=(*TARGET, ("pod", "a")))
        backfill.run()
        assert len(set(requested_calls(backfill))) == 2 * CALLS - 10
        samples = backfill.output_samples
    for event in ("purchase", "signup"):
        assert len(samples[SETTLED, unfiltered_labels(event=event, pod="a")]) == HOURS


def test_chunks_end_in_the_past_by_braze_clock(tmp_path: Path) -> None:
    """No chunk ends in a day that is not over, as Braze rejects an `ending_at` in the future."""
    clock = Clock()
    with prepared_backfill(
        tmp_path, "{event: purchase, unit: day}", silent_traffic(), "2026-01-01", "2026-11-23", clock=clock
    ) as backfill:
        backfill.run()
        newest = max(request.params["ending_at"] for request in backfill.braze.requests)
    assert newest == "2026-11-22T04:59:59Z"  # the 22nd settles at two, New York time, on the 23rd
    assert str(NEW_YORK) == "America/New_York"
