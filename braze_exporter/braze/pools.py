"""What Braze limits: calls by the pool, and what it is asked at."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Pool:
    """Calls that share one of Braze's rate limits: at most `limit` calls in each window of `window_seconds` seconds."""

    name: str
    limit: int
    window_seconds: int

    @property
    def per_hour(self) -> float:
        """The limit as calls per hour."""
        return self.limit * 3_600 / self.window_seconds


# Braze's rate-limits page: 250,000 an hour, shared by nearly every endpoint of a workspace, its own sends included.
DEFAULT_POOL = Pool("default", limit=250_000, window_seconds=3_600)
# The same page: shared by the lists of events and of products, and by the series of purchases, as their pages say.
LISTS_POOL = Pool("lists", limit=1_000, window_seconds=3_600)
# The page on campaign analytics: a limit of its own.
CAMPAIGNS_POOL = Pool("campaigns", limit=50_000, window_seconds=60)


class Endpoint(Protocol):
    """What Braze is asked at: its path, the permission that the key needs for it, and the pool of its calls."""

    @property
    def path(self) -> str:
        """The path, with its slash."""

    @property
    def permission(self) -> str:
        """The permission, in Braze's words."""

    @property
    def pool(self) -> Pool:
        """The pool."""
