"""PromQL as text: names of people in it, durations, and series whatever target of Prometheus they came from."""

from collections.abc import Iterable
from typing import Self

from braze_exporter.config.yaml_scalar import escape_letter
from braze_exporter.metrics.families import Family

_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


def quote(text: str) -> str:
    """Return a text as a string of PromQL, in which every character can be printed."""
    return '"' + "".join(_ESCAPES.get(letter) or escape_letter(letter) for letter in text) + '"'


def format_number(value: float) -> str:
    """Return a number in no more digits than it takes."""
    return f"{value:.15g}"


class LabelRegex(str):
    """Values of a label, by the text that stands for them in the config: those that an `expression` matches, less some.

    `expression` and `excluded` are regular expressions of whole values; an empty `expression` matches all.
    """

    __slots__ = ("excluded", "expression")
    expression: str
    excluded: str

    def __new__(cls, text: str, expression: str | None = None, excluded: str = "") -> Self:
        """Return the values that `expression` matches, by default `text`, without those that `excluded` does."""
        value = super().__new__(cls, text)
        value.expression = text if expression is None else expression
        value.excluded = excluded
        return value


def matchers(name: str, value: str) -> list[str]:
    """Return the matchers for a label with a value."""
    if not isinstance(value, LabelRegex):
        return [f"{name}={quote(value)}"]
    pairs = (("=~", value.expression), ("!~", value.excluded))
    return [f"{name}{sign}{quote(expression)}" for sign, expression in pairs if expression]


def select_series(family: Family, labels: Iterable[tuple[str, str]], stats: Iterable[str] = ()) -> str:
    """Return the series of a family that have these labels, and one of the `stats` if there are some.

    An empty label is none to Prometheus.
    """
    parts = [matcher for name, value in labels for matcher in matchers(name, value)]
    return f"{family.name}{{{', '.join([*parts, *stat_matchers(stats)])}}}"


def stat_matchers(stats: Iterable[str]) -> list[str]:
    """Return the matchers for the series of some statistics of messages: one, or none for all of them."""
    pattern = "|".join(stats)
    return [f'stat=~"{pattern}"'] if pattern else []


def max_by(expr: str, by: Iterable[str]) -> str:
    """Return what an expression has by these labels, whichever target it came from.

    So a new pod goes on where the old one was, and an alert is the same from both.
    """
    return f"max by ({', '.join(by)}) ({expr})"


def sum_by(expr: str, by: Iterable[str], series_labels: Iterable[str]) -> str:
    """Return the sum of an expression by these labels over the `series_labels` of a response, if there are any."""
    each = max_by(expr, (*by, *series_labels))
    return f"sum by ({', '.join(by)}) ({each})" if [*series_labels] else each
