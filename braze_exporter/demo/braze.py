"""A simulated Braze: a WSGI application that answers as Braze's REST API is documented and was recorded to answer.

What is not known of Braze is a switch, so that its readers can be tried with every variant.
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

from braze_exporter.catalog import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL, Unit
from braze_exporter.demo import params
from braze_exporter.demo.endpoint import Endpoint
from braze_exporter.demo.faults.troubles import Aim, Fault, Troubles
from braze_exporter.demo.lists import Lists
from braze_exporter.demo.logbook import Body, Logbook, Request
from braze_exporter.demo.quota import NO_QUOTA, Allowance
from braze_exporter.demo.reply import Reply, encode, phrase
from braze_exporter.demo.series import Series
from braze_exporter.demo.times import DayFormat, HourFormat, days_until, hours_of, hours_until
from braze_exporter.demo.traffic import Counts, Recorded
from braze_exporter.demo.world import NOTHING, World


class UnknownEvent(Enum):
    """How an event that does not exist is answered. Not documented."""

    ZEROS = auto()
    """200 with a full series of zeros."""
    EMPTY = auto()
    """200 with an empty list, as seen for KPIs of a workspace without apps."""
    NO_DATA = auto()
    """200 without the key `data`, as list endpoints are said to answer."""
    REFUSED = auto()
    """400 with a message, as for an unknown Canvas."""


class SimulatedBraze:
    """One workspace of Braze.

    Times are those of `clock` (seconds since the epoch), days those of `zone`. The switches and `clock` are plain
    attributes and may be changed between requests. Safe to be called by many threads.
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
        world: World = NOTHING,
        figures: Counts | None = None,
        permissions: Collection[str] | None = None,
        limit: int = DEFAULT_POOL.limit,
        hour_format: HourFormat = HourFormat.OFFSET,
        day_format: DayFormat = DayFormat.DATE,
        unknown_event: UnknownEvent = UnknownEvent.ZEROS,
        newest_first: bool = False,
    ) -> None:
        """Answer those who hold the `key` from `traffic`; `apps` and `segments` are the ids that may be filtered by.

        `world` is what the lists have, and `figures` are what the series beside events tell (see `demo.series`).
        `permissions` are those of the key, by default all.
        """
        self.key = key
        self.traffic = traffic
        self.clock = clock
        self.zone = zone
        self.apps = apps
        self.segments = segments
        self.world = world
        self.figures: Counts = figures if figures is not None else Recorded()
        self.permissions = permissions
        self.hour_format = hour_format
        self.day_format = day_format
        self.unknown_event = unknown_event
        self.newest_first = newest_first
        self.pools = {
            pool.name: Allowance(pool.limit, pool.window) for pool in (DEFAULT_POOL, LISTS_POOL, CAMPAIGNS_POOL)
        }
        self.limit = limit
        self.lists = Lists(lambda: self.traffic.events, lambda: self.world)
        self._endpoints: dict[str, Endpoint] = {
            "/events/data_series": Endpoint(DEFAULT_POOL, "events.data_series", self._event_series),
            **Series(self).endpoints(),
            **self.lists.endpoints(),
        }
        self._logbook = Logbook()
        self._troubles = Troubles()
        self._ids = itertools.count(1)

    @property
    def limit(self) -> int:
        """How many calls of the default pool Braze allows in an hour; `pools` has them all."""
        return self.pools[DEFAULT_POOL.name].limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self.pools[DEFAULT_POOL.name].limit = limit

    def spend(self, calls: int, pool: str = DEFAULT_POOL.name) -> None:
        """Take calls out of this hour's limit, as the company's own sends do."""
        self.pools[pool].take(self.clock(), calls)

    def fail(
        self, fault: Fault, *, event: str | None = None, path: str | None = None, times: int | None = None
    ) -> None:
        """Let a fault strike the requests for `event` or at `path` (default: all), so many `times` (until `heal`).

        An event's own faults come before those of its path, and these before those of all requests. Of each, those for
        a number of times come first, in the order given; then the lasting one, which a newer lasting one replaces.
        """
        self._troubles.fail(fault, Aim(event, path), times)

    def heal(self, event: str | None = None, path: str | None = None) -> None:
        """Take back the faults of an event or a path, or all; what `faults.hold` holds for them is answered now."""
        self._troubles.heal(Aim(event, path))

    def close(self) -> None:
        """Break off the answers that are waiting; later requests are answered as ever."""
        self._troubles.close()

    @property
    def requests(self) -> list[Request]:
        """The requests so far, of all statuses, oldest first (the last 50,000)."""
        return self._logbook.requests

    @property
    def concurrency_peak(self) -> int:
        """The most requests that were being answered at once."""
        return self._logbook.peak

    def reset(self) -> None:
        """Forget the requests so far and their concurrency. Faults and the rate limit stay as they are."""
        self._logbook.reset()

    def wait_for(self, count: int, timeout: float = 5.0) -> None:
        """Return as soon as there are `count` requests since the last reset; TimeoutError after `timeout` seconds."""
        self._logbook.wait_for(count, timeout)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333); `Disconnect` where the connection is to be broken."""
        request = Request.read(environ, self.clock())
        self._logbook.enter(request)
        try:
            reply = self._troubles.strike(request, lambda: self._answer(request))
            headers = dict(reply.headers)
            if isinstance(reply.body, bytes) and reply.status != HTTPStatus.NO_CONTENT:
                headers.setdefault("Content-Length", str(len(reply.body)))
            start_response(f"{reply.status} {phrase(reply.status)}", list(headers.items()))
        except BaseException:
            self._logbook.leave()
            raise
        if isinstance(reply.body, bytes):
            # Left before it is sent: who has read this answer and asks anew must not be counted twice.
            self._logbook.leave()
            return [reply.body]
        return Body(reply.body, self._logbook)

    def _answer(self, request: Request) -> Reply:
        """Answer truly. The names of the headers are those of recorded answers."""
        began = time.perf_counter()
        code, document, quota = self._outcome(request)
        body = encode(document)
        headers = {
            "Content-Type": "application/json",
            "Date": formatdate(request.time, usegmt=True),
            "Cache-Control": "max-age=0, private, must-revalidate",
            "ETag": f'W/"{blake2b(body, digest_size=16).hexdigest()}"',
            "X-Request-Id": str(UUID(int=next(self._ids))),
            "X-Runtime": f"{time.perf_counter() - began:.6f}",
        }
        return Reply(code, {**headers, **quota}, body)

    def _outcome(self, request: Request) -> tuple[HTTPStatus, object, Mapping[str, str]]:
        """Return the status, the document and the rate-limit headers."""
        # A wrong path is told even to those without a key, who have no quota.
        if request.method != "GET" or request.path not in self._endpoints:
            return HTTPStatus.NOT_FOUND, {"message": "Invalid URL"}, {}
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return HTTPStatus.UNAUTHORIZED, {"message": f"Invalid API key: {request.key}"}, NO_QUOTA
        endpoint = self._endpoints[request.path]
        granted, quota = self.pools[endpoint.pool.name].take(request.time)
        if not granted:
            return HTTPStatus.TOO_MANY_REQUESTS, {"message": "Rate limit exceeded"}, quota
        if self.permissions is not None and endpoint.permission not in self.permissions:
            return HTTPStatus.FORBIDDEN, {"message": "Access Denied"}, quota  # the status is documented, the words not
        try:
            return HTTPStatus.OK, endpoint.answer(request), quota
        except params.BadRequestError as refusal:
            return HTTPStatus.BAD_REQUEST, {"message": str(refusal)}, quota

    def _event_series(self, request: Request) -> object:
        """Answer GET /events/data_series: occurrences of one event by hour or by day."""
        event, unit, length = params.name(request, "event"), params.unit(request), params.length(request)
        end = params.ending_at(request, self.zone)
        app = params.identifier(request, "app_id", self.apps)
        segment = params.identifier(request, "segment_id", self.segments)
        known = event in self.traffic.events
        if not known and self.unknown_event is UnknownEvent.REFUSED:
            params.refuse("event must be a string of the custom event name")
        if not known and self.unknown_event is UnknownEvent.NO_DATA:
            return {"message": "success"}
        if not known and self.unknown_event is UnknownEvent.EMPTY:
            return {"message": "success", "data": []}

        def total(hours: Iterable[int]) -> int:
            begun = (hour for hour in hours if hour <= request.time)
            return sum(self.traffic.count(event, hour, request.time, app, segment) for hour in begun) if known else 0

        rows = [{"time": label, "count": total(hours)} for label, hours in self._buckets(unit, length, end)]
        return {"message": "success", "data": rows[::-1] if self.newest_first else rows}

    def _buckets(self, unit: Unit, length: int, end: float) -> Iterable[tuple[str, Iterable[int]]]:
        """Return the time and the hours of each bucket, oldest first, as recorded of campaigns and segments.

        The last one is in progress at `end`: that is why a date alone gives its own day, and now the current bucket.
        """
        if unit is Unit.HOUR:
            return [(self.hour_format.write(hour, self.zone), [hour]) for hour in hours_until(end, length)]
        days = days_until(end, length, self.zone)
        return [(self.day_format.write(day, self.zone), hours_of(day, self.zone)) for day in days]
