"""What Braze lists, read once before its history: what wildcards take, and the names by which a scrape shows it."""

from collections.abc import Callable, Iterator, Mapping

from braze_exporter.backfill.request import BackfillError
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.config.document import shorten
from braze_exporter.config.schema import Settings
from braze_exporter.scheduler.list_reader import ListReader
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.selectors import ListKey, ListSnapshot, expand


def expand_plan(
    plan: Plan, settings: Settings, readers: Mapping[str, ListReader], print_line: Callable[[str], None]
) -> Plan:
    """Return the plan with what its wildcards take, and with the names of campaigns and Canvases, as the exporter has.

    Raises `BackfillError` if a list cannot be read, but for names that the key has no permission for: the exporter has
    the ids then, too, and what that means is said by `print_line`. A key that Braze does not know is found out by the
    queries.
    """
    lists: dict[ListKey, ListSnapshot] = {}
    for workspace, list_endpoint, is_selector in required_lists(plan):
        reader = readers[workspace]
        result = reader.read(list_endpoint, archived=False)
        failure = reader.admission.open_circuit_error(list_endpoint)
        what = f"{shorten(workspace)}: the list of {list_endpoint.item_names[1]} cannot be read: {result.failure}"
        if not result.failure:
            # What the list costs an exporter is not looked at: what it may leave out for that is read too.
            lists[workspace, list_endpoint] = ListSnapshot(result.items, calls=0)
        elif failure is not None and not is_selector:
            print_line(
                f"{what}: the series have the identifiers of {list_endpoint.item_names[1]} for names, as from such an "
                "exporter"
            )
        else:
            raise BackfillError(f"{what}: without it the series would have other names than those of a scrape")
    return expand(plan, settings, lists)


def required_lists(plan: Plan) -> Iterator[tuple[str, ListEndpoint, bool]]:
    """Yield the lists that series depend on, each with its workspace and whether wildcards take of it."""
    selector_lists = {(selector.workspace, selector.kind.list_endpoint) for selector in plan.selectors}
    named_lists = {
        (query.workspace, query.kind.list_endpoint) for query in plan.queries if query.kind.is_identified_by_id
    }
    for workspace, list_endpoint in sorted(selector_lists | named_lists, key=str):
        if list_endpoint is not None:
            yield workspace, list_endpoint, (workspace, list_endpoint) in selector_lists
