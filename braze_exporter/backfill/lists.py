"""What Braze lists, read once before its history: what wildcards take, and the names by which a scrape shows it."""

from collections.abc import Callable, Iterator, Mapping

from braze_exporter.backfill.request import BackfillError
from braze_exporter.braze.lists import Listing
from braze_exporter.config.document import shown
from braze_exporter.config.schema import Settings
from braze_exporter.scheduler.list_reader import Lister
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.selectors import Key, Known, filled


def whole(plan: Plan, settings: Settings, listers: Mapping[str, Lister], say: Callable[[str], None]) -> Plan:
    """Return the plan with what its wildcards take, and with the names of campaigns and Canvases, as the exporter has.

    Raises `BackfillError` if a list cannot be read, but for names that the key has no permission for: the exporter has
    the ids then, too, and what that means is said by `say`. A key that Braze does not know is found out by the queries.
    """
    lists: dict[Key, Known] = {}
    for workspace, listing, is_wild in needed(plan):
        lister = listers[workspace]
        found = lister.read(listing, archived=False)
        refusal = lister.admission.refusal(listing)
        what = f"{shown(workspace)}: the list of {listing.what[1]} cannot be read: {found.failure}"
        if not found.failure:
            # What the list costs an exporter is not looked at: what it may leave out for that is read too.
            lists[workspace, listing] = Known(found.rows, calls=0)
        elif refusal is not None and not is_wild:
            say(f"{what}: the series have the identifiers of {listing.what[1]} for names, as from such an exporter")
        else:
            raise BackfillError(f"{what}: without it the series would have other names than those of a scrape")
    return filled(plan, settings, lists)


def needed(plan: Plan) -> Iterator[tuple[str, Listing, bool]]:
    """Yield the lists that series depend on, each with its workspace and whether wildcards take of it."""
    wild = {(wildcard.workspace, wildcard.kind.listing) for wildcard in plan.wildcards}
    named = {(query.workspace, query.kind.listing) for query in plan.queries if query.kind.is_named}
    for workspace, listing in sorted(wild | named, key=str):
        if listing is not None:
            yield workspace, listing, (workspace, listing) in wild
