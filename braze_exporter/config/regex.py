"""`match:` → what it matches: the regular expressions that Prometheus takes, less what could take for ever.

A rule for Prometheus holds the same text, so what one of the two would take otherwise than the other is refused. Python
tries all ways to match, one after the other; with few repeats, and none of a group, there are few.
"""

import re
from dataclasses import dataclass, field

from braze_exporter.config.document import echo_value

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
_IGNORE_CASE = "(?i)"
# As RE2 has them, of ASCII alone.
_CLASS_CONTENTS = {"d": "0-9", "s": r"\t\n\f\r ", "w": "0-9A-Za-z_"}
_QUANTIFIERS = {"repeat", "maybe"}
# How many of ? there may be beside so many repeats: the ways to match multiply.
_MAX_OPTIONALS = (10, 10, 6, 2)
_MAX_REPEATS = len(_MAX_OPTIONALS) - 1
_MAX_COUNT = 1_000
# Longer names are not matched: the time grows with the power of the repeats. Braze's own are far shorter.
MAX_NAME_LENGTH = 500


class RegexError(ValueError):
    """A text that cannot be used as a pattern: what is wrong with it, and what to write."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression that matches whole names, as Prometheus's `=~` does."""

    text: str
    _compiled: re.Pattern[str] = field(repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """Return whether a name is matched from its first to its last character."""
        return len(name) <= MAX_NAME_LENGTH and self._compiled.fullmatch(name) is not None


def compile_regex(text: str) -> Regex:
    """Return the pattern that `text` is; raise `RegexError` if it is none, or none that both understand."""
    body = text.removeprefix(_IGNORE_CASE)
    flags = re.DOTALL | (re.IGNORECASE if body != text else 0)
    chunks: list[str] = []
    repeats = optionals = at = 0
    before = ""
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None:
            raise RegexError(_describe_error(body[at:]))
        token, kind = match[0], str(match.lastgroup)
        if kind in _QUANTIFIERS and before in {"", "open", "or", *_QUANTIFIERS}:
            raise RegexError(
                f"has {token} where nothing stands that it could repeat: write \\{token} for the character"
            )
        if kind == "repeat" and before == "close":
            raise RegexError(f"repeats a group by {token}, which can take for ever: use .* or a class such as [a-z_]*")
        repeats, optionals = repeats + (kind == "repeat"), optionals + (kind == "maybe")
        chunks.append(_translate(token, kind))
        before, at = kind, match.end()
    if repeats > _MAX_REPEATS or optionals > _MAX_OPTIONALS[repeats]:
        least = _MAX_OPTIONALS[-1]
        most = f"at most {_MAX_REPEATS} of * + {{}}, and beside {_MAX_REPEATS} of them {least} of ?"
        raise RegexError(f"repeats too much, which can take for ever: {most}, or several entries")
    try:
        return Regex(text, re.compile("".join(chunks), flags))
    except (re.error, OverflowError, RecursionError) as error:
        detail = error.msg if isinstance(error, re.error) else "it is too large"
        raise RegexError(f"is not a regular expression: {detail}") from None


def _translate(token: str, kind: str) -> str:
    """Return a token as Python means what RE2 means by it."""
    match kind:
        case "letters":
            return f"[{'^' if token[1].isupper() else ''}{_CLASS_CONTENTS[token[1].lower()]}]"
        case "class":
            return _translate_class(token)
        case "repeat" if any(int(count) > _MAX_COUNT for count in re.findall("[0-9]+", token)):
            raise RegexError(f"repeats more than {_MAX_COUNT:,} times by {token}")
    return token


def _translate_class(token: str) -> str:
    """Return a class without what Python may one day read as sets."""
    if re.search(r"--|-\\[dsw]|\\[dsw]-(?!\])", token):
        raise RegexError(
            f"has a - in {echo_value(token)} that is neither a range nor a character: write \\- for the character"
        )
    chunks = re.findall(r"\\.|.", token, re.DOTALL)
    return "".join(_CLASS_CONTENTS.get(chunk[1], chunk) if chunk[0] == "\\" else _escape(chunk) for chunk in chunks)


def _escape(letter: str) -> str:
    return f"\\{letter}" if letter in "&|~" else letter


def _describe_error(pause: str) -> str:
    """Return what is wrong with what begins with no token."""
    if pause[0] in "^$":
        return f"has {pause[0]}: leave it out, a name is always matched as a whole"
    if pause.startswith("(?"):
        return "has a group that begins with (?: only (?:…) is known, and (?i) at the start for any case"
    if pause[0] == "[":
        return "has a [ that begins no class such as [a-z_]: write \\[ for the character"
    if pause[0] == "\\":
        return f"has {echo_value(pause[:2])}, which is not known: of letters only \\d \\s \\w \\D \\S \\W"
    return f"has {pause[0]} where it means nothing: write \\{pause[0]} for the character"
