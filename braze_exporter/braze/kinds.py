"""The endpoint table: every kind of series that Braze offers.

Metric names and help, config sections, the plan, the client's requests, dashboards, rules and the metric reference
derive from `KINDS`.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from itertools import combinations
from zoneinfo import ZoneInfo

from braze_exporter.braze.lists import CAMPAIGN_LIST, CANVAS_LIST, EVENT_LIST, PRODUCT_LIST, SEGMENT_LIST, ListEndpoint
from braze_exporter.braze.metric_group import MetricGroup, partial_group
from braze_exporter.braze.pools import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL, Pool

UTC = ZoneInfo("UTC")
# Source: Braze's pages on the series endpoints. `length` is from 1 to 100 units, for Canvases from 1 to 14, but another
# client reports that Braze rejects more than 13 days of a Canvas.
MAX_LENGTH = 100
_MAX_CANVAS_LENGTH = 13
# The minimum refresh intervals of kinds that Braze computes once a day, and of kinds with a small pool.
_DAILY_REFRESH_SECONDS = 3_600.0
_SMALL_POOL_REFRESH_SECONDS = 900.0
# Braze computes monthly active users at 12:05 UTC and uninstalls at night, up to a day after the end of the day.
_LATE_COMPUTATION_SECONDS = 86_400.0


class Unit(StrEnum):
    """The width of a bucket, as Braze names it."""

    HOUR = "hour"
    DAY = "day"

    @property
    def adverb(self) -> str:
        """The word for this unit in metric names."""
        return {Unit.HOUR: "hourly", Unit.DAY: "daily"}[self]

    @property
    def seconds(self) -> int:
        """The usual length of a bucket. For days of 23 or 25 hours use `buckets.bucket_end`."""
        return 3_600 if self is Unit.HOUR else 86_400


class ResponseFormat(Enum):
    """The structure of the data of a response."""

    ROWS = auto()
    """Rows with a time and a number."""
    CAMPAIGN = auto()
    """Rows with a time, numbers, and message statistics by channel and variation."""
    CANVAS = auto()
    """Rows with a time, total statistics, and statistics by step with messages by channel."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesKind:
    """A kind of series that Braze offers: one row of the endpoint table.

    `section` is the name of the kind in the config and in the label `kind`. A response has values for all of
    `metric_groups`. A query for one app, product or segment has a metric group of its own (see `partial_group`);
    `part_labels` are the labels of these parts. `subject_label` is the label of the subject and `subject_parameter` its
    request parameter; both are empty for kinds without subjects. `value_field` is the field of a row that holds the
    value.

    `max_length` is the maximum number of buckets that Braze returns. `min_refresh_seconds` and `min_settle_seconds` are
    lower limits of `refresh_interval` and `settle`. `parameters` are added to each request; `requires_ending_at` adds
    `ending_at`. `includes_current_day` is true if the newest day of a response is the current day. `list_endpoint`
    lists the subjects. `is_identified_by_id` is true if Braze identifies the subject by an id, so that its name is
    known only from the list. Then `subject_parameter` is also the label of the id.
    """

    section: str
    metric_groups: tuple[MetricGroup, ...]
    path: str
    permission: str
    part_labels: tuple[str, ...] = ()
    pool: Pool = DEFAULT_POOL
    units: tuple[Unit, ...] = (Unit.DAY,)
    subject_label: str = ""
    subject_parameter: str = ""
    value_field: str = ""
    response_format: ResponseFormat = ResponseFormat.ROWS
    max_length: int = MAX_LENGTH
    min_refresh_seconds: float = 0.0
    min_settle_seconds: float = 0.0
    parameters: tuple[tuple[str, str], ...] = ()
    requires_ending_at: bool = False
    includes_current_day: bool = False
    is_identified_by_id: bool = False
    list_endpoint: ListEndpoint | None = None

    @property
    def metric_group(self) -> MetricGroup:
        """The metric group that represents the kind, for example in alerts.

        For campaigns it is the messages, for Canvases the entries.
        """
        return self.metric_groups[0]

    @property
    def partial_groups(self) -> tuple[MetricGroup, ...]:
        """The metric groups of all combinations of `part_labels`."""
        count = len(self.part_labels)
        return tuple(
            self.partial_group(labels)
            for size in range(1, count + 1)
            for labels in combinations(self.part_labels, size)
        )

    def partial_group(self, labels: tuple[str, ...]) -> MetricGroup:
        """Return the metric group of the series for one app, product or segment, or a combination of them.

        `labels` are the labels of the parts, in the order of `part_labels`. Its sums count nothing twice, because the
        metric group contains neither the total nor other combinations.
        """
        return partial_group(self.metric_group, labels)


# In-app messages have no `sent` statistic, since devices display them. Only they have `impressions`.
_SENT_STATS = ("sent", "impressions")
_HOURS_AND_DAYS = (Unit.HOUR, Unit.DAY)
_CAMPAIGN_LABELS = ("campaign_id", "campaign")
_VARIATION_LABELS = ("channel", "variation_id", "variation")
_CANVAS_LABELS = ("canvas_id", "canvas")
_STEP_LABELS = ("step_id", "step", "channel")

CUSTOM_EVENTS = SeriesKind(
    section="custom_events",
    metric_groups=(MetricGroup("custom_events", "Count of a custom event", ("event",)),),
    part_labels=("braze_app", "segment"),
    path="/events/data_series",
    permission="events.data_series",
    units=_HOURS_AND_DAYS,
    subject_label="event",
    subject_parameter="event",
    value_field="count",
    includes_current_day=True,
    list_endpoint=EVENT_LIST,
)

SESSIONS = SeriesKind(
    section="sessions",
    metric_groups=(MetricGroup("sessions", "App sessions"),),
    part_labels=("braze_app", "segment"),
    path="/sessions/data_series",
    permission="sessions.data_series",
    units=_HOURS_AND_DAYS,
    value_field="sessions",
    includes_current_day=True,
)

PURCHASES = SeriesKind(
    section="purchases",
    metric_groups=(MetricGroup("purchases", "Purchases"),),
    part_labels=("braze_app", "product"),
    path="/purchases/quantity_series",
    permission="purchases.quantity_series",
    pool=LISTS_POOL,
    units=_HOURS_AND_DAYS,
    subject_label="product",
    subject_parameter="product",
    value_field="purchase_quantity",
    min_refresh_seconds=_SMALL_POOL_REFRESH_SECONDS,
    list_endpoint=PRODUCT_LIST,
)

REVENUE = SeriesKind(
    section="revenue",
    metric_groups=(
        MetricGroup("revenue", "Purchase revenue (in the currency of Braze's reports)", can_be_negative=True),
    ),
    part_labels=("braze_app", "product"),
    path="/purchases/revenue_series",
    permission="purchases.revenue_series",
    pool=LISTS_POOL,
    units=_HOURS_AND_DAYS,
    subject_label="product",
    subject_parameter="product",
    value_field="revenue",
    min_refresh_seconds=_SMALL_POOL_REFRESH_SECONDS,
    list_endpoint=PRODUCT_LIST,
)

SEGMENT_USERS = SeriesKind(
    section="segment_users",
    metric_groups=(
        MetricGroup("segment_users", "Users in a segment (estimated by Braze)", ("segment",), is_additive=False),
    ),
    path="/segments/data_series",
    permission="segments.data_series",
    subject_label="segment",
    subject_parameter="segment_id",
    value_field="size",
    list_endpoint=SEGMENT_LIST,
)

NEW_USERS = SeriesKind(
    section="new_users",
    metric_groups=(MetricGroup("new_users", "New users"),),
    part_labels=("braze_app",),
    path="/kpi/new_users/data_series",
    permission="kpi.new_users.data_series",
    value_field="new_users",
)

UNINSTALLS = SeriesKind(
    section="uninstalls",
    metric_groups=(MetricGroup("uninstalls", "App uninstalls"),),
    part_labels=("braze_app",),
    path="/kpi/uninstalls/data_series",
    permission="kpi.uninstalls.data_series",
    value_field="uninstalls",
    min_refresh_seconds=_DAILY_REFRESH_SECONDS,
    min_settle_seconds=_LATE_COMPUTATION_SECONDS,
)

DAILY_ACTIVE_USERS = SeriesKind(
    section="daily_active_users",
    metric_groups=(MetricGroup("daily_active_users", "Active users", is_additive=False),),
    part_labels=("braze_app",),
    path="/kpi/dau/data_series",
    permission="kpi.dau.data_series",
    value_field="dau",
)

MONTHLY_ACTIVE_USERS = SeriesKind(
    section="monthly_active_users",
    metric_groups=(
        MetricGroup("monthly_active_users", "Active users over a 30-day rolling window", is_additive=False),
    ),
    part_labels=("braze_app",),
    path="/kpi/mau/data_series",
    permission="kpi.mau.data_series",
    value_field="mau",
    min_refresh_seconds=_DAILY_REFRESH_SECONDS,
    min_settle_seconds=_LATE_COMPUTATION_SECONDS,
)

CAMPAIGNS = SeriesKind(
    section="campaigns",
    metric_groups=(
        MetricGroup(
            "campaign_messages",
            "Message statistics of a campaign",
            _CAMPAIGN_LABELS,
            (*_VARIATION_LABELS, "stat"),
            primary_stats=_SENT_STATS,
        ),
        MetricGroup(
            "campaign_message_revenue_dollars",
            "Revenue from the messages of a campaign in US dollars",
            _CAMPAIGN_LABELS,
            _VARIATION_LABELS,
            can_be_negative=True,
        ),
        MetricGroup("campaign_conversions", "Conversions of a campaign", _CAMPAIGN_LABELS),
        MetricGroup(
            "campaign_revenue_dollars", "Revenue of a campaign in US dollars", _CAMPAIGN_LABELS, can_be_negative=True
        ),
        MetricGroup(
            "campaign_unique_recipients", "Unique recipients of a campaign", _CAMPAIGN_LABELS, is_additive=False
        ),
    ),
    path="/campaigns/data_series",
    permission="campaigns.data_series",
    pool=CAMPAIGNS_POOL,
    subject_label="campaign",
    subject_parameter="campaign_id",
    response_format=ResponseFormat.CAMPAIGN,
    is_identified_by_id=True,
    list_endpoint=CAMPAIGN_LIST,
)

CANVASES = SeriesKind(
    section="canvases",
    metric_groups=(
        MetricGroup("canvas_entries", "Entries into a Canvas", _CANVAS_LABELS),
        MetricGroup("canvas_conversions", "Conversions of a Canvas", _CANVAS_LABELS),
        MetricGroup(
            "canvas_revenue_dollars", "Revenue of a Canvas in US dollars", _CANVAS_LABELS, can_be_negative=True
        ),
        MetricGroup(
            "canvas_messages",
            "Message statistics of a Canvas",
            _CANVAS_LABELS,
            (*_STEP_LABELS, "stat"),
            primary_stats=_SENT_STATS,
        ),
        MetricGroup(
            "canvas_message_revenue_dollars",
            "Revenue from the messages of a Canvas in US dollars",
            _CANVAS_LABELS,
            _STEP_LABELS,
            can_be_negative=True,
        ),
    ),
    path="/canvas/data_series",
    permission="canvas.data_series",
    subject_label="canvas",
    subject_parameter="canvas_id",
    response_format=ResponseFormat.CANVAS,
    max_length=_MAX_CANVAS_LENGTH,
    # Without this parameter the response has no messages (Airbyte issue 30372).
    parameters=(("include_step_breakdown", "true"),),
    requires_ending_at=True,
    is_identified_by_id=True,
    list_endpoint=CANVAS_LIST,
)

KINDS: tuple[SeriesKind, ...] = (
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
KINDS_BY_SECTION = {kind.section: kind for kind in KINDS}
