"""The models of the config: one frozen model per mapping, with the default and description of every key.

A model refuses unknown keys and checks single values. `loading` checks rules across several mappings: for example, that
a name in an entry is defined in the workspace.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from braze_exporter.braze.kinds import (
    CAMPAIGNS,
    CANVASES,
    CUSTOM_EVENTS,
    DAILY_ACTIVE_USERS,
    INSTANCES,
    MONTHLY_ACTIVE_USERS,
    NEW_USERS,
    PURCHASES,
    REVENUE,
    SEGMENT_USERS,
    SESSIONS,
    UNINSTALLS,
    Unit,
)
from braze_exporter.braze.lists import ListItem
from braze_exporter.config.values import (
    ALL,
    AlertLabels,
    Channels,
    Duration,
    NamedIds,
    OptionalCampaignId,
    OptionalCanvasId,
    OptionalDuration,
    OptionalInstance,
    OptionalKeyFile,
    OptionalPath,
    OptionalProduct,
    OptionalRegex,
    OptionalSegment,
    OptionalText,
    OptionalTimeZone,
    OptionalUrl,
    OptionalVariable,
    Selection,
    Stats,
    Text,
    UnitName,
    mapping_of,
    number_range,
)

# PromQL can represent every whole number up to this one exactly.
MAX_NUMBER = 10**15


class Model(BaseModel):
    """A mapping of the config: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class DurationByUnit(Model):
    """A duration for each unit, in seconds once loaded."""

    hour: Duration
    day: Duration

    def for_unit(self, unit: Unit) -> float:
        """Return the duration for `unit`, in seconds."""
        return self.hour if unit is Unit.HOUR else self.day


class RefreshInterval(DurationByUnit):
    """How often a query is fetched, by its unit."""

    hour: Duration = Field(default=300.0, description="for hourly queries")
    day: Duration = Field(default=900.0, description="for daily queries")


class Settle(DurationByUnit):
    """How long after its end a bucket may still change, by its unit."""

    hour: Duration = Field(default=3_600.0, description="for hourly buckets")
    day: Duration = Field(default=7_200.0, description="for daily buckets")


class Budget(Model):
    """The part of Braze's rate limits that the exporter may use, and the number of connections per workspace."""

    share: Annotated[float, *number_range(0.001, 1)] = Field(
        default=0.1,
        description="maximum fraction of each Braze rate limit for the exporter; your own sends use the same limits",
    )
    reserve: Annotated[float, *number_range(0, 0.9)] = Field(
        default=0.2,
        description="fraction of each limit to leave unused; when only that remains, requests pause until the reset",
    )
    concurrency: Annotated[int, *number_range(1, 100, whole=True)] = Field(
        default=10, description="maximum number of connections to Braze per workspace"
    )


class Settings(Model):
    """The top-level keys beside `workspaces`."""

    refresh_interval: RefreshInterval = Field(
        default=RefreshInterval(), description="how often a query is fetched, whatever the scrape interval"
    )
    settle: Settle = Field(default=Settle(), description="how long after its end a bucket may still change")
    max_age: Duration = Field(
        default=3_600.0,
        description="how long values are exported after their last successful fetch; at least twice `refresh_interval`",
    )
    max_queries: Annotated[int, *number_range(1, 1_000_000, whole=True)] = Field(
        default=2_000, description="maximum number of queries; further items selected by `regex` or `tag` are skipped"
    )
    budget: Budget = Field(default=Budget(), description="limits on the exporter's requests to Braze")
    state_file: OptionalPath = Field(
        default=None,
        description="file to keep counters, values and lists across restarts, for one exporter at a time",
    )


class Baseline(Model):
    """The usual value for a bucket: the median of the same local bucket in the last weeks."""

    weeks: Annotated[int, *number_range(1, 52, whole=True)] = Field(description="number of past weeks")


class Alerts(Model):
    """The conditions and labels of the alerts on an entry's queries.

    At least one of `silent`, `below`, `above` and `drop` is required. `min_baseline` requires `drop`.
    """

    silent: OptionalDuration = Field(
        default=None, description="fires if nothing was counted for this long while fetches succeed"
    )
    below: Annotated[float | None, *number_range(0.001, MAX_NUMBER)] = Field(
        default=None, description="fires if a settled bucket is below this value"
    )
    above: Annotated[float | None, *number_range(0, MAX_NUMBER)] = Field(
        default=None, description="fires if a settled bucket is above this value"
    )
    drop: Annotated[float | None, *number_range(0.01, 1)] = Field(
        default=None,
        description="fires if a settled bucket is this fraction or more below its `baseline`; 0.5 is half, 1 is zero",
    )
    min_baseline: Annotated[float, *number_range(0, MAX_NUMBER)] = Field(
        10.0, description="minimum baseline for `drop`, because small counts vary by chance"
    )
    wait: Duration = Field(
        default=900.0,
        alias="for",
        description="how long a condition must last before its alert fires",
    )
    keep_firing_for: OptionalDuration = Field(
        default=None, description="how long an alert keeps firing after its condition has ended; default: as `for`"
    )
    severity: Text = Field("warning", description="value of the label `severity`")
    labels: AlertLabels = Field(
        default_factory=dict, description="additional labels of the alerts, such as for routing in Alertmanager"
    )


# The keys of `alerts` that are conditions.
ALERT_CONDITIONS = ("silent", "below", "above", "drop")


class QuerySpec(NamedTuple):
    """The queries of an entry: one of `subject` for each combination of the apps and the segments.

    `channels` and `stats` are the parts of message statistics to export, all if empty.
    """

    subject: str = ""
    unit: Unit = Unit.DAY
    apps: tuple[str, ...] = (ALL,)
    segments: tuple[str, ...] = (ALL,)
    channels: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()


class Entry(Model):
    """The keys that an entry of any section may have. `example` is the shortest valid entry."""

    example: ClassVar[str] = "- apps: [all]"

    refresh_interval: OptionalDuration = Field(default=None, description="overrides the top-level `refresh_interval`")
    settle: OptionalDuration = Field(default=None, description="overrides the top-level `settle`")
    max_age: OptionalDuration = Field(default=None, description="overrides the top-level `max_age`")
    baseline: Annotated[Baseline | None, mapping_of("keys to values, such as {weeks: 4}")] = Field(
        default=None,
        description="also export the usual value: the median of the same local hour or day in the last weeks",
    )
    alerts: Annotated[Alerts | None, mapping_of("keys to values, such as {silent: 2h}")] = Field(
        default=None, description="alerts for which `braze-exporter rules` generates Prometheus rules"
    )

    @property
    def query_spec(self) -> QuerySpec:
        """The queries that the entry defines. The subject of a selector is its regex or tag."""
        return QuerySpec()

    @property
    def is_selector(self) -> bool:
        """Whether the entry selects items of a Braze list."""
        return False

    def matches(self, item: ListItem) -> bool:  # noqa: ARG002 - subclasses use it
        """Return whether the entry selects `item`."""
        return False


class RegexEntry(Entry):
    """An entry that may have `regex` instead of its subject, to select list items whose whole name matches."""

    regex: OptionalRegex = Field(
        None,
        description="regex that selects every item of Braze's list whose whole name matches, instead of a single item",
    )

    @property
    def is_selector(self) -> bool:
        """Whether the entry selects items of a Braze list."""
        return self.regex is not None

    def matches(self, item: ListItem) -> bool:
        """Return whether the entry selects `item`, by its name."""
        return self.regex is not None and self.regex.matches(item.name)

    def subject_or_selector(self, subject: str | None) -> str:
        """Return `subject` or, if it is empty, the text of the selector."""
        return subject or (self.regex.text if self.regex is not None else "")


class TagEntry(RegexEntry):
    """An entry that may also have `tag`, to select list items by tag. If both are set, both must match."""

    tag: OptionalText = Field(
        None,
        description="selects every item with this tag in Braze, instead of a single item; may be combined with `regex`",
    )

    @property
    def is_selector(self) -> bool:
        """Whether the entry selects items of a Braze list."""
        return self.regex is not None or self.tag is not None

    def matches(self, item: ListItem) -> bool:
        """Return whether the entry selects `item`, by its name and its tags."""
        is_matched = self.regex is None or self.regex.matches(item.name)
        return self.is_selector and is_matched and (self.tag is None or self.tag in item.tags)

    def subject_or_selector(self, subject: str | None) -> str:
        """Return `subject` or, if it is empty, the text of the selector."""
        return super().subject_or_selector(subject) or self.tag or ""


AppSelection = Annotated[
    Selection, Field(description="names from the workspace's `apps`, or `all` for unfiltered; one query for each")
]
SegmentSelection = Annotated[
    Selection,
    Field(
        description="names from the workspace's `segments`, or `all`; one query for each, combined with each of `apps`"
    ),
]


class CustomEvent(RegexEntry):
    """One entry of `custom_events`: an event, for each combination of the apps and the segments."""

    example: ClassVar[str] = "- event: purchase"

    event: OptionalText = Field(None, description="exact name of the event in Braze, case-sensitive")
    unit: UnitName = Field(Unit.HOUR, description="bucket width")
    apps: AppSelection = (ALL,)
    segments: SegmentSelection = (ALL,)

    @property
    def query_spec(self) -> QuerySpec:
        """The queries of the event or the selector."""
        return QuerySpec(self.subject_or_selector(self.event), self.unit, self.apps, self.segments)


class Sessions(Entry):
    """One entry of `sessions`: all sessions, for each combination of the apps and the segments."""

    example: ClassVar[str] = "- unit: hour"

    unit: UnitName = Field(Unit.HOUR, description="bucket width")
    apps: AppSelection = (ALL,)
    segments: SegmentSelection = (ALL,)

    @property
    def query_spec(self) -> QuerySpec:
        """The queries of all sessions."""
        return QuerySpec("", self.unit, self.apps, self.segments)


class Purchases(RegexEntry):
    """One entry of `purchases` or `revenue`: one product or all products together, for each of the apps."""

    example: ClassVar[str] = "- unit: hour"

    product: OptionalProduct = Field(
        None, description="exact name of the product in Braze; without it and without `regex`, all products together"
    )
    unit: UnitName = Field(Unit.HOUR, description="bucket width")
    apps: AppSelection = (ALL,)

    @property
    def query_spec(self) -> QuerySpec:
        """The queries of the product, of all products or of the selector."""
        return QuerySpec(self.subject_or_selector(self.product), self.unit, self.apps)


class SegmentUsers(RegexEntry):
    """One entry of `segment_users`: a segment, by its name in `segments` of the workspace."""

    example: ClassVar[str] = "- segment: vip"

    segment: OptionalSegment = Field(None, description="name from the workspace's `segments`")

    @property
    def query_spec(self) -> QuerySpec:
        """The query of the segment or the selector."""
        return QuerySpec(self.subject_or_selector(self.segment))


class Users(Entry):
    """One entry of a section that counts users by day, for each of the apps."""

    apps: AppSelection = (ALL,)

    @property
    def query_spec(self) -> QuerySpec:
        """The queries of all users."""
        return QuerySpec(apps=self.apps)


class MessagesEntry(TagEntry):
    """An entry whose responses contain message statistics by channel, of which it may export only some."""

    channels: Channels = Field((), description="channels to export, by their names in Braze's API; default: all")
    stats: Stats = Field((), description="message statistics to export, by their names in Braze's API; default: all")


class Campaign(MessagesEntry):
    """One entry of `campaigns`: a campaign, by its Braze identifier."""

    example: ClassVar[str] = "- campaign: f293e280-c0e7-4304-b9b9-62803fc0b053"

    campaign: OptionalCampaignId = Field(
        None, description="API identifier of the campaign, at the bottom of its page in Braze"
    )

    @property
    def query_spec(self) -> QuerySpec:
        """The query of the campaign or the selector."""
        return QuerySpec(self.subject_or_selector(self.campaign), channels=self.channels, stats=self.stats)


class Canvas(MessagesEntry):
    """One entry of `canvases`: a Canvas, by its Braze identifier."""

    example: ClassVar[str] = "- canvas: 4ffe74b7-ca90-4046-ae7f-68b1b337f6a6"

    canvas: OptionalCanvasId = Field(None, description="API identifier of the Canvas, under Analyze Variants in Braze")

    @property
    def query_spec(self) -> QuerySpec:
        """The query of the Canvas or the selector."""
        return QuerySpec(self.subject_or_selector(self.canvas), channels=self.channels, stats=self.stats)


class Workspace(Model):
    """The keys of a workspace beside its sections.

    Exactly one of `url` and `instance` is required, and exactly one of `api_key_file` and `api_key_env`.
    """

    name: Text = Field(description="value of the label `workspace`")
    url: OptionalUrl = Field(
        default=None, description="REST endpoint, such as `https://rest.iad-01.braze.com`; alternative to `instance`"
    )
    instance: OptionalInstance = Field(default=None, description="alternative to `url`")
    # Both are excluded from `repr`, because a user may have written the key itself there.
    api_key_file: OptionalKeyFile = Field(
        default=None, repr=False, description="file that contains the REST API key; alternative to `api_key_env`"
    )
    api_key_env: OptionalVariable = Field(
        default=None,
        repr=False,
        description="environment variable that contains the REST API key; alternative to `api_key_file`",
    )
    timezone: OptionalTimeZone = Field(
        default=None,
        description="time zone of the company in Braze; required for days, baselines, and hours without an offset",
    )
    apps: NamedIds = Field(
        default_factory=dict, description="apps by name; the name is the value of the label `braze_app`"
    )
    segments: NamedIds = Field(
        default_factory=dict,
        description="segments with analytics tracking, by name; the name is the value of the label `segment`",
    )

    @property
    def rest_endpoint(self) -> str:
        """The base URL of Braze's REST API for this workspace."""
        return self.url or INSTANCES[str(self.instance)]


# The model of the entries of each section, by the key of the section.
SECTIONS: Mapping[str, type[Entry]] = {
    CUSTOM_EVENTS.section: CustomEvent,
    SESSIONS.section: Sessions,
    PURCHASES.section: Purchases,
    REVENUE.section: Purchases,
    SEGMENT_USERS.section: SegmentUsers,
    NEW_USERS.section: Users,
    UNINSTALLS.section: Users,
    DAILY_ACTIVE_USERS.section: Users,
    MONTHLY_ACTIVE_USERS.section: Users,
    CAMPAIGNS.section: Campaign,
    CANVASES.section: Canvas,
}
