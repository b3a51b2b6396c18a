"""The state of the counters of a query, and the keys of counters and names."""

import bisect
import json
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from braze_exporter.braze.kinds import MAX_LENGTH, Unit

# Workspace, url, kind, subject, alias and id of the app, alias and id of the segment. Aliases are the names in the
# config. The subject is Braze's id, or else its name. Ids of hex digits and dashes are in lower case. What is not
# applicable is empty.
CounterKey = tuple[str, ...]
# The key of a series among those of its query (see `SeriesHead`), empty if the query has only one series.
SeriesKey = tuple[str, ...]
# Workspace, url, kind and id.
NameKey = tuple[str, str, str, str]
# The unit, the time of the last request and the zone of a counter state.
CounterRow = tuple[str, float, str]

# Total, withheld amount, floor and newest bucket of a counter, before its highest values.
_COUNTER = struct.Struct("=ddqq")


@dataclass(slots=True)
class Counter:
    """The counter of one series.

    `total` is its value. Buckets before number `floor` are not counted. `highest` has the highest value of each bucket
    in `CounterState.numbers`: 0 for a bucket that no response had, and NaN for one without a number yet, whose first
    number is not counted. It may be shared, so it is never modified. `newest` is the number of the newest bucket that a
    response had. `withheld` is an amount that was counted but is not exported yet.

    The state file does not have the other fields. `exported_total` is the total at the last successful write. If
    `is_unexposed`, the total was on no page yet. `recorded` has the values that were recorded last.
    """

    floor: int
    highest: "array[float]"
    newest: int
    total: float = 0.0
    withheld: float = 0.0
    exported_total: float = 0.0
    is_unexposed: bool = False
    recorded: "array[float] | None" = None


@dataclass(slots=True)
class CounterState:
    """The counters of one query, fed by responses of one `unit`.

    `requested_at` is the time of the request for the newest complete response, in seconds since the epoch. Until there
    is one, it is that of the first response, or 0 if that was short. `zone` is the name of the time zone for hours that
    Braze sent without a zone, empty if it is not known. `numbers` are the numbers of the buckets whose values are
    known, in ascending order. All counters share them.
    """

    unit: Unit
    requested_at: float
    zone: str = ""
    numbers: tuple[int, ...] = ()
    counters: dict[SeriesKey, Counter] = field(default_factory=dict)
    _packed_keys: bytes = field(default=b"", repr=False, compare=False)  # of `counters`, until these change

    def add_counter(self, key: SeriesKey, counter: Counter) -> None:
        """Add the counter of a series, or replace it."""
        self.counters[key] = counter
        self._packed_keys = b""

    def remove_counter(self, key: SeriesKey) -> None:
        """Remove the counter of a series."""
        del self.counters[key]
        self._packed_keys = b""

    def remove_before(self, number: int) -> None:
        """Forget the buckets before `number`. They are never counted again."""
        index = bisect.bisect_left(self.numbers, number)
        if index:
            self._keep(self.numbers[index:], number)

    def add_buckets(self, numbers: Iterable[int]) -> None:
        """Add buckets that no response had yet. Only the newest `MAX_LENGTH` buckets are kept."""
        kept = tuple(sorted({*self.numbers, *numbers}))[-MAX_LENGTH:]
        if kept != self.numbers:
            self._keep(kept, kept[0] if len(kept) == MAX_LENGTH else None)

    def _keep(self, numbers: tuple[int, ...], floor: int | None) -> None:
        indexes = {number: index for index, number in enumerate(self.numbers)}
        kept = [indexes.get(number) for number in numbers]
        for counter in self.counters.values():
            highest = counter.highest
            counter.highest = array("d", [0.0 if index is None else highest[index] for index in kept])
            counter.floor = counter.floor if floor is None else max(counter.floor, floor)
        self.numbers = numbers

    def to_row(self) -> CounterRow:
        """Return what the state file keeps besides the counters."""
        return (self.unit.value, self.requested_at, self.zone)

    def pack_counters(self) -> bytes:
        """Return the counters in a form for `unpack_counters`."""
        keys = self._packed_keys = self._packed_keys or json.dumps([*self.counters], separators=(",", ":")).encode()
        parts = [struct.pack(f"=II{len(self.numbers)}q", len(keys), len(self.numbers), *self.numbers), keys]
        for counter in self.counters.values():
            header = _COUNTER.pack(counter.total, counter.withheld, counter.floor, counter.newest)
            parts += (header, counter.highest.tobytes())
        return b"".join(parts)

    def unpack_counters(self, packed: bytes) -> None:
        """Replace the counters by those in `packed`. Raises `ValueError` or `TypeError` if it is invalid."""
        try:
            size, length = struct.unpack_from("=II", packed)
            self.numbers = struct.unpack_from(f"={length}q", packed, 8)
            position = 8 + 8 * length + size
            for key in json.loads(packed[position - size : position]):
                total, withheld, floor, newest = _COUNTER.unpack_from(packed, position)
                highest = array("d", packed[position + _COUNTER.size : position + _COUNTER.size + 8 * length])
                position += _COUNTER.size + 8 * length
                is_unexposed = bool(key) and not total
                counter = Counter(floor, highest, newest, total, withheld, total, is_unexposed)
                self.add_counter(tuple(key), counter)
        except struct.error as error:
            raise ValueError(str(error)) from error
        if position != len(packed):
            raise ValueError("wrong number of values")
