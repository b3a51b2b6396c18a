"""The built-in alerting rules of a workspace, for failures that would keep the alerts of the config from firing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from braze_exporter.braze.errors import TRANSIENT_REASONS, Reason
from braze_exporter.braze.kinds import KINDS, SeriesKind, Unit
from braze_exporter.braze.lists import LIST_ENDPOINTS, ListEndpoint
from braze_exporter.braze.query import Query
from braze_exporter.config.values import format_duration
from braze_exporter.metrics import self_families as metrics
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, QUERY_MAX_AGE, Family
from braze_exporter.metrics.promql import LabelRegex, format_number, max_by, select_series
from braze_exporter.monitoring.kind_texts import name_template
from braze_exporter.monitoring.query_alerts import max_result_age
from braze_exporter.monitoring.query_expr import NAME_LABELS, QUERY_ID_LABELS
from braze_exporter.monitoring.rule import DEFAULT_WAIT_SECONDS, SHORT_WAIT_SECONDS, Rule
from braze_exporter.scheduler.plan import Plan

_LONG_WAIT_SECONDS = 3_600.0
# Lists are read about once per hour, so this is two missed reads.
_MAX_LIST_AGE_SECONDS = 10_800.0
# A `$value` of 1e9 or more means that the last success is 0: no fetch has succeeded since the start.
_SINCE_TEMPLATE = (
    "{{ if lt $value 1e9 }}for {{ $value | humanizeDuration }}{{ else }}since the exporter started{{ end }}"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What the built-in rules cover: one workspace, or all workspaces if `workspace` is empty.

    `kinds` are the kinds of its queries. `lists` are the lists to alert on, empty for all. `has_subjects` is true if
    queries may name a subject that Braze lists, `has_selectors` if there may be selectors, and `has_days` if there may
    be daily queries. `max_refresh_seconds` is the longest refresh interval of its queries. `max_success_age` is how old
    the newest success may be, in seconds, or None if it is unknown.
    """

    workspace: str = ""
    kinds: tuple[SeriesKind, ...] = KINDS
    lists: tuple[ListEndpoint, ...] = ()
    has_subjects: bool = True
    has_selectors: bool = True
    has_days: bool = True
    max_refresh_seconds: float = 3_600.0  # that of uninstalls and monthly active users
    max_success_age: float | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the workspace."""
        return {"workspace": self.workspace} if self.workspace else {}

    def series(self, family: Family, **matchers: str) -> str:
        """Return the PromQL for the series of a family in the scope, with these labels."""
        return select_series(family, (self.labels | matchers).items())

    def latest(self, family: Family, by: Iterable[str] = (), **matchers: str) -> str:
        """Return the PromQL for the current values over all Prometheus targets, by the labels of the family or `by`."""
        return max_by(self.series(family, **matchers), by or family.labels)

    def rule(self, alert: str, expr: str, **more: Any) -> Rule:  # noqa: ANN401 - the fields of `Rule`
        """Return a rule with the labels of the workspace."""
        return Rule(alert, expr, labels=self.labels, **{"wait": DEFAULT_WAIT_SECONDS, **more})

    def rules(self) -> Iterator[Rule]:
        """Yield the rules for the workspace."""
        yield from _query_rules(self)
        if self.has_selectors:
            yield from _list_rules(self)
        if self.has_days:
            yield _timezone_mismatch_rule(self)


def workspace_scope(plan: Plan, queries: Sequence[Query]) -> Scope:
    """Return the scope of a workspace with these `queries`, those of its selectors included."""
    workspace = queries[0].workspace
    named = [query for query in plan.queries if query.workspace == workspace]
    selectors = [selector for selector in plan.selectors if selector.workspace == workspace]
    lists = dict.fromkeys(
        selector.kind.list_endpoint for selector in selectors if selector.kind.list_endpoint is not None
    )
    return Scope(
        workspace,
        tuple(dict.fromkeys(query.kind for query in queries)),
        tuple(lists),
        has_subjects=any(query.request_value for query in named),
        has_selectors=bool(selectors),
        has_days=any(query.unit is Unit.DAY for query in queries),
        max_refresh_seconds=max(query.refresh_seconds for query in queries),
        max_success_age=min(map(max_result_age, named), default=None),  # selectors may select nothing
    )


def _query_rules(scope: Scope) -> Iterator[Rule]:
    # Braze rejects the API key for all queries of a kind. A rejected key is tested every two minutes, at the endpoints
    # of queries before those of lists, so rejected list requests need not be counted. A kind whose selectors select no
    # items has no queries, so none is up.
    queries = scope.latest(metrics.QUERIES, by=("workspace", "kind"))
    up = scope.latest(metrics.QUERIES, by=("workspace", "kind"), state=metrics.QueryStatus.UP)
    yield scope.rule(
        "BrazeAPIKeyRejected",
        f"{_auth_failures(scope, 'workspace, reason')} > 0\nand on (workspace) ({queries} > 0 unless {up} > 0)",
        wait=SHORT_WAIT_SECONDS,
        summary="Braze rejects the API key.",
        description="Braze rejected requests with the API key of workspace {{ $labels.workspace }} "
        '({{ $labels.reason }}; about {{ $value | printf "%.0f" }} in the last 10 minutes). '
        f"If the reason is unauthorized and {metrics.UP.name} is 0, the key is wrong or deleted, or `url` is that of "
        f"another Braze instance. If it is unauthorized and {metrics.UP.name} is 1, the key lacks a permission. If it "
        "is forbidden, the key lacks a permission or does not allow the exporter's IP address. The log and the status "
        "page name the permission.",
        severity="critical",
    )
    # All fetches fail for a reason other than the API key. In an outage, queries that are not due yet remain up.
    age, all_fail = f"time() - {scope.latest(QUERY_LAST_SUCCESS, by=['workspace'])}", f"{scope.latest(metrics.UP)} == 0"
    failing = f"  {age}\n  and {all_fail}"
    if scope.max_success_age is not None:
        failures = _query_failures(scope, "workspace", sorted(TRANSIENT_REASONS), "30m")
        failing += (
            f"\n  or {age} > {format_number(scope.max_success_age)}\n  and {failures} > 0\n"
            f"  unless on (workspace) {_reserve_reached(scope)}"
        )
    yield scope.rule(
        "BrazeFetchesFailing",
        f"(\n{failing}\n)\nunless {_auth_failures(scope, 'workspace')} > 0",
        summary="All fetches from Braze fail.",
        description=f"No fetch for workspace {{{{ $labels.workspace }}}} has succeeded {_SINCE_TEMPLATE}. "
        f"Values disappear when they are older than `max_age`. {metrics.REQUESTS_FAILED.name} counts the failures by "
        "reason. The log has Braze's error messages. Check Braze's status page for an outage.",
    )
    fail_together = [all_fail]
    if scope.max_refresh_seconds > DEFAULT_WAIT_SECONDS:
        # After an outage of Braze, a query waits for up to its refresh interval until it is fetched again.
        up = f"avg_over_time({scope.series(metrics.UP)}[{format_duration(scope.max_refresh_seconds)}])"
        minimum = format_number(1 - DEFAULT_WAIT_SECONDS / scope.max_refresh_seconds)
        fail_together.append(f"{max_by(up, ['workspace'])} < {minimum}")
    yield scope.rule(
        "BrazeQueryStale",
        "\nunless on (workspace) ".join([f"(\n  {_stale_queries(scope)}\n)", *fail_together]),
        summary="Values of a query are stale.",
        description=f"No fetch of the query {{{{ $labels.kind }}}} ({{{{ $labels.unit }}}}{_SUBJECT_TEMPLATE}) in "
        f"workspace {{{{ $labels.workspace }}}} has succeeded {_SINCE_TEMPLATE}, so its values are no longer exported. "
        "Fetches of other queries succeed. Check for a name that was changed or deleted in Braze, a wrong identifier, "
        "or a permission that the key lacks. The log has Braze's error message.",
    )
    yield scope.rule(
        "BrazeRateLimitLow",
        _reserve_reached(scope),
        summary="Braze rate limit has reached the reserve.",
        description="{{ $value | humanizePercentage }} of the rate limit of workspace {{ $labels.workspace }} is left "
        "(pool {{ $labels.pool }}), so the exporter pauses its requests until the limit resets. `budget.reserve` "
        "leaves the rest to your other clients, whose requests Braze rejects when nothing is left. The exporter uses "
        "at most `budget.share`, so check which other client makes too many requests.",
    )
    if scope.has_subjects:
        # Braze counts 0 for an unknown event, so its query does not fail.
        yield scope.rule(
            "BrazeQueryUnlisted",
            f"{scope.latest(metrics.QUERY_UNLISTED)} == 1",
            summary="Braze does not list a subject in the config.",
            description="{{ $labels.subject }} ({{ $labels.kind }} in the config of workspace {{ $labels.workspace }}) "
            "is missing from Braze's list. Braze may report 0 for it instead of an error. Check the spelling and the "
            "letter case, and whether the item was renamed, archived or deleted in Braze. The status page shows "
            "similar names.",
        )


def _list_rules(scope: Scope) -> Iterator[Rule]:
    # Before the first success the timestamp is 0, so the rule fires for a list that has never been read too.
    yield scope.rule(
        "BrazeListFetchFailing",
        f"time() - {_latest_of_lists(metrics.LIST_LAST_SUCCESS, scope)} > {format_number(_MAX_LIST_AGE_SECONDS)}",
        summary="Fetches of a Braze list fail.",
        description="No fetch of Braze's list of {{ $labels.list }} for workspace {{ $labels.workspace }} has "
        f"succeeded {_SINCE_TEMPLATE}. Until one succeeds, selectors select only items that were listed before. The "
        "log and the status page show the reason: a missing permission, a rejected key, or a failure of Braze.",
    )
    # The exporter reads a list that has lost more than half of its items again after 5 minutes, and uses it after an
    # hour.
    yield scope.rule(
        "BrazeListSuspect",
        f"{_latest_of_lists(metrics.LIST_SUSPECT, scope)} == 1",
        summary="A Braze list has lost most of its items.",
        description="Braze's list of {{ $labels.list }} for workspace {{ $labels.workspace }} lacks more than half of "
        "the items that it had before. The exporter keeps the previous list. If the list is still short an hour after "
        "the first such read, the exporter removes the queries of the missing items, with their values and alerts. "
        "Check in Braze whether the items exist.",
    )
    yield scope.rule(
        "BrazeItemsSkipped",
        f"{scope.latest(metrics.DISCOVERY_SKIPPED)} > 0",
        summary="Items that selectors match are skipped.",
        description="Selectors of {{ $labels.kind }} in workspace {{ $labels.workspace }} match items without queries "
        '({{ $value | printf "%.0f" }}). '
        "They exceed `max_queries` or `budget.share`, so they have neither "
        "values nor alerts. Raise the limit, select fewer items, or refresh less often.",
    )


def _timezone_mismatch_rule(scope: Scope) -> Rule:
    return scope.rule(
        "BrazeTimezoneMismatch",
        f"{scope.latest(metrics.TIMEZONE_MISMATCH)} == 1",
        wait=_LONG_WAIT_SECONDS,
        summary="Configured time zone differs from Braze's.",
        description="The newest day in the responses for workspace {{ $labels.workspace }} has differed from the "
        "current day in its `timezone` for 1 hour or longer. Set `timezone` to the time zone of the company in Braze. "
        "Otherwise days settle at the wrong time, and baselines compare the wrong days.",
    )


def _stale_queries(scope: Scope) -> str:
    """Return the PromQL for queries whose values are stale, except those whose pool has reached the reserve."""
    pools, stale_by_pool = dict.fromkeys(kind.pool for kind in scope.kinds), []
    for pool in pools:
        kinds = "|".join(kind.section for kind in scope.kinds if kind.pool == pool)
        names = LabelRegex(kinds if len(pools) > 1 else "")
        success = scope.latest(QUERY_LAST_SUCCESS, QUERY_ID_LABELS, kind=names)
        max_age = scope.latest(QUERY_MAX_AGE, QUERY_ID_LABELS, kind=names)
        reached = _reserve_reached(scope, pool=pool.name)
        stale_by_pool.append(f"time() - {success}\n  > {max_age}\n  unless on (workspace) {reached}")
    return "\n  or ".join(stale_by_pool)


def _latest_of_lists(family: Family, scope: Scope) -> str:
    """Return the PromQL for the current values of a family for the lists in `scope`."""
    names = LabelRegex("", "|".join(list_endpoint.response_key for list_endpoint in scope.lists))
    return scope.latest(family, list=names)


def _subject_template() -> str:
    """Return the template for the labels that distinguish the queries of a kind and a unit."""
    names = {kind.subject_parameter: name_template(kind) for kind in KINDS if kind.subject_label in NAME_LABELS}
    nouns = {"braze_app": "app", "campaign_id": "campaign", "canvas_id": "Canvas"}
    return "".join(
        f"{{{{ if $labels.{label} }}}}, {nouns.get(label, label)} "
        f"{names.get(label, f'{{{{ $labels.{label} }}}}')}{{{{ end }}}}"
        for label in QUERY_ID_LABELS
        if label not in {"workspace", "kind", "unit"}
    )


_SUBJECT_TEMPLATE = _subject_template()


def _auth_failures(scope: Scope, by: str) -> str:
    """Return the PromQL for the number of 401s and 403s of queries in the last 10 minutes.

    There are five probes in this time, so that none of them can be missed between scrapes.
    """
    return _query_failures(scope, by, (Reason.UNAUTHORIZED, Reason.FORBIDDEN), "10m")


def _query_failures(scope: Scope, by: str, reasons: Iterable[Reason], window: str) -> str:
    """Return the PromQL for the number of failed requests of queries in the last `window`."""
    # Lists are excluded, since queries can succeed without the permission to read a list.
    lists = LabelRegex("", excluded="|".join(list_endpoint.path for list_endpoint in LIST_ENDPOINTS))
    series = scope.series(metrics.REQUESTS_FAILED, path=lists, reason=LabelRegex("|".join(reasons)))
    return f"sum by ({by}) (increase({series}[{window}]))"


def _reserve_reached(scope: Scope, **pool: str) -> str:
    """Return the PromQL for the remaining fractions of the rate limits that are at or below the reserve.

    The reserve is that of the exporter that exports them. A rate limit whose window has ended is omitted. `pool` may
    limit the result to one pool.
    """
    remaining = f"{scope.series(metrics.RATE_LIMIT_REMAINING, **pool)} / {scope.series(metrics.RATE_LIMIT, **pool)}"
    reserve = max_by(metrics.BUDGET_RESERVE.name, ["job", "instance"])
    low = f"{remaining} <= on (job, instance) group_left () {reserve}"
    has_ended = f"({scope.latest(metrics.RATE_LIMIT_RESET, **pool)} <= time())"
    return f"(\n  {max_by(low, metrics.RATE_LIMIT.labels)}\n  unless {has_ended}\n)"
