"""Test that one thread writes the state file, and that failed and slow writes are counted and logged once."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Clock, wait_until

from braze_exporter.state.errors import StateFileError
from braze_exporter.state.state_file import open_state_file
from braze_exporter.state.tables import TableChanges
from braze_exporter.state.writer import StateChanges, StateWriter

FAILED, AGAIN = "State file could not be written, counters are not updated", "State file written again"


class Disk:
    """A part of the exporter on a disk that the test lets finish each write."""

    def __init__(self) -> None:
        self.has_changes = True
        self.error: Exception | None = None
        self.writes = 0
        self.failures = 0
        self.begun, self.may_end = threading.Semaphore(0), threading.Semaphore(0)

    def take_changes(self) -> TableChanges:
        """Write once the test allows it."""
        self.writes += 1
        self.begun.release()
        assert self.may_end.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        return {}

    def count_failure(self) -> None:
        """Count a failure."""
        self.failures += 1


@contextlib.contextmanager
def running_writer(disk: Disk, clock: Clock) -> Iterator[StateWriter]:
    """Run a writer to `disk`, and end its thread."""
    changes = StateChanges(None, [disk], on_written=lambda: None)
    writer = StateWriter(changes, on_failure=disk.count_failure, monotonic=clock.monotonic)
    yield writer
    disk.may_end.release(10)
    assert writer.close(10)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="braze_exporter")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged messages."""
    return [record.getMessage() for record in caplog.records]


def test_requests_during_write_share_next_write() -> None:
    """Requests that arrive during a write are done after the next one, which has all changes."""
    disk = Disk()
    with running_writer(disk, Clock()) as writer:
        first = writer.request()
        assert disk.begun.acquire(timeout=10)
        others = [writer.request() for _ in range(5)]
        disk.may_end.release()
        first.result(10)
        assert disk.begun.acquire(timeout=10)
        assert not any(other.done() for other in others)
        disk.may_end.release()
        for other in others:
            other.result(10)
        assert disk.writes == 2


def test_request_without_changes_writes_nothing() -> None:
    """Without changes a request is done at once, but not while the last changes are being written."""
    disk = Disk()
    with running_writer(disk, Clock()) as writer:
        disk.has_changes = False
        assert writer.request().done()
        disk.has_changes = True
        writer.request()
        assert disk.begun.acquire(timeout=10)
        disk.has_changes = False
        assert not writer.request().done()
        assert disk.writes == 1


def test_changes_are_written_without_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that no scrape writes are written after a while, and only once."""
    monkeypatch.setattr("braze_exporter.state.writer.WRITE_INTERVAL_SECONDS", 0.02)
    disk = Disk()
    with running_writer(disk, Clock()):
        assert disk.begun.acquire(timeout=10)
        disk.has_changes = False
        disk.may_end.release()
        assert not disk.begun.acquire(timeout=0.2)


def test_slow_write_counts_as_failed_each_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A write that has run for 10 s counts as failed, again after each minute, and is logged once."""
    disk, clock = Disk(), Clock()
    with running_writer(disk, clock) as writer:
        written = writer.request()
        assert disk.begun.acquire(timeout=10)
        counts = []
        for seconds in (9.5, 0.5, 1.0, 58.5, 0.5, 60.0, 120.0):
            clock.advance(seconds)
            writer.request()
            counts.append((disk.failures, writer.is_stalled))
        assert counts == [(0, False), (1, True), (1, True), (1, True), (2, True), (3, True), (5, True)]
        assert messages(caplog) == [FAILED]
        assert caplog.records[0].__dict__["fields"] == {"reason": "the disk has not responded for 10s"}
        disk.may_end.release()
        written.result(10)
        wait_until(lambda: not writer.is_stalled, "the write has ended")
    assert disk.failures == 5
    assert messages(caplog) == [FAILED, AGAIN]


def test_slow_write_without_scrapes_counts_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """A write during which there was no scrape counts for its whole duration, and so does the next one."""
    disk, clock = Disk(), Clock()
    with running_writer(disk, clock) as writer:
        for failures in (2, 4):
            written = writer.request()
            assert disk.begun.acquire(timeout=10)
            clock.advance(70)
            disk.may_end.release()
            written.result(10)
            assert disk.failures == failures
    assert messages(caplog) == [FAILED, AGAIN] * 2


@pytest.mark.parametrize("error", [StateFileError("disk full"), ZeroDivisionError("a bug")])
def test_failed_write_releases_requests(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """A request is done after a failed write too, and the next one tries again. Each new reason is logged once."""
    disk = Disk()
    with running_writer(disk, Clock()) as writer:
        disk.error = error
        disk.may_end.release(2)
        for _ in range(2):
            writer.request().result(10)
        assert (disk.failures, writer.is_stalled) == (2, True)
        assert messages(caplog).count(FAILED) == 1
        disk.error = StateFileError("another reason")
        disk.may_end.release()
        writer.request().result(10)
        disk.error = None
        disk.may_end.release()
        writer.request().result(10)
        assert (disk.failures, writer.is_stalled) == (3, False)
    assert messages(caplog).count(FAILED) == 2
    assert messages(caplog).count(AGAIN) == 1
    caplog.clear()


def test_close_waits_for_last_write() -> None:
    """Closing writes the remaining changes, and gives up if the disk does not respond."""
    disk = Disk()
    with running_writer(disk, Clock()) as writer:
        assert not writer.close(0.01)
        disk.may_end.release()
        assert writer.close(10)
        assert disk.writes == 1
        assert writer.request().result(0) is False
        disk.has_changes = False
        assert writer.request().result(0) is True


def test_rows_of_failed_write_are_deleted_later(tmp_path: Path) -> None:
    """If a row that could not be written is deleted before the next write, that one does not write it."""
    kept: TableChanges = {("baselines", (2, 7)): (2, 7, b"")}
    changes: Iterator[TableChanges] = iter([{("baselines", (1, 7)): (1, 7, b""), **kept}, {("baselines", (1,)): None}])

    class Source:
        has_changes = True

        def take_changes(self) -> TableChanges:
            return next(changes)

    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        state_changes = StateChanges(state_file, [Source()], on_written=lambda: None)
        (tmp_path / "state").rename(tmp_path / "moved")
        with pytest.raises(StateFileError):
            state_changes.write()
        (tmp_path / "moved").rename(tmp_path / "state")
        state_changes.write()
        assert state_file.read_table("baselines") == [*kept.values()]
