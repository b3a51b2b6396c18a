"""Opens the clients of the configured workspaces, and makes their fetches."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import requests

from braze_exporter.braze.calls import CallEvent, Response
from braze_exporter.braze.client import Client
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.braze.transport import DEFAULT_TIMEOUTS, Timeouts, Transport
from braze_exporter.config.loading import Config
from braze_exporter.scheduler.admission import Admission

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkspaceClient:
    """The API client of a workspace, and the `Admission` of its calls."""

    client: Client
    admission: Admission


def open_clients(
    config: Config,
    admissions: Mapping[str, Admission],
    session: requests.Session,
    clock: Clock,
    *,
    on_call: Callable[[CallEvent], None] = lambda _call: None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> dict[str, WorkspaceClient]:
    """Return the API client of each workspace, by its name. It sends requests over `session`.

    `admissions` has the `Admission` of each workspace, with its key. `on_call` is called after every call.
    """
    clients = {}
    for spec in (workspace.spec for workspace in config.workspaces):
        key = admissions[spec.name].api_key
        transport = Transport(session, spec.rest_endpoint, key.reveal, monotonic=clock.monotonic, timeouts=timeouts)
        client = Client(transport, workspace=spec.name, redact=key.redact, clock=clock, on_call=on_call)
        clients[spec.name] = WorkspaceClient(client, admissions[spec.name])
    return clients


def try_fetch(
    clients: Mapping[str, WorkspaceClient], query: Query, fetch: Callable[[Client], Response]
) -> tuple[Response | None, BrazeError | None]:
    """Return the result of `fetch` with the client for `query`, or why it failed.

    Return neither if a reload has just removed the workspace. An unexpected error is logged, and fails this query only.
    """
    workspace = clients.get(query.workspace)
    if workspace is None:
        return None, None
    try:
        return fetch(workspace.client), None
    except BrazeError as failure:
        return None, failure.without_traceback()
    except Exception:  # noqa: BLE001 - the thread must survive for the other queries
        _log.exception("Internal error during a fetch", extra={"fields": dict(query.labels)})
        return None, BrazeError(Reason.INVALID_RESPONSE, "internal error; see the exporter's log")
