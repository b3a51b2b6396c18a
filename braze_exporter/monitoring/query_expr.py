"""The PromQL for the value of a query: one value, over all its series and all Prometheus targets."""

from dataclasses import dataclass

from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import build_counter, build_gauge, build_info
from braze_exporter.metrics.promql import LabelRegex, max_by, select_series, sum_by


@dataclass(frozen=True, slots=True)
class QueryExpr:
    """The value that alerts compare: the sum of the `primary_stats` of a query's first metric group.

    A campaign or a Canvas is configured by its id, but its series carry its name. The name is unknown when rules are
    generated, and it may change. So expressions cover all campaigns until `restrict` joins them with the info metric,
    which has both labels.
    """

    query: Query

    @property
    def identity(self) -> dict[str, str]:
        """The labels that identify the value, independent of the subject's name."""
        kind = self.query.kind
        result = self._matchers | ({kind.subject_parameter: self.query.subject_id} if kind.is_identified_by_id else {})
        return {name: value for name, value in result.items() if not isinstance(value, LabelRegex)}

    def gauge(self, measure: str, *, offset: str = "") -> str:
        """Return the PromQL for one of the query's gauges, optionally at `offset`.

        The values of `latest`, `settled` and `baseline` are summed over the series of a response. All other gauges are
        the maximum over the series, such as the start of the newest bucket.
        """
        query = self.query
        family = build_gauge(query.kind, query.metric_group, query.unit, measure)
        is_summed = query.metric_group.primary_stats and measure in {"latest", "settled", "baseline"}
        selected = select_series(
            family, self._matchers.items(), query.metric_group.primary_stats if "stat" in family.labels else ()
        )
        expression = selected + (f" offset {offset}" if offset else "")
        return (
            sum_by(expression, self._labels, query.metric_group.series_labels)
            if is_summed
            else max_by(expression, self._labels)
        )

    def total(self, *, offset: str = "", unless: str = "") -> str:
        """Return the PromQL for the counter, optionally at `offset`. `unless` excludes series."""
        query = self.query
        selected = select_series(
            build_counter(query.kind, query.metric_group), self._matchers.items(), query.metric_group.primary_stats
        )
        expression = selected + (f" offset {offset}" if offset else "") + unless
        return sum_by(expression, self._labels, query.metric_group.series_labels)

    def restrict(self, expr: str) -> str:
        """Return `expr` limited to the subjects of this query."""
        kind = self.query.kind
        if not kind.is_identified_by_id:
            return expr
        labels = self._matchers | {kind.subject_parameter: self.query.subject_id}
        if isinstance(self.query.subject, LabelRegex):
            labels[kind.subject_label] = self.query.subject
        return f"{expr}\nand on (workspace, {kind.subject_label}) {select_series(build_info(kind), labels.items())}"

    @property
    def _labels(self) -> tuple[str, ...]:
        return ("workspace", *self.query.metric_group.labels)

    @property
    def _matchers(self) -> dict[str, str]:
        kind = self.query.kind
        return {
            name: value
            for name, value in self.query.labels
            if not (kind.is_identified_by_id and name == kind.subject_label)
        }
