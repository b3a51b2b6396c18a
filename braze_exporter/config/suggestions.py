"""The names of a list that are most like one that is not in it: what may have been meant. Pure."""

import difflib
import heapq
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

_MAX_SUGGESTIONS = 3
# Names of a list are compared in full with so many that have the most pairs of letters in common.
_MAX_COMPARED = 50
# Less alike than that is no typing error, as `difflib` measures it: what two names share, of the letters of both.
_MIN_SIMILARITY = 0.6


def find_nearest(words: Sequence[str], names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """Return for each that is `words` at most three of `names`, the nearest first.

    Lists may have tens of thousands of names, so only those that have a fitting length and much in common are compared.
    """
    wanted = {word: _pairs(word) for word in words}
    candidates: dict[str, list[tuple[int, str]]] = {word: [] for word in words}
    for name in names:
        fitting = [word for word in wanted if _is_length_similar(word, name)]
        pairs = _pairs(name) if fitting else frozenset()
        for word in fitting:
            candidates[word].append((len(pairs & wanted[word]), name))
    return {word: tuple(_closest(word, most)) for word, most in candidates.items()}


def _closest(word: str, result: Sequence[tuple[int, str]]) -> Iterator[str]:
    best = sorted(name for _, name in heapq.nlargest(_MAX_COMPARED, result))
    yield from difflib.get_close_matches(word, best, n=_MAX_SUGGESTIONS, cutoff=_MIN_SIMILARITY)


def _is_length_similar(word: str, other: str) -> bool:
    """Return whether the lengths leave that possible."""
    return 2 * min(len(word), len(other)) >= _MIN_SIMILARITY * (len(word) + len(other))


def _pairs(name: str) -> frozenset[str]:
    """Return the pairs of letters in a name, with its ends, in lower case."""
    text = f" {name.lower()} "
    return frozenset(map("".join, itertools.pairwise(text)))
