"""Test that any response from Braze affects only the query that received it."""

import contextlib
import gc
import http.client
import ssl
import time
import tracemalloc
from pathlib import Path

import pytest
import response_faults
import transfer_faults
import trustme
import urllib3.util.connection
from fault_injection import Fault
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    CURRENT_HOUR,
    HOUR,
    KEY,
    NEW_YORK,
    Clock,
    MetricsPage,
    Program,
    RunningClock,
    running_braze,
    running_exporter,
    workspace_item_yaml,
    write_file,
)
from wsgi_server import serve

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.transport import Timeouts, Transport, open_session
from braze_exporter.simulator.reply import Reply

REDIRECT_TARGET = "http://127.0.0.1:9/elsewhere"

# Faults and the failure reasons they cause. Faults that take time or pause the pool are tested below.
FAILING_RESPONSES: dict[str, tuple[Fault, Reason]] = {
    "400": (response_faults.status(400), Reason.BAD_REQUEST),
    "401": (response_faults.status(401), Reason.UNAUTHORIZED),
    "403": (response_faults.status(403), Reason.FORBIDDEN),
    "404": (response_faults.status(404), Reason.NOT_FOUND),
    "500": (response_faults.status(500), Reason.SERVER_ERROR),
    "502 in HTML": (response_faults.html(502), Reason.SERVER_ERROR),
    "503": (response_faults.status(503), Reason.SERVER_ERROR),
    "504": (response_faults.status(504), Reason.SERVER_ERROR),
    "418": (response_faults.status(418), Reason.UNEXPECTED_STATUS),
    "202 queued": (response_faults.queued(), Reason.UNEXPECTED_STATUS),
    "200 queued": (response_faults.message("queued"), Reason.UNEXPECTED_STATUS),
    "204": (response_faults.no_content(), Reason.UNEXPECTED_STATUS),
    "redirect": (response_faults.redirect(REDIRECT_TARGET), Reason.UNEXPECTED_STATUS),
    "permanent redirect": (response_faults.redirect(REDIRECT_TARGET, 308), Reason.UNEXPECTED_STATUS),
    "reset connection": (transfer_faults.disconnect(), Reason.CONNECTION),
    "closed connection": (transfer_faults.disconnect(reset=False), Reason.CONNECTION),
    "truncated": (transfer_faults.truncated(), Reason.TRUNCATED),
    "truncated chunks": (transfer_faults.truncated_chunks(), Reason.TRUNCATED),
    "HTML": (response_faults.html(), Reason.INVALID_RESPONSE),
    "nothing": (response_faults.empty_body(), Reason.INVALID_RESPONSE),
    "nested deeply": (response_faults.deeply_nested(), Reason.INVALID_RESPONSE),
    "not UTF-8": (response_faults.invalid_utf8(), Reason.INVALID_RESPONSE),
    "garbled gzip": (transfer_faults.garbled_gzip(), Reason.INVALID_RESPONSE),
    "200 MB": (transfer_faults.huge(), Reason.TOO_LARGE),
    "200 MB announced": (transfer_faults.huge(announced=True), Reason.TOO_LARGE),
    "compressed bomb": (transfer_faults.gzip_bomb(), Reason.TOO_LARGE),
    "a list": (response_faults.document([]), Reason.INVALID_RESPONSE),
    "a number": (response_faults.document(7), Reason.INVALID_RESPONSE),
    "message with the key": (response_faults.message(f"Invalid API key: {KEY}"), Reason.INVALID_RESPONSE),
    "message of megabytes": (response_faults.message("no " * 300_000), Reason.INVALID_RESPONSE),
    "400 with the key": (response_faults.status(400, f"Invalid API key: {KEY}\n"), Reason.BAD_REQUEST),
    "redirect with the key": (response_faults.redirect(f"{REDIRECT_TARGET}?{KEY}"), Reason.UNEXPECTED_STATUS),
    "redirect to nowhere": (response_faults.redirect("http://[x"), Reason.UNEXPECTED_STATUS),
    "message of failure": (response_faults.message("error"), Reason.INVALID_RESPONSE),
    "message missing": (response_faults.document({"data": []}), Reason.INVALID_RESPONSE),
    "message null": (response_faults.message(None), Reason.INVALID_RESPONSE),
    "data missing": (response_faults.no_data(), Reason.INVALID_RESPONSE),
    "data null": (response_faults.data(None), Reason.INVALID_RESPONSE),
    "data an object": (response_faults.data({"time": "2026-11-23", "count": 1}), Reason.INVALID_RESPONSE),
    "data of numbers": (response_faults.data([1, 2]), Reason.INVALID_RESPONSE),
    "count negative": (response_faults.count(-1), Reason.INVALID_RESPONSE),
    "count NaN": (response_faults.count(float("nan")), Reason.INVALID_RESPONSE),
    "count infinite": (response_faults.count(float("inf")), Reason.INVALID_RESPONSE),
    "count a string": (response_faults.count("7"), Reason.INVALID_RESPONSE),
    "count a boolean": (response_faults.count(value=True), Reason.INVALID_RESPONSE),
    "count beyond numbers": (response_faults.count(10**400), Reason.INVALID_RESPONSE),
    "time empty": (response_faults.time(""), Reason.INVALID_RESPONSE),
    "time a word": (response_faults.time("yesterday"), Reason.INVALID_RESPONSE),
    "time a number": (response_faults.time(1795436400), Reason.INVALID_RESPONSE),
    "time null": (response_faults.time(None), Reason.INVALID_RESPONSE),
    "time missing": (response_faults.missing("time"), Reason.INVALID_RESPONSE),
    "time in year 1": (response_faults.time("0001-01-01T00:00:00+14:00"), Reason.INVALID_RESPONSE),
    "time in year 9999": (response_faults.time("9999-12-31T23:00:00-12:00"), Reason.INVALID_RESPONSE),
    "contradicting duplicates": (response_faults.duplicated(contradicting=True), Reason.INVALID_RESPONSE),
}

# Unusual responses that are valid.
UNUSUAL_RESPONSES: dict[str, Fault] = {
    "shuffled": response_faults.shuffled(),
    "equal duplicates": response_faults.duplicated(),
    "compressed": transfer_faults.gzipped(),
    "with fields unknown": response_faults.edited(lambda document: document.update(extra={"a": 1})),
    "created": lambda exchange: Reply(201, exchange.reply.headers, exchange.reply.body),
}


def shop() -> RecordedCounts:
    """Return 30 hours of counts: 100 purchases or more an hour, and 7 in the current one."""
    recorded = RecordedCounts(events=["purchase", "signup"])
    for back in range(30):
        recorded.set("purchase", CURRENT_HOUR - back * HOUR, 100 + back if back else 7)
        recorded.set("signup", CURRENT_HOUR - back * HOUR, 3)
    return recorded


# Faults that hold the endpoint, so that other queries are not fetched either.
CIRCUIT_OPENING = {"401", "403"}


@pytest.mark.parametrize("fault", sorted(FAILING_RESPONSES.keys() - CIRCUIT_OPENING))
def test_failed_query_is_counted_once_and_others_succeed(fault: str) -> None:
    """A failed query is down, has one error with its reason and no value; the other query succeeds."""
    failure, reason = FAILING_RESPONSES[fault]
    with running_exporter("{event: signup}\n{event: purchase}", shop()) as exporter:
        exporter.braze.inject(failure, event="purchase")
        page = exporter.scrape()
    assert page.value("braze_query_up", event="purchase") == 0
    assert page.values("braze_custom_events_hourly_latest", event="purchase") == []
    assert page.values("braze_custom_events_hourly_settled", event="purchase") == []
    assert page.value("braze_custom_events_total", event="purchase") == 0
    assert page.value("braze_query_last_success_timestamp_seconds", event="purchase") == 0
    assert errors(page) == {reason: 1}
    assert page.value("braze_query_up", event="signup") == 1
    assert page.value("braze_custom_events_hourly_latest", event="signup") == 3
    assert page.value("braze_up") == 1
    assert len(exporter.braze.requests) == 2


@pytest.mark.parametrize("oddity", UNUSUAL_RESPONSES)
def test_unusual_response_is_accepted(oddity: str) -> None:
    """A response in an unusual form gives the same values as a usual one."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.braze.inject(UNUSUAL_RESPONSES[oddity])
        page = exporter.scrape()
    assert page.value("braze_query_up") == 1
    assert page.value("braze_custom_events_hourly_latest") == 7
    assert page.value("braze_query_latest_bucket_start_timestamp_seconds") == CURRENT_HOUR
    assert page.value("braze_custom_events_hourly_settled") == 102
    assert page.value("braze_query_settled_bucket_start_timestamp_seconds") == CURRENT_HOUR - 2 * HOUR
    assert errors(page) == {}


def test_empty_response_is_success_without_values() -> None:
    """A response with empty data is a success without values and without an error."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.braze.inject(response_faults.data([]))
        page = exporter.scrape()
    assert page.value("braze_query_up") == 1
    assert page.values("braze_custom_events_hourly_latest") == []
    assert page.values("braze_custom_events_hourly_settled") == []
    assert page.values("braze_query_latest_bucket_start_timestamp_seconds") == []
    assert page.value("braze_custom_events_total") == 0
    assert errors(page) == {}


@pytest.mark.parametrize("fault", [transfer_faults.hang(), transfer_faults.drip(0.05)], ids=str)
def test_slow_response_times_out(fault: Fault) -> None:
    """A response that stalls or arrives byte by byte is cut off at the timeout."""
    timeouts = Timeouts(connect=1, read=0.2, total=0.4)
    with running_exporter("{event: purchase}", shop(), clock=RunningClock(), timeouts=timeouts) as exporter:
        exporter.braze.inject(fault)
        page = exporter.scrape()
    assert page.value("braze_query_up") == 0
    assert errors(page) == {Reason.TIMEOUT: 1}


def test_unknown_host_is_dns_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown host is a DNS failure; a port without a listener and a missing IPv6 are connection failures."""
    assert failure_reason("http://127.0.0.1:9") is Reason.CONNECTION
    assert failure_reason("https://rest.iad-99.braze.invalid") is Reason.DNS
    monkeypatch.setattr(urllib3.util.connection, "HAS_IPV6", False)  # which urllib3 finds out when it is imported
    for address in ("http://[::1]:9", "https://[2001:db8::1]"):
        failure = request_failure(address)
        assert failure is not None
        assert (failure.reason, failure.detail) == (Reason.CONNECTION, "connection failed: this machine has no IPv6")


def test_untrusted_certificate_is_tls_failure() -> None:
    """The key is not sent to a server whose certificate the CA bundle does not cover."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    braze = FaultInjectingBraze(key=KEY, traffic=shop(), clock=Clock().wall, zone=NEW_YORK)
    with serve(braze, tls=context) as running, authority.cert_pem.tempfile() as bundle:
        assert failure_reason(running.url) is Reason.TLS
        assert braze.requests == []
        assert failure_reason(running.url, bundle) is None
        assert [request.key for request in braze.requests] == [KEY]
        assert failure_reason(running.url.replace("127.0.0.1", "localhost"), bundle) is Reason.TLS  # another host name
        assert len(braze.requests) == 1


def failure_reason(url: str, ca_bundle: str | None = None) -> Reason | None:
    """Send one request to a URL and return the reason of its failure, or None."""
    failure = request_failure(url, ca_bundle)
    return failure.reason if failure is not None else None


def request_failure(url: str, ca_bundle: str | None = None) -> BrazeError | None:
    """Send one request to a URL and return its failure, or None."""
    with contextlib.closing(open_session(1, ca_bundle)) as session:
        transport = Transport(session, url, lambda: KEY, monotonic=time.monotonic)
        try:
            received = transport.get("/events/data_series", {"event": "purchase", "length": "1"})
        except BrazeError as error:
            assert KEY not in str(error)
            return error
    assert received.status == 200
    return None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status: int) -> None:
    """A redirect is not followed, so the key is not sent to another host, and the message says so."""
    with (
        running_exporter("{event: purchase}", shop()) as elsewhere,
        running_exporter("{event: purchase}", shop()) as exporter,
    ):
        target = f"{elsewhere.url}/events/data_series?event=purchase&length=24"
        exporter.braze.inject(response_faults.redirect(target, status))
        exporter.scrape()
        assert elsewhere.braze.requests == []
        (query_state,) = exporter.exporter.query_states
    assert query_state.error is not None
    assert query_state.error.detail == f"{status} {http.client.responses[status]}, redirect not followed"


def test_status_without_content_is_described() -> None:
    """A 204 is an error whose message says that the response is empty."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.braze.inject(response_faults.no_content())
        exporter.scrape()
        (query_state,) = exporter.exporter.query_states
    assert query_state.error is not None
    assert query_state.error.detail == "204 No Content, empty response"


def test_oversized_body_is_limited_in_memory() -> None:
    """A body of 200 MB, plain or compressed, needs no more memory than a few usual responses."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        for fault in (transfer_faults.huge(), transfer_faults.gzip_bomb()):
            exporter.braze.inject(fault, times=1)
            exporter.clock.advance(300)
            tracemalloc.start()
            page = exporter.scrape()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert page.value("braze_query_up") == 0
            assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize(
    "fault",
    [
        transfer_faults.huge(),
        transfer_faults.gzip_bomb(),
        transfer_faults.garbled_gzip(),
        transfer_faults.truncated(),
        transfer_faults.truncated_chunks(),
        transfer_faults.disconnect(),
        transfer_faults.disconnect(reset=False),
        response_faults.html(),
        response_faults.status(503),
    ],
    ids=str,
)
def test_failed_call_keeps_no_references(fault: Fault) -> None:
    """After a failure only its reason and message stay in memory, even if no garbage is collected."""
    names = [f"event {number}" for number in range(20)]
    with running_exporter("\n".join(f"{{event: {name}}}" for name in names), RecordedCounts(events=names)) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(fault)
        gc.collect()
        gc.disable()
        try:
            tracemalloc.start()
            assert exporter.scrape().values("braze_query_up") == [0] * 20
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert gc.collect() < 20
        finally:
            gc.enable()
    assert kept < 1_000_000


@pytest.mark.no_cover
def test_program_serves_through_every_fault(tmp_path: Path) -> None:
    """With every fault at once, `/metrics` works, each workspace counts its own error, and the key is not shown."""
    names = list(FAILING_RESPONSES)
    traffic = RecordedCounts(events=["signup", *names])
    with running_braze(traffic) as (braze, _), contextlib.ExitStack() as stack:
        items = ""
        for name in names:
            url = stack.enter_context(serve(braze)).url  # with one url they would share the key state
            items += workspace_item_yaml(url, f'{{event: signup}}\n{{event: "{name}"}}', name=f'"{name}"')
            braze.inject(FAILING_RESPONSES[name][0], event=name)
        config = write_file(tmp_path / "config.yaml", "workspaces:\n" + items)
        with Program.start([f"--config.file={config}", "--log.level=debug"]) as program:
            page = program.scrape(timeout=60)
            again = program.get("/metrics", {"Accept": "application/openmetrics-text"})
        for name in names:
            reason, path = FAILING_RESPONSES[name][1], "/events/data_series"
            assert page.value("braze_query_up", workspace=name, event=name) == 0
            up = page.value("braze_query_up", workspace=name, event="signup")
            assert up == (0 if name in CIRCUIT_OPENING else 1), name
            assert page.value("braze_api_requests_failed_total", workspace=name, path=path, reason=reason) == 1, name
            assert sum(page.values("braze_api_requests_failed_total", workspace=name, path=path)) == 1
            assert page.values("braze_custom_events_hourly_latest", workspace=name, event=name) == []
    assert again.status == 200
    assert program.process.returncode == 0
    assert KEY not in program.output + page.text + again.text
    assert "Traceback" not in program.output
    assert program.output.count('msg="Query failed"') == len(names) + len(CIRCUIT_OPENING)
    assert max(map(len, program.lines)) < 600
    assert "Invalid API key: ***" in program.output


def errors(page: MetricsPage) -> dict[str, float]:
    """Return the counted errors by reason."""
    result: dict[str, float] = {}
    for (name, labels), value in page.samples.items():
        if name == "braze_api_requests_failed_total" and value:
            result[dict(labels)["reason"]] = value
    return result
