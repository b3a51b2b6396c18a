"""Scenarios for promtool: the series of an exporter minute by minute, and the alerts that must fire."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from servers import require_tool
from support import HOUR, write_file

from braze_exporter.config.loading import load_config
from braze_exporter.metrics.self_families import (
    BUDGET_RESERVE,
    QUERIES,
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
    RELOAD_SUCCESS_TIME,
    RELOAD_SUCCESSFUL,
    REQUESTS_FAILED,
    STATE_WRITE_FAILURES,
    TIMEZONE_MISMATCH,
    UP,
)
from braze_exporter.monitoring.rule import RuleOptions
from braze_exporter.monitoring.rules import as_yaml, build_builtin_rules, build_rules
from braze_exporter.scheduler.plan import build_plan

MINUTE = 60
TARGET = 'job="braze",instance="exporter:27293"'
PRODUCTION = 'workspace="production"'
PURCHASE = f'{PRODUCTION},event="purchase"'
ADVERBS = {"hour": "hourly", "day": "daily"}
PATH_LABEL = REQUESTS_FAILED.labels[1]

# Returns the value of a series at a time, in seconds since the start of the scenario, or None if it is absent.
SampleFunction = Callable[[float], float | None]


def generated_rules(config: str, options: RuleOptions = RuleOptions()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Return the rules generated for a config, or without one if `config` is empty."""
    if not config:
        return build_builtin_rules(options)
    config_ = load_config(config, "config.yaml")
    return build_rules(build_plan(config_), config_.settings, options)


def series(name: str, labels: str = PRODUCTION, target: str = TARGET) -> str:
    """Return a series selector in the notation of promtool."""
    return f"{name}{{{','.join(filter(None, [labels, target]))}}}"


def hours(seconds: float) -> float:
    """Return `seconds` in hours."""
    return seconds / HOUR


def always(value: float | None) -> SampleFunction:
    """Return a function with a constant value."""
    return lambda _now: value


def between(start: float, end: float, value: float | None, usually: SampleFunction) -> SampleFunction:
    """Return a function with `value` from hour `start` to hour `end`, and otherwise the value of `usually`."""
    return lambda now: value if start <= hours(now) < end else usually(now)


def lost_every(seconds: int, usually: SampleFunction) -> SampleFunction:
    """Return a function with the values of `usually`, but without one at each multiple of `seconds`."""
    return lambda now: usually(now) if now % seconds else None


def until(end: float, sample_function: SampleFunction) -> SampleFunction:
    """Return a function with the values of `info` that stays constant after hour `end`."""
    return lambda now: sample_function(min(now, end * HOUR))


def last_fetch(now: float) -> float:
    """Return when a query that is fetched every 5 minutes was last fetched. Never 0, which would mean "never"."""
    return 1 + now // 300 * 300


def query_series(measure: str, kind: str, unit: str = "day", labels: str = PRODUCTION) -> str:
    """Return a series of a query, such as `up`, in the notation of promtool."""
    return series(f"braze_query_{measure}", f'{labels},kind="{kind}",unit="{unit}"')


def query_status(kind: str, unit: str, labels: str, settle: int = 0) -> dict[str, SampleFunction]:
    """Return the series of the state of a query that always succeeds."""
    is_hourly = unit == "hour"
    start = settled_start(HOUR, HOUR) if is_hourly else settled_start(24 * HOUR, settle or 2 * HOUR)
    return {
        query_series("up", kind, unit, labels): always(1),
        query_series("max_age_seconds", kind, unit, labels): always(HOUR),
        query_series("last_success_timestamp_seconds", kind, unit, labels): last_fetch,
        query_series("settled_bucket_start_timestamp_seconds", kind, unit, labels): start,
    }


def samples(
    metric_group: str,
    labels: str = "",
    *,
    kind: str = "",
    unit: str = "day",
    settled: float = 0,
    latest: float = 0,
    total: SampleFunction | None = None,
    breakdown: Sequence[str] = ("",),
) -> dict[str, SampleFunction]:
    """Return the series of a query that always succeeds, with the given values.

    `kind` is the kind, by default the metric group. `breakdown` has the additional labels of each series of a response
    with several series.
    """
    query = ",".join(filter(None, [PRODUCTION, labels]))
    prefix = f"braze_{metric_group}_{ADVERBS[unit]}"
    result = query_status(kind or metric_group, unit, query)
    for extra_labels in breakdown:
        series_labels = ",".join(filter(None, [query, extra_labels]))
        result |= {
            series(f"{prefix}_latest", series_labels): always(latest),
            series(f"{prefix}_settled", series_labels): always(settled),
        }
        if total is not None:
            result[series(f"braze_{metric_group}_total", series_labels)] = total
    return result


def settled_start(unit: int = HOUR, settle: int = HOUR) -> SampleFunction:
    """Return the start of the newest settled bucket, for buckets of the same length `unit`, in seconds."""
    return lambda now: (last_fetch(now) - settle) // unit * unit - unit


def healthy(
    unit: str = "hour", labels: str = PURCHASE, metric_group: str = "custom_events", workspace: str = PRODUCTION
) -> dict[str, SampleFunction]:
    """Return the series of an exporter with one event that is always fetched: 100 an hour, equal to the baseline."""
    prefix = f"braze_{metric_group}_{ADVERBS[unit]}"
    is_hourly = unit == "hour"
    constants = {
        series(f"{prefix}_latest", labels): 3,
        series(f"{prefix}_settled", labels): 100 if is_hourly else 2_400,
        series(f"{prefix}_baseline", labels): 101 if is_hourly else 2_400,
        series(UP.name, workspace): 1,
        series(TIMEZONE_MISMATCH.name, workspace): 0,
        series(QUERIES.name, f'{workspace},kind="custom_events",state="up"'): 1,
        series(QUERIES.name, f'{workspace},kind="custom_events",state="failed"'): 0,
        series(RATE_LIMIT.name, f'{workspace},pool="default"'): 250_000,
        series(RATE_LIMIT_REMAINING.name, f'{workspace},pool="default"'): 240_000,
        series(BUDGET_RESERVE.name, ""): 0.2,
        series(RELOAD_SUCCESSFUL.name, ""): 1,
        series(RELOAD_SUCCESS_TIME.name, ""): -3_600,
        series(STATE_WRITE_FAILURES.name, ""): 0,
        series("process_start_time_seconds", ""): -30 * 86_400,
        **{auth_failures(reason, workspace): 0 for reason in ("unauthorized", "forbidden", "server_error")},
    }
    counted = {
        **query_status("custom_events", unit, labels),
        series(f"braze_{metric_group}_total", labels): lambda now: 1_000 + now // 300 * 8,
        series(RATE_LIMIT_RESET.name, f'{workspace},pool="default"'): lambda now: (now // HOUR + 1) * HOUR,
    }
    return {**{name: always(value) for name, value in constants.items()}, **counted}


def auth_failures(reason: str, workspace: str = PRODUCTION) -> str:
    """Return the series of the failed requests of events with a reason."""
    return series(REQUESTS_FAILED.name, f'{workspace},{PATH_LABEL}="/events/data_series",reason="{reason}"')


@dataclass(frozen=True)
class ExpectedAlert:
    """An alert that must fire: its labels without its name, and the first sentence of its description.

    Only that sentence contains values of the alert. The remainder is the same for all alerts of the rule.
    """

    alert: str
    sentence: str
    labels: Mapping[str, str]


@dataclass
class Scenario:
    """The series of an exporter, the config whose rules evaluate them, and the alerts that must fire at given minutes.

    No alert may fire at a minute in `silent`. `step` is the interval of samples and rule evaluations in minutes. An
    empty `config` stands for the rules without a config.
    """

    config: str
    series: Mapping[str, SampleFunction]
    fires: Mapping[int, Sequence[ExpectedAlert]] = field(default_factory=dict)
    silent: Sequence[int] = ()
    step: int = 1
    options: RuleOptions = field(default_factory=RuleOptions)

    def check(self, directory: Path) -> None:
        """Check with promtool that the expected alerts, and no others, fire at each listed minute."""
        rules = generated_rules(self.config, self.options)
        write_file(directory / "rules.yml", as_yaml(rules))
        known = {rule["alert"]: rule["annotations"] for group in rules["groups"] for rule in group["rules"]}
        last = max([*self.fires, *self.silent])
        test = {
            "interval": f"{self.step}m",
            "input_series": [
                {"series": name, "values": _values(sample_function, range(0, (last + 1) * MINUTE, self.step * MINUTE))}
                for name, sample_function in self.series.items()
            ],
            "alert_rule_test": [
                {
                    "eval_time": f"{minute}m",
                    "alertname": alert,
                    "exp_alerts": [
                        {
                            "exp_labels": dict(item.labels),
                            "exp_annotations": {
                                **known[alert],
                                "description": f"{item.sentence} {_constant_part(known[alert]['description'])}",
                            },
                        }
                        for item in self.fires.get(minute, ())
                        if item.alert == alert
                    ],
                }
                for minute in sorted({*self.fires, *self.silent})
                for alert in known
            ],
        }
        tests = {"rule_files": ["rules.yml"], "evaluation_interval": f"{self.step}m", "tests": [test]}
        path = write_file(directory / "tests.yml", yaml.safe_dump(tests, allow_unicode=True, width=float("inf")))
        done = subprocess.run(  # noqa: S603
            [require_tool("promtool"), "test", "rules", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _constant_part(description: str) -> str:
    """Return a description template without its first sentence. Only that sentence has variables."""
    return description.rpartition("}}")[2].partition(". ")[2]


def _values(sample_function: SampleFunction, times: Sequence[int]) -> str:
    """Return the samples of a series in promtool's notation; an absent sample after another is a staleness marker."""
    result, was_present = [], False
    for now in times:
        value = sample_function(now)
        result.append("_" if value is None and not was_present else "stale" if value is None else f"{value:.15g}")
        was_present = value is not None
    return " ".join(result)
