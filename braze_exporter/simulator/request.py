"""A request to the simulated Braze."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl
from wsgiref.types import WSGIEnvironment


@dataclass(frozen=True, slots=True)
class Request:
    """A request with decoded parameters and lower-case header names. `time` is by the clock of the simulator."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    time: float

    @classmethod
    def read(cls, environ: WSGIEnvironment, now: float) -> "Request":
        """Return the request in a WSGI environment. If a parameter occurs twice, the last one counts, as in Rails."""
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="surrogateescape")
        headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"}
        return cls(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), dict(query), headers, now)

    @property
    def event(self) -> str | None:
        """The event parameter, or None if it is absent."""
        return self.params.get("event")

    @property
    def key(self) -> str:
        """The API key as sent, including any quotes, or an empty string if it is absent."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")
