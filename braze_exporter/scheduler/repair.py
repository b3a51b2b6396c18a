"""Chooses which buckets the next fetch of a query requests.

A repair reads all buckets that may have changed since the last complete repair. Usually one fetch does that. After a
malformed or oversized response, every second fetch is short: it requests only the newest buckets. So a repair that
fails again and again does not hide the newest buckets. Nothing here reads a clock.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from braze_exporter.braze.buckets import bucket_start
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query

# The minimum number of buckets that a usual fetch requests: one day of hours, or two weeks of days, for late data.
DEFAULT_LENGTH = {Unit.HOUR: 24, Unit.DAY: 14}
# The bucket in progress, the bucket in which `settle` begins, and one more in case Braze's clock is ahead.
MARGIN_BUCKETS = 3
# The failures after which a shorter request may succeed.
_SHORTER_REQUEST_REASONS = {Reason.INVALID_RESPONSE, Reason.TOO_LARGE}
# Seconds for which the maximum length stays reduced after an oversized response.
_REDUCED_LENGTH_SECONDS = 7 * 86_400.0
# The minimum interval between two immediate retries of a query, in seconds.
_IMMEDIATE_RETRY_INTERVAL_SECONDS = 3_600.0


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


@dataclass(frozen=True, slots=True)
class BucketRequest:
    """A request for `length` buckets up to `ending_at`, or up to now if that is None.

    `started_at` is when the first request of the repair was sent. If the repair also needs buckets before those of this
    request, `oldest` is the start of the oldest one. `is_newest_only` is true for a request for only the newest
    buckets, which is not part of a repair. Times are in seconds since the epoch.
    """

    length: int
    started_at: float
    oldest: int | None = None
    ending_at: int | None = None
    is_newest_only: bool = False


@dataclass(slots=True)
class RequestPlanner:
    """Chooses the requests of one query. Not thread-safe.

    After a malformed or oversized response every second fetch is short, until a repair is complete. An oversized
    response also halves the maximum length for a week. The repair then reads the newest buckets first and continues
    with older ones, one chunk at a time. `completed_at` is when the last complete repair began, in seconds since the
    epoch, or None before the first. `request` is the last request, which the state file does not have.
    """

    completed_at: float | None = None
    request: BucketRequest | None = None
    max_length: float = math.inf
    oversized_at: float = -math.inf
    immediate_retry_at: float = -math.inf
    is_alternating: bool = False
    is_short_next: bool = False
    next_chunk: BucketRequest | None = None

    def to_json(self) -> dict[str, object]:
        """Return the state as a JSON object. `from_json` makes it again."""
        saved = [item for item in fields(self) if item.name != "request"]
        state = {item.name: getattr(self, item.name) for item in saved if getattr(self, item.name) != item.default}
        return state | ({"next_chunk": astuple(self.next_chunk)} if self.next_chunk is not None else {})

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "RequestPlanner":
        """Return the planner that `to_json` described. Raises `TypeError` if its next request is invalid."""
        planner = cls(**state)
        if "next_chunk" in state:
            planner.next_chunk = BucketRequest(*state["next_chunk"])
        return planner

    def next_request(self, query: Query, needed_length: int, now: float) -> BucketRequest:
        """Return the next request for `query` at `now`. A new repair reads the newest `needed_length` buckets."""
        if now - self.oversized_at >= _REDUCED_LENGTH_SECONDS:
            self.max_length = math.inf
        if self.is_alternating and self.is_short_next:
            self.request = BucketRequest(newest_length(query.unit, query.settle_seconds), now, is_newest_only=True)
        elif self.next_chunk is not None:
            self.request = self.next_chunk
        elif needed_length <= self.max_length:
            self.request = BucketRequest(needed_length, now)
        else:
            self.request = BucketRequest(int(self.max_length), now, first_start(now, needed_length, query))
        return self.request

    def record_success(self, query: Query, sent_at: float, oldest: int | None) -> bool:
        """Register that the last request, sent at `sent_at` (seconds since the epoch), succeeded.

        `oldest` is the start of the oldest bucket of the response, or None if it has no buckets. Return whether the
        repair is complete. If a response up to now has no buckets, it is not.
        """
        request = self.request
        if request is None:
            return False
        self.is_short_next = not request.is_newest_only
        if request.is_newest_only:
            return False
        is_newest = request.ending_at is None
        if is_newest:
            request = replace(request, started_at=min(request.started_at, sent_at))
        is_repair_empty = is_newest and oldest is None
        self.next_chunk = None if is_repair_empty else self._older_request(request, query, oldest)
        self.is_alternating = self.next_chunk is not None
        if self.is_alternating or is_repair_empty:
            return False
        self.completed_at = request.started_at
        return True

    def tolerates(self, error: BrazeError) -> bool:
        """Return whether the query stays up if the last request failed with `error`, since its short fetches succeed.

        It must be called before `record_failure`.
        """
        is_part_of_repair = self.is_alternating and self.request is not None and not self.request.is_newest_only
        return is_part_of_repair and (error.is_transient or error.reason in _SHORTER_REQUEST_REASONS)

    def record_failure(self, query: Query, error: BrazeError) -> bool:
        """Register that the last request failed with `error`.

        Return whether the query must be fetched again at once, since a shorter request may succeed.
        """
        request = self.request
        if request is None or not (error.is_transient or error.reason in _SHORTER_REQUEST_REASONS):
            return False
        if error.is_transient:
            self.is_short_next = True  # so that the newest buckets are fetched first once Braze responds again
            return False
        if error.reason is Reason.TOO_LARGE:
            self.max_length = max(newest_length(query.unit, query.settle_seconds), halve_length(request.length))
            self.oversized_at = request.started_at
        is_retried_at_once = (
            not self.is_alternating
            and request.started_at - self.immediate_retry_at >= _IMMEDIATE_RETRY_INTERVAL_SECONDS
        )
        if is_retried_at_once:
            self.immediate_retry_at = request.started_at
        self.next_chunk = None
        self.is_alternating = True
        self.is_short_next = not request.is_newest_only
        return is_retried_at_once

    def _older_request(self, request: BucketRequest, query: Query, oldest: int | None) -> BucketRequest | None:
        """Return the request for the buckets before those of `request`, or None if the repair does not need any.

        `oldest` is the start of the oldest bucket of the response. It is used for a request up to now, since the
        exporter's clock and Braze's may differ.
        """
        start = oldest if request.ending_at is None else first_start(request.ending_at, request.length, query)
        if request.oldest is None or start is None or start <= request.oldest:
            return None
        end = start - 1
        length = 1
        while length < self.max_length and first_start(end, length, query) > request.oldest:
            length += 1
        return replace(request, length=length, ending_at=end)


def halve_length(length: int) -> int:
    """Return half of a number of buckets, rounded up."""
    return (length + 1) // 2


def first_start(end: float, length: int, query: Query) -> int:
    """Return the start of the first of `length` buckets. The last one contains `end`."""
    start = bucket_start(end, query.unit, query.zone)
    for _ in range(length - 1):
        start = bucket_start(start - 1, query.unit, query.zone)
    return start
