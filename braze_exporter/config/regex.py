"""`match:` → what it matches: the regular expressions that Prometheus takes, less what could take for ever.

A rule for Prometheus holds the same text, so what one of the two would take otherwise than the other is refused. Python
tries all ways to match, one after the other; with few repeats, and none of a group, there are few.
"""

import re
from dataclasses import dataclass, field

from braze_exporter.config.document import echoed

# What an expression is made of. What RE2 or Python knows beside that is refused: it would be read as something else.
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
_ANY_CASE = "(?i)"
# As RE2 has them, of ASCII alone.
_LETTERS = {"d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_"}
_QUANTIFIERS = {"repeat", "maybe"}
# How many of ? there may be beside so many repeats: the ways to match multiply.
_MOST_MAYBES = (10, 10, 6, 2)
_MOST_REPEATS = len(_MOST_MAYBES) - 1
_LARGEST_COUNT = 1_000
# Longer names are not matched: the time grows with the power of the repeats. Braze's own are far shorter.
LONGEST = 500


class PatternError(ValueError):
    """A text that cannot be used as a pattern: what is wrong with it, and what to write."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression that matches whole names, as Prometheus's `=~` does."""

    text: str
    _compiled: re.Pattern[str] = field(repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """Return whether a name is matched from its first to its last character."""
        return len(name) <= LONGEST and self._compiled.fullmatch(name) is not None


def pattern(text: str) -> Pattern:
    """Return the pattern that `text` is; raise `PatternError` if it is none, or none that both understand."""
    body = text.removeprefix(_ANY_CASE)
    flags = re.DOTALL | (re.IGNORECASE if body != text else 0)
    pieces: list[str] = []
    repeats = maybes = at = 0
    before = ""
    while at < len(body):
        found = _TOKEN.match(body, at)
        if found is None:
            raise PatternError(_trouble(body[at:]))
        token, kind = found[0], str(found.lastgroup)
        if kind in _QUANTIFIERS and before in {"", "open", "or", *_QUANTIFIERS}:
            raise PatternError(
                f"has {token} where nothing stands that it could repeat: write \\{token} for the character"
            )
        if kind == "repeat" and before == "close":
            raise PatternError(
                f"repeats a group by {token}, which can take for ever: use .* or a class such as [a-z_]*"
            )
        repeats, maybes = repeats + (kind == "repeat"), maybes + (kind == "maybe")
        pieces.append(_translated(token, kind))
        before, at = kind, found.end()
    if repeats > _MOST_REPEATS or maybes > _MOST_MAYBES[repeats]:
        least = _MOST_MAYBES[-1]
        most = f"at most {_MOST_REPEATS} of * + {{}}, and beside {_MOST_REPEATS} of them {least} of ?"
        raise PatternError(f"repeats too much, which can take for ever: {most}, or several entries")
    try:
        return Pattern(text, re.compile("".join(pieces), flags))
    except (re.error, OverflowError, RecursionError) as error:
        detail = error.msg if isinstance(error, re.error) else "it is too large"
        raise PatternError(f"is not a regular expression: {detail}") from None


def _translated(token: str, kind: str) -> str:
    """Return a token as Python means what RE2 means by it."""
    match kind:
        case "letters":
            return f"[{'^' if token[1].isupper() else ''}{_LETTERS[token[1].lower()]}]"
        case "class":
            return _class(token)
        case "repeat" if any(int(count) > _LARGEST_COUNT for count in re.findall("[0-9]+", token)):
            raise PatternError(f"repeats more than {_LARGEST_COUNT:,} times by {token}")
    return token


def _class(token: str) -> str:
    """Return a class without what Python may one day read as sets."""
    if re.search(r"--|-\\[dsw]|\\[dsw]-(?!\])", token):
        raise PatternError(
            f"has a - in {echoed(token)} that is neither a range nor a character: write \\- for the character"
        )
    pieces = re.findall(r"\\.|.", token, re.DOTALL)
    return "".join(_LETTERS.get(piece[1], piece) if piece[0] == "\\" else _plain(piece) for piece in pieces)


def _plain(letter: str) -> str:
    return f"\\{letter}" if letter in "&|~" else letter


def _trouble(rest: str) -> str:
    """Return what is wrong with what begins with no token."""
    if rest[0] in "^$":
        return f"has {rest[0]}: leave it out, a name is always matched as a whole"
    if rest.startswith("(?"):
        return "has a group that begins with (?: only (?:…) is known, and (?i) at the start for any case"
    if rest[0] == "[":
        return "has a [ that begins no class such as [a-z_]: write \\[ for the character"
    if rest[0] == "\\":
        return f"has {echoed(rest[:2])}, which is not known: of letters only \\d \\s \\w \\D \\S \\W"
    return f"has {rest[0]} where it means nothing: write \\{rest[0]} for the character"
