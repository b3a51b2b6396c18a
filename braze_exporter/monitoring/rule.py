"""The Prometheus alerting rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from braze_exporter.config.values import format_duration

# The usual values of `for` in built-in rules.
SHORT_WAIT_SECONDS = 300.0
DEFAULT_WAIT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """The options of all rules.

    `runbook_prefix` is the start of the URLs of the runbooks; the anchor of a runbook follows it. `dashboard_url` is
    the URL of the dashboard. Rules have no annotation for an empty URL. `job` is the name of the exporter's job in
    Prometheus, or empty.
    """

    runbook_prefix: str = ""
    dashboard_url: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """An alerting rule.

    `wait` is `for`, in seconds. `keep_firing_for` is in seconds too, or None if the rule has none. `summary` and
    `description` are Prometheus templates, in which names from the config come from labels only. `severity` and
    `labels` are plain text. `labels` repeat those of the series, because promtool rejects two rules with the same name
    and labels. `runbook` is the heading in docs/runbooks.md, if it differs from the name.
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

    def as_dict(self, options: RuleOptions) -> dict[str, object]:
        """Return the rule as it is written to a rule file."""
        labels = {"severity": self.severity, **self.labels}
        anchor = (self.runbook or self.alert).lower().replace(" ", "-")
        urls = {
            "runbook_url": options.runbook_prefix and options.runbook_prefix + anchor,
            "dashboard_url": options.dashboard_url,
        }
        return {
            "alert": self.alert,
            "expr": self.expr,
            "for": format_duration(self.wait),
            **({} if self.keep_firing_for is None else {"keep_firing_for": format_duration(self.keep_firing_for)}),
            "labels": {name: _escape_template(value) for name, value in labels.items() if value},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                **{name: _escape_template(url) for name, url in urls.items() if url},
            },
        }


def _escape_template(text: str) -> str:
    """Return a template that renders as `text`."""
    return text.replace("{{", '{{ "{{" }}')
