"""The built-in alerting rules of the exporter process."""

from collections.abc import Iterator

from braze_exporter.config.quoting import quote
from braze_exporter.metrics.promql import select_series
from braze_exporter.metrics.self_families import QUERIES, RELOAD_SUCCESS_TIME, RELOAD_SUCCESSFUL, STATE_WRITE_FAILURES
from braze_exporter.monitoring.rule import DEFAULT_WAIT_SECONDS, SHORT_WAIT_SECONDS, Rule


def exporter_rules(*, has_state_file: bool) -> Iterator[Rule]:
    """Yield the rules for the exporter process. `has_state_file` is true if a state file may be configured."""
    yield Rule(
        alert="BrazeExporterConfigReloadFailed",
        # A lost scrape does not end the alert.
        expr=f"time() - max_over_time({RELOAD_SUCCESS_TIME.name}[5m])\n"
        f"and max_over_time({RELOAD_SUCCESSFUL.name}[5m]) == 0",
        wait=SHORT_WAIT_SECONDS,
        summary="Failed Braze exporter configuration reload.",
        description="The Braze exporter failed to reload its config and keeps the one loaded "
        "{{ $value | humanizeDuration }} ago. The exporter's log and `braze-exporter check` list the problems.",
    )
    if has_state_file:
        yield Rule(
            alert="BrazeExporterStateWriteFailing",
            expr=f"increase({STATE_WRITE_FAILURES.name}[10m]) > 0",
            wait=DEFAULT_WAIT_SECONDS,
            summary="Braze exporter cannot write its state file.",
            description='Writes of the state file failed (about {{ $value | printf "%.0f" }} in the last 10 minutes). '
            "Until a write succeeds, counters do not increase and alerts for silent events do not fire. The log "
            "contains the error. Check for a full or read-only disk.",
        )


def target_down_rule(job: str) -> Rule:
    """Return the rule for exporters that the Prometheus job `job` cannot scrape, or does not have."""
    up = f"up{{job={quote(job)}}}"
    return Rule(
        alert="BrazeExporterDown",
        expr=f"{up} == 0\nor absent({up})",
        wait=SHORT_WAIT_SECONDS,
        summary="Braze exporter cannot be scraped.",
        description="Prometheus has not scraped {{ with $labels.instance }}the Braze exporter {{ . }}{{ else }}any "
        "Braze exporter{{ end }} of job {{ $labels.job }} for 5 minutes or longer. No other alert for its workspaces "
        "can fire. The target status page of Prometheus shows scrape errors.",
        severity="critical",
    )


def metrics_missing_rule(workspace: str = "") -> Rule:
    """Return the rule for missing metrics of a workspace, or of all. It needs no name of a Prometheus job."""
    matchers = {"workspace": workspace} if workspace else {}
    texts = (
        ("workspace {{ $labels.workspace }}", " for it", ", or no longer has this workspace in its config")
        if workspace
        else ("a Braze exporter", "", "")
    )
    return Rule(
        alert="BrazeExporterDown",
        labels=matchers,
        expr=f"absent({select_series(QUERIES, matchers.items())})",
        wait=SHORT_WAIT_SECONDS,
        summary="Braze exporter metrics are missing.",
        description=f"Prometheus has had no metrics of {texts[0]} for 5 minutes or longer, so no other alert{texts[1]} "
        f"can fire. The exporter is down or cannot be scraped{texts[2]}. The target status page of Prometheus shows "
        "scrape errors.",
        severity="critical",
    )
