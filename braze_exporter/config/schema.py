"""The models of the config: one frozen model per mapping, with the default and description of every key.

A model refuses unknown keys and checks single values. `loading` checks rules across several mappings: for example, that
a name in an entry is defined in the workspace.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from braze_exporter.braze.instances import INSTANCES
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.lists import ListItem
from braze_exporter.config import values
from braze_exporter.config.regex import Regex

# PromQL can represent every whole number up to this one exactly.
MAX_NUMBER = 10**15


def _optional(description: str, *, repr: bool = True) -> Any:  # noqa: A002, ANN401 - as `Field`
    """Return a field that is None by default."""
    return Field(default=None, description=description, repr=repr)


class Model(BaseModel):
    """A mapping of the config: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class DurationByUnit(Model):
    """A duration for each unit, in seconds once loaded."""

    hour: values.Duration
    day: values.Duration

    def for_unit(self, unit: Unit) -> float:
        """Return the duration for `unit`, in seconds."""
        return self.hour if unit is Unit.HOUR else self.day


class RefreshInterval(DurationByUnit):
    """How often a query is fetched, by its unit."""

    hour: values.Duration = Field(default=300.0, description="for hourly queries")
    day: values.Duration = Field(default=900.0, description="for daily queries")


class Settle(DurationByUnit):
    """How long after its end a bucket may still change, by its unit."""

    hour: values.Duration = Field(default=3_600.0, description="for hourly buckets")
    day: values.Duration = Field(default=7_200.0, description="for daily buckets")


class Budget(Model):
    """The part of Braze's rate limits that the exporter may use, and the number of connections per workspace."""

    share: Annotated[float, *values.number_range(0.001, 1)] = Field(
        default=0.1,
        description="maximum fraction of each Braze rate limit for the exporter; your own sends use the same limits",
    )
    reserve: Annotated[float, *values.number_range(0, 0.9)] = Field(
        default=0.2,
        description="fraction of each limit to leave unused; when only that remains, requests pause until the reset",
    )
    concurrency: Annotated[int, *values.number_range(1, 100, whole=True)] = Field(
        default=10, description="maximum number of connections to Braze per workspace"
    )


class Settings(Model):
    """The top-level keys beside `workspaces`."""

    refresh_interval: RefreshInterval = Field(
        default=RefreshInterval(), description="how often a query is fetched, whatever the scrape interval"
    )
    settle: Settle = Field(default=Settle(), description="how long after its end a bucket may still change")
    max_age: values.Duration = Field(
        default=3_600.0,
        description="how long values are exported after their last successful fetch; at least twice `refresh_interval`",
    )
    max_queries: Annotated[int, *values.number_range(1, 1_000_000, whole=True)] = Field(
        default=2_000, description="maximum number of queries; further items selected by `regex` or `tag` are skipped"
    )
    budget: Budget = Field(default=Budget(), description="limits on the exporter's requests to Braze")
    state_file: values.OptionalPath = _optional(
        "file that keeps counters, values and lists across restarts, for one exporter"
    )


class Baseline(Model):
    """The usual value for a bucket: the median of the same local bucket in the last weeks."""

    weeks: Annotated[int, *values.number_range(1, 52, whole=True)] = Field(description="number of past weeks")


class Alerts(Model):
    """The conditions and labels of the alerts on an entry's queries.

    At least one of `silent`, `below`, `above` and `drop` is required. `min_baseline` requires `drop`.
    """

    silent: values.OptionalDuration = _optional("fires if nothing was counted for this long while fetches succeed")
    below: Annotated[float | None, *values.number_range(0.001, MAX_NUMBER)] = _optional(
        "fires if a settled bucket is below this value"
    )
    above: Annotated[float | None, *values.number_range(0, MAX_NUMBER)] = _optional(
        "fires if a settled bucket is above this value"
    )
    drop: Annotated[float | None, *values.number_range(0.01, 1)] = _optional(
        "fires if a settled bucket is this fraction or more below its `baseline`; 0.5 is half, 1 is zero"
    )
    min_baseline: Annotated[float, *values.number_range(0, MAX_NUMBER)] = Field(
        10.0, description="minimum baseline for `drop`, because small counts vary by chance"
    )
    wait: values.Duration = Field(
        default=900.0, alias="for", description="how long a condition must last before its alert fires"
    )
    keep_firing_for: values.OptionalDuration = _optional(
        "how long an alert fires after its condition has ended; default: as `for`"
    )
    severity: values.Text = Field("warning", description="value of the label `severity`")
    labels: values.AlertLabels = Field(
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
    apps: tuple[str, ...] = (values.ALL,)
    segments: tuple[str, ...] = (values.ALL,)
    channels: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()


class Entry(Model):
    """The keys that an entry of any section may have.

    `example` is the shortest valid entry, and `subject_key` the key of its subject.
    """

    example: ClassVar[str] = "apps: [all]"
    subject_key: ClassVar[str] = ""

    refresh_interval: values.OptionalDuration = _optional("overrides the top-level `refresh_interval`")
    settle: values.OptionalDuration = _optional("overrides the top-level `settle`")
    max_age: values.OptionalDuration = _optional("overrides the top-level `max_age`")
    baseline: Annotated[Baseline | None, values.mapping_of("keys to values, such as {weeks: 4}")] = _optional(
        "also export the usual value: the median of the same local hour or day in the last weeks"
    )
    alerts: Annotated[Alerts | None, values.mapping_of("keys to values, such as {silent: 2h}")] = _optional(
        "alerts for which `braze-exporter rules` generates Prometheus rules"
    )

    @property
    def selector(self) -> tuple[Regex | None, str | None]:
        """The regex and the tag with which the entry selects items of a Braze list, None if not set."""
        return getattr(self, "regex", None), getattr(self, "tag", None)

    @property
    def is_selector(self) -> bool:
        """Whether the entry selects items of a Braze list."""
        return self.selector != (None, None)

    def matches(self, item: ListItem) -> bool:
        """Return whether the entry selects `item`, by its name and its tags."""
        regex, tag = self.selector
        return self.is_selector and (regex is None or regex.matches(item.name)) and (tag is None or tag in item.tags)

    @property
    def query_spec(self) -> QuerySpec:
        """The queries that the entry defines. The subject of a selector is its regex or tag."""
        regex, tag = self.selector
        subject = getattr(self, self.subject_key, None) or (regex.text if regex is not None else tag) or ""
        return QuerySpec(subject, **{name: getattr(self, name) for name in QuerySpec._fields if hasattr(self, name)})


class RegexEntry(Entry):
    """An entry that may have `regex` instead of its subject, to select list items whose whole name matches."""

    regex: values.OptionalRegex = _optional("selects every item of Braze's list whose whole name matches this regex")


class TagEntry(RegexEntry):
    """An entry that may also have `tag`, to select list items by tag. If both are set, both must match."""

    tag: values.OptionalText = _optional("selects every item with this tag in Braze; may be combined with `regex`")


_APPS = "names from the workspace's `apps`, or `all` for unfiltered; one query for each"
_SEGMENTS = "names from the workspace's `segments`, or `all`; one query for each, combined with each of `apps`"
AppSelection = Annotated[values.Selection, Field(description=_APPS)]
SegmentSelection = Annotated[values.Selection, Field(description=_SEGMENTS)]


class CustomEvent(RegexEntry):
    """One entry of `custom_events`: an event, for each combination of the apps and the segments."""

    example: ClassVar[str] = "event: purchase"
    subject_key: ClassVar[str] = "event"

    event: values.OptionalText = _optional("exact name of the event in Braze, case-sensitive")
    unit: values.UnitName = Field(Unit.HOUR, description="bucket width")
    apps: AppSelection = (values.ALL,)
    segments: SegmentSelection = (values.ALL,)


class Sessions(Entry):
    """One entry of `sessions`: all sessions, for each combination of the apps and the segments."""

    example: ClassVar[str] = "unit: hour"

    unit: values.UnitName = Field(Unit.HOUR, description="bucket width")
    apps: AppSelection = (values.ALL,)
    segments: SegmentSelection = (values.ALL,)


class Purchases(RegexEntry):
    """One entry of `purchases` or `revenue`: one product or all products together, for each of the apps."""

    example: ClassVar[str] = "unit: hour"
    subject_key: ClassVar[str] = "product"

    product: values.OptionalProduct = _optional(
        "exact name of the product in Braze; without it and `regex`: all together"
    )
    unit: values.UnitName = Field(Unit.HOUR, description="bucket width")
    apps: AppSelection = (values.ALL,)


class SegmentUsers(RegexEntry):
    """One entry of `segment_users`: a segment, by its name in `segments` of the workspace."""

    example: ClassVar[str] = "segment: vip"
    subject_key: ClassVar[str] = "segment"

    segment: values.OptionalSegment = _optional("name from the workspace's `segments`")


class Users(Entry):
    """One entry of a section that counts users by day, for each of the apps."""

    apps: AppSelection = (values.ALL,)


class MessagesEntry(TagEntry):
    """An entry whose responses contain message statistics by channel, of which it may export only some."""

    channels: values.Channels = Field((), description="channels to export, by their names in Braze's API; default: all")
    stats: values.Stats = Field(
        (), description="message statistics to export, by their names in Braze's API; default: all"
    )


class Campaign(MessagesEntry):
    """One entry of `campaigns`: a campaign, by its Braze identifier."""

    example: ClassVar[str] = "campaign: f293e280-c0e7-4304-b9b9-62803fc0b053"
    subject_key: ClassVar[str] = "campaign"

    campaign: values.OptionalCampaignId = _optional(
        "API identifier of the campaign, at the bottom of its page in Braze"
    )


class Canvas(MessagesEntry):
    """One entry of `canvases`: a Canvas, by its Braze identifier."""

    example: ClassVar[str] = "canvas: 4ffe74b7-ca90-4046-ae7f-68b1b337f6a6"
    subject_key: ClassVar[str] = "canvas"

    canvas: values.OptionalCanvasId = _optional("API identifier of the Canvas, under Analyze Variants in Braze")


class Workspace(Model):
    """The keys of a workspace beside its sections.

    Exactly one of `url` and `instance` is required, and exactly one of `api_key_file` and `api_key_env`.
    """

    name: values.Text = Field(description="value of the label `workspace`")
    url: values.OptionalUrl = _optional(
        "REST endpoint, such as `https://rest.iad-01.braze.com`; alternative to `instance`"
    )
    instance: values.OptionalInstance = _optional("alternative to `url`")
    # Both are excluded from `repr`, because a user may have written the key itself there.
    api_key_file: values.OptionalKeyFile = _optional(
        "file with the REST API key; alternative to `api_key_env`", repr=False
    )
    api_key_env: values.OptionalVariable = _optional("environment variable with the REST API key", repr=False)
    timezone: values.OptionalTimeZone = _optional(
        "company's time zone in Braze; for days, baselines and hours without an offset"
    )
    apps: values.NamedIds = Field(
        default_factory=dict, description="apps by name; the name is the value of the label `braze_app`"
    )
    segments: values.NamedIds = Field(
        default_factory=dict,
        description="segments with analytics tracking, by name; the name is the value of the label `segment`",
    )

    @property
    def rest_endpoint(self) -> str:
        """The base URL of Braze's REST API for this workspace."""
        return self.url or INSTANCES[str(self.instance)]


# The model of the entries of each section, by the key of the section.
SECTIONS: Mapping[str, type[Entry]] = {
    "custom_events": CustomEvent,
    "sessions": Sessions,
    "purchases": Purchases,
    "revenue": Purchases,
    "segment_users": SegmentUsers,
    "new_users": Users,
    "uninstalls": Users,
    "daily_active_users": Users,
    "monthly_active_users": Users,
    "campaigns": Campaign,
    "canvases": Canvas,
}
