"""Test durations in the format of Prometheus, numbers at their limits, and defaults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braze_exporter.config.document import ConfigError
from braze_exporter.config.loading import Config, load_config
from braze_exporter.scheduler.plan import build_plan

CONFIG = """\
workspaces:
  - {name: a, instance: US-01, api_key_env: KEY, custom_events: [{event: purchase}]}
"""
SECONDS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}


def with_line(line: str) -> Config:
    """Load a valid config with `line` appended."""
    return load_config(CONFIG + line, "x.yaml")


@given(st.dictionaries(st.sampled_from(list(SECONDS)), st.integers(0, 10_000), min_size=1))
def test_duration_is_sum_of_parts(parts: dict[str, int]) -> None:
    """The parts of a duration are summed exactly; a total under one second or over 100 years is refused."""
    seconds = sum(number * SECONDS[unit] for unit, number in parts.items())
    line = "max_age: " + "".join(f"{parts[unit]}{unit}" for unit in SECONDS if unit in parts)
    if 0 < seconds <= 100 * SECONDS["y"]:
        assert with_line(line).settings.max_age == seconds
    else:
        with pytest.raises(ConfigError, match="must be at most 100y" if seconds else "must be at least 1s"):
            with_line(line)


@given(st.permutations(list(SECONDS)), st.integers(2, 6))
def test_duration_parts_in_wrong_order_are_refused(units: list[str], count: int) -> None:
    """Units in any order other than from large to small are refused."""
    written = units[:count]
    if written == sorted(written, key=lambda unit: -SECONDS[unit]):
        written.reverse()
    with pytest.raises(ConfigError, match="must be a duration"):
        with_line("max_age: " + "".join(f"1{unit}" for unit in written))


def test_duration_milliseconds_are_counted() -> None:
    """A duration of a second or more may contain milliseconds."""
    assert with_line("max_age: 1s500ms").settings.max_age == 1.5
    assert with_line("max_age: 1000ms").settings.max_age == 1


@pytest.mark.parametrize(("key", "low", "high"), [("share", 0.001, 1), ("reserve", 0, 0.9), ("concurrency", 1, 100)])
def test_number_limits_are_inclusive(key: str, low: float, high: float) -> None:
    """The lowest and the highest value that the error message names are accepted."""
    for number in (low, high):
        assert getattr(with_line(f"budget: {{{key}: {number}}}").settings.budget, key) == number


def test_alert_defaults_are_as_documented() -> None:
    """Keys omitted from `alerts` have the documented defaults."""
    entry = "workspaces: [{name: a, instance: US-01, api_key_env: K, custom_events: [{event: e, alerts: {below: 5}}]}]"
    (entry_alerts,) = (alerts for _, alerts in build_plan(load_config(entry, "x.yaml")).alerts)
    assert (entry_alerts.below, entry_alerts.silent, entry_alerts.above, entry_alerts.drop) == (5, None, None, None)
    assert (entry_alerts.min_baseline, entry_alerts.wait, entry_alerts.keep_firing_for) == (10, 900, None)
    assert (entry_alerts.severity, entry_alerts.labels) == ("warning", {})


def test_defaults_are_as_documented() -> None:
    """Omitted settings have the documented defaults."""
    settings = with_line("").settings
    assert (settings.refresh_interval.hour, settings.refresh_interval.day) == (300, 900)
    assert (settings.settle.hour, settings.settle.day) == (3_600, 7_200)
    assert (settings.max_age, settings.max_queries) == (3_600, 2_000)
    assert (settings.budget.share, settings.budget.reserve, settings.budget.concurrency) == (0.1, 0.2, 10)
