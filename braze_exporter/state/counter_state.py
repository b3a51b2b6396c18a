"""The state of a counter, and the keys of counters and names."""

import json
from dataclasses import dataclass, field, replace

from braze_exporter.braze.kinds import Unit

# Workspace, url, kind, subject, alias and id of the app, alias and id of the segment, then the key of the series if a
# query has several. Aliases are the names in the config. The subject is Braze's id, or else its name. Ids of hex digits
# and dashes are in lower case. What is not applicable is empty.
CounterKey = tuple[str, ...]
# Workspace, url, kind and id.
NameKey = tuple[str, str, str, str]
# The columns of a counter state in the order of its fields. `highest` is JSON.
Row = tuple[str, float, float, int, float, str, str]


@dataclass(slots=True)
class CounterState:
    """The state of one counter, fed by series of one `unit`.

    `total` is the value of the counter. Buckets before `floor` are not counted. `highest` holds the highest value of
    each bucket. It is None for a bucket without a number yet, whose first number is not counted. `requested_at` is the
    time of the request for the newest response with values, in seconds since the epoch. If no response had values, it
    is that of the first response. `withheld` is an amount that was counted but is not exported yet. `zone` is the name
    of the time zone for hours that Braze sent without a zone, empty if it is not known.
    """

    unit: Unit
    total: float
    floor: int
    requested_at: float
    highest: dict[int, float | None] = field(default_factory=dict)
    withheld: float = 0.0
    zone: str = ""

    def copy(self) -> "CounterState":
        """Return an independent copy."""
        return replace(self, highest=dict(self.highest))

    def to_row(self) -> Row:
        """Return the state as an immutable row of the state file."""
        highest = json.dumps(list(self.highest.items()))
        return (self.unit.value, self.total, self.withheld, self.floor, self.requested_at, self.zone, highest)

    @classmethod
    def from_row(cls, row: Row) -> "CounterState":
        """Return the state that a row holds. Raises `ValueError` or `TypeError` if the row is invalid."""
        unit, total, withheld, floor, requested_at, zone, highest = row
        return cls(
            Unit(unit),
            float(total),
            int(floor),
            float(requested_at),
            {int(bucket): None if value is None else float(value) for bucket, value in json.loads(highest)},
            float(withheld),
            str(zone),
        )
