"""What comes back from Braze: points in series, quotas and reasons, and what a call was."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from braze_exporter.catalog.kinds import Noun

# Of the labels that a series adds, those that are not the name of its part.
_NOT_NAMES = ("channel", "stat")


class Point(NamedTuple):
    """A count and the bucket it belongs to, which starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one series of an answer, oldest first, one for each bucket, and the noun that they are of.

    `holes` are the starts of the buckets that the response has without a number, oldest first. `labels` are what this
    series adds to the labels of its query, and `key` what tells it apart in Braze's own ids; both are empty where the
    noun has only one. An answer can hold several series.
    """

    noun: Noun
    points: tuple[Point, ...]
    labels: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()
    holes: tuple[int, ...] = ()

    @property
    def without_buckets(self) -> "Series":
        """The series itself: its noun, its labels and its key."""
        return replace(self, points=(), holes=())

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells the series apart from others of the query."""
        return (self.noun.name, *self.key)

    @property
    def with_id(self) -> "Series":
        """The series with the id of its part behind the name of that, for one that another part is called by too."""
        labels = tuple(
            (name, value if name in _NOT_NAMES else f"{value} ({self.key[0]})") for name, value in self.labels
        )
        return replace(self, labels=labels)

    @property
    def is_counted(self) -> bool:
        """Whether its points add up to a counter: those of unique users do not, nor what has no id to be known by."""
        is_unique = dict(self.labels).get("stat", "").startswith("unique_")
        return self.noun.is_additive and "" not in self.key and not is_unique


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a call brought: the series, and when Braze answered by its own clock, or None if it did not tell."""

    series: tuple[Series, ...]
    answered_at: float | None


@dataclass(frozen=True, slots=True)
class Quota:
    """What Braze's rate-limit headers said; None where a header was absent, empty or not a number.

    `reset` is in seconds since the epoch.
    """

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class Reason(StrEnum):
    """Why a query was not answered: the values of the label `reason`, with the help for them."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    HTTP = "http"
    QUEUED = "queued"
    NO_CONTENT = "no_content"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    REDIRECT = "redirect"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    NOT_JSON = "not_json"
    BAD_ANSWER = "bad_answer"


# Failures of Braze, or of the way to it: requests that are repeated soon make them worse.
TROUBLES = {
    Reason.SERVER_ERROR,
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.DNS,
    Reason.TLS,
    Reason.TRUNCATED,
    Reason.QUEUED,
}


class BrazeError(Exception):
    """A query was asked and not answered. `detail` is a short line for people, without the key."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep the `reason`, for the metrics, and the `detail`, for the log."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def bare(self) -> "BrazeError":
        """Return the error to be kept: without the frames that it came through, which hold all that was read."""
        return BrazeError(self.reason, self.detail)


class Withheld(Exception):  # noqa: N818 - nothing went wrong: no call was made
    """A call was not made, because its pool has no budget for it now. The query stays due."""


class Held(Withheld):
    """A call was not made, because Braze has refused the key for all of its sort. The query stays due."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call as it went.

    `code` is the status, or None without one; `reason` is None if it was answered. `clock_offset` is by how many
    seconds Braze's clock is ahead of ours, or None if it did not tell. `rests` is for how many seconds its pool makes
    no more calls, if this call brought that about.
    """

    workspace: str
    endpoint: str
    pool: str
    code: int | None
    reason: Reason | None
    seconds: float
    quota: Quota
    clock_offset: float | None = None
    rests: float | None = None
