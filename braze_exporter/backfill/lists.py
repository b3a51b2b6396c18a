"""Read the lists that a backfill needs, for the items of selectors and the names of campaigns and Canvases."""

from collections.abc import Callable, Iterator, Mapping

from braze_exporter.backfill.request import BackfillError
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.config.document import shorten
from braze_exporter.config.schema import Settings
from braze_exporter.scheduler.list_reader import ListReader
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.selectors import ListKey, ListSnapshot, expand_selectors


def expand_plan(
    plan: Plan, settings: Settings, readers: Mapping[str, ListReader], print_line: Callable[[str], None]
) -> Plan:
    """Return `plan` with the items of its selectors and the names of campaigns and Canvases, as in the exporter.

    If the key has no permission for a list that only provides names, the series have ids as names, as in the exporter.
    In this case `print_line` is called with a message. A rejected key is reported later, by the calls for the queries.

    Raises `BackfillError` if a list cannot be read for another reason, or if a selector needs it.
    """
    lists: dict[ListKey, ListSnapshot] = {}
    for workspace, list_endpoint, is_selector in lists_with_use(plan):
        reader = readers[workspace]
        result = reader.read(list_endpoint, include_archived=False)
        failure = reader.workspace.admission.open_circuit_error(list_endpoint)
        names = list_endpoint.item_names[1]
        what = f"{shorten(workspace)}: the list of {names} could not be read: {result.failure}"
        if not result.failure:
            # The calls for the list are not counted, so that no item is skipped because of them.
            lists[workspace, list_endpoint] = ListSnapshot(result.items, calls=0)
        elif failure is not None and not is_selector:
            print_line(f"{what}; series have the ids of {names} as names, as in the exporter")
        else:
            raise BackfillError(f"{what}; without this list, series would have other names than in a scrape")
    return expand_selectors(plan, settings, lists)


def lists_with_use(plan: Plan) -> Iterator[tuple[str, ListEndpoint, bool]]:
    """Yield the workspace and the endpoint of each list that `plan` requires, and whether a selector uses it."""
    selector_lists = {(selector.workspace, selector.kind.list_endpoint) for selector in plan.selectors}
    named_lists = {
        (query.workspace, query.kind.list_endpoint) for query in plan.queries if query.kind.is_identified_by_id
    }
    for workspace, list_endpoint in sorted(selector_lists | named_lists, key=str):
        if list_endpoint is not None:
            yield workspace, list_endpoint, (workspace, list_endpoint) in selector_lists
