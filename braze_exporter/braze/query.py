"""A query: one data series to fetch from Braze."""

from collections.abc import Iterable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import KINDS, UTC, SeriesKind, Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.names import normalize_id

_NAMES = dict.fromkeys(kind.subject_label for kind in KINDS if kind.subject_label and not kind.is_identified_by_id)
_IDS_AND_NAMES = (
    label for kind in KINDS if kind.is_identified_by_id for label in (kind.subject_parameter, kind.subject_label)
)
# The labels that identify a query of any kind on the metrics page.
QUERY_LABELS = ("workspace", "kind", "unit", *_NAMES, "braze_app", *_IDS_AND_NAMES)


@dataclass(frozen=True, slots=True)
class Query:
    """A data series to fetch from Braze with one HTTP call, and how to treat its responses.

    `url` is the REST endpoint of the workspace. `subject` is the name of the subject, empty for queries without a
    subject and while the name of an id is unknown. `subject_id` is Braze's id of the subject, empty if Braze identifies
    it by name. `app` and `segment` are the names that the config gives to the ids `app_id` and `segment_id`, empty
    without that filter. All ids are as written in the config or in Braze's list. `refresh_seconds`, `settle_seconds`
    and `max_age_seconds` are in seconds. `length` is the number of buckets that a usual fetch requests. `zone` is the
    company's time zone in Braze. `baseline_weeks` is the number of weeks that the baseline covers, 0 without a
    baseline. `channels` and `stats` are the message statistics to export, all if empty. `ending_at` is the end of the
    requested range in seconds since the epoch, or None for the current time. `has_counter` is false while an hourly
    selector whose list was not read yet may add the query that is the source of the counter.
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
    channels: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()
    ending_at: int | None = None
    has_counter: bool = True

    @property
    def request_value(self) -> str:
        """The value of the subject parameter: the id or the name of the subject, empty without a subject."""
        return self.subject_id or self.subject

    @property
    def title(self) -> str:
        """What messages call the subject: its name, or its id while the name is unknown. Empty without a subject."""
        return self.subject or self.subject_id

    @property
    def metric_groups(self) -> tuple[MetricGroup, ...]:
        """The metric groups for which a response to this query has values."""
        kind = self.kind
        if not kind.part_labels:
            return kind.metric_groups
        values = {"braze_app": self.app_id, "segment": self.segment_id, kind.subject_label: self.subject}
        parts = tuple(label for label in kind.part_labels if values[label])
        return (kind.partial_group(parts),) if parts else kind.metric_groups

    @property
    def metric_group(self) -> MetricGroup:
        """The first metric group, which represents the query."""
        return self.metric_groups[0]

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels of the values of the query, in the order of its metric groups. A series may add more."""
        values = self._label_values
        return tuple((name, values[name]) for name in ("workspace", *self.metric_group.labels))

    @property
    def query_labels(self) -> tuple[tuple[str, str], ...]:
        """The labels of the query in the families `braze_query_…`, empty where they do not apply."""
        values = self._label_values
        return tuple((name, values.get(name, "")) for name in QUERY_LABELS)

    def selects(self, labels: Iterable[tuple[str, str]]) -> bool:
        """Return whether the series of a response with these labels is exported, by `channels` and `stats`."""
        if not self.channels and not self.stats:
            return True
        values = dict(labels)
        if "channel" not in values:  # not a message statistic
            return True
        has_channel = not self.channels or values["channel"] in self.channels
        return has_channel and (not self.stats or values.get("stat", "revenue") in self.stats)

    @property
    def _label_values(self) -> dict[str, str]:
        kind = self.kind
        values = {"workspace": self.workspace, "kind": kind.section, "unit": self.unit.value}
        values |= {"braze_app": self.app, "segment": self.segment}
        if kind.subject_label:
            values[kind.subject_label] = self.subject
        if kind.is_identified_by_id:
            values[kind.subject_parameter] = normalize_id(self.subject_id)
        return values

    @property
    def counter_key(self) -> tuple[str, ...]:
        """The key of the counters of this query. It does not depend on the unit.

        It consists of Braze's ids and of the names that the config gives to them. So if the id behind a name changes,
        the counter with this name as a label restarts at 0.
        """
        subject = self._normalized_subject
        filters = (self.app, normalize_id(self.app_id), self.segment, normalize_id(self.segment_id))
        return (self.workspace, self.url, self.kind.section, subject, *filters)

    @property
    def identity(self) -> tuple[str, ...]:
        """The identity of the query by Braze's ids. Two queries with equal identity would make the same call.

        It does not depend on the names in labels, on `refresh_interval`, `settle` and `max_age`, or on `ending_at`.
        """
        filters = (normalize_id(self.app_id), normalize_id(self.segment_id))
        subject = self._normalized_subject
        return (self.workspace, self.kind.section, subject, *filters, self.unit, self.url, self.zone.key)

    @property
    def _normalized_subject(self) -> str:
        return normalize_id(self.subject_id) if self.subject_id else self.subject
