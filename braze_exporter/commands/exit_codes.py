"""The exit codes, and a function that reports a failure."""

import sys

SUCCESS, FAILURE = 0, 1


def fail(message: str) -> int:
    """Print `message` to stderr and return the exit code of a failure."""
    print(message, file=sys.stderr)
    return FAILURE
