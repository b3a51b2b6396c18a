"""Opens the client of a configured workspace, and the admissions of a command."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import requests

from braze_exporter.braze.calls import CallEvent
from braze_exporter.braze.client import Client
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.transport import DEFAULT_TIMEOUTS, Timeouts, Transport
from braze_exporter.config.loading import Config
from braze_exporter.config.schema import Workspace
from braze_exporter.config.secrets import ApiKey, Secret
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.budgets import Budgets, Demand, WorkspaceKey
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.pool_budgets import command_budgets


def open_client(
    workspace: Workspace,
    key: Secret | ApiKey,
    session: requests.Session,
    *,
    clock: Clock,
    on_call: Callable[[CallEvent], None] = lambda _call: None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> Client:
    """Return the API client of a workspace.

    The client sends requests with `key` over `session`. `on_call` is called after every call.
    """
    url = workspace.rest_endpoint
    transport = Transport(session, url, key.reveal, monotonic=clock.monotonic, timeouts=timeouts)
    return Client(transport, workspace=workspace.name, redact=key.redact, clock=clock, on_call=on_call)


@dataclass(frozen=True, slots=True)
class WorkspaceClient:
    """The API client of a workspace, and the `Admission` of its calls."""

    client: Client
    admission: Admission


class CommandBudgets:
    """The budgets of a command, which may run beside an exporter with the same config.

    `admissions` has the `Admission` of each workspace by its name.
    """

    def __init__(self, config: Config, *, clock: Clock, is_reached: bool = False) -> None:
        """Start without budgets; `set_plan` must be called before the first call.

        If `is_reached` is false, calls are made one at a time until Braze has responded.
        """
        self._settings = config.settings
        self._keys = {
            WorkspaceKey(workspace.spec.name, workspace.spec.rest_endpoint): config.keys[workspace.spec.name].reveal()
            for workspace in config.workspaces
        }
        self.budgets = Budgets(clock=clock, is_reached=is_reached)
        opened = self.budgets.open_admissions(self._keys)
        self.admissions: Mapping[str, Admission] = {key.workspace: admission for key, admission in opened.items()}

    def set_plan(
        self,
        plan: Plan,
        *,
        max_burst: float = math.inf,
        endpoints: Callable[[str], Collection[Endpoint]] = lambda _workspace: (),
    ) -> None:
        """Set the budgets to half of what `plan` leaves, with at most `max_burst` calls in a burst.

        `endpoints` returns the endpoints in use of a workspace.
        """
        demands = {}
        for key in self._keys:
            usages = [usage for usage in plan.pool_usage if usage.workspace == key.workspace]
            demands[key] = Demand(command_budgets(usages, self._settings, max_burst), endpoints(key.workspace))
        self.budgets.set_demands(demands)
