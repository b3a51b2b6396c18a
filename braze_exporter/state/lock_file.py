"""The lock of the state file, which one process at a time holds."""

import contextlib
import fcntl
import io
import logging
import os
import time
from pathlib import Path

from braze_exporter.config.document import shorten_path
from braze_exporter.state.database import check_regular
from braze_exporter.state.errors import ForeignFileError, StateFileError

# The interval between two attempts to lock the file, in seconds.
_LOCK_RETRY_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Deadline:
    """The end of the wait for another process that has locked the file at `path`, `seconds` from now."""

    def __init__(self, path: Path, seconds: float) -> None:
        """Start the wait."""
        self._path = path
        self._seconds = seconds
        self._ends_at = time.monotonic() + seconds
        self._is_logged = False

    def wait(self) -> bool:
        """Wait a moment and return true, or return false after the deadline. The first wait is logged.

        Waits are short, since the system may deliver a signal to another thread, which does not end a sleep.
        """
        if time.monotonic() >= self._ends_at:
            return False
        if not self._is_logged:
            self._is_logged = True
            fields = {"file": str(self._path), "timeout": f"{self._seconds:g}s"}
            _log.warning("State file is locked by another exporter, waiting", extra={"fields": fields})
        time.sleep(_LOCK_RETRY_SECONDS)
        return True


def lock_path(real: Path) -> Path:
    """Return the path of the lock file of the state file at `real`."""
    return real.with_name(f"{real.name}.lock")


def lock_file(real: Path, deadline: Deadline) -> io.FileIO:
    """Lock the lock file of the state file at `real`, and return it. Closing it releases the lock.

    Raises `StateFileError` if another process holds the lock until `deadline`, or if the file cannot be locked. A file
    system without locks is refused, since two exporters could then write the state file.
    """
    path, remedy = lock_path(real), "choose another path for state_file"
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_lock_file(real, path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(path.lstat(), os.fstat(file.fileno())):
                    stack.pop_all()
                    return file
            except FileNotFoundError:  # deleted since it was opened
                continue
            except BlockingIOError:
                if not deadline.wait():
                    raise StateFileError(describe_lock(str(real))) from None
            except OSError as error:
                shown_path = shorten_path(path)
                text = f"{shown_path} cannot be locked ({error.strerror}); {remedy}, on a file system with locks"
                raise StateFileError(text) from error


def _open_lock_file(real: Path, path: Path) -> io.FileIO:
    """Open the lock file at `path`, or create it. Raises `StateFileError`."""
    remedy = "choose another path for state_file"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with contextlib.suppress(FileNotFoundError):  # before opening, which may have side effects on a device
            check_lock_file(path, path.lstat())
        file = io.FileIO(path, "r+", opener=lambda name, _flags: os.open(name, flags, 0o600))
        with contextlib.ExitStack() as stack:
            stack.enter_context(file)
            check_lock_file(path, os.fstat(file.fileno()))
            stack.pop_all()
    except ForeignFileError as error:
        raise StateFileError(f"{error}; {remedy}, or move the file") from None
    except OSError as error:
        shown_path = shorten_path(path if os.path.lexists(path) else real)
        raise StateFileError(
            f"{shown_path} cannot be used ({error.strerror}); {remedy}, or make this one writable"
        ) from error
    return file


def check_lock_file(path: Path, status: os.stat_result) -> None:
    """Raise `ForeignFileError` if the file with this `status` is not a lock file, which is regular and empty."""
    check_regular(path, status.st_mode)
    if status.st_size:
        raise ForeignFileError(f"{shorten_path(path)} is a file of another type")


def describe_lock(path: str) -> str:
    """Return the message about a state file that another process has locked."""
    remedy = "use one state file per exporter, or wait until it has stopped"
    return f"{shorten_path(path)} is locked by another exporter; {remedy}"
