"""The series endpoints. They follow Braze's documentation and recorded responses.

The values of custom events are the counts of `traffic`. The others come from the `series_counts` with these names:
`sessions`, `purchases`, `purchases/PRODUCT`, `new_users`, `uninstalls`, `daily_active_users`, `monthly_active_users`
and `segments/ID`. `revenue` and `revenue/PRODUCT` are in cents. `campaigns/ID` counts sent messages and `canvases/ID`
entries.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

from braze_exporter.braze.kinds import (
    CAMPAIGNS,
    CANVASES,
    CUSTOM_EVENTS,
    KINDS,
    MONTHLY_ACTIVE_USERS,
    REVENUE,
    SEGMENT_USERS,
    UNINSTALLS,
    SeriesKind,
    Unit,
)
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
        special = {
            SEGMENT_USERS: self._segment_size,
            UNINSTALLS: self._uninstalls,
            MONTHLY_ACTIVE_USERS: self._monthly_active_users,
            CAMPAIGNS: self._campaign,
            CANVASES: self._canvas,
        }
        return {kind.path: (kind.pool, special.get(kind, partial(self._counts, kind))) for kind in KINDS}

    def _counts(self, kind: SeriesKind, request: Request) -> object:
        """Respond with an additive count.

        For an unknown event, all counts are 0, which Braze does not document. Revenue is a float, as in Braze's own
        client.
        """
        name, counts = kind.section, self.series_counts
        if kind is CUSTOM_EVENTS:
            name, counts = parameters.required_text(request, "event"), self.traffic
        elif kind.subject_label == "product" and "product" in request.params:
            name = f"{name}/{parameters.required_text(request, 'product')}"
        has_segments = "segment" in kind.part_labels
        segment = parameters.parse_identifier(request, "segment_id", self.segments) if has_segments else ""
        app = parameters.parse_identifier(request, "app_id", self.apps)
        if Unit.HOUR not in kind.units or parameters.parse_unit(request) is Unit.DAY:
            rows = self._days(request, lambda day: self._sum(name, day, request, app, segment, counts=counts))
        else:
            end = parameters.parse_ending_at(request, self.zone)
            hours = hours_until(end, parameters.parse_length(request))
            rows = [(self.format_hour(hour), counts.count(name, hour, request.time, app, segment)) for hour in hours]
        is_cents = kind is REVENUE
        return _document([{"time": at, kind.value_field: value / 100 if is_cents else value} for at, value in rows])

    def _segment_size(self, request: Request) -> object:
        """Respond to GET /segments/data_series. A segment without analytics tracking is an error, as reported."""
        tracked = [*self.segments, *(item.id for item in self.inventory.segments if item.is_tracked)]
        segment = parameters.required_identifier(request, "segment_id", tracked)
        sizes = self._days(request, lambda day: self._constant_value(f"segments/{segment}", day))
        return _document([{"time": day, "size": size} for day, size in sizes])

    def _uninstalls(self, request: Request) -> object:
        """Respond to GET /kpi/uninstalls/data_series. A day is 0 until Braze has detected its uninstalls."""
        app = parameters.parse_identifier(request, "app_id", self.apps)

        def count_if_detected(day: date) -> int:
            detected_at = datetime.combine(day + timedelta(days=1), time(), self.zone) + _UNINSTALLS_DELAY
            return self._sum("uninstalls", day, request, app) if request.time >= detected_at.timestamp() else 0

        return _document([{"time": day, "uninstalls": count} for day, count in self._days(request, count_if_detected)])

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
