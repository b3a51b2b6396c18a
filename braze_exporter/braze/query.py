"""A query: one data series to fetch from Braze."""

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import UTC, MetricGroup, SeriesKind, Unit


@dataclass(frozen=True, slots=True)
class Query:
    """A data series to fetch from Braze with one HTTP call, and how to treat its responses.

    `url` is the REST endpoint of the workspace. `subject` is the value of the subject label, empty for queries without
    a subject. `subject_id` is Braze's id of the subject, empty if Braze identifies it by name. `app` and `segment` are
    label values, empty without that filter; `app_id` and `segment_id` are Braze's ids. `refresh_seconds`,
    `settle_seconds` and `max_age_seconds` are in seconds. `length` is the number of buckets to request. `zone` is the
    company's time zone in Braze. `baseline_weeks` is the number of weeks that the baseline covers, 0 without a
    baseline. `ending_at` is the end of the requested range in seconds since the epoch, or None for the current time.
    `has_counter` is false while an hourly selector whose list was not read yet may add the query that is the source of
    the counter.
    """

    workspace: str
    kind: SeriesKind
    unit: Unit
    subject: str = ""
    subject_id: str = ""
    url: str = ""
    app: str = ""
    app_id: str = ""
    segment: str = ""
    segment_id: str = ""
    refresh_seconds: float = 300.0
    settle_seconds: float = 3_600.0
    max_age_seconds: float = 3_600.0
    length: int = 24
    zone: ZoneInfo = UTC
    baseline_weeks: int = 0
    ending_at: int | None = None
    has_counter: bool = True

    @property
    def request_value(self) -> str:
        """The value of the subject parameter: the id or the name of the subject, empty without a subject."""
        return self.subject_id or self.subject

    @property
    def metric_groups(self) -> tuple[MetricGroup, ...]:
        """The metric groups for which a response to this query has values."""
        filtered = self.kind.filtered_group
        if filtered is None:
            return self.kind.metric_groups
        is_part = (
            self.subject and self.kind.subject_label not in self.kind.metric_group.labels
        )  # for example, one product is a part of all purchases
        return (filtered,) if self.app_id or self.segment_id or is_part else self.kind.metric_groups

    @property
    def metric_group(self) -> MetricGroup:
        """The first metric group, which represents the query."""
        return self.metric_groups[0]

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels of the query, in the order of the metric families. A series of a response may add more."""
        values = {"braze_app": self.app, "segment": self.segment, self.kind.subject_label: self.subject}
        return (("workspace", self.workspace), *((name, values[name]) for name in self.metric_group.labels))

    @property
    def counter_key(self) -> tuple[str, ...]:
        """The key of the counters of this query. It consists of Braze's ids and does not depend on the unit."""
        return (self.workspace, self.url, self.kind.section, self.request_value, self.app_id, self.segment_id)

    @property
    def identity(self) -> tuple[str, str, str, str, str, Unit]:
        """The identity of the query by Braze's ids. Two queries with equal identity would make the same call."""
        return (self.workspace, self.kind.section, self.request_value, self.app_id, self.segment_id, self.unit)
