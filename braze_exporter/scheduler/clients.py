"""Opens the client of a configured workspace."""

from collections.abc import Callable, Mapping

import requests

from braze_exporter.braze.calls import CallEvent
from braze_exporter.braze.client import Client
from braze_exporter.braze.transport import DEFAULT_TIMEOUTS, Timeouts, Transport
from braze_exporter.config.schema import Workspace
from braze_exporter.config.secrets import ApiKey, Secret


def open_client(
    workspace: Workspace,
    key: Secret | ApiKey,
    session: requests.Session,
    *,
    proxies: Callable[[str], Mapping[str, str]],
    wall: Callable[[], float],
    monotonic: Callable[[], float],
    on_call: Callable[[CallEvent], None] = lambda _call: None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> Client:
    """Return the API client of a workspace.

    The client sends requests with `key` over `session`, through the proxies that `proxies` returns for the workspace's
    url. `wall` returns seconds since the epoch, `monotonic` seconds of a monotonic clock. `on_call` is called after
    every call.
    """
    url = workspace.rest_endpoint
    transport = Transport(session, url, key.reveal, proxies=proxies(url), monotonic=monotonic, timeouts=timeouts)
    return Client(
        transport, workspace=workspace.name, redact=key.redact, wall=wall, monotonic=monotonic, on_call=on_call
    )
