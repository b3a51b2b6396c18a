"""Status page messages about the lists and selectors of a workspace, and about unlisted subjects. Pure functions."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import SeriesKind
from braze_exporter.config.plurals import pluralize
from braze_exporter.metrics.self_families import QUERY_UNLISTED
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.list_read_state import ListReadState
from braze_exporter.scheduler.plan import ConfiguredSubject, Plan, SelectionResult
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
    needed = {kind.list_endpoint for kind in selectors}
    selections = {selection.kind: selection for selection in plan.selection_results if selection.workspace == workspace}
    is_key_reported = has_queries and limiter_status.key_failure is not None
    failing_lists = (
        item for item in lists if item.error and not (is_key_reported and item.error.reason is Reason.UNAUTHORIZED)
    )
    return [
        *(
            _failed_list_message(item, limiter_status, format_time_in, now=now, is_needed=item.list_endpoint in needed)
            for item in failing_lists
        ),
        *(_suspect_list_message(item) for item in lists if item.is_suspect),
        *(message for kind in selectors for message in _selection_messages(kind, selections.get(kind))),
        *_unlisted_messages(
            [
                subject
                for subject in plan.configured_subjects
                if subject.workspace == workspace and not subject.is_listed
            ]
        ),
    ]


def _unlisted_messages(unlisted: Sequence[ConfiguredSubject]) -> Iterator[StatusMessage]:
    """Yield a message for each of the first `MAX_NAMED` unlisted subjects, and one with the number of the others."""
    for subject in unlisted[:MAX_NAMED]:
        what = subject.kind.list_endpoint.item_names[1] if subject.kind.list_endpoint is not None else ""
        text = f'Missing from Braze\'s list of {what}: "{subject.subject}".'
        suggestions = " or ".join(f'"{name}"' for name in subject.suggestions)
        yield Level.WARNING, f"{text} Did you mean {suggestions}?" if suggestions else text
    if len(unlisted) > MAX_NAMED:
        yield (
            Level.WARNING,
            f"Missing from Braze's lists: {len(unlisted) - MAX_NAMED:,} more. See {QUERY_UNLISTED.name}.",
        )


def _failed_list_message(
    item: ListReadState, limiter_status: LimiterStatus, format_time_in: TimeFormatter, *, now: float, is_needed: bool
) -> StatusMessage:
    failures = (limiter_status.key_failure, limiter_status.endpoint_failures.get(item.list_endpoint.path))
    seconds = max(item.next_at - now, *(failure.seconds for failure in failures if failure is not None), 0.0)
    error = limiter_status.key_failure.error if limiter_status.key_failure is not None else item.error
    why = failure_message(error, item.list_endpoint.permission) if error is not None else ""
    items = item.list_endpoint.item_names[1]
    text = f"Braze's list of {items} could not be read: {why}. {retry_message(seconds, format_time_in)}"
    if not is_needed:
        return Level.OK, f"{text} No values depend on it."
    return Level.ERROR, f"{text} The previous list is used." if item.read_at else text


def _suspect_list_message(item: ListReadState) -> StatusMessage:
    text = f"Braze's list of {item.list_endpoint.item_names[1]} lacks more than half of its items."
    return Level.WARNING, f"{text} The previous list is used for an hour."


def _selection_messages(kind: SeriesKind, selection: SelectionResult | None) -> Iterator[StatusMessage]:
    """Yield how many items the selectors of a kind match, and which selectors match none."""
    what = kind.list_endpoint.item_names if kind.list_endpoint is not None else ("", "")
    if selection is None:
        yield Level.PENDING, f"Selectors of {kind.section} are waiting for Braze's list of {what[1]}."
        return
    listed = pluralize(selection.listed_count, *what)
    text = f"Selectors of {kind.section} match {selection.matched_count:,} of {listed}"
    if selection.skipped_count:
        remedy = f"Raise max_queries or budget.share, or match fewer {what[1]}."
        yield Level.WARNING, f"{text}, {selection.skipped_count:,} skipped. {remedy}"
    elif selection.matched_count:
        yield Level.OK, f"{text}."
    for mismatch in selection.mismatches[:MAX_NAMED]:
        yield Level.WARNING, f"Selector of {kind.section}: {mismatch}."
    more = len(selection.mismatches) - MAX_NAMED
    if more > 0:
        yield Level.WARNING, f"Selectors of {kind.section}: {more:,} more match no item."
