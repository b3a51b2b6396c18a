"""Status page messages about queries, workspaces and the exporter. Pure functions.

A `TimeFormatter` formats the time that is a number of seconds from now.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from zoneinfo import ZoneInfo

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.config.plurals import pluralize
from braze_exporter.metrics.self_families import QueryStatus
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.key_state import AUTH_REASONS
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.rate_limiter import PAUSE_TEXTS, Pause, PauseReason

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


# The level of each query status, the most urgent first.
STATUS_LEVELS: Mapping[QueryStatus, Level] = {
    QueryStatus.STALE: Level.ERROR,
    QueryStatus.FAILED: Level.ERROR,
    QueryStatus.DEFERRED: Level.WARNING,
    QueryStatus.PENDING: Level.PENDING,
    QueryStatus.UP: Level.OK,
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
    if status is QueryStatus.UP:
        has_data = query_state.response is not None and any(series.points for series in query_state.response.series)
        return status if has_data else f"{status}, no data"
    if query_state.is_deferred:
        text = f"deferred until {_pause_message(pause, format_time_in) if pause is not None else 'the next scrape'}"
        return text if status is QueryStatus.DEFERRED else f"{status}: {text}"
    if (error := query_state.error) is not None:
        text = failure_message(error)
        if error.reason is Reason.RATE_LIMITED and pause is not None and pause.reason is PauseReason.RATE_LIMITED:
            text += f", requests paused until {format_time_in(pause.seconds)}"
        elif query_state.failures > 1:
            text += f", {query_state.failures} times in a row"
    elif status is QueryStatus.STALE:
        text = "no recent scrape"
    else:
        text = "fetch in progress" if query_state.in_flight else "not fetched yet"
    return f"{status}: {text}"


def _pause_message(pause: Pause, format_time_in: TimeFormatter) -> str:
    return f"{format_time_in(pause.seconds)} ({PAUSE_TEXTS[pause.reason]})"


def failure_message(error: BrazeError) -> str:
    """Return why a call failed, without a period.

    It is the detail without Braze's message and without the hint in parentheses.
    """
    status, *remainder = error.detail.partition(" (")[0].split(": ")
    return f"{status}: {remainder[0]}" if error.reason in AUTH_REASONS and remainder else status


def retry_message(seconds: float, format_time_in: TimeFormatter) -> str:
    """Return the sentence for the next attempt: `seconds` from now, or at the next scrape if `seconds` is 0."""
    return f"Next attempt {f'at {format_time_in(seconds)}' if seconds else 'at the next scrape'}."


def workspace_messages(
    status_counts: Counter[QueryStatus],
    limiter_status: LimiterStatus,
    pools: Mapping[str, str],
    format_time_in: TimeFormatter,
    *,
    list_messages: Sequence[StatusMessage] = (),
    remaining_history: int = 0,
    mismatched_zone: str = "",
) -> list[StatusMessage]:
    """Return the health of a workspace as messages, the most urgent first.

    `status_counts` are the numbers of its queries by status, `pools` the names of their pools by the path of the
    endpoint. `list_messages` are the messages about its lists. `remaining_history` is the number of calls for history
    that remain. `mismatched_zone` is the configured time zone if Braze's days differ from it, otherwise empty.
    """
    pause_seconds = {pool: pause.seconds for pool, pause in limiter_status.pauses.items()}
    failures = [
        replace(failure, seconds=max(failure.seconds, pause_seconds.get(pools[path], 0.0)))
        for path, failure in limiter_status.endpoint_failures.items()
        if path in pools
    ]
    if limiter_status.failure is not None and pools:
        failures = [limiter_status.failure]
    prefix = "Braze has not responded yet: " if limiter_status.start_failure is not None else ""
    messages = [
        *(
            (Level.ERROR, f"{prefix}{failure_message(failure.error)}. {retry_message(failure.seconds, format_time_in)}")
            for failure in failures
        ),
        *(
            (Level.WARNING, f"Requests in the {pool} pool are paused until {_pause_message(pause, format_time_in)}.")
            for pool, pause in limiter_status.pauses.items()
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
    return sorted(messages, key=lambda message: list(Level).index(message[0]))


def _status_messages(status_counts: Counter[QueryStatus]) -> list[StatusMessage]:
    total = status_counts.total()
    if not total:
        return []
    queries = pluralize(total, "query", "queries")
    if status_counts[QueryStatus.UP] == total:
        return [(Level.OK, "The only query is up." if total == 1 else f"All {queries} are up.")]
    return [
        (level, f"{status_counts[status]:,} of {queries} {status}.")
        for status, level in STATUS_LEVELS.items()
        if status_counts[status] and status is not QueryStatus.UP
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
