"""Counts set by hand, for a simulated Braze."""

from collections.abc import Collection

from braze_exporter.simulator.traffic import Counts


class RecordedCounts:
    """Counts set by hand, over another traffic or over nothing: to script late data, silence or a revision.

    What was not set is what the traffic beneath says, or 0. Filters are not summed up: each is set on its own.
    """

    def __init__(self, base: Counts | None = None, events: Collection[str] = ()) -> None:
        """Start with what is `base`, and with further `events` that exist but have not happened."""
        self._base = base
        self._events = frozenset(events)
        self._counts: dict[tuple[str, int, str, str], int] = {}

    @property
    def events(self) -> Collection[str]:
        """The names of all events, here and beneath."""
        base = self._base.events if self._base else ()
        return {*base, *self._events}

    def set(self, event: str, hour_start: int, value: int, app_id: str = "", segment_id: str = "") -> None:
        """Say what Braze answers for this hour from now on."""
        self._events |= {event}
        self._counts[event, hour_start, app_id, segment_id] = value

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return what was set, whatever `now` is; else what is beneath."""
        value = self._counts.get((event, hour_start, app_id, segment_id))
        if value is None:
            return self._base.count(event, hour_start, now, app_id, segment_id) if self._base else 0
        return value
