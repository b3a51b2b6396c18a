"""Test with promtool that the alerts of a selector cover what its regex matches, except the subjects of other entries.

Needs `promtool`, as `test_prometheus` does.
"""

import json
import subprocess
from pathlib import Path
from random import Random

import pytest
import yaml
from alert_scenarios import (
    PRODUCTION,
    ExpectedAlert,
    SampleFunction,
    Scenario,
    always,
    between,
    generated_rules,
    healthy,
    samples,
    series,
)
from servers import require_tool
from support import run_program, workspace_yaml, write_file

from braze_exporter.config.loading import load_config
from braze_exporter.config.quoting import quote
from braze_exporter.config.regex import RegexError, compile_regex
from braze_exporter.metrics.self_families import LIST_LAST_SUCCESS, LIST_SUSPECT
from braze_exporter.monitoring.dashboard import View, build_dashboard
from braze_exporter.monitoring.selector_queries import selector_queries
from braze_exporter.scheduler.plan import build_plan

pytestmark = pytest.mark.no_cover

URL = "https://rest.iad-01.braze.com"
ONE, TWO, THREE = (f"d8b73da7-0b7c-fc72-1d80-2f6e9c41ab0{n}" for n in (1, 2, 3))
EVENTS = """\
{event: checkout_started, alerts: {below: 50}}
{regex: "checkout_.*", alerts: {below: 20, labels: {team: shop}}}
{regex: ".*", alerts: {below: 10}}"""


LABELS = {"workspace": "production", "severity": "warning"}


def config(sections: str, events: str = "{event: purchase}") -> str:
    """Return a config with events and additional sections."""
    return workspace_yaml(URL, events, extra_yaml=sections)


def below(name: str, value: str, limit: str, **labels: str) -> ExpectedAlert:
    """Return the expected alert for an event with too few occurrences."""
    alert_labels = {**LABELS, "kind": "custom_events", "unit": "hour", "event": name}
    sentence = f"{name} events in workspace production: {value} in the newest settled hour, below the limit of {limit}."
    return ExpectedAlert("BrazeEventBelow", sentence, alert_labels | labels)


def test_event_is_alerted_by_its_own_entry(tmp_path: Path) -> None:
    """An event with its own entry uses the alerts of that entry only; otherwise the first matching regex applies."""
    all_series = healthy(labels=f'{PRODUCTION},event="purchase"')
    for name, settled in (
        ("checkout_started", 30),
        ("checkout_done", 15),
        ("rare", 5),
        ("other", 15),
        ("CHECKOUT_x", 15),
    ):
        all_series |= samples("custom_events", f'event="{name}"', unit="hour", settled=settled, latest=1)
    scenario = Scenario(
        config("", EVENTS),
        all_series,
        fires={
            40: [
                below("checkout_started", "30", "50"),
                below("checkout_done", "15", "20", selector="checkout_.*", team="shop"),
                below("rare", "5", "10", selector=".*"),
            ]
        },
        step=5,
    )
    scenario.check(tmp_path)


def test_purchases_of_all_products_are_no_product(tmp_path: Path) -> None:
    """The alerts of a regex for products are not for the query of all products together, whose product is empty."""
    all_together = samples("purchases", unit="hour", settled=5)
    product = samples("purchases_by_product", 'product="Mug"', kind="purchases", unit="hour", settled=5)
    sections = "    purchases: [{unit: hour}, {regex: '.*', alerts: {below: 1}}]\n"
    Scenario(config(sections), healthy() | all_together | product, silent=range(0, 120, 5), step=5).check(tmp_path)


def stale_list(name: str, since: str) -> ExpectedAlert:
    """Return the expected alert for a list whose fetches fail."""
    labels = {**LABELS, "list": name}
    sentence = f"No fetch of Braze's list of {name} for workspace production has succeeded {since}."
    return ExpectedAlert("BrazeListFetchFailing", sentence, labels)


def read_each(labels: str, last: float) -> dict[str, SampleFunction]:
    """Return the success time of a list that is read hourly for the first `last` hours."""
    return {
        series(LIST_LAST_SUCCESS.name, f"{PRODUCTION},{labels}"): lambda now: (
            1 + min(now, last * 3_600) // 3_600 * 3_600
        )
    }


def test_stale_selector_list_fires(tmp_path: Path) -> None:
    """The alert fires three hours after the last successful read, but not for a list that is current or not needed."""
    sections = "    campaigns: [{regex: '.*'}]\n"
    result = (
        healthy() | read_each('list="events"', 2) | read_each('list="campaigns"', 99) | read_each('list="products"', 0)
    )
    scenario = Scenario(
        config(sections, "{event: purchase}\n{regex: 'x.*'}"),
        result,
        fires={320: [stale_list("events", "for 3h 19m 59s")]},
        silent=(60, 200, 310),
        step=5,
    )
    scenario.check(tmp_path)


def test_never_read_list_fires_after_15_minutes(tmp_path: Path) -> None:
    """A list that was never read, with the success time 0, fires the alert after 15 minutes.

    Promtool's clock begins at 0, so the test uses a time far before 0.
    """
    scenario = Scenario(
        config("", "{event: purchase}\n{regex: 'x.*'}"),
        healthy()
        | {series(LIST_LAST_SUCCESS.name, f'{PRODUCTION},list="events"'): between(0.5, 99, 1_800, always(-1.8e9))},
        fires={minute: [stale_list("events", "since the exporter started")] for minute in (16, 29)},
        silent=(14, 46, 100),
    )
    scenario.check(tmp_path)


def test_any_stale_list_fires_without_config(tmp_path: Path) -> None:
    """The rules without a config are for every list, since they do not know which lists selectors use."""
    scenario = Scenario(
        "",
        healthy() | read_each('list="events"', 2) | read_each('list="products"', 99),
        fires={320: [stale_list("events", "for 3h 19m 59s")]},
        silent=(60, 200, 310),
        step=5,
    )
    scenario.check(tmp_path)


def suspect_between(name: str, start: float, end: float) -> dict[str, SampleFunction]:
    """Return the series of a list that is suspect from hour `start` to hour `end`."""
    return {series(LIST_SUSPECT.name, f'{PRODUCTION},list="{name}"'): between(start, end, 1, always(0))}


@pytest.mark.parametrize("text", ["", config("", "{event: purchase}\n{regex: 'x.*'}")], ids=["generic", "of config"])
def test_suspect_list_fires_before_its_items_are_removed(tmp_path: Path, text: str) -> None:
    """The alert fires while a list is suspect for more than 15 minutes, not if the next read finds the items again."""
    sentence = "Braze's list of events for workspace production lacks more than half of the items that it had before."
    fired = [ExpectedAlert("BrazeListSuspect", sentence, {**LABELS, "list": "events"})]
    result = healthy() | read_each('list="events"', 99) | read_each('list="products"', 99)
    result |= suspect_between("events", 1, 2) | suspect_between("products", 1, 2 if text else 1)
    Scenario(text, result, fires={76: fired, 119: fired}, silent=(5, 59, 74, 121, 140)).check(tmp_path)
    result |= suspect_between("events", 1, 1.1)
    Scenario(text, result, fires={}, silent=(61, 65, 70, 76, 90)).check(tmp_path)


def test_rules_without_selectors_need_no_list() -> None:
    """A config that names all its subjects has no rules about lists and skipped items, but one about unlisted names."""
    selectors = {"BrazeListFetchFailing", "BrazeListSuspect", "BrazeItemsSkipped"}
    named, selected, neither = (
        {rule["alert"] for group in generated_rules(text)["groups"] for rule in group["rules"]}
        for text in (
            config(""),
            config("", "{regex: 'x.*'}"),
            config("    sessions: [{}]\n").replace("    custom_events:\n      - {event: purchase}\n", ""),
        )
    )
    assert named & {*selectors, "BrazeQueryUnlisted"} == {"BrazeQueryUnlisted"}
    assert selected & {*selectors, "BrazeQueryUnlisted"} == selectors
    assert not neither & {*selectors, "BrazeQueryUnlisted"}


def campaign(name: str, ident: str) -> dict[str, SampleFunction]:
    """Return the series of a campaign that has sent three messages."""
    sent = ('channel="email",variation_id="1",variation="A",stat="sent"',)
    labels = f'campaign_id="{ident}",campaign="{name}"'
    return samples("campaign_messages", labels, kind="campaigns", settled=3, breakdown=sent)


def few_messages(name: str, ident: str, selector: str) -> ExpectedAlert:
    """Return the expected alert for a campaign that a selector selects and that has sent three messages."""
    return ExpectedAlert(
        "BrazeCampaignBelow",
        f"Messages of campaign {name} in workspace production: 3 in the newest settled day, below the limit of 5.",
        {**LABELS, "kind": "campaigns", "unit": "day", "campaign_id": ident, "selector": selector},
    )


def test_campaigns_are_selected_by_name_and_identified_by_id(tmp_path: Path) -> None:
    """A regex selects campaigns by name, also several with the same name, except those with their own entries."""
    sections = f"    campaigns: [{{campaign: {THREE.upper()}}}, {{regex: 'Win-back.*', alerts: {{below: 5}}}}]\n"
    all_series = healthy(labels=f'{PRODUCTION},event="purchase"')
    for name, ident in (("Win-back", ONE), ("Win-back", TWO), ("Win-back 3", THREE), ("A Win-back", ONE[::-1])):
        all_series |= campaign(name, ident)
    fired = [few_messages("Win-back", ident, "Win-back.*") for ident in (ONE, TWO)]
    Scenario(config(sections), all_series, fires={60: fired}, step=15).check(tmp_path)


def test_renamed_campaign_keeps_alert_of_selector(tmp_path: Path) -> None:
    """A new name that the regex matches does not restart the alert; with any other name the alert ends."""
    sections = "    campaigns: [{regex: 'Win-back.*', alerts: {below: 5, for: 1h}}]\n"
    names = {"Win-back": (0.0, 0.5), "Win-back 2": (0.5, 2.0), "Other": (2.0, 99.0)}
    all_series = healthy(labels=f'{PRODUCTION},event="purchase"')
    for name, (start, end) in names.items():
        for series_name, sample in campaign(name, ONE).items():
            all_series[series_name] = between(0, start, None, between(end, 99, None, sample))
    scenario = Scenario(
        config(sections),
        all_series,
        fires={minute: [few_messages("Win-back 2", ONE, "Win-back.*")] for minute in (65, 115)},
        silent=(25, 55, 185),
        step=5,
    )
    scenario.check(tmp_path)


def test_segments_are_matched_by_name_with_id_suffix(tmp_path: Path) -> None:
    """A regex matches segments by their names, which end in an id in the label if several segments have the name."""
    all_series = healthy(labels=f'{PRODUCTION},event="purchase"')
    names = (f"VIP ({ONE})", f"VIP ({TWO})", "VIP 2", "A VIP")
    for name in names:
        all_series |= samples("segment_users", f'segment="{name}"', settled=3)
    fired = [
        ExpectedAlert(
            "BrazeSegmentBelow",
            f"Users in segment {name} in workspace production: 3 in the newest settled day, below the limit of 5.",
            {**LABELS, "kind": "segment_users", "unit": "day", "segment": name, "selector": "VIP"},
        )
        for name in names[:2]
    ]
    text = config("    segment_users: [{regex: VIP, alerts: {below: 5}}]\n")
    Scenario(text, all_series, fires={60: fired}, step=15).check(tmp_path)


def test_tag_selector_excludes_no_names() -> None:
    """A tag selector excludes no names from later regex selectors, since the names of its items are unknown."""
    sections = "    campaigns: [{tag: cart}, {regex: 'a.*', tag: b}, {regex: '.*', alerts: {below: 5}}]\n"
    plan = build_plan(load_config(config(sections), "x.yaml"))
    result = [(query.subject, query.subject.excluded) for query, _ in selector_queries(plan)]  # type: ignore[attr-defined]
    assert result == [("tag: cart", ""), ("a.*, tag: b", ""), (".*", "")]


def test_workspace_with_only_selectors_has_rules_and_dashboard(tmp_path: Path) -> None:
    """A workspace with only selectors has rules and panels that pass promtool."""
    text = config("", "{regex: 'a\\\\.b \\\"?.*', unit: day, alerts: {silent: 2d, above: 5}}\n{regex: '.*'}")
    rules = generated_rules(text)
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert alerts.count("BrazeEventSilent") == alerts.count("BrazeEventAbove") == alerts.count("BrazeExporterDown") == 1
    path = write_file(tmp_path / "config.yaml", text)
    for command in ("rules", "dashboard"):
        done = run_program(command, f"--config.file={path}")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    board = json.dumps(build_dashboard(View.BRAZE, build_plan(load_config(text, "x.yaml"))))
    assert "braze_custom_events_hourly_settled" in board
    assert "braze_custom_events_daily_settled" in board


ATOMS = ("a", "b", "_", ".", r"\.", r"\d", r"\W", r"\s", "[a-z]", r"[^\w-]", "[&&|]", "é", " ", "(?:a|bc)", "(a|)")
REPETITIONS = ("", "", "?", "*", "+", "{2}", "{0,2}")
NAMES = ("a", "b", "ab", "aab", "a.b", "a_b", "1", "12", "é", "É", "&", "|", "-", " ", "abc", "bc", "A", "a b", "bcbc")


def random_regex(random: Random) -> str:
    """Return a random regex that the exporter accepts."""
    while True:
        text = "".join(random.choice(ATOMS) + random.choice(REPETITIONS) for _ in range(random.randint(1, 4)))
        try:
            return compile_regex(random.choice(("", "(?i)")) + text + random.choice(("", "|b+"))).text
        except RegexError:
            continue


def test_regex_matches_same_names_in_prometheus(tmp_path: Path) -> None:
    """Random regexes match the same names in Prometheus as in the exporter."""
    random = Random(7)  # noqa: S311 - random regexes, not secrets
    tests = [
        {
            "expr": f"n{{name=~{quote(text)}}}",
            "eval_time": "0m",
            "exp_samples": [
                {"labels": f"n{{name={quote(name)}}}", "value": 1}
                for name in NAMES
                if compile_regex(text).matches(name)
            ],
        }
        for text in {random_regex(random) for _ in range(200)}
    ]
    input_series = [{"series": f"n{{name={quote(name)}}}", "values": "1"} for name in NAMES]
    content = {"rule_files": [], "tests": [{"interval": "1m", "input_series": input_series, "promql_expr_test": tests}]}
    path = write_file(tmp_path / "tests.yml", yaml.safe_dump(content, allow_unicode=True))
    done = subprocess.run(  # noqa: S603
        [require_tool("promtool"), "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
