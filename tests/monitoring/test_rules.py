"""Test that `braze-exporter rules` prints valid rules for any config, with all names escaped.

Needs `prometheus` and `promtool`, as `test_prometheus` does.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_scenarios import ExpectedAlert, Scenario, generated_rules, series
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from servers import Prometheus, require_tool, running_prometheus
from support import HOUR, Program, run_program, running_braze, wait_until, workspace_yaml, write_file

from braze_exporter.config.quoting import quote
from braze_exporter.config.values import format_duration
from braze_exporter.metrics.promql import format_number
from braze_exporter.metrics.self_families import QUERIES
from braze_exporter.monitoring.rule import RuleOptions
from braze_exporter.monitoring.rules import as_yaml
from braze_exporter.simulator import demo_config

URL = "https://rest.iad-01.braze.com"
ROOT = Path(__file__).parents[2]
EVERYTHING = """
{event: purchase, apps: [all, ios], segments: [all, vip], baseline: {weeks: 4}, alerts: {silent: 2h, drop: 0.5}}
{event: purchase, unit: day, baseline: {weeks: 2}, alerts: {silent: 2d, drop: 1, min_baseline: 0, below: 0.5, above: 9}}
{event: signup, segments: [vip], alerts: {below: 5}}
{event: login}
"""
# Each kind, with the alerts that it supports.
EVERY_KIND = """
    sessions: [{apps: [all, ios], baseline: {weeks: 2}, alerts: {silent: 2h, drop: 0.5, below: 5, above: 9}}]
    purchases: [{baseline: {weeks: 2}, alerts: {silent: 12h, drop: 0.5}}, {product: Mug, alerts: {silent: 2d}}]
    revenue: [{unit: day, baseline: {weeks: 4}, alerts: {drop: 0.5, below: 100}}]
    segment_users: [{segment: vip, alerts: {below: 100}}]
    new_users: [{apps: [all, ios], alerts: {silent: 1d}}]
    uninstalls: [{alerts: {silent: 2d, above: 500}}]
    daily_active_users: [{alerts: {below: 1000}}]
    monthly_active_users: [{baseline: {weeks: 4}, alerts: {drop: 0.1}}]
    campaigns:
      - campaign: d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05
        baseline: {weeks: 4}
        alerts: {silent: 2d, drop: 0.5, below: 100, above: 9000}
      - campaign: 7f365fdd-dc5a-4339-ae2a-db1f146a8820
        alerts: {silent: 2d, drop: 0.5, below: 100, above: 9000}
        baseline: {weeks: 4}
    canvases: [{canvas: 4ffe74b7-ca90-4046-ae7f-68b1b337f6a6, alerts: {silent: 2d}}]
state_file: /state.sqlite
"""
SIMILAR_SELECTORS = """\
    campaigns:
      - {regex: cart, alerts: {below: 5}}
      - {regex: cart, tag: b, alerts: {below: 5}}
      - {regex: cart, tag: c, alerts: {below: 5}}
"""
ODD_NAMES = [
    "say \"hi\" and 'bye'",
    "a\\b\\n\\",
    "first\nsecond\r\n\tthird",
    "sign up 🎉 \N{RIGHT-TO-LEFT OVERRIDE}evil",
    "{{ .Value }} {{ $labels.workspace | toUpper",
    "{{{ }} {{",
    '"} or vector(1) #',
    "\x00\x1b\x7f\x85\u2028\ufeff\U000e0001",
    "$1 ${x} %s {0} `x`",
    "[a|b].*(c)?",
    " spaces ",
    "- a: b # c",
    "long " * 500,
]


def names_config(*names: str) -> str:
    """Return a config that uses each name as a workspace, event, app, severity and label value."""
    workspaces = [
        {
            "name": name,
            "url": URL,
            "api_key_env": "BRAZE_API_KEY",
            "apps": {name[:50]: "3bbc4555-8fa0-4c9b-a5c0-4505edf3e064"},
            "custom_events": [
                {
                    "event": name,
                    "apps": ["all", name[:50]],
                    "alerts": {"silent": "2h", "above": 5, "severity": name, "labels": {"team": name}},
                }
            ],
        }
        for name in names
    ]
    return str(yaml.safe_dump({"workspaces": workspaces}, allow_unicode=True))


def alerts_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all rules of a rule file."""
    return [rule for group in document["groups"] for rule in group["rules"]]


def assert_promtool_accepts(directory: Path, text: str) -> None:
    """Assert that promtool accepts a rule file and that its linter finds nothing to say."""
    path = write_file(directory / "rules.yml", text)
    done = subprocess.run(  # noqa: S603
        [require_tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", path],
        capture_output=True,
        text=True,
        check=False,
    )
    count = len(alerts_of(yaml.safe_load(text)))
    said = f"Checking {path}\n  SUCCESS: {count} rules found\n\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


CONFIGS = {
    **{path.stem: path.read_text(encoding="utf-8-sig") for path in (ROOT / "tests/config/good").glob("*.yaml")},
    "example": (ROOT / "config.example.yaml").read_text(encoding="utf-8"),
    "demo": demo_config.build_config("http://127.0.0.1"),
    "everything": workspace_yaml(URL, EVERYTHING, extra_yaml="state_file: /state.sqlite\nbudget: {reserve: 0}\n"),
    "every kind": workspace_yaml(URL, "{event: purchase, alerts: {silent: 2h}}\n{regex: 'x.*'}", extra_yaml=EVERY_KIND),
    "odd names": names_config(*ODD_NAMES),
    "similar selectors": workspace_yaml(URL, "{event: purchase}", extra_yaml=SIMILAR_SELECTORS),
    "no config": "",
}
OPTIONS = RuleOptions("https://runbooks.example.com/braze#", "https://grafana.example.com/d/{{x}}?a=1&b=%22", 'b"\\')


@pytest.mark.parametrize("name", CONFIGS)
def test_rules_pass_promtool(name: str, tmp_path: Path) -> None:
    """The rules of each config pass promtool and do not change when they are written as YAML and read again."""
    for options in (RuleOptions(), OPTIONS):
        document = generated_rules(CONFIGS[name], options)
        assert yaml.safe_load(as_yaml(document)) == document
        assert_promtool_accepts(tmp_path, as_yaml(document))


def test_rules_have_links_from_flags_only(tmp_path: Path) -> None:
    """`--runbook-url` is followed by the anchor of the runbook, and `--dashboard-url` is as written.

    Without these flags, rules have no such annotations.
    """
    path = write_file(tmp_path / "config.yaml", workspace_yaml(URL, "{event: purchase, alerts: {silent: 2h}}"))
    for config in ([], [f"--config.file={path}"]):
        plain, linked = (
            {
                rule["alert"]: rule["annotations"]
                for rule in alerts_of(yaml.safe_load(run_program("rules", *flags).stdout))
            }
            for flags in (
                config,
                [*config, "--runbook-url=https://x.org/r#", "--dashboard-url=http://g.org/d/b?x={{y}}"],
            )
        )
        assert {tuple(annotations) for annotations in plain.values()} == {("summary", "description")}
        assert linked.keys() == plain.keys()
        assert {annotations["dashboard_url"] for annotations in linked.values()} == {'http://g.org/d/b?x={{ "{{" }}y}}'}
        assert linked["BrazeQueryStale"]["runbook_url"] == "https://x.org/r#brazequerystale"
        if config:
            assert linked["BrazeEventNoData"]["runbook_url"] == "https://x.org/r#no-data"


def test_job_selects_target(tmp_path: Path) -> None:
    """With `--job`, there is one alert for targets that are down, instead of one for each workspace."""
    text = names_config("a", "b")
    path = write_file(tmp_path / "config.yaml", text)
    for config, workspaces in (([], [""]), ([f"--config.file={path}"], ["a", "b"])):
        plain, with_job = (
            [
                rule["expr"]
                for rule in alerts_of(yaml.safe_load(run_program("rules", *config, *flags).stdout))
                if rule["alert"] == "BrazeExporterDown"
            ]
            for flags in ([], ['--job=b"x'])
        )
        matchers = [f'{{workspace="{name}"}}' if name else "" for name in workspaces]
        assert plain == [f"absent({QUERIES.name}{matcher})" for matcher in matchers]
        assert with_job == ['up{job="b\\"x"} == 0\nor absent(up{job="b\\"x"})']


@pytest.mark.parametrize(
    "flag",
    [
        "--runbook-url=runbooks.example.com",
        "--runbook-url=",
        "--runbook-url=javascript:alert(1)",
        "--runbook-url=https://user:hunter2@example.com/",
        "--dashboard-url=ftp://hunter2.example.com",
        "--dashboard-url=https://",
        "--dashboard-url=https://[hunter2",
        "--dashboard-url=https://a.org/ hunter2",
        "--dashboard-url=https://a.org/\nhunter2",
        "--job=",
        "--job=\udcff",
    ],
    ids=ascii,
)
def test_invalid_flag_is_usage_error(flag: str) -> None:
    """A URL that is not http or https, or that has a password, is refused with exit code 2 and is not repeated.

    So is a job that is empty or not UTF-8.
    """
    done = run_program("rules", flag)
    name = flag.partition("=")[0]
    problem = (
        "must be UTF-8 text, and must not be empty"
        if name == "--job"
        else "must be an http or https URL without a password, such as https://grafana.example.com/d/braze"
    )
    assert (done.returncode, done.stdout) == (2, "")
    usage = "see braze-exporter rules --help"
    assert done.stderr == f"braze-exporter rules: error: argument {name}: {problem}; {usage}\n"
    assert "hunter2" not in done.stderr


def test_rules_without_config_read_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--config.file`, `rules` prints the built-in rules for all workspaces; a config.yaml is not read."""
    write_file(tmp_path / "config.yaml", "workspaces: []")
    monkeypatch.chdir(tmp_path)
    done = run_program("rules")
    assert (done.returncode, done.stderr) == (0, "")
    rules = yaml.safe_load(done.stdout)
    assert done.stdout == as_yaml(generated_rules(""))
    assert sorted(rule["alert"] for rule in alerts_of(rules)) == [
        "BrazeAPIKeyRejected",
        "BrazeExporterConfigReloadFailed",
        "BrazeExporterDown",
        "BrazeExporterStateWriteFailing",
        "BrazeFetchesFailing",
        "BrazeItemsSkipped",
        "BrazeListFetchFailing",
        "BrazeListSuspect",
        "BrazeQueryStale",
        "BrazeQueryUnlisted",
        "BrazeRateLimitLow",
        "BrazeTimezoneMismatch",
    ]
    assert not [rule["expr"] for rule in alerts_of(rules) if "workspace=" in rule["expr"]]
    refused = run_program("rules", "--config.file=config.yaml")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_keep_firing_for_defaults_to_for() -> None:
    """Alerts of entries all keep firing for `keep_firing_for`, by default as long as `for`; built-in ones do not."""
    events = """
        {event: a, alerts: {silent: 2h}}
        {event: b, alerts: {silent: 2h, for: 1h}}
        {event: c, alerts: {silent: 2h, for: 1h, keep_firing_for: 90s}}
    """
    delays = {
        (rule["labels"].get("event"), "event" in rule["labels"] and rule["for"], rule.get("keep_firing_for"))
        for rule in alerts_of(generated_rules(workspace_yaml(URL, events)))
    }
    assert delays == {("a", "15m", "15m"), ("b", "1h", "1h"), ("c", "1h", "1m30s"), (None, False, None)}


any_name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda name: name.strip() and name != "all"
)


@pytest.mark.no_cover
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_name, min_size=1, max_size=20, unique=True))
@example(["{{"])
def test_any_name_gives_valid_rules(tmp_path: Path, names: list[str]) -> None:
    """Rules are valid for any names of workspaces, events, apps and teams."""
    assert_promtool_accepts(tmp_path, as_yaml(generated_rules(names_config(*names))))


def test_names_are_escaped_in_rules(tmp_path: Path) -> None:
    """Alert labels and texts contain the exact names of the series, and no name acts as a template or PromQL."""
    info = {
        series(
            "braze_custom_events_hourly_settled", f"workspace={quote(name)},event={quote(name)}", 'instance="a"'
        ): lambda _now, number=number: 10.0 + number
        for number, name in enumerate(ODD_NAMES)
    }
    present = {series(QUERIES.name, f'workspace={quote(name)},state="up"', ""): lambda _now: 1.0 for name in ODD_NAMES}
    alerts = [
        ExpectedAlert(
            "BrazeEventAbove",
            f"{name} events in workspace {name}: {10 + number} in the newest settled hour, above the limit of 5.",
            {"workspace": name, "kind": "custom_events", "unit": "hour", "event": name, "severity": name, "team": name},
        )
        for number, name in enumerate(ODD_NAMES)
    ]
    Scenario(names_config(*ODD_NAMES), {**info, **present}, fires={16: alerts}).check(tmp_path)


def test_campaign_name_is_looked_up_for_description(tmp_path: Path) -> None:
    """The description has the exact name of the campaign in the workspace of the alert, although no label has it."""
    ident = "d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05"
    entry = {"campaign": ident, "alerts": {"above": 5}}
    workspaces = [
        {"name": name, "url": URL, "api_key_env": "A", "timezone": "UTC", "campaigns": [entry]} for name in ODD_NAMES
    ]
    sent = 'channel="email",variation_id="1",variation="A",stat="sent"'
    samples = {}
    for name in ODD_NAMES:
        labels = f'workspace={quote(name)},campaign_id="{ident}",campaign={quote("of " + name)}'
        query = f'{labels},kind="campaigns",unit="day"'
        samples[series("braze_campaign_messages_daily_settled", f"{labels},{sent}", "")] = lambda _now: 10.0
        samples[series("braze_query_last_success_timestamp_seconds", query, "")] = lambda now: now
        samples[series("braze_query_max_age_seconds", query, "")] = lambda _now: 3_600.0
        samples[series(QUERIES.name, f"workspace={quote(name)}", "")] = lambda _now: 1.0
    alerts = [
        ExpectedAlert(
            "BrazeCampaignAbove",
            f"Messages of campaign of {name} in workspace {name}: 10 in the newest settled day, above the limit of 5.",
            {"workspace": name, "kind": "campaigns", "unit": "day", "campaign_id": ident, "severity": "warning"},
        )
        for name in ODD_NAMES
    ]
    Scenario(str(yaml.safe_dump({"workspaces": workspaces}, allow_unicode=True)), samples, fires={16: alerts}).check(
        tmp_path
    )


def test_every_alert_has_runbook() -> None:
    """The runbook link of each alert leads to a heading of docs/runbooks.md, and each runbook is of an alert."""
    runbooks = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", runbooks, re.MULTILINE)}
    sorts = {"silent", "no-data", "drop", "below", "above"}
    linked = set()
    for config in ("", CONFIGS["every kind"]):
        for rule in alerts_of(generated_rules(config, RuleOptions("https://x.org/#"))):
            prefix, _, fragment = rule["annotations"]["runbook_url"].partition("#")
            assert prefix == "https://x.org/"
            name = rule["alert"].lower()
            assert fragment == name or (fragment in sorts and name.endswith(fragment.replace("-", "")))
            linked.add(fragment)
    assert linked == headings


def test_summary_is_constant_headline() -> None:
    """Each alert has one summary, without values, because it is the headline of a group of alerts."""
    summaries = {
        "ExporterConfigReloadFailed": "Failed Braze exporter configuration reload.",
        "ExporterStateWriteFailing": "Braze exporter cannot write its state file.",
        "ExporterDown": "Braze exporter metrics are missing.",
        "APIKeyRejected": "Braze rejects the API key.",
        "FetchesFailing": "All fetches from Braze fail.",
        "QueryStale": "Values of a query are stale.",
        "RateLimitLow": "Braze rate limit has reached the reserve.",
        "ListFetchFailing": "Fetches of a Braze list fail.",
        "ListSuspect": "A Braze list has lost most of its items.",
        "QueryUnlisted": "Braze does not list a subject in the config.",
        "ItemsSkipped": "Items that selectors match are skipped.",
        "TimezoneMismatch": "Configured time zone differs from Braze's.",
        "EventSilent": "No custom events counted.",
        "EventNoData": "No current data for custom events.",
        "SessionsSilent": "No sessions counted.",
        "SessionsNoData": "No current data for sessions.",
        "SessionsDrop": "Drop in sessions.",
        "SessionsBelow": "Sessions below the limit.",
        "SessionsAbove": "Sessions above the limit.",
        "PurchasesSilent": "No purchases counted.",
        "PurchasesNoData": "No current data for purchases.",
        "PurchasesDrop": "Drop in purchases.",
        "RevenueNoData": "No current data for revenue.",
        "RevenueDrop": "Drop in revenue.",
        "RevenueBelow": "Revenue below the limit.",
        "SegmentNoData": "No current data for segment users.",
        "SegmentBelow": "Segment users below the limit.",
        "NewUsersSilent": "No new users counted.",
        "NewUsersNoData": "No current data for new users.",
        "UninstallsSilent": "No uninstalls counted.",
        "UninstallsNoData": "No current data for uninstalls.",
        "UninstallsAbove": "Uninstalls above the limit.",
        "DailyActiveUsersNoData": "No current data for daily active users.",
        "DailyActiveUsersBelow": "Daily active users below the limit.",
        "MonthlyActiveUsersNoData": "No current data for monthly active users.",
        "MonthlyActiveUsersDrop": "Drop in monthly active users.",
        "CampaignSilent": "No campaign messages counted.",
        "CampaignNoData": "No current data for campaign messages.",
        "CampaignDrop": "Drop in campaign messages.",
        "CampaignBelow": "Campaign messages below the limit.",
        "CampaignAbove": "Campaign messages above the limit.",
        "CanvasSilent": "No Canvas entries counted.",
        "CanvasNoData": "No current data for Canvas entries.",
    }
    rules = alerts_of(generated_rules(CONFIGS["every kind"]))
    assert {(rule["alert"], rule["annotations"]["summary"]) for rule in rules} == {
        (f"Braze{name}", summary) for name, summary in summaries.items()
    }


def test_each_query_has_its_alerts() -> None:
    """Each query has its configured alerts; `Silent` only for queries with a counter, and `NoData` for all."""
    result: dict[tuple[str, ...], list[str]] = {}
    for rule in alerts_of(generated_rules(CONFIGS["everything"])):
        if rule["alert"].startswith("BrazeEvent"):
            labels = rule["labels"]
            place = tuple(labels.get(name, "-") for name in ("event", "unit", "braze_app", "segment"))
            result.setdefault(place, []).append(rule["alert"].removeprefix("BrazeEvent"))
    assert result == {
        ("purchase", "hour", "-", "-"): ["Silent", "NoData", "Drop"],
        ("purchase", "hour", "-", "vip"): ["NoData", "Drop"],
        ("purchase", "hour", "ios", "-"): ["Silent", "NoData", "Drop"],
        ("purchase", "hour", "ios", "vip"): ["NoData", "Drop"],
        ("purchase", "day", "-", "-"): ["Silent", "NoData", "Drop", "Below", "Above"],
        ("signup", "hour", "-", "vip"): ["NoData", "Below"],
    }


def test_thresholds_follow_query() -> None:
    """The age limits for successes and settled buckets follow `refresh_interval`, `settle`, `max_age` and `silent`."""

    def ages(entry: str) -> set[str]:
        rules = [
            rule
            for rule in alerts_of(generated_rules(workspace_yaml(URL, entry)))
            if rule["alert"].startswith("BrazeEvent")
        ]
        return {age for rule in rules for age in re.findall(r"time\(\) - .* ([<>] \d+)", rule["expr"])}

    assert ages("{event: a, alerts: {silent: 2h}}") == {"< 7200", "< 900", f"> {4 * HOUR}"}
    assert ages("{event: a, refresh_interval: 1m, alerts: {silent: 5h}}") == {f"< {5 * HOUR}", "< 600", f"> {5 * HOUR}"}
    assert ages("{event: a, unit: day, settle: 3h, alerts: {below: 5}}") == {"< 2700", f"> {75 * HOUR}"}
    assert ages("{event: a, refresh_interval: 2h, alerts: {below: 5}}") == {f"< {4 * HOUR}", f"> {9 * HOUR}"}
    assert ages("{event: a, alerts: {above: 5}}") == set()
    mixed = "{event: a, refresh_interval: 20m}\n{event: a, unit: day, alerts: {silent: 1d}}"
    assert ages(mixed) == {f"< {24 * HOUR}", "< 3600", "< 2700", f"> {74 * HOUR}"}


@pytest.mark.parametrize(("weeks", "text"), [(1, "the last 1 week at"), (4, "the last 4 weeks at")])
def test_weeks_of_baseline_are_counted(weeks: int, text: str) -> None:
    """The description of a drop has the number of weeks, in the singular or the plural."""
    config = workspace_yaml(URL, f"{{event: a, baseline: {{weeks: {weeks}}}, alerts: {{drop: 0.5}}}}")
    (drop,) = (rule for rule in alerts_of(generated_rules(config)) if rule["alert"] == "BrazeEventDrop")
    assert text in drop["annotations"]["description"]


def test_promql_string_is_escaped() -> None:
    """Control characters and characters that change the text direction are escaped by their codes."""
    text = 'a "b" \\ é 🎉 \n \r \0 \N{RIGHT-TO-LEFT OVERRIDE} \U000e0001'
    assert quote(text) == r'"a \"b\" \\ é 🎉 \n \r \u0000 \u202e \U000e0001"'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1, "1s"),
        (5_400, "1h30m"),
        (86_400, "1d"),
        (604_800, "7d"),
        (1.5, "1s500ms"),
        (90_061.001, "1d1h1m1s1ms"),
    ],
)
def test_durations_are_in_prometheus_format(seconds: float, text: str) -> None:
    """Units go from the largest to the smallest, and zero units are skipped."""
    assert format_duration(seconds) == text


def test_numbers_are_plain() -> None:
    """Numbers have no exponent and no binary rounding error."""
    assert [format_number(value) for value in (1 - 0.9, 1 - 0.3, 5_000_000.0, 0.001, 10.0**14)] == [
        "0.1",
        "0.7",
        "5000000",
        "0.001",
        "100000000000000",
    ]


def test_rules_command_prints_rules(tmp_path: Path) -> None:
    """`rules` needs no key and no state file, and prints the same rules for Prometheus and for Kubernetes."""
    config = workspace_yaml(URL, EVERYTHING, extra_yaml=f"state_file: {tmp_path / 'missing' / 'state.sqlite'}\n")
    path = write_file(tmp_path / "config.yaml", config)
    done = run_program("rules", f"--config.file={path}")
    assert done.returncode == 0
    assert (
        done.stderr == f"warning: {path}:4: workspaces[0].api_key_env: environment variable BRAZE_API_KEY is not set\n"
    )
    assert done.stdout == as_yaml(generated_rules(config))
    assert done.stdout.startswith(
        "# Generated by `braze-exporter rules`. Regenerate it when the config changes.\ngroups:\n"
    )
    resource = run_program("rules", f"--config.file={path}", "--format=prometheusrule", BRAZE_API_KEY="x").stdout
    assert yaml.safe_load(resource) == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "braze-exporter", "labels": {"app.kubernetes.io/name": "braze-exporter"}},
        "spec": yaml.safe_load(done.stdout),
    }
    assert not (tmp_path / "missing").exists()


def test_invalid_config_prints_no_rules(tmp_path: Path) -> None:
    """An invalid config prints its problems and exits with 1."""
    path = write_file(tmp_path / "config.yaml", workspace_yaml(URL, "{event: a, alerts: {silent: 2}}"))
    done = run_program("rules", f"--config.file={path}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{path}:9: workspaces[0].custom_events[0].alerts.silent: must be a duration")


class ChangingTraffic(RecordedCounts):
    """Simulated traffic with one event that stops, one that grows with each fetch, and one that never occurs."""

    def __init__(self) -> None:
        super().__init__(events=["stops", "continues", "quiet"])
        this_hour = int(time.time()) // HOUR * HOUR
        for back in range(-2, 16 * 24):
            self.set("stops", this_hour - back * HOUR, 10_000)
        self._calls = 0

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return the recorded count, or for `continues` one more at each call."""
        if event == "continues":
            self._calls += 1
            return self._calls
        return super().count(event, hour_start, now, app_id, segment_id)


FAST_EVENTS = """
{event: stops, apps: [all, ios], baseline: {weeks: 1}, alerts: {silent: 5s, drop: 1, above: 9000, for: 1s}}
{event: continues, alerts: {silent: 5s, for: 1s}}
{event: quiet, segments: [vip], unit: day, alerts: {below: 5, for: 1s, severity: page, labels: {team: "{{ growth }}"}}}
"""


@dataclass(frozen=True)
class Chain:
    """Holds a running exporter and a Prometheus with the exporter's rules."""

    config: Path
    program: Program
    server: Prometheus

    def firing(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """Return the firing alerts by their names, events and apps."""
        active = self.server.request("alerts")["alerts"]
        return {
            (item["labels"]["alertname"], item["labels"].get("event", ""), item["labels"].get("braze_app", "")): item
            for item in active
            if item["state"] == "firing"
        }


@contextmanager
def running_chain(directory: Path) -> Iterator[Chain]:
    """Run the simulator, the exporter and a Prometheus with the printed rules.

    Each `for` is shortened to a second, and `[5m]` to `[5s]`.
    """
    require_tool("prometheus")
    with ExitStack() as stack:
        _, server = stack.enter_context(running_braze(ChangingTraffic()))
        path = write_file(
            directory / "config.yaml",
            workspace_yaml(server.url, FAST_EVENTS, extra_yaml="refresh_interval: {hour: 1s}\nbudget: {share: 0.5}\n"),
        )
        printed = run_program("rules", f"--config.file={path}").stdout
        rules = re.sub(r"for: \d+[mh]$", "for: 1s", printed, flags=re.MULTILINE).replace("[5m]", "[5s]")
        program = stack.enter_context(Program.start([f"--config.file={path}", "--web.enable-lifecycle"]))
        prometheus = stack.enter_context(running_prometheus(directory / "prometheus", program.port, rules=rules))
        wait_until(prometheus.is_responding, "Prometheus has scraped", 60)
        yield Chain(Path(path), program, prometheus)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain for all tests that leave it running."""
    with running_chain(tmp_path_factory.mktemp("rules")) as started:
        yield started


def test_prometheus_evaluates_every_rule(chain: Chain) -> None:
    """Prometheus evaluates every rule without an error on the exporter's series."""

    def evaluated() -> list[dict[str, Any]]:
        return [rule for group in chain.server.request("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] == "ok" for rule in evaluated()), "every rule is evaluated without an error")
    assert len(evaluated()) == 20
    assert not [rule["lastError"] for rule in evaluated() if rule.get("lastError")]


def test_silent_event_fires_alert(chain: Chain) -> None:
    """A silent event fires for all apps and for one app, events beyond their limits fire, and no others do."""
    expected = {
        ("BrazeEventSilent", "stops", ""),
        ("BrazeEventSilent", "stops", "ios"),
        ("BrazeEventAbove", "stops", ""),
        ("BrazeEventBelow", "quiet", ""),
    }
    wait_until(lambda: expected <= chain.firing().keys(), "the alerts fire", 60)
    firing = chain.firing()
    assert firing.keys() - {("BrazeEventDrop", "stops", "ios")} == expected
    silent = firing["BrazeEventSilent", "stops", ""]
    assert silent["annotations"]["description"] == (
        "No stops events in workspace production were counted for 5s or longer. Fetches succeed, but the counter does "
        "not increase. Check recent changes and releases of the source of the event. Campaigns triggered by it send "
        "nothing."
    )
    below = firing["BrazeEventBelow", "quiet", ""]
    assert below["annotations"]["description"] == (
        "quiet events in segment vip in workspace production: 0 in the newest settled day, below the limit of 5. The "
        "limit is the same at all times. If the usual value depends on the time, use `drop`, which compares with the "
        "baseline."
    )
    assert (below["labels"]["team"], below["labels"]["severity"]) == ("{{ growth }}", "page")


def test_exporter_failures_fire_alerts(tmp_path: Path) -> None:
    """A failed config reload and an exporter that is down fire their alerts."""
    with running_chain(tmp_path) as chain:
        assert not chain.firing().keys() & {("BrazeExporterConfigReloadFailed", "", ""), ("BrazeExporterDown", "", "")}
        write_file(chain.config, "workspaces: []")
        assert chain.program.get("/-/reload", method="POST").status == 500
        wait_until(
            lambda: ("BrazeExporterConfigReloadFailed", "", "") in chain.firing(), "the failed reload fires its alert"
        )
        chain.program.stop()
        wait_until(lambda: ("BrazeExporterDown", "", "") in chain.firing(), "the stopped exporter fires its alert")
        down = chain.firing()["BrazeExporterDown", "", ""]
        assert down["labels"] == {"alertname": "BrazeExporterDown", "severity": "critical", "workspace": "production"}
        wait_until(lambda: chain.firing().keys() == {("BrazeExporterDown", "", "")}, "no other alert fires any more")
