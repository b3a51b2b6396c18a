"""The words for how the lists of a workspace stand, for what wildcards take of them, and for what they lack. Pure."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import Kind
from braze_exporter.metrics.self_metrics import QUERY_UNLISTED
from braze_exporter.scheduler.admission import Standing
from braze_exporter.scheduler.list_refresh import ListState
from braze_exporter.scheduler.plan import Discovered, Named, Plan
from braze_exporter.web.status_messages import Level, Sentence, When, again, failure

# So many subjects that Braze does not list are named.
MOST_NAMED = 3


def of_lists(
    workspace: str, plan: Plan, lists: Sequence[ListState], standing: Standing, when: When, *, has_queries: bool
) -> list[Sentence]:
    """Return what there is to say of the lists of a workspace, and of what `plan` takes of them and misses in them.

    That the key is rejected is said by others if it `has_queries`.
    """
    wild = dict.fromkeys(wildcard.kind for wildcard in plan.wildcards if wildcard.workspace == workspace)
    needed = {kind.listing for kind in wild}
    known = {found.kind: found for found in plan.discovered if found.workspace == workspace}
    is_said = has_queries and standing.refusal is not None
    unread = (one for one in lists if one.error and not (is_said and one.error.reason is Reason.UNAUTHORIZED))
    return [
        *(_unread(one, standing, when, is_needed=one.listing in needed) for one in unread),
        *(_taken(kind, known.get(kind)) for kind in wild),
        *_unlisted([named for named in plan.named if named.workspace == workspace and not named.is_listed]),
    ]


def _unlisted(unlisted: Sequence[Named]) -> Iterator[Sentence]:
    """Yield a sentence for each subject of the config that Braze does not list, as far as they are few."""
    for named in unlisted[:MOST_NAMED]:
        what = named.kind.listing.what[0] if named.kind.listing is not None else ""
        text = f'Braze does not list the {what} "{named.subject}"'
        near = " or ".join(f'"{name}"' for name in named.nearest)
        yield Level.WAITING, f"{text}: did you mean {near}?" if near else f"{text}."
    if len(unlisted) > MOST_NAMED:
        yield Level.WAITING, f"Nor does it list {len(unlisted) - MOST_NAMED:,} more: see {QUERY_UNLISTED.name}."


def _unread(one: ListState, standing: Standing, when: When, *, is_needed: bool) -> Sentence:
    refusals = (standing.refusal, standing.refusals.get(one.listing.endpoint))
    seconds = max(one.seconds, *(refusal.seconds for refusal in refusals if refusal is not None), 0.0)
    error = standing.refusal.error if standing.refusal is not None else one.error
    why = failure(error, one.listing.permission) if error is not None else ""
    text = f"Braze's list of {one.listing.what[1]} cannot be read ({why}). {again(seconds, when)}"
    if not is_needed:
        return Level.GOOD, f"{text} No value depends on it."
    return Level.BAD, f"{text} The one before is used." if one.read_at else text


def _taken(kind: Kind, found: Discovered | None) -> Sentence:
    what = kind.listing.what if kind.listing is not None else ("", "")
    if found is None:
        return Level.NEW, f"The match and tag entries of {kind.section} wait for Braze's list of {what[1]}."
    listed = f"{found.found:,} {what[found.found != 1]}"
    text = f"Of {listed} that Braze lists, the match and tag entries of {kind.section} take"
    if not found.matched:
        return Level.WAITING, f"{text} none."
    if found.left_out:
        text = f"{text} {found.matched:,}, less {found.left_out:,} for want of room"
        return Level.WAITING, f"{text}: raise max_queries or budget.share, or match less."
    return Level.GOOD, f"{text} {found.matched:,}."
