"""Read the API keys, and redact them in messages. No message of this module contains what was read."""

import logging
import re
import threading
from collections import deque
from collections.abc import Mapping
from typing import NoReturn

from braze_exporter.config.document import MASK, shorten_path
from braze_exporter.config.files import read_file

MUST_BE_PATH = "must be a file path such as /run/secrets/braze_api_key, not the key itself"
MUST_BE_VARIABLE = "must be the name of an environment variable such as BRAZE_API_KEY, not the key itself"

# A value that does not match may be the key itself, so messages do not repeat it.
_SHOWN_PATH = re.compile(r"\.{0,2}/")
_SHOWN_VARIABLE = re.compile("[A-Z_][A-Z0-9_]*")

# The start of a line such as `export BRAZE_API_KEY=…`. A key may end with =.
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Za-z_]\w*\s*=\s*[^=\s]", re.ASCII)

# The maximum number of keys that are redacted: the current one, and earlier ones that calls in flight may still use.
_MAX_REDACTED_KEYS = 10

_MAX_KEY_FILE_BYTES = 64 * 1024

_log = logging.getLogger(__name__)


class Secret:
    """A text that every output shows as `***`. Only `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Store `text`."""
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        """Return `***`."""
        return MASK

    def __reduce__(self) -> NoReturn:
        """Raise `TypeError`, because a secret must not be pickled or copied."""
        raise TypeError("a secret cannot be pickled or copied")


class KeyUnusableError(Exception):
    """Raised if a key is missing or invalid. The message states the problem and the fix."""


class ApiKey:
    """The API key of a workspace, which can be replaced while calls are in flight. Thread-safe."""

    def __init__(self, workspace: str, secret: Secret, file: str | None) -> None:
        """Start with `secret`, which was read from `file`, or from the environment if `file` is None."""
        self._workspace = workspace
        self._lock = threading.Lock()
        self._secrets = deque([secret], _MAX_REDACTED_KEYS)
        self._file = file
        self._is_file_usable = True

    def reveal(self) -> str:
        """Return the current key."""
        return self._secrets[0].reveal()

    def redact(self, text: str) -> str:
        """Return `text` with the current key and earlier keys replaced by `***`."""
        with self._lock:
            keys = sorted((secret.reveal() for secret in self._secrets), key=len, reverse=True)
        for key in keys:  # the longest first, because a key may contain another one
            text = text.replace(key, MASK)
        return text

    def replace(self, secret: Secret, file: str | None) -> None:
        """Use `secret`, which was read from `file` or the environment."""
        with self._lock:
            self._file, self._is_file_usable = file, True
            self._change(secret)

    def reread(self) -> bool:
        """Read the key file again, if there is one, and use its key; return whether the key has changed.

        If the file cannot be used, the current key is kept. A warning is logged only for the first of several failures.
        """
        with self._lock:
            file, before = self._file, self._secrets[0]
        if file is None:
            return False
        try:
            secret = read_key_file(file)  # outside the lock, because a disk can be slow
        except KeyUnusableError as error:
            with self._lock:
                was_usable, self._is_file_usable = self._is_file_usable, False
            if was_usable:
                fields = {"workspace": self._workspace, "detail": str(error)}
                _log.warning("API key file could not be read, keeping the previous key", extra={"fields": fields})
            return False
        with self._lock:
            self._is_file_usable = True
            # If a reload has changed the key meanwhile, its key is newer than the one read here.
            has_changed = self._secrets[0] is before and self._change(secret)
        if has_changed:
            _log.info("Loaded a new API key from the key file", extra={"fields": {"workspace": self._workspace}})
        return has_changed

    def _change(self, secret: Secret) -> bool:
        if secret.reveal() == self.reveal():
            return False
        self._secrets.appendleft(secret)
        return True


def read_key_variable(name: str, environ: Mapping[str, str]) -> Secret:
    """Return the key in the variable `name`; raise `KeyUnusableError` if it is missing or invalid."""
    remedy = "; set it to the REST API key" if _SHOWN_VARIABLE.fullmatch(name) else ""
    return _parse_key(environ.get(name, ""), f"{describe_unset_variable(name)}{remedy}")


def read_key_file(path: str) -> Secret:
    """Return the key in the file at `path`; raise `KeyUnusableError` if it is missing or invalid."""
    try:
        text = read_file(path, _MAX_KEY_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        problem = "the file is not UTF-8 text; write the REST API key into it"
    except OSError as error:
        problem = describe_key_file(f"cannot be read ({error.strerror})", path)
    else:
        return _parse_key(text, "the file is empty; write the REST API key into it")
    raise KeyUnusableError(problem)


def describe_key_file(problem: str, path: str) -> str:
    """Return the message for a problem with the key file. It omits a `path` that may be the key itself."""
    return f"{problem}: {shorten_path(path)}" if _SHOWN_PATH.match(path) else f"{problem}; {MUST_BE_PATH}"


def describe_unset_variable(name: str) -> str:
    """Return the message for a variable that is not set. It omits a name that may be the key itself."""
    is_shown = _SHOWN_VARIABLE.fullmatch(name) is not None
    return f"environment variable {name} is not set" if is_shown else f"is not set; {MUST_BE_VARIABLE}"


def _parse_key(text: str, if_empty: str) -> Secret:
    key = text.strip()
    if not key:
        raise KeyUnusableError(if_empty)
    if _ASSIGNMENT.match(key):
        raise KeyUnusableError("contains an assignment such as BRAZE_API_KEY=…; write only the key")
    if key[0] in "\"'":
        raise KeyUnusableError("the key is in quotes, which Braze rejects; remove the quotes")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise KeyUnusableError(
            "the key contains invalid characters; it must be one line of printable ASCII without spaces"
        )
    return Secret(key)
