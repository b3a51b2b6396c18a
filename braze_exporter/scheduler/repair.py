"""Which buckets the next fetch of a query requests: all that repair needs, or the newest alone after a bad response.

Pure. A malformed or oversized response must not hide the newest buckets, and a short response must not end the repair.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from braze_exporter.braze.buckets import bucket_start
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import TROUBLES
from braze_exporter.scheduler.plan import newest_length

# A shorter request may succeed where these fail.
SHORTENED = {Reason.INVALID_RESPONSE, Reason.TOO_LARGE}
# How long the length of oversized responses is remembered, in seconds.
_REMEMBERED = 7 * 86_400.0
# How long a query waits for its next time if it was due at once before that, in seconds.
_BETWEEN_HURRIES = 3_600.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `length` buckets up to `ending_at`, in seconds since the epoch, or up to now if that is None.

    It `is_short` if it is for the newest buckets alone. The first request of the repair was sent at `started_at`, in
    seconds since the epoch. If the repair needs older buckets too, they start at `oldest` or later.
    """

    length: int
    started_at: float
    oldest: int | None = None
    ending_at: int | None = None
    is_short: bool = False


class Outcome(NamedTuple):
    """What the end of a fetch means.

    It `is_complete` if all that the repair needs has been read. The query `is_due` at once if a shorter request may
    succeed. A failure `is_tolerated` if short fetches succeed meanwhile.
    """

    is_complete: bool = False
    is_due: bool = False
    is_tolerated: bool = False


class Repair:
    """Chooses the requests of one query. Not thread-safe.

    Usually each fetch requests all that the repair needs. After a malformed or oversized response every second fetch is
    a short one, until a repair succeeds. An oversized one halves the length, which is remembered for a week: the repair
    then begins with the newest buckets and goes back in pieces. `completed_at` is the time at which the last complete
    repair began, in seconds since the epoch, None before the first.
    """

    __slots__ = (
        "_hurried_at",
        "_is_alternating",
        "_is_short_next",
        "_max_length",
        "_next_chunk",
        "_oversized_at",
        "completed_at",
        "request",
    )

    def __init__(self) -> None:
        """Begin with requests of any length."""
        self.completed_at: float | None = None
        self.request: Request | None = None
        self._max_length = math.inf
        self._oversized_at = -math.inf
        self._hurried_at = -math.inf
        self._is_alternating = False
        self._is_short_next = False
        self._next_chunk: Request | None = None

    def next_request(self, query: Query, needed: int, now: float) -> Request:
        """Return what to request of `query` at `now`, if the repair needs the newest `needed` buckets."""
        if now - self._oversized_at >= _REMEMBERED:
            self._max_length = math.inf
        if self._is_alternating and self._is_short_next:
            self.request = Request(newest_length(query.unit, query.settle), now, is_short=True)
        elif self._next_chunk is not None:
            self.request = self._next_chunk
        elif needed <= self._max_length:
            self.request = Request(needed, now)
        else:
            self.request = Request(int(self._max_length), now, _first_start(now, needed, query))
        return self.request

    def record_success(self, query: Query, sent_at: float, oldest: int | None) -> Outcome:
        """Note that the request succeeded, which was sent at `sent_at`.

        `oldest` is the start of the oldest bucket of the response, None if it has none: such a response up to now
        completes no repair.
        """
        request = self.request
        if request is None:
            return Outcome()
        self._is_short_next = not request.is_short
        if request.is_short:
            return Outcome()
        is_newest = request.ending_at is None
        if is_newest:
            request = replace(request, started_at=min(request.started_at, sent_at))
        is_repair_empty = is_newest and oldest is None
        self._next_chunk = None if is_repair_empty else self._older_request(request, query, oldest)
        self._is_alternating = self._next_chunk is not None
        if self._is_alternating or is_repair_empty:
            return Outcome()
        self.completed_at = request.started_at
        return Outcome(is_complete=True)

    def record_failure(self, query: Query, error: BrazeError) -> Outcome:
        """Note that the request failed with `error`."""
        request = self.request
        if request is None or error.reason not in SHORTENED | TROUBLES:
            return Outcome()
        is_tolerated = self._is_alternating and not request.is_short
        if error.reason in TROUBLES:
            self._is_short_next = True  # as soon as Braze responds again, the newest buckets come first
            return Outcome(is_tolerated=is_tolerated)
        if error.reason is Reason.TOO_LARGE:
            self._max_length = max(newest_length(query.unit, query.settle), halved(request.length))
            self._oversized_at = request.started_at
        is_due = not self._is_alternating and request.started_at - self._hurried_at >= _BETWEEN_HURRIES
        if is_due:
            self._hurried_at = request.started_at
        self._next_chunk = None
        self._is_alternating = True
        self._is_short_next = not request.is_short
        return Outcome(is_due=is_due, is_tolerated=is_tolerated)

    def _older_request(self, request: Request, query: Query, oldest: int | None) -> Request | None:
        """Return the request for the buckets before those of `request`, or None if the repair needs none of them.

        Where the clocks differ, only the response tells where the newest buckets begin.
        """
        start = oldest if request.ending_at is None else _first_start(request.ending_at, request.length, query)
        if request.oldest is None or start is None or start <= request.oldest:
            return None
        end = start - 1
        length = 1
        while length < self._max_length and _first_start(end, length, query) > request.oldest:
            length += 1
        return replace(request, length=length, ending_at=end)


def halved(length: int) -> int:
    """Return half of a number of buckets, at least 1."""
    return max(1, (length + 1) // 2)


def halves(history: Query) -> tuple[Query, ...]:
    """Return the requests that share the buckets of a piece of history: the older half, then the newer one.

    A piece of one bucket has none.
    """
    if history.ending_at is None or history.length == 1:
        return ()
    length = halved(history.length)
    end = _first_start(history.ending_at, length, history) - 1
    return replace(history, length=history.length - length, ending_at=end), replace(history, length=length)


def chunks(history: Query, max_length: int) -> tuple[Query, ...]:
    """Return the requests of at most `max_length` buckets that share those of a piece of history, the oldest first."""
    result = halves(history) if history.length > max_length else ()
    return tuple(part for half in result for part in chunks(half, max_length)) or (history,)


def _first_start(end: float, length: int, query: Query) -> int:
    """Return the start of the first of `length` buckets, the last of which holds `end`."""
    start = bucket_start(end, query.unit, query.zone)
    for _ in range(length - 1):
        start = bucket_start(start - 1, query.unit, query.zone)
    return start
