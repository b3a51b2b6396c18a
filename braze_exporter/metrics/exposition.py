"""Formats lines of the text format, byte for byte as `prometheus_client` does. Unlike its output, they can be cached.

Samples are the same in the text format and in OpenMetrics. The headers differ: in OpenMetrics the name of a counter has
no `_total`, and quotes in the help are escaped.
"""

import functools
from collections.abc import Iterable

from prometheus_client.utils import floatToGoString

from braze_exporter.metrics.families import Family

_MILLION = 1e6


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    r"""Return `{name="value",…}`, sorted by name, with `\`, `"` and line feeds escaped."""
    return "{" + ",".join([_format_label(name, value) for name, value in sorted(labels)]) + "}"


def format_samples(name: str, samples: Iterable[tuple[str, float]]) -> str:
    """Return the lines of the samples of a family: their labels, formatted by `format_labels`, and their values."""
    # Below a million, Go writes numbers as Python does.
    return "".join(
        [
            f"{name}{labels} {float(value) if -_MILLION < value < _MILLION else floatToGoString(value)}\n"
            for labels, value in samples
        ]
    )


def format_family(family: Family, values: Iterable[tuple[tuple[str, ...], float]]) -> str:
    """Return the lines of the samples of a family, from the values of its labels and the value of each sample."""
    samples = ((format_labels(zip(family.labels, labels, strict=True)), value) for labels, value in values)
    return format_samples(family.name, samples)


def format_header(family: Family, *, openmetrics: bool) -> str:
    """Return the `# HELP` and `# TYPE` lines of `family`."""
    name = family.name
    if openmetrics and family.type == "counter":
        name = name.removesuffix("_total")
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
    return f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"


@functools.lru_cache(maxsize=4_096)  # the series of a query have most of their labels in common
def _format_label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'
