"""Status page texts about queries, workspaces and the exporter. Pure functions.

`when` is a `TimeFormatter`: it formats the time that lies a number of seconds from now.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.metrics.self_metrics import QueryStatus
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.rate_limiter import Pause, PauseReason

_CLOCK_TOLERANCE_SECONDS = 2.0

TimeFormatter: TypeAlias = Callable[[float], str]


class Level(StrEnum):
    """How urgent a message is, the most urgent first. The status page has a shape and a color for each level."""

    BAD = "bad"
    WAITING = "waiting"
    NEW = "new"
    GOOD = "good"


StatusMessage: TypeAlias = tuple[Level, str]


class Health(NamedTuple):
    """The health of a workspace: the highest level of its messages, and their texts, the most urgent first."""

    level: Level
    sentences: list[str]


# The name and the level of each query status, the most urgent first.
STATUS_MESSAGES: Mapping[QueryStatus, tuple[str, Level]] = {
    QueryStatus.STALE: ("too old", Level.BAD),
    QueryStatus.FAILED: ("not answered", Level.BAD),
    QueryStatus.DEFERRED: ("waiting", Level.WAITING),
    QueryStatus.PENDING: ("not asked yet", Level.NEW),
    QueryStatus.UP: ("answering", Level.GOOD),
}

_REASON_MESSAGES: Mapping[Reason, str] = {
    Reason.BAD_REQUEST: "refused: 400, Braze does not take this query",
    Reason.UNAUTHORIZED: "refused: {detail}",
    Reason.FORBIDDEN: "refused: 403, the key lacks {permission}",
    Reason.NOT_FOUND: "refused: 404, Braze does not know the address",
    Reason.RATE_LIMITED: "refused: 429, rate limit",
    Reason.SERVER_ERROR: "failing: {status}, Braze is in trouble",
    Reason.UNEXPECTED_STATUS: "failing: {status}",
    Reason.QUEUED: "failing: Braze is in maintenance",
    Reason.NO_CONTENT: "failing: the answer is without content",
    Reason.TIMEOUT: "failing: no answer in time",
    Reason.CONNECTION: "failing: the connection breaks",
    Reason.DNS: "failing: the host name of the url is not known",
    Reason.TLS: "failing: no trusted connection (TLS)",
    Reason.REDIRECT: "failing: Braze leads elsewhere, which is not followed",
    Reason.TOO_LARGE: "failing: the answer is too large",
    Reason.TRUNCATED: "failing: the answer breaks off",
    Reason.NOT_JSON: "failing: the answer is not JSON",
    Reason.INVALID_RESPONSE: "failing: the answer makes no sense",
}

_PAUSE_MESSAGES: Mapping[PauseReason, str] = {
    PauseReason.RATE_LIMITED: "rate limit",
    PauseReason.RESERVE: "reserve of the rate limit",
    PauseReason.BUDGET: "budget",
}


def format_time(instant: float, zone: ZoneInfo, now: float) -> str:
    """Return a future time as local time in `zone`, with seconds or weekday only if needed.

    A time within 2 seconds of a full minute is rounded to it. Braze's windows end on the minute, and its clock may
    differ.
    """
    minute = round(instant / 60) * 60
    at = minute if abs(minute - instant) <= _CLOCK_TOLERANCE_SECONDS else round(instant)
    local, today = (datetime.fromtimestamp(moment, zone) for moment in (at, now))
    day = "" if local.date() == today.date() else "%a "
    return local.strftime(f"{day}%H:%M:%S" if local.second else f"{day}%H:%M")


def query_message(query_state: QueryState, state: QueryStatus, pause: Pause | None, when: TimeFormatter) -> str:
    """Return the text for the status of a query. `pause` is the pause of its pool, or None."""
    if state is QueryStatus.UP:
        has_data = query_state.response is not None and any(series.points for series in query_state.response.series)
        return "answering" if has_data else "answering, without data"
    if query_state.is_deferred:
        why = _deferred_message(pause, when)
    elif query_state.error is not None:
        why = _query_failure_message(query_state, query_state.error, pause, when)
    elif state is QueryStatus.STALE:
        why = "nobody has scraped since"
    else:
        why = "being asked now" if query_state.in_flight else "Braze is asked when Prometheus scrapes"
    return f"{STATUS_MESSAGES[state][0]}: {why}" if state in {QueryStatus.STALE, QueryStatus.PENDING} else why


def _deferred_message(pause: Pause | None, when: TimeFormatter) -> str:
    return f"waiting: {_pause_message(pause, when)}" if pause is not None else "waiting for the next scrape"


def _pause_message(pause: Pause, when: TimeFormatter) -> str:
    return f"{_PAUSE_MESSAGES[pause.reason]} until {when(pause.seconds)}"


def failure_message(error: BrazeError, permission: str) -> str:
    """Return why a call failed. `permission` is the permission that the call needs."""
    return _REASON_MESSAGES[error.reason].format(
        permission=permission, status=error.detail.partition(":")[0], detail=_headline(error)
    )


def _headline(error: BrazeError) -> str:
    """Return the detail of an error without the hint in parentheses. The log has the hint."""
    return error.detail.partition(" (")[0]


def _query_failure_message(query_state: QueryState, error: BrazeError, pause: Pause | None, when: TimeFormatter) -> str:
    text = failure_message(error, query_state.query.kind.permission)
    if error.reason is Reason.RATE_LIMITED and pause is not None and pause.reason is PauseReason.RATE_LIMITED:
        text += f" until {when(pause.seconds)}"
    return f"{text}, {query_state.failures} times in a row" if query_state.failures > 1 else text


def workspace_health(
    states: Counter[QueryStatus],
    limiter_status: LimiterStatus,
    permissions: Mapping[str, str],
    when: TimeFormatter,
    *,
    more: Sequence[StatusMessage] = (),
    remaining_history: int = 0,
    other_zone: str = "",
) -> Health:
    """Return the health of a workspace. `states` are the numbers of its queries by status.

    `permissions` maps the endpoints of its queries to the permissions they need. `more` are messages about its lists.
    `remaining_history` is a number of calls. `other_zone` is the configured time zone if Braze's days differ from it.
    """
    messages = [
        *_auth_messages(limiter_status, permissions, when),
        *(
            (Level.WAITING, f"No calls: {_pause_message(pause, when)}.")
            for pause in limiter_status.pauses.values()
            # Each refresh uses up the budget, so that is only reported if queries are deferred.
            if pause.reason is not PauseReason.BUDGET or states[QueryStatus.DEFERRED]
        ),
        *_status_messages(states),
        *more,
    ]
    if other_zone:
        text = f"Braze's newest day is not today in {other_zone}: set timezone to that of the company in Braze."
        messages.append((Level.BAD, text))
    if remaining_history:
        messages.append(
            (Level.GOOD, f"History for baselines is being read: {_pluralize(remaining_history, 'call')} to go.")
        )
    messages.sort(key=lambda item: list(Level).index(item[0]))
    return Health(messages[0][0], [text for _, text in messages])


def retry_message(seconds: float, when: TimeFormatter) -> str:
    """Return the text for the next attempt, which is `seconds` from now or with the next scrape."""
    return f"Next attempt {f'at {when(seconds)}' if seconds else 'with the next scrape'}."


def _auth_messages(
    limiter_status: LimiterStatus, permissions: Mapping[str, str], when: TimeFormatter
) -> list[StatusMessage]:
    if limiter_status.key_failure is not None and permissions:
        return [
            (
                Level.BAD,
                (
                    f"{_headline(limiter_status.key_failure.error)}. "
                    f"{retry_message(limiter_status.key_failure.seconds, when)}"
                ),
            )
        ]
    return [
        (Level.BAD, f"{_lacking(failure.error, permissions[endpoint])}. {retry_message(failure.seconds, when)}")
        for endpoint, failure in limiter_status.endpoint_failures.items()
        if endpoint in permissions
    ]


def _lacking(error: BrazeError, permission: str) -> str:
    status = "401 Unauthorized" if error.reason is Reason.UNAUTHORIZED else "403 Forbidden"
    return f"{status}: the key lacks the permission {permission}"


def _status_messages(states: Counter[QueryStatus]) -> list[StatusMessage]:
    total = states.total()
    if not total:
        return []
    if states[QueryStatus.UP] == total:
        text = "The only query is" if total == 1 else f"All {_pluralize(total, 'query')} are"
        return [(Level.GOOD, f"{text} answered.")]
    return [
        (level, f"{states[state]:,} of {_pluralize(total, 'query')} {'is' if states[state] == 1 else 'are'} {name}.")
        for state, (name, level) in STATUS_MESSAGES.items()
        if states[state] and state is not QueryStatus.UP
    ]


def _pluralize(number: int, singular: str) -> str:
    many = f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}s"
    return f"{number:,} {singular if number == 1 else many}"


def exporter_messages(*, is_scraped: bool, is_config_good: bool, are_counters_stalled: bool) -> list[str]:
    """Return the texts for problems of the exporter itself."""
    result = {
        "Nobody scrapes: Braze is asked only when Prometheus asks for /metrics.": not is_scraped,
        "The config that was read last cannot be used, and the one before goes on: see the log.": not is_config_good,
        "The state file cannot be written, so the counters stand still: see the log.": are_counters_stalled,
    }
    return [text for text, applies in result.items() if applies]
