"""Fixtures with a simulator on a real socket, whose counts and clock the tests set."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from zoneinfo import ZoneInfo

import pytest
import requests
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from wsgi_server import Server, serve

NOW = 1_728_912_000  # 2024-10-14T13:20:00Z, 09:20 in New York


@pytest.fixture
def traffic() -> RecordedCounts:
    """Record twelve purchases in the hour before that of `NOW`, five since, and an event that never occurred."""
    traffic = RecordedCounts(events=["quiet"])
    traffic.set("purchase", NOW - 1_200 - 3_600, 12)
    traffic.set("purchase", NOW - 1_200, 5)
    return traffic


@pytest.fixture
def braze(traffic: RecordedCounts) -> FaultInjectingBraze:
    """Return a simulated Braze in New York with one app and one segment, at the time `NOW`."""
    return FaultInjectingBraze(
        key="secret",
        traffic=traffic,
        clock=lambda: NOW,
        zone=ZoneInfo("America/New_York"),
        apps=["app-1"],
        segments=["segment-1"],
    )


@pytest.fixture
def server(braze: FaultInjectingBraze) -> Iterator[Server]:
    """Serve the simulated Braze on a socket."""
    with serve(braze) as server:
        yield server


@pytest.fixture
def request_series(server: Server) -> Iterator[Callable[..., requests.Response]]:
    """Return a function that requests the last two hours of purchases, or other parameters, over one session."""
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer secret"

        def request_series(**params: Any) -> requests.Response:  # noqa: ANN401 - any URL parameter
            parameters = {"event": "purchase", "length": 2, "unit": "hour", **params}
            return session.get(f"{server.url}/events/data_series", params=parameters, timeout=5, allow_redirects=False)

        yield request_series


@pytest.fixture(scope="session")
def call() -> Callable[..., Any]:
    """Return a function that calls an application without a socket and returns its JSON document."""

    def call(braze: FaultInjectingBraze, **params: object) -> Any:  # noqa: ANN401 - any JSON value
        environ = {
            "PATH_INFO": "/events/data_series",
            "QUERY_STRING": urlencode(params),
            "HTTP_AUTHORIZATION": f"Bearer {braze.key}",
        }
        setup_testing_defaults(environ)
        content = io.BytesIO()
        content.writelines(braze(environ, lambda *_: content.write))
        return json.loads(content.getvalue())

    return call
