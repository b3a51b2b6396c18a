"""Status page messages about queries, workspaces and the exporter. Pure functions.

A `TimeFormatter` formats the time that is a number of seconds from now.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.config.plurals import pluralize
from braze_exporter.metrics.self_families import QueryStatus
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.rate_limiter import Pause, PauseReason

# Times this close to a full minute are rounded to it.
_CLOCK_TOLERANCE_SECONDS = 2.0
# Missing scrapes are reported after this time. Prometheus usually scrapes about once a minute.
_NO_SCRAPE_SECONDS = 300.0

TimeFormatter: TypeAlias = Callable[[float], str]


class Level(StrEnum):
    """How urgent a message is, the most urgent first. The status page has a shape and a color for each level."""

    ERROR = "error"
    WARNING = "warning"
    PENDING = "pending"
    OK = "ok"


StatusMessage: TypeAlias = tuple[Level, str]


class Health(NamedTuple):
    """The health of a workspace: its messages, the most urgent first, and the level of the first one."""

    level: Level
    messages: list[str]


# The name and the level of each query status, the most urgent first.
STATUS_MESSAGES: Mapping[QueryStatus, tuple[str, Level]] = {
    QueryStatus.STALE: ("stale", Level.ERROR),
    QueryStatus.FAILED: ("failed", Level.ERROR),
    QueryStatus.DEFERRED: ("deferred", Level.WARNING),
    QueryStatus.PENDING: ("pending", Level.PENDING),
    QueryStatus.UP: ("up", Level.OK),
}

# The other reasons are described by the beginning of the detail, which is the status of the response.
_REASON_MESSAGES: Mapping[Reason, str] = {
    Reason.BAD_REQUEST: "400 Bad Request: query rejected",
    Reason.FORBIDDEN: "403 Forbidden: the key lacks the permission {permission}",
    Reason.NOT_FOUND: "404 Not Found: unknown endpoint",
    Reason.RATE_LIMITED: "429 Too Many Requests",
    Reason.TIMEOUT: "request timed out",
    Reason.CONNECTION: "connection failed",
    Reason.DNS: "host name of url not found",
    Reason.TLS: "TLS connection failed",
    Reason.TOO_LARGE: "response too large",
    Reason.TRUNCATED: "response truncated",
}

_PAUSE_MESSAGES: Mapping[PauseReason, str] = {
    PauseReason.RATE_LIMITED: "rate limit reached",
    PauseReason.RESERVE: "reserve reached",
    PauseReason.BUDGET: "budget used up",
}


def format_time(instant: float, zone: ZoneInfo, now: float) -> str:
    """Return a future time as local time in `zone`, with the weekday if it is not today, and with seconds if not 0.

    A time within 2 seconds of a full minute is rounded to it, since Braze's windows end on the minute and its clock may
    differ.
    """
    minute = round(instant / 60) * 60
    at = minute if abs(minute - instant) <= _CLOCK_TOLERANCE_SECONDS else round(instant)
    local, today = (datetime.fromtimestamp(moment, zone) for moment in (at, now))
    day = "" if local.date() == today.date() else "%a "
    return local.strftime(f"{day}%H:%M:%S" if local.second else f"{day}%H:%M")


def query_message(
    query_state: QueryState, status: QueryStatus, pause: Pause | None, format_time_in: TimeFormatter
) -> str:
    """Return the message for the status of a query. `pause` is the pause of its pool, or None."""
    name = STATUS_MESSAGES[status][0]
    if status is QueryStatus.UP:
        has_data = query_state.response is not None and any(series.points for series in query_state.response.series)
        return name if has_data else f"{name}, no data"
    if query_state.is_deferred:
        text = f"deferred until {_pause_message(pause, format_time_in) if pause is not None else 'the next scrape'}"
        return text if status is QueryStatus.DEFERRED else f"{name}: {text}"
    if query_state.error is not None:
        text = _query_failure_message(query_state, query_state.error, pause, format_time_in)
    elif status is QueryStatus.STALE:
        text = "no recent scrape"
    else:
        text = "fetch in progress" if query_state.in_flight else "first fetch at the next scrape"
    return f"{name}: {text}"


def _pause_message(pause: Pause, format_time_in: TimeFormatter) -> str:
    return f"{format_time_in(pause.seconds)} ({_PAUSE_MESSAGES[pause.reason]})"


def failure_message(error: BrazeError, permission: str) -> str:
    """Return why a call failed, without a period. `permission` is the one that the call needs."""
    if error.reason in _REASON_MESSAGES:
        return _REASON_MESSAGES[error.reason].format(permission=permission)
    return _rejection(error) if error.reason is Reason.UNAUTHORIZED else error.detail.partition(":")[0]


def _rejection(error: BrazeError) -> str:
    """Return the detail of an error without the hint in parentheses. The log has the hint."""
    return error.detail.partition(" (")[0]


def _query_failure_message(
    query_state: QueryState, error: BrazeError, pause: Pause | None, format_time_in: TimeFormatter
) -> str:
    text = failure_message(error, query_state.query.kind.permission)
    if error.reason is Reason.RATE_LIMITED and pause is not None and pause.reason is PauseReason.RATE_LIMITED:
        text += f", requests paused until {format_time_in(pause.seconds)}"
    return f"{text}, {query_state.failures} times in a row" if query_state.failures > 1 else text


def workspace_health(
    status_counts: Counter[QueryStatus],
    limiter_status: LimiterStatus,
    permissions: Mapping[str, str],
    format_time_in: TimeFormatter,
    *,
    list_messages: Sequence[StatusMessage] = (),
    remaining_history: int = 0,
    mismatched_zone: str = "",
) -> Health:
    """Return the health of a workspace. `status_counts` are the numbers of its queries by status.

    `permissions` maps the paths of its queries to the permissions that they need. `list_messages` are the messages
    about its lists. `remaining_history` is the number of history chunks to fetch. `mismatched_zone` is the configured
    time zone if Braze's days differ from it, otherwise empty.
    """
    messages = [
        *_auth_messages(limiter_status, permissions, format_time_in),
        *(
            (Level.WARNING, f"Requests paused until {_pause_message(pause, format_time_in)}.")
            for pause in limiter_status.pauses.values()
            # Each refresh uses up the budget, so a pause for that reason is reported only if queries are deferred.
            if pause.reason is not PauseReason.BUDGET or status_counts[QueryStatus.DEFERRED]
        ),
        *_status_messages(status_counts),
        *list_messages,
    ]
    if mismatched_zone:
        remedy = "Set timezone to the company's time zone in Braze."
        messages.append((Level.ERROR, f"Braze's newest day is not today in {mismatched_zone}. {remedy}"))
    if remaining_history:
        calls = pluralize(remaining_history, "call", "calls")
        messages.append((Level.OK, f"Fetching history for baselines: {calls} left."))
    messages.sort(key=lambda item: list(Level).index(item[0]))
    return Health(messages[0][0], [text for _, text in messages])


def retry_message(seconds: float, format_time_in: TimeFormatter) -> str:
    """Return the sentence for the next attempt: `seconds` from now, or at the next scrape if `seconds` is 0."""
    return f"Next attempt {f'at {format_time_in(seconds)}' if seconds else 'at the next scrape'}."


def _auth_messages(
    limiter_status: LimiterStatus, permissions: Mapping[str, str], format_time_in: TimeFormatter
) -> list[StatusMessage]:
    if (failure := limiter_status.key_failure) is not None and permissions:
        failures = [(_rejection(failure.error), failure)]
    else:
        failures = [
            (_permission_message(failure.error, permissions[endpoint]), failure)
            for endpoint, failure in limiter_status.endpoint_failures.items()
            if endpoint in permissions
        ]
    return [(Level.ERROR, f"{text}. {retry_message(failure.seconds, format_time_in)}") for text, failure in failures]


def _permission_message(error: BrazeError, permission: str) -> str:
    status = "401 Unauthorized" if error.reason is Reason.UNAUTHORIZED else "403 Forbidden"
    return f"{status}: the key lacks the permission {permission}"


def _status_messages(status_counts: Counter[QueryStatus]) -> list[StatusMessage]:
    total = status_counts.total()
    if not total:
        return []
    if status_counts[QueryStatus.UP] == total:
        text = "The only query is" if total == 1 else f"All {pluralize(total, 'query', 'queries')} are"
        return [(Level.OK, f"{text} {STATUS_MESSAGES[QueryStatus.UP][0]}.")]
    return [
        (level, f"{status_counts[state]:,} of {pluralize(total, 'query', 'queries')} {name}.")
        for state, (name, level) in STATUS_MESSAGES.items()
        if status_counts[state] and state is not QueryStatus.UP
    ]


def exporter_messages(*, scrape_age: float | None, is_config_good: bool, are_counters_stalled: bool) -> list[str]:
    """Return the messages about problems of the exporter itself.

    `scrape_age` is the number of seconds since the last scrape, or None before the first.
    """
    on_scrape = "Queries run only when Prometheus scrapes /metrics."
    result = {
        f"No scrape yet. {on_scrape}": scrape_age is None,
        f"No scrape in the last 5 minutes. {on_scrape}": scrape_age is not None and scrape_age >= _NO_SCRAPE_SECONDS,
        "Configuration reload failed, keeping the previous one. See the log.": not is_config_good,
        "State file could not be written, counters are not updated. See the log.": are_counters_stalled,
    }
    return [text for text, applies in result.items() if applies]
