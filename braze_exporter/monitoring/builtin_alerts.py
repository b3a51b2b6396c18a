"""The rules that watch the exporter itself: whatever is wrong with it, the other alerts cannot fire."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.lists import LISTINGS, Listing
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import Family, gauge
from braze_exporter.metrics.promql import Matched, highest, number, quoted, series
from braze_exporter.metrics.self_metrics import (
    ERRORS,
    LIST_READ,
    QUERIES,
    QUOTA_LIMIT,
    QUOTA_REMAINING,
    QUOTA_RESET,
    RELOAD_SUCCESS_TIME,
    RELOAD_SUCCESSFUL,
    STATE_WRITE_FAILURES,
    TIMEZONE_MISMATCH,
    UP,
    State,
)
from braze_exporter.monitoring.kind_texts import what
from braze_exporter.monitoring.query_alerts import news
from braze_exporter.monitoring.rule import Rule

_SOON = 300.0
_USUAL = 900.0
_LATE = 3_600.0
# Lists are read about once an hour.
_LIST_OLD = 10_800.0
_ANSWERED = "last_success_timestamp_seconds"
# A time to the last answer that is none: there was no answer since the start.
_SINCE = "{{ if lt $value 1e9 }}for {{ $value | humanizeDuration }}{{ else }}since the exporter was started{{ end }}"


def of_workspace(queries: Sequence[Query], reserve: float, lists: Sequence[Listing]) -> Iterator[Rule]:
    """Yield the rules for one workspace with these queries, and with wildcards that take of these lists.

    `reserve` is the share of a limit that is left alone.
    """
    name = queries[0].workspace
    yield _down(name)
    yield _key_refused(name)
    yield _not_answering(name, queries)
    for sort in dict.fromkeys((query.kind, query.unit) for query in queries):
        yield _unanswered([query for query in queries if (query.kind, query.unit) == sort], reserve)
    yield _quota_low(name, reserve)
    if lists:
        yield _list_unread(name, lists)
    if any(query.unit is Unit.DAY for query in queries):
        yield _timezone_mismatch(name)


def of_exporter(*, has_state: bool) -> Iterator[Rule]:
    """Yield the rules for the process."""
    yield Rule(
        alert="BrazeConfigReloadFailed",
        expr=f"time() - {RELOAD_SUCCESS_TIME.name}\nand {RELOAD_SUCCESSFUL.name} == 0",
        wait=_SOON,
        summary="The Braze exporter cannot use its new config, and goes on with the one of "
        "{{ $value | humanizeDuration }} ago.",
        description="What is wrong with the file stands in the exporter's log; `braze-exporter check` says the same.",
    )
    if has_state:
        yield Rule(
            alert="BrazeStateNotWritten",
            expr=f"increase({STATE_WRITE_FAILURES.name}[10m]) > 0",
            wait=_USUAL,
            summary='About {{ $value | printf "%.0f" }} writes of the state file failed in 10 minutes.',
            description="Until one succeeds the counters stand still, and nobody is told of silent events. The log "
            "says why; look for a full or read-only disk.",
        )


def _down(workspace: str) -> Rule:
    """Return the rule for an exporter that is not there, whatever its job in Prometheus is called."""
    return Rule(
        alert="BrazeExporterDown",
        labels=dict(_of(workspace)),
        expr=f"absent({series(QUERIES, _of(workspace))})",
        wait=_SOON,
        summary="For 5 minutes or longer Prometheus has no metrics of {{ $labels.workspace }}: no other alert of it "
        "can fire.",
        description="The exporter is down, or cannot be scraped, or its config does not have this workspace any more. "
        "Prometheus shows the reason under Targets.",
        severity="critical",
    )


def _key_refused(workspace: str) -> Rule:
    """Return the rule for a key that Braze refuses for all of a kind, which one call in two minutes tries again.

    While all endpoints refuse it those of queries take turns, so that refusals of lists need not be counted.
    """
    up = series(QUERIES, (*_of(workspace), ("state", State.UP)))
    return Rule(
        alert="BrazeKeyRefused",
        labels=dict(_of(workspace)),
        expr=f"{_refusals(workspace, 'workspace, reason')} > 0\n"
        f"and on (workspace) max by (workspace, kind) ({up}) == 0",
        wait=_SOON,
        summary="Braze refuses the API key of {{ $labels.workspace }} ({{ $labels.reason }}): "
        'about {{ $value | printf "%.0f" }} calls in 10 minutes.',
        description=f"unauthorized: if {UP.name} is 0 the key is rejected: it is wrong or deleted, or the url is that "
        "of another instance; else it lacks a permission. forbidden: it lacks a permission, or does not allow the "
        "exporter's address. The log and the exporter's page name the permission.",
        severity="critical",
    )


def _not_answering(workspace: str, queries: Sequence[Query]) -> Rule:
    """Return the rule for a workspace of which nothing is answered, unless that is for the key."""
    families = dict.fromkeys(gauge(query.kind, query.noun, query.unit, _ANSWERED).name for query in queries)
    last = f'{{__name__=~"{"|".join(families)}", workspace={quoted(workspace)}}}'
    return Rule(
        alert="BrazeNotAnswering",
        labels=dict(_of(workspace)),
        expr=f"time() - {highest(last, ['workspace'])}\n"
        f"and {_up(workspace)} == 0\n"
        f"unless {_refusals(workspace, 'workspace')} > 0",
        wait=_USUAL,
        summary=f"Braze has answered nothing of {{{{ $labels.workspace }}}} {_SINCE}.",
        description=f"Values are shown for `max_age` and then gone. {ERRORS.name} tells the reasons, the log Braze's "
        "words, and Braze's status page whether others have the same.",
    )


def _unanswered(queries: Sequence[Query], reserve: float) -> Rule:
    """Return the rule for queries of one kind and unit without values for want of answers that others have."""
    longest = max(queries, key=lambda query: len(query.labels))
    workspace, kind, unit = longest.workspace, longest.kind, longest.unit
    late = []
    for noun in dict.fromkeys(query.noun for query in queries):
        latest, answered = (gauge(kind, noun, unit, measure) for measure in ("latest", _ANSWERED))
        oldest = max(news(query) for query in queries if query.noun == noun)
        late.append(
            f"time() - {highest(series(answered, _of(workspace)), answered.labels)} > {number(oldest)}\n"
            f"  unless {highest(series(latest, _of(workspace)), answered.labels)}"
        )
    any_late = "\n  or ".join(late)
    return Rule(
        alert="BrazeQueryUnanswered",
        expr=f"(\n  {any_late}\n)\n"
        f"unless on (workspace) {_up(workspace)} == 0\n"
        f"unless on (workspace) {_spent(workspace, reserve, (('pool', kind.pool.name),))}",
        wait=_USUAL,
        summary=f"Braze has not answered for {what(longest)} {_SINCE}: there are no values.",
        description="Others are answered, so it is this one: what was renamed or deleted in Braze, an identifier that "
        "is wrong, or a permission that the key lacks. The log has Braze's words.",
        labels={"kind": kind.section, "unit": unit.value, **dict(_of(workspace))},
    )


def _quota_low(workspace: str, reserve: float) -> Rule:
    """Return the rule for a rate limit of which the reserve is reached, until Braze's window ends."""
    return Rule(
        alert="BrazeQuotaLow",
        labels=dict(_of(workspace)),
        expr=_spent(workspace, reserve),
        wait=_USUAL,
        summary="{{ $value | humanizePercentage }} of the rate limit of {{ $labels.workspace }} is left (pool "
        "{{ $labels.pool }}): the exporter asks nothing until it is reset.",
        description=f"`budget.reserve` leaves the last {number(reserve * 100)}% to your own calls, which Braze will "
        "soon refuse too. Look for who makes them: the exporter makes no more than `budget.share`.",
    )


def _list_unread(workspace: str, lists: Sequence[Listing]) -> Rule:
    """Return the rule for a list that wildcards take of and that is not read any more; 0 is never, and long ago."""
    found = Matched("", "|".join(listing.key for listing in lists))
    read = highest(series(LIST_READ, (*_of(workspace), ("list", found))), LIST_READ.labels)
    return Rule(
        alert="BrazeListUnread",
        labels=dict(_of(workspace)),
        expr=f"time() - {read} > {number(_LIST_OLD)}",
        wait=_USUAL,
        summary=f"Braze's list of {{{{ $labels.list }}}} of {{{{ $labels.workspace }}}} was not read {_SINCE}.",
        description="What `match` and `tag` would take of it is not asked for, or only what was listed before. The log "
        "and the exporter's page say why: a permission that the key lacks, a key that is refused, or Braze's trouble.",
    )


def _timezone_mismatch(workspace: str) -> Rule:
    return Rule(
        alert="BrazeTimezoneMismatch",
        labels=dict(_of(workspace)),
        expr=f"{highest(series(TIMEZONE_MISMATCH, _of(workspace)), ['workspace'])} == 1",
        wait=_LATE,
        summary="For 1 hour or longer the newest day of {{ $labels.workspace }} is not the one of its `timezone`.",
        description="The `timezone` in the config is not that of the company in Braze: days settle at the wrong time, "
        "and baselines compare the wrong ones.",
    )


def _of(workspace: str) -> tuple[tuple[str, str], ...]:
    return (("workspace", workspace),)


def _up(workspace: str) -> str:
    return highest(series(UP, _of(workspace)), ["workspace"])


def _refusals(workspace: str, by: str) -> str:
    """Return how often Braze has refused the key in ten minutes: five probes fit in, so that one is not missed."""
    # A list that may not be read keeps no query from being answered.
    lists = Matched("", less="|".join(listing.endpoint for listing in LISTINGS))
    reasons = Matched(f"{Reason.UNAUTHORIZED}|{Reason.FORBIDDEN}")
    found = series(ERRORS, (*_of(workspace), ("endpoint", lists), ("reason", reasons)))
    return f"sum by ({by}) (increase({found}[10m]))"


def _spent(workspace: str, reserve: float, pool: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the share that is left of the limits of which the reserve is reached, until they are reset."""

    def of(family: Family) -> str:
        return highest(series(family, (*_of(workspace), *pool)), family.labels)

    reset = f"({of(QUOTA_RESET)} <= time())"
    return f"(\n  {of(QUOTA_REMAINING)}\n  / {of(QUOTA_LIMIT)} <= {number(reserve)}\n  unless {reset}\n)"
