"""One thing to ask Braze."""

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import UTC, MetricGroup, SeriesKind, Unit


@dataclass(frozen=True, slots=True)
class Query:
    """One thing to ask Braze, which is one HTTP call, and how its answers are to be treated.

    `url` is the REST endpoint of the workspace. `subject` is the name for the label, empty where all is asked for;
    `subject_id` is Braze's identifier of it, empty where Braze is asked by the name itself. `app` and `segment` are the
    names for the labels, empty where not filtered; `app_id` and `segment_id` are Braze's identifiers. `refresh`,
    `settle` and `max_age` are seconds. `length` is the number of units to ask for. `zone` is the company's time zone in
    Braze. `baseline_weeks` is how far back the baseline looks, 0 without one. `ending_at` is the end of a piece of
    history in seconds since the epoch, None for what runs up to now. What does not `feed` has no counter, for one with
    a finer unit may be about to come.
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
    refresh: float = 300.0
    settle: float = 3_600.0
    max_age: float = 3_600.0
    length: int = 24
    zone: ZoneInfo = UTC
    baseline_weeks: int = 0
    ending_at: int | None = None
    has_counter: bool = True

    @property
    def request_value(self) -> str:
        """What Braze is asked about: the identifier or the name of the subject, empty without one."""
        return self.subject_id or self.subject

    @property
    def metric_groups(self) -> tuple[MetricGroup, ...]:
        """The nouns whose families this query feeds."""
        filtered = self.kind.filtered_group
        if filtered is None:
            return self.kind.metric_groups
        is_part = (
            self.subject and self.kind.subject_label not in self.kind.metric_group.labels
        )  # as one product is of all purchases
        return (filtered,) if self.app_id or self.segment_id or is_part else self.kind.metric_groups

    @property
    def metric_group(self) -> MetricGroup:
        """The first of the nouns, which stands for the query."""
        return self.metric_groups[0]

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels of the query itself, in the order of the families; each series of an answer may add others."""
        values = {"braze_app": self.app, "segment": self.segment, self.kind.subject_label: self.subject}
        return (("workspace", self.workspace), *((name, values[name]) for name in self.metric_group.labels))

    @property
    def counter_key(self) -> tuple[str, ...]:
        """What the counters of this query are of, in Braze's own ids, whatever the unit."""
        return (self.workspace, self.url, self.kind.section, self.request_value, self.app_id, self.segment_id)

    @property
    def identity(self) -> tuple[str, str, str, str, str, Unit]:
        """What the query asks for, in Braze's own ids: two queries of one identity would be the same call."""
        return (self.workspace, self.kind.section, self.request_value, self.app_id, self.segment_id, self.unit)
