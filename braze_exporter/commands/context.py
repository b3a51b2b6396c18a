"""Opens what the commands that call Braze need: the session and the `CommandContext`."""

import contextlib
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import requests

from braze_exporter.backfill.command_context import CommandContext
from braze_exporter.braze import transport
from braze_exporter.braze.clock import Clock
from braze_exporter.commands.proxies import find_proxies
from braze_exporter.config.document import ConfigError, Problem, shorten_path
from braze_exporter.config.loading import Config


def open_session(config: Config, environ: Mapping[str, str]) -> requests.Session:
    """Return a session with the CA file and the proxies that `environ` sets.

    Raises `ConfigError` if these cannot be used.
    """
    proxies = find_proxies((workspace.spec.rest_endpoint for workspace in config.workspaces), environ)
    connections = config.settings.budget.concurrency * len(config.workspaces)
    variable = "REQUESTS_CA_BUNDLE" if environ.get("REQUESTS_CA_BUNDLE") else "SSL_CERT_FILE"
    bundle = environ.get(variable) or None
    try:
        return transport.open_session(connections, bundle, proxies)
    except ssl.SSLError as error:
        if error.library == "SSL":  # not an error of the file
            raise
        reason = "contains no PEM certificate"
    except OSError as error:
        reason = error.strerror or "invalid"
    file = shorten_path(bundle or "the CA file of certifi")
    text = f"{file} cannot be used ({reason}); set a file of CA certificates, or unset the variable"
    raise ConfigError(variable, [Problem((), text)])


@contextlib.contextmanager
def command_context(
    config: Config, environ: Mapping[str, str], on_stop: Callable[[Callable[[], str]], None]
) -> Iterator[CommandContext]:
    """Yield the `CommandContext` of a command that makes calls to Braze, and close its session at the end."""
    with contextlib.closing(open_session(config, environ)) as opened:
        yield CommandContext(opened, Clock(), time.sleep, sys.stdout, sys.stderr, on_stop)
