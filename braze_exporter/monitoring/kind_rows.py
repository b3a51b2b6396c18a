"""The dashboard rows of each kind: counts by subject, by app and segment, and a chart for each subject."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.kinds import SeriesKind, Unit
from braze_exporter.metrics.families import QUERY_LATEST_START, QUERY_SETTLED_START
from braze_exporter.monitoring import message_panels
from braze_exporter.monitoring.kind_texts import kind_title
from braze_exporter.monitoring.overview_rows import MAX_SERIES, SPANS, increase_week_earlier
from braze_exporter.monitoring.panel_groups import PanelGroup, legend, styled_target
from braze_exporter.monitoring.panels import DASHED, DOTTED, Panel, Row, Target, bars, chart, steps
from braze_exporter.scheduler.plan import Plan

# With more subjects than this, the row of their charts is collapsed.
MAX_UNFOLDED = 12
# With more kinds than this, the rows of all kinds but the first are collapsed.
_MAX_UNFOLDED_KINDS = 3

_PROGRESS_COLOR = "orange"
_BASELINE_COLOR = "#8e8e8e"


def repeat_variable(group: PanelGroup, unit: Unit) -> str:
    """Return the name of the hidden variable that repeats a chart for each selected subject with queries of `unit`."""
    return f"{group.kind.subject_label}_{unit.adverb}"


def is_repeated(group: PanelGroup) -> bool:
    """Return whether each subject has its own chart.

    Values that are not additive have none, since their bucket in progress does not grow.
    """
    return group.has_subject and not group.filters and group.metric_group.is_additive


def kind_rows(plan: Plan, groups: Sequence[PanelGroup]) -> Iterator[Row]:
    """Yield the rows of all kinds. Daily kinds without a subject, such as new users, share the row Users."""
    user_groups = [group for group in groups if _is_user_kind(group.kind)]
    kinds = list(dict.fromkeys(group.kind for group in groups if not _is_user_kind(group.kind)))
    has_many_kinds = len(kinds) + bool(user_groups) > _MAX_UNFOLDED_KINDS
    for kind in kinds:
        groups_of_kind = [group for group in groups if group.kind is kind]
        is_collapsed = has_many_kinds and kind is not kinds[0]
        yield Row(kind_title(kind), tuple(_panel_lines(plan, groups_of_kind)), is_collapsed=is_collapsed)
        for group in groups_of_kind:
            if is_repeated(group):
                yield from (_subject_row(plan, group, unit, is_collapsed=is_collapsed) for unit in group.units)
    yield Row("Users", tuple(_panel_lines(plan, user_groups)), is_collapsed=has_many_kinds)


def _is_user_kind(kind: SeriesKind) -> bool:
    return not kind.metric_group.labels and kind.units == (Unit.DAY,)


def _panel_lines(plan: Plan, groups: Sequence[PanelGroup]) -> Iterator[Sequence[Panel]]:
    """Yield the lines of panels for `groups`, those without filters first."""
    plain = [group for group in groups if not group.filters]
    yield [_total_panel(plan, group, unit) for group in plain if not group.has_subject for unit in group.units] + [
        _rolling_panel(plan, group)
        for group in plain
        if group.has_counter and not group.has_subject and Unit.HOUR in group.units
    ]
    for group in plain:
        if group.has_subject:
            for unit in group.units:
                yield [_settled_panel(group, unit), _progress_panel(group, unit)]
            yield from message_panels.panel_lines(plan, group)
            if group.has_counter:
                yield [*_increase_panels(group), *([_rolling_panel(plan, group)] if Unit.HOUR in group.units else [])]
    totals = {(group.kind, unit): group for group in plain for unit in group.units}
    for group in groups:
        if group.filters:
            for unit in group.units:
                yield list(_filtered_panels(plan, group, unit, totals.get((group.kind, unit))))


def _settled_panel(group: PanelGroup, unit: Unit) -> Panel:
    return chart(
        f"{group.title}, settled {unit}",
        f"Value of the newest settled {unit}. It is drawn at the time when it was exported, so the chart shows what "
        "the alerts evaluated.",
        [Target(group.last_value(unit, "settled"), group.legend)],
        unit="short",
        interval=chart_interval(unit),
        style="steps",
        can_be_negative=group.metric_group.can_be_negative,
    )


def _progress_panel(group: PanelGroup, unit: Unit) -> Panel:
    description = f"Value of the newest {unit} so far."
    if group.metric_group.is_additive:
        description += f" It grows until shortly after the {unit} ends, so a low value does not indicate a problem."
    return bars(
        f"{group.title}, {unit} in progress",
        description,
        [Target(f"topk({MAX_SERIES}, {group.current(unit, 'latest')})", group.legend)],
        unit="short",
        thresholds=steps(_PROGRESS_COLOR),
        bounds=_from_zero(group),
    )


def _total_panel(plan: Plan, group: PanelGroup, unit: Unit) -> Panel:
    """Return the chart of a group without a subject."""
    return _bucket_chart(plan, group, unit, f"{group.title} per {unit}")


def _subject_row(plan: Plan, group: PanelGroup, unit: Unit, *, is_collapsed: bool) -> Row:
    """Return the row with a chart for each subject. It is also collapsed if there are many subjects."""
    name = repeat_variable(group, unit)
    subjects = {query.subject for query in group.queries if query.unit is unit}
    panel = _bucket_chart(plan, group, unit, f"${{{name}}}", repeat=name)
    return Row(
        f"{unit.adverb.capitalize()} by {group.kind.subject_label}",
        ([panel],),
        is_collapsed=is_collapsed or len(subjects) > MAX_UNFOLDED,
    )


def _bucket_chart(plan: Plan, group: PanelGroup, unit: Unit, title: str, repeat: str = "") -> Panel:
    """Return a chart of the settled bucket, the bucket in progress and, if configured, the baseline."""
    settled = group.last_value(unit, "settled", subject=repeat)
    targets = [
        styled_target(plan, settled, legend(plan, [], "settled"), "blue"),
        styled_target(
            plan, _progress_expr(group, unit, repeat), legend(plan, [], "in progress"), _PROGRESS_COLOR, DOTTED
        ),
    ]
    grows = ", which is still growing" if group.metric_group.is_additive else ""
    description = f"The newest settled {unit}, and the {unit} in progress (dotted){grows}."
    if group.has_baseline(unit):
        baseline = group.last_value(unit, "baseline", subject=repeat)
        targets.append(styled_target(plan, baseline, legend(plan, [], "baseline"), _BASELINE_COLOR, DASHED))
        description += f" The baseline (dashed) is the median of the same {unit} of the week in the last weeks."
    return chart(
        title,
        description,
        targets,
        unit="short",
        interval=chart_interval(unit),
        style="steps",
        repeat=repeat,
        can_be_negative=group.metric_group.can_be_negative,
    )


def _progress_expr(group: PanelGroup, unit: Unit, subject: str) -> str:
    """Return the PromQL for the value over time of the bucket that is the newest at the end of the chart.

    With all earlier buckets, the line would fall to 0 at the start of each.
    """
    latest = group.last_value(unit, "latest", subject=subject)
    start, newest = (group.last_status(unit, QUERY_LATEST_START, subject=subject, at=at) for at in ("", "end()"))
    return f"{latest}\n  and {start}\n  == {newest}"


def _increase_panels(group: PanelGroup) -> Iterator[Panel]:
    for span, span_text in SPANS.items():
        yield bars(
            f"{group.title}, reported in {span_text}",
            f"Total that Braze reported in the last {span_text}. Late arrivals and repairs count when they are "
            "fetched.",
            [Target(f"topk({MAX_SERIES}, {group.increase(span)})", group.legend)],
            unit="short",
            thresholds=steps("blue"),
            bounds={"min": 0},
        )


def _rolling_panel(plan: Plan, group: PanelGroup) -> Panel:
    return chart(
        f"{group.title}, rolling 24 hours",
        "Total of the selected series that Braze reported in the 24 hours before each point, and the same a week "
        "earlier.",
        [
            styled_target(plan, f"sum({group.increase('24h')})", "current", "blue"),
            styled_target(plan, f"sum({increase_week_earlier(group)})", "a week earlier", _BASELINE_COLOR, DASHED),
        ],
        unit="short",
        interval="30m",
    )


def _filtered_panels(plan: Plan, group: PanelGroup, unit: Unit, total: PanelGroup | None) -> Iterator[Panel]:
    """Yield the panels of a group filtered by app, segment or product, with the total if `total` is given."""
    settled, by = group.last_value(unit, "settled"), _filters(group)
    subject = ", ".join(("workspace", *group.kind.metric_group.labels))
    total_targets = []
    if total is not None:
        total_expr = f"{total.last_value(unit, 'settled')}\n  and on ({subject}) {settled}"
        total_targets.append(Target(total_expr, legend(plan, group.kind.metric_group.labels, "total")))
    same_subject = f" of the same {group.kind.subject_label}" if group.has_subject else ""
    yield chart(
        f"{group.title} by {by}, settled {unit}",
        f"Value of the newest settled {unit} by {by}" + (f", and the total{same_subject}." if total_targets else "."),
        [Target(settled, group.legend), *total_targets],
        unit="short",
        interval=chart_interval(unit),
        style="steps",
        can_be_negative=group.metric_group.can_be_negative,
    )
    if total is not None:
        yield chart(
            f"{group.title} by {by}, share of total, settled {unit}",
            "The share falls if a release of one app is broken, even if the total hides that. Points are missing while "
            f"the newest settled {unit} of the part and that of the total differ.",
            [
                Target(
                    f"{settled}\n  / on ({subject}) group_left ()\n{total.last_value(unit, 'settled')}\n"
                    f"  and on ({', '.join(group.labels)})\n"
                    f"{group.last_status(unit, QUERY_SETTLED_START)}\n  == on ({subject}) group_left "
                    f"()\n{total.last_status(unit, QUERY_SETTLED_START)}",
                    group.legend,
                )
            ],
            unit="percentunit",
            interval=chart_interval(unit),
            style="steps",
        )
    if group.has_counter and unit is group.units[0]:
        yield bars(
            f"{group.title} by {by}, reported in 24 hours",
            "Total that Braze reported in the last 24 hours. Late arrivals and repairs count when they are fetched.",
            [Target(f"topk({MAX_SERIES}, {group.increase('24h')})", group.legend)],
            unit="short",
            thresholds=steps("blue"),
            bounds={"min": 0},
        )


def chart_interval(unit: Unit) -> str:
    """Return the minimum interval between the points of a chart, which is short enough to show how a bucket grows."""
    return {Unit.HOUR: "5m", Unit.DAY: "30m"}[unit]


def _from_zero(group: PanelGroup) -> dict[str, float]:
    return {} if group.metric_group.can_be_negative else {"min": 0}


def _filters(group: PanelGroup) -> str:
    return " and ".join(name.removeprefix("braze_") for name in group.filters)
