"""The series endpoints. They follow Braze's documentation and recorded responses.

The values of custom events are the counts of `traffic`. The others come from the `series_counts` with these names:
`sessions`, `purchases`, `purchases/PRODUCT`, `new_users`, `uninstalls`, `daily_active_users`, `monthly_active_users`
and `segments/ID`. `revenue` and `revenue/PRODUCT` are in cents. `campaigns/ID` counts sent messages and `canvases/ID`
entries.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.pools import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL
from braze_exporter.simulator import message_rows, parameters
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.times import days_until, hours_of, hours_until
from braze_exporter.simulator.traffic import Counts
from braze_exporter.simulator.workspace import Endpoint, SimulatedWorkspace

_MAX_CANVAS_LENGTH = 13
# Braze detects uninstalls with silent push notifications, which it sends at night.
_UNINSTALLS_DELAY = timedelta(hours=3)
_MAU_TIME_UTC = time(12, 5)


class SeriesEndpoints(SimulatedWorkspace):
    """Responds to requests of the series endpoints."""

    def series_endpoints(self) -> Mapping[str, Endpoint]:
        """Return the endpoints by path."""
        return {
            "/events/data_series": (DEFAULT_POOL, self._custom_events),
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

    def _custom_events(self, request: Request) -> object:
        """Respond to GET /events/data_series. For an unknown event, all counts are 0, which Braze does not document."""
        event = parameters.required_text(request, "event")
        segment = parameters.parse_identifier(request, "segment_id", self.segments)
        return self._count_rows(request, "count", event, segment=segment, counts=self.traffic)

    def _sessions(self, request: Request) -> object:
        """Respond to GET /sessions/data_series."""
        segment = parameters.parse_identifier(request, "segment_id", self.segments)
        return self._count_rows(request, "sessions", "sessions", segment=segment)

    def _purchases(self, request: Request) -> object:
        """Respond to GET /purchases/quantity_series."""
        return self._count_rows(request, "purchase_quantity", "/".join(["purchases", *_product(request)]))

    def _revenue(self, request: Request) -> object:
        """Respond to GET /purchases/revenue_series. The values are floats, as in Braze's own client."""
        return self._count_rows(request, "revenue", "/".join(["revenue", *_product(request)]), cents=True)

    def _segment_size(self, request: Request) -> object:
        """Respond to GET /segments/data_series. A segment without analytics tracking is an error, as reported."""
        tracked = [*self.segments, *(item.id for item in self.inventory.segments if item.is_tracked)]
        segment = parameters.required_identifier(request, "segment_id", tracked)
        sizes = self._days(request, lambda day: self._constant_value(f"segments/{segment}", day))
        return _document([{"time": day, "size": size} for day, size in sizes])

    def _new_users(self, request: Request) -> object:
        """Respond to GET /kpi/new_users/data_series."""
        return self._count_rows(request, "new_users", "new_users", unit=Unit.DAY)

    def _uninstalls(self, request: Request) -> object:
        """Respond to GET /kpi/uninstalls/data_series. A day is 0 until Braze has detected its uninstalls."""
        app = parameters.parse_identifier(request, "app_id", self.apps)

        def count_if_detected(day: date) -> int:
            detected_at = datetime.combine(day + timedelta(days=1), time(), self.zone) + _UNINSTALLS_DELAY
            return self._sum("uninstalls", day, request, app) if request.time >= detected_at.timestamp() else 0

        return _document([{"time": day, "uninstalls": count} for day, count in self._days(request, count_if_detected)])

    def _daily_active_users(self, request: Request) -> object:
        """Respond to GET /kpi/dau/data_series."""
        return self._count_rows(request, "dau", "daily_active_users", unit=Unit.DAY)

    def _monthly_active_users(self, request: Request) -> object:
        """Respond to GET /kpi/mau/data_series. A day is included from 12:05 UTC, when Braze computes its value."""
        app = parameters.parse_identifier(request, "app_id", self.apps)
        computed = datetime.fromtimestamp(request.time, UTC)
        last = computed.date() if computed.time() >= _MAU_TIME_UTC else computed.date() - timedelta(days=1)
        rows = self._days(request, lambda day: self._constant_value("monthly_active_users", day, app))
        return _document([{"time": day, "mau": count} for day, count in rows if day <= last.isoformat()])

    def _campaign(self, request: Request) -> object:
        """Respond to GET /campaigns/data_series."""
        known = {campaign.id: campaign for campaign in self.inventory.campaigns}
        campaign = known[parameters.required_identifier(request, "campaign_id", known)]
        sent = self._days(request, lambda day: self._sum(f"campaigns/{campaign.id}", day, request))
        return _document([message_rows.campaign_row(campaign, day, count) for day, count in sent])

    def _canvas(self, request: Request) -> object:
        """Respond to GET /canvas/data_series. Its data is an object, and `ending_at` is documented as required."""
        known = {canvas.id: canvas for canvas in self.inventory.canvases}
        canvas = known[parameters.required_identifier(request, "canvas_id", known)]
        parameters.required_text(request, "ending_at")
        with_steps = parameters.parse_choice(request, "include_step_breakdown", ("false", "true")) == "true"
        days = self._days(
            request, lambda day: self._sum(f"canvases/{canvas.id}", day, request), max_length=_MAX_CANVAS_LENGTH
        )
        stats = [message_rows.canvas_row(canvas, day, count, with_steps=with_steps) for day, count in days]
        return {"message": "success", "data": {"name": canvas.name, "stats": stats}}

    def _count_rows(
        self,
        request: Request,
        field: str,
        name: str,
        *,
        unit: Unit | None = None,
        segment: str = "",
        cents: bool = False,
        counts: Counts | None = None,
    ) -> object:
        """Return the rows of an additive count by `unit`, or by the unit in the request if `unit` is None."""
        app = parameters.parse_identifier(request, "app_id", self.apps)
        zone, source = self.zone, counts or self.series_counts
        if (unit or parameters.parse_unit(request)) is Unit.DAY:
            result = self._days(request, lambda day: self._sum(name, day, request, app, segment, counts=source))
        else:
            hours = hours_until(parameters.parse_ending_at(request, zone), parameters.parse_length(request))
            result = [(self.format_hour(hour), source.count(name, hour, request.time, app, segment)) for hour in hours]
        return _document([{"time": at, field: value / 100 if cents else value} for at, value in result])

    def _days(
        self, request: Request, value_of_day: Callable[[date], int], max_length: int = 100
    ) -> list[tuple[str, int]]:
        """Return the requested days, formatted, with their values. `max_length` is the maximum `length`."""
        zone = self.zone
        days = days_until(parameters.parse_ending_at(request, zone), parameters.parse_length(request, max_length), zone)
        return [(self.format_day(day), value_of_day(day)) for day in days]

    def _sum(
        self, name: str, day: date, request: Request, app: str = "", segment: str = "", *, counts: Counts | None = None
    ) -> int:
        source = counts or self.series_counts
        started = (hour for hour in hours_of(day, self.zone) if hour <= request.time)
        return sum(source.count(name, hour, request.time, app, segment) for hour in started)

    def _constant_value(self, name: str, day: date, app: str = "") -> int:
        """Return a value that is constant during a day: the final count of its first hour."""
        first = hours_of(day, self.zone)[0]
        return self.series_counts.count(name, first, first + 7 * 86_400, app)


def _document(rows: Sequence[Mapping[str, object]]) -> object:
    return {"message": "success", "data": rows}


def _product(request: Request) -> Iterable[str]:
    return [parameters.required_text(request, "product")] if "product" in request.params else []
