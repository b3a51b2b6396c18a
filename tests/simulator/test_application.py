"""Test the simulator's data series over real sockets."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
import transfer_faults
from braze_variants import DayFormat, HourFormat, UnknownEvent
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from wsgi_server import Server

RequestSeries = Callable[..., requests.Response]

NOW = 1_728_912_000  # 2024-10-14T13:20:00Z, 09:20 in New York
HOUR = 3_600
ONE_PM = NOW - 1_200


def row(time: str, count: int) -> dict[str, Any]:
    """Return one row of a series."""
    return {"time": time, "count": count}


def test_hourly_series_is_returned(request_series: RequestSeries) -> None:
    """Hours are returned oldest first and zero-filled, as many as requested; the last one is in progress."""
    response = request_series(length=3)
    assert response.status_code == 200
    assert response.json() == {
        "message": "success",
        "data": [
            row("2024-10-14T11:00:00+00:00", 0),
            row("2024-10-14T12:00:00+00:00", 12),
            row("2024-10-14T13:00:00+00:00", 5),
        ],
    }


def test_daily_series_is_default(request_series: RequestSeries, traffic: RecordedCounts) -> None:
    """Without `unit` the series has local days: at 03:59Z it is still the previous day in New York."""
    traffic.set("purchase", ONE_PM - 10 * HOUR, 100)
    response = request_series(unit=None, length=3)
    assert response.json()["data"] == [row("2024-10-12", 0), row("2024-10-13", 100), row("2024-10-14", 17)]


def test_future_hours_are_not_counted(request_series: RequestSeries, traffic: RecordedCounts) -> None:
    """The current day does not count later hours."""
    traffic.set("purchase", ONE_PM + HOUR, 1_000)
    assert request_series(unit="day", length=1).json()["data"] == [row("2024-10-14", 17)]


@pytest.mark.parametrize(
    ("form", "first"),
    [
        (HourFormat.OFFSET, "2024-10-14T12:00:00+00:00"),
        (HourFormat.ZULU, "2024-10-14T12:00:00Z"),
        (HourFormat.LOCAL, "2024-10-14T08:00:00-04:00"),
        (HourFormat.FRACTIONAL, "2024-10-14T12:00:00.000+00:00"),
        (HourFormat.ZONELESS, "2024-10-14T08:00:00"),
    ],
)
def test_hour_format_can_be_changed(
    request_series: RequestSeries, braze: FaultInjectingBraze, form: HourFormat, first: str
) -> None:
    """The format of an hour's time can be configured."""
    braze.hour_format = form
    assert request_series().json()["data"][0] == row(first, 12)


def test_day_format_can_be_changed(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The format of a day's time can be configured."""
    braze.day_format = DayFormat.MIDNIGHT
    assert request_series(unit="day", length=1).json()["data"] == [row("2024-10-14T00:00:00-04:00", 17)]


def test_order_can_be_reversed(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The order can be configured so that the newest bucket comes first."""
    braze.newest_first = True
    assert [row["count"] for row in request_series().json()["data"]] == [5, 12]


@pytest.mark.parametrize(
    ("ending_at", "last"),
    [
        ("2024-10-14T12:59:59Z", row("2024-10-14T12:00:00+00:00", 12)),
        ("2024-10-14T08:00:00-04:00", row("2024-10-14T12:00:00+00:00", 12)),
        ("2024-10-14T13:20:00+00:00", row("2024-10-14T13:00:00+00:00", 5)),
        ("2024-10-14T08:30:00", row("2024-10-14T12:00:00+00:00", 12)),
        ("2024-10-14", row("2024-10-14T04:00:00+00:00", 0)),
    ],
)
def test_ending_at_is_respected(request_series: RequestSeries, ending_at: str, last: dict[str, Any]) -> None:
    """The last bucket contains `ending_at`, with all occurrences that are known now."""
    assert request_series(ending_at=ending_at, length=1).json()["data"] == [last]


@pytest.mark.parametrize("name", ["Größe & Maß/1+1=2 🛒", " ", "a b", "x=y&unit=week", "%2B", "\u0000", '"'])
def test_event_names_may_be_any_text(request_series: RequestSeries, traffic: RecordedCounts, name: str) -> None:
    """An event name may be any text and is matched literally."""
    traffic.set(name, ONE_PM, 3)
    assert request_series(event=name, length=1).json()["data"] == [row("2024-10-14T13:00:00+00:00", 3)]


def test_event_names_are_case_sensitive(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """Event names that differ only in case are distinct."""
    braze.unknown_event = UnknownEvent.EMPTY
    assert request_series(event="Purchase").json() == {"message": "success", "data": []}


def test_app_and_segment_filters_are_applied(request_series: RequestSeries, traffic: RecordedCounts) -> None:
    """An app, a segment, and both together each have their own counts."""
    traffic.set("purchase", ONE_PM, 3, app_id="app-1")
    traffic.set("purchase", ONE_PM, 2, segment_id="segment-1")
    traffic.set("purchase", ONE_PM, 1, app_id="app-1", segment_id="segment-1")

    def newest(**params: str) -> Any:  # noqa: ANN401 - any JSON value
        return request_series(length=1, **params).json()["data"][0]["count"]

    assert newest(app_id="app-1") == 3
    assert newest(segment_id="segment-1") == 2
    assert newest(app_id="app-1", segment_id="segment-1") == 1


@pytest.mark.parametrize(
    ("unknown", "status", "document"),
    [
        (
            UnknownEvent.ZEROS,
            200,
            {
                "message": "success",
                "data": [row("2024-10-14T12:00:00+00:00", 0), row("2024-10-14T13:00:00+00:00", 0)],
            },
        ),
        (UnknownEvent.EMPTY, 200, {"message": "success", "data": []}),
        (UnknownEvent.NO_DATA, 200, {"message": "success"}),
        (UnknownEvent.REJECTED, 400, {"message": "event must be a string of the custom event name"}),
    ],
)
def test_unknown_event_response_can_be_changed(
    request_series: RequestSeries, braze: FaultInjectingBraze, unknown: UnknownEvent, status: int, document: object
) -> None:
    """The response for an unknown event can be configured; an event that never occurred has zeros."""
    braze.unknown_event = unknown
    response = request_series(event="nothing")
    assert (response.status_code, response.json()) == (status, document)
    assert [item["count"] for item in request_series(event="quiet").json()["data"]] == [0, 0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"event": None}, "event is required"),
        ({"event": ""}, "event is required"),
        ({"event": b"\xe9t\xe9"}, "event is not valid UTF-8"),
        ({"length": None}, "length must be an integer between 1 and 100"),
        ({"length": "0"}, "length must be an integer between 1 and 100"),
        ({"length": "101"}, "length must be an integer between 1 and 100"),
        ({"length": "-1"}, "length must be an integer between 1 and 100"),
        ({"length": "2.0"}, "length must be an integer between 1 and 100"),
        ({"length": "two"}, "length must be an integer between 1 and 100"),
        ({"unit": "week"}, "unit must be one of day, hour"),
        ({"unit": "Hour"}, "unit must be one of day, hour"),
        ({"unit": ""}, "unit must be one of day, hour"),
        ({"ending_at": "2024-10-14T13:20:01Z"}, "ending_at must not be in the future"),
        ({"ending_at": "2024-10-15"}, "ending_at must not be in the future"),
        ({"ending_at": "14/10/2024"}, "ending_at must be an ISO 8601 datetime"),
        ({"ending_at": ""}, "ending_at must be an ISO 8601 datetime"),
        ({"app_id": "app-2"}, "app_id must be a string of the App api identifier"),
        ({"app_id": ""}, "app_id must be a string of the App api identifier"),
        ({"segment_id": "app-1"}, "segment_id must be a string of the Segment api identifier"),
    ],
)
def test_wrong_parameters_are_400(request_series: RequestSeries, params: dict[str, object], message: str) -> None:
    """An invalid parameter is 400 with a message, and counts as a call."""
    response = request_series(**params)
    assert (response.status_code, response.json()) == (400, {"message": message})
    assert response.headers["X-RateLimit-Remaining"] == "249999"


@pytest.mark.parametrize("length", [1, 99, 100])
def test_length_is_number_of_rows(request_series: RequestSeries, length: int) -> None:
    """A series has as many rows as requested, at most 100."""
    assert len(request_series(length=length).json()["data"]) == length
    assert len(request_series(length=length, unit="day").json()["data"]) == length


@pytest.mark.parametrize(
    ("header", "echo"),
    [
        ("Bearer wrong", "wrong"),
        ('Bearer "secret"', '"secret"'),
        ("Bearer ", ""),
        ("secret", "secret"),
        ("bearer secret", "bearer secret"),
        (None, ""),
    ],
)
def test_wrong_key_is_401(
    request_series: RequestSeries, braze: FaultInjectingBraze, server: Server, header: str | None, echo: str
) -> None:
    """A wrong key is 401 with a body that repeats the key and with empty rate limit headers."""
    headers = {} if header is None else {"Authorization": header}
    response = requests.get(f"{server.url}/events/data_series", headers=headers, timeout=5)
    assert response.status_code == 401
    assert response.json() == {"message": f"Invalid API key: {echo}"}
    assert [response.headers[f"X-RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")] == ["", "", ""]
    assert request_series().headers["X-RateLimit-Remaining"] == "249999"
    assert braze.requests[0].key == echo


@pytest.mark.parametrize(
    "path", ["/", "/events", "/events/data_series/", "//events/data_series", "/Events/data_series"]
)
def test_wrong_path_is_404(server: Server, path: str) -> None:
    """An unknown path is 404, with or without a key."""
    response = requests.get(server.url + path, timeout=5)
    assert (response.status_code, response.json()) == (404, {"message": "Invalid URL"})


def test_wrong_method_is_404(server: Server) -> None:
    """Any method other than GET is 404."""
    response = requests.post(f"{server.url}/events/data_series", json={"event": "purchase"}, timeout=5)
    assert (response.status_code, response.json()) == (404, {"message": "Invalid URL"})


def test_response_headers_are_as_recorded(request_series: RequestSeries) -> None:
    """A response has those headers of recorded responses that clients read; the reset is the next full hour."""
    headers = request_series().headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Date"] == "Mon, 14 Oct 2024 13:20:00 GMT"
    assert headers["X-RateLimit-Limit"] == "250000"
    assert headers["X-RateLimit-Remaining"] == "249999"
    assert headers["X-RateLimit-Reset"] == str(ONE_PM + HOUR)


def test_rate_limit_is_enforced(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """Calls over the hourly limit are 429, and the limit is reset in the next hour."""
    braze.limit = 3
    braze.spend_calls(1)
    granted = [request_series() for _ in range(2)]
    assert [reply.status_code for reply in granted] == [200, 200]
    assert [reply.headers["X-RateLimit-Remaining"] for reply in granted] == ["1", "0"]
    response = request_series()
    assert (response.status_code, response.json()) == (429, {"message": "Rate limit exceeded"})
    assert response.headers["X-RateLimit-Limit"] == "3"
    assert response.headers["X-RateLimit-Remaining"] == "0"
    assert response.headers["X-RateLimit-Reset"] == str(ONE_PM + HOUR)
    braze.clock = lambda: ONE_PM + HOUR - 0.1
    assert request_series().status_code == 429
    braze.clock = lambda: ONE_PM + HOUR
    response = request_series()
    assert (response.status_code, response.headers["X-RateLimit-Remaining"]) == (200, "2")
    assert braze.limit == 3


def test_requests_are_logged(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """Each request is recorded with its path, parameters, headers and time until `reset`."""
    request_series(event="a b+c", app_id="app-1")
    (logged,) = braze.requests
    assert (logged.method, logged.path, logged.time) == ("GET", "/events/data_series", NOW)
    assert logged.params == {"event": "a b+c", "length": "2", "unit": "hour", "app_id": "app-1"}
    assert (logged.event, logged.key) == ("a b+c", "secret")
    assert logged.headers["authorization"] == "Bearer secret"
    assert logged.headers["accept-encoding"]
    braze.reset()
    assert braze.requests == []


def test_concurrency_peak_is_counted(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The concurrency peak is the highest number of requests in flight at once since the last `reset`."""
    braze.inject(transfer_faults.hold())
    threads = [threading.Thread(target=request_series) for _ in range(3)]
    for thread in threads:
        thread.start()
    braze.wait_for(3)
    braze.reset()
    assert braze.concurrency_peak == 3
    braze.clear_faults()
    for thread in threads:
        thread.join()
    request_series()
    assert braze.concurrency_peak == 3
    braze.reset()
    assert braze.concurrency_peak == 0
    request_series()
    assert braze.concurrency_peak == 1


def test_wait_for_requests_times_out(braze: FaultInjectingBraze) -> None:
    """`wait_for` raises an error with the number of received requests if too few arrive in time."""
    with pytest.raises(TimeoutError, match=r"^0 requests after 0\.01 s, expected 1$"):
        braze.wait_for(1, timeout=0.01)
