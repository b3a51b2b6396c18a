"""Define the arguments and the help texts of each command."""

import argparse
import contextlib
import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from braze_exporter import __version__
from braze_exporter.commands import logs
from braze_exporter.commands.exit_codes import WRONG_USAGE
from braze_exporter.web.listening import split_address

DEFAULT_ADDRESS = ":27293"
DEFAULT_TIMEOUT_OFFSET_SECONDS = 0.5

T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, without the usage text."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401
        """Parse `args` as argparse does, but refuse unknown arguments in one line."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(_describe_unknown(unknown[0], re.findall(r"--[\w.-]+", self.format_usage())))
        if "web_addresses" in options:
            options.web_addresses = options.web_addresses or [DEFAULT_ADDRESS]
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print `message` as one line, and exit with 2."""
        line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in message)
        self.exit(WRONG_USAGE, f"{self.prog}: error: {line}; see {self.prog} --help\n")


def _describe_unknown(argument: str, flags: Sequence[str]) -> str:
    """Return the problem with an unknown argument, without its value, and the nearest of `flags`."""
    from braze_exporter.config.document import echo_value
    from braze_exporter.config.suggestions import did_you_mean

    name = argument.partition("=")[0]
    longer_flags = (flag for flag in flags if flag.startswith(f"--{name.lstrip('-')}"))  # such as for -c
    hint = did_you_mean(next(longer_flags, name), flags) if name.startswith("-") else ""
    return f"unknown argument {echo_value(name)}{hint}"


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser for all commands."""
    top = _Parser(
        prog="braze-exporter",
        description="Prometheus exporter for Braze. The default command is serve.",
        epilog="For the flags of a command, run braze-exporter COMMAND --help.",
        allow_abbrev=False,
    )
    _add_version(top)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    serve = _add_command(commands, "serve", "Serve /metrics for the workspaces of the config file (default).")
    _add_config(serve)
    _add_listen_address(serve)
    serve.add_argument(
        "--web.enable-lifecycle",
        dest="enable_lifecycle",
        action="store_true",
        help="Enable reload via HTTP POST or PUT to /-/reload. SIGHUP always reloads the config.",
    )
    _add_web_config(serve)
    serve.add_argument(
        "--timeout-offset",
        dest="timeout_offset_seconds",
        type=_parse_with(_parse_seconds),
        default=DEFAULT_TIMEOUT_OFFSET_SECONDS,
        metavar="SECONDS",
        help="Offset to subtract from the scrape timeout in seconds (default: %(default)s).",
    )
    _add_log_flags(serve, level="info")
    _add_version(serve)
    demo = _add_command(commands, "demo", "Serve a simulated Braze and its metrics, without a Braze account.")
    _add_listen_address(demo)
    demo.add_argument(
        "--braze.listen-address",
        dest="braze_address",
        type=_parse_with(_parse_address),
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="Loopback address on which the simulated Braze listens (default: %(default)s, a free port).",
    )
    _add_log_flags(demo, level="warn")
    text = "Check the config file, and print the calls per hour and the permissions that it needs."
    check = _add_command(commands, "check", text)
    _add_config(check)
    check.add_argument(
        "--live",
        action="store_true",
        help="Also fetch each query once from Braze, and report problems. Without this flag, neither the network nor "
        "the API keys are used.",
    )
    _add_web_config(check)
    text = "Print the config file with an entry for each further item of Braze's lists."
    discover = _add_command(commands, "discover", text)
    _add_config(discover)
    discover.add_argument("--snippet", action="store_true", help="Print only the sections of each workspace.")
    discover.add_argument("--archived", action="store_true", help="Include archived items, commented out.")
    _add_backfill(commands)
    _add_dashboard(commands)
    _add_rules(commands)
    _add_command(commands, "schema", "Print the JSON Schema of the config file, for editors.")
    return top


def _add_command(commands: "argparse._SubParsersAction[_Parser]", name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(run=functools.partial(_run, name))
    return command


def _run(name: str, options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run a command and return the exit code.

    The module of the command is imported only now, because importing all of them takes most of the time of `check`.
    """
    module = importlib.import_module(f"braze_exporter.commands.{name}")
    return int(module.run(options, environ))


def _add_version(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--version", action="version", version=f"braze-exporter {__version__}", help="Print the version."
    )


def _add_config(command: argparse.ArgumentParser, default: str | None = "config.yaml") -> None:
    command.add_argument(
        "--config.file",
        dest="config_file",
        type=_NOT_EMPTY,
        default=default,
        metavar="PATH",
        help=f"Path to the config file (default: {default or 'none'}).",
    )


def _add_dashboard(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "Print a Grafana dashboard for the config file as JSON. Without --config.file, it is for all kinds."
    dashboard = _add_command(commands, "dashboard", text)
    _add_config(dashboard, default=None)
    dashboard.add_argument(
        "--view",
        choices=("braze", "exporter"),
        default="braze",
        help="What the dashboard shows: braze for what Braze counts, exporter for the state of the exporter (default: "
        "%(default)s).",
    )
    dashboard.add_argument(
        "--for",
        dest="target",
        choices=("provisioning", "import"),
        default="provisioning",
        help="How Grafana gets the dashboard. With import, it asks for the data source, as grafana.com does (default: "
        "%(default)s).",
    )
    dashboard.add_argument(
        "--uid",
        type=_require(re.compile("[A-Za-z0-9_-]{1,40}").fullmatch, "must have 1 to 40 letters, digits, - or _"),
        metavar="UID",
        help="The uid, which must differ between dashboards (default: braze or braze-exporter).",
    )
    dashboard.add_argument("--title", type=_TEXT, metavar="TEXT", help="The title (default: Braze or Braze exporter).")


def _add_rules(commands: "argparse._SubParsersAction[_Parser]") -> None:
    rules = _add_command(
        commands,
        "rules",
        "Print the Prometheus alerting rules for the config file. Without --config.file, print only the built-in ones.",
    )
    _add_config(rules, default=None)
    rules.add_argument(
        "--format",
        choices=("rulefile", "prometheusrule"),
        default="rulefile",
        help="Output format: a rule file of Prometheus, or the Kubernetes resource PrometheusRule of the Prometheus "
        "operator (default: %(default)s).",
    )
    rules.add_argument(
        "--runbook-url",
        type=_HTTP_URL,
        metavar="PREFIX",
        help="Start of the URLs in the annotation runbook_url. The anchor of the runbook follows it, so it usually "
        "ends with # or / (default: no annotation).",
    )
    rules.add_argument(
        "--dashboard-url",
        type=_HTTP_URL,
        metavar="URL",
        help="URL for the annotation dashboard_url (default: no annotation).",
    )
    rules.add_argument(
        "--job",
        type=_TEXT,
        metavar="NAME",
        help="Name of the exporter's job in Prometheus. With it, BrazeExporterDown fires for each target of the job "
        "that is down. Without it, BrazeExporterDown fires if the metrics of a workspace of the config file are "
        "missing or, without --config.file, those of all exporters (default: none).",
    )


def _add_backfill(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "Write the history of the queries as OpenMetrics text, for import with promtool."
    history = _add_command(commands, "backfill", text)
    _add_config(history)
    history.add_argument(
        "--start",
        type=_parse_late("parse_time"),
        required=True,
        metavar="WHEN",
        help="Start of the first buckets: a date, a time with UTC offset such as 2026-01-31T12:00:00Z, or Unix "
        "seconds.",
    )
    history.add_argument(
        "--end",
        type=_parse_late("parse_time"),
        metavar="WHEN",
        help="Time of the first sample that Prometheus scraped. All backfilled samples are older. Without this flag, "
        "the PromQL query for this time is printed.",
    )
    history.add_argument(
        "--label",
        dest="labels",
        type=_parse_late("parse_label"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Label that Prometheus adds to the target; job and instance are required. Repeatable.",
    )
    text = "Path to the OpenMetrics file to write."
    history.add_argument("--output", type=_NOT_EMPTY, required=True, metavar="PATH", help=text)


def _parse_with(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return an argparse type that parses with `read` and reports its `ValueError` as a usage error."""

    def check(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def _require(is_valid: Callable[[str], object], problem: str) -> Callable[[str], str]:
    """Return an argparse type for texts, which reports `problem` without the text if it is not valid."""

    def check(text: str) -> str:
        if not is_valid(text):
            raise argparse.ArgumentTypeError(problem)
        return text

    return check


def _parse_late(name: str) -> Callable[[str], object]:
    """Return an argparse type that calls the function `name` of the backfill. Only then is the module imported."""

    def read(text: str) -> object:
        return getattr(importlib.import_module("braze_exporter.backfill.request"), name)(text)

    return _parse_with(read)


def _add_listen_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--web.listen-address",
        dest="web_addresses",
        type=_parse_with(_parse_address),
        action="append",
        metavar="HOST:PORT",
        help="Address on which to expose metrics and web interface; without a host, on all interfaces (default: "
        f"{DEFAULT_ADDRESS}). Repeatable for multiple addresses.",
    )


def _add_web_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--web.config.file",
        dest="web_config_file",
        default="",
        metavar="PATH",
        help="Path to the web configuration file that enables TLS or basic authentication, in the format of "
        "Prometheus's exporter-toolkit (default: none).",
    )


def _add_log_flags(command: argparse.ArgumentParser, level: str) -> None:
    command.add_argument(
        "--log.level",
        dest="log_level",
        choices=logs.LEVELS,
        default=level,
        help="Only log messages with the given severity or above (default: %(default)s).",
    )
    command.add_argument(
        "--log.format",
        dest="log_format",
        choices=("logfmt", "json"),
        default="logfmt",
        help="Output format of log messages (default: %(default)s).",
    )


def _parse_address(text: str) -> str:
    """Return `text` unchanged. Raises `ValueError` if it is not an address."""
    split_address(text)
    return text


def _parse_seconds(text: str) -> float:
    """Return a number of seconds. Raises `ValueError` if `text` is not one, or if it is negative or infinite."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise ValueError(f"{text} is not a number of seconds, such as 0.5")


def _is_http_url(text: str) -> bool:
    """Return whether `text` is a URL with http or https, without a password."""
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    is_valid = url.scheme in {"http", "https"} and bool(url.hostname) and "@" not in url.netloc
    return is_valid and text.isprintable() and " " not in text


_HTTP_URL = _require(
    _is_http_url, "must be an http or https URL without a password, such as https://grafana.example.com/d/braze"
)
# Bytes that are not UTF-8 are lone surrogates in `argv`.
_TEXT = _require(
    lambda text: text and text == text.encode(errors="ignore").decode(), "must be UTF-8 text, and must not be empty"
)
_NOT_EMPTY = _require(bool, "must not be empty")
