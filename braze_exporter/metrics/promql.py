"""Helpers that write PromQL: quoting, numbers, label matchers, and aggregation over Prometheus targets."""

from collections.abc import Iterable
from typing import Self

from braze_exporter.config.quoting import quote
from braze_exporter.metrics.families import Family


def format_number(value: float) -> str:
    """Return a number with as few digits as possible, at most 15."""
    return f"{value:.15g}"


class LabelRegex(str):
    """The values of a label that match `expression` but not `excluded`.

    Both are regexes that match whole values. An empty `expression` matches all values. The string itself is the text of
    the config, for example the regex or tag of a selector.
    """

    __slots__ = ("excluded", "expression")
    expression: str
    excluded: str

    def __new__(cls, text: str, expression: str | None = None, excluded: str = "") -> Self:
        """Return the values that match `expression` (`text` if it is None) but not `excluded`."""
        value = super().__new__(cls, text)
        value.expression = text if expression is None else expression
        value.excluded = excluded
        return value


def matchers(name: str, value: str) -> list[str]:
    """Return the PromQL matchers for a label with this value."""
    if not isinstance(value, LabelRegex):
        return [f"{name}={quote(value)}"]
    pairs = (("=~", value.expression), ("!~", value.excluded))
    return [f"{name}{sign}{quote(expression)}" for sign, expression in pairs if expression]


def select_series(family: Family, labels: Iterable[tuple[str, str]], stats: Iterable[str] = ()) -> str:
    """Return a selector for the series of a family with these labels, and with one of the `stats` if there are any.

    Prometheus treats an empty label value as a missing label.
    """
    parts = [*(matcher for name, value in labels for matcher in matchers(name, value)), *stat_matchers(stats)]
    return f"{family.name}{{{', '.join(parts)}}}" if parts else family.name


def stat_matchers(stats: Iterable[str]) -> list[str]:
    """Return the matchers for the series of these `stats`: one matcher, or none if `stats` is empty."""
    pattern = "|".join(stats)
    return [f'stat=~"{pattern}"'] if pattern else []


def max_by(expr: str, by: Iterable[str]) -> str:
    """Return the maximum of an expression by these labels, over all Prometheus targets.

    Target labels are dropped, so that a replaced pod continues the series and the alerts of the previous one.
    """
    return f"max by ({', '.join(by)}) ({expr})"


def sum_by(expr: str, by: Iterable[str], series_labels: Iterable[str]) -> str:
    """Return the sum of an expression over its `series_labels`, by the labels `by`, over all Prometheus targets.

    Without `series_labels` there is only one series, which is returned as it is.
    """
    each = max_by(expr, (*by, *series_labels))
    return f"sum by ({', '.join(by)}) ({each})" if [*series_labels] else each
