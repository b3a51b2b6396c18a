"""The Prometheus alerting rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from braze_exporter.config.values import format_duration

# The README has a section for each built-in alert and for each type of query alert.
RUNBOOKS = "https://github.com/braze-exporter/braze-exporter/blob/main/README.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """An alerting rule.

    `wait` is `for`, in seconds. `keep_firing_for` is in seconds too, or None if the rule has none. `summary` and
    `description` are Prometheus templates, in which names from the config come from labels only. `severity` and
    `labels` are plain text. `labels` repeat those of the series, because promtool rejects two rules with the same name
    and labels. `runbook` is the heading in the README, if it differs from the name.
    """

    alert: str
    expr: str
    wait: float
    summary: str
    description: str
    keep_firing_for: float | None = None
    severity: str = "warning"
    labels: Mapping[str, str] = field(default_factory=dict)
    runbook: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the rule as it is written to a rule file."""
        labels = {"severity": self.severity, **self.labels}
        keep = {} if self.keep_firing_for is None else {"keep_firing_for": format_duration(self.keep_firing_for)}
        return {
            "alert": self.alert,
            "expr": self.expr,
            "for": format_duration(self.wait),
            **keep,
            "labels": {name: _escape_template(value) for name, value in labels.items() if value},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOKS}#{(self.runbook or self.alert).lower().replace(' ', '-')}",
            },
        }


def _escape_template(text: str) -> str:
    """Return a template that renders as `text`."""
    return text.replace("{{", '{{ "{{" }}')
