"""The built-in alerting rules for the exporter itself, whose failures would keep the other alerts from firing."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.lists import LIST_ENDPOINTS, ListEndpoint
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import Family, build_gauge
from braze_exporter.metrics.promql import LabelRegex, format_number, max_by, quote, select_series
from braze_exporter.metrics.self_metrics import (
    LIST_LAST_SUCCESS,
    QUERIES,
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
    RELOAD_SUCCESS_TIME,
    RELOAD_SUCCESSFUL,
    REQUESTS_FAILED,
    STATE_WRITE_FAILURES,
    TIMEZONE_MISMATCH,
    UP,
    QueryStatus,
)
from braze_exporter.monitoring.kind_texts import query_text
from braze_exporter.monitoring.query_alerts import max_result_age
from braze_exporter.monitoring.rule import Rule

_SHORT_SECONDS = 300.0
_DEFAULT_SECONDS = 900.0
_LONG_SECONDS = 3_600.0
# Lists are read about once an hour.
_MAX_LIST_AGE_SECONDS = 10_800.0
_LAST_SUCCESS = "last_success_timestamp_seconds"
# A `$value` of 1e9 or more means that the last success is 0: no fetch has succeeded since the start.
_SINCE_TEMPLATE = (
    "{{ if lt $value 1e9 }}for {{ $value | humanizeDuration }}{{ else }}since the exporter was started{{ end }}"
)


def workspace_rules(queries: Sequence[Query], reserve: float, lists: Sequence[ListEndpoint]) -> Iterator[Rule]:
    """Yield the rules of one workspace: for its `queries`, and for the `lists` that its selectors use.

    `reserve` is the fraction of a rate limit that the exporter leaves to the company's sends.
    """
    name = queries[0].workspace
    yield _down_rule(name)
    yield _key_rejected_rule(name)
    yield _workspace_failing_rule(name, queries)
    for sort in dict.fromkeys((query.kind, query.unit) for query in queries):
        yield _query_stale_rule([query for query in queries if (query.kind, query.unit) == sort], reserve)
    yield _rate_limit_low_rule(name, reserve)
    if lists:
        yield _list_stale_rule(name, lists)
    if any(query.unit is Unit.DAY for query in queries):
        yield _timezone_mismatch_rule(name)


def exporter_rules(*, has_state: bool) -> Iterator[Rule]:
    """Yield the rules for the exporter process."""
    yield Rule(
        alert="BrazeConfigReloadFailed",
        expr=f"time() - {RELOAD_SUCCESS_TIME.name}\nand {RELOAD_SUCCESSFUL.name} == 0",
        wait=_SHORT_SECONDS,
        summary="The Braze exporter cannot use its new config, and goes on with the one of "
        "{{ $value | humanizeDuration }} ago.",
        description="What is wrong with the file stands in the exporter's log; `braze-exporter check` says the same.",
    )
    if has_state:
        yield Rule(
            alert="BrazeStateNotWritten",
            expr=f"increase({STATE_WRITE_FAILURES.name}[10m]) > 0",
            wait=_DEFAULT_SECONDS,
            summary='About {{ $value | printf "%.0f" }} writes of the state file failed in 10 minutes.',
            description="Until one succeeds the counters stand still, and nobody is told of silent events. The log "
            "says why; look for a full or read-only disk.",
        )


def _down_rule(workspace: str) -> Rule:
    """Return the rule for missing metrics of a workspace. It does not depend on the Prometheus job name."""
    return Rule(
        alert="BrazeExporterDown",
        labels=dict(_workspace_label(workspace)),
        expr=f"absent({select_series(QUERIES, _workspace_label(workspace))})",
        wait=_SHORT_SECONDS,
        summary="For 5 minutes or longer Prometheus has no metrics of {{ $labels.workspace }}: no other alert of it "
        "can fire.",
        description="The exporter is down, or cannot be scraped, or its config does not have this workspace any more. "
        "Prometheus shows the reason under Targets.",
        severity="critical",
    )


def _key_rejected_rule(workspace: str) -> Rule:
    """Return the rule for an API key that Braze rejects for all queries of a kind. One call in two minutes probes it.

    While all endpoints reject the key, the endpoints of queries are probed in turn. So rejected list requests need not
    be counted.
    """
    up = select_series(QUERIES, (*_workspace_label(workspace), ("state", QueryStatus.UP)))
    return Rule(
        alert="BrazeKeyRefused",
        labels=dict(_workspace_label(workspace)),
        expr=f"{_auth_failures(workspace, 'workspace, reason')} > 0\n"
        f"and on (workspace) max by (workspace, kind) ({up}) == 0",
        wait=_SHORT_SECONDS,
        summary="Braze refuses the API key of {{ $labels.workspace }} ({{ $labels.reason }}): "
        'about {{ $value | printf "%.0f" }} calls in 10 minutes.',
        description=f"unauthorized: if {UP.name} is 0 the key is rejected: it is wrong or deleted, or the url is that "
        "of another instance; else it lacks a permission. forbidden: it lacks a permission, or does not allow the "
        "exporter's address. The log and the exporter's page name the permission.",
        severity="critical",
    )


def _workspace_failing_rule(workspace: str, queries: Sequence[Query]) -> Rule:
    """Return the rule for a workspace whose queries all fail for a reason other than the API key."""
    families = dict.fromkeys(
        build_gauge(query.kind, query.metric_group, query.unit, _LAST_SUCCESS).name for query in queries
    )
    last = f'{{__name__=~"{"|".join(families)}", workspace={quote(workspace)}}}'
    return Rule(
        alert="BrazeNotAnswering",
        labels=dict(_workspace_label(workspace)),
        expr=f"time() - {max_by(last, ['workspace'])}\n"
        f"and {_up_expr(workspace)} == 0\n"
        f"unless {_auth_failures(workspace, 'workspace')} > 0",
        wait=_DEFAULT_SECONDS,
        summary=f"Braze has answered nothing of {{{{ $labels.workspace }}}} {_SINCE_TEMPLATE}.",
        description=f"Values are shown for `max_age` and then gone. {REQUESTS_FAILED.name} tells the reasons, the log "
        "Braze's "
        "words, and Braze's status page whether others have the same.",
    )


def _query_stale_rule(queries: Sequence[Query], reserve: float) -> Rule:
    """Return the rule for queries of one kind and unit whose values are stale while other queries succeed."""
    longest = max(queries, key=lambda query: len(query.labels))
    workspace, kind, unit = longest.workspace, longest.kind, longest.unit
    late = []
    for metric_group in dict.fromkeys(query.metric_group for query in queries):
        latest, responded = (build_gauge(kind, metric_group, unit, measure) for measure in ("latest", _LAST_SUCCESS))
        oldest = max(max_result_age(query) for query in queries if query.metric_group == metric_group)
        late.append(
            f"time() - {max_by(select_series(responded, _workspace_label(workspace)), responded.labels)} > "
            f"{format_number(oldest)}\n"
            f"  unless {max_by(select_series(latest, _workspace_label(workspace)), responded.labels)}"
        )
    any_late = "\n  or ".join(late)
    return Rule(
        alert="BrazeQueryUnanswered",
        expr=f"(\n  {any_late}\n)\n"
        f"unless on (workspace) {_up_expr(workspace)} == 0\n"
        f"unless on (workspace) {_reserve_reached(workspace, reserve, (('pool', kind.pool.name),))}",
        wait=_DEFAULT_SECONDS,
        summary=f"Braze has not answered for {query_text(longest)} {_SINCE_TEMPLATE}: there are no values.",
        description="Others are answered, so it is this one: what was renamed or deleted in Braze, an identifier that "
        "is wrong, or a permission that the key lacks. The log has Braze's words.",
        labels={"kind": kind.section, "unit": unit.value, **dict(_workspace_label(workspace))},
    )


def _rate_limit_low_rule(workspace: str, reserve: float) -> Rule:
    """Return the rule for a rate limit that has reached the reserve, until Braze's window ends."""
    return Rule(
        alert="BrazeQuotaLow",
        labels=dict(_workspace_label(workspace)),
        expr=_reserve_reached(workspace, reserve),
        wait=_DEFAULT_SECONDS,
        summary="{{ $value | humanizePercentage }} of the rate limit of {{ $labels.workspace }} is left (pool "
        "{{ $labels.pool }}): the exporter asks nothing until it is reset.",
        description=f"`budget.reserve` leaves the last {format_number(reserve * 100)}% to your own calls, which Braze "
        "will "
        "soon refuse too. Look for who makes them: the exporter makes no more than `budget.share`.",
    )


def _list_stale_rule(workspace: str, lists: Sequence[ListEndpoint]) -> Rule:
    """Return the rule for a list that selectors use and that is no longer read.

    A last success of 0 means never, and counts as long ago.
    """
    result = LabelRegex("", "|".join(list_endpoint.response_key for list_endpoint in lists))
    read = max_by(
        select_series(LIST_LAST_SUCCESS, (*_workspace_label(workspace), ("list", result))), LIST_LAST_SUCCESS.labels
    )
    return Rule(
        alert="BrazeListUnread",
        labels=dict(_workspace_label(workspace)),
        expr=f"time() - {read} > {format_number(_MAX_LIST_AGE_SECONDS)}",
        wait=_DEFAULT_SECONDS,
        summary=(
            f"Braze's list of {{{{ $labels.list }}}} of {{{{ $labels.workspace }}}} was not read {_SINCE_TEMPLATE}."
        ),
        description="What `match` and `tag` would take of it is not asked for, or only what was listed before. The log "
        "and the exporter's page say why: a permission that the key lacks, a key that is refused, or Braze's trouble.",
    )


def _timezone_mismatch_rule(workspace: str) -> Rule:
    return Rule(
        alert="BrazeTimezoneMismatch",
        labels=dict(_workspace_label(workspace)),
        expr=f"{max_by(select_series(TIMEZONE_MISMATCH, _workspace_label(workspace)), ['workspace'])} == 1",
        wait=_LONG_SECONDS,
        summary="For 1 hour or longer the newest day of {{ $labels.workspace }} is not the one of its `timezone`.",
        description="The `timezone` in the config is not that of the company in Braze: days settle at the wrong time, "
        "and baselines compare the wrong ones.",
    )


def _workspace_label(workspace: str) -> tuple[tuple[str, str], ...]:
    return (("workspace", workspace),)


def _up_expr(workspace: str) -> str:
    return max_by(select_series(UP, _workspace_label(workspace)), ["workspace"])


def _auth_failures(workspace: str, by: str) -> str:
    """Return the PromQL for the number of auth failures in 10 minutes.

    Ten minutes cover five probes, so that no rejection is missed.
    """
    # Queries can succeed without the permission to read a list.
    lists = LabelRegex("", excluded="|".join(list_endpoint.path for list_endpoint in LIST_ENDPOINTS))
    reasons = LabelRegex(f"{Reason.UNAUTHORIZED}|{Reason.FORBIDDEN}")
    result = select_series(REQUESTS_FAILED, (*_workspace_label(workspace), ("endpoint", lists), ("reason", reasons)))
    return f"sum by ({by}) (increase({result}[10m]))"


def _reserve_reached(workspace: str, reserve: float, pool: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the PromQL for the remaining fractions of rate limits that have reached the reserve, until their reset."""

    def of(family: Family) -> str:
        return max_by(select_series(family, (*_workspace_label(workspace), *pool)), family.labels)

    reset = f"({of(RATE_LIMIT_RESET)} <= time())"
    return f"(\n  {of(RATE_LIMIT_REMAINING)}\n  / {of(RATE_LIMIT)} <= {format_number(reserve)}\n  unless {reset}\n)"
