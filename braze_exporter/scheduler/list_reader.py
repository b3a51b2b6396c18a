"""Reads one of Braze's lists to its end for a command, with retries."""

from collections.abc import Callable
from dataclasses import dataclass

from braze_exporter.braze.calls import Permit
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.scheduler.clients import WorkspaceClient
from braze_exporter.scheduler.errors import CircuitOpen
from braze_exporter.scheduler.list_pager import ListPager


@dataclass(frozen=True, slots=True)
class ListResult:
    """The items of a list, its archived items, and the `failure` that made the list incomplete.

    `failure` is empty if the list was read to its end.
    """

    items: tuple[ListItem, ...] = ()
    archived_items: tuple[ListItem, ...] = ()
    failure: str = ""


# Seconds before each retry of a page after a transient failure.
_RETRY_SECONDS = (1.0, 5.0)


@dataclass(frozen=True, slots=True)
class ListReader:
    """Reads the lists of one workspace, without the caching and scheduling of `ListRefresher`.

    If Braze does not respond, the first list is tried again, and the others fail at once for the same reason.
    """

    workspace: WorkspaceClient
    sleep: Callable[[float], None]

    def read(self, list_endpoint: ListEndpoint, *, include_archived: bool) -> ListResult:
        """Read a list and return its items, and its archived items if `include_archived` is true.

        If a page fails, the result holds the items read so far and the reason.
        """
        unreachable = self.workspace.admission.unreachable_error
        if unreachable is not None:
            return ListResult(failure=unreachable.detail)
        items, failure = self._read_items(list_endpoint)
        if failure or not (include_archived and list_endpoint.can_be_archived):
            return ListResult(items, failure=failure)
        items_with_archived, failure = self._read_items(list_endpoint.with_archived())
        known = {item.id for item in items}
        return ListResult(items, tuple(item for item in items_with_archived if item.id not in known), failure)

    def _read_items(self, list_endpoint: ListEndpoint) -> tuple[tuple[ListItem, ...], str]:
        """Return the items of a list, and why they are incomplete, or an empty text if they are complete."""
        pager = ListPager(list_endpoint)
        pauses, failure = list(_RETRY_SECONDS), "Braze does not respond"
        while True:
            permit = self.workspace.admission.admit(list_endpoint)
            if isinstance(permit, CircuitOpen):
                rejection = self.workspace.admission.open_circuit_error(list_endpoint)
                if rejection is not None or not pauses:
                    return pager.items, rejection.detail if rejection is not None else failure
                self.sleep(pauses.pop(0))
                continue
            if not isinstance(permit, Permit):
                reason = f"budget of the {list_endpoint.pool.name} pool is used up"
                return pager.items, f"{reason}; raise budget.share, or run the command again in an hour"
            try:
                if pager.read_page(self.workspace.client, permit):
                    return pager.items, ""
            except BrazeError as error:
                failure = error.detail
                if not (error.is_transient and pauses):
                    return pager.items, failure
                self.sleep(pauses.pop(0))
