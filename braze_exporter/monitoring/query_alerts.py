"""The alerting rules for the `alerts` of entries in the config."""

from collections.abc import Iterator
from dataclasses import dataclass

from braze_exporter.braze.query import Query
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.schema import Alerts
from braze_exporter.config.values import format_duration
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, QUERY_SETTLED_START, QUERY_UP
from braze_exporter.metrics.promql import LabelRegex, format_number
from braze_exporter.metrics.self_families import STATE_WRITE_FAILURES
from braze_exporter.monitoring.kind_texts import alert_prefix, capitalize, kind_texts, query_text, silence_text
from braze_exporter.monitoring.query_expr import QueryExpr
from braze_exporter.monitoring.rule import Rule
from braze_exporter.scheduler.plan import MAX_MISSED_REFRESHES

# The lowest `max_result_age`, for short refresh intervals.
_MIN_RESULT_AGE_SECONDS = 600.0
# A metric of the exporter process, from prometheus_client.
_START_TIME = "process_start_time_seconds"
_TARGET = "on (job, instance)"


def max_result_age(query: Query) -> float:
    """Return how old the last success of a query may be, in seconds, before alerts treat its values as outdated."""
    return max(MAX_MISSED_REFRESHES * query.refresh_seconds, _MIN_RESULT_AGE_SECONDS)


@dataclass(frozen=True, slots=True)
class QueryAlerts:
    """A query with its alerts.

    `counter_source` is the query that feeds its counter, or None if it has no counter. `has_state_file` is true if the
    counter is kept in a state file.
    """

    query: Query
    alerts: Alerts
    counter_source: Query | None
    has_state_file: bool

    def rules(self) -> Iterator[Rule]:
        """Yield the rules for the configured alerts."""
        alerts = self.alerts
        silent = alerts.silent if self.counter_source is not None else None
        if silent is not None and self.counter_source is not None:
            yield self._silent_rule(silent, self.counter_source)
        if (silent, alerts.drop, alerts.below) != (None, None, None):
            yield self._no_data_rule(silent or 0.0)
        if alerts.drop is not None:
            yield self._drop_rule(alerts.drop)
        if alerts.below is not None:
            yield self._limit_rule("Below", "<", alerts.below)
        if alerts.above is not None:
            yield self._limit_rule("Above", ">", alerts.above)

    def _silent_rule(self, silent: float, counter_source: Query) -> Rule:
        """Return the rule for a counter that does not rise although fetches succeed.

        The rule does not fire if the counter may not rise for another reason: after a restart without a state file,
        while the state file cannot be written, and until `silent` has passed since the first success.
        """
        expression, span = QueryExpr(counter_source), format_duration(silent)
        if self.has_state_file:
            unreliable = f"increase({STATE_WRITE_FAILURES.name}[{format_duration(max_result_age(counter_source))}]) > 0"
        else:
            unreliable = f"time() - {_START_TIME} < {format_number(silent)}"
        total = expression.total(unless=f" unless {_TARGET} ({unreliable})")
        since = expression.status(QUERY_LAST_SUCCESS, offset=span)
        return self._rule(
            "Silent",
            f"{total}\n  == {expression.total(offset=span)}\n"
            f"and time() - {expression.status(QUERY_LAST_SUCCESS)} < "
            f"{format_number(max_result_age(counter_source))}\n"
            f"and {since} > 0",
            f"No {kind_texts(self.query.kind).noun} counted.",
            f"{silence_text(self.query, span)} Fetches succeed, but the counter does not increase. "
            f"{kind_texts(self.query.kind).advice}",
        )

    def _no_data_rule(self, silent: float) -> Rule:
        """Return the rule for empty or outdated responses, with which the other rules cannot fire."""
        query, expression = self.query, QueryExpr(self.query)
        # When a bucket was fetched as the newest settled one, it had begun less than two units and `settle` before, or
        # three units if responses end with the previous bucket, since the newest one has never settled.
        shorter, longer = sorted((query.settle_seconds, query.unit.seconds))
        max_bucket_age = max(silent, longer + 2 * query.unit.seconds + max(shorter, max_result_age(query)))
        # Values that are older than `max_age` are absent too, for example those of a deferred query.
        max_value_age = min(max_result_age(query), max(query.max_age_seconds, _MIN_RESULT_AGE_SECONDS))
        up, start = expression.status(QUERY_UP), expression.status(QUERY_SETTLED_START)
        return self._rule(
            "No data",
            f"(\n  time() - {start} > {format_number(max_bucket_age)}\n"
            f"  or 0 * {up} unless {expression.value('settled')}\n)\n"
            f"and {up} == 1\n"
            f"and time() - {expression.status(QUERY_LAST_SUCCESS)} < {format_number(max_value_age)}",
            f"No current data for {kind_texts(query.kind).noun}.",
            f"Responses for {query_text(query)} contain no {{{{ if $value }}}}settled {query.unit} after the one that "
            "began {{ $value | humanizeDuration }} ago{{ else }}data{{ end }}. Other alerts cannot detect problems in "
            "empty or outdated responses. Check that the name or identifier is exact, and that the item is not "
            "archived, blocklisted or deleted in Braze. If all queries are affected, Braze's data is delayed.",
        )

    def _drop_rule(self, drop: float) -> Rule:
        """Return the rule for a settled bucket far below its baseline. The value of the alert is the ratio of both."""
        query, expression = self.query, QueryExpr(self.query)
        when = {"hour": "at this hour of the week", "day": "on this day of the week"}[query.unit]
        by_app = (
            " Compare the apps. If only one has dropped, check its latest release."
            if "braze_app" in query.kind.part_labels
            else ""
        )
        return self._rule(
            "Drop",
            f"{expression.value('settled')}\n"
            f"  / ({expression.value('baseline')} >= {format_number(self.alerts.min_baseline)})\n"
            f"  <= {format_number(1 - drop)}",
            f"Drop in {kind_texts(query.kind).noun}.",
            f"{capitalize(query_text(query))} {kind_texts(query.kind).verb} at {{{{ $value | humanizePercentage }}}} "
            f"of the baseline. The newest settled {query.unit} is compared with the median of the last "
            f"{pluralize(query.baseline_weeks, 'week', 'weeks')} {when}.{by_app}",
        )

    def _limit_rule(self, heading: str, operator: str, limit: float) -> Rule:
        query = self.query
        return self._rule(
            heading,
            f"{QueryExpr(query).value('settled')} {operator} {format_number(limit)}",
            f"{capitalize(kind_texts(query.kind).noun)} {heading.lower()} the limit.",
            f'{capitalize(query_text(query))}: {{{{ $value | printf "%.15g" }}}} in the newest settled {query.unit}, '
            f"{heading.lower()} the limit of {format_number(limit)}. The limit is the same at all times. If the "
            "usual value depends on the time, use `drop`, which compares with the baseline.",
        )

    def _rule(self, heading: str, expr: str, summary: str, description: str) -> Rule:
        """Return a rule whose name ends with `heading`, which is also that of its runbook in docs/runbooks.md."""
        alerts, query = self.alerts, self.query
        # Without the unit, the hourly and the daily alert would have the same labels. The subjects of a selector are
        # labels of their series, so only `selector` distinguishes the rules of selectors.
        labels = {"kind": query.kind.section, "unit": query.unit.value, **QueryExpr(query).identity}
        if isinstance(query.subject, LabelRegex):
            labels["selector"] = str(query.subject)
        return Rule(
            alert=f"{alert_prefix(query.kind)}{heading.title().replace(' ', '')}",
            expr=expr,
            wait=alerts.wait,
            keep_firing_for=alerts.wait if alerts.keep_firing_for is None else alerts.keep_firing_for,
            summary=summary,
            description=description,
            severity=alerts.severity,
            labels={**alerts.labels, **labels},
            runbook=heading,
        )
