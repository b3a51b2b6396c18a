"""The command `serve`: serves the metrics of a config until SIGTERM or SIGINT."""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from braze_exporter import __version__
from braze_exporter.braze.clock import Clock
from braze_exporter.commands import logs
from braze_exporter.commands.context import open_session
from braze_exporter.commands.exit_codes import SUCCESS, fail
from braze_exporter.config.loading import Config, read_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.exporter.reload import Reloader
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.state.errors import StateFileError
from braze_exporter.state.migration import Aliases
from braze_exporter.state.state_file import StateFile, open_state_file
from braze_exporter.web import listening, server
from braze_exporter.web.access import AccessControl

# How long a thread may run while others wait, in seconds. With the default of 5 ms, health probes are slow during a
# refresh, because the event loop waits for the other threads several times for each request.
_SWITCH_INTERVAL_SECONDS = 0.001
# With the defaults, the garbage collector takes 7 % of the CPU time of a refresh, although a successful fetch leaves no
# reference cycles.
GC_THRESHOLDS = (50_000, 20, 20)

_log = logging.getLogger(__name__)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve the metrics of a config until SIGTERM or SIGINT, and return the exit code."""
    logs.configure_logging(options.log_level, options.log_format)
    config = read_config(options.config_file, environ)
    build_plan(config)  # reports problems of the config before the wait for the state file
    access_control = AccessControl(options.web_config_file, Clock().monotonic) if options.web_config_file else None
    path = config.settings.state_file
    try:
        state_file = open_state_file(path, aliases=_read_aliases(config)) if path is not None else None
    except StateFileError as error:
        raise config.make_error([(("state_file",), str(error))]) from None
    try:
        listeners = listening.listen(options.web_addresses)
    except listening.ListenError as error:
        if state_file is not None:
            state_file.close()
        return fail(f"{error}; choose another address with --web.listen-address")
    return run_exporter(
        config,
        listeners,
        state_file,
        environ,
        timeout_offset_seconds=options.timeout_offset_seconds,
        read_new_config=lambda: read_config(options.config_file, environ),
        is_http_reload_enabled=options.enable_lifecycle,
        access_control=access_control,
    )


def _read_aliases(config: Config) -> Aliases:
    """Return the names of apps and segments in `config`, which a state file of schema 1 does not contain."""
    specs = [workspace.spec for workspace in config.workspaces]
    return Aliases(
        apps={(spec.name, spec.rest_endpoint, app_id): name for spec in specs for name, app_id in spec.apps.items()},
        segments={
            (spec.name, spec.rest_endpoint, segment_id): name
            for spec in specs
            for name, segment_id in spec.segments.items()
        },
    )


def run_exporter(
    config: Config,
    listeners: Sequence[socket.socket],
    state_file: StateFile | None,
    environ: Mapping[str, str],
    *,
    timeout_offset_seconds: float,
    read_new_config: Callable[[], Config] | None = None,
    is_http_reload_enabled: bool = False,
    access_control: AccessControl | None = None,
) -> int:
    """Serve the metrics of `config` on `listeners` until SIGTERM or SIGINT, and return the exit code.

    `state_file` is closed at the end, unless the disk does not respond. A scrape ends at least `timeout_offset_seconds`
    before its timeout. `read_new_config` reads the config for a reload. Without it, SIGHUP does not reload the config.
    `is_http_reload_enabled` enables reload via HTTP. `access_control` enables TLS and basic authentication.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    gc.set_threshold(*GC_THRESHOLDS)
    exporter = Exporter(state_file, clock=Clock(), revision=_find_revision(environ))
    reloader = Reloader(
        exporter, config, read_new_config or (lambda: config), lambda new_config: open_session(new_config, environ)
    )
    fields = {
        "version": __version__,
        "config": config.source,
        "workspaces": len(config.workspaces),
        "queries": len(exporter.plan.queries),
        "state_file": config.settings.state_file or "none",
        "addresses": ",".join(map(listening.format_address, listeners)),
        "protections": ",".join(access_control.config.protections if access_control is not None else ()) or "none",
    }
    _log.info("Exporter started", extra={"fields": fields})
    if read_new_config is not None:
        signal.signal(signal.SIGHUP, lambda *_: reloader.reload())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    application = server.Application(
        exporter,
        reload=reloader.reload if is_http_reload_enabled else None,
        access=access_control,
        timeout_offset_seconds=timeout_offset_seconds,
    )
    if access_control is not None:
        access_control.start_watching()
    with (
        contextlib.closing(exporter),
        contextlib.closing(access_control) if access_control is not None else contextlib.nullcontext(),
    ):
        server.serve(application, listeners)
    _log.info("Exporter stopped")
    return SUCCESS


def _find_revision(environ: Mapping[str, str]) -> str:
    """Return the Git commit from which the exporter was built, or `unknown`.

    The container image has it in the environment variable `BRAZE_EXPORTER_REVISION`. Without that it is the commit that
    pip recorded when it installed the package from a Git repository (PEP 610).
    """
    revision = environ.get("BRAZE_EXPORTER_REVISION", "")
    if not revision:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError, KeyError, ValueError):
            recorded = importlib.metadata.distribution("braze-exporter").read_text("direct_url.json")
            revision = str(json.loads(recorded or "{}")["vcs_info"]["commit_id"])
    return revision if revision and revision.isprintable() else "unknown"
