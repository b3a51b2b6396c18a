"""The exit codes, and a function that reports a failure."""

import sys

SUCCESS, FAILURE, WRONG_USAGE = 0, 1, 2


def fail(message: str, exit_code: int = FAILURE) -> int:
    """Print `message` to stderr and return `exit_code`."""
    print(message, file=sys.stderr)
    return exit_code
