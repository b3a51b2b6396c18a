"""A simulated Braze whose behavior can be selected where Braze does not document it or clients report variants."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time
from enum import Enum, auto
from http import HTTPStatus
from typing import Any
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import CUSTOM_EVENTS, SeriesKind
from braze_exporter.braze.pools import DEFAULT_POOL
from braze_exporter.simulator import parameters
from braze_exporter.simulator.application import SimulatedBraze
from braze_exporter.simulator.inventory import Inventory
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.traffic import Counts, Traffic


class HourFormat(Enum):
    """The format of times with `unit=hour`, which Braze documents only as "ISO 8601 extended"."""

    OFFSET = auto()
    """2024-10-14T13:00:00+00:00, the format of `last_edited` in recorded responses."""
    ZULU = auto()
    """2024-10-14T13:00:00Z."""
    LOCAL = auto()
    """2024-10-14T09:00:00-04:00, in the company's zone."""
    FRACTIONAL = auto()
    """2024-10-14T13:00:00.000+00:00, the format of `updated_at` of catalogs in recorded responses."""
    ZONELESS = auto()
    """2024-10-14T09:00:00, local time without an offset. At the end of DST one hour occurs twice."""

    def write(self, start: int, zone: ZoneInfo) -> str:
        """Return the formatted time of the hour that starts at `start`."""
        utc = datetime.fromtimestamp(start, UTC)
        match self:
            case HourFormat.OFFSET:
                return utc.isoformat()
            case HourFormat.ZULU:
                return utc.strftime("%Y-%m-%dT%H:%M:%SZ")
            case HourFormat.LOCAL:
                return utc.astimezone(zone).isoformat()
            case HourFormat.FRACTIONAL:
                return utc.isoformat(timespec="milliseconds")
            case HourFormat.ZONELESS:
                return utc.astimezone(zone).replace(tzinfo=None).isoformat()


class DayFormat(Enum):
    """The format of times with `unit=day`."""

    DATE = auto()
    """2022-12-08, as in every recorded daily series."""
    MIDNIGHT = auto()
    """2022-12-08T00:00:00-05:00, local midnight with its offset."""

    def write(self, day: date, zone: ZoneInfo) -> str:
        """Return the formatted time of the day."""
        match self:
            case DayFormat.DATE:
                return day.isoformat()
            case DayFormat.MIDNIGHT:
                return datetime.combine(day, time(), zone).isoformat()


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


class VariableBraze(SimulatedBraze):
    """A simulated Braze with variants, which are plain attributes.

    `page_size` replaces the documented page size of lists. `omits_empty_key` omits the key of the items if a page has
    none. If `has_overlapping_pages` is true, every page starts with the last item of the previous one, as if an item
    had been added between two requests.
    """

    page_size: int | None = None
    omits_empty_key = False
    has_overlapping_pages = False

    def __init__(
        self,
        *,
        zone: ZoneInfo,
        apps: Collection[str] = (),
        segments: Collection[str] = (),
        inventory: Inventory | None = None,
        series_counts: Counts | None = None,
        permissions: Collection[str] | None = None,
        limit: int = DEFAULT_POOL.limit,
        hour_format: HourFormat = HourFormat.OFFSET,
        day_format: DayFormat = DayFormat.DATE,
        unknown_event: UnknownEvent = UnknownEvent.ZEROS,
        newest_first: bool = False,
        **settings: Any,  # noqa: ANN401 - the arguments of `SimulatedBraze`
    ) -> None:
        """Simulate a workspace as `SimulatedBraze` does, by default without items and with other counts of 0.

        `permissions` are those of the key, by default all. `limit` is the limit of the default pool.
        """
        super().__init__(
            zone=zone,
            apps=apps,
            segments=segments,
            inventory=inventory or Inventory(),
            series_counts=series_counts or Traffic(seed=0, zone=zone, events={}),
            **settings,
        )
        self.permissions = permissions
        self.hour_format = hour_format
        self.day_format = day_format
        self.unknown_event = unknown_event
        self.newest_first = newest_first
        self.limit = limit

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

    def format_hour(self, start: int) -> str:
        """Return the time of the hour that starts at `start`."""
        return self.hour_format.write(start, self.zone)

    def format_day(self, day: date) -> str:
        """Return the time of a day."""
        return self.day_format.write(day, self.zone)

    def _build_response(self, request: Request) -> tuple[HTTPStatus, object, Mapping[str, str]]:
        status, document, headers = super()._build_response(request)
        permission = request.path.strip("/").replace("/", ".")
        is_permitted = self.permissions is None or permission in self.permissions
        if status in {HTTPStatus.OK, HTTPStatus.BAD_REQUEST} and not is_permitted:
            return HTTPStatus.FORBIDDEN, {"message": "Access Denied"}, headers  # the message is not documented
        if self.newest_first and isinstance(document, dict) and isinstance(document.get("data"), list):
            document["data"].reverse()
        return status, document, headers

    def _counts(self, kind: SeriesKind, request: Request) -> object:
        document = super()._counts(kind, request)
        is_known = kind is not CUSTOM_EVENTS or request.event in self.traffic.events
        if is_known or self.unknown_event is UnknownEvent.ZEROS:
            return document
        if self.unknown_event is UnknownEvent.REJECTED:
            parameters.reject("event must be a string of the custom event name")
        return {"message": "success", **({"data": []} if self.unknown_event is UnknownEvent.EMPTY else {})}

    def page(self, request: Request, key: str, rows: Sequence[Any], size: int) -> object:
        """Return the page of `rows` that is requested, under `key`."""
        size = self.page_size or size
        start = parameters.parse_page(request) * size
        items = rows[max(0, start - (self.has_overlapping_pages and start < len(rows))) : start + size]
        return {"message": "success", **({key: items} if items or not self.omits_empty_key else {})}
