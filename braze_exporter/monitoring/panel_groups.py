"""Groups the queries of a plan for dashboard panels, and writes the PromQL for the series selected in the variables.

Grafana inserts the selected values as an escaped regex between backticks. Event names may contain quotes or
backslashes, and Grafana's default format for Prometheus does not escape quotes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from braze_exporter.braze.kinds import MetricGroup, SeriesKind, Unit
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import Family, build_counter, build_gauge
from braze_exporter.metrics.promql import max_by, quote, stat_matchers, sum_by
from braze_exporter.monitoring.kind_texts import kind_texts
from braze_exporter.monitoring.panels import SOLID, Json, Target
from braze_exporter.scheduler.plan import Plan, can_feed_counter

# The workspace of the queries in a plan for any config.
ANY_WORKSPACE = ""
# The lookback for gauges is one bucket, since a backfilled gauge has only one sample per bucket.
LOOKBACK = {Unit.HOUR: "1h", Unit.DAY: "1d"}


def variable_name(label: str) -> str:
    """Return the name of the dashboard variable for a label."""
    return label.removeprefix("braze_")


def variable_matcher(label: str, name: str = "", *, or_none: bool = False) -> str:
    """Return the matcher for the values of a label that are selected in its variable, or in the variable `name`.

    If `or_none` is true, series without that label match too.
    """
    value = f"${{{name or variable_name(label)}:regex}}"
    return f"{label}=~`({value})?`" if or_none else f"{label}=~`{value}`"


def is_id(label: str) -> bool:
    """Return whether a label has Braze's ids. Ids distinguish series, but have no variables and are not in legends."""
    return label.endswith("_id")


def self_metric(family: Family, *matchers: str) -> str:
    """Return the selector for a self-metric, limited to the selected workspaces if it has the label `workspace`."""
    result = [variable_matcher(label) for label in family.labels if label == "workspace"] + [*matchers]
    return f"{family.name}{{{', '.join(result)}}}" if result else family.name


def select_any(families: Iterable[Family], *matchers: str) -> str:
    """Return one selector for the series of one or several families."""
    names = list(dict.fromkeys(family.name for family in families))
    if len(names) == 1:
        return f"{names[0]}{{{', '.join(matchers)}}}" if matchers else names[0]
    return "{" + ", ".join([f'__name__=~"{"|".join(names)}"', *matchers]) + "}"


@dataclass(frozen=True, slots=True)
class PanelGroup:
    """The queries of a kind that are filtered by the same labels.

    `filters` are these labels, such as app and segment; it may be empty. `legend` is the legend format that
    distinguishes the series of the group. The methods return PromQL for the series selected in the variables. If a
    metric group has several series, they are summed: those of its `primary_stats`, or those that match `stats`.
    """

    kind: SeriesKind
    filters: tuple[str, ...]
    queries: tuple[Query, ...]
    legend: str

    @property
    def title(self) -> str:
        """The title of the kind, for panel titles."""
        return kind_texts(self.kind).title

    @property
    def metric_group(self) -> MetricGroup:
        """The metric group of these queries."""
        return self.queries[0].metric_group

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that distinguish the queries of the group."""
        return ("workspace", *self.kind.metric_group.labels, *self.filters)

    @property
    def has_subject(self) -> bool:
        """Whether the kind has subjects, so that there can be several series."""
        return bool(self.kind.metric_group.labels)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units of the queries."""
        return tuple(unit for unit in Unit if any(query.unit is unit for query in self.queries))

    @property
    def has_counter(self) -> bool:
        """Whether all queries can feed a counter. Queries by segment or with values that are not additive cannot."""
        return all(can_feed_counter(query) for query in self.queries)

    def has_baseline(self, unit: Unit) -> bool:
        """Return whether any query of that unit has a baseline."""
        return any(query.unit is unit and query.baseline_weeks for query in self.queries)

    def current(self, unit: Unit, measure: str) -> str:
        """Return the PromQL for the current value of a gauge, over all Prometheus targets."""
        metric_group = self.metric_group
        series = self._series(build_gauge(self.kind, metric_group, unit, measure), metric_group)
        return sum_by(series, self.labels, metric_group.series_labels)

    def last_value(
        self,
        unit: Unit,
        measure: str,
        *,
        metric_group: MetricGroup | None = None,
        stats: str = "",
        by: tuple[str, ...] = (),
        subject: str = "",
    ) -> str:
        """Return the PromQL for the last value of a gauge within one bucket, so that backfilled gauges are visible.

        `metric_group` is another metric group of the kind, instead of that of the queries. `subject` is the variable
        that selects the subjects, instead of the default one. `by` are the labels to sum by, instead of those of the
        group.
        """
        metric_group = metric_group or self.metric_group
        series = self._series(
            build_gauge(self.kind, metric_group, unit, measure), metric_group, stats=stats, subject=subject
        )
        last = f"last_over_time({series}[{LOOKBACK[unit]}])"
        if not metric_group.series_labels:
            return max_by(last, self.labels)
        return f"sum by ({', '.join(by or self.labels)}) ({max_by(last, (*self.labels, *metric_group.series_labels))})"

    def last_status(self, unit: Unit, family: Family, *, subject: str = "", at: str = "") -> str:
        """Return the PromQL for the last sample of the queries in one of the `QUERY_FAMILIES` within one bucket.

        `at` is the evaluation time in PromQL, such as `end()`. `subject` is the variable that selects the subjects,
        instead of the default one.
        """
        series = select_any([family], *self.query_matchers(unit, subject=subject))
        return max_by(f"last_over_time({series}[{LOOKBACK[unit]}]{f' @ {at}' if at else ''})", self.labels)

    def query_matchers(self, unit: Unit, *, subject: str = "") -> list[str]:
        """Return the matchers for the selected queries of the group in the `QUERY_FAMILIES`.

        `subject` is the variable that selects the subjects, instead of the default one.
        """
        return [
            f"kind={quote(self.kind.section)}",
            f"unit={quote(unit)}",
            *self._selected(self.labels, subject),
            *(f'{label}=""' for label in self.kind.part_labels if label not in self.labels),
        ]

    def increase(self, span: str, *, offset: str = "") -> str:
        """Return the PromQL for the increase of the counters over `span`, summed over all Prometheus targets."""
        shift = f" offset {offset}" if offset else ""
        return f"sum by ({', '.join(self.labels)}) (increase({self.total}[{span}]{shift}))"

    @property
    def total(self) -> str:
        """The selector of the counters."""
        return self._series(build_counter(self.kind, self.metric_group), self.metric_group)

    def _series(self, family: Family, metric_group: MetricGroup, *, stats: str = "", subject: str = "") -> str:
        """Return the selector for the selected series of a family.

        `subject` is the variable that selects the subjects, instead of the default one.
        """
        matchers = self._selected(("workspace", *metric_group.labels), subject)
        if "channel" in family.labels:
            matchers.append(variable_matcher("channel"))
        if "stat" in family.labels:
            matchers += [stats] if stats else stat_matchers(metric_group.primary_stats)
        return f"{family.name}{{{', '.join(matchers)}}}"

    def _selected(self, labels: Iterable[str], subject: str) -> list[str]:
        return [
            variable_matcher(label, subject if label == self.kind.subject_label else "")
            for label in labels
            if not is_id(label)
        ]


def panel_groups(plan: Plan) -> tuple[PanelGroup, ...]:
    """Return the groups of a plan. For each kind, the group without filters comes first."""
    queries_by_group: dict[tuple[SeriesKind, tuple[str, ...]], list[Query]] = {}
    for query in plan.queries:
        filters = tuple(name for name, value in query.labels if value and name not in _unfiltered(query.kind))
        queries_by_group.setdefault((query.kind, filters), []).append(query)
    kinds = list(dict.fromkeys(query.kind for query in plan.queries))
    order = sorted(queries_by_group, key=lambda key: (kinds.index(key[0]), len(key[1]), key[1]))
    return tuple(
        PanelGroup(*key, tuple(queries_by_group[key]), legend(plan, (*key[0].metric_group.labels, *key[1])))
        for key in order
    )


def legend(plan: Plan, labels: Iterable[str], name: str = "") -> str:
    """Return the legend format with `labels`, except ids, and then `name`.

    The workspace precedes them if there may be several.
    """
    workspaces = {query.workspace for query in plan.queries}
    several = len(workspaces) > 1 or ANY_WORKSPACE in workspaces
    names = [label for label in labels if not is_id(label)]
    parts = [f"{{{{{label}}}}}" for label in (["workspace"] if several else []) + names]
    return " ".join([*parts, name] if name else parts)


def legend_of(plan: Plan, groups: Sequence[PanelGroup], kind: str = "kind") -> str:
    """Return the legend format for the series of several groups, with the label `kind` if they have several kinds."""
    several = len({group.kind for group in groups}) > 1
    labels = dict.fromkeys(label for group in groups for label in group.labels if label != "workspace")
    return legend(plan, [*([kind] if several else []), *labels])


def styled_target(plan: Plan, expr: str, legend: str, color: str, line: Json = SOLID) -> Target:
    """Return a target with a fixed color and line style. The only labels in its legend must be workspace and pool.

    If the legend has the workspace and the plan is for any workspace, Grafana chooses the color and the style.
    """
    pairs = dict.fromkeys((query.workspace, query.kind.pool.name) for query in plan.queries)
    if "{{workspace}}" in legend and any(workspace == ANY_WORKSPACE for workspace, _ in pairs):
        return Target(expr, legend)
    names = (legend.replace("{{workspace}}", workspace).replace("{{pool}}", pool) for workspace, pool in pairs)
    return Target(expr, legend, tuple(dict.fromkeys(names)), color, line)


def _unfiltered(kind: SeriesKind) -> tuple[str, ...]:
    return ("workspace", *kind.metric_group.labels)
