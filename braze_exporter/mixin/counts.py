"""The rows of a dashboard that show what happened: what Braze counted, what it reported, and what is unusual in it."""

from collections.abc import Iterable, Iterator, Sequence

from braze_exporter.catalog import Unit, gauge
from braze_exporter.mixin.panels import DASHED, DOTTED, Panel, Row, Target, bars, chart, stat, steps
from braze_exporter.mixin.slices import Slice, drawn, legend
from braze_exporter.plan import Plan

# With more subjects than these, the charts of each are folded away.
MANY = 12
# What is rare rises and falls by chance. As the alerts have it.
FEW = 10
_MOST = 15

_PROGRESS = "orange"
_USUAL = "#8e8e8e"


def repeated(one: Slice, unit: Unit) -> str:
    """Return the hidden variable of the chosen subjects that have series of a unit, for which charts are repeated."""
    return f"{one.kind.subject}_{unit.adverb}"


def totals(plain: Iterable[Slice]) -> Iterator[Panel]:
    """Yield the numbers for the top of the screen."""
    for one in plain:
        yield stat(
            "Reported in 24 h",
            f"{_name(one)} that Braze has reported in the last 24 hours, late ones included, of all that is chosen.",
            f"sum({one.reported('24h')})",
            thresholds=steps("text"),
        )


def rising_and_falling(found: Sequence[Slice]) -> Row:
    """Return what changed most, by the counters and, where there are baselines, by the settled buckets."""
    changes = [panel for one in found if not one.filters for panel in _against_last_week(one)]
    return Row("Rising and falling", ([*changes, *_against_usual(found)],))


def _a_week_before(one: Slice) -> str:
    """Return what was reported in the same 24 hours a week before, of the counters that ran through all of them.

    One that began in between would make a day that is as usual look like a rise.
    """
    began = f"max by ({', '.join(one.labels)}) (last_over_time({one.total}[1h] offset 191h))"
    return f"{one.reported('24h', offset='1w')}\n  and {began}"


def _against_last_week(one: Slice) -> Iterator[Panel]:
    change = f"{one.reported('24h')} / (({_a_week_before(one)}) >= {FEW}) - 1"
    about = (
        "What Braze reported in the last 24 hours against the same 24 hours a week before. "
        f"Only what had at least {FEW} then, and once the counter is 8 days old."
    )
    yield bars(
        "Fell most in 24 h",
        f"{about} -100 % is silence.",
        [Target(f"bottomk({_MOST}, ({change}) < 0)", one.legend)],
        unit="percentunit",
        thresholds=steps("red", (-0.5, "orange"), (-0.2, "text")),
        none="nothing fell",
        bounds={"min": -1, "max": 0},
    )
    yield bars(
        "Rose most in 24 h",
        f"{about} 100 % is twice as much.",
        [Target(f"topk({_MOST}, ({change}) > 0)", one.legend)],
        unit="percentunit",
        thresholds=steps("text", (0.5, "blue")),
        none="nothing rose",
        bounds={"min": 0},
    )


def _against_usual(found: Sequence[Slice]) -> Iterator[Panel]:
    for unit in Unit:
        compared = [one for one in found if one.has_baseline(unit)]
        if compared:
            yield bars(
                f"Settled {unit} against usual",
                f"The newest settled {unit} against the median of the same {unit} of the week in the last weeks, the "
                f"lowest first. -50 % is half of what is usual. Only where at least {FEW} are usual.",
                [Target(f"bottomk({_MOST}, {_change(one, unit)})", one.legend) for one in compared],
                unit="percentunit",
                thresholds=steps("red", (-0.5, "orange"), (-0.2, "text"), (0.5, "blue")),
                none="nothing to compare",
                bounds={"min": -1},
            )


def _change(one: Slice, unit: Unit) -> str:
    """Return by what share the settled bucket differs from what is usual: both are of one answer, so of one bucket."""
    settled, baseline = (one.series(gauge(one.kind, one.noun, unit, measure)) for measure in ("settled", "baseline"))
    labels = ", ".join(one.labels)
    return f"max by ({labels}) (\n  {settled}\n  / ({baseline} >= {FEW})\n) - 1"


def by_unit(plan: Plan, one: Slice, unit: Unit) -> Iterator[Row]:
    """Yield the rows of one width of buckets: all subjects together, and each by itself."""
    interval = _interval(unit)
    overview = [
        chart(
            f"Settled {unit}",
            f"Each {unit} once it has settled, which is when its number can be trusted. Drawn at the time when it was "
            "known, as the alerts saw it.",
            [Target(one.held(unit, "settled"), one.legend)],
            unit="short",
            interval=interval,
            style="steps",
        ),
        _so_far(one, unit),
    ]
    yield Row(f"{_name(one)} by the {unit}", (overview,))
    name = repeated(one, unit)
    targets = [
        drawn(plan, one.held(unit, "settled", subject=name), legend(plan, [], "settled"), "blue"),
        drawn(plan, _in_progress(one, unit, name), legend(plan, [], "in progress"), _PROGRESS, DOTTED),
    ]
    if one.has_baseline(unit):
        usual = one.held(unit, "baseline", subject=name)
        targets.append(drawn(plan, usual, legend(plan, [], "usual"), _USUAL, DASHED))
    each = chart(
        f"${{{name}}}",
        f"The settled {unit}, and the {unit} in progress (dotted), which still grows."
        + (" Usual is the median of the same time in the last weeks." if one.has_baseline(unit) else ""),
        targets,
        unit="short",
        interval=interval,
        style="steps",
        repeat=name,
    )
    subjects = {query.subject for query in one.queries if query.unit is unit}
    yield Row(f"Each {one.kind.subject} by the {unit}", ([each],), is_collapsed=len(subjects) > MANY)


def _so_far(one: Slice, unit: Unit) -> Panel:
    by = f" by {_filters(one)}" if one.filters else ""
    return bars(
        f"{unit.value.capitalize()} in progress{by}",
        f"What Braze has counted of the newest {unit} so far. It grows until the {unit} ends, and a little longer: a "
        "low number says nothing yet.",
        [Target(f"topk({_MOST}, {one.now(unit, 'latest')})", one.legend)],
        unit="short",
        thresholds=steps(_PROGRESS),
        bounds={"min": 0},
    )


def _in_progress(one: Slice, unit: Unit, subject: str) -> str:
    """Return the growth of the bucket that is the newest at the end of the chart: all of them would be a saw."""
    latest, start = (
        one.held(unit, f"latest{measure}", subject=subject) for measure in ("", "_bucket_start_timestamp_seconds")
    )
    newest = one.held(unit, "latest_bucket_start_timestamp_seconds", subject=subject, at="end()")
    return f"{latest}\n  and {start}\n  == {newest}"


def reported(plan: Plan, found: Sequence[Slice]) -> Row:
    """Return what Braze has reported, by the counters."""
    lines = []
    for one in (one for one in found if one.is_counted):
        by = f" by {_filters(one)}" if one.filters else ""
        line = [
            bars(
                f"Reported in {words}{by}",
                f"What Braze has reported in the last {words}. Late arrivals and repairs count when they are seen.",
                [Target(f"topk({_MOST}, {one.reported(span)})", one.legend)],
                unit="short",
                thresholds=steps("blue"),
                bounds={"min": 0},
            )
            for span, words in (("24h", "24 hours"), ("7d", "7 days"))
        ]
        if not one.filters:
            line.append(_rolling(plan, one))
        lines.append(line)
    return Row("Reported by Braze", tuple(lines))


def _rolling(plan: Plan, one: Slice) -> Panel:
    return chart(
        "Reported in the 24 h before",
        "What Braze had reported in the 24 hours before each moment, of everything that is chosen, and the same a week "
        "earlier.",
        [
            drawn(plan, f"sum({one.reported('24h')})", "now", "blue"),
            drawn(plan, f"sum({_a_week_before(one)})", "a week earlier", _USUAL, DASHED),
        ],
        unit="short",
        interval="30m",
    )


def by_filter(plan: Plan, found: Sequence[Slice]) -> Row:
    """Return what is filtered by app and segment, beside the total of the same subjects where that is asked for."""
    plain = {(one.kind, unit): one for one in found if not one.filters for unit in one.units}
    lines = [
        list(_filtered(plan, one, unit, plain.get((one.kind, unit))))
        for one in found
        if one.filters
        for unit in one.units
    ]
    return Row("By app and segment", tuple(lines))


def _filtered(plan: Plan, one: Slice, unit: Unit, total: Slice | None) -> Iterator[Panel]:
    settled, by = one.held(unit, "settled"), _filters(one)
    subject = ", ".join(("workspace", *one.kind.noun.labels))
    all_of_it = f"{total.held(unit, 'settled')}\n  and on ({subject}) {settled}" if total is not None else ""
    beside = [Target(all_of_it, legend(plan, one.kind.noun.labels, "all"))] if all_of_it else []
    yield chart(
        f"Settled {unit} by {by}",
        f"Each {unit} once it has settled, of what is chosen by {by}"
        + (f", and all of the same {one.kind.subject}." if beside else "."),
        [Target(settled, one.legend), *beside],
        unit="short",
        interval=_interval(unit),
        style="steps",
    )
    yield _so_far(one, unit)
    if total is not None:
        start = "settled_bucket_start_timestamp_seconds"
        yield chart(
            f"Share of all by {by}, settled {unit}",
            "A release that renames an event shows as a share that falls, even where the total hides it. Only where "
            f"both numbers are of the same {unit}: they turn over one after the other.",
            [
                Target(
                    f"{settled}\n  / on ({subject}) group_left ()\n{total.held(unit, 'settled')}\n"
                    f"  and on ({', '.join(one.labels)})\n"
                    f"{one.held(unit, start)}\n  == on ({subject}) group_left ()\n{total.held(unit, start)}",
                    one.legend,
                )
            ],
            unit="percentunit",
            interval=_interval(unit),
            style="steps",
        )


def _interval(unit: Unit) -> str:
    """Return the least distance of the points of a chart: fine enough for a bucket that grows."""
    return {Unit.HOUR: "5m", Unit.DAY: "30m"}[unit]


def _name(one: Slice) -> str:
    return one.kind.section.replace("_", " ").capitalize()


def _filters(one: Slice) -> str:
    return " and ".join(name.removeprefix("braze_") for name in one.filters)
