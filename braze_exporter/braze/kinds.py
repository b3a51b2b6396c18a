"""What Braze offers, as one table of kinds.

Metric names and their help, the sections of the config, the plan, the client, the simulated Braze and the README's
metric table all derive from `KINDS`.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from zoneinfo import ZoneInfo

from braze_exporter.braze.lists import CAMPAIGN_LIST, CANVAS_LIST, EVENT_LIST, PRODUCT_LIST, SEGMENT_LIST, Listing
from braze_exporter.braze.pools import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL, Pool

UTC = ZoneInfo("UTC")
# Braze's pages on the series endpoints: `length` is from 1 to 100 units, and of a Canvas from 1 to 14.
MAX_LENGTH = 100
_MAX_CANVAS_LENGTH = 14
# What Braze computes once a day, or tells out of a small pool, is not asked for more often than this, in seconds.
_SLOW = 3_600.0
_SPARING = 900.0
# Monthly active users are computed at 12:05 UTC, uninstalls by night: up to a day after the day that they are of.
_COMPUTED_LATER = 86_400.0


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
        """The usual length of a bucket; a day of 23 or 25 hours is the business of `buckets.bucket_end`."""
        return 3_600 if self is Unit.HOUR else 86_400


@dataclass(frozen=True, slots=True)
class Noun:
    """A plural noun of the metric names; `counts` begins the help of its metrics.

    `labels` are those that a query has beside `workspace`, `breakdown` those that each series of an answer adds; the
    sum of the series whose `stat` is in the `headline` stands for all of them, for alerts too. Only what `is_additive`
    has a counter: of users that were active on two days nobody knows how many they were. `may_sink` is for sums that
    can be negative.
    """

    name: str
    counts: str
    labels: tuple[str, ...] = ()
    breakdown: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    is_additive: bool = True
    may_sink: bool = False


class Shape(Enum):
    """How the data of an answer is made."""

    ROWS = auto()
    """Rows with a time and a number."""
    CAMPAIGN = auto()
    """Rows with a time, numbers, and statistics of messages by channel and variation."""
    CANVAS = auto()
    """Rows with a time, total statistics, and those of steps, with messages by channel."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of series that Braze offers.

    `section` names it in the config and in the label `kind`. An answer feeds the families of all its `nouns`; those of
    a query that is filtered by app, segment or product are of `filtered`, so that a sum over the plain noun counts
    nothing twice. `subject` is the label of what is asked for, and `parameter` the request parameter, empty where
    there is only one series; `value` is the field of a row that holds the number.

    Braze tells `longest` units at most. No query is fetched more often than `refresh` seconds, or settles sooner than
    `settle` seconds. `parameters` go with each request, and an `ending_at` with those that have `needs_end`. The newest
    day of an answer that `tells_today` is the one that runs. `listing` has the subjects that there are; `is_named` is
    for those whose name only it tells: the config has their ids.
    """

    section: str
    nouns: tuple[Noun, ...]
    endpoint: str
    permission: str
    filtered: Noun | None = None
    pool: Pool = DEFAULT_POOL
    units: tuple[Unit, ...] = (Unit.DAY,)
    subject: str = ""
    parameter: str = ""
    value: str = ""
    shape: Shape = Shape.ROWS
    longest: int = MAX_LENGTH
    refresh: float = 0.0
    settle: float = 0.0
    parameters: tuple[tuple[str, str], ...] = ()
    needs_end: bool = False
    tells_today: bool = False
    is_named: bool = False
    listing: Listing | None = None

    @property
    def noun(self) -> Noun:
        """The noun that stands for the kind, in alerts too: a campaign sends messages, and a Canvas is entered."""
        return self.nouns[0]


# What was sent. In-app messages are not: the devices show them, and they alone have impressions of that name.
_SENT = ("sent", "impressions")
_HOURS_AND_DAYS = (Unit.HOUR, Unit.DAY)
_OCCURRENCES = "Occurrences of a custom event"

CUSTOM_EVENTS = Kind(
    section="custom_events",
    nouns=(Noun("custom_events", _OCCURRENCES, ("event",)),),
    filtered=Noun("custom_events_filtered", _OCCURRENCES, ("event", "braze_app", "segment")),
    endpoint="/events/data_series",
    permission="events.data_series",
    units=_HOURS_AND_DAYS,
    subject="event",
    parameter="event",
    value="count",
    tells_today=True,
    listing=EVENT_LIST,
)

SESSIONS = Kind(
    section="sessions",
    nouns=(Noun("sessions", "Sessions of the apps"),),
    filtered=Noun("sessions_filtered", "Sessions of the apps", ("braze_app", "segment")),
    endpoint="/sessions/data_series",
    permission="sessions.data_series",
    units=_HOURS_AND_DAYS,
    value="sessions",
    tells_today=True,
)

PURCHASES = Kind(
    section="purchases",
    nouns=(Noun("purchases", "Purchases"),),
    filtered=Noun("purchases_filtered", "Purchases", ("product", "braze_app")),
    endpoint="/purchases/quantity_series",
    permission="purchases.quantity_series",
    pool=LISTS_POOL,
    units=_HOURS_AND_DAYS,
    subject="product",
    parameter="product",
    value="purchase_quantity",
    refresh=_SPARING,
    listing=PRODUCT_LIST,
)

REVENUE = Kind(
    section="revenue",
    nouns=(Noun("revenue", "Revenue of purchases, in the currency of Braze's reports", may_sink=True),),
    filtered=Noun(
        "revenue_filtered",
        "Revenue of purchases, in the currency of Braze's reports",
        ("product", "braze_app"),
        may_sink=True,
    ),
    endpoint="/purchases/revenue_series",
    permission="purchases.revenue_series",
    pool=LISTS_POOL,
    units=_HOURS_AND_DAYS,
    subject="product",
    parameter="product",
    value="revenue",
    refresh=_SPARING,
    listing=PRODUCT_LIST,
)

SEGMENT_USERS = Kind(
    section="segment_users",
    nouns=(Noun("segment_users", "Users in a segment, as Braze estimates", ("segment",), is_additive=False),),
    endpoint="/segments/data_series",
    permission="segments.data_series",
    subject="segment",
    parameter="segment_id",
    value="size",
    listing=SEGMENT_LIST,
)

NEW_USERS = Kind(
    section="new_users",
    nouns=(Noun("new_users", "New users"),),
    filtered=Noun("new_users_filtered", "New users", ("braze_app",)),
    endpoint="/kpi/new_users/data_series",
    permission="kpi.new_users.data_series",
    value="new_users",
)

UNINSTALLS = Kind(
    section="uninstalls",
    nouns=(Noun("uninstalls", "Uninstalls of the apps"),),
    filtered=Noun("uninstalls_filtered", "Uninstalls of the apps", ("braze_app",)),
    endpoint="/kpi/uninstalls/data_series",
    permission="kpi.uninstalls.data_series",
    value="uninstalls",
    refresh=_SLOW,
    settle=_COMPUTED_LATER,
)

DAILY_ACTIVE_USERS = Kind(
    section="daily_active_users",
    nouns=(Noun("daily_active_users", "Users who were active", is_additive=False),),
    filtered=Noun("daily_active_users_filtered", "Users who were active", ("braze_app",), is_additive=False),
    endpoint="/kpi/dau/data_series",
    permission="kpi.dau.data_series",
    value="dau",
)

MONTHLY_ACTIVE_USERS = Kind(
    section="monthly_active_users",
    nouns=(Noun("monthly_active_users", "Users who were active in 30 days, as computed", is_additive=False),),
    filtered=Noun(
        "monthly_active_users_filtered",
        "Users who were active in 30 days, as computed",
        ("braze_app",),
        is_additive=False,
    ),
    endpoint="/kpi/mau/data_series",
    permission="kpi.mau.data_series",
    value="mau",
    refresh=_SLOW,
    settle=_COMPUTED_LATER,
)

CAMPAIGNS = Kind(
    section="campaigns",
    nouns=(
        Noun(
            "campaign_messages",
            "Statistics of the messages of a campaign",
            ("campaign",),
            ("channel", "variation", "stat"),
            headline=_SENT,
        ),
        Noun("campaign_conversions", "Conversions of a campaign", ("campaign",)),
        Noun("campaign_revenue", "Revenue of a campaign, in US dollars", ("campaign",), may_sink=True),
        Noun("campaign_unique_recipients", "Users who received a campaign", ("campaign",), is_additive=False),
    ),
    endpoint="/campaigns/data_series",
    permission="campaigns.data_series",
    pool=CAMPAIGNS_POOL,
    subject="campaign",
    parameter="campaign_id",
    shape=Shape.CAMPAIGN,
    is_named=True,
    listing=CAMPAIGN_LIST,
)

CANVASES = Kind(
    section="canvases",
    nouns=(
        Noun("canvas_entries", "Entries into a Canvas", ("canvas",)),
        Noun("canvas_conversions", "Conversions of a Canvas", ("canvas",)),
        Noun("canvas_revenue", "Revenue of a Canvas, in US dollars", ("canvas",), may_sink=True),
        Noun(
            "canvas_messages",
            "Statistics of the messages of a Canvas",
            ("canvas",),
            ("step", "channel", "stat"),
            headline=_SENT,
        ),
    ),
    endpoint="/canvas/data_series",
    permission="canvas.data_series",
    subject="canvas",
    parameter="canvas_id",
    shape=Shape.CANVAS,
    longest=_MAX_CANVAS_LENGTH,
    # Without it there are no messages (Airbyte's issue 30372).
    parameters=(("include_step_breakdown", "true"),),
    needs_end=True,
    is_named=True,
    listing=CANVAS_LIST,
)

KINDS: tuple[Kind, ...] = (
    CUSTOM_EVENTS,
    SESSIONS,
    PURCHASES,
    REVENUE,
    SEGMENT_USERS,
    NEW_USERS,
    UNINSTALLS,
    DAILY_ACTIVE_USERS,
    MONTHLY_ACTIVE_USERS,
    CAMPAIGNS,
    CANVASES,
)

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
