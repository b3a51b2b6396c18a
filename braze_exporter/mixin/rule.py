"""An alerting rule of Prometheus, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from braze_exporter.catalog import Query
from braze_exporter.mixin.promql import duration

# Where the README stands that has a paragraph for each alert.
RUNBOOKS = "https://github.com/braze-exporter/braze-exporter/blob/main/README.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert that fires when `expr` has had a value for `wait` seconds, and once it fires, for as long after that.

    `summary` and `description` are templates of Prometheus, and name people's texts only by the labels that hold them;
    `severity` and `labels` are plain text. The labels repeat those of the series, for promtool takes two rules of one
    name and the same labels for a mistake.
    """

    alert: str
    expr: str
    wait: float
    summary: str
    description: str
    severity: str = "warning"
    labels: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the rule as it stands in a file of rules."""
        labels = {"severity": self.severity, **self.labels}
        return {
            "alert": self.alert,
            "expr": self.expr,
            "for": duration(self.wait),
            "keep_firing_for": duration(self.wait),
            "labels": {name: _plain(value) for name, value in labels.items() if value},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOKS}#{self.alert.lower()}",
            },
        }


def what(query: Query) -> str:
    """Return the template that names what a query, or another one of its families, counts, by its labels alone."""
    filters = {
        "braze_app": "{{ with $labels.braze_app }} from {{ . }}{{ end }}",
        "segment": "{{ with $labels.segment }} of the segment {{ . }}{{ end }}",
    }
    chosen = "".join(text for label, text in filters.items() if label in query.noun.labels)
    return f"{{{{ $labels.{query.kind.subject} }}}}{chosen} in {{{{ $labels.workspace }}}}"


def _plain(text: str) -> str:
    """Return a template that gives just this text."""
    return text.replace("{{", '{{ "{{" }}')
