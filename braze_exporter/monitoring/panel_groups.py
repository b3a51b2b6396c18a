"""The plan in PromQL: which series there are, and how a dashboard asks for those that are chosen in its variables.

A chosen value is put between backticks, as a regular expression in which Grafana has escaped it: an event may be named
with quotes or backslashes, and Grafana's usual form for Prometheus does not escape the quotes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from braze_exporter.braze.kinds import Kind, Noun, Unit
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import Family, counter, gauge
from braze_exporter.metrics.promql import highest, of_stats, summed
from braze_exporter.monitoring.kind_texts import words
from braze_exporter.monitoring.panels import SOLID, Json, Target
from braze_exporter.scheduler.plan import Plan, has_counter

# How far to look back for a gauge: one that was backfilled has a sample for each bucket and no more.
HELD = {Unit.HOUR: "1h", Unit.DAY: "1d"}


def variable(label: str) -> str:
    """Return the name of the dashboard's variable for a label."""
    return label.removeprefix("braze_")


def chosen(label: str, name: str = "", *, or_none: bool = False) -> str:
    """Return the matcher for the values of a label that are chosen in its variable, or in the one called `name`.

    With `or_none` what has no such label is among them.
    """
    value = f"${{{name or variable(label)}:regex}}"
    return f"{label}=~`({value})?`" if or_none else f"{label}=~`{value}`"


def own(family: Family, *matchers: str) -> str:
    """Return the series of one of the exporter's own families, of the chosen workspaces if it tells them apart."""
    found = [chosen(label) for label in family.labels if label == "workspace"] + [*matchers]
    return f"{family.name}{{{', '.join(found)}}}" if found else family.name


def any_of(families: Iterable[Family], *matchers: str) -> str:
    """Return the series of several families at once."""
    names = "|".join(dict.fromkeys(family.name for family in families))
    return "{" + ", ".join([f'__name__=~"{names}"', *matchers]) + "}"


@dataclass(frozen=True, slots=True)
class Slice:
    """The queries of a kind that are filtered by the same labels, which are `filters`: none, app, segment or both.

    `legend` tells its series apart. What it tells is of its noun, or of another `noun` of the kind; where a noun has
    several series, it is the sum of those that its headline names, or that match `stats`.
    """

    kind: Kind
    filters: tuple[str, ...]
    queries: tuple[Query, ...]
    legend: str

    @property
    def title(self) -> str:
        """What is counted, in the titles of panels."""
        return words(self.kind).title

    @property
    def noun(self) -> Noun:
        """The noun whose families these queries feed."""
        return self.queries[0].noun

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that tell its series apart. What is not filtered has an empty label, which is none."""
        return ("workspace", *self.kind.noun.labels, *self.filters)

    @property
    def has_subject(self) -> bool:
        """Whether there are several of them, by their subject."""
        return bool(self.kind.noun.labels)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that there are queries of."""
        return tuple(unit for unit in Unit if any(query.unit is unit for query in self.queries))

    @property
    def is_counted(self) -> bool:
        """Whether there is a counter: not by segment, and not of what does not add up."""
        return all(has_counter(query) for query in self.queries)

    def has_baseline(self, unit: Unit) -> bool:
        """Return whether any of its queries of that unit is compared with what is usual."""
        return any(query.unit is unit and query.weeks for query in self.queries)

    def now(self, unit: Unit, measure: str) -> str:
        """Return a gauge as it is, whichever target of Prometheus it came from."""
        noun = self.noun
        series = self._series(gauge(self.kind, noun, unit, measure), noun)
        return summed(series, self.labels, noun.breakdown)

    def held(
        self,
        unit: Unit,
        measure: str,
        *,
        noun: Noun | None = None,
        stats: str = "",
        by: tuple[str, ...] = (),
        subject: str = "",
        at: str = "",
    ) -> str:
        """Return a gauge with its last value for a bucket's time, so that it is seen where it was backfilled.

        It is that `at` one moment if one is given in PromQL, and else of each moment; of what is chosen in the variable
        `subject`, if one is given. With `by` a noun is summed by these labels, and not by those of the slice.
        """
        noun = noun or self.noun
        series = self._series(gauge(self.kind, noun, unit, measure), noun, stats=stats, subject=subject)
        last = f"last_over_time({series}[{HELD[unit]}]{f' @ {at}' if at else ''})"
        if not noun.breakdown or measure.endswith("_timestamp_seconds"):
            return highest(last, self.labels)
        return f"sum by ({', '.join(by or self.labels)}) ({highest(last, (*self.labels, *noun.breakdown))})"

    def reported(self, span: str, *, offset: str = "") -> str:
        """Return by how much the counters have risen in a span of time, whichever target they came from."""
        shift = f" offset {offset}" if offset else ""
        return f"sum by ({', '.join(self.labels)}) (increase({self.total}[{span}]{shift}))"

    @property
    def total(self) -> str:
        """The counters."""
        return self._series(counter(self.kind, self.noun), self.noun)

    def _series(self, family: Family, noun: Noun, *, stats: str = "", subject: str = "") -> str:
        """Return what is chosen of a family; the subject by the variable `subject` if one is given."""
        matchers = [
            chosen(label, subject if label == self.kind.subject else "") if label in self.labels else f'{label}=""'
            for label in ("workspace", *noun.labels)
        ]
        if "channel" in family.labels:
            matchers.append(chosen("channel"))
        if "stat" in family.labels:
            matchers += [stats] if stats else of_stats(noun.headline)
        return f"{family.name}{{{', '.join(matchers)}}}"


def slices(plan: Plan) -> tuple[Slice, ...]:
    """Return the slices of a plan: for each kind those that are not filtered first."""
    groups: dict[tuple[Kind, tuple[str, ...]], list[Query]] = {}
    for query in plan.queries:
        filters = tuple(name for name, value in query.labels if value and name not in _unfiltered(query.kind))
        groups.setdefault((query.kind, filters), []).append(query)
    kinds = list(dict.fromkeys(query.kind for query in plan.queries))
    order = sorted(groups, key=lambda key: (kinds.index(key[0]), len(key[1]), key[1]))
    return tuple(Slice(*key, tuple(groups[key]), legend(plan, (*key[0].noun.labels, *key[1]))) for key in order)


def legend(plan: Plan, labels: Iterable[str], name: str = "") -> str:
    """Return the legend that shows `labels` and then `name`, with the workspace before them if there are several."""
    several = len({query.workspace for query in plan.queries}) > 1
    shown = [f"{{{{{label}}}}}" for label in (["workspace"] if several else []) + [*labels]]
    return " ".join([*shown, name] if name else shown)


def legend_of(plan: Plan, found: Sequence[Slice], kind: str = "kind") -> str:
    """Return the legend that tells apart the series of several slices, and their kinds by the label `kind`."""
    several = len({one.kind for one in found}) > 1
    labels = dict.fromkeys(label for one in found for label in one.labels if label != "workspace")
    return legend(plan, [*([kind] if several else []), *labels])


def drawn(plan: Plan, expr: str, legend: str, color: str, line: Json = SOLID) -> Target:
    """Return a target with a colour and a line of its own; its legend has no labels but workspace and pool."""
    pairs = dict.fromkeys((query.workspace, query.kind.pool.name) for query in plan.queries)
    names = (legend.replace("{{workspace}}", workspace).replace("{{pool}}", pool) for workspace, pool in pairs)
    return Target(expr, legend, tuple(dict.fromkeys(names)), color, line)


def _unfiltered(kind: Kind) -> tuple[str, ...]:
    return ("workspace", *kind.noun.labels)
