"""The command line: arguments, wiring and exit codes. Nothing else reads `argv` or the environment."""

import os
import signal
import sys
from collections.abc import Sequence

from braze_exporter.cli.arguments import DEFAULT_ADDRESS, parser
from braze_exporter.cli.outcome import FAILED, GOOD, fail
from braze_exporter.config import ConfigError

__all__ = ["DEFAULT_ADDRESS", "main", "parser"]


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
        return fail(str(error))
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
        return FAILED
    except KeyboardInterrupt:  # before the server listens
        return GOOD
