"""The web configuration that counts now: it follows its files, so that certificates are renewed without a restart."""

import logging
import math
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from braze_exporter.config.document import ConfigError, Problem
from braze_exporter.web.config_file import WebConfig, read_web_config
from braze_exporter.web.passwords import PasswordChecker

# Seconds after a change until the files are read once more: one that is written while it is read, in a tick of the file
# system's clock, looks as if it had not changed since. If they cannot be used, they are read again that often.
_REREAD_SECONDS = 1.0

_log = logging.getLogger(__name__)


class AccessControl:
    """Says who may come in, by the newest good state of a web configuration file and of the files that it names."""

    def __init__(self, path: str, monotonic: Callable[[], float]) -> None:
        """Read the file at `path`; raise `ConfigError` if it cannot be used. `monotonic` tells seconds."""
        self._path = path
        self._monotonic = monotonic
        self._passwords = PasswordChecker()
        self._config = read_web_config(path)
        self._file_state = _state(self._config.files)
        self._reread_at = monotonic() + _REREAD_SECONDS
        self._logged_problem: str | None = None

    def config(self) -> WebConfig:
        """Return what counts now. Files that cannot be used change nothing, and are a line in the log."""
        state, now = _state(self._config.files), self._monotonic()
        is_new = state != self._file_state
        if not is_new and now < self._reread_at:
            return self._config
        try:
            new_config = read_web_config(self._path)
            self._check_not_weaker(new_config)
        except ConfigError as error:
            self._file_state, self._reread_at = state, now + _REREAD_SECONDS
            self._log_problem(str(error))
            return self._config
        self._file_state = state if new_config.files == self._config.files else _state(new_config.files)
        self._reread_at = now + _REREAD_SECONDS if is_new else math.inf
        self._config = new_config
        if is_new or self._logged_problem:
            _log.info("web configuration read again", extra={"fields": {"file": self._path}})
        self._logged_problem = None
        return new_config

    def context(self) -> ssl.SSLContext | None:
        """Return what speaks TLS with a new connection, or None if it is plain HTTP."""
        return self.config().tls

    async def authorize(self, authorization: str | None) -> bool:
        """Return whether one with this `Authorization` header may come in; raise `BusyError` if it cannot be known."""
        users = self.config().users
        return not users or await self._passwords.check(users, authorization)

    def close(self) -> None:
        """Check no more passwords."""
        self._passwords.close()

    def _check_not_weaker(self, new_config: WebConfig) -> None:
        """Refuse what protects less: a file that is being written begins empty, and would let everyone in."""
        lost = [name for name in self._config.protections if name not in new_config.protections]
        if lost:
            text = f"would end {', '.join(lost)}: if that is meant, restart the exporter"
        elif new_config.tls is not None and self._config.tls is None:
            text = "TLS cannot begin while it runs: restart the exporter"
        else:
            return
        raise ConfigError(self._path, [Problem((), text)])

    def _log_problem(self, problem: str) -> None:
        if problem != self._logged_problem:
            self._logged_problem = problem
            fields = {"problem": problem}
            _log.warning("web configuration not taken, the one before goes on", extra={"fields": fields})


def _state(files: Iterable[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """Return what changes when one of `files` does."""
    return tuple(_stamp(path) for path in files)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        result = path.stat()
    except OSError:
        return None
    return result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns
