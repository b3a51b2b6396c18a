"""The simulated Braze, which follows the documentation and recorded responses of Braze's REST API.

Where behavior is not documented, it responds in one of the likely ways.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from braze_exporter.simulator import parameters
from braze_exporter.simulator.lists import ListEndpoints
from braze_exporter.simulator.rate_limit import EMPTY_HEADERS, RateLimitCounter
from braze_exporter.simulator.reply import Reply, encode_json
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.series import SeriesEndpoints


@dataclass(eq=False)
class SimulatedBraze(SeriesEndpoints, ListEndpoints):
    """A simulated Braze with one workspace. Thread-safe."""

    def __post_init__(self) -> None:
        """Start with unused rate limits."""
        self._endpoints = {**self.series_endpoints(), **self.list_endpoints()}
        pools = {pool for pool, _ in self._endpoints.values()}
        self.pools = {pool.name: RateLimitCounter(pool.limit, pool.window_seconds) for pool in pools}

    def respond(self, request: Request) -> Reply:
        """Return the response to a request. Its header names are those of recorded responses."""
        code, document, limit_headers = self._build_response(request)
        headers = {"Content-Type": "application/json", "Date": formatdate(request.time, usegmt=True)}
        return Reply(code, {**headers, **limit_headers}, encode_json(document))

    def _build_response(self, request: Request) -> tuple[HTTPStatus, object, Mapping[str, str]]:
        """Return the status, the JSON document and the rate-limit headers."""
        # Braze rejects an invalid path even without a valid key, and then sends no rate-limit headers.
        if request.method != "GET" or request.path not in self._endpoints:
            return HTTPStatus.NOT_FOUND, {"message": "Invalid URL"}, {}
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return HTTPStatus.UNAUTHORIZED, {"message": f"Invalid API key: {request.key}"}, EMPTY_HEADERS
        pool, respond = self._endpoints[request.path]
        is_allowed, limit_headers = self.pools[pool.name].count_calls(request.time)
        if not is_allowed:
            return HTTPStatus.TOO_MANY_REQUESTS, {"message": "Rate limit exceeded"}, limit_headers
        try:
            return HTTPStatus.OK, respond(request), limit_headers
        except parameters.BadRequestError as failure:
            return HTTPStatus.BAD_REQUEST, {"message": str(failure)}, limit_headers
