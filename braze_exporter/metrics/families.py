"""The metric families that queries feed: names, help texts and labels."""

from dataclasses import dataclass

from braze_exporter.braze.kinds import SeriesKind, Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import QUERY_LABELS


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name, its Prometheus type, its help and the names of its labels."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]


# The help texts of the gauges of a metric group, by the suffix of the family name. `{counts}` is the `help_prefix` of
# the metric group, `{unit}` the unit of the query.
GAUGE_HELP: dict[str, str] = {
    "latest": "{counts} in the newest {unit}, usually still growing.",
    "settled": "{counts} in the newest settled {unit}, fetched at least the settle time after its end.",
    "baseline": "Baseline of the newest settled {unit}: median of the same local {unit} of the week in the last weeks.",
}


def build_gauge(kind: SeriesKind, metric_group: MetricGroup, unit: Unit, measure: str) -> Family:
    """Return the gauge family of a metric group of `kind` for `measure`, a key of `GAUGE_HELP`."""
    text = GAUGE_HELP[measure].format(counts=metric_group.help_prefix, unit=unit.value)
    labels = ("workspace", *metric_group.labels, *metric_group.series_labels)
    return Family(f"braze_{metric_group.name}_{unit.adverb}_{measure}", "gauge", _append_source(text, kind), labels)


def build_counter(kind: SeriesKind, metric_group: MetricGroup) -> Family:
    """Return the counter family for an additive metric group of `kind`."""
    text = f"{metric_group.help_prefix} that Braze has reported since the first response, late arrivals included."
    labels = ("workspace", *metric_group.labels, *metric_group.series_labels)
    return Family(f"braze_{metric_group.name}_total", "counter", _append_source(text, kind), labels)


def _append_source(text: str, kind: SeriesKind) -> str:
    return f"{text} From Braze {kind.path}, cached for about one refresh."


QUERY_UP = Family("braze_query_up", "gauge", "Whether the last fetch of the query succeeded.", QUERY_LABELS)
QUERY_LAST_SUCCESS = Family(
    "braze_query_last_success_timestamp_seconds",
    "gauge",
    "Timestamp of the last successful fetch of the query, 0 until the first.",
    QUERY_LABELS,
)
QUERY_LATEST_START = Family(
    "braze_query_latest_bucket_start_timestamp_seconds",
    "gauge",
    "Timestamp of the start of the newest bucket of the query, as last known.",
    QUERY_LABELS,
)
QUERY_SETTLED_START = Family(
    "braze_query_settled_bucket_start_timestamp_seconds",
    "gauge",
    "Timestamp of the start of the newest settled bucket of the query, as last known.",
    QUERY_LABELS,
)
QUERY_MAX_AGE = Family(
    "braze_query_max_age_seconds",
    "gauge",
    "Time since the last successful fetch of the query after which its values are no longer exported.",
    QUERY_LABELS,
)
# The families that say how each query stands, whatever its kind.
QUERY_FAMILIES = (QUERY_UP, QUERY_LAST_SUCCESS, QUERY_LATEST_START, QUERY_SETTLED_START, QUERY_MAX_AGE)
