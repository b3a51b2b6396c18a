"""Lines of the text format, byte for byte as `prometheus_client` writes them, but cached by the callers.

The text format and OpenMetrics differ only in the headers: OpenMetrics names a counter without `_total` there.
"""

from collections.abc import Iterable

from prometheus_client.utils import floatToGoString

from braze_exporter.metrics.families import Family


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    r"""Return `{name="value",…}`, sorted by name, with `\`, `"` and line feeds escaped."""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in sorted(labels)) + "}"


def format_sample(name: str, labels: str, value: float) -> str:
    """Return one line: the sample `name` with the formatted `labels`."""
    return f"{name}{labels} {floatToGoString(value)}\n"


def format_header(family: Family, *, openmetrics: bool) -> str:
    """Return the `# HELP` and `# TYPE` lines of `family`."""
    name = family.name
    if openmetrics and family.type == "counter":
        name = name.removesuffix("_total")
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
    return f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
