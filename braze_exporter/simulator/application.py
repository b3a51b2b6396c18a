"""The simulated Braze: a WSGI application that follows the documentation and recorded responses of Braze's REST API.

Where behavior is not documented, the variant can be selected, so that clients can be tested with each.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from email.utils import formatdate
from enum import Enum, auto
from hashlib import blake2b
from http import HTTPStatus
from uuid import UUID
from wsgiref.types import StartResponse, WSGIEnvironment
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.pools import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL
from braze_exporter.simulator import parameters
from braze_exporter.simulator.endpoint import SimulatedEndpoint
from braze_exporter.simulator.inventory import EMPTY_INVENTORY, Inventory
from braze_exporter.simulator.lists import ListResponder
from braze_exporter.simulator.rate_limit import EMPTY_HEADERS, RateLimitCounter
from braze_exporter.simulator.reply import Reply, encode_json, status_phrase
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.series import SeriesResponder
from braze_exporter.simulator.times import DayFormat, HourFormat, days_until, hours_of, hours_until
from braze_exporter.simulator.traffic import Counts, Traffic


class UnknownEvent(Enum):
    """The response to a query for an event that does not exist, which Braze does not document."""

    ZEROS = auto()
    """200 with a full series of zeros."""
    EMPTY = auto()
    """200 with an empty list, as recorded for KPIs of a workspace without apps."""
    NO_DATA = auto()
    """200 without the key `data`, as reported for list endpoints."""
    REJECTED = auto()
    """400 with a message, as for an unknown Canvas."""


class SimulatedBraze:
    """A simulated workspace of Braze, as a WSGI application.

    `clock` returns the time in seconds since the epoch; days are those of `zone`. `clock` and the switches are plain
    attributes that may be changed between requests. Thread-safe.
    """

    def __init__(
        self,
        *,
        key: str,
        traffic: Counts,
        clock: Callable[[], float],
        zone: ZoneInfo,
        apps: Collection[str] = (),
        segments: Collection[str] = (),
        inventory: Inventory = EMPTY_INVENTORY,
        series_counts: Counts | None = None,
        permissions: Collection[str] | None = None,
        limit: int = DEFAULT_POOL.limit,
        hour_format: HourFormat = HourFormat.OFFSET,
        day_format: DayFormat = DayFormat.DATE,
        unknown_event: UnknownEvent = UnknownEvent.ZEROS,
        newest_first: bool = False,
    ) -> None:
        """Create a workspace whose API key is `key`.

        `traffic` has the counts of custom events and `series_counts` those of the other series (see
        `simulator.series`). `apps` and `segments` are the ids that queries may filter by. `inventory` has the items of
        the lists. `permissions` are those of the key, by default all. `limit` is the limit of the default pool.
        """
        self.key = key
        self.traffic = traffic
        self.clock = clock
        self.zone = zone
        self.apps = apps
        self.segments = segments
        self.inventory = inventory
        self.series_counts: Counts = (
            series_counts if series_counts is not None else Traffic(seed=0, zone=zone, events={})
        )
        self.permissions = permissions
        self.hour_format = hour_format
        self.day_format = day_format
        self.unknown_event = unknown_event
        self.newest_first = newest_first
        self.pools = {
            pool.name: RateLimitCounter(pool.limit, pool.window_seconds)
            for pool in (DEFAULT_POOL, LISTS_POOL, CAMPAIGNS_POOL)
        }
        self.limit = limit
        self.lists = ListResponder(lambda: self.traffic.events, lambda: self.inventory)
        self._endpoints: dict[str, SimulatedEndpoint] = {
            "/events/data_series": SimulatedEndpoint(DEFAULT_POOL, "events.data_series", self._event_series),
            **SeriesResponder(self).endpoints(),
            **self.lists.endpoints(),
        }
        self._ids = itertools.count(1)

    @property
    def limit(self) -> int:
        """The number of calls per hour that the default pool allows. `pools` has all pools."""
        return self.pools[DEFAULT_POOL.name].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self.pools[DEFAULT_POOL.name].limit = limit

    def spend_calls(self, calls: int, pool: str = DEFAULT_POOL.name) -> None:
        """Count `calls` in the current window of a pool, as for the company's own sends."""
        self.pools[pool].count_calls(self.clock(), calls)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to one request (PEP 3333)."""
        reply = self._respond(Request.read(environ, self.clock()))
        body = reply.read()
        headers = {**reply.headers, "Content-Length": str(len(body))}
        start_response(f"{reply.status} {status_phrase(reply.status)}", list(headers.items()))
        return [body]

    def _respond(self, request: Request) -> Reply:
        """Return the response to a request. Its header names are those of recorded responses."""
        started_at = time.perf_counter()
        code, document, limit_headers = self._build_response(request)
        body = encode_json(document)
        headers = {
            "Content-Type": "application/json",
            "Date": formatdate(request.time, usegmt=True),
            "Cache-Control": "max-age=0, private, must-revalidate",
            "ETag": f'W/"{blake2b(body, digest_size=16).hexdigest()}"',
            "X-Request-Id": str(UUID(int=next(self._ids))),
            "X-Runtime": f"{time.perf_counter() - started_at:.6f}",
        }
        return Reply(code, {**headers, **limit_headers}, body)

    def _build_response(self, request: Request) -> tuple[HTTPStatus, object, Mapping[str, str]]:
        """Return the status, the JSON document and the rate-limit headers."""
        # Braze rejects an invalid path even without a valid key, and then sends no rate-limit headers.
        if request.method != "GET" or request.path not in self._endpoints:
            return HTTPStatus.NOT_FOUND, {"message": "Invalid URL"}, {}
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return HTTPStatus.UNAUTHORIZED, {"message": f"Invalid API key: {request.key}"}, EMPTY_HEADERS
        endpoint = self._endpoints[request.path]
        is_allowed, limit_headers = self.pools[endpoint.pool.name].count_calls(request.time)
        if not is_allowed:
            return HTTPStatus.TOO_MANY_REQUESTS, {"message": "Rate limit exceeded"}, limit_headers
        if self.permissions is not None and endpoint.permission not in self.permissions:
            return HTTPStatus.FORBIDDEN, {"message": "Access Denied"}, limit_headers  # the message is not documented
        try:
            return HTTPStatus.OK, endpoint.respond(request), limit_headers
        except parameters.BadRequestError as failure:
            return HTTPStatus.BAD_REQUEST, {"message": str(failure)}, limit_headers

    def _event_series(self, request: Request) -> object:
        """Respond to GET /events/data_series with the occurrences of one event by hour or day."""
        event, unit, length = (
            parameters.required_text(request, "event"),
            parameters.parse_unit(request),
            parameters.parse_length(request),
        )
        end = parameters.parse_ending_at(request, self.zone)
        app = parameters.parse_identifier(request, "app_id", self.apps)
        segment = parameters.parse_identifier(request, "segment_id", self.segments)
        is_known = event in self.traffic.events
        if not is_known and self.unknown_event is UnknownEvent.REJECTED:
            parameters.reject("event must be a string of the custom event name")
        if not is_known and self.unknown_event is UnknownEvent.NO_DATA:
            return {"message": "success"}
        if not is_known and self.unknown_event is UnknownEvent.EMPTY:
            return {"message": "success", "data": []}

        def total(hours: Iterable[int]) -> int:
            started = (hour for hour in hours if hour <= request.time)
            return (
                sum(self.traffic.count(event, hour, request.time, app, segment) for hour in started) if is_known else 0
            )

        rows = [{"time": label, "count": total(hours)} for label, hours in self._buckets(unit, length, end)]
        return {"message": "success", "data": rows[::-1] if self.newest_first else rows}

    def _buckets(self, unit: Unit, length: int, end: float) -> Iterable[tuple[str, Iterable[int]]]:
        """Return the time and the hours of each bucket, oldest first, as recorded for campaigns and segments.

        The last bucket is the one in progress at `end`. For an `ending_at` without a time, that is the day itself.
        """
        if unit is Unit.HOUR:
            return [(self.hour_format.write(hour, self.zone), [hour]) for hour in hours_until(end, length)]
        days = days_until(end, length, self.zone)
        return [(self.day_format.write(day, self.zone), hours_of(day, self.zone)) for day in days]
