"""Which buckets the next fetch of a query requests: all that repair needs, or the newest alone after a bad response.

Pure. A malformed or oversized response must not hide the newest buckets, and a short response must not end the repair.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from braze_exporter.buckets import bucket_start
from braze_exporter.catalog import BrazeError, Query, Reason
from braze_exporter.plan import newest_length

# A shorter request may succeed where these fail.
SHORTENED = {Reason.BAD_ANSWER, Reason.TOO_LARGE}


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `length` buckets up to `ending_at`, in seconds since the epoch, or up to now if that is None.

    It `is_short` if it is for the newest buckets alone. `rest` is the number of older buckets that the repair still
    needs after it, and `begun_at` the time at which its first request was sent, in seconds since the epoch.
    """

    length: int
    begun_at: float
    rest: int = 0
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
    a short one, until a repair succeeds. An oversized one halves the length, which is remembered: the repair then
    begins with the newest buckets and goes back in pieces. `done_at` is the time at which the last complete repair
    began, in seconds since the epoch, None before the first.
    """

    __slots__ = ("_alternates", "_is_short_next", "_next_piece", "done_at", "max_length", "request")

    def __init__(self, max_length: int) -> None:
        """Request at most `max_length` buckets at once."""
        self.max_length = max_length
        self.done_at: float | None = None
        self.request: Request | None = None
        self._alternates = False
        self._is_short_next = False
        self._next_piece: Request | None = None

    def next_request(self, query: Query, needed: int, now: float) -> Request:
        """Return what to request of `query` at `now`, if the repair needs the newest `needed` buckets."""
        if self._alternates and self._is_short_next:
            length = min(newest_length(query.unit, query.settle), self.max_length)
            self.request = Request(length, now, is_short=True)
        elif self._next_piece is not None:
            self.request = self._next_piece
        else:
            length = min(needed, self.max_length)
            self.request = Request(length, now, needed - length)
        return self.request

    def note_success(self, query: Query, sent_at: float, *, is_empty: bool) -> Outcome:
        """Note that the request succeeded, which was sent at `sent_at`. An empty response completes no repair."""
        request = self.request
        if request is None:
            return Outcome()
        self._is_short_next = not request.is_short
        if request.is_short:
            return Outcome()
        begun_at = min(request.begun_at, sent_at)
        self._next_piece = self._older(replace(request, begun_at=begun_at), query)
        self._alternates = self._next_piece is not None
        if self._alternates or (is_empty and request.ending_at is None):
            return Outcome()
        self.done_at = begun_at
        return Outcome(is_complete=True)

    def note_failure(self, error: BrazeError) -> Outcome:
        """Note that the request failed with `error`."""
        request = self.request
        if request is None or error.reason not in SHORTENED:
            return Outcome()
        if error.reason is Reason.TOO_LARGE:
            self.max_length = halved(request.length)
        alternated, self._alternates = self._alternates, True
        self._is_short_next = not request.is_short
        self._next_piece = None
        return Outcome(is_due=not alternated, is_tolerated=alternated and not request.is_short)

    def _older(self, request: Request, query: Query) -> Request | None:
        """Return the request for the buckets before those of `request`, or None if the repair needs none of them."""
        if not request.rest:
            return None
        end = request.begun_at if request.ending_at is None else request.ending_at
        length = min(request.rest, self.max_length)
        return replace(
            request,
            length=length,
            rest=request.rest - length,
            ending_at=_last_second_before(end, request.length, query),
        )


def halved(length: int) -> int:
    """Return half of a number of buckets, at least 1."""
    return max(1, (length + 1) // 2)


def halves(piece: Query) -> tuple[Query, ...]:
    """Return the requests that share the buckets of a piece of history: the older half, then the newer one.

    A piece of one bucket has none.
    """
    if piece.ending_at is None or piece.length == 1:
        return ()
    length = halved(piece.length)
    end = _last_second_before(piece.ending_at, length, piece)
    return replace(piece, length=piece.length - length, ending_at=end), replace(piece, length=length)


def chunks(piece: Query, max_length: int) -> tuple[Query, ...]:
    """Return the requests of at most `max_length` buckets that share those of a piece of history, the oldest first."""
    found = halves(piece) if piece.length > max_length else ()
    return tuple(chunk for half in found for chunk in chunks(half, max_length)) or (piece,)


def _last_second_before(end: float, length: int, query: Query) -> int:
    """Return the last second before `length` buckets, the newest of which holds `end`."""
    start = bucket_start(end, query.unit, query.zone)
    for _ in range(length - 1):
        start = bucket_start(start - 1, query.unit, query.zone)
    return start - 1
