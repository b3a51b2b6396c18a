"""The rules that entries ask for with `alerts`: what Braze has counted is not as it should be."""

from collections.abc import Iterator
from dataclasses import dataclass

from braze_exporter.catalog import Query, counter, gauge
from braze_exporter.config.schema import Alerts
from braze_exporter.mixin.promql import duration, highest, number, series
from braze_exporter.mixin.rule import Rule, what
from braze_exporter.own import STATE_WRITE_FAILURES
from braze_exporter.plan import MISSED_REFRESHES

# An answer is news for as long, if no more fetches than may be are missed.
_NEWS = 600.0
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
            yield self._beyond("Below", "<", alerts.below, "fewer")
        if alerts.above is not None:
            yield self._beyond("Above", ">", alerts.above, "more")

    def _silent(self, silent: float, feeder: Query) -> Rule:
        """Return the rule for a counter that stands still while Braze answers.

        Where the counter does not tell of the time, nothing is said: after a restart without a state file, while that
        cannot be written, and where Braze had not answered yet when the time began.
        """
        total = series(counter(feeder.kind, feeder.noun), feeder.labels)
        span, labels = duration(silent), gauge(feeder.kind, feeder.noun, feeder.unit, "up").labels
        if self.is_durable:
            untrue = f"increase({STATE_WRITE_FAILURES.name}[{duration(news(feeder))}]) > 0"
        else:
            untrue = f"time() - {_STARTED} < {number(silent)}"
        answered = _measure(feeder, "last_success_timestamp_seconds")
        since = _measure(feeder, "last_success_timestamp_seconds", offset=span)
        told = highest(f"{total} unless {_TARGET} ({untrue})", labels)
        return self._rule(
            "Silent",
            f"{told}\n  == {highest(f'{total} offset {span}', labels)}\n"
            f"and time() - {answered} < {number(news(feeder))}\n"
            f"and {since} > 0",
            f"No {what(self.query)} was counted for {span} or longer.",
            "Braze answers, and reports nothing new. Ask what was changed or released where the event is sent; "
            "campaigns that wait for it send nothing.",
        )

    def _no_data(self, silent: float) -> Rule:
        """Return the rule for answers that are empty or outdated: the other rules see nothing in them."""
        query, oldest = self.query, max(silent, self.query.settle + 3 * self.query.unit.seconds)
        up, settled = _measure(query, "up"), _measure(query, "settled")
        start = _measure(query, "settled_bucket_start_timestamp_seconds")
        answered = _measure(query, "last_success_timestamp_seconds")
        return self._rule(
            "NoData",
            f"(\n  time() - {start} > {number(oldest)}\n"
            f"  or time() - {start} unless {settled}\n"
            f"  or 0 * {up} unless {start}\n)\n"
            f"and {up} == 1\n"
            f"and time() - {answered} < {number(news(query))}",
            f"Braze answers for {what(query)}, but with {{{{ if $value }}}}no settled {query.unit} since the one that "
            "began {{ $value | humanizeDuration }} ago{{ else }}nothing at all{{ end }}.",
            "Empty and outdated answers hide whether the event happens, and the other alerts see nothing in them. Is "
            "the event's name right, to the letter, and is it neither blocklisted nor deleted in Braze? If it is so "
            "for every event, Braze is behind.",
        )

    def _drop(self, drop: float) -> Rule:
        """Return the rule for a settled bucket that is far from what is usual; a ratio, since that is exact."""
        settled, baseline = _measure(self.query, "settled"), _measure(self.query, "baseline")
        when = {"hour": "at this hour of the week", "day": "on this day of the week"}[self.query.unit]
        return self._rule(
            "Drop",
            f"{settled}\n  / ({baseline} >= {number(self.alerts.min)})\n  <= {number(1 - drop)}",
            f"{what(self.query)} is at {{{{ $value | humanizePercentage }}}} of what is usual.",
            f"That is the newest settled {self.query.unit} against the median of the last {self.query.weeks} weeks "
            f"{when}. Compare the apps: if only one has fallen, look at its last release.",
        )

    def _beyond(self, name: str, sign: str, limit: float, than: str) -> Rule:
        unit = self.query.unit
        return self._rule(
            name,
            f"{_measure(self.query, 'settled')} {sign} {number(limit)}",
            f"{{{{ $value | humanize }}}} {what(self.query)} in a settled {unit}, {than} than {number(limit)}.",
            f"The {unit} has ended and settled. The limit is the same by day and by night: where that is usual for "
            "the time, `drop` fits better, which compares with it.",
        )

    def _rule(self, name: str, expr: str, summary: str, description: str) -> Rule:
        alerts, query = self.alerts, self.query
        return Rule(
            alert=f"Braze{query.kind.subject.title()}{name}",
            expr=expr,
            wait=alerts.wait,
            summary=summary,
            description=description,
            severity=alerts.severity,
            # Without the unit an alert by the hour and one by the day would be the same.
            labels={**alerts.labels, "unit": query.unit.value, **dict(query.labels)},
        )


def _measure(query: Query, measure: str, *, offset: str = "") -> str:
    """Return a gauge of a query, as it was at an offset."""
    family = gauge(query.kind, query.noun, query.unit, measure)
    return highest(series(family, query.labels) + (f" offset {offset}" if offset else ""), family.labels)
