"""How many buckets a call requests. Pure functions."""

import math

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query

# The minimum number of buckets that a usual fetch requests: one day of hours, or two weeks of days, for late data.
DEFAULT_LENGTH = {Unit.HOUR: 24, Unit.DAY: 14}
# The bucket in progress, the bucket in which `settle` begins, and one more in case Braze's clock is ahead.
MARGIN_BUCKETS = 3


def newest_length(unit: Unit, settle: float) -> int:
    """Return the number of newest buckets among which at least one has settled, `settle` being in seconds."""
    return math.ceil(settle / unit.seconds) + MARGIN_BUCKETS


def query_length(unit: Unit, settle: float) -> int:
    """Return how many buckets a usual fetch requests, `settle` being in seconds."""
    return max(DEFAULT_LENGTH[unit], newest_length(unit, settle))


def fetch_length(query: Query, since: float | None, now: float) -> int:
    """Return how many buckets a fetch at `now` requests, if the last response was requested at `since`.

    `since` and `now` are in seconds since the epoch. The result is the usual length plus the number of units that have
    passed since then, up to Braze's maximum. So no bucket is missed after an outage.
    """
    missed = 0 if since is None else max(0, int((now - since) // query.unit.seconds))
    return min(query.length + missed, query.kind.max_length)
