"""Test that `find_nearest` finds similar names, also in long lists, without comparing all names in full."""

import difflib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braze_exporter.config.suggestions import find_nearest


def test_nearest_names_come_first() -> None:
    """At most three names are returned, most similar first, and dissimilar names are omitted."""
    names = ["purchase", "Purchase", "purchases", "purchased_item", "signup", "p"]
    nearest = find_nearest(["purchse", "xyz"], names)
    assert nearest == {"purchse": ("purchase", "purchases", "Purchase"), "xyz": ()}


NAMES = st.text("abcA_", min_size=1, max_size=8)


@given(NAMES, st.sets(NAMES, max_size=30))
def test_short_list_is_compared_in_full(requested: str, names: set[str]) -> None:
    """For a short list the result equals that of `difflib.get_close_matches`."""
    assert list(find_nearest([requested], names)[requested]) == difflib.get_close_matches(requested, sorted(names))


def test_long_list_is_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a list of 20,000 names, a name with a missing letter is found after comparing only 50 in full."""
    random = Random(1)  # noqa: S311 - generates names, no secrets
    words = ["cart", "order", "view", "started", "done", "app", "push", "opened", "screen", "item"]
    names = {f"{'_'.join(random.choices(words, k=3))}_{number}" for number in range(20_000)}
    expected = sorted(name for name in names if len(name) > 20)[:20]
    compared_counts = []
    real = difflib.get_close_matches

    def count_and_compare(word: str, possibilities: list[str], n: int, cutoff: float) -> list[str]:
        compared_counts.append(len(possibilities))
        return real(word, possibilities, n, cutoff)

    monkeypatch.setattr(difflib, "get_close_matches", count_and_compare)
    nearest = find_nearest([name[:5] + name[6:] for name in expected], names)
    assert [name in near for name, near in zip(expected, nearest.values(), strict=True)] == [True] * 20
    assert compared_counts == [50] * 20
