"""Test the simulator with Braze's own client, whose models describe the API independently.

The package `braze-mcp-server` is published by Braze. It needs Python 3.12 and has many dependencies, so it is not a
development dependency. Run `pip install braze-mcp-server "mcp<2"` to enable these tests.
"""

import asyncio
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from braze_variants import DayFormat, HourFormat, UnknownEvent
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from wsgi_server import serve

pytest.importorskip("braze_mcp", reason="Braze's own client is not installed, see above")

APP, SEGMENT = "3bbc4555-8fa0-4c9b-a5c0-4505edf3e064", "6d68ea15-26c4-4109-835a-65b81773a5e2"
KEY = "a-key"
NOW = 1_795_436_400.0


def request_series(url: str, key: str = KEY, **parameters: Any) -> Any:  # noqa: ANN401 - whatever the client returns
    """Call the function of Braze's client that fetches the series of an event."""
    from braze_mcp.tools.events import get_events_data_series  # noqa: PLC0415 - not installed everywhere
    from braze_mcp.utils.http import build_http_client  # noqa: PLC0415

    async def call() -> Any:  # noqa: ANN401
        async with build_http_client(key) as client:
            braze = SimpleNamespace(api_key=key, base_url=url, http_client=client)
            context = SimpleNamespace(request_context=SimpleNamespace(lifespan_context=braze))
            return await get_events_data_series(context, **parameters)

    return asyncio.run(call())


def simulated(**switches: Any) -> FaultInjectingBraze:  # noqa: ANN401
    """Return a simulated Braze with one event."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(100):
        recorded.set("purchase", int(NOW) // 3_600 * 3_600 - back * 3_600, back)
    zone = ZoneInfo("America/New_York")
    return FaultInjectingBraze(
        key=KEY, traffic=recorded, clock=lambda: NOW, zone=zone, apps=[APP], segments=[SEGMENT], **switches
    )


@pytest.mark.parametrize("hour_format", HourFormat)
@pytest.mark.parametrize("day_format", DayFormat)
@pytest.mark.parametrize("unit", ["hour", "day"])
def test_official_client_parses_every_response(unit: str, hour_format: HourFormat, day_format: DayFormat) -> None:
    """Braze's models validate a successful response row by row."""
    with serve(simulated(hour_format=hour_format, day_format=day_format)) as server:
        response = request_series(server.url, event="purchase", length=4, unit=unit)
    assert type(response).__name__ == "EventDataSeriesResponse"
    assert response.message == "success"
    assert len(response.data) == 4
    if unit == "hour":
        assert [row.count for row in response.data] == [3, 2, 1, 0]


def test_official_client_filters_are_understood() -> None:
    """The simulator accepts app, segment and end as Braze's client sends them."""
    with serve(simulated()) as server:
        response = request_series(
            server.url,
            event="purchase",
            length=1,
            unit="hour",
            ending_at="2026-11-23T05:59:59-05:00",
            app_id=APP,
            segment_id=SEGMENT,
        )
    assert [row.model_dump() for row in response.data] == [{"time": "2026-11-23T10:00:00+00:00", "count": 0}]


@pytest.mark.parametrize(
    ("key", "event", "status"), [("wrong", "purchase", 401), (KEY, "unknown", 400)], ids=["bad key", "bad event"]
)
def test_official_client_errors_are_understood(key: str, event: str, status: int) -> None:
    """Braze's client recognizes an error by its status and body."""
    with serve(simulated(unknown_event=UnknownEvent.REJECTED)) as server:
        response = request_series(server.url, key, event=event, length=1)
    assert isinstance(response, dict)
    details = response["error"]["details"]
    assert details["http_status"] == status
    assert set(details["response_body"]) == {"message"}
