"""The names of a list that are most like one that is not in it: what may have been meant. Pure."""

import difflib
import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

_MOST = 3
# Names of a list are compared in full with so many that have the most pairs of letters in common.
_COMPARED = 50
# Less alike than that is no typing error, as `difflib` measures it: what two names share, of the letters of both.
_ALIKE = 0.6


def nearest(asked: Sequence[str], names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """Return for each that is `asked` at most three of `names`, the nearest first.

    Lists may have tens of thousands of names, so only those that have a fitting length and much in common are compared.
    """
    wanted = {one: _pairs(one) for one in asked}
    found: dict[str, list[tuple[int, str]]] = {one: [] for one in asked}
    for name in names:
        fitting = [one for one in wanted if _may_be_alike(one, name)]
        pairs = _pairs(name) if fitting else frozenset()
        for one in fitting:
            found[one].append((len(pairs & wanted[one]), name))
    return {one: tuple(_closest(one, most)) for one, most in found.items()}


def _closest(one: str, found: Sequence[tuple[int, str]]) -> Iterator[str]:
    best = sorted(name for _, name in heapq.nlargest(_COMPARED, found))
    yield from difflib.get_close_matches(one, best, n=_MOST, cutoff=_ALIKE)


def _may_be_alike(one: str, other: str) -> bool:
    """Return whether the lengths leave that possible."""
    return 2 * min(len(one), len(other)) >= _ALIKE * (len(one) + len(other))


def _pairs(name: str) -> frozenset[str]:
    """Return the pairs of letters in a name, with its ends, in lower case."""
    text = f" {name.lower()} "
    return frozenset(map("".join, itertools.pairwise(text)))
