"""The alerts of wildcards: promtool judges what a regular expression in a rule takes, less what others ask for.

Needs `promtool`, as `test_prometheus` does.
"""

import json
import subprocess
from pathlib import Path
from random import Random

import yaml
from alert_scenarios import PRODUCTION, Fired, Story, Told, always, between, generated, healthy, series, told
from servers import tool
from support import run, workspace, write

from braze_exporter.config.loading import load
from braze_exporter.config.regex import PatternError, pattern
from braze_exporter.metrics.promql import quoted
from braze_exporter.monitoring.dashboard import dashboard
from braze_exporter.monitoring.selector_queries import wild_queries
from braze_exporter.scheduler.plan import build

URL = "https://rest.iad-01.braze.com"
ONE, TWO, THREE = (f"d8b73da7-0b7c-fc72-1d80-2f6e9c41ab0{n}" for n in (1, 2, 3))
EVENTS = """\
{event: checkout_started, alerts: {below: 50}}
{match: "checkout_.*", alerts: {below: 20, labels: {team: shop}}}
{match: ".*", alerts: {below: 10}}"""


def config(sections: str, events: str = "{event: purchase}") -> str:
    """Return a config with events and more sections."""
    return workspace(URL, events, rest=sections)


def below(name: str, value: str, limit: str, **labels: str) -> Fired:
    """Return the alert of an event with too few."""
    usual = {"workspace": "production", "event": name, "severity": "warning", "unit": "hour"}
    summary = f"{name} in production: {value} in a settled hour, under {limit}."
    return Fired("BrazeEventBelow", summary, usual | labels)


def test_each_event_is_judged_by_the_entry_that_asks_for_it(tmp_path: Path) -> None:
    """An event that an entry names is not judged by a pattern, and one that two match by the first of them alone."""
    found = healthy(labels=f'{PRODUCTION},event="purchase"')
    for name, settled in (
        ("checkout_started", 30),
        ("checkout_done", 15),
        ("rare", 5),
        ("other", 15),
        ("CHECKOUT_x", 15),
    ):
        found |= told("custom_events", f'event="{name}"', unit="hourly", settled=settled, latest=1)
    story = Story(
        config("", EVENTS),
        found,
        fires={
            40: [
                below("checkout_started", "30", "50"),
                below("checkout_done", "15", "20", match="checkout_.*", team="shop"),
                below("rare", "5", "10", match=".*"),
            ]
        },
        step=5,
    )
    story.judge(tmp_path)


LIST_READ = "braze_discovery_list_last_success_timestamp_seconds"


def unread(how: str, what: str) -> Fired:
    """Return the alert of a list that is not read."""
    labels = {"workspace": "production", "list": what, "severity": "warning"}
    return Fired("BrazeListUnread", f"Braze's list of {what} of production was not read {how}.", labels)


def read_each(labels: str, last: float) -> dict[str, Told]:
    """Return a list that is read every hour until so many have passed."""
    return {series(LIST_READ, f"{PRODUCTION},{labels}"): lambda now: 1 + min(now, last * 3_600) // 3_600 * 3_600}


def test_a_list_that_wildcards_need_and_that_is_not_read_alerts(tmp_path: Path) -> None:
    """Three hours after the last time and a little more; another list that is read, or not needed, tells nothing."""
    sections = "    campaigns: [{match: '.*'}]\n"
    found = (
        healthy() | read_each('list="events"', 2) | read_each('list="campaigns"', 99) | read_each('list="products"', 0)
    )
    story = Story(
        config(sections, "{event: purchase}\n{match: 'x.*'}"),
        found,
        fires={320: [unread("for 3h 19m 59s", "events")]},
        quiet=(60, 200, 310),
        step=5,
    )
    story.judge(tmp_path)


def test_a_list_that_was_never_read_alerts_after_a_quarter_of_an_hour(tmp_path: Path) -> None:
    """Never is 0, which is long ago; the clock of promtool begins there, so that it has to be longer ago here."""
    story = Story(
        config("", "{event: purchase}\n{match: 'x.*'}"),
        healthy() | {series(LIST_READ, f'{PRODUCTION},list="events"'): between(0.5, 99, 1_800, always(-1.8e9))},
        fires={minute: [unread("since the exporter was started", "events")] for minute in (16, 29)},
        quiet=(14, 46, 100),
    )
    story.judge(tmp_path)


def test_without_wildcards_no_list_is_needed() -> None:
    """What the config names itself is asked for without any list, so that there is no such rule."""
    alerts = [rule["alert"] for group in generated(config(""))["groups"] for rule in group["rules"]]
    assert "BrazeListUnread" not in alerts


def campaign(name: str, ident: str) -> dict[str, Told]:
    """Return a campaign that has sent three messages."""
    labels = f'campaign="{name}"'
    info = series("braze_campaign_info", f'{PRODUCTION},{labels},campaign_id="{ident}"')
    sent = ('channel="email",variation="A",stat="sent"',)
    return {info: always(1), **told("campaign_messages", labels, settled=3, breakdown=sent)}


def test_campaigns_are_matched_by_name_whatever_id_stands_behind_it(tmp_path: Path) -> None:
    """Of two campaigns with one name, which the id tells apart, both are matched; one that an entry names is not."""
    sections = f"    campaigns: [{{campaign: {THREE}}}, {{match: 'Win-back.*', alerts: {{below: 5}}}}]\n"
    found = healthy(labels=f'{PRODUCTION},event="purchase"')
    names = {f"Win-back ({ONE})": ONE, "Win-back 2": TWO, "Win-back 3": THREE, "A Win-back": ONE[::-1]}
    for name, ident in names.items():
        found |= campaign(name, ident)
    fired = [
        Fired(
            "BrazeCampaignBelow",
            f"Messages of the campaign {name} in production: 3 in a settled day, under 5.",
            {"workspace": "production", "campaign": name, "severity": "warning", "unit": "day", "match": "Win-back.*"},
        )
        for name in (f"Win-back ({ONE})", "Win-back 2")
    ]
    Story(config(sections), found, fires={60: fired}, step=15).judge(tmp_path)


def test_tags_leave_names_to_others() -> None:
    """What has a tag is not known by its name, so that no later pattern leaves it out."""
    sections = "    campaigns: [{tag: cart}, {match: 'a.*', tag: b}, {match: '.*', alerts: {below: 5}}]\n"
    plan = build(load(config(sections), "x.yaml"))
    found = [(query.subject, query.subject.less) for query, _ in wild_queries(plan)]  # type: ignore[attr-defined]
    assert found == [("cart", ""), ("a.*", ""), (".*", "")]


def test_a_workspace_of_wildcards_alone_has_rules_and_a_dashboard(tmp_path: Path) -> None:
    """Where the config names nothing itself there are rules and panels all the same, which promtool takes."""
    text = config("", "{match: 'a\\\\.b \\\"?.*', unit: day, alerts: {silent: 2d, above: 5}}\n{match: '.*'}")
    rules = generated(text)
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert alerts.count("BrazeEventSilent") == alerts.count("BrazeEventAbove") == alerts.count("BrazeExporterDown") == 1
    path = write(tmp_path / "config.yaml", text)
    for command in ("rules", "dashboard"):
        done = run(command, f"--config.file={path}")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    board = json.dumps(dashboard(build(load(text, "x.yaml")), 0.2))
    assert "braze_custom_events_hourly_settled" in board
    assert "braze_custom_events_daily_settled" in board


LETTERS = ("a", "b", "_", ".", r"\.", r"\d", r"\W", r"\s", "[a-z]", r"[^\w-]", "[&&|]", "é", " ", "(?:a|bc)", "(a|)")
TIMES = ("", "", "?", "*", "+", "{2}", "{0,2}")
NAMES = ("a", "b", "ab", "aab", "a.b", "a_b", "1", "12", "é", "É", "&", "|", "-", " ", "abc", "bc", "A", "a b", "bcbc")


def made_up(random: Random) -> str:
    """Return an expression that is taken here."""
    while True:
        text = "".join(random.choice(LETTERS) + random.choice(TIMES) for _ in range(random.randint(1, 4)))
        try:
            return pattern(random.choice(("", "(?i)")) + text + random.choice(("", "|b+"))).text
        except PatternError:
            continue


def test_patterns_mean_to_prometheus_what_they_mean_here(tmp_path: Path) -> None:
    """Of made-up names Prometheus's own expressions match just those that ours match."""
    random = Random(7)  # noqa: S311 - expressions, no secrets
    tests = [
        {
            "expr": f"n{{name=~{quoted(text)}}}",
            "eval_time": "0m",
            "exp_samples": [
                {"labels": f"n{{name={quoted(name)}}}", "value": 1} for name in NAMES if pattern(text).matches(name)
            ],
        }
        for text in {made_up(random) for _ in range(200)}
    ]
    told = [{"series": f"n{{name={quoted(name)}}}", "values": "1"} for name in NAMES]
    content = {"rule_files": [], "tests": [{"interval": "1m", "input_series": told, "promql_expr_test": tests}]}
    path = write(tmp_path / "tests.yml", yaml.safe_dump(content, allow_unicode=True))
    done = subprocess.run(  # noqa: S603
        [tool("promtool"), "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
