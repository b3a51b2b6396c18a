"""A request to the simulated Braze."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl


@dataclass(frozen=True, slots=True)
class Request:
    """A request with decoded parameters and lower-case header names. `time` is by the clock of the simulator."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    time: float

    @classmethod
    def parse(cls, method: str, path: str, query: str, headers: Iterable[tuple[str, str]], now: float) -> "Request":
        """Return the request with the query string `query`.

        If a parameter occurs twice, the last one counts, as in Rails.
        """
        params = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
        return cls(method, path, dict(params), {name.lower(): value for name, value in headers}, now)

    @property
    def event(self) -> str | None:
        """The event parameter, or None if it is absent."""
        return self.params.get("event")

    @property
    def key(self) -> str:
        """The API key as sent, including any quotes, or an empty string if it is absent."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")
