"""Test with promtool that each rule fires when it should and stays silent when it should.

Each scenario is a set of series of an exporter. Needs `promtool`, as `test_prometheus` does.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
from alert_scenarios import (
    MINUTE,
    PRODUCTION,
    PURCHASE,
    ExpectedAlert,
    SampleFunction,
    Scenario,
    always,
    auth_failures,
    between,
    generated_rules,
    healthy,
    hours,
    last_fetch,
    lost_every,
    query_series,
    query_status,
    series,
    until,
)
from support import HOUR, workspace_yaml

from braze_exporter.metrics.self_families import (
    DISCOVERY_SKIPPED,
    QUERIES,
    QUERY_UNLISTED,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
)
from braze_exporter.monitoring.rule import RuleOptions

pytestmark = pytest.mark.no_cover

URL = "https://rest.iad-01.braze.com"
ALERTS = "{silent: 2h, drop: 0.5, below: 5, above: 5000, severity: critical, labels: {team: growth}}"
HOURLY = workspace_yaml(URL, f"{{event: purchase, baseline: {{weeks: 4}}, alerts: {ALERTS}}}")
DURABLE = workspace_yaml(
    URL, f"{{event: purchase, baseline: {{weeks: 4}}, alerts: {ALERTS}}}", extra_yaml="state_file: /state.sqlite\n"
)
DAILY = workspace_yaml(
    URL, "{event: purchase, unit: day, baseline: {weeks: 4}, alerts: {silent: 1d, drop: 0.5, below: 100, above: 9000}}"
)

DEMO = HOURLY.replace("name: production", "name: demo")

TOTAL = series("braze_custom_events_total", PURCHASE)
HOURS = "braze_custom_events_hourly"
DAYS = "braze_custom_events_daily"
DAY = 24 * HOUR
FILTERED = f'{PURCHASE},braze_app="ios",segment="vip"'
UP = query_series("up", "custom_events", "hour", PURCHASE)
SETTLED, BASELINE, LATEST = (series(f"{HOURS}_{name}", PURCHASE) for name in ("settled", "baseline", "latest"))
LAST_SUCCESS = query_series("last_success_timestamp_seconds", "custom_events", "hour", PURCHASE)
SETTLED_START = query_series("settled_bucket_start_timestamp_seconds", "custom_events", "hour", PURCHASE)
BRAZE_UP = series("braze_up")
STARTED = series("process_start_time_seconds", "")
WRITES = series("braze_exporter_state_write_failures_total", "")
RELOADED = series("braze_exporter_config_last_reload_successful", "")
QUERIES_UP = series(QUERIES.name, f'{PRODUCTION},kind="custom_events",state="up"')
QUERIES_FAILED = series(QUERIES.name, f'{PRODUCTION},kind="custom_events",state="failed"')
REMAINING = series(RATE_LIMIT_REMAINING.name, f'{PRODUCTION},pool="default"')
UP_OF_TARGET = series("up", "")
RESET = series(RATE_LIMIT_RESET.name, f'{PRODUCTION},pool="default"')

EXPORTER_LABELS = {"workspace": "production", "severity": "warning"}
HOURLY_EVENT = {**EXPORTER_LABELS, "kind": "custom_events", "unit": "hour", "event": "purchase"}
DAILY_EVENT = {**HOURLY_EVENT, "unit": "day"}
EVENT = {**HOURLY_EVENT, "severity": "critical", "team": "growth"}


def healthy_except(
    changes: Mapping[str, SampleFunction], base: Mapping[str, SampleFunction] | None = None
) -> dict[str, SampleFunction]:
    """Return the series of a healthy exporter, with some of them replaced by `changes`."""
    series_ = dict(healthy() if base is None else base)
    assert changes.keys() <= series_.keys()
    return {**series_, **changes}


def scrape_gap(start: float, end: float, base: Mapping[str, SampleFunction]) -> dict[str, SampleFunction]:
    """Return the series of an exporter that is not scraped between two times, in hours."""
    return {name: between(start, end, None, sample_function) for name, sample_function in base.items()}


def outage(start: float, end: float, *, counted: SampleFunction | None = None) -> dict[str, SampleFunction]:
    """Return the series of an exporter whose fetches all fail between two times, in hours.

    The gauges disappear after an hour of failures. Afterwards the counter continues with all missed occurrences, or as
    `counted` returns.
    """
    series_ = healthy()

    def frozen_meanwhile(sample_function: SampleFunction) -> SampleFunction:
        return lambda now: sample_function(start * HOUR - 1) if start <= hours(now) < end else sample_function(now)

    return healthy_except(
        {
            TOTAL: frozen_meanwhile(counted or series_[TOTAL]),
            LAST_SUCCESS: frozen_meanwhile(last_fetch),
            SETTLED_START: frozen_meanwhile(series_[SETTLED_START]),
            UP: between(start, end, 0, always(1)),
            BRAZE_UP: between(start, end, 0, always(1)),
            QUERIES_UP: between(start, end, 0, always(1)),
            QUERIES_FAILED: between(start, end, 1, always(0)),
            **{name: between(start + 1, end, None, series_[name]) for name in (LATEST, SETTLED, BASELINE)},
        }
    )


def silent(since: str = "2h") -> ExpectedAlert:
    """Return the expected alert for a silent purchase event."""
    return ExpectedAlert(
        "BrazeEventSilent", f"No purchase events in workspace production were counted for {since} or longer.", EVENT
    )


def no_data(missing: str) -> ExpectedAlert:
    """Return the expected alert for a purchase event whose responses have no usable data."""
    sentence = f"Responses for purchase events in workspace production contain no {missing}."
    return ExpectedAlert("BrazeEventNoData", sentence, EVENT)


def rare_counter(now: float) -> float:
    """Return the counter of an event that occurs every 100 minutes, as of the last fetch."""
    return 7 + last_fetch(now) // (100 * MINUTE)


def at_night(day: float, night: float) -> SampleFunction:
    """Return a value that is `night` from hour 8 to hour 16 of each 24 hours and `day` otherwise."""
    return lambda now: night if 8 <= hours(now) % 24 < 16 else day


def unlisted(subject: str, workspace: str = PRODUCTION) -> str:
    """Return the series that shows whether Braze's list lacks an event."""
    return series(QUERY_UNLISTED.name, f'{workspace},kind="custom_events",subject="{subject}"')


def skipped(kind: str, workspace: str = PRODUCTION) -> str:
    """Return the series of the number of skipped items of a kind."""
    return series(DISCOVERY_SKIPPED.name, f'{workspace},kind="{kind}"')


def not_listed(subject: str, workspace: str = "production") -> ExpectedAlert:
    """Return the expected alert for an event that Braze's list lacks."""
    return ExpectedAlert(
        "BrazeQueryUnlisted",
        f"{subject} (custom_events in the config of workspace {workspace}) is missing from Braze's list.",
        {"workspace": workspace, "severity": "warning", "kind": "custom_events", "subject": subject},
    )


def items_skipped(count: int) -> ExpectedAlert:
    """Return the expected alert for skipped events."""
    return ExpectedAlert(
        "BrazeItemsSkipped",
        f"Selectors of custom_events in workspace production match items without queries ({count}).",
        {**EXPORTER_LABELS, "kind": "custom_events"},
    )


def target_down(target: str, **labels: str) -> ExpectedAlert:
    """Return the expected alert for a target of the job `braze` that is down."""
    return ExpectedAlert(
        "BrazeExporterDown",
        f"Prometheus has not scraped {target} of job braze for 5 minutes or longer.",
        {"severity": "critical", "job": "braze", **labels},
    )


def reload_failed(since: str) -> ExpectedAlert:
    """Return the expected alert for a failed reload of the config that was loaded before."""
    return ExpectedAlert(
        "BrazeExporterConfigReloadFailed",
        f"The Braze exporter failed to reload its config and keeps the one loaded {since} ago.",
        {"severity": "warning", "job": "braze", "instance": "exporter:27293"},
    )


def fetches_failing(since: str) -> ExpectedAlert:
    """Return the expected alert for a workspace whose fetches all fail."""
    sentence = f"No fetch for workspace production has succeeded for {since}."
    return ExpectedAlert("BrazeFetchesFailing", sentence, EXPORTER_LABELS)


def query_stale(event: str = "purchase", workspace: str = "production", since: str = "1h 20m 59s") -> ExpectedAlert:
    """Return the expected alert for an hourly event without a recent success."""
    return ExpectedAlert(
        "BrazeQueryStale",
        f"No fetch of the query custom_events (hour, event {event}) in workspace {workspace} has succeeded for "
        f"{since}, so its values are no longer exported.",
        {**HOURLY_EVENT, "event": event, "workspace": workspace},
    )


def rate_limit_low() -> ExpectedAlert:
    """Return the expected alert for a rate limit of which the reserve is left."""
    return ExpectedAlert(
        "BrazeRateLimitLow",
        "20% of the rate limit of workspace production is left (pool default), so the exporter pauses its requests "
        "until the limit resets.",
        {**EXPORTER_LABELS, "pool": "default"},
    )


def stale_query(event: str) -> dict[str, SampleFunction]:
    """Return the series of a query whose only success was at the start."""
    labels = f'{PRODUCTION},event="{event}"'
    return {
        **query_status("custom_events", "hour", labels),
        query_series("last_success_timestamp_seconds", "custom_events", "hour", labels): always(61),
    }


def of_demo(base: Mapping[str, SampleFunction]) -> dict[str, SampleFunction]:
    """Return the series of another exporter whose workspace is `demo`."""
    return {
        name.replace(PRODUCTION, 'workspace="demo"').replace("exporter:27293", "demo:27293"): sample_function
        for name, sample_function in base.items()
    }


SCENARIOS = {
    # An event stops at 3:00. The alert fires 2h15m later and resolves with the same delay after the event resumes.
    "silent": Scenario(
        HOURLY,
        healthy_except({TOTAL: lambda now: 1_000 + min(now, 3 * HOUR) // 300 * 8 + max(0, now - 7 * HOUR) // 300 * 8}),
        fires={316: [silent()], 419: [silent()], 425: [silent()], 439: [silent()]},
        silent=(1, 120, 180, 300, 314, 441, 500),
    ),
    "silent of an app": Scenario(
        workspace_yaml(URL, "{event: purchase, apps: [ios], alerts: {silent: 2h, for: 30m}}"),
        {
            **healthy(labels=f'{PURCHASE},braze_app="ios"', metric_group="custom_events_by_app"),
            series("braze_custom_events_by_app_total", f'{PURCHASE},braze_app="ios"'): always(90),
            series("braze_custom_events_by_app_total", f'{PURCHASE},braze_app="android"'): last_fetch,
            series("braze_custom_events_by_app_segment_total", f'{PURCHASE},braze_app="ios",segment="vip"'): last_fetch,
            TOTAL: last_fetch,
        },
        fires={
            151: [
                ExpectedAlert(
                    "BrazeEventSilent",
                    "No purchase events from app ios in workspace production were counted for 2h or longer.",
                    {**HOURLY_EVENT, "braze_app": "ios"},
                )
            ]
        },
        silent=(120, 149),
    ),
    # The hourly query feeds the counter, so only its successes matter. The daily query's last success is outdated here,
    # which must not suppress the alert.
    "silent daily query with an hourly counter": Scenario(
        workspace_yaml(URL, "{event: purchase}\n{event: purchase, unit: day, alerts: {silent: 2h}}"),
        {
            **healthy("day"),
            **healthy(),
            TOTAL: always(90),
            query_series("last_success_timestamp_seconds", "custom_events", "day", PURCHASE): always(1),
            query_series("max_age_seconds", "custom_events", "day", PURCHASE): always(DAY),
        },
        fires={
            136: [
                ExpectedAlert(
                    "BrazeEventSilent",
                    "No purchase events in workspace production were counted for 2h or longer.",
                    DAILY_EVENT,
                )
            ]
        },
        silent=(134,),
    ),
    "silent across a new pod with the same state": Scenario(
        DURABLE,
        {
            **scrape_gap(3, 99, healthy_except({TOTAL: always(90)})),
            **{
                name.replace("exporter:27293", "10.0.0.7:27293"): between(0, 3, None, info)
                for name, info in healthy_except({TOTAL: always(90), STARTED: always(3 * HOUR)}).items()
            },
        },
        fires={minute: [silent()] for minute in (136, 179, 180, 185, 300)},
    ),
    "night": Scenario(
        HOURLY,
        healthy_except(
            {
                TOTAL: lambda now: rare_counter(now) if 8 <= hours(now) % 24 < 16 else 1_000 + last_fetch(now) // 60,
                SETTLED: at_night(100, 6),
                BASELINE: at_night(101, 8),
                LATEST: at_night(60, 0),
            }
        ),
        silent=range(0, 24 * 60, 60),
    ),
    "a night as quiet as the baseline": Scenario(
        workspace_yaml(URL, "{event: purchase, baseline: {weeks: 4}, alerts: {drop: 0.5}}"),
        healthy_except({TOTAL: until(8, healthy()[TOTAL]), SETTLED: at_night(100, 0), BASELINE: at_night(101, 9.5)}),
        silent=range(0, 24 * 60, 60),
    ),
    "a bucket in progress": Scenario(
        HOURLY, healthy_except({LATEST: lambda now: now % HOUR // 36, TOTAL: rare_counter}), silent=range(0, 600, 25)
    ),
    # The counter goes 90 → 0 → … → 0, with events in between. It restarts every two hours, so that `offset 2h` compares
    # 0 with 0.
    "restarts without a state file": Scenario(
        HOURLY,
        healthy_except(
            {
                TOTAL: lambda now: 90 if now < 2 * HOUR else max(0, now % (2 * HOUR) - HOUR) // 300,
                STARTED: lambda now: -HOUR if now < 2 * HOUR else now // (2 * HOUR) * 2 * HOUR,
            }
        ),
        silent=range(120, 720, 8),
    ),
    "an exporter that restarts every few minutes": Scenario(
        HOURLY, healthy_except({TOTAL: always(0), STARTED: lambda now: now // 240 * 240}), silent=range(0, 600, 25)
    ),
    "a restart with a state file": Scenario(
        DURABLE,
        scrape_gap(3, 3.05, healthy_except({TOTAL: rare_counter, STARTED: between(3, 99, 3 * HOUR, always(-HOUR))})),
        silent=range(0, 480, 7),
    ),
    # The event occurs every half hour, but the first response of Braze comes at 1:55.
    "a late first response": Scenario(
        HOURLY,
        healthy_except({
            TOTAL: lambda now: max(0, now - 6_900) // 1_800,
            LAST_SUCCESS: between(0, 1.9, 0, last_fetch),
            UP: between(0, 1.9, 0, always(1)),
            STARTED: always(0),
            BRAZE_UP: always(1),
        }),
        silent=range(115, 300, 5),
    ),
    "an outage of Braze": Scenario(
        HOURLY,
        outage(3, 8),
        fires={
            minute: [fetches_failing(since)]
            for minute, since in {196: "20m 59s", 300: "2h 4m 59s", 479: "5h 3m 59s"}.items()
        },
        silent=(179, 181, 194, 480, 500, 600),
    ),
    "an outage of ten minutes": Scenario(HOURLY, outage(3, 3.2), silent=range(175, 240, 2)),
    "a repair after an outage, of an event that occurred": Scenario(
        HOURLY, outage(3, 3.2, counted=lambda now: rare_counter(now) * 40), silent=range(175, 480, 8)
    ),
    "a repair after an outage, of an event that did not occur": Scenario(
        HOURLY,
        outage(3, 3.2, counted=always(90)),
        fires={minute: [silent()] for minute in (136, 180, 190, 195, 300)},
    ),
    # Responses are empty for an hour, then have data again.
    "empty responses": Scenario(
        HOURLY,
        healthy_except(
            {
                **{name: between(3, 4, None, healthy()[name]) for name in (SETTLED, BASELINE, LATEST)},
                TOTAL: lambda now: healthy()[TOTAL](3 * HOUR if 3 <= hours(now) < 4 else now),
            }
        ),
        fires={196: [no_data("data")], 239: [no_data("data")]},
        silent=(179, 181, 194, 256, 300, 400),
    ),
    "empty responses from the start": Scenario(
        HOURLY,
        healthy_except({name: always(None) for name in (SETTLED, BASELINE, LATEST, SETTLED_START)}),
        fires={16: [no_data("data")], 100: [no_data("data")]},
        silent=(0, 14),
    ),
    "outdated responses": Scenario(
        HOURLY,
        healthy_except({SETTLED_START: until(3, healthy()[SETTLED_START])}),
        fires={
            316: [no_data("settled hour after the one that began 4h 16m 0s ago")],
            600: [no_data("settled hour after the one that began 9h 0m 0s ago")],
        },
        silent=(180, 299, 314),
    ),
    # The settled bucket gets too old at the moment when Braze stops responding. Empty responses are not the cause, so
    # `BrazeEventNoData` must not fire.
    "outdated values during an outage": Scenario(
        HOURLY.replace("silent: 2h", "silent: 2h, for: 5m"),
        healthy_except(
            {
                SETTLED_START: until(3, healthy()[SETTLED_START]),
                LAST_SUCCESS: until(4.99, last_fetch),
                UP: between(4.99, 99, 0, always(1)),
                TOTAL: rare_counter,
            }
        ),
        silent=range(290, 320),
    ),
    # Queries are deferred because of the reserve. The values disappear, but not because of Braze's responses.
    "deferred queries": Scenario(
        HOURLY,
        healthy_except(
            {
                LAST_SUCCESS: until(2, last_fetch),
                SETTLED_START: until(2, healthy()[SETTLED_START]),
                TOTAL: until(2, healthy()[TOTAL]),
                **{name: between(3, 99, None, healthy()[name]) for name in (SETTLED, BASELINE, LATEST)},
                REMAINING: between(2, 99, 50_000, always(240_000)),
                RESET: lambda now: (now // HOUR + 1) * HOUR,
            }
        ),
        fires={
            minute: [rate_limit_low()]
            for minute in (136, 250, 600)
        },
        silent=(119, 134),
    ),
    "deferred queries with stale values soon after a success": Scenario(
        workspace_yaml(URL, "{event: purchase, refresh_interval: 30m, alerts: {below: 5}}"),
        healthy_except(
            {
                LAST_SUCCESS: until(2, last_fetch),
                SETTLED_START: until(2, healthy()[SETTLED_START]),
                **{name: between(3, 99, None, healthy()[name]) for name in (SETTLED, BASELINE, LATEST)},
                REMAINING: between(2, 99, 50_000, always(240_000)),
            }
        ),
        fires={minute: [rate_limit_low()] for minute in (136, 196, 209)},
        silent=(119, 134),
    ),
    "a rate limit window that ends with little left": Scenario(
        HOURLY,
        healthy_except({REMAINING: lambda now: 20_000 if now % HOUR >= 50 * MINUTE else 200_000}),
        silent=range(5, 480, 10),
    ),
    # The last reported remaining calls are outdated once the window has ended.
    "a rate limit that was reset": Scenario(
        HOURLY, healthy_except({REMAINING: always(20_000), RESET: always(600)}), silent=range(0, 300, 10)
    ),
    "drop": Scenario(
        HOURLY,
        healthy_except({SETTLED: between(3, 5, 24, always(100)), BASELINE: always(100)}),
        fires={
            minute: [
                ExpectedAlert(
                    "BrazeEventDrop", "purchase events in workspace production are at 24% of the baseline.", EVENT
                )
            ]
            for minute in (196, 299, 314)
        },
        silent=(179, 194, 316, 400),
    ),
    "drop to the limit, and to just above it": Scenario(
        workspace_yaml(URL, "{event: purchase, baseline: {weeks: 4}, alerts: {drop: 0.3, min_baseline: 10}}"),
        healthy_except({SETTLED: between(3, 5, 7.01, always(7)), BASELINE: always(10)}),
        fires={
            16: [
                ExpectedAlert(
                    "BrazeEventDrop",
                    "purchase events in workspace production are at 70% of the baseline.",
                    HOURLY_EVENT,
                )
            ]
        },
        silent=(14, 200, 290),
    ),
    "drop to zero": Scenario(
        workspace_yaml(URL, "{event: purchase, baseline: {weeks: 4}, alerts: {drop: 1, min_baseline: 0}}"),
        healthy_except({SETTLED: between(3, 5, 1, always(0)), BASELINE: between(6, 99, 0, always(1))}),
        fires={
            16: [
                ExpectedAlert(
                    "BrazeEventDrop",
                    "purchase events in workspace production are at 0% of the baseline.",
                    HOURLY_EVENT,
                )
            ]
        },
        silent=(14, 200, 290, 390, 400, 500),
    ),
    "below": Scenario(
        HOURLY,
        healthy_except({SETTLED: between(3, 5, 4, always(8)), BASELINE: always(9)}),
        fires={
            196: [
                ExpectedAlert(
                    "BrazeEventBelow",
                    "purchase events in workspace production: 4 in the newest settled hour, below the limit of 5.",
                    EVENT,
                )
            ],
        },
        silent=(170, 194, 316),
    ),
    "above": Scenario(
        HOURLY,
        healthy_except({SETTLED: between(3, 5, 6_300, always(100)), BASELINE: always(101)}),
        fires={
            196: [
                ExpectedAlert(
                    "BrazeEventAbove",
                    "purchase events in workspace production: 6300 in the newest settled hour, above the limit of "
                    "5000.",
                    EVENT,
                )
            ],
        },
        silent=(170, 194, 316),
    ),
    "the exporter is down": Scenario(
        HOURLY,
        scrape_gap(3, 4, healthy()),
        fires={
            minute: [
                ExpectedAlert(
                    "BrazeExporterDown",
                    "Prometheus has had no metrics of workspace production for 5 minutes or longer, so no other alert "
                    "for it can fire.",
                    {**EXPORTER_LABELS, "severity": "critical"},
                )
            ]
            for minute in (186, 239)
        },
        silent=(179, 184, 240, 246),
    ),
    "a restart": Scenario(HOURLY, scrape_gap(3, 3.05, healthy()), silent=range(175, 420, 2)),
    # One call probes at the next scrape after two minutes.
    "the key is rejected": Scenario(
        HOURLY,
        {
            **outage(1, 3),
            auth_failures("unauthorized"): lambda now: min(60, max(0, now - HOUR) // 180 + 1 if now >= HOUR else 0),
        },
        fires={
            minute: [
                ExpectedAlert(
                    "BrazeAPIKeyRejected",
                    "Braze rejected requests with the API key of workspace production (unauthorized; about "
                    f"{count} in the last 10 minutes).",
                    {**EXPORTER_LABELS, "severity": "critical", "reason": "unauthorized"},
                )
            ]
            for minute, count in {66: 3, 100: 3, 179: 3}.items()
        },
        silent=(59, 64, 180, 186, 200),
    ),
    # Ten calls were in flight; two minutes later the key is accepted again.
    "a key that is rejected for a moment": Scenario(
        HOURLY,
        {**outage(3, 3.05), auth_failures("unauthorized"): between(3, 99, 10, always(0))},
        silent=range(175, 300, 3),
    ),
    "some requests are forbidden, and a selector of another kind selects nothing": Scenario(
        HOURLY,
        {
            **healthy(),
            auth_failures("forbidden"): last_fetch,
            **{
                series(QUERIES.name, f'{PRODUCTION},kind="campaigns",state="{state}"'): always(0)
                for state in ("up", "failed")
            },
        },
        silent=range(60, 240, 5),
    ),
    # The query of uninstalls is not due in the first hour of the outage, so it remains up.
    "an outage of Braze during which a query is not due": Scenario(
        HOURLY,
        {
            **outage(3, 8),
            **query_status("uninstalls", "day", PRODUCTION),
            query_series("last_success_timestamp_seconds", "uninstalls"): always(2.9 * HOUR),
            auth_failures("server_error"): lambda now: max(0, now - 3 * HOUR) // 900,
            BRAZE_UP: between(4, 8, 0, always(1)),
        },
        fires={210: [fetches_failing("34m 59s")]},
        silent=(179, 190, 204),
    ),
    "one query fails": Scenario(
        HOURLY,
        {**outage(3, 8), BRAZE_UP: always(1), QUERIES_UP: always(1)},
        fires={
            256: [query_stale()]
        },
        silent=(200, 235, 249, 480),
    ),
    # Promtool's clock begins at 0. A last success of 0 would not be old there, so the test uses a time far before 0.
    "one query has never succeeded": Scenario(
        workspace_yaml(URL, "{event: purchase}\n{event: purchase, apps: [ios], segments: [vip]}"),
        {
            **healthy(),
            **query_status("custom_events", "hour", FILTERED),
            query_series("last_success_timestamp_seconds", "custom_events", "hour", FILTERED): always(-1.8e9),
            query_series("up", "custom_events", "hour", FILTERED): always(None),
        },
        fires={
            16: [
                ExpectedAlert(
                    "BrazeQueryStale",
                    "No fetch of the query custom_events (hour, event purchase, segment vip, app ios) in workspace "
                    "production has succeeded since the exporter started, so its values are no longer exported.",
                    {**HOURLY_EVENT, "braze_app": "ios", "segment": "vip"},
                )
            ]
        },
        silent=(14,),
    ),
    "a failed config reload": Scenario(
        HOURLY,
        healthy_except({RELOADED: between(2, 3, 0, always(1))}),
        fires={131: [reload_failed("3h 11m 0s")]},
        silent=(119, 129, 180),
    ),
    "a failed config reload and lost scrapes": Scenario(
        HOURLY,
        {
            name: lost_every(240, sample_function)
            for name, sample_function in healthy_except({RELOADED: always(0)}).items()
        },
        fires={15: [reload_failed("1h 15m 0s")], 17: [reload_failed("1h 17m 0s")], 51: [reload_failed("1h 51m 0s")]},
        silent=(1, 3),
    ),
    # The counters do not change because they cannot be written. This does not show that the events stopped.
    "a state file that cannot be written": Scenario(
        DURABLE,
        healthy_except(
            {
                TOTAL: lambda now: healthy()[TOTAL](3 * HOUR if 3 <= hours(now) < 8 else now),
                WRITES: lambda now: min(300, max(0, now - 3 * HOUR) // 60),
            }
        ),
        fires={
            minute: [
                ExpectedAlert(
                    "BrazeExporterStateWriteFailing",
                    f"Writes of the state file failed (about {count} in the last 10 minutes).",
                    {"severity": "warning", "job": "braze", "instance": "exporter:27293"},
                )
            ]
            for minute, count in {197: 10, 320: 10, 479: 10}.items()
        },
        silent=(179, 190, 510, 600),
    ),
    "one failed write": Scenario(
        DURABLE, healthy_except({WRITES: between(3, 99, 1, always(0))}), silent=range(175, 300, 3)
    ),
    "a wrong time zone": Scenario(
        DAILY,
        {**healthy("day"), series("braze_workspace_timezone_mismatch"): between(1, 4, 1, always(0))},
        fires={
            121: [
                ExpectedAlert(
                    "BrazeTimezoneMismatch",
                    "The newest day in the responses for workspace production has differed from the current day in "
                    "its `timezone` for 1 hour or longer.",
                    EXPORTER_LABELS,
                )
            ]
        },
        silent=(59, 119, 301),
    ),
    # Braze reports 0 for an event that it does not know, so the query does not fail.
    "an event that Braze does not list": Scenario(
        HOURLY,
        {
            **healthy(),
            unlisted("purchase"): between(1, 3, 1, always(0)),
            unlisted("signup"): always(0),
            unlisted("purchase", 'workspace="demo"'): always(1),
        },
        fires={minute: [not_listed("purchase")] for minute in (76, 179)},
        silent=(0, 59, 74, 180, 240),
    ),
    "items that exceed the limit": Scenario(
        HOURLY + "      - {regex: 'x.*'}\n",
        {
            **healthy(),
            skipped("custom_events"): between(1, 3, 7, always(0)),
            skipped("campaigns"): always(0),
            skipped("custom_events", 'workspace="demo"'): always(9),
        },
        fires={minute: [items_skipped(7)] for minute in (76, 179)},
        silent=(0, 59, 74, 180, 240),
    ),
    "the job has a target that is down, and later no target": Scenario(
        HOURLY,
        {
            **healthy(),
            UP_OF_TARGET: between(1, 2, 0, between(2, 3, None, always(1))),
            UP_OF_TARGET.replace("exporter", "second"): between(2, 3, None, always(1)),
            series("up", "", 'job="node",instance="node:9100"'): always(0),
        },
        fires={
            66: [target_down("the Braze exporter exporter:27293", instance="exporter:27293")],
            126: [target_down("any Braze exporter")],
        },
        silent=(59, 64, 120, 124, 180),
        options=RuleOptions(job="braze"),
    ),
    "the job has targets, and a workspace has no metrics": Scenario(
        HOURLY, {UP_OF_TARGET: always(1)}, silent=(0, 60), options=RuleOptions(job="braze")
    ),
    # Rules without a config are for all workspaces, and fire for each of them on its own.
    "any workspace during an outage of Braze": Scenario(
        "",
        {**outage(3, 8), **of_demo(healthy())},
        fires={196: [fetches_failing("20m 59s")]},
        silent=(179, 194, 480),
    ),
    "any workspace with one failing query": Scenario(
        "",
        {**outage(3, 8), BRAZE_UP: always(1), QUERIES_UP: always(1), **of_demo(outage(3, 8))},
        fires={
            256: [
                query_stale(),
                ExpectedAlert(
                    "BrazeFetchesFailing",
                    "No fetch for workspace demo has succeeded for 1h 20m 59s.",
                    {**EXPORTER_LABELS, "workspace": "demo"},
                ),
            ]
        },
        silent=(179,),
    ),
    "any workspace whose limit has reached the reserve": Scenario(
        "",
        {
            **outage(3, 8),
            BRAZE_UP: always(1),
            QUERIES_UP: always(1),
            REMAINING: always(50_000),
            **of_demo({**healthy(), **stale_query("login")}),
            unlisted("purchase", 'workspace="demo"'): always(1),
            skipped("custom_events"): always(7),
        },
        fires={
            256: [
                rate_limit_low(),
                query_stale("login", "demo", "4h 14m 59s"),
                not_listed("purchase", "demo"),
                items_skipped(7),
            ]
        },
    ),
    "any exporter is missing": Scenario(
        "",
        {**scrape_gap(1, 2, healthy()), **scrape_gap(1, 3, of_demo(healthy()))},
        fires={
            66: [
                ExpectedAlert(
                    "BrazeExporterDown",
                    "Prometheus has had no metrics of a Braze exporter for 5 minutes or longer, so no other alert can "
                    "fire.",
                    {"severity": "critical"},
                )
            ]
        },
        silent=(59, 64, 120, 170),
    ),
    # Another exporter in the same Prometheus has the same event. Its state does not silence the alerts of `demo`.
    "a healthy workspace beside one that is down": Scenario(
        DEMO,
        healthy(),
        fires={
            6: [
                ExpectedAlert(
                    "BrazeExporterDown",
                    "Prometheus has had no metrics of workspace demo for 5 minutes or longer, so no other alert for it "
                    "can fire.",
                    {"severity": "critical", "workspace": "demo"},
                )
            ]
        },
        silent=(4,),
    ),
    "a failing workspace beside one with a silent event and a stale query": Scenario(
        DEMO.replace("{event: purchase,", "{event: login}\n      - {event: purchase,"),
        {
            **outage(0, 8),
            REMAINING: always(0),
            auth_failures("unauthorized"): last_fetch,
            WRITES: last_fetch,
            STARTED: last_fetch,
            TOTAL: last_fetch,
            **of_demo({**healthy(), TOTAL: always(90), **stale_query("login")}),
        },
        fires={
            136: [
                ExpectedAlert(
                    "BrazeEventSilent",
                    "No purchase events in workspace demo were counted for 2h or longer.",
                    {**EVENT, "workspace": "demo"},
                ),
                query_stale("login", "demo", "2h 14m 59s"),
            ]
        },
        silent=(70,),
    ),
    "a failing workspace beside a healthy one": Scenario(
        DEMO,
        {**outage(0, 8), REMAINING: always(0), unlisted("purchase"): always(1), **of_demo(healthy())},
        silent=range(0, 400, 50),
    ),
    # Days of 24, 25, 24, 23 and 24 hours; each settles two hours after its end.
    "days of 23 and 25 hours": Scenario(
        DAILY,
        {
            **healthy("day"),
            series(f"{DAYS}_settled", PURCHASE): lambda now: 100 * _day(now)[1],
            series(f"{DAYS}_baseline", PURCHASE): always(2_400),
            query_series("settled_bucket_start_timestamp_seconds", "custom_events", "day", PURCHASE): (
                lambda now: _day(now)[0] * HOUR
            ),
        },
        silent=range(0, 120 * 60, 60),
        step=5,
    ),
    "a silent day": Scenario(
        DAILY,
        {**healthy("day"), TOTAL: until(24, healthy()[TOTAL])},
        fires={
            48 * 60 + 20: [
                ExpectedAlert(
                    "BrazeEventSilent",
                    "No purchase events in workspace production were counted for 1d or longer.",
                    DAILY_EVENT,
                )
            ]
        },
        silent=(24 * 60, 40 * 60, 48 * 60 + 10),
        step=5,
    ),
}  # fmt: skip


def _day(now: float) -> tuple[int, int]:
    """Return the start and the length of the newest settled day, in hours."""
    start, result = -48, (-48, 24)
    for length in (24, 24, 24, 25, 24, 23, 24, 24):
        if (start + length + 2) * HOUR <= last_fetch(now):
            result = (start, length)
        start += length
    return result


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_fires_expected_alerts_only(name: str, tmp_path: Path) -> None:
    """At each checked minute, exactly the alerts of the scenario fire, with exactly the expected texts."""
    SCENARIOS[name].check(tmp_path)


def test_every_rule_fires_in_some_scenario() -> None:
    """Every rule fires in at least one scenario."""
    known = {
        rule["alert"]
        for config in ("", DURABLE, DAILY)
        for group in generated_rules(config)["groups"]
        for rule in group["rules"]
    } - {"BrazeListFetchFailing", "BrazeListSuspect"}  # see test_alerts_of_selectors
    fired = {alert.alert for scenario in SCENARIOS.values() for alerts in scenario.fires.values() for alert in alerts}
    assert fired == known
