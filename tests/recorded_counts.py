"""Counts that a test sets, for a simulated Braze."""

from collections.abc import Collection

from braze_exporter.simulator.traffic import Counts


class RecordedCounts:
    """Counts that a test sets, over those of other traffic, to simulate late data, silence or a revision.

    A count that was not set comes from `base`, or is 0. Filtered counts are not summed: set each of them.
    """

    def __init__(self, base: Counts | None = None, events: Collection[str] = ()) -> None:
        """Start with the counts of `base`, and with further `events` that exist but have no occurrences."""
        self._base = base
        self._events = frozenset(events)
        self._counts: dict[tuple[str, int, str, str], int] = {}

    @property
    def events(self) -> Collection[str]:
        """The names of all events, including those of `base`."""
        base = self._base.events if self._base else ()
        return {*base, *self._events}

    def set(self, event: str, hour_start: int, value: int, app_id: str = "", segment_id: str = "") -> None:
        """Set Braze's count of this hour from now on."""
        self._events |= {event}
        self._counts[event, hour_start, app_id, segment_id] = value

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return the count that was set, at any `now`, or else the count of `base`."""
        value = self._counts.get((event, hour_start, app_id, segment_id))
        if value is None:
            return self._base.count(event, hour_start, now, app_id, segment_id) if self._base else 0
        return value
