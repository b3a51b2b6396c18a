"""The words for how a query, a workspace and the exporter stand. Pure: `when` tells the time in so many seconds."""

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

# In seconds.
_CLOCK_TOLERANCE_SECONDS = 2.0

TimeFormatter: TypeAlias = Callable[[float], str]


class Level(StrEnum):
    """How urgent it is, the most urgent first: the page has a shape and a colour for each."""

    BAD = "bad"
    WAITING = "waiting"
    NEW = "new"
    GOOD = "good"


StatusMessage: TypeAlias = tuple[Level, str]


class Health(NamedTuple):
    """How a workspace stands: how urgent that is, and why, the most urgent sentence first."""

    level: Level
    sentences: list[str]


# What each state is called, and how urgent it is; the most urgent first.
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
    """Return a time to come as the clock on the wall shows it in `zone`: with the seconds or the day only if needed.

    A few seconds off the minute are what our clock and Braze's differ by, whose windows end on the minute.
    """
    minute = round(instant / 60) * 60
    at = minute if abs(minute - instant) <= _CLOCK_TOLERANCE_SECONDS else round(instant)
    local, today = (datetime.fromtimestamp(moment, zone) for moment in (at, now))
    day = "" if local.date() == today.date() else "%a "
    return local.strftime(f"{day}%H:%M:%S" if local.second else f"{day}%H:%M")


def query_message(query_state: QueryState, state: QueryStatus, pause: Pause | None, when: TimeFormatter) -> str:
    """Return how a query stands. `pause` is of its pool, if that rests."""
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
    """Return why a call was not answered that needs this permission."""
    return _REASON_MESSAGES[error.reason].format(
        permission=permission, status=error.detail.partition(":")[0], detail=_headline(error)
    )


def _headline(error: BrazeError) -> str:
    """Return what an error says without the hint in brackets, which the log has."""
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
    """Return how a workspace stands, by how many of its queries are in which state.

    `permissions` are by the endpoint of its queries, `more` is of its lists, `remaining_history` are calls;
    `other_zone` is the zone of the config, if Braze's days are not its days.
    """
    messages = [
        *_auth_messages(limiter_status, permissions, when),
        *(
            (Level.WAITING, f"No calls: {_pause_message(pause, when)}.")
            for pause in limiter_status.pauses.values()
            if pause.reason is not PauseReason.BUDGET
            or states[QueryStatus.DEFERRED]  # each refresh spends it, and it fills again
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
    """Return when something is tried again."""
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
    """Return what is wrong with the exporter itself, in sentences."""
    result = {
        "Nobody scrapes: Braze is asked only when Prometheus asks for /metrics.": not is_scraped,
        "The config that was read last cannot be used, and the one before goes on: see the log.": not is_config_good,
        "The state file cannot be written, so the counters stand still: see the log.": are_counters_stalled,
    }
    return [text for text, applies in result.items() if applies]
