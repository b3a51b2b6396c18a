"""The dashboard "Braze": what Braze counts, for the owners of events and campaigns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import QUERY_LABELS
from braze_exporter.metrics.self_families import QUERIES
from braze_exporter.monitoring.kind_texts import kind_title
from braze_exporter.monitoring.panels import GREY, Column, Json, Row, chart, matrix, numbers, steps, table
from braze_exporter.monitoring.series_groups import (
    ALERT_MATCHERS,
    MIN_COUNT,
    SeriesGroup,
    counted_groups,
    name_subject,
    select,
    union,
    with_kind,
)

_MAX_CHANGES = 10
_MAX_LINES = 20
_RATIO = numbers("percentunit", thresholds=steps("red", (0.5, "orange"), (0.8, "text"), (2, "blue")), unknown="-")
_RATIO_BAR = _RATIO | {"min": 0, "max": 2, "thresholds": steps("red", (0.5, "orange"), (0.8, GREY), (2, "blue"))}
_COUNT = numbers(unknown="-")
# All digits of US dollars, unlike `currencyUSD`.
_DOLLARS = "currency:financial:$"
_SEVERITY = numbers("string", values={"critical": ("", "red"), "page": ("", "red"), "warning": ("", "orange")})
# The statistics with the same meaning in different channels. Devices display in-app messages, so none are sent.
_STATS = {
    "Sent": "sent|impressions",
    "Delivered": "delivered",
    "Opened": "opens|total_opens|read",
    "Clicked": "clicks|body_clicks",
}
# Unique users cannot be added up, since a user of two variations or channels is counted in both.
_ADDITIVE_STATS = 'stat!~"unique_.+"'
_LEGEND_OF_RATIOS = (
    "Red is less than half, orange less than 80%, blue at least twice as much. A dash means that there is nothing to "
    f"compare with: less than {MIN_COUNT}, a counter that is too new, or stale queries."
)


@dataclass(frozen=True, slots=True)
class BrazeDashboard:
    """Makes the rows of the dashboard for `groups`.

    Columns and legends name the workspace if `has_workspaces`, that is, if there may be several. Without a config, rows
    with a heading are collapsed.
    """

    groups: Sequence[SeriesGroup]
    has_workspaces: bool
    is_collapsed: bool

    def rows(self) -> Iterator[Row]:
        """Yield the rows. Daily kinds without a subject, such as new users, share the row Users."""
        yield Row("", [self._alerts(), self._totals(), *self._changes()])
        users: list[Json] = []
        for kind in dict.fromkeys(group.kind for group in self.groups):
            of_kind = [group for group in self.groups if group.kind is kind]
            make = self._message_panels if kind.is_identified_by_id else self._panels
            panels = [panel for group in of_kind for panel in make(group)]
            if kind.metric_group.labels or Unit.HOUR in kind.units:
                yield Row(kind_title(kind), panels, is_collapsed=self.is_collapsed)
            else:
                users += panels
        yield Row("Users", users, is_collapsed=self.is_collapsed)

    @property
    def _workspace(self) -> list[Column]:
        return [Column("Workspace", "workspace", width=100)] if self.has_workspaces else []

    def _legend(self, text: str) -> str:
        return f"{{{{workspace}}}} {text}" if self.has_workspaces else text

    def _alerts(self) -> Json:
        firing = f'ALERTS{{alertstate="firing", {ALERT_MATCHERS}}}'
        expr = f"time() - ALERTS_FOR_STATE{{{ALERT_MATCHERS}}} and ignoring (alertstate) {firing}"
        names = [label for label in QUERY_LABELS if label not in {"workspace", "kind", "unit"}]
        joined = ", ".join(f'"{label}"' for label in ("subject", *names, "pool", "list", "instance"))
        expr = (
            f'label_replace(label_join({expr}, "subject", " ", {joined}), "subject", "$1", "subject", "(?s: *(.*?) *)")'
        )
        return table(
            "Firing alerts",
            "Alerts of the selected workspaces and of the exporter. They need the rules that `braze-exporter rules` "
            "prints.",
            [
                Column("Alert", "alertname"),
                Column("Subject", "subject"),
                *self._workspace,
                Column("Severity", "severity", field=_SEVERITY, width=75),
                Column(
                    "For",
                    expr=f"max by (alertname, severity, workspace, subject) ({expr})",
                    field=numbers("s", decimals=None),
                    width=75,
                ),
            ],
            width=10,
            height=13,
            no_value="No alert is firing.",
            sort=("For", False),
        )

    def _totals(self) -> Json:
        """Return the table with a row for each kind. A kind without a total has the sum of its parts."""
        counted, kinds_with_total = [], set()
        for group in counted_groups(self.groups):
            if self.is_collapsed or not (group.filters and group.kind in kinds_with_total):
                counted.append(group)
                kinds_with_total.add(group.kind)
        active = [
            group for group in self.groups if not group.metric_group.is_additive and not group.metric_group.labels
        ]

        def sums(days: int) -> list[str]:
            return [with_kind(f"sum by (workspace) ({group.increase(days)})", group.kind) for group in counted]

        def ratios(days: int) -> list[str]:
            return [with_kind(group.change(days, by="workspace"), group.kind) for group in counted]

        current = {group.kind: group.gauge("settled", is_current=True) for group in active}
        week_before = {group.kind: group.gauge("settled", at="offset 7d") for group in active}
        users = [with_kind(settled, kind) for kind, settled in current.items()]
        user_ratios = [with_kind(f"{current[kind]} / {before}", kind) for kind, before in week_before.items()]
        # Kinds without a value are shown as unknown.
        queries = {group.kind: select(QUERIES, f'kind="{group.kind.section}"') for group in (*counted, *active)}
        unknown = [with_kind(f"max by (workspace) ({expr}) * NaN", kind) for kind, expr in queries.items()]
        return table(
            "What Braze reported",
            "Totals of the selected series, late arrivals included, and their ratios to the same 24 hours a week "
            "before and to the 7 days before. Active users are those of the newest settled day. Stale queries are "
            f"left out. {_LEGEND_OF_RATIOS}",
            [
                Column("Kind", "kind"),
                *self._workspace,
                Column("24 hours", expr=union([*sums(1), *users, *unknown]), field=_COUNT),
                Column("vs a week before", expr=union([*ratios(1), *user_ratios]), field=_RATIO),
                Column("7 days", expr=union(sums(7)), field=_COUNT),
                Column("vs 7 days before", expr=union(ratios(7)), field=_RATIO),
            ],
            width=14,
            height=13,
            sort=("Kind", False),
        )

    def _changes(self) -> Iterator[Json]:
        """Yield the tables of the series that fell and rose most within a week."""
        counted = counted_groups(self.groups)
        ratios = union(with_kind(name_subject(group.change(1), group), group.kind) for group in counted)
        counts = union(with_kind(name_subject(group.increase(1), group), group.kind) for group in counted)
        for title, expr, is_descending in (
            ("Fell most", f"bottomk({_MAX_CHANGES}, ({ratios}) < 1)", False),
            ("Rose most", f"topk({_MAX_CHANGES}, ({ratios}) > 1)", True),
        ):
            yield table(
                title,
                "What Braze reported in the last 24 hours as a ratio to the same 24 hours a week before, by event, "
                f"product, campaign, Canvas and app. Bars end at 200%. {_LEGEND_OF_RATIOS}",
                [
                    Column("Kind", "kind", width=130),
                    Column("Subject", "subject"),
                    Column("App", "braze_app", width=75),
                    *self._workspace,
                    Column("24 hours", expr=f"({counts})\nand ({expr})", field=_COUNT, width=80),
                    Column("vs a week before", expr=expr, field=_RATIO_BAR, is_bar=True, width=160),
                ],
                width=12,
                height=12,
                no_value=f"Nothing {title.split()[0].lower()}, or nothing can be compared.",
                sort=("vs a week before", is_descending),
            )

    def _panels(self, group: SeriesGroup) -> Iterator[Json]:
        """Yield the panels of a group whose responses have one value for each bucket."""
        unit, labels = group.unit, group.metric_group.labels
        if labels and not group.filters and group.metric_group.is_additive:
            yield self._subjects(group)
        legend = self._legend(" ".join(f"{{{{{label}}}}}" for label in labels) or "settled")
        legends = {_largest(group): legend}
        usual = group.gauge("baseline") if group.has_baseline else ""
        if usual and not labels:
            legends[usual] = self._legend("usual")
        yield _unit_chart(
            unit,
            f"{group.title}, settled {unit}",
            f"The newest settled {unit}, drawn at the time at which it was known, which is also when alerts use it. "
            + (f"At most the {_MAX_LINES} largest." if labels else "Usual is the baseline."),
            legends,
            can_be_negative=group.metric_group.can_be_negative,
        )
        if usual and labels:
            yield _unit_chart(
                unit,
                f"{group.title}, settled {unit} vs usual",
                f"The newest settled {unit} as a ratio to its baseline, the median of the same {unit} of the week in "
                f"the last weeks, if that is at least {MIN_COUNT}.",
                {f"{group.gauge('settled')} / ({usual} >= {MIN_COUNT})": legend},
                unit_of_values="percentunit",
            )

    def _subjects(self, group: SeriesGroup) -> Json:
        """Return the table of the subjects of a group."""
        unit = group.unit
        settled, usual, latest = (
            group.gauge(measure, is_current=True) for measure in ("settled", "baseline", "latest")
        )
        # The counter may be fed by queries of the other unit.
        totals = [
            f"{expr} and on ({', '.join(group.labels)}) {settled}" for expr in (group.increase(1), group.change(1))
        ]
        return self._subject_table(
            group,
            f"{group.title}, {unit.adverb}",
            f"The newest settled {unit}, its baseline, the {unit} in progress, which still grows, and what was "
            f"reported in 24 hours. {_LEGEND_OF_RATIOS}",
            {
                f"Settled {unit}": (settled, _COUNT),
                "Usual": (usual, _COUNT),
                "vs usual": (f"{settled} / ({usual} >= {MIN_COUNT})", _RATIO),
                f"{unit.capitalize()} so far": (latest, _COUNT),
                "24 hours": (totals[0], _COUNT),
                "vs a week before": (totals[1], _RATIO),
            },
            sort="24 hours",
        )

    def _message_panels(self, group: SeriesGroup) -> Iterator[Json]:
        """Yield the panels of campaigns or Canvases, whose responses have several metric groups."""
        kind, title = group.kind, kind_title(group.kind)
        messages = next(each for each in kind.metric_groups if each.primary_stats)
        others = {_short_title(each, group): each for each in kind.metric_groups if not each.series_labels}
        columns = {
            name: (group.gauge("settled", metric_group=messages, stats=f'stat=~"{stat}"', is_current=True), _COUNT)
            for name, stat in _STATS.items()
        } | {
            name: (group.gauge("settled", metric_group=each, is_current=True), numbers(_unit_of(each), unknown="-"))
            for name, each in others.items()
        }
        yield self._subject_table(
            group,
            f"{title}, newest settled day",
            "Messages over all channels and their outcomes.",
            columns,
            sort="Sent",
        )
        sent = group.gauge("settled", metric_group=messages, by=("workspace", "channel"))
        yield _unit_chart(
            group.unit,
            f"{title}: messages by channel, settled day",
            "Messages sent, or impressions for in-app messages. All selected together.",
            {sent: self._legend("{{channel}}")},
            style="stacked",
        )
        by = ("channel", "stat")
        yield matrix(
            f"{title}: outcomes by channel, newest settled day",
            "Each statistic of Braze, except those of unique users, which cannot be added up. All selected together.",
            group.gauge("settled", metric_group=messages, stats=_ADDITIVE_STATS, by=by, is_current=True),
            "channel",
            Column("Statistic", "stat", width=220),
        )
        for name, each in others.items():
            yield _unit_chart(
                group.unit,
                f"{title}: {name.lower()}, settled day",
                f"{each.help_prefix}. At most the {_MAX_LINES} largest.",
                {name_subject(_largest(group, each), group): self._legend("{{subject}}")},
                unit_of_values=_unit_of(each),
                can_be_negative=each.can_be_negative,
            )

    def _subject_table(
        self, group: SeriesGroup, title: str, description: str, columns: Mapping[str, tuple[str, Json]], *, sort: str
    ) -> Json:
        """Return a table with a row for each subject of a group. The names are links that select the subject.

        `columns` are the queries and their fields by the titles of their columns.
        """
        label = group.kind.subject_label
        kept = "${__url_time_range}&${datasource:queryparam}&${workspace:queryparam}"
        link = f"/d/${{__dashboard.uid}}?{kept}&var-{label}=${{__value.raw:percentencode}}"
        return table(
            title,
            f"{description} Click on a name to select it, and on a header to sort.",
            [
                Column(label.capitalize(), "subject", link=link),
                *self._workspace,
                *(Column(name, expr=name_subject(expr, group), field=field) for name, (expr, field) in columns.items()),
            ],
            height=9,
            sort=(sort, True),
        )


def _unit_chart(
    unit: Unit,
    title: str,
    description: str,
    legends: Mapping[str, str],
    *,
    unit_of_values: str = "locale",
    **options: Any,  # noqa: ANN401
) -> Json:
    """Return a chart of hours over the time range of the dashboard, or one of days over 28 days."""
    span = {"interval": "5m"} if unit is Unit.HOUR else {"interval": "1h", "time_from": "28d"}
    decimals = None if unit_of_values == "percentunit" else 0
    return chart(
        title, description, legends, unit=unit_of_values, **{"style": "steps", "decimals": decimals, **span, **options}
    )


def _largest(group: SeriesGroup, metric_group: MetricGroup | None = None) -> str:
    """Return the settled values over time of the series that are the largest at the end of the time range.

    The largest at each step would be other series at each step.
    """
    settled = group.gauge("settled", metric_group=metric_group)
    if not group.metric_group.labels:
        return settled
    return f"{settled}\nand topk({_MAX_LINES}, {group.gauge('settled', metric_group=metric_group, at='@ end()')})"


def _unit_of(metric_group: MetricGroup) -> str:
    return _DOLLARS if metric_group.name.endswith("_dollars") else "locale"


def _short_title(metric_group: MetricGroup, group: SeriesGroup) -> str:
    """Return the title of a metric group without the name of its kind and its unit of measure."""
    name = metric_group.name.removesuffix("_dollars").removeprefix(f"{group.kind.subject_label}_")
    return name.replace("_", " ").capitalize()
