"""The exit codes, and the one line that goes with a failure."""

import sys

SUCCESS, FAILURE = 0, 1


def fail(message: str) -> int:
    """Tell people what is wrong, and return the exit code for that."""
    print(message, file=sys.stderr)
    return FAILURE
