"""The web configuration that counts now: it follows its files, so that certificates are renewed without a restart."""

import logging
import math
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from braze_exporter.config.document import ConfigError, Problem
from braze_exporter.web.config_file import WebConfig, read
from braze_exporter.web.passwords import Passwords

# Seconds after a change until the files are read once more: one that is written while it is read, in a tick of the file
# system's clock, looks as if it had not changed since. If they cannot be used, they are read again that often.
_AGAIN = 1.0

_log = logging.getLogger(__name__)


class Web:
    """Says who may come in, by the newest good state of a web configuration file and of the files that it names."""

    def __init__(self, path: str, monotonic: Callable[[], float]) -> None:
        """Read the file at `path`; raise `ConfigError` if it cannot be used. `monotonic` tells seconds."""
        self._path = path
        self._monotonic = monotonic
        self._passwords = Passwords()
        self._config = read(path)
        self._seen = _state(self._config.files)
        self._again_at = monotonic() + _AGAIN
        self._told: str | None = None

    def config(self) -> WebConfig:
        """Return what counts now. Files that cannot be used change nothing, and are a line in the log."""
        state, now = _state(self._config.files), self._monotonic()
        is_new = state != self._seen
        if not is_new and now < self._again_at:
            return self._config
        try:
            found = read(self._path)
            self._refuse_less(found)
        except ConfigError as error:
            self._seen, self._again_at = state, now + _AGAIN
            self._tell(str(error))
            return self._config
        self._seen = state if found.files == self._config.files else _state(found.files)
        self._again_at = now + _AGAIN if is_new else math.inf
        self._config = found
        if is_new or self._told:
            _log.info("web configuration read again", extra={"fields": {"file": self._path}})
        self._told = None
        return found

    def context(self) -> ssl.SSLContext | None:
        """Return what speaks TLS with a new connection, or None if it is plain HTTP."""
        return self.config().tls

    async def admits(self, authorization: str | None) -> bool:
        """Return whether one with this `Authorization` header may come in; raise `BusyError` if it cannot be known."""
        users = self.config().users
        return not users or await self._passwords.admit(users, authorization)

    def close(self) -> None:
        """Check no more passwords."""
        self._passwords.close()

    def _refuse_less(self, found: WebConfig) -> None:
        """Refuse what protects less: a file that is being written begins empty, and would let everyone in."""
        lost = [name for name in self._config.protections if name not in found.protections]
        if lost:
            text = f"would end {', '.join(lost)}: if that is meant, restart the exporter"
        elif found.tls is not None and self._config.tls is None:
            text = "TLS cannot begin while it runs: restart the exporter"
        else:
            return
        raise ConfigError(self._path, [Problem((), text)])

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            fields = {"problem": problem}
            _log.warning("web configuration not taken, the one before goes on", extra={"fields": fields})


def _state(files: Iterable[Path]) -> tuple[tuple[int, ...] | None, ...]:
    """Return what changes when one of `files` does."""
    return tuple(_stamp(path) for path in files)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
