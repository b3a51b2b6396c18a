"""The counters: what Braze has reported of each bucket, and the sum of what was new in it.

Braze tells totals of buckets, again and again, and revises them. A counter may only rise, by each occurrence once.
"""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from braze_exporter.catalog import Point

# As many buckets of a query as Braze can tell in one answer; what is older never counts.
MAX_BUCKETS = 100


@dataclass(slots=True)
class _Account:
    """What has been counted of one series: nothing before `floor`, and of each bucket the most that was seen."""

    floor: int
    seen: dict[int, float] = field(default_factory=dict)
    total: float = 0.0


class Ledger:
    """Turns the points of answers into totals that never fall. In memory: a restart begins at 0. Thread-safe."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._accounts: dict[Hashable, _Account] = {}
        self._lock = threading.Lock()

    def record(self, key: Hashable, points: Sequence[Point], asked_from: int) -> None:
        """Take in the points of an answer to the series `key`, which asked for buckets from `asked_from` on.

        The first answer is the ground that later ones rise from and counts nothing. After that a rise of a bucket is
        added, a fall is not subtracted, and a later rise counts only above the most that was seen. Buckets older than
        the oldest that is held do not count.
        """
        with self._lock:
            account = self._accounts.get(key)
            if account is None:
                floor = min((point.start for point in points), default=asked_from)
                self._accounts[key] = _Account(floor, {point.start: point.value for point in points})
                return
            for start, value in points:
                rise = value - account.seen.get(start, 0.0)
                if start >= account.floor and rise > 0:
                    account.total += rise
                    account.seen[start] = value
            for start in sorted(account.seen)[:-MAX_BUCKETS]:
                del account.seen[start]
            if len(account.seen) == MAX_BUCKETS:
                account.floor = min(account.seen)

    def total(self, key: Hashable) -> float:
        """Return what has been counted of the series `key`: 0 before its first answer."""
        with self._lock:
            account = self._accounts.get(key)
            return account.total if account else 0.0
