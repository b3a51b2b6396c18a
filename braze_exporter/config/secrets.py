"""The API keys: where they come from, and what keeps them out of every message. No text here holds what was read."""

import logging
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from braze_exporter.config.document import HIDDEN, shorten

MUST_BE_PATH = "must be a path, not the key itself, such as /run/secrets/braze_api_key"
MUST_BE_VARIABLE = "must be the name of an environment variable, such as BRAZE_API_KEY, not the key itself"

# What is neither may be the key itself, put in the wrong place.
_SHOWN_PATH = re.compile(r"\.{0,2}/")
_SHOWN_VARIABLE = re.compile("[A-Z_][A-Z0-9_]*")

# So many keys are kept out of error texts: the current one, and those that calls under way were sent with.
_MAX_REDACTED_KEYS = 10

_MAX_KEY_FILE_BYTES = 64 * 1024

_log = logging.getLogger(__name__)


class Secret:
    """A text that prints as `***`, whatever prints it. `reveal` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Keep `text`."""
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def redact(self, text: str) -> str:
        """Return `text` with `***` in place of the secret."""
        return text.replace(self._text, "***")

    def __repr__(self) -> str:
        """Return `***`."""
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a secret cannot be pickled or copied")


class KeyUnusableError(Exception):
    """There is no key, or none that Braze would take; the message says what to do."""


class ApiKey:
    """The API key of a workspace, which can be replaced while calls are made. Thread-safe."""

    def __init__(self, workspace: str, secret: Secret, file: str | None) -> None:
        """Begin with `secret`, which was read from `file`, or from the environment if that is None."""
        self._workspace = workspace
        self._lock = threading.Lock()
        self._secrets = deque([secret], _MAX_REDACTED_KEYS)
        self._file = file
        self._is_file_good = True

    def reveal(self) -> str:
        """Return the current key."""
        return self._secrets[0].reveal()

    def redact(self, text: str) -> str:
        """Return `text` with `***` in place of the current key and of those before it."""
        with self._lock:
            secrets = sorted(self._secrets, key=lambda secret: -len(secret.reveal()))  # a key may be part of another
        for secret in secrets:
            text = secret.redact(text)
        return text

    def replace(self, secret: Secret, file: str | None) -> bool:
        """Use `secret` from `file`, as at the start; return whether it is another key than before."""
        with self._lock:
            self._file, self._is_file_good = file, True
            return self._change(secret)

    def read_again(self) -> bool:
        """Read the file again, if there is one; return whether it has another key, which is used from now on.

        A file that cannot be used leaves the key as it is, and is logged once, until it can be used again.
        """
        with self._lock:
            file, before = self._file, self._secrets[0]
        if file is None:
            return False
        try:
            secret = read_key_file(file)  # without the lock: a disk can be slow
        except KeyUnusableError as error:
            with self._lock:
                was_good, self._is_file_good = self._is_file_good, False
            if was_good:
                fields = {"workspace": self._workspace, "detail": str(error)}
                _log.warning("API key file cannot be used: the key before is kept", extra={"fields": fields})
            return False
        with self._lock:
            self._is_file_good = True
            # A reload in the meantime is newer than what was read.
            has_changed = self._secrets[0] is before and self._change(secret)
        if has_changed:
            _log.info("API key file read again: the key has changed", extra={"fields": {"workspace": self._workspace}})
        return has_changed

    def _change(self, secret: Secret) -> bool:
        if secret.reveal() == self.reveal():
            return False
        self._secrets.appendleft(secret)
        return True


def read_key_variable(name: str, environ: Mapping[str, str]) -> Secret:
    """Return the key that the variable `name` holds; raise `KeyUnusableError` if there is none."""
    remedy = ": set it to the REST API key" if _SHOWN_VARIABLE.fullmatch(name) else ""
    return _check_key(environ.get(name, ""), f"{unset_variable(name)}{remedy}")


def read_key_file(path: str) -> Secret:
    """Return the key that the file at `path` holds; raise `KeyUnusableError` if there is none."""
    try:
        # A FIFO without a writer would wait forever.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise KeyUnusableError(f"is not a regular file: {shown_path(path)}")
            text = file.read(_MAX_KEY_FILE_BYTES).decode()
    except UnicodeDecodeError:
        problem = "the file does not hold a key: it is not text in UTF-8"
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): {shown_path(path)}"
    else:
        return _check_key(text, "the file is empty: write the REST API key into it")
    raise KeyUnusableError(problem)


def shown_path(path: str) -> str:
    """Return the path of a key file as a message may repeat it, or what it must be."""
    return shorten(path, 200) if _SHOWN_PATH.match(path) else MUST_BE_PATH


def unset_variable(name: str) -> str:
    """Return that a variable is not set, with its name or with what it must be."""
    is_shown = _SHOWN_VARIABLE.fullmatch(name) is not None
    return f"the variable {name} is not set" if is_shown else f"the variable is not set: {MUST_BE_VARIABLE}"


def key_file_exists(path: str) -> bool:
    """Return whether a file is at `path`, as far as can be seen from here."""
    try:
        return Path(path).is_file()
    except OSError:  # a folder that may not be entered, a name too long
        return False


def _check_key(text: str, if_empty: str) -> Secret:
    key = text.strip()
    if not key:
        raise KeyUnusableError(if_empty)
    if key[0] in "\"'":
        raise KeyUnusableError("the key is in quotes: remove them, Braze would refuse it")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise KeyUnusableError("the key has characters that no key has: it is one line of plain letters and digits")
    return Secret(key)
