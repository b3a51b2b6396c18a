"""Lets tests that measure time have the machine for themselves, and measure the program as it is."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

TURN = pytest.StashKey[contextlib.ExitStack]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Run a test in the room with others, or `alone`, and those that are alone in one turn.

    What a test waits for its turn is not counted by its time-out.
    """
    stash = item.config.stash
    if TURN not in stash:
        stash[TURN] = turn(is_alone=is_alone(item))
    try:
        return (yield)
    finally:
        if nextitem is None or not (is_alone(item) and is_alone(nextitem)):
            stash[TURN].close()
            del stash[TURN]


def is_alone(item: pytest.Item) -> bool:
    """Return whether a test is to have the machine for itself."""
    return item.get_closest_marker("alone") is not None


def turn(*, is_alone: bool) -> contextlib.ExitStack:
    """Wait for a turn, and return what ends it.

    Who waits to be alone stands in the door, and nobody else comes in; that holds for all test runs of a user on a
    machine. Programs that run alone are not measured for coverage, which makes them three times as slow.
    """
    folder = Path(tempfile.gettempdir(), f"braze-exporter-tests-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        room = stack.enter_context((folder / "room").open("ab"))
        with (folder / "door").open("ab") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        if is_alone:
            stack.enter_context(pytest.MonkeyPatch.context()).delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        return stack.pop_all()
