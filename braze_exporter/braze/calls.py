"""The data of a call to Braze: its response, the rate limit and its outcome."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.series import Series


@dataclass(frozen=True, slots=True)
class Response:
    """A successful response to a query: its series, with the times of the request and of the response.

    `sent_at` and `received_at` are in seconds since the epoch, `received_monotonic` in seconds of the monotonic clock.
    `sent_at` is by Braze's clock if the local clock is ahead of it, so that no bucket settles too early. `is_short` is
    true if fewer buckets were requested than usual. `is_complete` is true if this response completes a repair (see
    `scheduler.repair`). `digest` is that of the body, empty if the response was restored from the state file.
    """

    series: tuple[Series, ...]
    sent_at: float
    received_at: float
    received_monotonic: float
    is_short: bool = False
    is_complete: bool = True
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate limit of Braze, as its headers describe it. A value is None if it is unknown or invalid.

    `limit` is the number of calls per window, `remaining` the number left in this window, and `reset` its end in
    seconds since the epoch. An invalid number of remaining calls is 0, and `invalid_remaining` is its text.
    """

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None
    invalid_remaining: str = ""


@dataclass(frozen=True, slots=True)
class CallEvent:
    """The outcome of one HTTP call.

    `status` is the HTTP status, or None if there was no response. `reason` is None if the call succeeded. `seconds` is
    its duration. `clock_offset` is how many seconds Braze's clock is ahead of the local clock, or None if unknown. If
    this call paused its pool, `pause_seconds` is the length of the pause.
    """

    workspace: str
    path: str
    pool: str
    status: int | None
    reason: Reason | None
    seconds: float
    rate_limit: RateLimit
    clock_offset: float | None = None
    pause_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """What a response says about the rate limit of its pool. A value is None if the response does not have it.

    `limit` is the number of calls per window, `remaining` the number left in this window. `resets_in` is the number of
    seconds until the window ends. `is_rate_limited` is true for a 429, and `retry_after` is the number of seconds that
    the response asks to wait. `is_accepted` is true for any response that is neither a 429 nor a server error.
    """

    limit: float | None = None
    remaining: float | None = None
    resets_in: float | None = None
    retry_after: float | None = None
    is_rate_limited: bool = False
    is_accepted: bool = False


# Reports the end of a call: its error, or None if it succeeded, and the rate-limit information of its response. Returns
# the length of the pause in seconds if the call paused its pool, otherwise None.
EndOfCall: TypeAlias = Callable[[BrazeError | None, RateLimitInfo], float | None]
