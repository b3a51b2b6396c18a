"""The rules that entries ask for with `alerts`: what Braze has counted is not as it should be."""

from collections.abc import Iterator
from dataclasses import dataclass

from braze_exporter.braze.query import Query
from braze_exporter.config.schema import Alerts
from braze_exporter.config.values import duration
from braze_exporter.metrics.promql import Matched, number
from braze_exporter.metrics.self_metrics import STATE_WRITE_FAILURES
from braze_exporter.monitoring.kind_texts import alert_of, capital, silence, what, words
from braze_exporter.monitoring.query_expr import Number
from braze_exporter.monitoring.rule import Rule
from braze_exporter.scheduler.plan import MISSED_REFRESHES

# An answer is news for as long, if no more fetches than may be are missed.
_NEWS = 600.0
# The paragraph of the README for each sort of alert, whatever it counts.
RUNBOOKS_OF = {
    "Silent": "Silent",
    "NoData": "No data",
    "Drop": "Drop",
    "Below": "Below",
    "Above": "Above",
}
# Of the exporter's process, by the Prometheus client.
_STARTED = "process_start_time_seconds"
_TARGET = "on (job, instance)"


def news(query: Query) -> float:
    """Return how old the last answer may be, in seconds, before that tells something."""
    return max(MISSED_REFRESHES * query.refresh, _NEWS)


@dataclass(frozen=True, slots=True)
class Asked:
    """A query with its alerts. `feeder` feeds its counter, if it has one; that lasts if `is_durable`."""

    query: Query
    alerts: Alerts
    feeder: Query | None
    is_durable: bool

    def rules(self) -> Iterator[Rule]:
        """Yield the rules that its alerts ask for."""
        alerts = self.alerts
        silent = alerts.silent if self.feeder is not None else None
        if silent is not None and self.feeder is not None:
            yield self._silent(silent, self.feeder)
        if (silent, alerts.drop, alerts.below) != (None, None, None):
            yield self._no_data(silent or 0.0)
        if alerts.drop is not None:
            yield self._drop(alerts.drop)
        if alerts.below is not None:
            yield self._beyond("Below", "<", alerts.below, "under")
        if alerts.above is not None:
            yield self._beyond("Above", ">", alerts.above, "over")

    def _silent(self, silent: float, feeder: Query) -> Rule:
        """Return the rule for a counter that stands still while Braze answers.

        Where the counter does not tell of the time, nothing is said: after a restart without a state file, while that
        cannot be written, and where Braze had not answered yet when the time began.
        """
        counted, span = Number(feeder), duration(silent)
        if self.is_durable:
            untrue = f"increase({STATE_WRITE_FAILURES.name}[{duration(news(feeder))}]) > 0"
        else:
            untrue = f"time() - {_STARTED} < {number(silent)}"
        told = counted.total(unless=f" unless {_TARGET} ({untrue})")
        since = counted.gauge("last_success_timestamp_seconds", offset=span)
        return self._rule(
            "Silent",
            f"{told}\n  == {counted.total(offset=span)}\n"
            f"and time() - {counted.gauge('last_success_timestamp_seconds')} < {number(news(feeder))}\n"
            f"and {since} > 0",
            silence(self.query, span),
            f"Braze answers, and reports nothing new. {words(self.query.kind).advice}",
        )

    def _no_data(self, silent: float) -> Rule:
        """Return the rule for answers that are empty or outdated: the other rules see nothing in them."""
        query, oldest = self.query, max(silent, self.query.settle + 3 * self.query.unit.seconds)
        of = Number(query)
        up, start = of.gauge("up"), of.gauge("settled_bucket_start_timestamp_seconds")
        return self._rule(
            "NoData",
            f"(\n  time() - {start} > {number(oldest)}\n"
            f"  or time() - {start} unless {of.gauge('settled')}\n"
            f"  or 0 * {up} unless {start}\n)\n"
            f"and {up} == 1\n"
            f"and time() - {of.gauge('last_success_timestamp_seconds')} < {number(news(query))}",
            f"Braze answers for {what(query)}, but with {{{{ if $value }}}}no settled {query.unit} since the one that "
            "began {{ $value | humanizeDuration }} ago{{ else }}nothing at all{{ end }}.",
            "Empty and outdated answers hide what happens, and the other alerts see nothing in them. Is the name or "
            "the identifier right, to the letter, and is it neither archived, blocklisted nor deleted in Braze? If it "
            "is so for everything, Braze is behind.",
        )

    def _drop(self, drop: float) -> Rule:
        """Return the rule for a settled bucket that is far from what is usual; a ratio, since that is exact."""
        query, of = self.query, Number(self.query)
        when = {"hour": "at this hour of the week", "day": "on this day of the week"}[query.unit]
        by_app = " Compare the apps: if only one has fallen, look at its last release." if query.kind.filtered else ""
        return self._rule(
            "Drop",
            f"{of.gauge('settled')}\n  / ({of.gauge('baseline')} >= {number(self.alerts.min)})\n"
            f"  <= {number(1 - drop)}",
            f"{capital(what(query))} {words(query.kind).are} at {{{{ $value | humanizePercentage }}}} of what is "
            "usual.",
            f"That is the newest settled {query.unit} against the median of the last {query.weeks} weeks "
            f"{when}.{by_app}",
        )

    def _beyond(self, name: str, sign: str, limit: float, beyond: str) -> Rule:
        query = self.query
        return self._rule(
            name,
            f"{Number(query).gauge('settled')} {sign} {number(limit)}",
            f"{capital(what(query))}: {{{{ $value | humanize }}}} in a settled {query.unit}, {beyond} {number(limit)}.",
            f"The {query.unit} has ended and settled. The limit is the same at all times: where the time matters, "
            "`drop` fits better, which compares with what is usual for it.",
        )

    @property
    def _wildcard(self) -> dict[str, str]:
        """What tells the rules of wildcards apart, whose series tell their subjects."""
        return {"match": str(self.query.subject)} if isinstance(self.query.subject, Matched) else {}

    def _rule(self, sort: str, expr: str, summary: str, description: str) -> Rule:
        alerts, query = self.alerts, self.query
        return Rule(
            alert=f"{alert_of(query.kind)}{sort}",
            expr=Number(query).chosen(expr),
            wait=alerts.wait,
            summary=summary,
            description=description,
            severity=alerts.severity,
            # Without the unit an alert by the hour and one by the day would be the same.
            labels={**alerts.labels, "unit": query.unit.value, **Number(query).identity, **self._wildcard},
            runbook=RUNBOOKS_OF[sort],
        )
