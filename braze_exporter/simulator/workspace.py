"""The simulated workspace: its counts, items and settings."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TypeAlias
from zoneinfo import ZoneInfo

from braze_exporter.braze.pools import Pool
from braze_exporter.simulator.inventory import Inventory
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.traffic import Counts

Endpoint: TypeAlias = tuple[Pool, Callable[[Request], object]]
"""The pool of an endpoint, and the function that returns its JSON document."""


@dataclass(eq=False)
class SimulatedWorkspace:
    """A simulated workspace of Braze. The attributes may be changed between requests.

    Its API key is `key`. `traffic` has the counts of custom events and `series_counts` those of the other series (see
    `simulator.series`). `clock` returns the time in seconds since the epoch; days are those of `zone`. `apps` and
    `segments` are the ids that queries may filter by. `inventory` has the items of the lists.
    """

    key: str
    traffic: Counts
    series_counts: Counts
    clock: Callable[[], float]
    zone: ZoneInfo
    apps: Collection[str]
    segments: Collection[str]
    inventory: Inventory

    def format_hour(self, start: int) -> str:
        """Return the time of the hour that starts at `start`, in the format of `last_edited` in recorded responses."""
        return datetime.fromtimestamp(start, UTC).isoformat()

    def format_day(self, day: date) -> str:
        """Return the time of a day, in the format of every recorded daily series."""
        return day.isoformat()
