"""Status page messages about the lists and selectors of a workspace, and about unlisted subjects. Pure functions."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import SeriesKind
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.suggestions import format_suggestions
from braze_exporter.metrics.self_families import QUERY_UNLISTED
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.list_read_state import ListReadState
from braze_exporter.scheduler.plan import Plan, SelectionResult
from braze_exporter.web.status_messages import Level, StatusMessage, TimeFormatter, failure_message, retry_message

# The maximum number of unlisted subjects, and of selectors without items, that are named.
MAX_NAMED = 3


def list_messages(
    workspace: str,
    plan: Plan,
    lists: Sequence[ListReadState],
    limiter_status: LimiterStatus,
    format_time_in: TimeFormatter,
    *,
    now: float,
    has_queries: bool,
) -> list[StatusMessage]:
    """Return the messages about the lists of a workspace, its selectors in `plan`, and unlisted subjects.

    `now` is by the monotonic clock. If the workspace `has_queries`, another message already reports a rejected key, so
    it is omitted here.
    """
    selectors = dict.fromkeys(selector.kind for selector in plan.selectors if selector.workspace == workspace)
    selections = {selection.kind: selection for selection in plan.selection_results if selection.workspace == workspace}
    needed = {kind.list_endpoint for kind in selectors}
    is_key_reported = has_queries and limiter_status.key_failure is not None
    messages = [
        _failed_list_message(item, limiter_status, format_time_in, now=now, is_needed=item.list_endpoint in needed)
        for item in lists
        if item.error and not (is_key_reported and item.error.reason is Reason.UNAUTHORIZED)
    ]
    for item in lists:
        if item.is_suspect:
            text = f"Braze's list of {item.list_endpoint.item_names[1]} lacks more than half of its items."
            messages.append((Level.WARNING, f"{text} The previous list is used for an hour."))
    for kind in selectors:
        messages += _selection_messages(kind, selections.get(kind))
    unlisted = [
        f"Missing from Braze's list of {_item_names(subject.kind)[1]}: "
        f'"{subject.subject}"{format_suggestions(subject.suggestions)}.'
        for subject in plan.configured_subjects
        if subject.workspace == workspace and not subject.is_listed
    ]
    return [*messages, *_first_warnings(unlisted, f"Missing from Braze's lists: {{}} more. See {QUERY_UNLISTED.name}.")]


def _first_warnings(texts: Sequence[str], others: str) -> Iterator[StatusMessage]:
    """Yield a warning for each of the first `MAX_NAMED` texts, and `others` with the number of the other ones."""
    yield from ((Level.WARNING, text) for text in texts[:MAX_NAMED])
    if len(texts) > MAX_NAMED:
        yield Level.WARNING, others.format(f"{len(texts) - MAX_NAMED:,}")


def _item_names(kind: SeriesKind) -> tuple[str, str]:
    return kind.list_endpoint.item_names if kind.list_endpoint is not None else ("", "")


def _failed_list_message(
    item: ListReadState, limiter_status: LimiterStatus, format_time_in: TimeFormatter, *, now: float, is_needed: bool
) -> StatusMessage:
    blocks = (
        limiter_status.failure,
        limiter_status.endpoint_failures.get(item.list_endpoint.path),
        limiter_status.pauses.get(item.list_endpoint.pool.name),
    )
    seconds = max(item.next_at - now, *(block.seconds for block in blocks if block is not None), 0.0)
    error = limiter_status.failure.error if limiter_status.failure is not None else item.error
    why = failure_message(error) if error is not None else ""
    items = item.list_endpoint.item_names[1]
    text = f"Braze's list of {items} could not be read: {why}. {retry_message(seconds, format_time_in)}"
    if not is_needed:
        return Level.OK, f"{text} No values depend on it."
    return Level.ERROR, f"{text} The previous list is used." if item.read_at else text


def _selection_messages(kind: SeriesKind, selection: SelectionResult | None) -> Iterator[StatusMessage]:
    """Yield how many items the selectors of a kind match, and which selectors match none."""
    names = _item_names(kind)
    if selection is None:
        yield Level.PENDING, f"Selectors of {kind.section} are waiting for Braze's list of {names[1]}."
        return
    listed = pluralize(selection.listed_count, *names)
    text = f"Selectors of {kind.section} match {selection.matched_count:,} of {listed}"
    if selection.skipped_count:
        remedy = f"Raise max_queries or budget.share, or match fewer {names[1]}."
        yield Level.WARNING, f"{text}, {selection.skipped_count:,} skipped. {remedy}"
    elif selection.matched_count:
        yield Level.OK, f"{text}."
    mismatches = [f"Selector of {kind.section}: {mismatch}." for mismatch in selection.mismatches]
    yield from _first_warnings(mismatches, f"Selectors of {kind.section}: {{}} more match no item.")
