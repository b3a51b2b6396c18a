"""Test end to end: two real Prometheus servers scrape the exporter, which fetches from a simulated Braze.

Needs `prometheus` and `promtool` (Debian: prometheus). Without them the tests are skipped, except in CI, where they
fail.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import bcrypt
import docs
import pytest
from certificates import Pki
from recorded_counts import RecordedCounts
from servers import Prometheus, require_tool, running_prometheus
from simulated_braze import FaultInjectingBraze
from support import (
    HOUR,
    IOS,
    NEW_YORK,
    VIP,
    Program,
    running_braze,
    series_requests,
    wait_until,
    workspace_yaml,
    write_file,
)

pytestmark = pytest.mark.no_cover

EVENTS = """
{event: purchase, apps: [all, ios], segments: [all, vip]}
{event: purchase, unit: day, apps: [all, ios]}
{event: "sign \\"up\\" 🎉"}
{event: quiet}
{event: growing, refresh_interval: 1s}
"""
NAMES = ["purchase", 'sign "up" 🎉', "quiet", "growing"]


class Shop(RecordedCounts):
    """Counts that differ in each hour, so that no bucket can be mistaken for another."""

    def __init__(self) -> None:
        super().__init__(events=NAMES)
        this_hour = int(time.time()) // HOUR * HOUR
        for back in range(-2, 16 * 24):
            for number, (app, segment) in enumerate([("", ""), (IOS, ""), ("", VIP), (IOS, VIP)]):
                self.set("purchase", this_hour - back * HOUR, 10_000 - 1_000 * number + back, app, segment)
            self.set(NAMES[1], this_hour - back * HOUR, 500 + back)
            self.set("growing", this_hour - back * HOUR, 7)


@dataclass(frozen=True)
class Chain:
    """All components of the test, running."""

    shop: Shop
    braze: FaultInjectingBraze
    program: Program
    servers: tuple[Prometheus, Prometheus]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a simulated Braze, the exporter and two Prometheus servers, until both have scraped several times."""
    require_tool("prometheus")
    directory = tmp_path_factory.mktemp("chain")
    shop = Shop()
    with ExitStack() as stack:
        braze, server = stack.enter_context(running_braze(shop))
        config = workspace_yaml(
            server.url, EVENTS, extra_yaml="refresh_interval: {hour: 10m, day: 10m}\nbudget: {share: 0.5}\n"
        )
        program = stack.enter_context(Program.start([f"--config.file={write_file(directory / 'config.yaml', config)}"]))
        first, second = (
            stack.enter_context(running_prometheus(directory / name, program.port)) for name in ("first", "second")
        )
        wait_until(lambda: first.is_responding() and second.is_responding(), "both Prometheus servers have scraped", 60)
        yield Chain(shop, braze, program, (first, second))


def series_labels(**labels: str) -> frozenset[tuple[str, str]]:
    """Return the labels of one series."""
    return frozenset({"workspace": "production", **labels}.items())


def bucket_starts(server: Prometheus, measure: str, unit: str) -> dict[frozenset[tuple[str, str]], float]:
    """Return the starts of the latest or settled buckets by the labels of the values. Prometheus drops empty labels."""
    family = f"braze_query_{measure}_bucket_start_timestamp_seconds"
    return server.query(f'max without (kind, unit, job, instance) ({family}{{unit="{unit}"}})')


@pytest.mark.parametrize("which", [0, 1])
def test_prometheus_has_every_braze_value(chain: Chain, which: int) -> None:
    """For each event, app, segment and unit, latest and settled have Braze's values for the buckets that are shown."""
    server, shop = chain.servers[which], chain.shop
    starts, settled_starts = bucket_starts(server, "latest", "hour"), bucket_starts(server, "settled", "hour")
    assert starts.keys() == settled_starts.keys()
    assert {series_labels(event=name) for name in NAMES} <= starts.keys()
    latest = server.query("braze_custom_events_hourly_latest")
    settled = server.query("braze_custom_events_hourly_settled")
    for name in NAMES:
        if name != "growing":  # another test makes it grow
            assert latest[series_labels(event=name)] == shop.count(name, int(starts[series_labels(event=name)]), 0)
        assert settled[series_labels(event=name)] == shop.count(name, int(settled_starts[series_labels(event=name)]), 0)
        assert starts[series_labels(event=name)] - settled_starts[series_labels(event=name)] == 2 * HOUR
    for parts, labels, app_id, segment_id in (
        ("app", series_labels(event="purchase", braze_app="ios"), IOS, ""),
        ("segment", series_labels(event="purchase", segment="vip"), "", VIP),
        ("app_segment", series_labels(event="purchase", braze_app="ios", segment="vip"), IOS, VIP),
    ):
        settled = server.query(f"braze_custom_events_by_{parts}_hourly_settled")
        count = shop.count("purchase", int(settled_starts[labels]), 0, app_id, segment_id)
        assert settled == {labels: count}


def test_daily_values_are_sums_of_hours(chain: Chain) -> None:
    """The settled day is the sum of the hours of that local day, in total and by app."""
    server, shop = chain.servers[0], chain.shop
    starts = bucket_starts(server, "settled", "day")
    start = int(starts[series_labels(event="purchase")])
    day = datetime.fromtimestamp(start, NEW_YORK).date()
    assert datetime.fromtimestamp(start, NEW_YORK).hour == 0
    following = datetime.combine(day + timedelta(days=1), datetime.min.time(), NEW_YORK)
    hours = range(start, int(following.timestamp()), HOUR)
    for app_id, name, labels in (
        ("", "custom_events", series_labels(event="purchase")),
        (IOS, "custom_events_by_app", series_labels(event="purchase", braze_app="ios")),
    ):
        value = server.query(f"braze_{name}_daily_settled")
        assert value[labels] == sum(shop.count("purchase", hour, 0, app_id) for hour in hours)


def test_two_prometheus_servers_cost_calls_of_one(chain: Chain) -> None:
    """Each query with a long refresh interval was fetched once, regardless of the number of scrapes."""
    scrapes = sum(sum(server.query("count_over_time(up[10m])").values()) for server in chain.servers)
    assert scrapes >= 6
    requested = [
        (request.event, request.params.get("app_id"), request.params.get("segment_id"), request.params["unit"])
        for request in series_requests(chain.braze)
        if request.event != "growing"
    ]
    assert len(requested) == len(set(requested)) == 8


def test_counter_in_prometheus_grows_by_reported_counts(chain: Chain) -> None:
    """Occurrences that Braze reports while Prometheus scrapes are added to the counter in both servers."""
    before = [server.query("braze_custom_events_total")[series_labels(event="growing")] for server in chain.servers]
    this_hour = int(time.time()) // HOUR * HOUR
    for hour in (this_hour, this_hour - HOUR):  # a new hour may begin before the next fetch
        chain.shop.set("growing", hour, chain.shop.count("growing", hour, 0) + 11)
    for server, count in zip(chain.servers, before, strict=True):
        wait_until(
            lambda server=server, count=count: (  # type: ignore[misc] # bound now
                server.query("braze_custom_events_total")[series_labels(event="growing")] == count + 22
            ),
            "the counter has grown by 22",
        )


def test_every_documented_promql_runs(chain: Chain) -> None:
    """Prometheus accepts each expression of the documents, and those for existing values return some."""
    lines = "".join(docs.code_blocks("promql")).splitlines()
    expressions = [line for line in lines if line and not line.startswith("#")]
    assert len(expressions) >= 9
    vectors = {expression: chain.servers[0].query(expression) for expression in expressions}
    for expression, vector in vectors.items():
        # These expressions need history, the demo's names, a campaign or the name of the job.
        if not re.search(r"job=|offset|increase|baseline|== 0|event=|campaign", expression):
            assert vector, expression


def test_alerting_metrics_exist(chain: Chain) -> None:
    """The metrics that the documents use for alerts can be queried."""
    server = chain.servers[0]
    assert server.query("braze_up") == {series_labels(): 1}
    assert server.query('sum(braze_queries{state="up"})') == {frozenset(): 9}
    assert server.query("sum(braze_api_requests_failed_total)") == {frozenset(): 0}
    assert server.query("braze_api_rate_limit_remaining / braze_api_rate_limit > 0.9") != {}


def test_prometheus_scrapes_with_tls_and_password(tmp_path: Path) -> None:
    """`up` is 1 with the CA and the password of the web configuration file, and 0 without one of them."""
    require_tool("prometheus")
    pki = Pki.make(tmp_path)
    hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(10)).decode()
    tls = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}"
    web = write_file(tmp_path / "web.yaml", f"{tls}\nbasic_auth_users: {{prometheus: {hashed}}}\n")
    trust: dict[str, object] = {"scheme": "https", "tls_config": {"ca_file": str(tmp_path / "ca.pem")}}
    right, wrong = ({"username": "prometheus", "password": f"{word} horse"} for word in ("correct", "wrong"))
    how: dict[str, Mapping[str, object]] = {
        "right": {**trust, "basic_auth": right},
        "wrong": {**trust, "basic_auth": wrong},
        "none": trust,
        "no ca": {"scheme": "https", "basic_auth": right},
        "plain": {"basic_auth": right},
    }
    with ExitStack() as stack:
        _, server = stack.enter_context(running_braze(Shop()))
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        arguments = [f"--config.file={config}", f"--web.config.file={web}"]
        program = stack.enter_context(Program.start(arguments, tls=pki.client()))
        requested = stack.enter_context(running_prometheus(tmp_path / "prometheus", program.port, how))

        def up() -> dict[str, float]:
            vector = requested.query(
                "sum by (name) (label_replace(min_over_time(up[1m]), 'name', '$1', 'job', '(.*)'))"
            )
            return {dict(labels)["name"]: value for labels, value in vector.items()}

        expected = {name: float(name == "right") for name in how}
        wait_until(
            lambda: requested.is_responding() and up() == expected,
            "only the scrape with TLS and the right password has metrics",
            60,
        )
        assert requested.query("braze_up") == {series_labels(): 1}
    assert [line.split('msg="')[1].split('"')[0] for line in program.lines] == ["Exporter started", "Exporter stopped"]
