"""Compile regexes, with the meaning that they have in Prometheus and a limited matching time.

The generated Prometheus rules contain the same regexes, so syntax to which RE2 and Python give different meanings is
refused. Python matches by backtracking. The number of repeats is limited and groups cannot be repeated, so that it
makes few attempts.
"""

import re
from dataclasses import dataclass, field

from braze_exporter.config.document import echo_value

# The tokens of a regex. Other syntax is refused, because it may have different meanings in RE2 and Python.
_TOKEN = re.compile(
    r"""
      (?P<class>\[\^?(?:\\[dsw]|\\[\x00-/:-@\[-`{-\x7f]|[^\\\[\]])+\])
    | (?P<letters>\\[dDsSwW])
    | (?P<char>\\[\x00-/:-@\[-`{-\x7f]|[^\\\[\](){}*+?|^$])
    | (?P<open>\((?!\?)|\(\?:)
    | (?P<close>\))
    | (?P<or>\|)
    | (?P<repeat>[*+]|\{[0-9]+(?:,[0-9]*)?\})
    | (?P<maybe>\?)
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_IGNORE_CASE = "(?i)"
# The characters of \d, \s and \w in RE2, which are ASCII only.
_CLASS_CONTENTS = {"d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_"}
_QUANTIFIERS = {"repeat", "maybe"}
# The maximum number of ?, indexed by the number of repeats. Each ? and each repeat multiplies the number of attempts.
_MAX_OPTIONALS = (10, 10, 6, 2)
_MAX_REPEATS = len(_MAX_OPTIONALS) - 1
# The maximum count in braces, as in RE2.
_MAX_COUNT = 1_000
# Longer names never match, because matching time grows with a power of the length. Names in Braze are far shorter.
MAX_NAME_LENGTH = 500


class RegexError(ValueError):
    """Raised if a text cannot be used as a regex. The message states the problem and the fix."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A regex that matches whole names, as `=~` in Prometheus does."""

    text: str
    _compiled: re.Pattern[str] = field(repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """Return whether the whole `name` matches. A name longer than `MAX_NAME_LENGTH` never matches."""
        return len(name) <= MAX_NAME_LENGTH and self._compiled.fullmatch(name) is not None


def compile_regex(text: str) -> Regex:
    """Return `text` as a `Regex`.

    Raises `RegexError` if it is not a regex, if it may have another meaning in RE2, or if matching could take too long.
    """
    body = text.removeprefix(_IGNORE_CASE)
    flags = re.DOTALL | (re.IGNORECASE if body != text else 0)
    chunks: list[str] = []
    repeats = optionals = at = 0
    previous_kind = ""
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None:
            raise RegexError(_describe_error(body[at:]))
        token, kind = match[0], str(match.lastgroup)
        if kind in _QUANTIFIERS and previous_kind in {"", "open", "or", *_QUANTIFIERS}:
            raise RegexError(f"{token} has nothing to repeat; write \\{token} for the literal character")
        if kind == "repeat" and previous_kind == "close":
            raise RegexError(f"repeats a group with {token}, which can be slow; use .* or a class such as [a-z_]*")
        repeats, optionals = repeats + (kind == "repeat"), optionals + (kind == "maybe")
        chunks.append(_translate(token, kind))
        previous_kind, at = kind, match.end()
    if repeats > _MAX_REPEATS or optionals > _MAX_OPTIONALS[repeats]:
        least = _MAX_OPTIONALS[-1]
        most = f"at most {_MAX_REPEATS} of * + {{}}, and with {_MAX_REPEATS} of them at most {least} of ?"
        raise RegexError(f"repeats too often, which can be slow; use {most}, or use several entries")
    try:
        return Regex(text, re.compile("".join(chunks), flags))
    except (re.error, OverflowError, RecursionError) as error:
        detail = error.msg if isinstance(error, re.error) else "too large"
        raise RegexError(f"is not a valid regex: {detail}") from None


def _translate(token: str, kind: str) -> str:
    """Return a token in Python's syntax with the meaning that it has in RE2."""
    match kind:
        case "letters":
            return f"[{'^' if token[1].isupper() else ''}{_CLASS_CONTENTS[token[1].lower()]}]"
        case "class":
            return _translate_class(token)
        case "repeat" if any(int(count) > _MAX_COUNT for count in re.findall("[0-9]+", token)):
            raise RegexError(f"repeats more than {_MAX_COUNT:,} times with {token}")
    return token


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
