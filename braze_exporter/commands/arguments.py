"""Define the arguments and the help texts of each command."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from braze_exporter import __version__
from braze_exporter.backfill import request
from braze_exporter.commands import backfill as backfill_command
from braze_exporter.commands import check as check_command
from braze_exporter.commands import dashboard, demo, discover, logs, rules, schema
from braze_exporter.commands import serve as serve_command
from braze_exporter.web import server

DEFAULT_ADDRESS = ":27293"

T = TypeVar("T")


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser for all commands."""
    top = argparse.ArgumentParser(
        prog="braze-exporter",
        description="Prometheus exporter for Braze. Without a command, it serves.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"braze-exporter {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    serve = _command(
        commands, "serve", serve_command.serve, "serve /metrics for the workspaces of a config (the default)"
    )
    _add_config(serve)
    _add_listen_address(serve)
    serve.add_argument(
        "--web.enable-lifecycle",
        dest="enable_lifecycle",
        action="store_true",
        help="let whoever reaches it reload the config by POST /-/reload (SIGHUP always does)",
    )
    _add_web_config(serve)
    _add_log(serve, level="info")
    demo_parser = _command(
        commands, "demo", demo.serve_demo, "serve a simulated Braze and its metrics: no account needed"
    )
    _add_listen_address(demo_parser)
    demo_parser.add_argument(
        "--braze.listen-address",
        dest="braze_address",
        type=_parse_with(_address),
        default="127.0.0.1:0",
        metavar="HOST:PORT",
        help="where the simulated Braze listens, on loopback (default: %(default)s, a free port)",
    )
    _add_log(demo_parser, level="warn")
    check = _command(
        commands, "check", check_command.check, "say what is wrong with a config, and what it costs in calls"
    )
    _add_config(check)
    check.add_argument(
        "--live",
        action="store_true",
        help="also ask Braze once for everything, with the keys, and say what is wrong (default: without a network)",
    )
    _add_web_config(check)
    discover_parser = _command(commands, "discover", discover.discover, "print what Braze has, as config to paste")
    _add_config(discover_parser)
    discover_parser.add_argument(
        "--archived", action="store_true", help="also what is archived, commented out (default: without)"
    )
    _add_backfill(commands)
    dashboard_parser = _command(
        commands, "dashboard", dashboard.dashboard, "print the Grafana dashboard for a config, as JSON"
    )
    _add_config(dashboard_parser)
    rules_parser = _command(commands, "rules", rules.rules, "print the alerting rules for a config, for Prometheus")
    _add_config(rules_parser)
    _command(commands, "schema", schema.schema, "print the JSON Schema of the config, for editors")
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
    history = _command(
        commands, "backfill", backfill_command.backfill, "write the history of a config's queries, for promtool"
    )
    _add_config(history)
    history.add_argument(
        "--start",
        type=_parse_with(request.parse_time),
        required=True,
        metavar="WHEN",
        help="where the first buckets begin: a date, an instant such as 2026-01-31T12:00:00Z, or Unix seconds",
    )
    history.add_argument(
        "--end",
        type=_parse_with(request.parse_time),
        metavar="WHEN",
        help="the first sample that Prometheus has scraped, before which all are to be; if it is not given, the query "
        "that finds it is printed",
    )
    history.add_argument(
        "--label",
        dest="labels",
        type=_parse_with(request.parse_label),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a label that Prometheus adds to the target; job and instance are needed",
    )
    history.add_argument("--output", type=Path, required=True, metavar="PATH", help="the file to write, in OpenMetrics")


def _parse_with(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a type for argparse that parses with `read` and reports a `ValueError` as a usage error."""

    def check(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def _add_listen_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--web.listen-address",
        dest="web_address",
        type=_parse_with(_address),
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
