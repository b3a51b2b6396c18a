"""The metric families that queries feed: their names, their help and their labels."""

from dataclasses import dataclass

from braze_exporter.braze.kinds import Kind, Noun, Unit


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name, its type in Prometheus's words, its help and the names of its labels."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...]


# What each query gives, by the suffix of the family, with its help; `{counts}` is of the noun, `{unit}` of the query.
GAUGES: dict[str, str] = {
    "latest": "{counts} in the newest {unit}, which is usually still in progress and growing.",
    "latest_bucket_start_timestamp_seconds": "Start of the newest {unit}.",
    "settled": "{counts} in the newest settled {unit}: one fetched its settle time or more after its end.",
    "settled_bucket_start_timestamp_seconds": "Start of the newest settled {unit}.",
    "baseline": "Median of the same local {unit} of the week in the last weeks, for the bucket that settled shows.",
    "up": "Whether the last fetch was answered (1) or not (0).",
    "last_success_timestamp_seconds": "When a fetch was last answered, 0 until the first time.",
}
# Those of the query itself, whatever series its answers have.
OF_QUERY = ("up", "last_success_timestamp_seconds")


def gauge(kind: Kind, noun: Noun, unit: Unit, measure: str) -> Family:
    """Return the gauge family of one of `GAUGES` for a noun of `kind`."""
    text = GAUGES[measure].format(counts=noun.counts, unit=unit.value)
    labels = ("workspace", *noun.labels, *(() if measure in OF_QUERY else noun.breakdown))
    return Family(f"braze_{noun.name}_{unit.adverb}_{measure}", "gauge", _with_source(text, kind), labels)


def counter(kind: Kind, noun: Noun) -> Family:
    """Return the counter family for an additive noun of `kind`."""
    text = f"{noun.counts} that Braze has reported since the first answer, late arrivals included."
    labels = ("workspace", *noun.labels, *noun.breakdown)
    return Family(f"braze_{noun.name}_total", "counter", _with_source(text, kind), labels)


def info(kind: Kind) -> Family:
    """Return the family that maps the names of the subjects of `kind`, which `is_named`, to their ids."""
    text = f"The identifier that Braze has for the {kind.subject}."
    return Family(f"braze_{kind.subject}_info", "gauge", text, ("workspace", kind.subject, kind.parameter))


def _with_source(text: str, kind: Kind) -> str:
    return f"{text} Fetched from {kind.endpoint} about once per refresh."
