"""What a query tells, as PromQL: one number, whatever targets of Prometheus and however many series it comes from."""

from dataclasses import dataclass

from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import counter, gauge, info
from braze_exporter.metrics.promql import Matched, highest, series, summed


@dataclass(frozen=True, slots=True)
class Number:
    """The number that a query is judged by: of its first noun, the series of the main statistics added up.

    A campaign or a Canvas is known by its identifier, and its series have its name, which nobody knows when rules are
    made, and which may change. So a number is of all of them until it is `chosen` by what has name and identifier.
    """

    query: Query

    @property
    def identity(self) -> dict[str, str]:
        """The labels that tell the number apart, whatever its subject is called."""
        kind = self.query.kind
        found = self._matchers | ({kind.parameter: self.query.subject_id} if kind.is_named else {})
        return {name: value for name, value in found.items() if not isinstance(value, Matched)}

    def gauge(self, measure: str, *, offset: str = "") -> str:
        """Return one of the gauges of the query, as it was at an offset; if it is of several buckets, of the newest."""
        query = self.query
        family = gauge(query.kind, query.noun, query.unit, measure)
        is_summed = query.noun.headline and measure in {"latest", "settled", "baseline"}
        selected = series(family, self._matchers.items(), query.noun.headline if "stat" in family.labels else ())
        found = selected + (f" offset {offset}" if offset else "")
        return summed(found, self._labels, query.noun.breakdown) if is_summed else highest(found, self._labels)

    def total(self, *, offset: str = "", unless: str = "") -> str:
        """Return the counter, as it was at an offset, without the series that an `unless` leaves out."""
        query = self.query
        selected = series(counter(query.kind, query.noun), self._matchers.items(), query.noun.headline)
        found = selected + (f" offset {offset}" if offset else "") + unless
        return summed(found, self._labels, query.noun.breakdown)

    def chosen(self, expr: str) -> str:
        """Return what an expression has of this number alone."""
        kind = self.query.kind
        if not kind.is_named:
            return expr
        labels = self._matchers | {kind.parameter: self.query.subject_id}
        if isinstance(self.query.subject, Matched):
            labels[kind.subject] = self.query.subject
        return f"{expr}\nand on (workspace, {kind.subject}) {series(info(kind), labels.items())}"

    @property
    def _labels(self) -> tuple[str, ...]:
        return ("workspace", *self.query.noun.labels)

    @property
    def _matchers(self) -> dict[str, str]:
        kind = self.query.kind
        return {name: value for name, value in self.query.labels if not (kind.is_named and name == kind.subject)}
