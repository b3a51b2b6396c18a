"""Find the names in a list that are most similar to a name that is not in it, for suggestions. No I/O."""

import difflib
import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from braze_exporter.config.document import echo_value

_MAX_SUGGESTIONS = 3
# The maximum number of names that are compared in full: those with the most letter pairs in common with the word.
_MAX_COMPARED = 50
# Less similar names are probably not misspelled. The similarity of `difflib` is the share of letters in common.
_MIN_SIMILARITY = 0.6


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return ` (did you mean "…"?)` with the known word nearest to `word`, or an empty text if none is similar."""
    return format_suggestions(map(echo_value, find_nearest([word], known)[word][:1]))


def format_suggestions(names: Iterable[str]) -> str:
    """Return ` (did you mean "…", "…"?)`, or an empty text without names."""
    quoted = ", ".join(f'"{name}"' for name in names)
    return f" (did you mean {quoted}?)" if quoted else ""


def find_nearest(unknown_names: Sequence[str], known_names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """Return, for each of `unknown_names`, at most three of `known_names`, the most similar first.

    A list may have tens of thousands of names. Only names of similar length that share many letter pairs are compared
    in full.
    """
    pairs_by_word = {word: _letter_pairs(word) for word in unknown_names}
    candidates: dict[str, list[tuple[int, str]]] = {word: [] for word in unknown_names}
    for name in known_names:
        fitting = [word for word in pairs_by_word if _is_length_similar(word, name)]
        pairs = _letter_pairs(name) if fitting else frozenset()
        for word in fitting:
            candidates[word].append((len(pairs & pairs_by_word[word]), name))
    return {word: tuple(_closest_names(word, scored_names)) for word, scored_names in candidates.items()}


def _closest_names(word: str, scored_names: Sequence[tuple[int, str]]) -> Iterator[str]:
    best = sorted(name for _, name in heapq.nlargest(_MAX_COMPARED, scored_names))
    yield from difflib.get_close_matches(word, best, n=_MAX_SUGGESTIONS, cutoff=_MIN_SIMILARITY)


def _is_length_similar(word: str, other: str) -> bool:
    """Return whether words of these lengths can have the similarity `_MIN_SIMILARITY`."""
    return 2 * min(len(word), len(other)) >= _MIN_SIMILARITY * (len(word) + len(other))


def _letter_pairs(name: str) -> frozenset[str]:
    """Return the pairs of adjacent letters in `name`, in lower case, with a space at its start and end."""
    text = f" {name.lower()} "
    return frozenset(map("".join, itertools.pairwise(text)))
