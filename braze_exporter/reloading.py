"""A config read anew, and used if it is good; if not, the one before goes on."""

import logging
import threading
from collections.abc import Callable

import requests

from braze_exporter.config import Config, ConfigError
from braze_exporter.exporter import Exporter
from braze_exporter.plan import build

# So many problems are logged, a line each. The rest is shown by `check`.
_MOST_LOGGED = 10

_log = logging.getLogger(__name__)


class Reloader:
    """Has an exporter use what is read, now and whenever it is to be read again. Thread-safe."""

    def __init__(
        self,
        exporter: Exporter,
        config: Config,
        read: Callable[[], Config],
        open_session: Callable[[Config], requests.Session],
    ) -> None:
        """Use `config`, and what `read` returns whenever it is to be read again, over what `open_session` opens.

        Raises `ConfigError` if `config` cannot be used, as the two may.
        """
        self._exporter = exporter
        self._read = read
        self._open_session = open_session
        self._lock = threading.Lock()
        self.config, self.plan = config, build(config)
        self._session = open_session(config)
        exporter.use(config, self.plan, self._session)

    def reload(self) -> None:
        """Read again and use it; raise `ConfigError`, and leave everything as it is, if that cannot be done."""
        with self._lock:
            try:
                config = self._read()
                plan = build(config)
                if config.settings.state_file != self.config.settings.state_file:
                    text = "cannot change while the exporter runs: restart it, or put the old value back"
                    raise config.error([(("state_file",), text)])
                session = self._open_session(config)
            except ConfigError as error:
                self._exporter.note_failed_reload()
                fields = {"file": error.source, "problems": len(error.problems)}
                _log.error("the config cannot be used: the one before goes on", extra={"fields": fields})
                for problem in error.problems[:_MOST_LOGGED]:
                    _log.error("problem of the config", extra={"fields": {"problem": problem.render(error.source)}})
                raise
            self._exporter.use(config, plan, session)
            before, now = ({query.identity for query in found.queries} for found in (self.plan, plan))
            self._session.close()
            self.config, self.plan, self._session = config, plan, session
            fields = {"queries": len(now), "added": len(now - before), "removed": len(before - now)}
            _log.info("config reloaded", extra={"fields": fields})
