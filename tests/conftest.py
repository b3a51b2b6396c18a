"""Lets tests that measure time have the machine for themselves, and measure the program as it is."""

import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test in the room with others, or `alone`; who waits for that stands in the door, and nobody else comes in.

    That holds for all test runs of a user on a machine. What a test waits for its turn is not counted by its time-out.
    Programs that run `alone` are not measured for coverage, which makes them three times as slow.
    """
    folder = Path(tempfile.gettempdir(), f"braze-exporter-tests-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    is_alone = item.get_closest_marker("alone") is not None
    with (
        (folder / "door").open("ab") as door,
        (folder / "room").open("ab") as room,
        pytest.MonkeyPatch.context() as patch,
    ):
        if is_alone:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)
