"""The command line: arguments, wiring and exit codes. Nothing else reads `argv` or the environment."""

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import requests

from braze_exporter import __version__, backfill, demo, logs, server, transport
from braze_exporter.config import Config, ConfigError, Problem, load, missing_keys, read
from braze_exporter.config.document import shown
from braze_exporter.config.reference import schema
from braze_exporter.config.values import is_loopback
from braze_exporter.discover import Surroundings, discover
from braze_exporter.exporter import Exporter
from braze_exporter.ledger import Store, StoreError, open_store
from braze_exporter.live import check_live
from braze_exporter.mixin.dashboard import dashboard
from braze_exporter.mixin.rules import as_yaml, rules
from braze_exporter.plan import Plan, build
from braze_exporter.reloading import Reloader
from braze_exporter.status import StatusPage
from braze_exporter.web import Web
from braze_exporter.web import read as read_web

GOOD, FAILED = 0, 1
DEFAULT_ADDRESS = ":27293"

T = TypeVar("T")

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` and return the exit code: 0 good, 1 it failed, 2 (raised by argparse) wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}):
        arguments.insert(0, "serve")
    options = parser().parse_args(arguments)
    # As process 1 of a container a signal without a handler is ignored; this one counts until the server has its own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(options.run(options, os.environ))
    except ConfigError as error:
        return _fail(str(error))
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
        return FAILED
    except KeyboardInterrupt:  # before the server listens
        return GOOD


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="braze-exporter",
        description="Prometheus exporter for Braze. Without a command, it serves.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"braze-exporter {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    serve = _command(commands, "serve", _serve, "serve /metrics for the workspaces of a config (the default)")
    _add_config(serve)
    _add_listen(serve)
    serve.add_argument(
        "--web.enable-lifecycle",
        dest="enable_lifecycle",
        action="store_true",
        help="let whoever reaches it reload the config by POST /-/reload (SIGHUP always does)",
    )
    _add_web_config(serve)
    _add_log(serve, level="info")
    show = _command(commands, "demo", _demo, "serve a simulated Braze and its metrics: no account needed")
    _add_listen(show)
    show.add_argument(
        "--braze.listen-address",
        dest="braze_address",
        type=_checked(_address),
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where the simulated Braze listens, on loopback (default: %(default)s, a free port)",
    )
    _add_log(show, level="warn")
    check = _command(commands, "check", _check, "say what is wrong with a config, and what it costs in calls")
    _add_config(check)
    check.add_argument(
        "--live",
        action="store_true",
        help="also ask Braze once for everything, with the keys, and say what is wrong (default: without a network)",
    )
    _add_web_config(check)
    listing = _command(commands, "discover", _discover, "print what Braze has, as config to paste")
    _add_config(listing)
    listing.add_argument(
        "--archived", action="store_true", help="also what is archived, commented out (default: without)"
    )
    _add_backfill(commands)
    board = _command(commands, "dashboard", _dashboard, "print the Grafana dashboard for a config, as JSON")
    _add_config(board)
    alerting = _command(commands, "rules", _rules, "print the alerting rules for a config, for Prometheus")
    _add_config(alerting)
    _command(commands, "schema", _schema, "print the JSON Schema of the config, for editors")
    return top


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: object, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config.file",
        dest="config_file",
        default="config.yaml",
        metavar="PATH",
        help="the config (default: %(default)s)",
    )


def _add_backfill(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    history = _command(commands, "backfill", _backfill, "write the history of a config's queries, for promtool")
    _add_config(history)
    history.add_argument(
        "--start",
        type=_checked(backfill.moment),
        required=True,
        metavar="WHEN",
        help="where the first buckets begin: a date, an instant such as 2026-01-31T12:00:00Z, or Unix seconds",
    )
    history.add_argument(
        "--end",
        type=_checked(backfill.moment),
        metavar="WHEN",
        help="the first sample that Prometheus has scraped, before which all are to be; if it is not given, the query "
        "that finds it is printed",
    )
    history.add_argument(
        "--label",
        dest="labels",
        type=_checked(backfill.label),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a label that Prometheus adds to the target; job and instance are needed",
    )
    history.add_argument("--output", type=Path, required=True, metavar="PATH", help="the file to write, in OpenMetrics")


def _checked(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return what reads the value of an argument, and tells argparse what is wrong with one."""

    def check(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def _add_listen(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--web.listen-address",
        dest="web_address",
        type=_checked(_address),
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help="where to serve; without a host, on all interfaces (default: %(default)s)",
    )


def _add_web_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--web.config.file",
        dest="web_config_file",
        default="",
        metavar="PATH",
        help="TLS and passwords, in the format of Prometheus's own exporters (default: none)",
    )


def _add_log(command: argparse.ArgumentParser, level: str) -> None:
    command.add_argument(
        "--log.level", dest="log_level", choices=logs.LEVELS, default=level, help="(default: %(default)s)"
    )
    command.add_argument(
        "--log.format", dest="log_format", choices=("logfmt", "json"), default="logfmt", help="(default: %(default)s)"
    )


def _address(text: str) -> str:
    server.split_address(text)
    return text


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return FAILED


def _planned(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Config, Plan]:
    """Return a config and its plan without its keys, with a warning for each that is missing."""
    config = read(options.config_file)
    plan = build(config)
    for problem in missing_keys(config, environ):
        print(f"warning: {problem.render(config.source)}", file=sys.stderr)
    return config, plan


def _check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Validate a config, without a network and without its keys unless it is to be live."""
    _, plan = _planned(options, environ)
    wild = (
        f", and what {_count(len(plan.wildcards), 'entry takes', 'entries take')} of Braze's lists"
        if plan.wildcards
        else ""
    )
    print(f"{options.config_file} is good: {_count(len(plan.queries), 'query', 'queries')}{wild}")
    for cost in plan.loads:
        once = f", and {_count(cost.once, 'call', 'calls')} once for baselines" if cost.once else ""
        print(
            f"{shown(cost.workspace)}: {_count(cost.queries, 'query', 'queries')} in the {cost.pool.name} pool make "
            f"{cost.calls:,.0f} calls an hour{once}; "
            f"budget.share allows {cost.allowed:,.0f} of {cost.pool.per_hour:,.0f}"
        )
    if options.web_config_file:
        asked = " and ".join(read_web(options.web_config_file).protections)
        print(f"{options.web_config_file} is good: {asked or 'neither TLS nor passwords'}")
    return GOOD if not options.live or _live(options, environ) else FAILED


def _live(options: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Ask Braze for everything in a config, and return whether all is well."""
    logs.configure("error", "logfmt")  # what is not answered is told below, once
    config = read(options.config_file, environ)
    with _surroundings(config, environ) as around:
        return check_live(config, build(config), around)


def _discover(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what Braze has; the config may have nothing to ask for yet."""
    config = read(options.config_file, environ, may_ask_nothing=True)
    with _surroundings(config, environ) as around:
        has_found = discover(config, around, archived=options.archived)
    return GOOD if has_found else FAILED


def _dashboard(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the dashboard of a config, without a network and without its keys."""
    config, plan = _planned(options, environ)
    print(json.dumps(dashboard(plan, config.settings.budget.reserve), indent=2))
    return GOOD


def _rules(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the alerting rules of a config, without a network and without its keys."""
    config, plan = _planned(options, environ)
    print(as_yaml(rules(plan, config.settings)), end="")
    return GOOD


def _schema(_options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print the JSON Schema of the config."""
    print(json.dumps(schema(), indent=2))
    return GOOD


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _serve(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve the metrics of a config until a signal comes."""
    if hasattr(signal, "SIGHUP"):  # one that comes before there is something to reload waits for that
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    logs.configure(options.log_level, options.log_format)
    config = read(options.config_file, environ)
    build(config)  # what is wrong with it is said before the state file is waited for
    web = Web(options.web_config_file, time.monotonic) if options.web_config_file else None
    path = config.settings.state_file
    try:
        store = open_store(path) if path is not None else None
    except StoreError as error:
        return _fail(str(error))
    with contextlib.closing(store) if store is not None else contextlib.nullcontext():
        try:
            listener = server.listen(options.web_address)
        except OSError as error:
            return _fail(_cannot_listen("--web.listen-address", options.web_address, error))
        return _run(
            config,
            listener,
            store,
            environ,
            read_again=lambda: read(options.config_file, environ),
            by_request=options.enable_lifecycle,
            web=web,
        )


def _demo(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve a simulated Braze and its metrics until a signal comes."""
    logs.configure(options.log_level, options.log_format)
    host, port = server.split_address(options.braze_address)
    if not is_loopback(host):
        return _fail(f"--braze.listen-address {options.braze_address}: only loopback, such as 127.0.0.1:0")
    try:
        listener = server.listen(options.web_address)
    except OSError as error:
        return _fail(_cannot_listen("--web.listen-address", options.web_address, error))
    try:
        running = demo.serve(demo.shop(time.time), host, port)
    except OSError as error:
        listener.close()
        return _fail(_cannot_listen("--braze.listen-address", options.braze_address, error))
    with running:
        config = load(demo.config(running.url), "demo", {demo.KEY_VARIABLE: demo.KEY})
        print(_welcome(running.url, options.web_address), flush=True)
        return _run(config, listener, None, environ)


def _backfill(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the history of the queries of a config, and print what is to be done with it."""
    config = read(options.config_file, environ)
    plan = build(config)
    try:
        wish = backfill.wish(options.start, options.end, options.labels, options.output)
        with _surroundings(config, environ) as around:
            backfill.backfill(wish, config, plan, around)
    except backfill.BackfillError as error:
        return _fail(str(error))
    except KeyboardInterrupt:  # before there was anything to keep
        return FAILED
    return GOOD


def _cannot_listen(flag: str, address: str, error: OSError) -> str:
    # asyncio and the resolver put more into `strerror`, and the resolver has numbers of its own.
    reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return f"cannot listen on {address} ({reason}): choose another address by {flag}"


def _run(
    config: Config,
    listener: socket.socket,
    store: Store | None,
    environ: Mapping[str, str],
    *,
    read_again: Callable[[], Config] | None = None,
    by_request: bool = False,
    web: Web | None = None,
) -> int:
    """Serve the metrics of `config` on `listener`, to whom `web` lets in, until a signal comes.

    SIGHUP has the config read by `read_again`, and so does a request if that may be.
    """
    exporter = Exporter(store, wall=time.time, monotonic=time.monotonic, proxies=_proxies)
    reloader = Reloader(exporter, config, read_again or (lambda: config), lambda found: _session(found, environ))
    host, port = listener.getsockname()[:2]
    fields = {"version": __version__, "address": f"{host}:{port}", "queries": len(exporter.plan.queries)}
    _log.info("serving", extra={"fields": fields})
    if read_again is not None and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: reloader.reload())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    application = server.Application(
        exporter, front=StatusPage(exporter.status), reload=reloader.reload if by_request else None, web=web
    )
    with contextlib.closing(web) if web is not None else contextlib.nullcontext():
        server.serve(application, listener, on_stop=exporter.close)
    _log.info("stopped")
    return GOOD


def _session(config: Config, environ: Mapping[str, str]) -> requests.Session:
    connections = config.settings.budget.concurrency * len(config.workspaces)
    variable = "REQUESTS_CA_BUNDLE" if environ.get("REQUESTS_CA_BUNDLE") else "SSL_CERT_FILE"
    bundle = environ.get(variable) or None
    try:
        return transport.open_session(connections, bundle)
    except OSError as error:
        text = f"the file {bundle} cannot be used ({error}): give one with certificates to trust, or unset the variable"
        raise ConfigError(variable, [Problem((), text)]) from None


@contextlib.contextmanager
def _surroundings(config: Config, environ: Mapping[str, str]) -> Iterator[Surroundings]:
    """Yield what a command that asks Braze needs."""
    with contextlib.closing(_session(config, environ)) as session:
        yield Surroundings(session, _proxies, time.time, time.monotonic, time.sleep, sys.stdout, sys.stderr)


def _proxies(url: str) -> Mapping[str, str]:
    """Return the proxies that the environment names for `url`; loopback is asked directly."""
    host = urlsplit(url).hostname or ""
    return {} if is_loopback(host) or proxy_bypass(host) else getproxies_environment()


def _welcome(braze_url: str, address: str) -> str:
    host, port = server.split_address(address)
    target = f"{host or 'localhost'}:{port}"
    return f"""\
A simulated Braze, and the exporter that watches it. Ctrl-C ends both.

Simulated Braze:  {braze_url}
Its REST API key: {demo.KEY}

Open              http://{target}
Its metrics       http://{target}/metrics

To see it in Prometheus, put this into prometheus.yml:

scrape_configs:
  - job_name: braze
    scrape_interval: 15s
    static_configs:
      - targets: ["{target}"]

and query, for instance:

braze_custom_events_hourly_settled                the newest settled hour of every event
increase(braze_custom_events_total[10m])          what Braze has reported in ten minutes
"""
