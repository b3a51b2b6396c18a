"""Test that any input yields a `Config` or a `ConfigError` with readable lines."""

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from support import IOS, KEY, VIP

from braze_exporter.config.document import ConfigError
from braze_exporter.config.loading import Config, load_config
from braze_exporter.scheduler.plan import build_plan

PASSWORD = "hunter2-of-a-url"  # noqa: S105 - a test value
ENVIRON = {"BRAZE_API_KEY": KEY, "QUOTED_KEY": f'"{KEY}"'}

GOOD: dict[str, Any] = {
    "workspaces": [
        {
            "name": "production",
            "url": "https://rest.iad-01.braze.com",
            "api_key_env": "BRAZE_API_KEY",
            "timezone": "America/New_York",
            "apps": {"ios": IOS},
            "segments": {"vip": VIP},
            "custom_events": [
                {
                    "event": "purchase",
                    "unit": "hour",
                    "apps": ["all", "ios"],
                    "segments": ["vip"],
                    "refresh_interval": "5m",
                },
                {
                    "event": "signup",
                    "unit": "day",
                    "settle": "2h",
                    "max_age": "1h",
                    "baseline": {"weeks": 4},
                    "alerts": {
                        "silent": "1d",
                        "drop": 0.5,
                        "min_baseline": 10,
                        "below": 100,
                        "above": 5000,
                        "for": "30m",
                        "keep_firing_for": "1h",
                        "severity": "critical",
                        "labels": {"team": "growth"},
                    },
                },
            ],
            "campaigns": [{"tag": "cart", "channels": ["email", "sms"], "stats": ["sent", "opens"]}],
        },
        {
            "name": "staging",
            "instance": "US-01",
            "api_key_env": "BRAZE_API_KEY",
            "custom_events": [{"event": "purchase"}],
        },
    ],
    "refresh_interval": {"hour": "5m", "day": "15m"},
    "settle": {"hour": "1h", "day": "2h"},
    "max_age": "1h",
    "max_queries": 2000,
    "budget": {"share": 0.1, "reserve": 0.2, "concurrency": 10},
}
WITH_SECRETS = copy.deepcopy(GOOD)
WITH_SECRETS["workspaces"][0] |= {
    "url": f"https://someone:{PASSWORD}@rest.iad-01.braze.com",
    "api_key": KEY,
    "api_key_env": "QUOTED_KEY",
}
WITH_SECRETS["workspaces"][1] |= {"url": f"someone:{PASSWORD}@x", "api_key_env": KEY, "max_age": {"key": KEY}}

any_text = st.text(st.characters(), max_size=40)  # includes control characters and lone surrogates
yaml_text = st.text("{}[]:,-#&*!|>'\"%@`?<= \t\n\r\\abUxF0129~.\ufeff\u2028\U0001f642", max_size=80)
odd_texts = st.sampled_from(
    [
        "",
        " ",
        "all",
        "12",
        "5m",
        "hour",
        "day",
        "0s",
        "1e9",
        "..",
        "https://",
        "//@:",
        "https://a:b@c",
        "UTC",
        "\0",
        "<<",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.integers(min_value=10**30) | st.floats() | any_text | odd_texts
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text | odd_texts, inner, max_size=4),
    max_leaves=12,
)


def load_and_build(text: str) -> Config | None:
    """Load a config and build its plan; check every error with `assert_readable`."""
    try:
        config = load_config(text, "x.yaml", ENVIRON)
    except ConfigError as error:
        assert_readable(error)
        return None
    for workspace in config.workspaces:
        assert workspace.spec.rest_endpoint.startswith(("https://", "http://"))
        assert config.keys[workspace.spec.name].reveal() == KEY
    assert KEY not in repr(config)
    try:
        plan = build_plan(config)
    except ConfigError as error:
        assert_readable(error)
        return None
    assert len({query.identity for query in plan.queries}) == len(plan.queries) > 0
    return config


def assert_readable(error: ConfigError) -> None:
    """Check the form of an error: one printable line per problem, in order, without secrets."""
    lines = str(error).split("\n")
    assert len(lines) == len(error.problems) > 0
    assert all(line.startswith("x.yaml:") and line.isprintable() for line in lines)
    assert [problem.line or 0 for problem in error.problems] == sorted(problem.line or 0 for problem in error.problems)
    assert KEY not in str(error)
    assert PASSWORD not in str(error)


def paths_in(data: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value within `data`."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in inner for found in ((*path, key), *paths_in(value, (*path, key)))]


@st.composite
def mutations(draw: st.DrawFn, base: dict[str, Any]) -> dict[str, Any]:
    """Draw a copy of `base` with values dropped, replaced or added in one to three places."""
    data = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        at: Any = data
        *way, last = draw(st.sampled_from(paths_in(data) or [("workspaces",)]))
        for part in way:
            at = at[part]
        action = draw(st.sampled_from(["drop", "replace", "add"]))
        if action == "drop" and last in (at if isinstance(at, dict) else range(len(at))):
            del at[last]
        elif action == "add" and isinstance(at, list):
            at.append(draw(anything))
        else:
            at[draw(any_text) if action == "add" else last] = draw(anything)
    return data


def test_mutation_base_is_valid() -> None:
    """The unmodified config loads as JSON and as YAML, and the config with misplaced secrets reports every problem."""
    assert load_and_build(json.dumps(GOOD)) is not None
    assert load_and_build(yaml.safe_dump(GOOD)) is not None
    with pytest.raises(ConfigError) as raised:
        load_config(json.dumps(WITH_SECRETS), "x.yaml", ENVIRON)
    assert_readable(raised.value)
    assert {problem.path[-1] for problem in raised.value.problems} == {
        "url", "api_key", "api_key_env", "instance", "max_age"
    }  # fmt: skip


@given(any_text | yaml_text)
@example('"\\UFFFFFFFF"')
@example("%YAML 1.99999999999999999999999")
@example(f"%YAML 1.{'9' * 5000}")
@example("&a [*a]")
@example("? {a: b}\n: c")
@example("!!int ''")
@example("!!python/object:os.system {}")
@example("workspaces: !!set {a, b}")
@example("=: =")
@example("\ud800")
@example("[" * 400)
@example("- " * 400)
@example("!%ff x")
@example(f"max_queries: 0x{'f' * 5000}")
def test_any_text_is_config_or_error(text: str) -> None:
    """Any text is a config or a readable error."""
    load_and_build(text)


@given(anything)
def test_any_data_is_config_or_error(data: object) -> None:
    """Any YAML data is a config or a readable error."""
    load_and_build(json.dumps(data))


@given(st.dictionaries(any_text, st.lists(st.integers() | any_text, max_size=3), max_size=3))
def test_any_dumped_yaml_is_config_or_error(data: object) -> None:
    """Any data dumped as YAML, with its escapes, anchors and line breaks, is a config or a readable error."""
    load_and_build(yaml.safe_dump({"workspaces": [data, data], "refresh_interval": data}, allow_unicode=True))


@given(mutations(GOOD))
def test_any_mutated_config_is_config_or_error(data: object) -> None:
    """Any modification of a valid config yields a config with a plan and keys, or a readable error."""
    load_and_build(json.dumps(data))


@pytest.mark.no_cover
@given(mutations(WITH_SECRETS))
def test_error_messages_hold_no_secret(data: object) -> None:
    """No error message contains the API key or the password of a URL."""
    load_and_build(json.dumps(data))


@given(st.data())
def test_truncated_config_is_config_or_error(data: st.DataObject) -> None:
    """A config that is truncated or lacks a part is a config or a readable error."""
    text = yaml.safe_dump(GOOD)
    start = data.draw(st.integers(0, len(text)))
    load_and_build(text[:start] + text[data.draw(st.integers(start, len(text))) :])
