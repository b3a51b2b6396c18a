"""An endpoint of the simulated Braze."""

from collections.abc import Callable
from dataclasses import dataclass

from braze_exporter.braze.pools import Pool
from braze_exporter.simulator.request import Request


@dataclass(frozen=True, slots=True)
class SimulatedEndpoint:
    """The pool of an endpoint, the permission that it needs, and the function that returns its JSON document."""

    pool: Pool
    permission: str
    respond: Callable[[Request], object]
