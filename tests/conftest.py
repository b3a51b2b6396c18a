"""Runs tests marked `alone` without other tests at the same time.

These tests, and those marked `no_cover`, run without coverage measurement: neither in this process nor in the programs
that they start. It would make them two to three times as slow.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from coverage import Coverage
from hypothesis import settings

# Test machines may be slow or busy.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

TURN = pytest.StashKey[contextlib.ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """Stop the measurements that coverage and pytest-cov begin at the start of a worker of pytest-xdist.

    pytest-cov then begins another one, which it pauses for `no_cover` tests. The earlier ones would continue meanwhile.
    """
    while hasattr(config, "workerinput") and (measurement := Coverage.current()) is not None:
        measurement.stop()


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Exclude `alone` tests from coverage measurement, and run them last.

    Each of them waits for the tests that run at that moment. At the end there are none.
    """
    items.sort(key=is_alone)
    for item in items:
        if is_alone(item):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def log_without_exceptions(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if the test has logged an exception, for which the exporter has no other message.

    A test that causes an exception on purpose checks its message and clears the log.
    """
    yield
    logged = [record for record in caplog.get_records("call") if record.exc_info]
    assert not logged, f"{logged[0].getMessage()}: {logged[0].exc_text or logged[0].exc_info}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Run a test in parallel with others or, if it is marked `alone`, exclusively.

    Consecutive `alone` tests share one exclusive lock. The timeout of a test does not include the wait for the lock.
    """
    stash = item.config.stash
    if TURN not in stash:
        stash[TURN] = acquire_turn(is_alone=is_alone(item))
    try:
        with pytest.MonkeyPatch.context() as patch:
            if item.get_closest_marker("no_cover") is not None:
                patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            return (yield)
    finally:
        if nextitem is None or not (is_alone(item) and is_alone(nextitem)):
            stash[TURN].close()
            del stash[TURN]


def is_alone(item: pytest.Item) -> bool:
    """Return whether a test must run without other tests at the same time."""
    return item.get_closest_marker("alone") is not None


def acquire_turn(*, is_alone: bool) -> contextlib.ExitStack:
    """Wait for the lock and return an `ExitStack` that releases it.

    The lock covers all test runs of a user on a machine. A run that waits for the exclusive lock holds the `door` lock,
    so that no other test can start first.
    """
    folder = Path(tempfile.gettempdir(), f"braze-exporter-tests-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        room = stack.enter_context((folder / "room").open("ab"))
        with (folder / "door").open("ab") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        return stack.pop_all()
