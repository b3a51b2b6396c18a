"""Text → a scalar of YAML on one line, which reads as the same text again."""

import re

# What every reader of YAML takes for text: words, and one mark between two of them; but not these words.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:[ .-][A-Za-z0-9_]+)*", re.ASCII)
# As do all of what has the form of Braze's ids.
_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
_RESERVED_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
_ESCAPES = {"\\": r"\\", '"': r"\""}
_MAX_SHORT_ESCAPE = 0xFFFF


def quote_scalar(text: str) -> str:
    """Return `text` as it is where that is plain, and else in quotes, in which every character can be printed."""
    if _ID.fullmatch(text) or (_PLAIN.fullmatch(text) and text.lower() not in _RESERVED_WORDS):
        return text
    return '"' + "".join(_ESCAPES.get(letter) or escape_letter(letter) for letter in text) + '"'


def escape_letter(letter: str) -> str:
    """Return a letter as it is, or escaped, as YAML and PromQL both take it, if it cannot be printed."""
    code = ord(letter)
    if letter.isprintable():
        return letter
    return rf"\u{code:04x}" if code <= _MAX_SHORT_ESCAPE else rf"\U{code:08x}"
