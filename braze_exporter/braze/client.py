"""One authenticated GET → what its answer says, or a typed `BrazeError`. Nothing is kept, nothing is repeated."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from braze_exporter.braze import list_page, parsing
from braze_exporter.braze.calls import Call, Fetched, Permit, Quota, Told
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import Listed, Listing
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.braze.transport import Received, Transport

# How much of Braze's own words goes into a log line.
_MOST_SAID = 200
# The objects of a large response take many times its size, so only one is parsed at a time, whatever its workspace.
_PARSING = threading.Lock()
# By so much, in seconds, our clock may be ahead of Braze's where the end of an answer has to be given.
_A_LITTLE = 60.0

T = TypeVar("T")


class Client:
    """Asks Braze for one workspace. Thread-safe."""

    def __init__(
        self,
        transport: Transport,
        *,
        workspace: str,
        redact: Callable[[str], str],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        on_call: Callable[[Call], None],
    ) -> None:
        """Ask over `transport` for the `workspace` of that name.

        `redact` takes the key out of a text. `wall` tells seconds since the epoch, `monotonic` seconds that never jump;
        `on_call` is told of every call.
        """
        self._transport = transport
        self._workspace = workspace
        self._redact = redact
        self._wall = wall
        self._monotonic = monotonic
        self._on_call = on_call
        # By how many seconds our clock was ahead of Braze's when it last told the time.
        self._ahead = 0.0

    def fetch(self, query: Query, length: int, permit: Permit) -> Fetched:
        """Ask Braze once, with leave to, for the newest `length` buckets of `query`.

        Raises `BrazeError` if it was not answered.
        """

        def read(body: bytes, earliest: float, latest: float) -> tuple[Series, ...]:
            return parsing.series(query, body, length, earliest, latest)

        return Fetched(*self._ask(query.kind, _parameters(query, length, self._wall() - self._ahead), permit, read))

    def page(self, listing: Listing, number: int, permit: Permit) -> tuple[Listed | None, ...]:
        """Ask Braze once, with leave to, for a page of a list, from 0, and return its rows; none are after the end.

        A row that cannot be read is None. Raises `BrazeError` if it was not answered.
        """

        def read(body: bytes, _earliest: float, _latest: float) -> tuple[Listed | None, ...]:
            return list_page.listed(listing, body)

        rows, _ = self._ask(listing, {"page": str(number), **dict(listing.parameters)}, permit, read)
        return rows

    def _ask(
        self, at: Endpoint, parameters: Mapping[str, str], permit: Permit, read: Callable[[bytes, float, float], T]
    ) -> tuple[T, float | None]:
        """Ask `at` an endpoint; return what is `read` in the body, and when Braze answered by its own clock.

        `read` is given the time of the response too, by the clock that is behind and by the one that is ahead. Raises
        `BrazeError` if it was not answered.
        """
        started = self._monotonic()
        seconds = 0.0
        received: Received | None = None
        failure: BrazeError | None = BrazeError(Reason.BAD_ANSWER, "a fault of the exporter itself")
        try:
            permit.begin()
            received = self._transport.get(at.endpoint, parameters)
            seconds = self._monotonic() - started
            answered_at = parsing.sent_by_braze_at(received.headers)
            found = self._read(at, received, read, answered_at)
            failure = None
        except BrazeError as error:
            failure = error
            raise
        finally:
            self._account(at, permit, received, failure, self._monotonic() - started if received is None else seconds)
        return found, answered_at

    def _read(
        self, at: Endpoint, received: Received, read: Callable[[bytes, float, float], T], answered_at: float | None
    ) -> T:
        """Return what the answer says, or raise what it means. The status says more than what is behind it."""
        reason = parsing.failure(received.status)
        if reason is Reason.UNAUTHORIZED:  # this body repeats the key, so none of it is shown
            raise BrazeError(reason, unauthorized(at))
        if reason is not None:
            hint = f": the key needs the permission {at.permission}" if reason is Reason.FORBIDDEN else ""
            raise BrazeError(reason, f"HTTP {received.status}{hint}{self._said(received)}")
        if received.failure is not None:
            raise received.failure
        ours = self._wall()
        theirs = ours if answered_at is None else answered_at
        try:
            with _PARSING:
                return read(received.body, min(ours, theirs), max(ours, theirs))
        except BrazeError as error:
            raise BrazeError(error.reason, error.detail + self._said(received)) from None

    def _said(self, received: Received) -> str:
        """Return Braze's own words about a failure, short, printable and without the key, or nothing."""
        said = self._redact(parsing.message(received.body))[:_MOST_SAID]
        if said in ("", "success"):
            return ""
        return ": " + "".join(letter if letter.isprintable() else " " for letter in said)

    def _account(
        self, at: Endpoint, permit: Permit, received: Received | None, failure: BrazeError | None, seconds: float
    ) -> None:
        """Learn from a call and tell of it, however it went."""
        quota, offset, told = Quota(), None, Told()
        reason = failure.reason if failure is not None else None
        try:
            if received is not None:
                ours, theirs = self._wall(), parsing.sent_by_braze_at(received.headers)
                now = ours if theirs is None else theirs  # resets are times of Braze's clock
                offset = None if theirs is None else theirs - ours
                self._ahead = 0.0 if offset is None else max(0.0, -offset)
                quota = parsing.quota(received.headers, now)
                told = Told(
                    quota.limit,
                    quota.remaining,
                    resets_in=None if quota.reset is None else quota.reset - now,
                    retry_after=parsing.retry_after(received.headers),
                    refused=reason is Reason.RATE_LIMITED,
                    answered=reason not in {Reason.RATE_LIMITED, Reason.SERVER_ERROR},
                )
        finally:  # others may wait for the end of this call
            rests = permit.end(failure, told)
        status = received.status if received is not None else None
        self._on_call(
            Call(
                self._workspace,
                at.endpoint,
                at.pool.name,
                status,
                reason,
                seconds,
                quota,
                clock_offset=offset,
                rests=rests,
            )
        )


def unauthorized(at: Endpoint) -> str:
    """Return what a 401 of one endpoint means; what the others say of the key decides which of the two it is."""
    return f"401 Unauthorized: the key lacks the permission {at.permission} (or Braze does not know the key)"


def _parameters(query: Query, length: int, now: float) -> Mapping[str, str]:
    """Return what is sent to ask for a query at `now`."""
    parameters = {"length": str(length), **dict(query.kind.parameters)}
    if query.asked:
        parameters[query.kind.parameter] = query.asked
    if len(query.kind.units) > 1:
        parameters["unit"] = query.unit.value
    if query.app_id:
        parameters["app_id"] = query.app_id
    if query.segment_id:
        parameters["segment_id"] = query.segment_id
    # Without it an answer runs up to the time of the request; Braze refuses one in the future.
    end = now - _A_LITTLE if query.ending_at is None and query.kind.needs_end else query.ending_at
    if end is not None:
        parameters["ending_at"] = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return parameters
