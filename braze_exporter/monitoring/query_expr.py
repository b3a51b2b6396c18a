"""The PromQL for a query in alerts: one value from all its series and all Prometheus targets."""

from dataclasses import dataclass

from braze_exporter.braze.kinds import KINDS
from braze_exporter.braze.query import QUERY_LABELS, Query
from braze_exporter.metrics.families import Family, build_counter, build_gauge
from braze_exporter.metrics.promql import LabelRegex, max_by, select_series, sum_by

# The labels for the names of subjects that Braze identifies by an id. A name may change, so alerts do not have it.
NAME_LABELS = frozenset(kind.subject_label for kind in KINDS if kind.is_identified_by_id)
# The labels that identify a query of any kind in alerts.
QUERY_ID_LABELS = tuple(label for label in QUERY_LABELS if label not in NAME_LABELS)


@dataclass(frozen=True, slots=True)
class QueryExpr:
    """Writes expressions for a query.

    Values are those of its first metric group, summed over the series of its `primary_stats`. Campaigns and Canvases
    are selected and aggregated by id, so that a new name does not restart an alert. Only a selector selects by name.
    """

    query: Query

    @property
    def identity(self) -> dict[str, str]:
        """The labels of the query with a single value. A selector has several values of its subject."""
        return {name: value for name, value in self._matchers.items() if not isinstance(value, LabelRegex)}

    def value(self, measure: str) -> str:
        """Return the PromQL for the value gauge `measure` of the query, such as `settled`."""
        return self._sum(build_gauge(self.query.kind, self.query.metric_group, self.query.unit, measure))

    def status(self, family: Family, *, offset: str = "") -> str:
        """Return the PromQL for the query in one of the `QUERY_FAMILIES`, optionally at `offset`."""
        query = self.query
        matchers = {
            "workspace": query.workspace,
            "kind": query.kind.section,
            "unit": query.unit.value,
            **dict.fromkeys(query.kind.part_labels, ""),
            **self._matchers,
        }
        return max_by(select_series(family, matchers.items()) + (f" offset {offset}" if offset else ""), self._labels)

    def total(self, *, offset: str = "", unless: str = "") -> str:
        """Return the PromQL for the counter, optionally at `offset`. `unless` is PromQL after the selector."""
        family = build_counter(self.query.kind, self.query.metric_group)
        return self._sum(family, (f" offset {offset}" if offset else "") + unless)

    def _sum(self, family: Family, rest: str = "") -> str:
        """Return the PromQL for the sum over the series of the query in a family. `rest` follows the selector."""
        metric_group = self.query.metric_group
        selected = select_series(family, self._matchers.items(), metric_group.primary_stats)
        return sum_by(selected + rest, self._labels, metric_group.series_labels)

    @property
    def _labels(self) -> tuple[str, ...]:
        return ("workspace", *(label for label in self.query.metric_group.labels if label not in NAME_LABELS))

    @property
    def _matchers(self) -> dict[str, str]:
        return {
            name: value for name, value in self.query.labels if name not in NAME_LABELS or isinstance(value, LabelRegex)
        }
