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
    samples,
    series,
    until,
)
from support import HOUR, workspace_yaml

pytestmark = pytest.mark.no_cover

URL = "https://rest.iad-01.braze.com"
DAY = 24
WINBACK, WELCOME = "d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "f293e280-c0e7-4304-b9b9-62803fc0b053"
ONBOARDING = "4ffe74b7-ca90-4046-ae7f-68b1b337f6a6"
PROCESS_START = series("process_start_time_seconds", "")
# The sent messages of a campaign with two channels, one of which has two variations. `OPENED` has other statistics of
# it.
SENT = (
    'channel="email",variation="A",stat="sent"',
    'channel="email",variation="B",stat="sent"',
    'channel="in_app_message",variation="A",stat="impressions"',
)
MESSAGES = "braze_campaign_messages_daily"
OPENED = ('channel="email",variation="A",stat="opens"', 'channel="in_app_message",variation="A",stat="clicks"')


def config(sections: str) -> str:
    """Return a config with one event and additional sections."""
    return workspace_yaml(URL, "{event: purchase}", extra_yaml=sections)


SESSIONS = config("    sessions: [{apps: [all, ios], alerts: {silent: 2h, below: 50}}]\n")
PURCHASES = config("    purchases: [{product: Mug, apps: [ios], alerts: {silent: 12h, severity: page}}]\n")
REVENUE = config("    revenue: [{unit: day, baseline: {weeks: 4}, alerts: {drop: 0.5}}]\n")
SEGMENT = config("    segment_users: [{segment: vip, alerts: {below: 100}}]\n")
UNINSTALLS = config("    uninstalls: [{alerts: {silent: 2d, above: 500}}]\n")
CAMPAIGN = config(f"    campaigns: [{{campaign: {WINBACK}, alerts: {{silent: 2d, below: 100}}}}]\nstate_file: /state\n")
CANVAS = config(f"    canvases: [{{canvas: {ONBOARDING}, alerts: {{silent: 2d}}}}]\n")
CONFIGS = (SESSIONS, PURCHASES, REVENUE, SEGMENT, UNINSTALLS, CAMPAIGN, CANVAS)


def expected_alert(alert: str, sentence: str, unit: str = "day", **labels: str) -> ExpectedAlert:
    """Return an expected alert of the workspace."""
    return ExpectedAlert(alert, sentence, {"workspace": "production", "severity": "warning", "unit": unit, **labels})


def quota(pool: str, left: float) -> dict[str, SampleFunction]:
    """Return the rate limit series of a pool that has the fraction `left` of its limit left."""
    labels = f'{PRODUCTION},pool="{pool}"'
    return {
        series("braze_api_quota_limit", labels): always(1_000),
        series("braze_api_quota_remaining", labels): always(1_000 * left),
        series("braze_api_quota_reset_timestamp_seconds", labels): lambda now: (now // HOUR + 1) * HOUR,
    }


def named(
    metric_group: str, subject: str, name_and_id: tuple[str, str], total: SampleFunction, settled: float = 40
) -> dict[str, SampleFunction]:
    """Return the series of a campaign or Canvas without failed fetches, with its name and id."""
    labels = f'{subject}="{name_and_id[0]}"'
    breakdown = SENT if metric_group == "campaign_messages" else ("",)
    info = series(f"braze_{subject}_info", f'{PRODUCTION},{labels},{subject}_id="{name_and_id[1]}"')
    result = {
        info: always(1),
        **samples(metric_group, labels, settled=settled, total=total, breakdown=breakdown),
    }
    if metric_group == "campaign_messages":
        result |= samples(metric_group, labels, settled=5_000, total=lambda now: now, breakdown=OPENED)
    return result


def campaign(name: str, ident: str, total: SampleFunction, settled: float = 40) -> dict[str, SampleFunction]:
    """Return the series of a campaign with these values."""
    return named("campaign_messages", "campaign", (name, ident), total, settled)


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


def renamed(at: float) -> dict[str, SampleFunction]:
    """Return the series of a silent campaign that is renamed after `at` hours."""
    before, after = (campaign(name, WINBACK, always(7)) for name in ("Win-back", "Come back"))
    return {
        **{name: between(0, at, None, value) for name, value in after.items()},
        **{name: between(at, 999, None, value) for name, value in before.items()},
    }


def silent_campaign(name: str) -> ExpectedAlert:
    """Return the expected alert for a campaign that sends nothing."""
    sentence = f"Campaign {name} in workspace production has sent no messages for 2d or longer."
    return expected_alert("BrazeCampaignSilent", sentence, campaign=name, campaign_id=WINBACK)


def few_messages(count: int, name: str = "Win-back") -> ExpectedAlert:
    """Return the expected alert for a campaign that sends few messages."""
    sentence = (
        f"Messages of campaign {name} in workspace production: {count} in the newest settled day, below the limit of "
        "100."
    )
    return expected_alert("BrazeCampaignBelow", sentence, campaign=name, campaign_id=WINBACK)


IOS_SESSIONS = samples("sessions_filtered", 'braze_app="ios"', unit="hourly", settled=90, latest=1, total=steady)
MUGS = 'product="Mug",braze_app="ios"'
MUG = samples("purchases_filtered", MUGS, unit="hourly", settled=9, total=steady)
MONEY = samples("revenue", settled=400.5, total=steady) | {
    series("braze_revenue_daily_baseline"): always(1_000),
    series("braze_revenue_daily_latest"): always(3),
}
MUG_SILENT = expected_alert(
    "BrazePurchasesSilent",
    "No purchases of product Mug from app ios in workspace production were counted for 12h or longer.",
    "hour",
    product="Mug",
    braze_app="ios",
    severity="page",
)
MUG_STALE = expected_alert(
    "BrazeQueryUnanswered",
    "No fetch of purchases of product Mug from app ios in workspace production has succeeded for 5h 59m 59s, so its "
    "values are no longer exported.",
    "hour",
    product="Mug",
    braze_app="ios",
    kind="purchases",
)
MANY_UNINSTALLS = expected_alert(
    "BrazeUninstallsAbove",
    "Uninstalls in workspace production: 600 in the newest settled day, above the limit of 500.",
)
# Purchases are deferred only if the pool `lists` is low, since they do not use the default pool.
MUG_GONE = {
    **MUG,
    series("braze_purchases_filtered_hourly_last_success_timestamp_seconds", f"{PRODUCTION},{MUGS}"): until(
        2, last_fetch
    ),
    **{
        series(f"braze_purchases_filtered_hourly_{name}", f"{PRODUCTION},{MUGS}"): until_gone
        for name, until_gone in {
            "latest": between(3, 999, None, always(0)),
            "settled": between(3, 999, None, always(9)),
            "up": between(2, 999, 0, always(1)),
        }.items()
    },
}

SCENARIOS = {
    "sessions stop": Scenario(
        SESSIONS,
        {
            **healthy(),
            **samples("sessions", unit="hourly", settled=100, latest=1, total=until(3, steady)),
            **IOS_SESSIONS,
        },
        fires={
            minute: [
                expected_alert(
                    "BrazeSessionsSilent", "No sessions in workspace production were counted for 2h or longer.", "hour"
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
            **samples("sessions", unit="hourly", settled=100, latest=1, total=steady),
            **changed(
                IOS_SESSIONS,
                {
                    series("braze_sessions_filtered_hourly_settled", f'{PRODUCTION},braze_app="ios"'): between(
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
            series("braze_purchases_filtered_total", f"{PRODUCTION},{MUGS}"): until(3, steady),
            series("braze_purchases_filtered_total", f'{PRODUCTION},product="Cup",braze_app="ios"'): steady,
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
            series("braze_purchases_filtered_total", f"{PRODUCTION},{MUGS}"): always(0),
            PROCESS_START: lambda now: now // (8 * HOUR) * 8 * HOUR,
        },
        silent=range(0, 48 * 60, 60),
        step=15,
    ),
    "purchases that fail": Scenario(
        PURCHASES,
        {**healthy(), **MUG_GONE, **quota("lists", 0.5), **quota("default", 0.1)},
        fires={
            8 * 60: [
                ExpectedAlert(
                    "BrazeQuotaLow",
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
        {**healthy(), **MUG_GONE, **quota("lists", 0.1)},
        fires={
            8 * 60: [
                ExpectedAlert(
                    "BrazeQuotaLow",
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
                                                       "baseline.")]},
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
                if "_up" in name or "_last_success" in name
            },
        },
        fires={
            30: [
                expected_alert(
                    "BrazeSegmentNoData",
                    "Responses for users in segment vip in workspace production contain no data.",
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
                    series("braze_uninstalls_daily_settled_bucket_start_timestamp_seconds"): lambda now: (
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
    "uninstalls that are no longer computed": Scenario(
        UNINSTALLS,
        {**healthy(), **samples("uninstalls", settled=600, total=until(30, by_night))},
        fires={
            30: [MANY_UNINSTALLS],
            77 * 60: [
                MANY_UNINSTALLS,
                expected_alert("BrazeUninstallsSilent", "No uninstalls in workspace production were counted for 2d "
                                                        "or longer."),
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
            series("braze_campaign_messages_total", f'{PRODUCTION},campaign="Win-back",{SENT[2]}'): steady,
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
                f'{PRODUCTION},campaign="Win-back",channel="sms",variation="A",stat="sent"',
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
    "a campaign gets its name": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **{
                name: between(0, 1, None, value)
                for name, value in campaign("Win-back", WINBACK, steady, settled=30).items()
            },
            **{
                name: between(1, 999, None, value)
                for name, value in campaign(WINBACK, WINBACK, steady, settled=30).items()
            },
        },
        fires={
            30: [few_messages(90, WINBACK)],
            60: [few_messages(90, WINBACK)],
            120: [few_messages(90)],
        },
        step=15,
    ),
    "a silent campaign is renamed": Scenario(
        CAMPAIGN,
        {**healthy(), **renamed(60)},
        fires={
            50 * 60: [silent_campaign("Win-back")],
            # The renamed campaign has to be silent for two days under its new name.
            109 * 60: [silent_campaign("Come back")],
        },
        silent=(40 * 60, 62 * 60, 107 * 60),
        step=15,
    ),
    "a campaign with responses without messages": Scenario(
        CAMPAIGN,
        {
            **healthy(),
            **{
                name: value
                for name, value in campaign("Win-back", WINBACK, steady).items()
                if "_info" in name or "_up" in name or "_last_success" in name
            },
        },
        fires={
            30: [
                expected_alert(
                    "BrazeCampaignNoData",
                    "Responses for messages of campaign Win-back in workspace production contain no data.",
                    campaign="Win-back",
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
            series(f"{MESSAGES}_last_success_timestamp_seconds", f'{PRODUCTION},campaign="Win-back"'): (
                lambda now: last_fetch(before_outage(now))
            ),
            series(f"{MESSAGES}_up", f'{PRODUCTION},campaign="Win-back"'): between(
                50, 120, 0, always(1)
            ),
        },
        silent=range(0, 6 * DAY * 60, 3 * 60),
        step=60,
    ),
    "a Canvas has no entries": Scenario(
        CANVAS,
        {
            **healthy(),
            **named("canvas_entries", "canvas", ("Onboarding, 14 days", ONBOARDING), until(10, steady)),
            **named("canvas_entries", "canvas", ("Birthday", WELCOME), always(3)),
        },
        fires={
            59 * 60: [
                expected_alert(
                    "BrazeCanvasSilent",
                    "No users have entered Canvas Onboarding, 14 days in workspace production for 2d or longer.",
                    canvas="Onboarding, 14 days",
                    canvas_id=ONBOARDING,
                )
            ]
        },
        silent=(20 * 60, 57 * 60, 58 * 60),
        step=15,
    ),
    "a Canvas and an exporter that restarts each day": Scenario(
        CANVAS,
        {
            **healthy(),
            **named("canvas_entries", "canvas", ("Onboarding, 14 days", ONBOARDING), always(0)),
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
