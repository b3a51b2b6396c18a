"""The words for how a query, a workspace and the exporter stand. Pure: `when` tells the time in so many seconds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.metrics.self_metrics import State
from braze_exporter.scheduler.admission import Standing
from braze_exporter.scheduler.query_state import Entry
from braze_exporter.scheduler.rate_limiter import Cause, Rest

# In seconds.
_CLOCKS_DIFFER = 2.0

When: TypeAlias = Callable[[float], str]


class Level(StrEnum):
    """How urgent it is, the most urgent first: the page has a shape and a colour for each."""

    BAD = "bad"
    WAITING = "waiting"
    NEW = "new"
    GOOD = "good"


Sentence: TypeAlias = tuple[Level, str]


class Health(NamedTuple):
    """How a workspace stands: how urgent that is, and why, the most urgent sentence first."""

    level: Level
    sentences: list[str]


# What each state is called, and how urgent it is; the most urgent first.
STATES: Mapping[State, tuple[str, Level]] = {
    State.STALE: ("too old", Level.BAD),
    State.FAILED: ("not answered", Level.BAD),
    State.DEFERRED: ("waiting", Level.WAITING),
    State.PENDING: ("not asked yet", Level.NEW),
    State.UP: ("answering", Level.GOOD),
}

_FAILURES: Mapping[Reason, str] = {
    Reason.BAD_REQUEST: "refused: 400, Braze does not take this query",
    Reason.UNAUTHORIZED: "refused: {detail}",
    Reason.FORBIDDEN: "refused: 403, the key lacks {permission}",
    Reason.NOT_FOUND: "refused: 404, Braze does not know the address",
    Reason.RATE_LIMITED: "refused: 429, rate limit",
    Reason.SERVER_ERROR: "failing: {status}, Braze is in trouble",
    Reason.HTTP: "failing: {status}",
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
    Reason.BAD_ANSWER: "failing: the answer makes no sense",
}

_CAUSES: Mapping[Cause, str] = {
    Cause.RATE_LIMITED: "rate limit",
    Cause.RESERVE: "reserve of the rate limit",
    Cause.BUDGET: "budget",
}


def clock(instant: float, zone: ZoneInfo, now: float) -> str:
    """Return a time to come as the clock on the wall shows it in `zone`: with the seconds or the day only if needed.

    A few seconds off the minute are what our clock and Braze's differ by, whose windows end on the minute.
    """
    minute = round(instant / 60) * 60
    at = minute if abs(minute - instant) <= _CLOCKS_DIFFER else round(instant)
    local, today = (datetime.fromtimestamp(moment, zone) for moment in (at, now))
    day = "" if local.date() == today.date() else "%a "
    return local.strftime(f"{day}%H:%M:%S" if local.second else f"{day}%H:%M")


def of_query(entry: Entry, state: State, rest: Rest | None, when: When) -> str:
    """Return how a query stands. `rest` is of its pool, if that rests."""
    if state is State.UP:
        has_data = entry.answer is not None and any(series.points for series in entry.answer.series)
        return "answering" if has_data else "answering, without data"
    if entry.deferred:
        why = _waiting(rest, when)
    elif entry.error is not None:
        why = _failure(entry, entry.error, rest, when)
    elif state is State.STALE:
        why = "nobody has scraped since"
    else:
        why = "being asked now" if entry.busy else "Braze is asked when Prometheus scrapes"
    return f"{STATES[state][0]}: {why}" if state in {State.STALE, State.PENDING} else why


def _waiting(rest: Rest | None, when: When) -> str:
    return f"waiting: {_resting(rest, when)}" if rest is not None else "waiting for the next scrape"


def _resting(rest: Rest, when: When) -> str:
    return f"{_CAUSES[rest.cause]} until {when(rest.seconds)}"


def failure(error: BrazeError, permission: str) -> str:
    """Return why a call was not answered that needs this permission."""
    return _FAILURES[error.reason].format(
        permission=permission, status=error.detail.partition(":")[0], detail=_headline(error)
    )


def _headline(error: BrazeError) -> str:
    """Return what an error says without the hint in brackets, which the log has."""
    return error.detail.partition(" (")[0]


def _failure(entry: Entry, error: BrazeError, rest: Rest | None, when: When) -> str:
    text = failure(error, entry.query.kind.permission)
    if error.reason is Reason.RATE_LIMITED and rest is not None and rest.cause is Cause.RATE_LIMITED:
        text += f" until {when(rest.seconds)}"
    return f"{text}, {entry.failures} times in a row" if entry.failures > 1 else text


def of_workspace(
    states: Counter[State],
    standing: Standing,
    permissions: Mapping[str, str],
    when: When,
    *,
    more: Sequence[Sentence] = (),
    history_left: int = 0,
    other_zone: str = "",
) -> Health:
    """Return how a workspace stands, by how many of its queries are in which state.

    `permissions` are by the endpoint of its queries, `more` is of its lists, `history_left` are calls; `other_zone` is
    the zone of the config, if Braze's days are not its days.
    """
    found = [
        *_refused(standing, permissions, when),
        *(
            (Level.WAITING, f"No calls: {_resting(rest, when)}.")
            for rest in standing.rests.values()
            if rest.cause is not Cause.BUDGET or states[State.DEFERRED]  # each refresh spends it, and it fills again
        ),
        *_counted(states),
        *more,
    ]
    if other_zone:
        text = f"Braze's newest day is not today in {other_zone}: set timezone to that of the company in Braze."
        found.append((Level.BAD, text))
    if history_left:
        found.append((Level.GOOD, f"History for baselines is being read: {_count(history_left, 'call')} to go."))
    found.sort(key=lambda one: list(Level).index(one[0]))
    return Health(found[0][0], [text for _, text in found])


def again(seconds: float, when: When) -> str:
    """Return when something is tried again."""
    return f"Next attempt {f'at {when(seconds)}' if seconds else 'with the next scrape'}."


def _refused(standing: Standing, permissions: Mapping[str, str], when: When) -> list[Sentence]:
    if standing.refusal is not None and permissions:
        return [(Level.BAD, f"{_headline(standing.refusal.error)}. {again(standing.refusal.seconds, when)}")]
    return [
        (Level.BAD, f"{_lacking(refusal.error, permissions[endpoint])}. {again(refusal.seconds, when)}")
        for endpoint, refusal in standing.refusals.items()
        if endpoint in permissions
    ]


def _lacking(error: BrazeError, permission: str) -> str:
    status = "401 Unauthorized" if error.reason is Reason.UNAUTHORIZED else "403 Forbidden"
    return f"{status}: the key lacks the permission {permission}"


def _counted(states: Counter[State]) -> list[Sentence]:
    total = states.total()
    if not total:
        return []
    if states[State.UP] == total:
        text = "The only query is" if total == 1 else f"All {_count(total, 'query')} are"
        return [(Level.GOOD, f"{text} answered.")]
    return [
        (level, f"{states[state]:,} of {_count(total, 'query')} {'is' if states[state] == 1 else 'are'} {name}.")
        for state, (name, level) in STATES.items()
        if states[state] and state is not State.UP
    ]


def _count(number: int, one: str) -> str:
    many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{number:,} {one if number == 1 else many}"


def of_exporter(*, is_scraped: bool, is_config_good: bool, counters_stand_still: bool) -> list[str]:
    """Return what is wrong with the exporter itself, in sentences."""
    found = {
        "Nobody scrapes: Braze is asked only when Prometheus asks for /metrics.": not is_scraped,
        "The config that was read last cannot be used, and the one before goes on: see the log.": not is_config_good,
        "The state file cannot be written, so the counters stand still: see the log.": counters_stand_still,
    }
    return [text for text, applies in found.items() if applies]
