"""PromQL as text: names of people in it, durations, and series whatever target of Prometheus they came from."""

from collections.abc import Iterable
from typing import Self

from braze_exporter.config.yaml_scalar import printable
from braze_exporter.metrics.families import Family

_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


def quoted(text: str) -> str:
    """Return a text as a string of PromQL, in which every character can be printed."""
    return '"' + "".join(_ESCAPES.get(letter) or printable(letter) for letter in text) + '"'


def number(value: float) -> str:
    """Return a number in no more digits than it takes."""
    return f"{value:.15g}"


class Matched(str):
    """Values of a label, by the text that stands for them in the config: those that an `expression` matches, less some.

    `expression` and `less` are regular expressions of whole values; an empty `expression` matches all.
    """

    __slots__ = ("expression", "less")
    expression: str
    less: str

    def __new__(cls, text: str, expression: str | None = None, less: str = "") -> Self:
        """Return the values that `expression` matches, by default `text`, without those that `less` does."""
        found = super().__new__(cls, text)
        found.expression = text if expression is None else expression
        found.less = less
        return found


def matchers(name: str, value: str) -> list[str]:
    """Return the matchers for a label with a value."""
    if not isinstance(value, Matched):
        return [f"{name}={quoted(value)}"]
    pairs = (("=~", value.expression), ("!~", value.less))
    return [f"{name}{sign}{quoted(expression)}" for sign, expression in pairs if expression]


def series(family: Family, labels: Iterable[tuple[str, str]], stats: Iterable[str] = ()) -> str:
    """Return the series of a family that have these labels, and one of the `stats` if there are some.

    An empty label is none to Prometheus.
    """
    found = [matcher for name, value in labels for matcher in matchers(name, value)]
    return f"{family.name}{{{', '.join([*found, *of_stats(stats)])}}}"


def of_stats(stats: Iterable[str]) -> list[str]:
    """Return the matchers for the series of some statistics of messages: one, or none for all of them."""
    pattern = "|".join(stats)
    return [f'stat=~"{pattern}"'] if pattern else []


def highest(expr: str, by: Iterable[str]) -> str:
    """Return what an expression has by these labels, whichever target it came from.

    So a new pod goes on where the old one was, and an alert is the same from both.
    """
    return f"max by ({', '.join(by)}) ({expr})"


def summed(expr: str, by: Iterable[str], breakdown: Iterable[str]) -> str:
    """Return the sum of what an expression has by these labels over the `breakdown` of an answer, if there is one."""
    each = highest(expr, (*by, *breakdown))
    return f"sum by ({', '.join(by)}) ({each})" if [*breakdown] else each
