"""Reference model of the accuracy tests: late and revised event counts, and a connection without sockets.

This module does not use the exporter's calculations. It computes buckets itself, and takes Braze's responses from the
simulated connection.
"""

import gzip
import io
import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from wsgiref.types import WSGIApplication

import requests
import urllib3
from requests.adapters import HTTPAdapter
from support import HOUR, IOS, NEW_YORK, Clock
from wsgi_server import Disconnect

from braze_exporter.braze.kinds import Unit

EVENTS = ("purchase", "signup")
# Each occurrence has one of these sources. The count without an app is the sum of both.
SERVER_SOURCE = "a server, without an app"
SOURCES = (IOS, SERVER_SOURCE)
# Generated histories contain no change later than this after the end of its hour, in seconds.
LATEST_CHANGE_SECONDS = 21 * HOUR

# The time at which a change reaches Braze, and the change of the count of the hour.
Change = tuple[float, int]
HistoryGenerator = Callable[[str, int, str], Iterable[Change]]


def bucket_at(unit: Unit, moment: float) -> int:
    """Return the number of the bucket that contains `moment`; consecutive buckets have consecutive numbers."""
    return int(moment // HOUR) if unit is Unit.HOUR else datetime.fromtimestamp(moment, NEW_YORK).toordinal()


@lru_cache(maxsize=4_096)
def start_of(unit: Unit, bucket: int) -> int:
    """Return the start of a bucket as Unix time, which is also the end of the bucket before it."""
    if unit is Unit.HOUR:
        return bucket * HOUR
    return int(datetime.combine(date.fromordinal(bucket), time(), NEW_YORK).timestamp())


@dataclass(frozen=True)
class ExpectedQuery:
    """The model of a query: what it requests, when its buckets settle, and whether a counter is computed from it."""

    event: str
    unit: Unit
    app_id: str = ""
    settle: float = HOUR
    max_age: float = HOUR
    has_counter: bool = True

    @property
    def usual_length(self) -> int:
        """The minimum number of buckets that each usual fetch requests."""
        return 24 if self.unit is Unit.HOUR else 14

    def newest(self, moment: float) -> int:
        """Return the bucket that contains `moment`."""
        return bucket_at(self.unit, moment)

    def start(self, bucket: int) -> int:
        """Return the start of a bucket as Unix time."""
        return start_of(self.unit, bucket)

    def hours(self, bucket: int) -> range:
        """Return the starts of the hours in a bucket."""
        return range(start_of(self.unit, bucket), start_of(self.unit, bucket + 1), HOUR)


class EventModel:
    """All changes to Braze's counts and their times, and so the correct value of any bucket at any time."""

    def __init__(self, generate: HistoryGenerator = lambda _event, _hour, _source: ()) -> None:
        """Start with the history from `generate`, which is called for each hour when that hour is first read."""
        self.events: Collection[str] = EVENTS
        self._generate = generate
        self._changes: dict[tuple[str, int, str], list[Change]] = {}
        self._sums: dict[tuple[str, int, str], tuple[list[float], list[int]]] = {}

    def add_occurrences(self, event: str, hour: int, when: float, change: int, source: str) -> None:
        """Change Braze's count of the hour that starts at `hour` by `change`, at the time `when`."""
        self.changes(event, hour, source).append((when, change))
        self._sums.pop((event, hour, source), None)
        self._sums.pop((event, hour, ""), None)

    def changes(self, event: str, hour: int, app_id: str = "") -> list[Change]:
        """Return the changes to the count of an hour, for one source or, without `app_id`, for all."""
        if not app_id:
            return [change for source in SOURCES for change in self.changes(event, hour, source)]
        key = (event, hour, app_id)
        if key not in self._changes:
            self._changes[key] = list(self._generate(event, hour, app_id))
        return self._changes[key]

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return how many occurrences in an hour Braze has counted by `now`."""
        assert not segment_id
        key = (event, hour_start, app_id)
        if key not in self._sums:
            times, sums = [-math.inf], [0]
            for when, change in sorted(self.changes(*key)):
                times.append(when)
                sums.append(sums[-1] + change)
            self._sums[key] = times, sums
        times, sums = self._sums[key]
        return sums[-1] if now >= times[-1] else sums[bisect_right(times, now) - 1]

    def value(self, query: ExpectedQuery, bucket: int, now: float) -> int:
        """Return Braze's value of a bucket at `now`."""
        return sum(self.count(query.event, hour, now, query.app_id) for hour in query.hours(bucket))

    def occurrences(self, query: ExpectedQuery, after: float, until: float) -> int:
        """Return how many occurrences reached Braze after `after` and up to `until`, in any bucket."""
        first, last = query.newest(after - 2 * LATEST_CHANGE_SECONDS), query.newest(until)
        return sum(
            change
            for bucket in range(first, last + 1)
            for hour in query.hours(bucket)
            for when, change in self.changes(query.event, hour, query.app_id)
            if after < when <= until
        )

    def reported(self, query: ExpectedQuery, times: Sequence[float], oldest: int, *, length: int) -> int:
        """Return the expected counter after correct responses at `times`, each with the newest `length` buckets.

        For each bucket from `oldest` on, this is the highest value that Braze reported minus the value in the first
        response. Only the first response after each change is evaluated.
        """
        total = 0
        for bucket in range(oldest, query.newest(times[-1]) + 1):
            first = highest = self.value(query, bucket, times[0])
            for hour in query.hours(bucket):
                for when, _ in self.changes(query.event, hour, query.app_id):
                    at = bisect_left(times, when)
                    if at < len(times) and bucket > query.newest(times[at]) - length:
                        highest = max(highest, self.value(query, bucket, times[at]))
            total += highest - first
        return total


def make_history_generator(seed: int, *, revisions: bool) -> HistoryGenerator:
    """Return a generator of histories with silent hours and days, late arrivals and, if `revisions`, revisions.

    Late arrivals come up to `LATEST_CHANGE_SECONDS` after the end of the hour. A revision removes a part of an hour's
    count. Often a part of that, or more, is added again later.
    """

    def generate(event: str, hour: int, source: str) -> Iterable[Change]:
        draw = Random(f"{seed} {event} {hour} {source}")  # noqa: S311 - does not need to be secure
        local = datetime.fromtimestamp(hour, NEW_YORK)
        silent_day = Random(f"{seed} {event} {local.date()}").random() < 0.05  # noqa: S311
        if silent_day or draw.random() < (0.5 if 3 <= local.hour < 6 else 0.05):
            return
        end, busy = hour + HOUR, 5 + round(20 * (1 + math.cos((local.hour - 20) * math.tau / 24)))
        counts = [draw.randint(1, busy) for _ in range(4)]
        for count in counts:
            yield hour + draw.uniform(0, HOUR), count
        if draw.random() < 0.5:
            yield end + draw.uniform(0, 3 * HOUR), draw.randint(1, 6)
        if draw.random() < 0.15:
            yield end + draw.uniform(3 * HOUR, LATEST_CHANGE_SECONDS), draw.randint(1, 30)
        if revisions and draw.random() < 0.15:
            removed_at, removed = end + draw.uniform(0, 0.5 * LATEST_CHANGE_SECONDS), draw.randint(1, sum(counts))
            yield removed_at, -removed
            if draw.random() < 0.7:
                yield removed_at + draw.uniform(0.2 * HOUR, 0.4 * LATEST_CHANGE_SECONDS), draw.randint(1, removed + 5)

    return generate


@dataclass(frozen=True)
class RecordedExchange:
    """One call as seen on the connection, with the times of the request and of the response.

    `requested_at` is when the request left, `responded_at` when Braze responded, and `received_at` when the response
    arrived. `counts` are the values of a successful response, oldest first, or None. `is_key_accepted` is whether the
    response shows that Braze accepted the key. `is_malformed` is set for a 200 that cannot be parsed.
    `is_transient_failure` is set if Braze or the connection failed. `is_short` is set if the request was for the newest
    buckets only.
    """

    event: str
    unit: Unit
    app_id: str
    length: int
    requested_at: float
    responded_at: float
    received_at: float
    status: int | None
    counts: tuple[int, ...] | None
    is_key_accepted: bool
    is_malformed: bool
    is_transient_failure: bool
    is_short: bool = False


class SimulatedConnection(HTTPAdapter):
    """Passes the requests of a session directly to a WSGI application: no sockets, and latency only in virtual time."""

    def __init__(self, app: WSGIApplication, clock: Clock, on_exchange: Callable[[RecordedExchange], None]) -> None:
        super().__init__(max_retries=0)
        self.latency = 0.0
        self._app: Callable[..., Iterable[bytes]] = app
        self._clock = clock
        self._on_exchange = on_exchange

    def send(  # noqa: PLR0917 - the signature is that of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: object = None,
        verify: object = True,  # noqa: FBT002
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the application's response to one request, and report the exchange."""
        del stream, timeout, verify, cert, proxies
        assert request.url is not None
        url = urlsplit(request.url)
        requested_at = self._clock.now
        self._clock.advance(self.latency / 2)
        responded_at = self._clock.now
        sent: tuple[int, Mapping[str, str], bytes] | None
        try:
            sent = self._call_app(url.path, url.query, request.headers)
        except Disconnect:
            sent = None
        self._clock.advance(self.latency / 2)
        parameters = dict(parse_qsl(url.query))
        self._on_exchange(
            RecordedExchange(
                event=parameters["event"],
                unit=Unit(parameters["unit"]),
                app_id=parameters.get("app_id", ""),
                length=int(parameters["length"]),
                requested_at=requested_at,
                responded_at=responded_at,
                received_at=self._clock.now,
                status=sent[0] if sent is not None else None,
                counts=_counts(*sent) if sent is not None else None,
                is_key_accepted=sent is not None and sent[0] in (200, 400, 429),
                is_malformed=sent is not None and _is_malformed(*sent),
                is_transient_failure=sent is None or _is_transient_failure(*sent),
            )
        )
        if sent is None:
            raise requests.exceptions.ConnectionError("connection broken", request=request)
        status, headers, body = sent
        raw = urllib3.HTTPResponse(
            io.BytesIO(body),
            urllib3.HTTPHeaderDict(headers),
            status,
            preload_content=False,
            decode_content=False,
            request_method=request.method,
        )
        return self.build_response(request, raw)

    def _call_app(self, path: str, query: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        started: list[tuple[int, Mapping[str, str]]] = []

        def start_response(status: str, headers: list[tuple[str, str]]) -> None:
            started.append((int(status.split(maxsplit=1)[0]), dict(headers)))

        fields = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        environ = fields | {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}
        body = b"".join(self._app(environ, start_response))
        return (*started[-1], body)


def _is_malformed(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    return status == 200 and not _is_truncated(headers, body) and _counts(status, headers, body) is None


def _is_transient_failure(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    return status >= 500 or status == 202 or (status == 200 and _is_truncated(headers, body))


def _is_truncated(headers: Mapping[str, str], body: bytes) -> bool:
    return int(headers.get("Content-Length", len(body))) != len(body)


def _document(headers: Mapping[str, str], body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    if _is_truncated(headers, body):
        return None
    try:
        return json.loads(gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body)
    except ValueError:
        return None


def _counts(status: int, headers: Mapping[str, str], body: bytes) -> tuple[int, ...] | None:
    """Return the values of a successful response, or None for any other. The order of the rows is not checked."""
    if status != 200:
        return None
    content = _document(headers, body)
    if (
        not isinstance(content, dict)
        or content.get("message") != "success"
        or not isinstance(content.get("data"), list)
    ):
        return None
    return tuple(row["count"] for row in content["data"])
