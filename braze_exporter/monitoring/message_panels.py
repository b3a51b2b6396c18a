"""The panels for the additional metric groups of campaigns and Canvases, such as messages and conversions."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.kinds import MetricGroup, Unit
from braze_exporter.metrics.promql import stat_matchers
from braze_exporter.monitoring.panel_groups import PanelGroup, legend
from braze_exporter.monitoring.panels import Panel, Target, chart
from braze_exporter.scheduler.plan import Plan

_INTERVAL = "30m"
# Unique users cannot be added up, since a user of two variations or two channels is counted in both.
_UNIQUE_STATS = "unique_.+"
_DOLLARS = "_dollars"


def panel_lines(plan: Plan, group: PanelGroup) -> Iterator[Sequence[Panel]]:
    """Yield the lines of panels for a kind whose responses have several metric groups.

    The revenue of messages has no panel, since Braze reports it only for campaigns with several variations.
    """
    metric_groups = group.kind.metric_groups
    others = [
        metric_group
        for metric_group in metric_groups
        if metric_group is not group.metric_group and not metric_group.series_labels
    ]
    for metric_group in metric_groups:
        if metric_group.primary_stats:
            yield [_sent_panel(plan, group, metric_group), _outcome_panel(plan, group, metric_group)]
    yield [
        _group_chart(metric_group.name, f"{metric_group.help_prefix}, on the newest settled day.", group, metric_group)
        for metric_group in others
    ]


def _group_chart(name: str, description: str, group: PanelGroup, metric_group: MetricGroup) -> Panel:
    return chart(
        f"{_title(name.removesuffix(_DOLLARS))}, settled day",
        description,
        [Target(group.last_value(Unit.DAY, "settled", metric_group=metric_group), group.legend)],
        unit="currencyUSD" if name.endswith(_DOLLARS) else "short",
        interval=_INTERVAL,
        style="steps",
        can_be_negative=metric_group.can_be_negative,
    )


def _sent_panel(plan: Plan, group: PanelGroup, metric_group: MetricGroup) -> Panel:
    """Return the panel of sent messages by channel, or by step and channel for a Canvas.

    A Canvas step has at most one message. Steps are distinguished by id, since names may repeat.
    """
    by = tuple(label for label in metric_group.series_labels if label in {"step", "channel"})
    labels = (*metric_group.labels, "step_id", *by) if "step" in by else by
    return chart(
        f"{_title(metric_group.name)} by {' and '.join(by)}, settled day",
        "Messages sent on the newest settled day, or impressions for in-app messages. Sum of the selection and all "
        "variations.",
        [
            Target(
                group.last_value(Unit.DAY, "settled", metric_group=metric_group, by=("workspace", *labels)),
                legend(plan, labels),
            )
        ],
        unit="short",
        interval=_INTERVAL,
        style="stacked",
    )


def _outcome_panel(plan: Plan, group: PanelGroup, metric_group: MetricGroup) -> Panel:
    """Return the panel of all other statistics, such as opens and clicks, as fractions of the messages sent."""
    by = ("workspace", "channel")
    others = f'stat!~"{"|".join([*metric_group.primary_stats, _UNIQUE_STATS])}"'
    each = group.last_value(Unit.DAY, "settled", metric_group=metric_group, stats=others, by=(*by, "stat"))
    sent = group.last_value(
        Unit.DAY, "settled", metric_group=metric_group, stats=stat_matchers(metric_group.primary_stats)[0], by=by
    )
    return chart(
        f"{_title(metric_group.name)}, outcomes, settled day",
        "Each statistic of a channel as a share of the messages sent (or in-app messages shown) in that channel. "
        "Statistics of unique users are excluded, because they cannot be added up.",
        [Target(f"{each}\n  / on ({', '.join(by)}) group_left ()\n({sent} > 0)", legend(plan, ["channel", "stat"]))],
        unit="percentunit",
        interval=_INTERVAL,
        style="steps",
        can_be_negative=True,
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
