"""Test with promtool the alerts of sessions, purchases, revenue, users, campaigns and Canvases.

Needs `promtool`, as `test_prometheus` does.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
from alert_scenarios import (
    PRODUCTION,
    ExpectedAlert,
    SampleFunction,
    Scenario,
    always,
    between,
    healthy,
    hours,
    last_fetch,
    query_series,
    samples,
    series,
    until,
)
from support import HOUR, workspace_yaml

from braze_exporter.metrics.self_families import RATE_LIMIT, RATE_LIMIT_REMAINING, RATE_LIMIT_RESET, UP

pytestmark = pytest.mark.no_cover

URL = "https://rest.iad-01.braze.com"
DAY = 24
WINBACK, WELCOME = "d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "f293e280-c0e7-4304-b9b9-62803fc0b053"
ONBOARDING = "4ffe74b7-ca90-4046-ae7f-68b1b337f6a6"
PROCESS_START = series("process_start_time_seconds", "")
# The sent messages of a campaign with two channels, one of which has two variations of the same name. `OPENED` has
# other statistics of it.
SENT = (
    'channel="email",variation_id="1",variation="A",stat="sent"',
    'channel="email",variation_id="2",variation="A",stat="sent"',
    'channel="in_app_message",variation_id="1",variation="A",stat="impressions"',
)
OPENED = (
    'channel="email",variation_id="1",variation="A",stat="opens"',
    'channel="in_app_message",variation_id="1",variation="A",stat="clicks"',
)


def config(sections: str) -> str:
    """Return a config with one event and additional sections."""
    return workspace_yaml(URL, "{event: purchase}", extra_yaml=sections)


SESSIONS = config("    sessions: [{apps: [all, ios], alerts: {silent: 2h, below: 50}}]\n")
PURCHASES = config("    purchases: [{product: Mug, apps: [ios], alerts: {silent: 12h, severity: page}}]\n")
REVENUE = config("    revenue: [{unit: day, baseline: {weeks: 4}, alerts: {drop: 0.5}}]\n")
SEGMENT = config("    segment_users: [{segment: vip, alerts: {below: 100}}]\n")
NEW_USERS = config("    new_users: [{refresh_interval: 6h, alerts: {below: 5}}]\n")
UNINSTALLS = config("    uninstalls: [{alerts: {silent: 2d, above: 500}}]\n")
CAMPAIGN = config(f"    campaigns: [{{campaign: {WINBACK}, alerts: {{silent: 2d, below: 100}}}}]\nstate_file: /state\n")
CANVAS = config(f"    canvases: [{{canvas: {ONBOARDING}, alerts: {{silent: 2d}}}}]\n")


def expected_alert(alert: str, sentence: str, kind: str, unit: str = "day", **labels: str) -> ExpectedAlert:
    """Return an expected alert of the workspace."""
    alert_labels = {"workspace": "production", "severity": "warning", "kind": kind, "unit": unit}
    return ExpectedAlert(alert, sentence, {**alert_labels, **labels})


def rate_limit(pool: str, left: float) -> dict[str, SampleFunction]:
    """Return the rate limit series of a pool that has the fraction `left` of its limit left."""
    labels = f'{PRODUCTION},pool="{pool}"'
    return {
        series(RATE_LIMIT.name, labels): always(1_000),
        series(RATE_LIMIT_REMAINING.name, labels): always(1_000 * left),
        series(RATE_LIMIT_RESET.name, labels): lambda now: (now // HOUR + 1) * HOUR,
    }


def labels_of(subject: str, name: str, ident: str) -> str:
    """Return the labels of a campaign or Canvas; the name is empty while it is unknown."""
    return ",".join([f'{subject}_id="{ident}"', *([f'{subject}="{name}"'] if name else [])])


def campaign(name: str, ident: str, total: SampleFunction, settled: float = 40) -> dict[str, SampleFunction]:
    """Return the series of a campaign with these values, of which no fetch fails."""
    labels = labels_of("campaign", name, ident)
    return samples(
        "campaign_messages", labels, kind="campaigns", settled=settled, total=total, breakdown=SENT
    ) | samples("campaign_messages", labels, kind="campaigns", settled=5_000, total=lambda now: now, breakdown=OPENED)


def canvas(name: str, ident: str, total: SampleFunction) -> dict[str, SampleFunction]:
    """Return the series of a Canvas with these values, of which no fetch fails."""
    return samples("canvas_entries", labels_of("canvas", name, ident), kind="canvases", settled=40, total=total)


def sequence(
    at: float, before: Mapping[str, SampleFunction], after: Mapping[str, SampleFunction]
) -> dict[str, SampleFunction]:
    """Return the series of `before` until `at` hours, and those of `after` from then on."""
    return {
        **{name: between(at, 999, None, value) for name, value in before.items()},
        **{name: between(0, at, None, value) for name, value in after.items()},
    }


def changed(base: Mapping[str, SampleFunction], changes: Mapping[str, SampleFunction]) -> dict[str, SampleFunction]:
    """Return the series of `base`, with some of them replaced by `changes`."""
    assert changes.keys() <= base.keys()
    return {**base, **changes}


def steady(now: float) -> float:
    """Return a counter that rises at each fetch."""
    return last_fetch(now) // 60


def by_night(now: float) -> float:
    """Return a counter that rises once a day, at 3:00 and 4:00 on alternate days."""
    day, hour = divmod(hours(now), DAY)
    return 70 * (day + (hour >= 3 + day % 2))


def before_outage(now: float) -> float:
    """Return the time, or the start of the outage while all fetches fail from hour 50 to hour 120."""
    return 50 * HOUR if 50 <= hours(now) < 120 else now


def renamed(at: float, total: SampleFunction) -> dict[str, SampleFunction]:
    """Return the series of a campaign that is renamed after `at` hours."""
    before, after = (campaign(name, WINBACK, total) for name in ("Win-back", "Come back"))
    return sequence(at, before, after)


def silent_campaign(name: str) -> ExpectedAlert:
    """Return the expected alert for a campaign that sends nothing."""
    sentence = f"Campaign {name} in workspace production has sent no messages for 2d or longer."
    return expected_alert("BrazeCampaignSilent", sentence, "campaigns", campaign_id=WINBACK)


def few_messages(count: int, name: str = "Win-back") -> ExpectedAlert:
    """Return the expected alert for a campaign that sends few messages."""
    sentence = (
        f"Messages of campaign {name} in workspace production: {count} in the newest settled day, below the limit of "
        "100."
    )
    return expected_alert("BrazeCampaignBelow", sentence, "campaigns", campaign_id=WINBACK)


def campaign_stale(since: str) -> ExpectedAlert:
    """Return the expected alert for a campaign without a recent success."""
    sentence = (
        f"No fetch of the query campaigns (day, campaign Win-back) in workspace production has succeeded for {since}, "
        "so its values are no longer exported."
    )
    return expected_alert("BrazeQueryStale", sentence, "campaigns", campaign_id=WINBACK)


IOS = 'braze_app="ios"'
IOS_SESSIONS = samples("sessions_by_app", IOS, kind="sessions", unit="hour", settled=90, latest=1, total=steady)
MUGS = 'product="Mug",braze_app="ios"'
MUG = samples("purchases_by_app_product", MUGS, kind="purchases", unit="hour", settled=9, total=steady)
MONEY = samples("revenue", settled=400.5, total=steady) | {
    series("braze_revenue_daily_baseline"): always(1_000),
    series("braze_revenue_daily_latest"): always(3),
}
MUG_SILENT = expected_alert(
    "BrazePurchasesSilent",
    "No purchases of product Mug from app ios in workspace production were counted for 12h or longer.",
    "purchases",
    "hour",
    product="Mug",
    braze_app="ios",
    severity="page",
)
MUG_STALE = expected_alert(
    "BrazeQueryStale",
    "No fetch of the query purchases (hour, product Mug, app ios) in workspace production has succeeded for "
    "5h 59m 59s, so its values are no longer exported.",
    "purchases",
    "hour",
    product="Mug",
    braze_app="ios",
)
MANY_UNINSTALLS = expected_alert(
    "BrazeUninstallsAbove",
    "Uninstalls in workspace production: 600 in the newest settled day, above the limit of 500.",
    "uninstalls",
)
# Purchases are deferred only if the pool `lists` is low, since they do not use the default pool.
MUG_GONE = {
    **MUG,
    query_series("last_success_timestamp_seconds", "purchases", "hour", f"{PRODUCTION},{MUGS}"): until(2, last_fetch),
    query_series("up", "purchases", "hour", f"{PRODUCTION},{MUGS}"): between(2, 999, 0, always(1)),
    **{
        series(f"braze_purchases_by_app_product_hourly_{name}", f"{PRODUCTION},{MUGS}"): between(
            3, 999, None, always(9)
        )
        for name in ("latest", "settled")
    },
}

WINBACK_LABELS = labels_of("campaign", "Win-back", WINBACK)

SCENARIOS = {
    "sessions stop": Scenario(
        SESSIONS,
        {
            **healthy(),
            **samples("sessions", unit="hour", settled=100, latest=1, total=until(3, steady)),
            **IOS_SESSIONS,
        },
        fires={
            minute: [
                expected_alert(
                    "BrazeSessionsSilent",
                    "No sessions in workspace production were counted for 2h or longer.",
                    "sessions",
                    "hour",
                )
            ]
            for minute in (325, 600)
        },
        silent=(120, 180, 300, 310),
        step=5,
    ),
    "few sessions from an app in the settled hour, and few in the current hour": Scenario(
        SESSIONS,
        {
            **healthy(),
            **samples("sessions", unit="hour", settled=100, latest=1, total=steady),
            **changed(
                IOS_SESSIONS,
                {
                    series("braze_sessions_by_app_hourly_settled", f"{PRODUCTION},{IOS}"): between(
                        3, 5, 12, always(90)
                    )
                },
            ),
        },
        fires={
            200: [
                expected_alert(
                    "BrazeSessionsBelow",
                    "Sessions from app ios in workspace production: 12 in the newest settled hour, below the limit of "
                    "50.",
                    "sessions",
                    "hour",
                    braze_app="ios",
                )
            ]
        },
        silent=(170, 190, 320, 400),
        step=5,
    ),
    "a product has no purchases": Scenario(
        PURCHASES,
        {
            **healthy(),
            **MUG,
            series("braze_purchases_by_app_product_total", f"{PRODUCTION},{MUGS}"): until(3, steady),
            series("braze_purchases_by_app_product_total", f'{PRODUCTION},product="Cup",braze_app="ios"'): steady,
            series("braze_purchases_by_product_total", f'{PRODUCTION},product="Mug"'): steady,
            series("braze_purchases_total"): steady,
        },
        fires={15 * 60 + 30: [MUG_SILENT]},
        silent=(12 * 60, 15 * 60),
        step=15,
    ),
    "purchases without a state file and a restart": Scenario(
        PURCHASES,
        {
            **healthy(),
            **MUG,
            series("braze_purchases_by_app_product_total", f"{PRODUCTION},{MUGS}"): always(0),
            PROCESS_START: lambda now: now // (8 * HOUR) * 8 * HOUR,
        },
        silent=range(0, 48 * 60, 60),
        step=15,
    ),
    "purchases that fail": Scenario(
        PURCHASES,
        {**healthy(), **MUG_GONE, **rate_limit("lists", 0.5), **rate_limit("default", 0.1)},
        fires={
            8 * 60: [
                ExpectedAlert(
                    "BrazeRateLimitLow",
                    "10% of the rate limit of workspace production is left (pool default), so the exporter pauses its "
                    "requests until the limit resets.",
                    {"workspace": "production", "severity": "warning", "pool": "default"},
                ),
                MUG_STALE,
            ]
        },
        step=15,
    ),
    "purchases that are deferred by their own rate limit": Scenario(
        PURCHASES,
        {**healthy(), **MUG_GONE, **rate_limit("lists", 0.1)},
        fires={
            8 * 60: [
                ExpectedAlert(
                    "BrazeRateLimitLow",
                    "10% of the rate limit of workspace production is left (pool lists), so the exporter pauses its "
                    "requests until the limit resets.",
                    {"workspace": "production", "severity": "warning", "pool": "lists"},
                )
            ]
        },
        step=15,
    ),
    "revenue falls": Scenario(
        REVENUE,
        {**healthy(), **MONEY},
        fires={30: [expected_alert("BrazeRevenueDrop", "Revenue in workspace production is at 40.05% of the "
                                                       "baseline.", "revenue")]},
        silent=(0,),
        step=15,
    ),
    "revenue is above the limit, and today's is still small": Scenario(
        REVENUE,
        {**healthy(), **changed(MONEY, {series("braze_revenue_daily_settled"): always(501)})},
        silent=range(0, 30 * 60, 60),
        step=15,
    ),
    "a segment shrinks": Scenario(
        SEGMENT,
        {
            **healthy(),
            **changed(
                samples("segment_users", 'segment="vip"', settled=120, latest=0),
                {
                    series("braze_segment_users_daily_settled", f'{PRODUCTION},segment="vip"'): between(
                        26, 50, 90, always(120)
                    )
                },
            ),
        },
        fires={
            27 * 60: [
                expected_alert(
                    "BrazeSegmentBelow",
                    "Users in segment vip in workspace production: 90 in the newest settled day, below the limit of "
                    "100.",
                    "segment_users",
                    segment="vip",
                )
            ]
        },
        silent=(60, 26 * 60, 51 * 60),
        step=15,
    ),
    "a segment with empty responses": Scenario(
        SEGMENT,
        {
            **healthy(),
            **{
                name: value
                for name, value in samples("segment_users", 'segment="vip"').items()
                if "_query_" in name and "_bucket_" not in name
            },
        },
        fires={
            30: [
                expected_alert(
                    "BrazeSegmentNoData",
                    "Responses for users in segment vip in workspace production contain no data.",
                    "segment_users",
                    segment="vip",
                )
            ]
        },
        silent=(0,),
        step=15,
    ),
    # The newest settled day is one day older than for other kinds, and the counter rises only once a day.
    "uninstalls are computed at night": Scenario(
        UNINSTALLS,
        {
            **healthy(),
            **changed(
                samples("uninstalls", settled=70, total=by_night),
                {
                    query_series("settled_bucket_start_timestamp_seconds", "uninstalls"): lambda now: (
                        (last_fetch(now) - 4 * HOUR) // (DAY * HOUR) - 2
                    )
                    * DAY
                    * HOUR
                },
            ),
        },
        silent=range(0, 6 * DAY * 60, 60),
        step=15,
    ),
    # Responses end with the previous day, and a new day is first fetched at 5:00.
    "new users are fetched every six hours": Scenario(
        NEW_USERS,
        {
            **healthy(),
            **changed(
                samples("new_users", settled=70),
                {
                    query_series("settled_bucket_start_timestamp_seconds", "new_users"): lambda now: (
                        (now - 5 * HOUR) // (DAY * HOUR) - 2
                    )
                    * DAY
                    * HOUR
                },
            ),
        },
        silent=range(0, 4 * DAY * 60, 60),
        step=15,
    ),
    # Fetches fail from 2:00 to 4:00. Uninstalls are fetched hourly, at half past, so their values are stale until 4:30.
    "uninstalls after an outage of Braze": Scenario(
        UNINSTALLS,
        {
            **healthy(),
            **changed(
                samples("uninstalls", settled=70, total=by_night),
                {
                    query_series("last_success_timestamp_seconds", "uninstalls"): lambda now: (
                        1.5 * HOUR if 1.5 <= hours(now) < 4.5 else (hours(now) - 0.5) // 1 * HOUR + HOUR / 2
                    ),
                    query_series("max_age_seconds", "uninstalls"): always(2 * HOUR),
                },
            ),
            series(UP.name): between(2.5, 4, 0, always(1)),
        },
        silent=range(240, 480),
    ),
    "uninstalls that are no longer computed": Scenario(
        UNINSTALLS,
        {**healthy(), **samples("uninstalls", settled=600, total=until(30, by_night))},
        fires={
            30: [MANY_UNINSTALLS],
            77 * 60: [
                MANY_UNINSTALLS,
                expected_alert("BrazeUninstallsSilent", "No uninstalls in workspace production were counted for 2d "
                                                        "or longer.", "uninstalls"),
            ],
        },
        step=15,
    ),
    # The campaign sends 120 messages a day. Opens do not count as sent.
    "a campaign sends nothing": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **campaign("Win-back", WINBACK, until(10, steady)),
            **campaign("Welcome email", WELCOME, always(3), settled=1),
        },
        fires={59 * 60: [silent_campaign("Win-back")]},
        silent=(20 * 60, 57 * 60, 58 * 60),
        step=15,
    ),
    "a campaign sends through one channel only": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **campaign("Win-back", WINBACK, always(3)),
            series("braze_campaign_messages_total", f"{PRODUCTION},{WINBACK_LABELS},{SENT[2]}"): steady,
        },
        silent=range(0, 4 * DAY * 60, 6 * 60),
        step=60,
    ),
    "a campaign sends through a new channel": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **campaign("Win-back", WINBACK, always(3)),
            series(
                "braze_campaign_messages_total",
                f'{PRODUCTION},{WINBACK_LABELS},channel="sms",variation_id="1",variation="A",stat="sent"',
            ): between(0, 30, None, steady),
        },
        silent=range(0, 4 * DAY * 60, 6 * 60),
        step=60,
    ),
    "a campaign sends few messages": Scenario(
        CAMPAIGN,
        {**healthy(), **campaign("Win-back", WINBACK, steady, settled=30)},
        fires={30: [few_messages(90)], 20 * 60: [few_messages(90)]},
        silent=(0,),
        step=15,
    ),
    # The name is not a label of the alert, so a new name changes only the description.
    "a campaign gets its name": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **sequence(
                1,
                campaign("", WINBACK, steady, settled=30),
                campaign("Win-back", WINBACK, steady, settled=30),
            ),
        },
        fires={
            30: [few_messages(90, WINBACK)],
            45: [few_messages(90, WINBACK)],
            60: [few_messages(90)],
            120: [few_messages(90)],
        },
        silent=(0,),
        step=15,
    ),
    # The condition is true from hour 48 on, and the campaign is renamed while the alert is pending.
    "a silent campaign is renamed while its alert is pending": Scenario(
        CAMPAIGN,
        {**healthy(), **renamed(48.05, always(7))},
        fires={48 * 60 + 18: [silent_campaign("Come back")]},
        silent=(47 * 60, 48 * 60 + 12),
        step=3,
    ),
    "a silent campaign is renamed while its alert fires": Scenario(
        CAMPAIGN,
        {**healthy(), **renamed(60, always(7))},
        fires={
            50 * 60: [silent_campaign("Win-back")],
            **{minute: [silent_campaign("Come back")] for minute in (60 * 60, 60 * 60 + 15, 62 * 60)},
        },
        silent=(40 * 60,),
        step=15,
    ),
    "a campaign that sends messages is renamed": Scenario(
        CAMPAIGN, {**healthy(), **renamed(60, steady)}, silent=range(48 * 60, 120 * 60, 60), step=60
    ),
    "a silent campaign and another one exchange names": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **sequence(
                60,
                {**campaign("Win-back", WINBACK, always(7)), **campaign("Welcome", WELCOME, steady)},
                {**campaign("Welcome", WINBACK, always(7)), **campaign("Win-back", WELCOME, steady)},
            ),
        },
        fires={
            50 * 60: [silent_campaign("Win-back")],
            **{minute: [silent_campaign("Welcome")] for minute in (60 * 60, 60 * 60 + 15, 120 * 60)},
        },
        silent=(40 * 60,),
        step=15,
    ),
    "a campaign has the name of a silent one": Scenario(
        CAMPAIGN,
        {**healthy(), **campaign("Win-back", WINBACK, steady), **campaign("Win-back", WELCOME, always(7))},
        silent=range(0, 4 * DAY * 60, 6 * 60),
        step=60,
    ),
    "a campaign that cannot be fetched": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **campaign("Win-back", WINBACK, steady),
            query_series("last_success_timestamp_seconds", "campaigns", "day", f"{PRODUCTION},{WINBACK_LABELS}"): until(
                2, last_fetch
            ),
        },
        fires={
            8 * 60: [campaign_stale("5h 59m 59s")],
        },
        silent=(60, 180),
        step=15,
    ),
    "a campaign with responses without messages": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **{
                name: value
                for name, value in campaign("Win-back", WINBACK, steady).items()
                if "_query_" in name
            },
        },
        fires={
            30: [
                expected_alert(
                    "BrazeCampaignNoData",
                    "Responses for messages of campaign Win-back in workspace production contain no data.",
                    "campaigns",
                    campaign_id=WINBACK,
                )
            ]
        },
        silent=(0,),
        step=15,
    ),
    # The counter does not change during an outage, which does not show that the campaign is silent.
    "a campaign during an outage of Braze": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **campaign("Win-back", WINBACK, lambda now: steady(before_outage(now))),
            query_series("last_success_timestamp_seconds", "campaigns", "day", f"{PRODUCTION},{WINBACK_LABELS}"): (
                lambda now: last_fetch(before_outage(now))
            ),
            query_series("up", "campaigns", "day", f"{PRODUCTION},{WINBACK_LABELS}"): between(50, 120, 0, always(1)),
        },
        fires={
            60 * 60: [campaign_stale("9h 59m 59s")],
            119 * 60: [campaign_stale("2d 20h 59m 59s")],
        },
        silent=(49 * 60, *range(120 * 60, 6 * DAY * 60, 3 * 60)),
        step=60,
    ),
    "a Canvas has no entries": Scenario(
        CANVAS,
        {
            **healthy(),
            **canvas("Onboarding, 14 days", ONBOARDING, until(10, steady)),
            **canvas("Birthday", WELCOME, always(3)),
        },
        fires={
            59 * 60: [
                expected_alert(
                    "BrazeCanvasSilent",
                    "No users have entered Canvas Onboarding, 14 days in workspace production for 2d or longer.",
                    "canvases",
                    canvas_id=ONBOARDING,
                )
            ]
        },
        silent=(20 * 60, 57 * 60, 58 * 60),
        step=15,
    ),
    "a Canvas that cannot be fetched": Scenario(
        CANVAS,
        {
            **healthy(),
            **canvas("Onboarding, 14 days", ONBOARDING, steady),
            query_series(
                "last_success_timestamp_seconds",
                "canvases",
                "day",
                f"{PRODUCTION},{labels_of('canvas', 'Onboarding, 14 days', ONBOARDING)}",
            ): until(2, last_fetch),
        },
        fires={
            8 * 60: [
                expected_alert(
                    "BrazeQueryStale",
                    "No fetch of the query canvases (day, Canvas Onboarding, 14 days) in workspace production has "
                    "succeeded for 5h 59m 59s, so its values are no longer exported.",
                    "canvases",
                    canvas_id=ONBOARDING,
                )
            ],
        },
        silent=(60, 180),
        step=15,
    ),
    "a Canvas and an exporter that restarts each day": Scenario(
        CANVAS,
        {
            **healthy(),
            **canvas("Onboarding, 14 days", ONBOARDING, always(0)),
            PROCESS_START: lambda now: now // (DAY * HOUR) * DAY * HOUR,
        },
        silent=range(0, 4 * DAY * 60, 60),
        step=60,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_fires_expected_alerts_only(name: str, tmp_path: Path) -> None:
    """At each checked minute, exactly the alerts of the scenario fire, with exactly the expected texts."""
    SCENARIOS[name].check(tmp_path)
