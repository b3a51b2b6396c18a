"""Matches texts by a nondeterministic finite automaton, in time proportional to the length of the text.

A backtracking matcher tries one way through the automaton after another, and there may be exponentially many. Here each
character of the text is compared once with the states that all ways have reached.
"""

from collections.abc import Callable, Iterable, Sequence

# The maximum number of states. It limits the steps for one character.
MAX_STATES = 10_000
# The maximum number of entries in the cache. A state set has one for each of its states and of its transitions.
_MAX_CACHE_ENTRIES = 20_000
# The state in which the whole text has matched.
ACCEPTING = 0


class TooManyStatesError(Exception):
    """Raised if an automaton would need more than `MAX_STATES` states."""


class _StateSet:
    """The states that the automaton may be in after some text, and the known sets after one more character."""

    __slots__ = ("is_accepting", "next", "states")

    def __init__(self, states: frozenset[int]) -> None:
        self.states = states
        self.is_accepting = ACCEPTING in states
        self.next: dict[str, _StateSet] = {}


class Automaton:
    """A nondeterministic finite automaton. It is built from its accepting state backwards.

    Matching is thread-safe: two threads may compute the same entry of the cache, with equal results.
    """

    def __init__(self) -> None:
        """Start with the accepting state only."""
        self._tests: list[Callable[[str], object] | None] = [None]
        self._targets: list[Sequence[int]] = [()]

    def add_character(self, test: Callable[[str], object], target: int) -> int:
        """Add a state that a character leaves to `target` if `test` returns a true value, and return the state."""
        return self._add(test, (target,))

    def add_branch(self, targets: Sequence[int]) -> int:
        """Add a state that is left to all `targets` without a character, and return the state."""
        return self._add(None, targets)

    def add_loop(self, add_body: Callable[[int], int], target: int) -> int:
        """Add a state that is left to `target` and to a body that returns to the state, and return the state.

        `add_body` adds the states of the body. It gets the state to which the body returns, and returns its first one.
        """
        loop = self._add(None, ())
        self._targets[loop] = (add_body(loop), target)
        return loop

    def _add(self, test: Callable[[str], object] | None, targets: Sequence[int]) -> int:
        if len(self._tests) >= MAX_STATES:
            raise TooManyStatesError
        self._tests.append(test)
        self._targets.append(targets)
        return len(self._tests) - 1

    def start_at(self, state: int) -> None:
        """Match from `state` on. Call this once, after all states have been added."""
        self._start_states = self._follow_branches((state,))
        self._clear_cache()

    def matches(self, text: str) -> bool:
        """Return whether the automaton can accept the whole `text`."""
        state_set = self._start
        for character in text:
            following = state_set.next.get(character)
            state_set = following if following is not None else self._advance(state_set, character)
        return state_set.is_accepting

    def _advance(self, state_set: _StateSet, character: str) -> _StateSet:
        """Return the state set after `character`, and store it in the cache."""
        passed: list[int] = []
        for state in state_set.states:
            test = self._tests[state]
            if test is not None and test(character):
                passed += self._targets[state]
        states = self._follow_branches(passed)
        if self._cache_entries >= _MAX_CACHE_ENTRIES:
            self._clear_cache()
        following = self._cache.get(states)
        if following is None:
            following = self._cache[states] = _StateSet(states)
            self._cache_entries += len(states)
        state_set.next[character] = following
        self._cache_entries += 1
        return following

    def _clear_cache(self) -> None:
        """Drop the cache. A match in another thread continues with the sets that it holds."""
        self._start = _StateSet(self._start_states)
        self._cache = {self._start_states: self._start}
        self._cache_entries = len(self._start_states)

    def _follow_branches(self, states: Iterable[int]) -> frozenset[int]:
        """Return the states that can be reached from `states` without a character, except branches."""
        pending, reached = list(states), set[int]()
        while pending:
            state = pending.pop()
            if state not in reached:
                reached.add(state)
                if self._tests[state] is None:
                    pending += self._targets[state]
        return frozenset(state for state in reached if state == ACCEPTING or self._tests[state] is not None)
