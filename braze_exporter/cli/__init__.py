"""The command line: arguments, wiring and exit codes. Nothing else reads `argv` or the environment."""

import os
import sys
from collections.abc import Sequence

from braze_exporter.cli.outcome import FAILED, fail
from braze_exporter.cli.stopping import SERVING_COMMANDS, StopHandler


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` and return the exit code: 0 success, 1 failure, 2 (raised by argparse) wrong usage.

    SIGTERM and SIGINT end the process, except while a server handles them.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}):
        arguments.insert(0, "serve")
    is_serving = arguments[0] in SERVING_COMMANDS
    stop = StopHandler(is_serving=is_serving)
    # These take up to seconds to load, and a signal may arrive meanwhile.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from braze_exporter.cli.arguments import parser  # noqa: PLC0415
    from braze_exporter.config import ConfigError  # noqa: PLC0415

    options = parser().parse_args(arguments)
    options.on_stop = stop.on_stop
    try:
        if is_serving:
            return int(options.run(options, os.environ))
        # Signal handlers run in the main thread, but not while it waits in C, such as for the resolver.
        with ThreadPoolExecutor(1) as pool:
            return int(pool.submit(options.run, options, os.environ).result())
    except ConfigError as error:
        return fail(str(error))
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
        return FAILED
