"""The plan in PromQL: which series there are, and how a dashboard asks for those that are chosen in its variables.

A chosen value is put between backticks, as a regular expression in which Grafana has escaped it: an event may be named
with quotes or backslashes, and Grafana's usual form for Prometheus does not escape the quotes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from braze_exporter.braze.kinds import MetricGroup, SeriesKind, Unit
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import Family, build_counter, build_gauge
from braze_exporter.metrics.promql import max_by, stat_matchers, sum_by
from braze_exporter.monitoring.kind_texts import kind_texts
from braze_exporter.monitoring.panels import SOLID, Json, Target
from braze_exporter.scheduler.plan import Plan, feeds_counter

# How far to look back for a gauge: one that was backfilled has a sample for each bucket and no more.
LOOKBACK = {Unit.HOUR: "1h", Unit.DAY: "1d"}


def variable_name(label: str) -> str:
    """Return the name of the dashboard's variable for a label."""
    return label.removeprefix("braze_")


def variable_matcher(label: str, name: str = "", *, or_none: bool = False) -> str:
    """Return the matcher for the values of a label that are chosen in its variable, or in the one called `name`.

    With `or_none` what has no such label is among them.
    """
    value = f"${{{name or variable_name(label)}:regex}}"
    return f"{label}=~`({value})?`" if or_none else f"{label}=~`{value}`"


def self_metric(family: Family, *matchers: str) -> str:
    """Return the series of one of the exporter's own families, of the chosen workspaces if it tells them apart."""
    result = [variable_matcher(label) for label in family.labels if label == "workspace"] + [*matchers]
    return f"{family.name}{{{', '.join(result)}}}" if result else family.name


def select_any(families: Iterable[Family], *matchers: str) -> str:
    """Return the series of several families at once."""
    names = "|".join(dict.fromkeys(family.name for family in families))
    return "{" + ", ".join([f'__name__=~"{names}"', *matchers]) + "}"


@dataclass(frozen=True, slots=True)
class PanelGroup:
    """The queries of a kind that are filtered by the same labels, which are `filters`: none, app, segment or both.

    `legend` tells its series apart. What it tells is of its noun, or of another `metric_group` of the kind; where a
    noun has several series, it is the sum of those that its headline names, or that match `stats`.
    """

    kind: SeriesKind
    filters: tuple[str, ...]
    queries: tuple[Query, ...]
    legend: str

    @property
    def title(self) -> str:
        """What is counted, in the titles of panels."""
        return kind_texts(self.kind).title

    @property
    def metric_group(self) -> MetricGroup:
        """The noun whose families these queries feed."""
        return self.queries[0].metric_group

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that tell its series apart. What is not filtered has an empty label, which is none."""
        return ("workspace", *self.kind.metric_group.labels, *self.filters)

    @property
    def has_subject(self) -> bool:
        """Whether there are several of them, by their subject."""
        return bool(self.kind.metric_group.labels)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that there are queries of."""
        return tuple(unit for unit in Unit if any(query.unit is unit for query in self.queries))

    @property
    def has_counter(self) -> bool:
        """Whether there is a counter: not by segment, and not of what does not add up."""
        return all(feeds_counter(query) for query in self.queries)

    def has_baseline(self, unit: Unit) -> bool:
        """Return whether any of its queries of that unit is compared with what is usual."""
        return any(query.unit is unit and query.baseline_weeks for query in self.queries)

    def current(self, unit: Unit, measure: str) -> str:
        """Return a gauge as it is, whichever target of Prometheus it came from."""
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
        at: str = "",
    ) -> str:
        """Return a gauge with its last value for a bucket's time, so that it is seen where it was backfilled.

        It is that `at` one moment if one is given in PromQL, and else of each moment; of what is chosen in the variable
        `subject`, if one is given. With `by` a noun is summed by these labels, and not by those of the slice.
        """
        metric_group = metric_group or self.metric_group
        series = self._series(
            build_gauge(self.kind, metric_group, unit, measure), metric_group, stats=stats, subject=subject
        )
        last = f"last_over_time({series}[{LOOKBACK[unit]}]{f' @ {at}' if at else ''})"
        if not metric_group.series_labels or measure.endswith("_timestamp_seconds"):
            return max_by(last, self.labels)
        return f"sum by ({', '.join(by or self.labels)}) ({max_by(last, (*self.labels, *metric_group.series_labels))})"

    def increase(self, span: str, *, offset: str = "") -> str:
        """Return by how much the counters have risen in a span of time, whichever target they came from."""
        shift = f" offset {offset}" if offset else ""
        return f"sum by ({', '.join(self.labels)}) (increase({self.total}[{span}]{shift}))"

    @property
    def total(self) -> str:
        """The counters."""
        return self._series(build_counter(self.kind, self.metric_group), self.metric_group)

    def _series(self, family: Family, metric_group: MetricGroup, *, stats: str = "", subject: str = "") -> str:
        """Return what is chosen of a family; the subject by the variable `subject` if one is given."""
        matchers = [
            variable_matcher(label, subject if label == self.kind.subject_label else "")
            if label in self.labels
            else f'{label}=""'
            for label in ("workspace", *metric_group.labels)
        ]
        if "channel" in family.labels:
            matchers.append(variable_matcher("channel"))
        if "stat" in family.labels:
            matchers += [stats] if stats else stat_matchers(metric_group.primary_stats)
        return f"{family.name}{{{', '.join(matchers)}}}"


def panel_groups(plan: Plan) -> tuple[PanelGroup, ...]:
    """Return the slices of a plan: for each kind those that are not filtered first."""
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
    """Return the legend that shows `labels` and then `name`, with the workspace before them if there are several."""
    several = len({query.workspace for query in plan.queries}) > 1
    parts = [f"{{{{{label}}}}}" for label in (["workspace"] if several else []) + [*labels]]
    return " ".join([*parts, name] if name else parts)


def legend_of(plan: Plan, groups: Sequence[PanelGroup], kind: str = "kind") -> str:
    """Return the legend that tells apart the series of several slices, and their kinds by the label `kind`."""
    several = len({group.kind for group in groups}) > 1
    labels = dict.fromkeys(label for group in groups for label in group.labels if label != "workspace")
    return legend(plan, [*([kind] if several else []), *labels])


def styled_target(plan: Plan, expr: str, legend: str, color: str, line: Json = SOLID) -> Target:
    """Return a target with a colour and a line of its own; its legend has no labels but workspace and pool."""
    pairs = dict.fromkeys((query.workspace, query.kind.pool.name) for query in plan.queries)
    names = (legend.replace("{{workspace}}", workspace).replace("{{pool}}", pool) for workspace, pool in pairs)
    return Target(expr, legend, tuple(dict.fromkeys(names)), color, line)


def _unfiltered(kind: SeriesKind) -> tuple[str, ...]:
    return ("workspace", *kind.metric_group.labels)
