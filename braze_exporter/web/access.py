"""Authorizes requests, and reads the web configuration again when its files change.

So certificates can be renewed and passwords changed without a restart.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from braze_exporter.config.document import ConfigError, Problem
from braze_exporter.web.config_file import WebConfig, read_web_config
from braze_exporter.web.passwords import PasswordChecker

# Seconds after a change until the files are read once more. Otherwise a change would be missed if a file is written
# during a read and keeps its timestamp. Invalid files are read again at this interval.
_REREAD_SECONDS = 1.0
# The interval at which the thread looks for changes, in seconds.
POLL_SECONDS = 0.5

_log = logging.getLogger(__name__)


class AccessControl:
    """Authorizes requests with the newest valid version of a web configuration file and of the files that it names.

    The attribute `config` is that version. A thread reads changed files, so a slow disk delays no request.
    """

    def __init__(self, path: str, monotonic: Callable[[], float]) -> None:
        """Read the web configuration file at `path`. `monotonic` returns seconds of a monotonic clock.

        Raises `ConfigError` if the file is invalid.
        """
        self._path = path
        self._monotonic = monotonic
        self._passwords = PasswordChecker()
        self.config = read_web_config(path)
        self._file_state = _read_file_state(self.config.files)
        self._reread_at = monotonic() + _REREAD_SECONDS
        self._logged_problem: str | None = None
        self._is_closed = threading.Event()

    def start_watching(self) -> None:
        """Call `update` every `POLL_SECONDS` in a thread, until `close` or the end of the process."""
        threading.Thread(target=self._watch, name="web configuration", daemon=True).start()

    def _watch(self) -> None:
        while not self._is_closed.wait(POLL_SECONDS):
            try:
                self.update()
            except Exception:  # noqa: BLE001 - the thread must survive for the next change
                _log.exception("Internal error while reading the web configuration")

    def update(self) -> None:
        """Read the files again if they have changed. If they are invalid, log that and keep the configuration."""
        state, now = _read_file_state(self.config.files), self._monotonic()
        is_new = state != self._file_state
        if not is_new and now < self._reread_at:
            return
        try:
            new_config = read_web_config(self._path)
            self._check_not_weaker(new_config)
        except ConfigError as error:
            self._file_state, self._reread_at = state, now + _REREAD_SECONDS
            self._log_problem(str(error))
            return
        self._file_state = state if new_config.files == self.config.files else _read_file_state(new_config.files)
        self._reread_at = now + _REREAD_SECONDS if is_new else math.inf
        self.config = new_config
        if is_new or self._logged_problem:
            _log.info("Web configuration reloaded", extra={"fields": {"file": self._path}})
        self._logged_problem = None

    async def authorize(self, authorization: str | None) -> bool:
        """Return whether a request with this `Authorization` header is authorized.

        Raises `BusyError` if too many passwords are being checked.
        """
        users = self.config.users
        return not users or await self._passwords.check(users, authorization)

    def close(self) -> None:
        """Stop checking passwords and reading files."""
        self._is_closed.set()
        self._passwords.close()

    def _check_not_weaker(self, new_config: WebConfig) -> None:
        """Raise `ConfigError` if the new configuration has a weaker protection than the current one, or enables TLS.

        A file that is being written is empty at first. As a configuration, it would allow access to everyone.
        """
        new_strengths = new_config.strengths
        weaker = [name for name, strength in self.config.strengths.items() if new_strengths.get(name, 0) < strength]
        if weaker:
            text = f"change would weaken or remove {', '.join(weaker)}; restart the exporter to apply it"
        elif new_config.tls is not None and self.config.tls is None:
            text = "TLS cannot be enabled at run time; restart the exporter"
        else:
            return
        raise ConfigError(self._path, [Problem((), text)])

    def _log_problem(self, problem: str) -> None:
        if problem != self._logged_problem:
            self._logged_problem = problem
            fields = {"problem": problem}
            _log.warning("Web configuration reload failed, keeping the previous one", extra={"fields": fields})


def _read_file_state(files: Iterable[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """Return a value that changes when one of `files` changes."""
    return tuple(_file_stamp(path) for path in files)


def _file_stamp(path: Path) -> tuple[int, ...] | None:
    try:
        result = path.stat()
    except OSError:
        return None
    return result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns
