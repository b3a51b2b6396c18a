"""An alerting rule of Prometheus, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from braze_exporter.config.values import duration

# Where the README stands that has a paragraph for each alert, or for each sort of them.
RUNBOOKS = "https://github.com/braze-exporter/braze-exporter/blob/main/README.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert that fires when `expr` has had a value for `wait` seconds, and once it fires, for as long after that.

    `summary` and `description` are templates of Prometheus, and name people's texts only by the labels that hold them;
    `severity` and `labels` are plain text. The labels repeat those of the series, for promtool takes two rules of one
    name and the same labels for a mistake. `runbook` is the heading in the README, if not the name.
    """

    alert: str
    expr: str
    wait: float
    summary: str
    description: str
    severity: str = "warning"
    labels: Mapping[str, str] = field(default_factory=dict)
    runbook: str = ""

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
                "runbook_url": f"{RUNBOOKS}#{(self.runbook or self.alert).lower().replace(' ', '-')}",
            },
        }


def _plain(text: str) -> str:
    """Return a template that gives just this text."""
    return text.replace("{{", '{{ "{{" }}')
