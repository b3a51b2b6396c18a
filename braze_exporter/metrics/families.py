"""The metric families that queries feed: names, help texts and labels."""

from dataclasses import dataclass

from braze_exporter.braze.kinds import MetricGroup, SeriesKind, Unit


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name, its Prometheus type, its help and the names of its labels."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]


# The help texts of the gauges of a query, by the suffix of the family name. `{counts}` is the `help_prefix` of the
# metric group, `{unit}` the unit of the query.
GAUGE_HELP: dict[str, str] = {
    "latest": "{counts} in the newest {unit}, usually still growing.",
    "latest_bucket_start_timestamp_seconds": "Timestamp of the start of the newest {unit}.",
    "settled": "{counts} in the newest settled {unit}, fetched at least the settle time after its end.",
    "settled_bucket_start_timestamp_seconds": "Timestamp of the start of the newest settled {unit}.",
    "baseline": "Baseline of the newest settled {unit}: median of the same local {unit} of the week in the last weeks.",
    "up": "Whether the last fetch succeeded.",
    "last_success_timestamp_seconds": "Timestamp of the last successful fetch, 0 until the first.",
}
# The gauges that each metric group has once, even if it has several series.
QUERY_GAUGES = ("up", "last_success_timestamp_seconds")


def build_gauge(kind: SeriesKind, metric_group: MetricGroup, unit: Unit, measure: str) -> Family:
    """Return the gauge family of a metric group of `kind` for `measure`, a key of `GAUGE_HELP`."""
    text = GAUGE_HELP[measure].format(counts=metric_group.help_prefix, unit=unit.value)
    labels = ("workspace", *metric_group.labels, *(() if measure in QUERY_GAUGES else metric_group.series_labels))
    return Family(f"braze_{metric_group.name}_{unit.adverb}_{measure}", "gauge", _append_source(text, kind), labels)


def build_counter(kind: SeriesKind, metric_group: MetricGroup) -> Family:
    """Return the counter family for an additive metric group of `kind`."""
    text = f"{metric_group.help_prefix} that Braze has reported since the first response, late arrivals included."
    labels = ("workspace", *metric_group.labels, *metric_group.series_labels)
    return Family(f"braze_{metric_group.name}_total", "counter", _append_source(text, kind), labels)


def build_info(kind: SeriesKind) -> Family:
    """Return the info family that maps the names of subjects to their ids. Braze must identify `kind` by an id."""
    text = f"A metric with a constant '1' value labeled by {kind.subject_label} and {kind.subject_parameter}."
    return Family(
        f"braze_{kind.subject_label}_info", "gauge", text, ("workspace", kind.subject_label, kind.subject_parameter)
    )


def _append_source(text: str, kind: SeriesKind) -> str:
    return f"{text} From Braze {kind.path}, cached for about one refresh."
