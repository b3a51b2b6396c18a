"""The PromQL for a query in alerts: one value from all its series and all Prometheus targets."""

from dataclasses import dataclass

from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import build_counter, build_gauge
from braze_exporter.metrics.promql import LabelRegex, max_by, select_series, sum_by


@dataclass(frozen=True, slots=True)
class QueryExpr:
    """Writes expressions for the first metric group of a query, summed over the series of its `primary_stats`.

    A campaign or a Canvas is configured by its id, but its series have its name as a label. The name is unknown when
    rules are generated, and it may change. So expressions are for all campaigns until `restrict` joins them with the
    info metric, which has both labels.
    """

    query: Query

    @property
    def identity(self) -> dict[str, str]:
        """The labels that identify the query, with the id of the subject instead of its name if it has one."""
        kind = self.query.kind
        result = self._matchers | ({kind.subject_parameter: self.query.subject_id} if kind.is_identified_by_id else {})
        return {name: value for name, value in result.items() if not isinstance(value, LabelRegex)}

    def gauge(self, measure: str, *, offset: str = "") -> str:
        """Return the PromQL for the gauge `measure` of the query, optionally at `offset`.

        The values of `latest`, `settled` and `baseline` are summed over the series of a response. Of all other gauges,
        such as the start of the newest bucket, the result is the maximum.
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
        """Return the PromQL for the counter, optionally at `offset`. `unless` is PromQL after the selector."""
        query = self.query
        selected = select_series(
            build_counter(query.kind, query.metric_group), self._matchers.items(), query.metric_group.primary_stats
        )
        expression = selected + (f" offset {offset}" if offset else "") + unless
        return sum_by(expression, self._labels, query.metric_group.series_labels)

    def restrict(self, expr: str) -> str:
        """Return `expr`, limited to the subjects of this query if Braze identifies them by an id."""
        return expr

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
