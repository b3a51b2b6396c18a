"""The rate limits of Braze by pool, and the interface of an endpoint."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pool:
    """Calls that share one of Braze's rate limits: at most `limit` calls per window of `window_seconds` seconds."""

    name: str
    limit: int
    window_seconds: int

    @property
    def per_hour(self) -> float:
        """The limit in calls per hour."""
        return self.limit * 3_600 / self.window_seconds


# Source: Braze's page on rate limits. Nearly all endpoints of a workspace share this limit with the company's sends.
DEFAULT_POOL = Pool("default", limit=250_000, window_seconds=3_600)
# Source: the same page and those of the endpoints. The event list, the product list and the purchase series share it.
LISTS_POOL = Pool("lists", limit=1_000, window_seconds=3_600)
# Source: Braze's page on campaign analytics, which has its own limit.
CAMPAIGNS_POOL = Pool("campaigns", limit=50_000, window_seconds=60)


class Endpoint(Protocol):
    """An endpoint of Braze's REST API: its path, the permission that the API key needs, and the pool of its calls."""

    @property
    def path(self) -> str:
        """The path, with a leading slash."""

    @property
    def permission(self) -> str:
        """The permission, as Braze names it."""

    @property
    def pool(self) -> Pool:
        """The pool whose rate limit applies."""
