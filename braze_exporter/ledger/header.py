"""The first bytes of a file: whether it is a database of ours, before SQLite opens it.

Opening is too late for that: SQLite rolls a hot journal back, and deletes what it takes for an old one.
"""

import stat
from collections.abc import Mapping
from pathlib import Path

from braze_exporter.config.document import shown

# https://www.sqlite.org/fileformat2.html: the file, its rollback journal, whose first bytes are 0 until it is synced,
# and its write-ahead log.
_LENGTH = 100
_MAGIC = b"SQLite format 3\0"
_VERSION, _APPLICATION = slice(60, 64), slice(68, 72)
ROLLBACK_JOURNAL = (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", bytes(8))
WRITE_AHEAD_LOG = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SUFFIXES = ("-journal", "-wal", "-shm")


class ForeignFileError(Exception):
    """A file is not a database of ours; the text says which, and what it is."""


def read_version(path: Path, application: int, beside: Mapping[str, tuple[bytes, ...]]) -> int | None:
    """Return the version of the database of `application` at `path`, or None if it is empty or not there.

    `path` has no links in it, as SQLite follows them. `beside` are the files that such a database may have, each by
    its suffix with the bytes that it may begin with. Raises `ForeignFileError` if the file or one of these is anything
    else, and OSError if one cannot be read. Nothing is changed, and nothing but regular files is opened: a FIFO would
    block, and a device may act.
    """
    header = _begin(path)
    for suffix in _SUFFIXES:
        neighbor = path.with_name(path.name + suffix)
        begin = _begin(neighbor)
        if begin and not begin.startswith(beside.get(suffix, ())):
            raise ForeignFileError(f"{shown(neighbor, 200)} is the file of something else")
    if not header:
        return None
    if len(header) < _LENGTH or not header.startswith(_MAGIC):
        raise ForeignFileError(f"{shown(path, 200)} is the file of something else")
    if int.from_bytes(header[_APPLICATION]) != application:
        raise ForeignFileError(f"{shown(path, 200)} is the database of something else")
    return int.from_bytes(header[_VERSION], signed=True)


def _begin(path: Path) -> bytes:
    """Return the first bytes of a regular file, or none if it is not there."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ForeignFileError(f"{shown(path, 200)} is {what}")
        with path.open("rb") as file:
            return file.read(_LENGTH)
    except FileNotFoundError:
        return b""
