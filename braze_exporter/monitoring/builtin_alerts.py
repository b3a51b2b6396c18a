"""The built-in alerting rules, for failures that would keep the alerts of the config from firing."""

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

_SHORT_WAIT_SECONDS = 300.0
_DEFAULT_WAIT_SECONDS = 900.0
_LONG_WAIT_SECONDS = 3_600.0
# Lists are read about once per hour, so this is two missed reads.
_MAX_LIST_AGE_SECONDS = 10_800.0
_LAST_SUCCESS = "last_success_timestamp_seconds"
# A `$value` of 1e9 or more means that the last success is 0: no fetch has succeeded since the start.
_SINCE_TEMPLATE = (
    "{{ if lt $value 1e9 }}for {{ $value | humanizeDuration }}{{ else }}since the exporter started{{ end }}"
)


def workspace_rules(queries: Sequence[Query], reserve: float, lists: Sequence[ListEndpoint]) -> Iterator[Rule]:
    """Yield the rules of one workspace: for its `queries`, and for the `lists` that its selectors use.

    `reserve` is the fraction of a rate limit that the exporter leaves to the company's sends.
    """
    name = queries[0].workspace
    yield _down_rule(name)
    yield _key_rejected_rule(name)
    yield _workspace_failing_rule(name, queries)
    for kind, unit in dict.fromkeys((query.kind, query.unit) for query in queries):
        yield _query_stale_rule([query for query in queries if (query.kind, query.unit) == (kind, unit)], reserve)
    yield _rate_limit_low_rule(name, reserve)
    if lists:
        yield _list_stale_rule(name, lists)
    if any(query.unit is Unit.DAY for query in queries):
        yield _timezone_mismatch_rule(name)


def exporter_rules(*, has_state: bool) -> Iterator[Rule]:
    """Yield the rules for the exporter process. `has_state` is true if a state file is configured."""
    yield Rule(
        alert="BrazeConfigReloadFailed",
        expr=f"time() - {RELOAD_SUCCESS_TIME.name}\nand {RELOAD_SUCCESSFUL.name} == 0",
        wait=_SHORT_WAIT_SECONDS,
        summary="Failed Braze exporter configuration reload.",
        description="The Braze exporter failed to reload its config and keeps the one loaded "
        "{{ $value | humanizeDuration }} ago. The exporter's log and `braze-exporter check` list the problems.",
    )
    if has_state:
        yield Rule(
            alert="BrazeStateNotWritten",
            expr=f"increase({STATE_WRITE_FAILURES.name}[10m]) > 0",
            wait=_DEFAULT_WAIT_SECONDS,
            summary="Braze exporter cannot write its state file.",
            description='About {{ $value | printf "%.0f" }} writes of the state file failed in the last 10 minutes. '
            "Until a write succeeds, counters do not increase and alerts for silent events do not fire. The log "
            "contains the error. Check for a full or read-only disk.",
        )


def _down_rule(workspace: str) -> Rule:
    """Return the rule for missing metrics of a workspace. It does not contain the name of the Prometheus job."""
    return Rule(
        alert="BrazeExporterDown",
        labels=dict(_workspace_label(workspace)),
        expr=f"absent({select_series(QUERIES, _workspace_label(workspace))})",
        wait=_SHORT_WAIT_SECONDS,
        summary="Braze exporter metrics are missing.",
        description="Prometheus has had no metrics of workspace {{ $labels.workspace }} for 5 minutes or longer, so no "
        "other alert for it can fire. The exporter is down, cannot be scraped, or no longer has this workspace in its "
        "config. The target status page of Prometheus shows scrape errors.",
        severity="critical",
    )


def _key_rejected_rule(workspace: str) -> Rule:
    """Return the rule for an API key that Braze rejects for all queries of a kind.

    A rejected key is tested every two minutes, at the endpoints of queries before those of lists. So rejected list
    requests need not be counted.
    """
    up = select_series(QUERIES, (*_workspace_label(workspace), ("state", QueryStatus.UP)))
    return Rule(
        alert="BrazeKeyRefused",
        labels=dict(_workspace_label(workspace)),
        expr=f"{_auth_failures(workspace, 'workspace, reason')} > 0\n"
        f"and on (workspace) max by (workspace, kind) ({up}) == 0",
        wait=_SHORT_WAIT_SECONDS,
        summary="Braze rejects the API key.",
        description="Braze rejected the API key of workspace {{ $labels.workspace }} ({{ $labels.reason }}) in about "
        '{{ $value | printf "%.0f" }} requests in the last 10 minutes. '
        f"If the reason is unauthorized and {UP.name} is 0, the key is wrong or deleted, or `url` is that of another "
        f"Braze instance. If it is unauthorized and {UP.name} is 1, the key lacks a permission. If it is forbidden, "
        "the key lacks a permission or does not allow the exporter's IP address. The log and the status page name the "
        "permission.",
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
        wait=_DEFAULT_WAIT_SECONDS,
        summary="All fetches from Braze fail.",
        description=f"No fetch for workspace {{{{ $labels.workspace }}}} has succeeded {_SINCE_TEMPLATE}. "
        f"Values disappear when they are older than `max_age`. {REQUESTS_FAILED.name} counts the failures by reason. "
        "The log has Braze's error messages. Check Braze's status page for an outage.",
    )


def _query_stale_rule(queries: Sequence[Query], reserve: float) -> Rule:
    """Return the rule for queries of one kind and unit whose values are stale while other queries succeed."""
    query_with_all_labels = max(queries, key=lambda query: len(query.labels))
    workspace, kind, unit = query_with_all_labels.workspace, query_with_all_labels.kind, query_with_all_labels.unit
    conditions = []
    for metric_group in dict.fromkeys(query.metric_group for query in queries):
        latest, success = (build_gauge(kind, metric_group, unit, measure) for measure in ("latest", _LAST_SUCCESS))
        max_age = max(max_result_age(query) for query in queries if query.metric_group == metric_group)
        conditions.append(
            f"time() - {max_by(select_series(success, _workspace_label(workspace)), success.labels)} > "
            f"{format_number(max_age)}\n"
            f"  unless {max_by(select_series(latest, _workspace_label(workspace)), success.labels)}"
        )
    any_stale = "\n  or ".join(conditions)
    return Rule(
        alert="BrazeQueryUnanswered",
        expr=f"(\n  {any_stale}\n)\n"
        f"unless on (workspace) {_up_expr(workspace)} == 0\n"
        f"unless on (workspace) {_reserve_reached(workspace, reserve, (('pool', kind.pool.name),))}",
        wait=_DEFAULT_WAIT_SECONDS,
        summary="Values of a query are stale.",
        description=f"No fetch of {query_text(query_with_all_labels)} has succeeded {_SINCE_TEMPLATE}, so its values "
        "are no longer exported. Fetches of other queries succeed. Check for a name that was changed or deleted in "
        "Braze, a wrong identifier, or a permission that the key lacks. The log has Braze's error message.",
        labels={"kind": kind.section, "unit": unit.value, **dict(_workspace_label(workspace))},
    )


def _rate_limit_low_rule(workspace: str, reserve: float) -> Rule:
    """Return the rule for a rate limit that has reached the reserve, until Braze's window ends."""
    return Rule(
        alert="BrazeQuotaLow",
        labels=dict(_workspace_label(workspace)),
        expr=_reserve_reached(workspace, reserve),
        wait=_DEFAULT_WAIT_SECONDS,
        summary="Braze rate limit has reached the reserve.",
        description="{{ $value | humanizePercentage }} of the rate limit of workspace {{ $labels.workspace }} is left "
        "(pool {{ $labels.pool }}), so the exporter pauses its requests until the limit resets. "
        f"`budget.reserve` leaves the last {format_number(reserve * 100)}% to your own requests, which Braze will soon "
        "reject too. Find their source. The exporter uses at most `budget.share`.",
    )


def _list_stale_rule(workspace: str, lists: Sequence[ListEndpoint]) -> Rule:
    """Return the rule for a list that selectors use and whose fetches fail.

    Before the first success the timestamp is 0, so the rule fires for a list that has never been read too.
    """
    names = LabelRegex("", "|".join(list_endpoint.response_key for list_endpoint in lists))
    last_success = max_by(
        select_series(LIST_LAST_SUCCESS, (*_workspace_label(workspace), ("list", names))), LIST_LAST_SUCCESS.labels
    )
    return Rule(
        alert="BrazeListUnread",
        labels=dict(_workspace_label(workspace)),
        expr=f"time() - {last_success} > {format_number(_MAX_LIST_AGE_SECONDS)}",
        wait=_DEFAULT_WAIT_SECONDS,
        summary="Fetches of a Braze list fail.",
        description="No fetch of Braze's list of {{ $labels.list }} for workspace {{ $labels.workspace }} has "
        f"succeeded {_SINCE_TEMPLATE}. Until one succeeds, `regex` and `tag` select only items that were listed "
        "before. The log and the status page show the reason: a missing permission, a rejected key, or a failure of "
        "Braze.",
    )


def _timezone_mismatch_rule(workspace: str) -> Rule:
    return Rule(
        alert="BrazeTimezoneMismatch",
        labels=dict(_workspace_label(workspace)),
        expr=f"{max_by(select_series(TIMEZONE_MISMATCH, _workspace_label(workspace)), ['workspace'])} == 1",
        wait=_LONG_WAIT_SECONDS,
        summary="Configured time zone differs from Braze's.",
        description="The newest day in the responses for workspace {{ $labels.workspace }} has differed from the "
        "current day in its `timezone` for 1 hour or longer. Set `timezone` to the time zone of the company in Braze. "
        "Otherwise days settle at the wrong time, and baselines compare the wrong days.",
    )


def _workspace_label(workspace: str) -> tuple[tuple[str, str], ...]:
    return (("workspace", workspace),)


def _up_expr(workspace: str) -> str:
    return max_by(select_series(UP, _workspace_label(workspace)), ["workspace"])


def _auth_failures(workspace: str, by: str) -> str:
    """Return the PromQL for the number of 401s and 403s of queries in the last 10 minutes.

    There are five probes in this time, so that none of them can be missed between scrapes.
    """
    # Lists are excluded, since queries can succeed without the permission to read a list.
    lists = LabelRegex("", excluded="|".join(list_endpoint.path for list_endpoint in LIST_ENDPOINTS))
    reasons = LabelRegex(f"{Reason.UNAUTHORIZED}|{Reason.FORBIDDEN}")
    result = select_series(REQUESTS_FAILED, (*_workspace_label(workspace), ("endpoint", lists), ("reason", reasons)))
    return f"sum by ({by}) (increase({result}[10m]))"


def _reserve_reached(workspace: str, reserve: float, pool: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the PromQL for the remaining fractions of the rate limits that are at or below the reserve.

    A rate limit whose window has ended is omitted.
    """

    def expr(family: Family) -> str:
        return max_by(select_series(family, (*_workspace_label(workspace), *pool)), family.labels)

    remaining, limit, has_ended = expr(RATE_LIMIT_REMAINING), expr(RATE_LIMIT), f"({expr(RATE_LIMIT_RESET)} <= time())"
    return f"(\n  {remaining}\n  / {limit} <= {format_number(reserve)}\n  unless {has_ended}\n)"
