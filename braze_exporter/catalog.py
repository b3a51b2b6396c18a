"""What Braze offers, as one table of kinds, and the value types that cross module borders.

Metric names and their help, the plan, the client, the simulated Braze and the README's metric table all derive from
`KINDS`. This module does no I/O and imports nothing else of the package.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

UTC = ZoneInfo("UTC")
# Braze's pages on the series endpoints: `length` is from 1 to 100 units.
MAX_LENGTH = 100


class Unit(StrEnum):
    """The width of a bucket, in Braze's own words."""

    HOUR = "hour"
    DAY = "day"

    @property
    def adverb(self) -> str:
        """The word that stands for the width in a metric name."""
        return {Unit.HOUR: "hourly", Unit.DAY: "daily"}[self]

    @property
    def seconds(self) -> int:
        """The usual length of a bucket; a day of 23 or 25 hours is the business of `plan.bucket_end`."""
        return {Unit.HOUR: 3_600, Unit.DAY: 86_400}[self]


@dataclass(frozen=True, slots=True)
class Pool:
    """Calls that share one of Braze's rate limits: at most `limit` calls in each window of `window` seconds."""

    name: str
    limit: int
    window: int

    @property
    def per_hour(self) -> float:
        """The limit as calls per hour."""
        return self.limit * 3_600 / self.window


# Braze's rate-limits page: 250,000 an hour, shared by nearly every endpoint of a workspace, its own sends included.
DEFAULT_POOL = Pool("default", limit=250_000, window=3_600)
# The same page: shared by the lists of events and of products.
LISTS_POOL = Pool("lists", limit=1_000, window=3_600)


@dataclass(frozen=True, slots=True)
class Noun:
    """A plural noun of the metric names, with the labels that its families carry beside `workspace`."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of series that Braze offers.

    `section` names it in the config and in the label `kind`; `counts` begins the help of its metrics; `subject` is both
    the request parameter and the label of what is asked for; `value` is the field of a row that holds the number. A
    query filtered by app or segment belongs to `filtered`, so that a sum over `noun` counts nothing twice.
    """

    section: str
    noun: Noun
    filtered: Noun
    counts: str
    endpoint: str
    permission: str
    pool: Pool
    units: tuple[Unit, ...]
    subject: str
    value: str


CUSTOM_EVENTS = Kind(
    section="custom_events",
    noun=Noun("custom_events", ("event",)),
    filtered=Noun("custom_events_filtered", ("event", "braze_app", "segment")),
    counts="Occurrences of a custom event",
    endpoint="/events/data_series",
    permission="events.data_series",
    pool=DEFAULT_POOL,
    units=(Unit.HOUR, Unit.DAY),
    subject="event",
    value="count",
)

KINDS: tuple[Kind, ...] = (CUSTOM_EVENTS,)

# Braze's data-centers page. There is no US-09. New instances appear, so any https host is accepted as a `url` too.
INSTANCES: dict[str, str] = {
    **{f"US-0{number}": f"https://rest.iad-0{number}.braze.com" for number in range(1, 9)},
    "US-10": "https://rest.us-10.braze.com",
    "EU-01": "https://rest.fra-01.braze.eu",
    "EU-02": "https://rest.fra-02.braze.eu",
    "AU-01": "https://rest.au-01.braze.com",
    "ID-01": "https://rest.id-01.braze.com",
    "JP-01": "https://rest.jp-01.braze.com",
    "KR-01": "https://rest.kr-01.braze.com",
}


@dataclass(frozen=True, slots=True)
class Query:
    """One thing to ask Braze, which is one HTTP call, and how its answers are to be treated.

    `url` is the REST endpoint of the workspace.
    `app` and `segment` are the names for the labels, empty where not filtered; `app_id` and `segment_id` are Braze's
    identifiers. `refresh`, `settle` and `max_age` are seconds. `length` is the number of units to ask for. `zone` is
    the company's time zone in Braze. `weeks` is how far back the baseline looks, 0 without one. `ending_at` is the end
    of a piece of history in seconds since the epoch, None for what runs up to now.
    """

    workspace: str
    kind: Kind
    unit: Unit
    subject: str
    url: str = ""
    app: str = ""
    app_id: str = ""
    segment: str = ""
    segment_id: str = ""
    refresh: float = 300.0
    settle: float = 3_600.0
    max_age: float = 3_600.0
    length: int = 24
    zone: ZoneInfo = UTC
    weeks: int = 0
    ending_at: int | None = None

    @property
    def noun(self) -> Noun:
        """The noun whose families this query feeds."""
        return self.kind.filtered if self.app_id or self.segment_id else self.kind.noun

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels of every sample of this query, in the order of the families."""
        values = {self.kind.subject: self.subject, "braze_app": self.app, "segment": self.segment}
        return (("workspace", self.workspace), *((name, values[name]) for name in self.noun.labels))

    @property
    def counted(self) -> tuple[str, ...]:
        """What the counter of this query is of, in Braze's own ids, whatever the unit."""
        return (self.workspace, self.url, self.kind.section, self.subject, self.app_id, self.segment_id)

    @property
    def identity(self) -> tuple[str, str, str, str, str, Unit]:
        """What the query asks for, in Braze's own ids: two queries of one identity would be the same call."""
        return (self.workspace, self.kind.section, self.subject, self.app_id, self.segment_id, self.unit)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name, its type in Prometheus's words, its help and the names of its labels."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]


# What each query gives, by the suffix of the family, with its help; `{counts}` is of the kind, `{unit}` of the query.
GAUGES: dict[str, str] = {
    "latest": "{counts} in the newest {unit}, which is usually still in progress and growing.",
    "latest_bucket_start_timestamp_seconds": "Start of the newest {unit}.",
    "settled": "{counts} in the newest settled {unit}: one fetched its settle time or more after its end.",
    "settled_bucket_start_timestamp_seconds": "Start of the newest settled {unit}.",
    "baseline": "Median of the same local {unit} of the week in the last weeks, for the bucket that settled shows.",
    "up": "Whether the last fetch was answered (1) or not (0).",
    "last_success_timestamp_seconds": "When a fetch was last answered, 0 until the first time.",
}


def gauge(kind: Kind, noun: Noun, unit: Unit, measure: str) -> Family:
    """Return the gauge family of one of `GAUGES` for a noun of `kind`."""
    text = GAUGES[measure].format(counts=kind.counts, unit=unit.value)
    return Family(f"braze_{noun.name}_{unit.adverb}_{measure}", "gauge", _with_source(text, kind), _labels(noun))


def counter(kind: Kind, noun: Noun) -> Family:
    """Return the counter family for a noun of `kind`."""
    text = f"{kind.counts} that Braze has reported since the first answer, late arrivals included."
    return Family(f"braze_{noun.name}_total", "counter", _with_source(text, kind), _labels(noun))


def _with_source(text: str, kind: Kind) -> str:
    return f"{text} Fetched from {kind.endpoint} about once per refresh."


def _labels(noun: Noun) -> tuple[str, ...]:
    return ("workspace", *noun.labels)


class Point(NamedTuple):
    """A count and the bucket it belongs to, which starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one series of an answer, oldest first, one for each bucket.

    `labels` are what this series adds to the labels of its query; an answer can hold several series.
    """

    points: tuple[Point, ...]
    labels: tuple[tuple[str, str], ...] = ()


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
