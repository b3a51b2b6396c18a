"""What a query tells, as PromQL: one number, whatever targets of Prometheus and however many series it comes from."""

from dataclasses import dataclass

from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import build_counter, build_gauge, build_info
from braze_exporter.metrics.promql import LabelRegex, max_by, select_series, sum_by


@dataclass(frozen=True, slots=True)
class QueryExpr:
    """The number that a query is judged by: of its first noun, the series of the main statistics added up.

    A campaign or a Canvas is known by its identifier, and its series have its name, which nobody knows when rules are
    made, and which may change. So a number is of all of them until it is `restrict` by what has name and identifier.
    """

    query: Query

    @property
    def identity(self) -> dict[str, str]:
        """The labels that tell the number apart, whatever its subject is called."""
        kind = self.query.kind
        result = self._matchers | ({kind.subject_parameter: self.query.subject_id} if kind.is_identified_by_id else {})
        return {name: value for name, value in result.items() if not isinstance(value, LabelRegex)}

    def gauge(self, measure: str, *, offset: str = "") -> str:
        """Return one of the gauges of the query, as it was at an offset; if it is of several buckets, of the newest."""
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
        """Return the counter, as it was at an offset, without the series that an `unless` leaves out."""
        query = self.query
        selected = select_series(
            build_counter(query.kind, query.metric_group), self._matchers.items(), query.metric_group.primary_stats
        )
        expression = selected + (f" offset {offset}" if offset else "") + unless
        return sum_by(expression, self._labels, query.metric_group.series_labels)

    def restrict(self, expr: str) -> str:
        """Return what an expression has of this number alone."""
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
