"""What the simulated Braze knows of a path."""

from collections.abc import Callable
from dataclasses import dataclass

from braze_exporter.braze.pools import Pool
from braze_exporter.simulator.request import Request


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which limit a call takes from, which permission of the key it needs, and the document that answers it."""

    pool: Pool
    permission: str
    respond: Callable[[Request], object]
