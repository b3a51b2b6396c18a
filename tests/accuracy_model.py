"""What the proof sets the exporter against: counts that Braze learns late and takes back, and a wire without sockets.

Nothing here is shared with the exporter: buckets are counted anew, and what Braze said is taken from the wire.
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

from braze_exporter.braze.kinds import Unit
from braze_exporter.simulator.reply import Disconnect

EVENTS = ("purchase", "signup")
# Every occurrence comes from one of these; the count without an app is the sum of both.
ELSEWHERE = "a server, without an app"
SOURCES = (IOS, ELSEWHERE)
# Nothing changes later than this after the end of its hour, in the invented histories.
LATEST_CHANGE = 21 * HOUR

# When Braze learns of something, and by how much that changes the count of an hour.
Change = tuple[float, int]
Inventor = Callable[[str, int, str], Iterable[Change]]


def bucket_at(unit: Unit, moment: float) -> int:
    """Return a number for the bucket that runs at `moment`: the next bucket has the next number."""
    return int(moment // HOUR) if unit is Unit.HOUR else datetime.fromtimestamp(moment, NEW_YORK).toordinal()


@lru_cache(maxsize=4_096)
def start_of(unit: Unit, bucket: int) -> int:
    """Return when a bucket begins, which is when the one before it ends."""
    if unit is Unit.HOUR:
        return bucket * HOUR
    return int(datetime.combine(date.fromordinal(bucket), time(), NEW_YORK).timestamp())


@dataclass(frozen=True)
class ExpectedQuery:
    """A query as the proof knows it: what it asks for, when it is trusted, and whether it feeds a counter."""

    event: str
    unit: Unit
    app_id: str = ""
    settle: float = HOUR
    max_age: float = HOUR
    counted: bool = True

    @property
    def usual(self) -> int:
        """How many buckets every fetch asks for at least."""
        return 24 if self.unit is Unit.HOUR else 14

    def newest(self, moment: float) -> int:
        """Return the bucket that runs at `moment`."""
        return bucket_at(self.unit, moment)

    def start(self, bucket: int) -> int:
        """Return when a bucket begins."""
        return start_of(self.unit, bucket)

    def hours(self, bucket: int) -> range:
        """Return the starts of the hours that a bucket is made of."""
        return range(start_of(self.unit, bucket), start_of(self.unit, bucket + 1), HOUR)


class EventModel:
    """What happened, and when Braze learned of it: the truth for any bucket at any time."""

    def __init__(self, invent: Inventor = lambda _event, _hour, _source: ()) -> None:
        """Begin with a history that is invented hour by hour, as it is asked for."""
        self.events: Collection[str] = EVENTS
        self._invent = invent
        self._changes: dict[tuple[str, int, str], list[Change]] = {}
        self._sums: dict[tuple[str, int, str], tuple[list[float], list[int]]] = {}

    def add_occurrences(self, event: str, hour: int, when: float, change: int, source: str) -> None:
        """Let Braze change its count of the hour that starts at `hour`, at `when`."""
        self.changes(event, hour, source).append((when, change))
        self._sums.pop((event, hour, source), None)
        self._sums.pop((event, hour, ""), None)

    def changes(self, event: str, hour: int, app_id: str = "") -> list[Change]:
        """Return what changed the count of an hour, of one source or of all."""
        if not app_id:
            return [change for source in SOURCES for change in self.changes(event, hour, source)]
        key = (event, hour, app_id)
        if key not in self._changes:
            self._changes[key] = list(self._invent(event, hour, app_id))
        return self._changes[key]

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return how many occurrences of an hour Braze has counted by `now`."""
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

    def value(self, watch: ExpectedQuery, bucket: int, now: float) -> int:
        """Return Braze's value of a bucket at `now`."""
        return sum(self.count(watch.event, hour, now, watch.app_id) for hour in watch.hours(bucket))

    def occurrences(self, watch: ExpectedQuery, after: float, until: float) -> int:
        """Return how many occurrences Braze learned of after one time and until another, whatever their bucket."""
        first, last = watch.newest(after - 2 * LATEST_CHANGE), watch.newest(until)
        return sum(
            change
            for bucket in range(first, last + 1)
            for hour in watch.hours(bucket)
            for when, change in self.changes(watch.event, hour, watch.app_id)
            if after < when <= until
        )

    def reported(self, watch: ExpectedQuery, times: Sequence[float], oldest: int, *, reach: int) -> int:
        """Return what a counter shows after true answers at `times`, if each tells the newest `reach` buckets.

        That is, of each bucket from `oldest` on, the most that Braze ever said above its first answer. No answer is
        looked at but the next one after each change.
        """
        total = 0
        for bucket in range(oldest, watch.newest(times[-1]) + 1):
            first = most = self.value(watch, bucket, times[0])
            for hour in watch.hours(bucket):
                for when, _ in self.changes(watch.event, hour, watch.app_id):
                    at = bisect_left(times, when)
                    if at < len(times) and bucket > watch.newest(times[at]) - reach:
                        most = max(most, self.value(watch, bucket, times[at]))
            total += most - first
        return total


def make_inventor(seed: int, *, revisions: bool) -> Inventor:
    """Return histories with silent hours and days, late arrivals up to a day later and, if asked for, revisions.

    A revision takes back a part of an hour; often a part of that, or more, comes back later.
    """

    def invent(event: str, hour: int, source: str) -> Iterable[Change]:
        draw = Random(f"{seed} {event} {hour} {source}")  # noqa: S311 - not a secret
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
            yield end + draw.uniform(3 * HOUR, LATEST_CHANGE), draw.randint(1, 30)
        if revisions and draw.random() < 0.15:
            taken_at, taken = end + draw.uniform(0, 0.5 * LATEST_CHANGE), draw.randint(1, sum(counts))
            yield taken_at, -taken
            if draw.random() < 0.7:
                yield taken_at + draw.uniform(0.2 * HOUR, 0.4 * LATEST_CHANGE), draw.randint(1, taken + 5)

    return invent


@dataclass(frozen=True)
class Exchange:
    """One call as it went over the wire; the times are those at which it left, was answered, and was back.

    `counts` are those of an answer, oldest first, or None if there was none. `took_key` is whether what came shows that
    Braze took the key. It `is_malformed` if it is a success that cannot be read, and `is_trouble` if Braze, or the way
    to it, failed. It `is_short` if it was for the newest buckets alone.
    """

    event: str
    unit: Unit
    app_id: str
    length: int
    asked_at: float
    told_at: float
    received_at: float
    status: int | None
    counts: tuple[int, ...] | None
    took_key: bool
    is_malformed: bool
    is_trouble: bool
    is_short: bool = False


class SimulatedConnection(HTTPAdapter):
    """Leads a session of requests straight into a WSGI application: no sockets, and any latency at no cost."""

    def __init__(self, app: WSGIApplication, clock: Clock, note: Callable[[Exchange], None]) -> None:
        super().__init__(max_retries=0)
        self.latency = 0.0
        self._app: Callable[..., Iterable[bytes]] = app
        self._clock = clock
        self._note = note

    def send(  # noqa: PLR0917 - the signature of requests
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002
        timeout: object = None,
        verify: object = True,  # noqa: FBT002
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Answer one request, and tell what went over the wire."""
        del stream, timeout, verify, cert, proxies
        assert request.url is not None
        url = urlsplit(request.url)
        requested_at = self._clock.now
        self._clock.advance(self.latency / 2)
        told_at = self._clock.now
        sent: tuple[int, Mapping[str, str], bytes] | None
        try:
            sent = self._ask(url.path, url.query, request.headers)
        except Disconnect:
            sent = None
        self._clock.advance(self.latency / 2)
        requested = dict(parse_qsl(url.query))
        self._note(
            Exchange(
                event=requested["event"],
                unit=Unit(requested["unit"]),
                app_id=requested.get("app_id", ""),
                length=int(requested["length"]),
                asked_at=requested_at,
                told_at=told_at,
                received_at=self._clock.now,
                status=sent[0] if sent is not None else None,
                counts=_counts(*sent) if sent is not None else None,
                took_key=sent is not None and _took_key(*sent),
                is_malformed=sent is not None and _is_malformed(*sent),
                is_trouble=sent is None or _is_trouble(*sent),
            )
        )
        if sent is None:
            raise requests.exceptions.ConnectionError("the connection broke", request=request)
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

    def _ask(self, path: str, query: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        started: list[tuple[int, Mapping[str, str]]] = []

        def start_response(status: str, headers: list[tuple[str, str]]) -> None:
            started.append((int(status.split(maxsplit=1)[0]), dict(headers)))

        fields = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        environ = fields | {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}
        body = b"".join(self._app(environ, start_response))
        return (*started[-1], body)


def _took_key(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether Braze looked at the request itself: it refuses it, limits it, or answers, if only in part."""
    is_read = _is_truncated(headers, body) or isinstance(_document(headers, body), dict)
    return status in (400, 429) or (status == 200 and is_read)


def _is_malformed(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    return status == 200 and isinstance(_document(headers, body), dict) and _counts(status, headers, body) is None


def _is_trouble(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    return status >= 500 or status == 202 or (status == 200 and _is_truncated(headers, body))


def _is_truncated(headers: Mapping[str, str], body: bytes) -> bool:
    return int(headers.get("Content-Length", len(body))) != len(body)


def _document(headers: Mapping[str, str], body: bytes) -> Any:  # noqa: ANN401 - JSON
    if _is_truncated(headers, body):
        return None
    try:
        return json.loads(gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body)
    except ValueError:
        return None


def _counts(status: int, headers: Mapping[str, str], body: bytes) -> tuple[int, ...] | None:
    """Return what an answer says, or None if what came is none. The order of the days and hours is not looked at."""
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
