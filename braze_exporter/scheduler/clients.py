"""Opens the client of a configured workspace."""

from collections.abc import Callable
from dataclasses import dataclass

import requests

from braze_exporter.braze.calls import CallEvent
from braze_exporter.braze.client import Client
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.transport import DEFAULT_TIMEOUTS, Timeouts, Transport
from braze_exporter.config.schema import Workspace
from braze_exporter.scheduler.admission import Admission


@dataclass(frozen=True, slots=True)
class WorkspaceClient:
    """The API client of a workspace, and the `Admission` of its calls."""

    client: Client
    admission: Admission


def open_client(
    workspace: Workspace,
    admission: Admission,
    session: requests.Session,
    clock: Clock,
    *,
    on_call: Callable[[CallEvent], None] = lambda _call: None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> WorkspaceClient:
    """Return the API client of a workspace, which sends requests with the key of `admission` over `session`.

    `on_call` is called after every call.
    """
    key = admission.api_key
    transport = Transport(session, workspace.rest_endpoint, key.reveal, monotonic=clock.monotonic, timeouts=timeouts)
    client = Client(transport, workspace=workspace.name, redact=key.redact, clock=clock, on_call=on_call)
    return WorkspaceClient(client, admission)
