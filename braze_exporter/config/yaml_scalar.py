"""Write text as a one-line YAML scalar, which every YAML parser reads as the same text."""

import re

# Words separated by a space, dot, slash or dash. Every YAML parser reads them as text, except `_RESERVED_WORDS`, and
# paths, URLs and durations too.
_WORDS = "[A-Za-z][A-Za-z0-9_]*(?:[ ./-][A-Za-z0-9_]+)*"
_PLAIN = re.compile(rf"(?:https:/)?/?{_WORDS}|(?:[0-9]+(?:ms|[ywdhms]))+", re.ASCII)
# The form of Braze's ids, which every YAML parser reads as text too.
_ID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
_RESERVED_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
_ESCAPES = {"\\": r"\\", '"': r"\""}
_MAX_SHORT_ESCAPE = 0xFFFF


def quote_scalar(text: str) -> str:
    """Return `text` unchanged if that is a valid scalar, otherwise in double quotes and escaped."""
    if _ID.fullmatch(text) or (_PLAIN.fullmatch(text) and text.lower() not in _RESERVED_WORDS):
        return text
    return '"' + "".join(_ESCAPES.get(letter) or escape_letter(letter) for letter in text) + '"'


def escape_letter(letter: str) -> str:
    """Return `letter` or, if it cannot be printed, an escape that YAML and PromQL both accept."""
    code = ord(letter)
    if letter.isprintable():
        return letter
    return rf"\u{code:04x}" if code <= _MAX_SHORT_ESCAPE else rf"\U{code:08x}"
