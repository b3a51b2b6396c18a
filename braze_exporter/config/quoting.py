"""Write text in quotes on one line, so that every parser of YAML, PromQL and logfmt reads the same text."""

import re

from braze_exporter.braze.names import BRAZE_ID

# Words separated by a space, dot, slash or dash. Every YAML parser reads them as text, except `_RESERVED_WORDS`, and
# paths, URLs and durations too.
_WORDS = "[A-Za-z][A-Za-z0-9_]*(?:[ ./-][A-Za-z0-9_]+)*"
_PLAIN = re.compile(rf"(?:https:/)?/?{_WORDS}|(?:[0-9]+(?:ms|[ywdhms]))+", re.ASCII)
_RESERVED_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_MAX_SHORT_ESCAPE = 0xFFFF


def quote(text: str) -> str:
    """Return `text` in double quotes, with only printable characters. Others are escaped."""
    return f'"{"".join(map(_escape, text))}"'


def quote_scalar(text: str) -> str:
    """Return `text` unchanged if that is a valid scalar in YAML, otherwise in quotes."""
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _RESERVED_WORDS
    # Every YAML parser reads Braze's ids as text too.
    return text if is_plain or BRAZE_ID.fullmatch(text) else quote(text)


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter in _ESCAPES or letter.isprintable():
        return _ESCAPES.get(letter, letter)
    return rf"\u{code:04x}" if code <= _MAX_SHORT_ESCAPE else rf"\U{code:08x}"
