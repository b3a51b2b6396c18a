"""What may stand in a config: one frozen model for each mapping, with the defaults and the meaning of every key.

A model refuses unknown keys, and takes values as they are written. What only makes sense together (a name used in one
place and defined in another) is the business of `loading`.
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
    MAPPING,
    AlertLabels,
    Duration,
    NamedIds,
    OptionalDuration,
    OptionalId,
    OptionalInstance,
    OptionalKeyFile,
    OptionalPath,
    OptionalRegex,
    OptionalSegment,
    OptionalText,
    OptionalTimeZone,
    OptionalUrl,
    OptionalVariable,
    Selection,
    Text,
    UnitName,
    number_range,
)

# Up to here every whole number is one that PromQL can tell from its neighbours.
MAX_NUMBER = 10**15


class Model(BaseModel):
    """A mapping of the config: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ByUnit(Model):
    """A duration in seconds for each unit."""

    hour: Duration
    day: Duration

    def for_unit(self, unit: Unit) -> float:
        """Return the seconds for `unit`."""
        return self.hour if unit is Unit.HOUR else self.day


class Refresh(ByUnit):
    """How often a query is fetched, in seconds."""

    hour: Duration = Field(default=300.0, description="of queries by the hour")
    day: Duration = Field(default=900.0, description="of queries by the day")


class Settle(ByUnit):
    """How long after the end of a bucket it is trusted, in seconds."""

    hour: Duration = Field(default=3_600.0, description="of hours")
    day: Duration = Field(default=7_200.0, description="of days")


class Budget(Model):
    """What of Braze's rate limits the exporter may use, and over how many connections for each workspace."""

    share: Annotated[float, *number_range(0.001, 1)] = Field(
        default=0.1, description="of each of Braze's rate limits, which your own sends need too: at most that is used"
    )
    reserve: Annotated[float, *number_range(0, 0.9)] = Field(
        default=0.2,
        description="of each limit: when no more than that is left, whoever used it, no calls until it is reset",
    )
    concurrency: Annotated[int, *number_range(1, 100, whole=True)] = Field(
        default=10, description="connections to Braze for each workspace"
    )


class Settings(Model):
    """The keys of the file beside `workspaces`."""

    refresh: Refresh = Field(default=Refresh(), description="how often a query is fetched, whoever scrapes")
    settle: Settle = Field(default=Settle(), description="how long after its end a bucket is trusted")
    max_age: Duration = Field(
        default=3_600.0, description="how long values are shown when Braze no longer answers; at least two refreshes"
    )
    max_queries: Annotated[int, *number_range(1, 1_000_000, whole=True)] = Field(
        default=2_000, description="a guard; more of what `match` and `tag` take is left out"
    )
    budget: Budget = Field(default=Budget(), description="what may be used of Braze's rate limits")
    state_file: OptionalPath = Field(
        default=None,
        description="where counters are kept through restarts, by one exporter at a time; else they begin at 0",
    )


class Baseline(Model):
    """What a bucket is compared with: the same local time of the last weeks."""

    weeks: Annotated[int, *number_range(1, 52, whole=True)] = Field(description="how many of them")


class Alerts(Model):
    """When an entry's queries are to be alerted on, and how the alerts are labelled.

    At least one of `silent`, `below`, `above` and `drop` is given; `min` goes with `drop`.
    """

    silent: OptionalDuration = Field(default=None, description="nothing was counted for so long, while Braze answers")
    below: Annotated[float | None, *number_range(0.001, MAX_NUMBER)] = Field(
        default=None, description="a settled bucket is under it"
    )
    above: Annotated[float | None, *number_range(0, MAX_NUMBER)] = Field(
        default=None, description="a settled bucket is over it"
    )
    drop: Annotated[float | None, *number_range(0.01, 1)] = Field(
        default=None,
        description="a settled bucket fell by this share or more, against its `baseline`: 0.5 is by half, 1 to 0",
    )
    min: Annotated[float, *number_range(0, MAX_NUMBER)] = Field(
        10.0, description="where the baseline is less, `drop` says nothing: what is rare falls by chance"
    )
    wait: Duration = Field(
        default=900.0, alias="for", description="how long that must last, and how long an alert stays after"
    )
    severity: Text = Field("warning", description="the label `severity`")
    labels: AlertLabels = Field(default_factory=dict, description="more labels, for Alertmanager to route by")


# The keys of `alerts` that say when.
ALERT_CONDITIONS = ("silent", "below", "above", "drop")


class QuerySpec(NamedTuple):
    """What an entry asks for: one query of `subject`, times each of the apps, times each of the segments."""

    subject: str = ""
    unit: Unit = Unit.DAY
    apps: tuple[str, ...] = (ALL,)
    segments: tuple[str, ...] = (ALL,)


class Entry(Model):
    """What an entry of any section may have: its own durations, a baseline and alerts. `example` is the shortest."""

    example: ClassVar[str] = "- apps: [all]"

    refresh: OptionalDuration = Field(default=None, description="instead of the file's")
    settle: OptionalDuration = Field(default=None, description="instead of the file's")
    max_age: OptionalDuration = Field(default=None, description="instead of the file's")
    baseline: Annotated[Baseline | None, MAPPING] = Field(
        default=None, description="also show what is usual: the median of the same local hour or day of the last weeks"
    )
    alerts: Annotated[Alerts | None, MAPPING] = Field(
        default=None, description="what `braze-exporter rules` makes rules of"
    )

    @property
    def query_spec(self) -> QuerySpec:
        """What is asked for; of an entry that asks for what a list has, its pattern or tag is the subject."""
        return QuerySpec()

    @property
    def is_selector(self) -> bool:
        """Whether it asks for all that it takes of a list."""
        return False

    def matches(self, item: ListItem) -> bool:  # noqa: ARG002 - other entries look at it
        """Return whether it asks for what a row of a list is of."""
        return False


class RegexEntry(Entry):
    """An entry that may have `match` in place of its subject: all whose name the pattern matches, as Braze lists it."""

    match: OptionalRegex = Field(
        None, description="in place of it: all in Braze's list whose whole name the expression matches"
    )

    @property
    def is_selector(self) -> bool:
        """Whether it asks for all that it takes of a list."""
        return self.match is not None

    def matches(self, item: ListItem) -> bool:
        """Return whether it asks for what a row of a list is of: by its name."""
        return self.match is not None and self.match.matches(item.name)

    def subject_or_selector(self, subject: str | None) -> str:
        """Return its `subject` subject, or what stands in place of it."""
        return subject or (self.match.text if self.match is not None else "")


class TagEntry(RegexEntry):
    """An entry that may have `tag` too: all that has the tag in Braze, and is matched if there is `match` beside it."""

    tag: OptionalText = Field(None, description="in place of it, or beside `match`: all that have the tag in Braze")

    @property
    def is_selector(self) -> bool:
        """Whether it asks for all that it takes of a list."""
        return self.match is not None or self.tag is not None

    def matches(self, item: ListItem) -> bool:
        """Return whether it asks for what a row of a list is of: by its name and its tags."""
        is_matched = self.match is None or self.match.matches(item.name)
        return self.is_selector and is_matched and (self.tag is None or self.tag in item.tags)

    def subject_or_selector(self, subject: str | None) -> str:
        """Return its `subject` subject, or what stands in place of it."""
        return super().subject_or_selector(subject) or self.tag or ""


class CustomEvent(RegexEntry):
    """One entry of `custom_events`: an event, times each of the apps, times each of the segments."""

    example: ClassVar[str] = "- event: purchase"

    event: OptionalText = Field(None, description="its exact name in Braze; upper and lower case matter")
    unit: UnitName = Field(Unit.HOUR, description="the width of a bucket")
    apps: Selection = Field((ALL,), description="names of `apps`, or `all` for what is not filtered: a query for each")
    segments: Selection = Field((ALL,), description="names of `segments`, or `all`: times each of the apps")

    @property
    def query_spec(self) -> QuerySpec:
        """The event."""
        return QuerySpec(self.subject_or_selector(self.event), self.unit, self.apps, self.segments)


class Sessions(Entry):
    """One entry of `sessions`: those of each of the apps, times each of the segments."""

    example: ClassVar[str] = "- unit: hour"

    unit: UnitName = Field(Unit.HOUR, description="the width of a bucket")
    apps: Selection = Field((ALL,), description="names of `apps`, or `all` for what is not filtered: a query for each")
    segments: Selection = Field((ALL,), description="names of `segments`, or `all`: times each of the apps")

    @property
    def query_spec(self) -> QuerySpec:
        """All sessions."""
        return QuerySpec("", self.unit, self.apps, self.segments)


class Purchases(RegexEntry):
    """One entry of `purchases` or `revenue`: of a product or of all, times each of the apps."""

    example: ClassVar[str] = "- product: all"

    product: OptionalText = Field(None, description="its exact name in Braze, or `all` for all together")
    unit: UnitName = Field(Unit.HOUR, description="the width of a bucket")
    apps: Selection = Field((ALL,), description="names of `apps`, or `all` for what is not filtered: a query for each")

    @property
    def query_spec(self) -> QuerySpec:
        """The product, or all of them."""
        return QuerySpec(self.subject_or_selector(None if self.product == ALL else self.product), self.unit, self.apps)


class SegmentUsers(RegexEntry):
    """One entry of `segment_users`: a segment, by the name that the workspace gives it."""

    example: ClassVar[str] = "- segment: vip"

    segment: OptionalSegment = Field(None, description="a name of `segments`")

    @property
    def query_spec(self) -> QuerySpec:
        """The segment."""
        return QuerySpec(self.subject_or_selector(self.segment))


class Users(Entry):
    """One entry of the sections that count users by the day: those of each of the apps."""

    apps: Selection = Field((ALL,), description="names of `apps`, or `all` for what is not filtered: a query for each")

    @property
    def query_spec(self) -> QuerySpec:
        """All users."""
        return QuerySpec(apps=self.apps)


class Campaign(TagEntry):
    """One entry of `campaigns`: a campaign, by Braze's identifier."""

    example: ClassVar[str] = "- campaign: f293e280-c0e7-4304-b9b9-62803fc0b053"

    campaign: OptionalId = Field(None, description="its API identifier, at the bottom of its page")

    @property
    def query_spec(self) -> QuerySpec:
        """The campaign."""
        return QuerySpec(self.subject_or_selector(self.campaign))


class Canvas(TagEntry):
    """One entry of `canvases`: a Canvas, by Braze's identifier."""

    example: ClassVar[str] = "- canvas: 4ffe74b7-ca90-4046-ae7f-68b1b337f6a6"

    canvas: OptionalId = Field(None, description="its API identifier, under Analyze Variants")

    @property
    def query_spec(self) -> QuerySpec:
        """The Canvas."""
        return QuerySpec(self.subject_or_selector(self.canvas))


class Workspace(Model):
    """The keys of a workspace beside its sections. Exactly one of `url` and `instance`, and of the two key sources."""

    name: Text = Field(description="the label `workspace`")
    url: OptionalUrl = Field(
        default=None, description="the REST endpoint, such as `https://rest.iad-01.braze.com`; or `instance`"
    )
    instance: OptionalInstance = Field(default=None, description="instead of `url`")
    # Neither is in the `repr`: it may be the key itself, put in the wrong place.
    api_key_file: OptionalKeyFile = Field(
        default=None, repr=False, description="the file that holds the REST API key; or `api_key_env`"
    )
    api_key_env: OptionalVariable = Field(
        default=None, repr=False, description="the variable that holds it, instead of `api_key_file`"
    )
    timezone: OptionalTimeZone = Field(
        default=None, description="of the company in Braze; needed for days, baselines, and hours without an offset"
    )
    apps: NamedIds = Field(default_factory=dict, description="names for the label `braze_app`")
    segments: NamedIds = Field(
        default_factory=dict, description="names for the label `segment`, of segments with analytics tracking on"
    )

    @property
    def rest_endpoint(self) -> str:
        """The base URL of Braze's REST API for this workspace."""
        return self.url or INSTANCES[str(self.instance)]


# The sections of a workspace, by key: the model of their entries.
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
