"""What the environment says: which certificates to trust, and which proxies lead to Braze."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import requests

from braze_exporter import transport
from braze_exporter.config import Config, ConfigError, Problem
from braze_exporter.config.values import is_loopback, is_same_file
from braze_exporter.discover import Surroundings


def session(config: Config, environ: Mapping[str, str]) -> requests.Session:
    """Return a session that trusts what the environment says; raise `ConfigError` if that cannot be used."""
    connections = config.settings.budget.concurrency * len(config.workspaces)
    variable = "REQUESTS_CA_BUNDLE" if environ.get("REQUESTS_CA_BUNDLE") else "SSL_CERT_FILE"
    bundle = environ.get(variable) or None
    try:
        return transport.open_session(connections, bundle)
    except OSError as error:
        text = f"the file {bundle} cannot be used ({error}): give one with certificates to trust, or unset the variable"
        raise ConfigError(variable, [Problem((), text)]) from None


def refuse_shared_state_file(config: Config, web_config_file: str | None, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` if `state_file` names a file that the exporter reads, empty or not there though it may be."""
    path = config.settings.state_file
    others = {
        "the config": config.source,
        "the web configuration file": web_config_file,
        **{variable: environ.get(variable) for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")},
    }
    for name, other in others.items():
        if path and other and is_same_file(path, other):
            raise config.error([(("state_file",), f"is the same file as {name}: choose another path")])


@contextlib.contextmanager
def surroundings(
    config: Config, environ: Mapping[str, str], on_stop: Callable[[Callable[[], str]], None]
) -> Iterator[Surroundings]:
    """Yield what a command that asks Braze needs."""
    with contextlib.closing(session(config, environ)) as opened:
        yield Surroundings(opened, proxies, time.time, time.monotonic, time.sleep, sys.stdout, sys.stderr, on_stop)


def proxies(url: str) -> Mapping[str, str]:
    """Return the proxies that the environment names for `url`; loopback is asked directly."""
    host = urlsplit(url).hostname or ""
    return {} if is_loopback(host) or proxy_bypass(host) else getproxies_environment()
