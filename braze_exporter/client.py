"""One authenticated GET → the series of its answer, or a typed `BrazeError`. Nothing is kept, nothing is repeated."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from braze_exporter import answer
from braze_exporter.admission import Permit
from braze_exporter.catalog import BrazeError, Call, Fetched, Query, Quota, Reason, Series
from braze_exporter.limiter import Told
from braze_exporter.transport import Received, Transport

# How much of Braze's own words goes into a log line.
_MOST_SAID = 200
# By so much, in seconds, our clock may be ahead of Braze's where the end of an answer has to be given.
_A_LITTLE = 60.0
_UNAUTHORIZED = "HTTP 401: check that the key is a REST API key of this workspace, and that url is its REST endpoint"


class Client:
    """Asks Braze for one workspace. Thread-safe."""

    def __init__(
        self,
        transport: Transport,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        on_call: Callable[[Call], None],
    ) -> None:
        """Ask over `transport`.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump; `on_call` is told of every call.
        """
        self._transport = transport
        self._wall = wall
        self._monotonic = monotonic
        self._on_call = on_call
        # The objects of a large answer take many times its size, so only one is taken apart at a time.
        self._parsing = threading.Lock()

    def fetch(self, query: Query, length: int, permit: Permit) -> Fetched:
        """Ask Braze once, with leave to, for the newest `length` buckets of `query`.

        Raises `BrazeError` if it was not answered.
        """
        started = self._monotonic()
        seconds = 0.0
        received: Received | None = None
        failure: BrazeError | None = BrazeError(Reason.BAD_ANSWER, "a fault of the exporter itself")
        try:
            received = self._get(query, length)
            seconds = self._monotonic() - started
            answered_at = answer.sent_by_braze_at(received.headers)
            series = self._series(query, received, max(self._wall(), answered_at or 0.0))
            failure = None
        except BrazeError as error:
            failure = error
            raise
        finally:
            self._account(
                query, permit, received, failure, self._monotonic() - started if received is None else seconds
            )
        return Fetched(series, answered_at)

    def _get(self, query: Query, length: int) -> Received:
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
        end = self._wall() - _A_LITTLE if query.ending_at is None and query.kind.needs_end else query.ending_at
        if end is not None:
            parameters["ending_at"] = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._transport.get(query.kind.endpoint, parameters)

    def _series(self, query: Query, received: Received, now: float) -> tuple[Series, ...]:
        """Return what the answer says, or raise what it means. The status says more than what is behind it."""
        reason = answer.failure(received.status)
        if reason is Reason.UNAUTHORIZED:  # this body repeats the key, so none of it is shown
            raise BrazeError(reason, _UNAUTHORIZED)
        if reason is not None:
            hint = f": the key needs the permission {query.kind.permission}" if reason is Reason.FORBIDDEN else ""
            raise BrazeError(reason, f"HTTP {received.status}{hint}{self._said(received)}")
        if received.failure is not None:
            raise received.failure
        try:
            with self._parsing:
                return answer.series(query, received.body, now)
        except BrazeError as error:
            raise BrazeError(error.reason, error.detail + self._said(received)) from None

    def _said(self, received: Received) -> str:
        """Return Braze's own words, short, printable and without the key, or nothing."""
        said = self._transport.redacted(answer.message(received.body))[:_MOST_SAID]
        return ": " + "".join(letter if letter.isprintable() else " " for letter in said) if said else ""

    def _account(
        self, query: Query, permit: Permit, received: Received | None, failure: BrazeError | None, seconds: float
    ) -> None:
        """Learn from a call and tell of it, however it went."""
        quota, offset, told = Quota(), None, Told()
        reason = failure.reason if failure is not None else None
        try:
            if received is not None:
                ours, theirs = self._wall(), answer.sent_by_braze_at(received.headers)
                now = ours if theirs is None else theirs  # resets are times of Braze's clock
                offset = None if theirs is None else theirs - ours
                quota = answer.quota(received.headers, now)
                told = Told(
                    quota.limit,
                    quota.remaining,
                    resets_in=None if quota.reset is None else quota.reset - now,
                    retry_after=answer.retry_after(received.headers),
                    refused=reason is Reason.RATE_LIMITED,
                    answered=reason not in {Reason.RATE_LIMITED, Reason.SERVER_ERROR},
                )
        finally:  # others may wait for the end of this call
            rests = permit.end(failure, told)
        status = received.status if received is not None else None
        self._on_call(
            Call(
                query.workspace,
                query.kind.endpoint,
                query.kind.pool.name,
                status,
                reason,
                seconds,
                quota,
                clock_offset=offset,
                rests=rests,
            )
        )
