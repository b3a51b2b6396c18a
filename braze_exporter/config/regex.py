"""Compile regexes, with the meaning that they have in Prometheus and a matching time linear in the length of the name.

The generated Prometheus rules contain the same regexes, so syntax to which RE2 and Python give different meanings is
refused. Python matches by backtracking: it tries one way through the regex after another, and there may be
exponentially many. Here each character of a name is compared once with the states that all ways have reached, and `re`
tests only single characters.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from braze_exporter.config.document import echo_value, shorten

# The tokens of a regex. Other syntax is refused, because it may have different meanings in RE2 and Python.
_TOKEN = re.compile(
    r"""
      (?P<class>\[\^?(?:\\[dsw]|\\[\x00-/:-@\[-`{-\x7f]|[^\\\[\]])+\])
    | (?P<letters>\\[dDsSwW])
    | (?P<char>\\[\x00-/:-@\[-`{-\x7f]|[^\\\[\](){}*+?|^$])
    | (?P<open>\((?!\?)|\(\?:)
    | (?P<close>\))
    | (?P<or>\|)
    | (?P<repeat>[*+?]|\{[0-9]+(?:,[0-9]*)?\})
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_IGNORE_CASE = "(?i)"
# The characters of \d, \s and \w in RE2, which are ASCII only.
_CLASS_CONTENTS = {"d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_"}
# The least and the largest count of the quantifiers without braces.
_COUNTS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
# The maximum count in braces, as in RE2. For nested braces it limits the product of their counts.
_MAX_COUNT = 1_000
_MAX_DEPTH = 50
# The maximum number of states, which limits the steps for one character.
MAX_STATES = 5_000
# The maximum number of pairs of a state set and a character for which a regex remembers the next state set.
_MAX_REMEMBERED = 500
# Longer names never match. Names in Braze are far shorter.
MAX_NAME_LENGTH = 500


class RegexError(ValueError):
    """Raised if a text cannot be used as a regex. The message states the problem and the fix."""


@dataclass(slots=True, eq=False)
class _State:
    """A state of a nondeterministic finite automaton.

    It is left to its only target with a character that passes `test`, or to all `targets` without a character if `test`
    is None. The accepting state has neither.
    """

    test: Callable[[str], object] | None = None
    targets: list["_State"] = field(default_factory=list)


_StateSet: TypeAlias = frozenset[_State]
_ACCEPTING = _State()


@dataclass(frozen=True, slots=True)
class Regex:
    """A regex that matches whole names, as `=~` in Prometheus does."""

    text: str
    _start: _StateSet = field(repr=False, compare=False)
    _advance: Callable[[_StateSet, str], _StateSet] = field(repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """Return whether the whole `name` matches. A name longer than `MAX_NAME_LENGTH` never matches."""
        states = self._start
        for character in name[: MAX_NAME_LENGTH + 1]:
            states = self._advance(states, character)
        return _ACCEPTING in states and len(name) <= MAX_NAME_LENGTH


def compile_regex(text: str) -> Regex:
    """Return `text` as a `Regex`.

    Raises `RegexError` if it is not a regex, if it may have another meaning in RE2, or if it is too large.
    """
    body = text.removeprefix(_IGNORE_CASE)
    flags = re.DOTALL | (re.IGNORECASE if body != text else 0)
    part = _parse_group(_tokenize(body), flags)
    if part.size > MAX_STATES:
        most = f"at most {MAX_STATES:,} characters after repeated parts are written out"
        raise RegexError(f"is too large; use {most}, or use several entries")
    return Regex(text, _follow([part.build(_ACCEPTING)]), functools.lru_cache(_MAX_REMEMBERED)(_advance))


def _follow(states: Iterable[_State]) -> _StateSet:
    """Return the states that can be reached from `states` without a character, and that need one or accept."""
    pending, reached = list(states), set[_State]()
    while pending:
        state = pending.pop()
        if state not in reached:
            reached.add(state)
            if state.test is None:
                pending += state.targets
    return frozenset(state for state in reached if state.test is not None or state is _ACCEPTING)


def _advance(states: _StateSet, character: str) -> _StateSet:
    """Return the states after `character`."""
    passed = (state for state in states if state.test is not None and state.test(character))
    return _follow(state.targets[0] for state in passed)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a regex.

    `build` builds its states backwards: it gets the state that follows the part, and returns the first one. `size` is
    the maximum number of states, and `max_count` the largest product of the counts of nested braces.
    """

    build: Callable[[_State], _State]
    size: int = 1
    max_count: int = 1


def _tokenize(body: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each token."""
    at = 0
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None:
            raise RegexError(_describe_error(body[at:]))
        yield str(match.lastgroup), match[0]
        at = match.end()


def _parse_group(tokens: Iterator[tuple[str, str]], flags: int, depth: int = 0) -> _Part:
    """Return the part up to the end of a group, or of the regex if `depth` is 0."""
    alternatives: list[list[_Part]] = [[]]
    previous = ""
    for kind, token in tokens:
        parts = alternatives[-1]
        match kind:
            case "open":
                if depth >= _MAX_DEPTH:
                    raise RegexError(f"nests more than {_MAX_DEPTH} groups; use fewer")
                parts.append(_parse_group(tokens, flags, depth + 1))
            case "close":
                if depth == 0:
                    raise RegexError("is not a valid regex: ) without (")
                return _join_alternatives(alternatives)
            case "or":
                alternatives.append([])
            case "repeat":
                if not parts or previous == "repeat":
                    raise RegexError(f"{token} has nothing to repeat; write \\{token} for the literal character")
                parts[-1] = _repeat(parts[-1], token)
            case _:
                parts.append(_character(kind, token, flags))
        previous = kind
    if depth:
        raise RegexError("is not a valid regex: ( without )")
    return _join_alternatives(alternatives)


def _character(kind: str, token: str, flags: int) -> _Part:
    try:
        test = re.compile(_translate(token, kind), flags).fullmatch
    except re.error as error:
        raise RegexError(f"is not a valid regex: {error.msg}") from None
    return _Part(lambda after: _State(test, [after]))


def _join_alternatives(alternatives: Sequence[Sequence[_Part]]) -> _Part:
    def build_sequence(parts: Sequence[_Part], after: _State) -> _State:
        for part in reversed(parts):
            after = part.build(after)
        return after

    parts = [part for sequence in alternatives for part in sequence]
    return _Part(
        lambda after: _State(targets=[build_sequence(sequence, after) for sequence in alternatives]),
        1 + sum(part.size for part in parts),
        max((part.max_count for part in parts), default=1),
    )


def _repeat(part: _Part, token: str) -> _Part:
    """Return `part`, repeated as often as the quantifier `token` requires."""
    at_least, at_most = _parse_counts(token)
    copies = max(1, at_least) if at_most is None else at_most
    max_count = part.max_count * max(1, copies)
    if max_count > _MAX_COUNT:
        raise RegexError(f"repeats more than {_MAX_COUNT:,} times with {token}")

    def build(after: _State) -> _State:
        end = after
        if at_most is None:
            after = _State(targets=[end])
            after.targets.append(part.build(after))
        else:
            for _ in range(at_most - at_least):
                after = _State(targets=[part.build(after), end])
        for _ in range(at_least):
            after = part.build(after)
        return after

    return _Part(build, (copies + 1) * (part.size + 1), max_count)


def _parse_counts(token: str) -> tuple[int, int | None]:
    """Return the least and the largest count of a quantifier; None if there is no largest one."""
    if token in _COUNTS:
        return _COUNTS[token]
    least, comma, most = token[1:-1].partition(",")
    if any(len(count) > len(str(_MAX_COUNT)) or int(count or 0) > _MAX_COUNT for count in (least, most)):
        raise RegexError(f"repeats more than {_MAX_COUNT:,} times with {shorten(token, 200)}")
    at_least, at_most = int(least), int(most) if most else None if comma else int(least)
    if at_most is not None and at_most < at_least:
        raise RegexError(f"is not a valid regex: {token} has a minimum that exceeds its maximum")
    return at_least, at_most


def _translate(token: str, kind: str) -> str:
    """Return a token in Python's syntax with the meaning that it has in RE2."""
    if kind == "letters":
        return f"[{'^' if token[1].isupper() else ''}{_CLASS_CONTENTS[token[1].lower()]}]"
    return _translate_class(token) if kind == "class" else token


def _translate_class(token: str) -> str:
    """Return a character class in Python's syntax. Characters that later Pythons may treat as operators are escaped."""
    if re.search(r"--|-\\[dsw]|\\[dsw]-(?!\])", token):
        raise RegexError(f"ambiguous - in {echo_value(token)}; write \\- for the literal character")
    chunks = re.findall(r"\\.|.", token, re.DOTALL)
    return "".join(_CLASS_CONTENTS.get(chunk[1], chunk) if chunk[0] == "\\" else _escape(chunk) for chunk in chunks)


def _escape(letter: str) -> str:
    return f"\\{letter}" if letter in "&|~" else letter


def _describe_error(remainder: str) -> str:
    """Return the error message for text that does not start with a token."""
    if remainder[0] in "^$":
        return f"{remainder[0]} is not allowed, because a regex always matches the whole name; remove it"
    if remainder.startswith("(?"):
        return "unsupported group that starts with (?; use (?:…), or (?i) at the start to ignore case"
    if remainder[0] == "[":
        return "[ does not start a valid class such as [a-z_]; write \\[ for the literal character"
    if remainder[0] == "\\":
        return f"unsupported escape {echo_value(remainder[:2])}; use \\d \\s \\w \\D \\S \\W or escape punctuation"
    return f"unexpected {remainder[0]}; write \\{remainder[0]} for the literal character"
