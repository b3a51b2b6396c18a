"""Loads the config into an exporter, at the start and at each reload."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import requests

from braze_exporter.config.document import ConfigError
from braze_exporter.config.loading import Config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan

_log = logging.getLogger(__name__)

# The number of config problems that are logged, one per line. The `check` command shows all of them.
_MAX_LOGGED_PROBLEMS = 10


class Reloader:
    """Loads the config into an exporter, at the start and at each reload.

    Thread-safe. `reload` may be called in a signal handler. The config is read in a separate thread, so that a disk
    that does not respond delays neither scrapes nor shutdown.
    """

    def __init__(
        self,
        exporter: Exporter,
        config: Config,
        read_config: Callable[[], Config],
        open_session: Callable[[Config], requests.Session],
    ) -> None:
        """Apply `config` to `exporter`.

        At each reload `read_config` returns the new config. `open_session` opens the HTTP session for a config. Both
        may raise `ConfigError`. Raises `ConfigError` if `config` cannot be used.
        """
        self._exporter = exporter
        self._read_config = read_config
        self._open_session = open_session
        self._requests: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self.config, self._plan = config, build_plan(config)
        self._session = open_session(config)
        exporter.apply_config(config, self._plan, self._session)
        threading.Thread(target=self._work, name="reload", daemon=True).start()

    def reload(self) -> Future[None]:
        """Request a reload, and return a future that is done when the new config is in use.

        The future has the exception, usually a `ConfigError`, if the reload fails.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # a running future cannot be canceled by a caller that stops waiting
        self._requests.put(future)
        return future

    def _work(self) -> None:
        while True:
            futures = [self._requests.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    futures.append(self._requests.get_nowait())
            try:
                self._reload()
            except Exception as error:  # noqa: BLE001 - passed on to the callers of `reload`
                for future in futures:
                    future.set_exception(error)
            else:
                for future in futures:
                    future.set_result(None)

    def _reload(self) -> None:
        try:
            config = self._read_config()
            plan = build_plan(config)
            self._check_state_file(config)
            session = self._open_session(config)
        except ConfigError as error:
            self._exporter.record_failed_reload()
            fields = {"file": error.source, "problems": len(error.problems)}
            _log.error("Configuration reload failed, keeping the previous one", extra={"fields": fields})
            for problem in error.problems[:_MAX_LOGGED_PROBLEMS]:
                _log.error("Configuration problem", extra={"fields": {"problem": problem.render(error.source)}})
            raise
        except Exception:
            self._exporter.record_failed_reload()
            _log.exception("Internal error during configuration reload, keeping the previous one")
            raise
        replaced = self._exporter.plan
        try:
            self._exporter.apply_config(config, plan, session)
        except Exception:
            _log.exception("Internal error while applying the configuration, keeping the previous one")
            session.close()
            try:
                self._exporter.apply_config(self.config, self._plan, self._session)  # the new one may be in use in part
            finally:
                self._exporter.record_failed_reload()
            raise
        before, now = ({query.identity for query in result.queries} for result in (replaced, self._exporter.plan))
        self._session.close()
        self.config, self._plan, self._session = config, plan, session
        fields = {"queries": len(now), "added": len(now - before), "removed": len(before - now)}
        _log.info("Completed loading of configuration file", extra={"fields": fields})

    def _check_state_file(self, config: Config) -> None:
        if config.settings.state_file != self.config.settings.state_file:
            text = "cannot be changed by a reload; restart the exporter or restore the previous value"
            raise config.make_error([(("state_file",), text)])
