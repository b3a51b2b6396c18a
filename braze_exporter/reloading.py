"""A config read anew, and used if it is good; if not, the one before goes on."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import requests

from braze_exporter.config import Config, ConfigError
from braze_exporter.exporter import Exporter
from braze_exporter.plan import build

# So many problems are logged, a line each. The rest is shown by `check`.
_MOST_LOGGED = 10

_log = logging.getLogger(__name__)


class Reloader:
    """Has an exporter use what is read, now and whenever that is asked for. Thread-safe, and safe in signal handlers.

    A thread of its own reads, so that a disk that stands still holds up neither scrapes nor the end.
    """

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
        self._asked: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self.config, plan = config, build(config)
        self._session = open_session(config)
        exporter.use(config, plan, self._session)
        threading.Thread(target=self._work, name="reload", daemon=True).start()

    def reload(self) -> Future[None]:
        """Have the config read again and used; return what is done then, or has the `ConfigError` if it cannot be."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # so that one who stops waiting cannot cancel it
        self._asked.put(future)
        return future

    def _work(self) -> None:
        while True:
            asked = [self._asked.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    asked.append(self._asked.get_nowait())
            try:
                self._reload()
            except Exception as error:  # noqa: BLE001 - told to who asked
                for future in asked:
                    future.set_exception(error)
            else:
                for future in asked:
                    future.set_result(None)

    def _reload(self) -> None:
        try:
            config = self._read()
            plan = build(config)
            self._refuse_another_state_file(config)
            session = self._open_session(config)
        except ConfigError as error:
            self._exporter.note_failed_reload()
            fields = {"file": error.source, "problems": len(error.problems)}
            _log.error("the config cannot be used: the one before goes on", extra={"fields": fields})
            for problem in error.problems[:_MOST_LOGGED]:
                _log.error("problem of the config", extra={"fields": {"problem": problem.render(error.source)}})
            raise
        except Exception:
            self._exporter.note_failed_reload()
            _log.exception("the config cannot be used by a fault of the exporter: the one before goes on")
            raise
        replaced = self._exporter.plan
        self._exporter.use(config, plan, session)
        before, now = ({query.identity for query in found.queries} for found in (replaced, self._exporter.plan))
        self._session.close()
        self.config, self._session = config, session
        fields = {"queries": len(now), "added": len(now - before), "removed": len(before - now)}
        _log.info("config reloaded", extra={"fields": fields})

    def _refuse_another_state_file(self, config: Config) -> None:
        if config.settings.state_file != self.config.settings.state_file:
            text = "cannot change while the exporter runs: restart it, or put the old value back"
            raise config.error([(("state_file",), text)])
