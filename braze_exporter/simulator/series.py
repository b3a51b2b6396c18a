"""The series of Braze beside those of events: rows by hour or by day, as documented and as far as recorded.

Each is told of by figures, which are counts by name: `sessions`, `purchases`, `purchases/PRODUCT`, `revenue` and
`revenue/PRODUCT` in cents, `new_users`, `uninstalls`, `daily_active_users`, `monthly_active_users`, `segments/ID`; and
of what is sent, `campaigns/ID` and `canvases/ID`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.pools import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL
from braze_exporter.simulator import message_rows, parameters
from braze_exporter.simulator.endpoint import Endpoint
from braze_exporter.simulator.inventory import World
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.times import DayFormat, HourFormat, days_until, hours_of, hours_until
from braze_exporter.simulator.traffic import Counts

_LONGEST_CANVAS = 14
# Silent pushes that find out who has uninstalled an app are sent by night.
_NIGHT = timedelta(hours=3)
_MAU_AT = time(12, 5)


class Company(Protocol):
    """What the simulated Braze knows, which may change between requests."""

    zone: ZoneInfo
    apps: Collection[str]
    segments: Collection[str]
    world: World
    figures: Counts
    hour_format: HourFormat
    day_format: DayFormat
    newest_first: bool


class Series:
    """Answers the series endpoints."""

    def __init__(self, company: Company) -> None:
        """Tell of `company` as it is when it is asked for."""
        self._company = company

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Return what is asked at which path."""
        found = {
            "/sessions/data_series": (DEFAULT_POOL, self._sessions),
            "/purchases/quantity_series": (LISTS_POOL, self._purchases),
            "/purchases/revenue_series": (LISTS_POOL, self._revenue),
            "/segments/data_series": (DEFAULT_POOL, self._segment_size),
            "/kpi/new_users/data_series": (DEFAULT_POOL, self._new_users),
            "/kpi/uninstalls/data_series": (DEFAULT_POOL, self._uninstalls),
            "/kpi/dau/data_series": (DEFAULT_POOL, self._daily_active_users),
            "/kpi/mau/data_series": (DEFAULT_POOL, self._monthly_active_users),
            "/campaigns/data_series": (CAMPAIGNS_POOL, self._campaign),
            "/canvas/data_series": (DEFAULT_POOL, self._canvas),
        }
        return {
            path: Endpoint(pool, path.strip("/").replace("/", "."), answer) for path, (pool, answer) in found.items()
        }

    def _sessions(self, request: Request) -> object:
        """Answer GET /sessions/data_series."""
        segment = parameters.identifier(request, "segment_id", self._company.segments)
        return self._told(request, "sessions", "sessions", segment=segment)

    def _purchases(self, request: Request) -> object:
        """Answer GET /purchases/quantity_series."""
        return self._told(request, "purchase_quantity", "/".join(["purchases", *_product(request)]))

    def _revenue(self, request: Request) -> object:
        """Answer GET /purchases/revenue_series. Braze's own client takes it for a float."""
        return self._told(request, "revenue", "/".join(["revenue", *_product(request)]), cents=True)

    def _segment_size(self, request: Request) -> object:
        """Answer GET /segments/data_series. Of a segment without analytics tracking there is said to be an error."""
        tracked = [*self._company.segments, *(one.id for one in self._company.world.segments if one.tracked)]
        segment = parameters.identifier(request, "segment_id", tracked) or parameters.name(request, "segment_id")
        sizes = self._days(request, lambda day: self._level(f"segments/{segment}", day))
        return self._document([{"time": day, "size": size} for day, size in sizes])

    def _new_users(self, request: Request) -> object:
        """Answer GET /kpi/new_users/data_series."""
        return self._told(request, "new_users", "new_users", unit=Unit.DAY)

    def _uninstalls(self, request: Request) -> object:
        """Answer GET /kpi/uninstalls/data_series: those of a day are found out in the night after it."""
        app = parameters.identifier(request, "app_id", self._company.apps)

        def known(day: date) -> int:
            found_out = datetime.combine(day + timedelta(days=1), time(), self._company.zone) + _NIGHT
            return self._sum("uninstalls", day, request, app) if request.time >= found_out.timestamp() else 0

        return self._document([{"time": day, "uninstalls": count} for day, count in self._days(request, known)])

    def _daily_active_users(self, request: Request) -> object:
        """Answer GET /kpi/dau/data_series."""
        return self._told(request, "dau", "daily_active_users", unit=Unit.DAY)

    def _monthly_active_users(self, request: Request) -> object:
        """Answer GET /kpi/mau/data_series: a day is there as soon as it has been computed, which is at 12:05 UTC."""
        app = parameters.identifier(request, "app_id", self._company.apps)
        computed = datetime.fromtimestamp(request.time, UTC)
        last = computed.date() if computed.time() >= _MAU_AT else computed.date() - timedelta(days=1)
        rows = self._days(request, lambda day: self._level("monthly_active_users", day, app))
        return self._document([{"time": day, "mau": count} for day, count in rows if day <= last.isoformat()])

    def _campaign(self, request: Request) -> object:
        """Answer GET /campaigns/data_series."""
        known = {campaign.id: campaign for campaign in self._company.world.campaigns}
        campaign = known[
            parameters.identifier(request, "campaign_id", known) or parameters.name(request, "campaign_id")
        ]
        sent = self._days(request, lambda day: self._sum(f"campaigns/{campaign.id}", day, request))
        return self._document([message_rows.campaign_row(campaign, day, count) for day, count in sent])

    def _canvas(self, request: Request) -> object:
        """Answer GET /canvas/data_series, whose data are an object; its end is documented to be required."""
        known = {canvas.id: canvas for canvas in self._company.world.canvases}
        canvas = known[parameters.identifier(request, "canvas_id", known) or parameters.name(request, "canvas_id")]
        parameters.name(request, "ending_at")
        with_steps = parameters.choice(request, "include_step_breakdown", ("false", "true")) == "true"
        days = self._days(
            request, lambda day: self._sum(f"canvases/{canvas.id}", day, request), longest=_LONGEST_CANVAS
        )
        stats = [message_rows.canvas_row(canvas, day, count, with_steps=with_steps) for day, count in days]
        return {"message": "success", "data": {"name": canvas.name, "stats": stats}}

    def _told(
        self,
        request: Request,
        field: str,
        figure: str,
        *,
        unit: Unit | None = None,
        segment: str = "",
        cents: bool = False,
    ) -> object:
        """Return the rows of a figure that adds up, by the unit that is asked for if `unit` is not the only one."""
        app = parameters.identifier(request, "app_id", self._company.apps)
        zone, count = self._company.zone, self._company.figures.count
        if (unit or parameters.unit(request)) is Unit.DAY:
            found = self._days(request, lambda day: self._sum(figure, day, request, app, segment))
        else:
            hours = hours_until(parameters.ending_at(request, zone), parameters.length(request))
            found = [
                (self._company.hour_format.write(hour, zone), count(figure, hour, request.time, app, segment))
                for hour in hours
            ]
        return self._document([{"time": at, field: value / 100 if cents else value} for at, value in found])

    def _days(self, request: Request, value: Callable[[date], int], longest: int = 100) -> list[tuple[str, int]]:
        """Return the days that are asked for, as they are written, with their values."""
        zone = self._company.zone
        days = days_until(parameters.ending_at(request, zone), parameters.length(request, longest), zone)
        return [(self._company.day_format.write(day, zone), value(day)) for day in days]

    def _sum(self, figure: str, day: date, request: Request, app: str = "", segment: str = "") -> int:
        begun = (hour for hour in hours_of(day, self._company.zone) if hour <= request.time)
        return sum(self._company.figures.count(figure, hour, request.time, app, segment) for hour in begun)

    def _level(self, figure: str, day: date, app: str = "") -> int:
        """Return what does not grow during the day: the figure of its first hour, when that is over."""
        first = hours_of(day, self._company.zone)[0]
        return self._company.figures.count(figure, first, first + 7 * 86_400, app)

    def _document(self, rows: Sequence[Mapping[str, object]]) -> object:
        return {"message": "success", "data": rows[::-1] if self._company.newest_first else rows}


def _product(request: Request) -> Iterable[str]:
    return [parameters.name(request, "product")] if "product" in request.params else []
