"""The series that dashboards show: groups of queries with the same labels, and the PromQL for their selected series.

Grafana inserts the selected values as an escaped regex between backticks. Event names may contain quotes or
backslashes, and Grafana's default format for Prometheus does not escape quotes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from braze_exporter.braze.kinds import KINDS, SeriesKind, Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.config.quoting import quote
from braze_exporter.metrics.families import Family, build_counter, build_gauge
from braze_exporter.metrics.promql import max_by, stat_matchers
from braze_exporter.monitoring.kind_texts import kind_texts
from braze_exporter.monitoring.query_expr import NAME_LABELS
from braze_exporter.monitoring.selector_queries import selector_queries
from braze_exporter.scheduler.plan import Plan

# The dashboard variables by the label whose values they select.
VARIABLES = {
    "workspace": "workspace",
    "event": "event",
    "braze_app": "app",
    "campaign": "campaign",
    "canvas": "canvas",
}
# Selects the alerts of the selected workspaces, and those of the exporter, which have no workspace.
ALERT_MATCHERS = "alertname=~`Braze.+`, workspace=~`(${workspace:regex})?`"
# Changes of smaller counts are mostly chance. The default of the alerts is the same.
MIN_COUNT = 10
# The lookback is one bucket, since backfilled series have only one sample per bucket.
_LOOKBACK = {Unit.HOUR: "1h", Unit.DAY: "1d"}


def select(family: Family, *matchers: str, suffix: str = "", variables: Iterable[str] = VARIABLES) -> str:
    """Return the selector for the series of a family that match `matchers` and that the variables select.

    `suffix` is appended to the name of the family. `variables` are the labels whose variables the dashboard has.
    """
    selected = (f"{label}=~`${{{VARIABLES[label]}:regex}}`" for label in family.labels if label in variables)
    return f"{family.name}{suffix}{{{', '.join([*selected, *matchers])}}}"


@dataclass(frozen=True, slots=True)
class SeriesGroup:
    """The series of a kind and unit that have the same labels.

    `filters` are the labels of their parts, such as app and segment; it may be empty. `has_baseline` is true if any of
    them may have a baseline. The methods return PromQL. If a metric group has several series for a query, they are
    summed: those of its `primary_stats`, or those that match `stats`.
    """

    kind: SeriesKind
    filters: tuple[str, ...]
    unit: Unit
    has_baseline: bool = False

    @property
    def title(self) -> str:
        """The title of the series, with their filters."""
        title = kind_texts(self.kind).title
        words = " and ".join(label.removeprefix("braze_") for label in self.filters)
        return f"{title} by {words}" if words else title

    @property
    def metric_group(self) -> MetricGroup:
        """The metric group that represents the series."""
        return self.kind.partial_group(self.filters) if self.filters else self.kind.metric_group

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that distinguish the series."""
        return ("workspace", *self.metric_group.labels)

    def gauge(
        self,
        measure: str,
        *,
        metric_group: MetricGroup | None = None,
        stats: str = "",
        by: Iterable[str] = (),
        at: str = "",
        is_current: bool = False,
    ) -> str:
        """Return the last value of a gauge within one bucket, or only the current one, over all Prometheus targets.

        `metric_group` is another metric group of the kind. `by` are the labels to sum by, by default those that
        distinguish the queries. `at` is a PromQL modifier such as `offset 7d`.
        """
        metric_group = metric_group or self.metric_group
        family = build_gauge(self.kind, metric_group, self.unit, measure)
        modifier = "" if is_current else f"[{_LOOKBACK[self.unit]}]{f' {at}' if at else ''}"
        by = (*by,) or ("workspace", *metric_group.labels)
        # A new name would count a campaign twice while both are in the lookback.
        labels = [label for label in family.labels if label in by or label not in NAME_LABELS]
        return _sum_each(_max_by_id(family, labels, _stat_matcher(metric_group, stats), modifier), labels, by)

    def increase(self, days: int, ago: int = 0) -> str:
        """Return what Braze reported in the `days` before `ago` days ago, for counters that are old enough.

        Counters of stale queries, which do not increase, have no result, nor do counters that were reset in this time.
        Two samples of each series are enough, while `increase()` reads all between them. The counter of a campaign or
        Canvas continues under a new name, and the result has the current one.
        """
        family, ids = build_counter(self.kind, self.metric_group), _without_names(self.labels)
        by_id = f"on ({', '.join(ids)})"
        end, start = self._total(family, ago), self._total(family, ago + days)
        if self.metric_group.series_labels:  # a series that appears later than its query starts at 0
            start = f"({start} or 0 * {end} and {by_id} {start})"
        total = _sum_each(f"({end} - {start} >= 0)", _without_names(family.labels), ids)
        names = "|".join(build_gauge(self.kind, self.metric_group, unit, "settled").name for unit in self.kind.units)
        fresh = select(replace(family, name=""), f'__name__=~"{names}"', *_stat_matcher(self.metric_group))
        if ids == [*self.labels]:
            return f"({total} and {by_id} {fresh})"
        named = f"topk by ({', '.join(ids)}) (1, {max_by(fresh, self.labels)}) ^ 0"
        return f"({total} * {by_id} group_left ({self.kind.subject_label}) {named})"

    def change(self, days: int, by: str = "") -> str:
        """Return the ratio of what was reported in the last `days` to the same time a week before (the `days` before).

        With `by`, the ratio of the sums by this label, over the series that can be compared.
        """
        now, before = self.increase(days), self.increase(days, ago=7)
        if by:
            now, before = (f"sum by ({by}) ({one} and {other})" for one, other in ((now, before), (before, now)))
        return f"{now} / ({before} >= {MIN_COUNT})"

    def _total(self, family: Family, ago: int) -> str:
        """Return the totals of the counters in `family`, `ago` days ago, by their ids."""
        modifier = f"[{_LOOKBACK[self.kind.units[0]]}] offset {ago}d" if ago else ""
        labels, variables = _without_names(family.labels), _without_names(VARIABLES)
        return _max_by_id(family, labels, _stat_matcher(self.metric_group), modifier, variables)


def series_groups(plan: Plan | None) -> tuple[SeriesGroup, ...]:
    """Return the groups of a plan, or those of all kinds. For each kind, those without filters come first."""
    if plan is None:
        return tuple(
            SeriesGroup(kind, filters, unit, has_baseline=True)
            for kind in KINDS
            for size in range(len(kind.part_labels) + 1)
            for filters in combinations(kind.part_labels, size)
            for unit in kind.units
        )
    baselines: dict[tuple[SeriesKind, tuple[str, ...], Unit], bool] = {}
    for query in (*plan.queries, *(query for query, _ in selector_queries(plan))):
        values = dict(query.labels)
        key = (query.kind, tuple(label for label in query.kind.part_labels if values.get(label)), query.unit)
        baselines[key] = baselines.get(key, False) or query.baseline_weeks > 0
    units = list(Unit)
    order = sorted(baselines, key=lambda key: (KINDS.index(key[0]), len(key[1]), key[1], units.index(key[2])))
    return tuple(SeriesGroup(*key, has_baseline=baselines[key]) for key in order)


def counted_groups(groups: Iterable[SeriesGroup]) -> list[SeriesGroup]:
    """Return the groups that have counters, one for each counter."""
    result = {(group.kind, group.filters): group for group in groups if group.metric_group.is_additive}
    return list(result.values())


def name_subject(expr: str, group: SeriesGroup) -> str:
    """Return an expression with the name of its subject in the label `subject`, or with the id of an unnamed one."""
    kind = group.kind
    for label in dict.fromkeys((kind.subject_parameter, kind.subject_label)):
        if label in group.labels:
            expr = f'label_replace({expr}, "subject", "$1", "{label}", "(?s:(.+))")'
    return expr


def with_label(expr: str, label: str, value: str) -> str:
    """Return an expression with a value of a label. It keeps series of different kinds apart in a union."""
    return f'label_replace({expr}, "{label}", {quote(value.replace("$", "$$"))}, "", "")'


def with_kind(expr: str, kind: SeriesKind) -> str:
    """Return an expression with the title of a kind in the label `kind`."""
    return with_label(expr, "kind", kind_texts(kind).title)


def union(exprs: Iterable[str]) -> str:
    """Return the union of expressions."""
    return "\nor\n".join(exprs)


def _max_by_id(
    family: Family,
    labels: Sequence[str],
    matchers: Iterable[str],
    modifier: str,
    variables: Iterable[str] = VARIABLES,
) -> str:
    """Return the maximum of a family by `labels`, over all Prometheus targets.

    `modifier` is a range, which may be followed by an offset, or empty for the current values. A variation or step is
    identified by its id, or by its name if it has none, so that a new name does not count it twice.
    """

    def maximum(labels: Iterable[str], *id_matcher: str) -> str:
        series = select(family, *matchers, *id_matcher, variables=variables)
        return max_by(f"last_over_time({series}{modifier})" if modifier else series, labels)

    for name in ("variation", "step"):
        if name in labels:
            with_id = maximum([label for label in labels if label != name], f'{name}_id!=""')
            without_id = maximum(labels, f'{name}_id=""')
            return f"({with_id} or {without_id})"
    return maximum(labels)


def _without_names(labels: Iterable[str]) -> list[str]:
    return [label for label in labels if label not in NAME_LABELS]


def _stat_matcher(metric_group: MetricGroup, stats: str = "") -> list[str]:
    if "stat" not in metric_group.series_labels:
        return []
    return [stats] if stats else stat_matchers(metric_group.primary_stats)


def _sum_each(expr: str, labels: Sequence[str], by: Sequence[str]) -> str:
    return expr if {*labels} == {*by} else f"sum by ({', '.join(by)}) ({expr})"
