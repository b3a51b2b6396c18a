"""Collects what has changed in the parts of the exporter, and writes it in one transaction."""

from collections.abc import Callable, Sequence
from typing import Protocol

from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import TableChanges, merge_changes


class StateSource(Protocol):
    """A part of the exporter whose state is kept in the state file. Thread-safe."""

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would return changes. Does not wait for other threads."""

    def take_changes(self) -> TableChanges:
        """Return what has changed since the last call."""


class StateChanges:
    """What has changed since the last successful write of the state file."""

    def __init__(
        self, state_file: StateFile | None, sources: Sequence[StateSource], on_written: Callable[[], None]
    ) -> None:
        """Collect the changes of `sources`, in this order.

        `on_written` is called after each successful write. Without a state file nothing is written.
        """
        self._state_file = state_file
        self._sources = sources
        self._on_written = on_written
        self._unwritten: TableChanges = {}

    @property
    def has_changes(self) -> bool:
        """Whether there is something to write. Does not wait for other threads."""
        return bool(self._unwritten) or any(source.has_changes for source in self._sources)

    def write(self) -> None:
        """Write all changes in one durable transaction. At most one thread may write at a time.

        Raises `StateFileError` if that fails. The next call then writes them too.
        """
        for source in self._sources:
            self._unwritten = merge_changes(self._unwritten, source.take_changes())
        if self._unwritten and self._state_file is not None:
            self._state_file.write(self._unwritten)
        self._unwritten = {}
        self._on_written()
