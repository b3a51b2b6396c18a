"""Compile regexes, with the meaning that they have in Prometheus and a matching time linear in the length of the name.

The generated Prometheus rules contain the same regexes, so syntax to which RE2 and Python give different meanings is
refused. Python matches by backtracking, which may take exponential time. So `re` tests only single characters.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from braze_exporter.config.automaton import ACCEPTING, MAX_STATES, Automaton, TooManyStatesError
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
# Longer names never match. Names in Braze are far shorter.
MAX_NAME_LENGTH = 500


class RegexError(ValueError):
    """Raised if a text cannot be used as a regex. The message states the problem and the fix."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A regex that matches whole names, as `=~` in Prometheus does."""

    text: str
    _automaton: Automaton = field(repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """Return whether the whole `name` matches. A name longer than `MAX_NAME_LENGTH` never matches."""
        return len(name) <= MAX_NAME_LENGTH and self._automaton.matches(name)


def compile_regex(text: str) -> Regex:
    """Return `text` as a `Regex`.

    Raises `RegexError` if it is not a regex, if it may have another meaning in RE2, or if it is too large.
    """
    parser = _Parser(text)
    try:
        parser.automaton.start_at(parser.parse().add(ACCEPTING))
    except TooManyStatesError:
        most = f"at most {MAX_STATES:,} characters after repeated parts are written out"
        raise RegexError(f"is too large; use {most}, or use several entries") from None
    return Regex(text, parser.automaton)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a regex.

    `add` adds its states to the automaton. It gets the state that follows the part, and returns the first state of the
    part. `max_count` is the largest product of the counts of nested braces.
    """

    add: Callable[[int], int]
    max_count: int = 1


class _Parser:
    """Parses one regex."""

    def __init__(self, text: str) -> None:
        self._body = text.removeprefix(_IGNORE_CASE)
        self._flags = re.DOTALL | (re.IGNORECASE if self._body != text else 0)
        self.automaton = Automaton()
        self._groups: list[list[list[_Part]]] = [[[]]]  # the open groups, each with its alternatives

    def parse(self) -> _Part:
        """Return the whole regex. Raises `RegexError`."""
        at, can_repeat = 0, False
        while at < len(self._body):
            match = _TOKEN.match(self._body, at)
            if match is None:
                raise RegexError(_describe_error(self._body[at:]))
            token, kind, at = match[0], str(match.lastgroup), match.end()
            if kind == "repeat" and not can_repeat:
                raise RegexError(f"{token} has nothing to repeat; write \\{token} for the literal character")
            self._add(token, kind)
            can_repeat = kind not in {"open", "or", "repeat"}
        if len(self._groups) > 1:
            raise RegexError("is not a valid regex: ( without )")
        return self._join_alternatives(self._groups[0])

    def _add(self, token: str, kind: str) -> None:
        """Add a token to the innermost open group."""
        group = self._groups[-1]
        match kind:
            case "open":
                if len(self._groups) > _MAX_DEPTH:
                    raise RegexError(f"nests more than {_MAX_DEPTH} groups; use fewer")
                self._groups.append([[]])
            case "or":
                group.append([])
            case "close":
                if len(self._groups) == 1:
                    raise RegexError("is not a valid regex: ) without (")
                self._groups.pop()
                self._groups[-1][-1].append(self._join_alternatives(group))
            case "repeat":
                group[-1][-1] = self._repeat(group[-1][-1], token)
            case _:
                group[-1].append(self._character(token, kind))

    def _character(self, token: str, kind: str) -> _Part:
        try:
            test = re.compile(_translate(token, kind), self._flags).fullmatch
        except re.error as error:
            raise RegexError(f"is not a valid regex: {error.msg}") from None
        return _Part(lambda after: self.automaton.add_character(test, after))

    def _join_sequence(self, parts: Sequence[_Part]) -> _Part:
        def add(after: int) -> int:
            for part in reversed(parts):
                after = part.add(after)
            return after

        return _Part(add, max((part.max_count for part in parts), default=1))

    def _join_alternatives(self, alternatives: Sequence[Sequence[_Part]]) -> _Part:
        parts = [self._join_sequence(alternative) for alternative in alternatives]
        if len(parts) == 1:
            return parts[0]
        return _Part(
            lambda after: self.automaton.add_branch([part.add(after) for part in parts]),
            max(part.max_count for part in parts),
        )

    def _repeat(self, part: _Part, token: str) -> _Part:
        """Return `part`, repeated as often as the quantifier `token` requires."""
        at_least, at_most = _parse_counts(token)
        max_count = part.max_count * max(1, at_least if at_most is None else at_most)
        if max_count > _MAX_COUNT:
            raise RegexError(f"repeats more than {_MAX_COUNT:,} times with {token}")

        def add(after: int) -> int:
            end = after
            if at_most is None:
                after = self.automaton.add_loop(part.add, after)
            else:
                for _ in range(at_most - at_least):
                    after = self.automaton.add_branch((part.add(after), end))
            for _ in range(at_least):
                after = part.add(after)
            return after

        return _Part(add, max_count)


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
