"""Read files that may be of any type and size, because a user named them by mistake."""

import errno
import os
import stat
from pathlib import Path

from braze_exporter.config.document import ConfigError, Problem

# A config with the maximum number of values is smaller, and so is a file of certificates.
MAX_FILE_BYTES = 4 * 1024**2


def read_file(path: str | Path, max_bytes: int = MAX_FILE_BYTES, *, may_be_stream: bool = False) -> bytes:
    """Return the content of the file at `path`.

    Raises `OSError` with a `strerror` if the file cannot be read, is larger than `max_bytes`, or is not a regular file.
    If `may_be_stream` is set, it may also be a pipe or a device. A pipe without a writer is an empty file.
    """
    # Without O_NONBLOCK, opening a FIFO that has no writer would block forever.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not may_be_stream and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        os.set_blocking(file.fileno(), True)  # a writer may be slow
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"Larger than {max_bytes // 1024:,} KiB")
    return content


def is_same_file(path: str, other: str) -> bool:
    """Return whether two paths refer to the same file, including through links. The file may be missing."""
    try:
        return os.path.realpath(path) == os.path.realpath(other) or Path(path).samefile(other)
    except (OSError, ValueError):  # a file does not exist, or a path is invalid
        return False


def read_config_text(path: str, remedy: str) -> str:
    """Return the text of the config file at `path`. Raises `ConfigError`, whose message ends with `remedy`."""
    try:
        return read_file(path, may_be_stream=True).decode()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not UTF-8 text"
        raise ConfigError(path, [Problem((), f"cannot be read ({reason}); {remedy}")]) from None
