"""The rows of a dashboard that tell of all kinds together: what Braze reported, and what is unusual in it."""

from collections.abc import Iterable, Iterator, Sequence

from braze_exporter.braze.kinds import Unit
from braze_exporter.monitoring.panel_groups import Slice, legend_of
from braze_exporter.monitoring.panels import Panel, Row, Target, bars, stat, steps
from braze_exporter.scheduler.plan import Plan

# What is rare rises and falls by chance. As the alerts have it.
FEW = 10
MOST = 15
SPANS = {"24h": "24 hours", "7d": "7 days"}


def totals(found: Sequence[Slice]) -> list[Panel]:
    """Return the numbers for the top of the screen: what was reported of all that is chosen, kind by kind."""
    counted = [one for one in found if one.is_counted and not one.filters]
    if not counted:
        return []
    return [
        stat(
            f"Reported in {words}",
            f"What Braze has reported in the last {words}, late arrivals included, of all that is chosen.",
            *(Target(f"sum({one.reported(span)})", one.title) for one in counted),
            thresholds=steps("text"),
        )
        for span, words in SPANS.items()
    ]


def rising_and_falling(plan: Plan, found: Sequence[Slice]) -> Row:
    """Return what changed most, by the counters and, where there are baselines, by the settled buckets."""
    counted = [one for one in found if one.is_counted and not one.filters]
    changes = _against_last_week(plan, counted) if counted else ()
    return Row("Rising and falling", ([*changes, *_against_usual(plan, found)],))


def a_week_before(one: Slice) -> str:
    """Return what was reported in the same 24 hours a week before, of the counters that ran through all of them.

    One that began in between would make a day that is as usual look like a rise.
    """
    began = f"max by ({', '.join(one.labels)}) (last_over_time({one.total}[1h] offset 191h))"
    return f"{one.reported('24h', offset='1w')}\n  and {began}"


def _against_last_week(plan: Plan, counted: Sequence[Slice]) -> Iterator[Panel]:
    change = _any_kind((one, f"{one.reported('24h')} / (({a_week_before(one)}) >= {FEW}) - 1") for one in counted)
    name = legend_of(plan, counted)
    about = (
        "What Braze reported in the last 24 hours against the same 24 hours a week before. "
        f"Only what had at least {FEW} then, and once the counter is 8 days old."
    )
    yield bars(
        "Fell most in 24 h",
        f"{about} -100 % is silence.",
        [Target(f"bottomk({MOST}, ({change}) < 0)", name)],
        unit="percentunit",
        thresholds=steps("red", (-0.5, "orange"), (-0.2, "text")),
        none="nothing fell",
        bounds={"min": -1, "max": 0},
    )
    yield bars(
        "Rose most in 24 h",
        f"{about} 100 % is twice as much.",
        [Target(f"topk({MOST}, ({change}) > 0)", name)],
        unit="percentunit",
        thresholds=steps("text", (0.5, "blue")),
        none="nothing rose",
        bounds={"min": 0},
    )


def _against_usual(plan: Plan, found: Sequence[Slice]) -> Iterator[Panel]:
    for unit in Unit:
        compared = [one for one in found if one.has_baseline(unit)]
        if compared:
            change = _any_kind(
                (one, f"{one.now(unit, 'settled')}\n  / ({one.now(unit, 'baseline')} >= {FEW}) - 1") for one in compared
            )
            yield bars(
                f"Settled {unit} against usual",
                f"The newest settled {unit} against the median of the same {unit} of the week in the last weeks, the "
                f"lowest first. -50 % is half of what is usual. Only where at least {FEW} are usual.",
                [Target(f"bottomk({MOST}, {change})", legend_of(plan, compared))],
                unit="percentunit",
                thresholds=steps("red", (-0.5, "orange"), (-0.2, "text"), (0.5, "blue")),
                none="nothing to compare",
                bounds={"min": -1},
            )


def _any_kind(parts: Iterable[tuple[Slice, str]]) -> str:
    """Return what the expressions of several slices have together, with the kind as a label: some have no others."""
    return "\n  or\n".join(f'label_replace({expr}, "kind", "{one.kind.section}", "", "")' for one, expr in parts)
