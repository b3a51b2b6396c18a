"""The dashboard rows for all kinds together: the totals that Braze reported, and the largest changes."""

from collections.abc import Iterable, Iterator, Sequence

from braze_exporter.braze.kinds import Unit
from braze_exporter.monitoring.panel_groups import PanelGroup, legend_of
from braze_exporter.monitoring.panels import Panel, Row, Target, bars, stat, steps
from braze_exporter.scheduler.plan import Plan

# Changes of smaller counts are mostly chance. The default of the alerts is the same.
MIN_COUNT = 10
MAX_SERIES = 15
SPANS = {"24h": "24 hours", "7d": "7 days"}


def totals_panels(groups: Sequence[PanelGroup]) -> list[Panel]:
    """Return the stat panels at the top of the dashboard: the totals of the selected series, by kind."""
    counted = [group for group in groups if group.has_counter and not group.filters]
    if not counted:
        return []
    return [
        stat(
            f"Reported in {span_text}",
            f"Totals of the selected series that Braze reported in the last {span_text}, late arrivals included.",
            *(Target(f"sum({group.increase(span)})", group.title) for group in counted),
            thresholds=steps("text"),
        )
        for span, span_text in SPANS.items()
    ]


def change_row(plan: Plan, groups: Sequence[PanelGroup]) -> Row:
    """Return the row of the largest changes: of counters within a week, and of settled buckets from their baselines."""
    counted = [group for group in groups if group.has_counter and not group.filters]
    changes = _weekly_change_panels(plan, counted) if counted else ()
    return Row("Largest changes", ([*changes, *_baseline_change_panels(plan, groups)],))


def increase_week_earlier(group: PanelGroup) -> str:
    """Return the PromQL for the increase in the same 24 hours a week earlier.

    Counters that did not exist at the start of these 24 hours are omitted. For them, a usual day would look like a
    rise.
    """
    started_at = f"max by ({', '.join(group.labels)}) (last_over_time({group.total}[1h] offset 191h))"
    return f"{group.increase('24h', offset='1w')}\n  and {started_at}"


def _weekly_change_panels(plan: Plan, counted: Sequence[PanelGroup]) -> Iterator[Panel]:
    change = _join_kinds(
        (group, f"{group.increase('24h')} / (({increase_week_earlier(group)}) >= {MIN_COUNT}) - 1") for group in counted
    )
    name = legend_of(plan, counted)
    description = (
        "Total that Braze reported in the last 24 hours, compared with the same 24 hours a week earlier. Only series "
        f"with a total of at least {MIN_COUNT} at that time, and with a counter that is at least 8 days old."
    )
    yield bars(
        "Largest decreases in 24 hours",
        f"{description} -100% means that nothing was reported.",
        [Target(f"bottomk({MAX_SERIES}, ({change}) < 0)", name)],
        unit="percentunit",
        thresholds=steps("red", (-0.5, "orange"), (-0.2, "text")),
        no_value="no decrease",
        bounds={"min": -1, "max": 0},
    )
    yield bars(
        "Largest increases in 24 hours",
        f"{description} 100% means twice as much.",
        [Target(f"topk({MAX_SERIES}, ({change}) > 0)", name)],
        unit="percentunit",
        thresholds=steps("text", (0.5, "blue")),
        no_value="no increase",
        bounds={"min": 0},
    )


def _baseline_change_panels(plan: Plan, groups: Sequence[PanelGroup]) -> Iterator[Panel]:
    for unit in Unit:
        compared = [group for group in groups if group.has_baseline(unit)]
        if compared:
            change = _join_kinds(
                (group, f"{group.current(unit, 'settled')}\n  / ({group.current(unit, 'baseline')} >= {MIN_COUNT}) - 1")
                for group in compared
            )
            yield bars(
                f"Settled {unit} compared with baseline",
                f"Newest settled {unit} compared with its baseline, the median of the same {unit} of the week in the "
                "last weeks, lowest first. -50% means half of the baseline. Only for baselines of at least "
                f"{MIN_COUNT}.",
                [Target(f"bottomk({MAX_SERIES}, {change})", legend_of(plan, compared))],
                unit="percentunit",
                thresholds=steps("red", (-0.5, "orange"), (-0.2, "text"), (0.5, "blue")),
                no_value="nothing to compare",
                bounds={"min": -1},
            )


def _join_kinds(parts: Iterable[tuple[PanelGroup, str]]) -> str:
    """Return the union of the expressions of several groups, with the kind as a label.

    Without this label, series of different kinds could have the same labels.
    """
    return "\n  or\n".join(f'label_replace({expr}, "kind", "{group.kind.section}", "", "")' for group, expr in parts)
