"""The one series that stands for a query, of all that its answers have."""

from collections.abc import Sequence
from dataclasses import replace

from braze_exporter.braze.series import Point, Series
from braze_exporter.metrics.rows import Held, Values, View


def headline(views: Sequence[View]) -> View:
    """Return the view that stands for those of one query: the first noun's, summed up where that has several series."""
    noun = views[0].entry.query.noun
    of_noun = [view for view in views if view.series.noun is noun]
    chosen = [view for view in of_noun if not noun.headline or _stat(view) in noun.headline]
    if len(chosen) == 1 and not noun.breakdown:
        return chosen[0]
    if not chosen:
        return replace(views[0], series=Series(noun, ()), held=Held(), values=Values(), starts=(None, None), total=None)
    longest = max(chosen, key=lambda view: len(view.held.points))
    sums: dict[int, float] = {}
    for view in chosen:
        for start, value in view.held.points:
            sums[start] = sums.get(start, 0.0) + value
    held = longest.held._replace(points=tuple(Point(start, sums[start]) for start, _ in longest.held.points))
    return replace(
        longest,
        series=Series(noun, (), (("stat", " + ".join(dict.fromkeys(_stat(view) for view in chosen))),)),
        held=held,
        values=_values(held, longest.values),
        total=_sum([view.total for view in chosen]),
    )


def _stat(view: View) -> str:
    return dict(view.series.labels).get("stat", "")


def _values(held: Held, like: Values) -> Values:
    """Return what is latest and settled of the sum, if that is shown of its parts. Medians do not add up."""
    latest = held.points[-1].value if like.latest is not None else None
    return Values(latest, held.points[held.settled - 1].value if like.settled is not None else None)


def _sum(totals: Sequence[float | None]) -> float | None:
    known = [total for total in totals if total is not None]
    return sum(known) if known else None
