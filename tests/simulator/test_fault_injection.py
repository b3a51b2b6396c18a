"""Test the injected faults of the simulator over real sockets."""

import gzip
import http.client
import json
import math
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import requests
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from simulated_braze import FaultInjectingBraze
from wsgi_server import Disconnect, Server

RequestSeries = Callable[..., requests.Response]

TRUTH = [{"time": "2024-10-14T12:00:00+00:00", "count": 12}, {"time": "2024-10-14T13:00:00+00:00", "count": 5}]
RATE_LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
TARGET = "/events/data_series?event=purchase&length=2&unit=hour"


def raw(server: Server, connection_header: str = "keep-alive") -> bytes:
    """Send one raw request and return all bytes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(
            f"GET {TARGET} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
            f"Connection: {connection_header}\r\n\r\n".encode()
        )
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (400, "Bad Request"),
        (401, "Invalid API key: secret"),
        (403, "Forbidden"),
        (404, "Invalid URL"),
        (418, "I'm a Teapot"),
        (429, "Rate limit exceeded"),
        (500, "Internal Server Error"),
        (502, "Bad Gateway"),
        (503, "Service Unavailable"),
        (504, "Gateway Timeout"),
        (520, "Unknown"),
    ],
)
def test_status_fault_returns_status(
    request_series: RequestSeries, braze: FaultInjectingBraze, code: int, message: str
) -> None:
    """A status fault returns that status with Braze's error document; only a 401 has empty rate limit headers."""
    braze.inject(response_faults.status(code))
    response = request_series()
    assert (response.status_code, response.json()) == (code, {"message": message})
    assert [response.headers[name] == "" for name in RATE_LIMIT_HEADERS] == [code == 401] * 3


def test_status_fault_returns_message(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The message and the minor errors of an error document can be set."""
    braze.inject(response_faults.status(400, "no such thing", errors=["one", "two"]))
    assert request_series().json() == {"message": "no such thing", "errors": ["one", "two"]}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("present", ["250000", "0", "1728914400"]),
        ("absent", [None, None, None]),
        ("garbled", ["unlimited", "none", "soon"]),
        ("relative", ["250000", "0", "2400"]),
    ],
)
def test_rate_limited_fault_returns_429(
    request_series: RequestSeries,
    braze: FaultInjectingBraze,
    headers: Any,  # noqa: ANN401 - a header value or its absence
    expected: list[str | None],
) -> None:
    """A 429 has valid, no, invalid or relative rate limit headers."""
    braze.inject(response_faults.rate_limited(headers))
    response = request_series()
    assert (response.status_code, response.json()) == (429, {"message": "Rate limit exceeded"})
    assert [response.headers.get(name) for name in RATE_LIMIT_HEADERS] == expected
    assert "Retry-After" not in response.headers


def test_rate_limited_fault_sends_retry_after(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A 429 has `Retry-After` only if it was set."""
    braze.inject(response_faults.rate_limited(retry_after="30"))
    assert request_series().headers["Retry-After"] == "30"


def test_queued_fault_returns_202(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A call during maintenance is 202 with the message "queued"."""
    braze.inject(response_faults.queued())
    response = request_series()
    assert (response.status_code, response.json()) == (202, {"message": "queued"})


def test_no_content_fault_returns_204(braze: FaultInjectingBraze, server: Server) -> None:
    """A 204 has neither a length nor a body."""
    braze.inject(response_faults.no_content())
    head, body = raw(server, "close").split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204 No Content\r\n")
    assert b"Content-Length" not in head
    assert b"Transfer-Encoding" not in head
    assert body == b""


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirect_fault_sends_location(request_series: RequestSeries, braze: FaultInjectingBraze, code: int) -> None:
    """A redirect has the given `Location`."""
    braze.inject(response_faults.redirect("https://elsewhere.example/x", code))
    response = request_series()
    assert (response.status_code, response.headers["Location"]) == (code, "https://elsewhere.example/x")


@pytest.mark.parametrize("code", [200, 502])
def test_html_fault_returns_html(request_series: RequestSeries, braze: FaultInjectingBraze, code: int) -> None:
    """An HTML page has its content type and is not JSON."""
    braze.inject(response_faults.html(code))
    response = request_series()
    assert (response.status_code, response.headers["Content-Type"]) == (code, "text/html")
    assert response.text.startswith("<html>")
    assert "X-RateLimit-Limit" not in response.headers


def test_with_headers_fault_changes_headers(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """Headers of an unchanged response are replaced or left out."""
    braze.inject(
        response_faults.with_headers({"X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": None, "Content-Type": "x/y"})
    )
    response = request_series()
    assert response.json()["data"] == TRUTH
    assert [response.headers.get(name) for name in RATE_LIMIT_HEADERS] == ["250000", "-1", None]
    assert response.headers["Content-Type"] == "x/y"


@pytest.mark.parametrize("content", [b"", b"success", b'{"message":"success","data":[', b"\xff\xfe"])
def test_body_fault_returns_bytes(request_series: RequestSeries, braze: FaultInjectingBraze, content: bytes) -> None:
    """A body fault returns a 200 with any bytes."""
    braze.inject(response_faults.body(content) if content else response_faults.empty_body())
    response = request_series()
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["Content-Length"] == str(len(content))


@pytest.mark.parametrize("value", [None, [], "success", 1, True, [{"message": "success"}]], ids=str)
def test_document_fault_returns_json(request_series: RequestSeries, braze: FaultInjectingBraze, value: object) -> None:
    """A document fault returns a 200 with any JSON value."""
    braze.inject(response_faults.document(value))
    assert request_series().json() == value


def test_deeply_nested_fault_nests_lists(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The document has an additional member that is nested too deeply for a recursive parser."""
    braze.inject(response_faults.deeply_nested())
    content = request_series().content
    assert content.startswith(b'{"note":[[[[')
    with pytest.raises(RecursionError):
        json.loads(content)
    braze.inject(response_faults.deeply_nested(3))
    assert request_series().json() == {"note": [[[]]], "message": "success", "data": TRUTH}


def test_invalid_utf8_fault_breaks_encoding(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The document has an additional member that is not UTF-8 and is otherwise unchanged."""
    braze.inject(response_faults.invalid_utf8())
    content = request_series().content
    with pytest.raises(UnicodeDecodeError):
        content.decode()
    assert json.loads(content.decode(errors="replace"))["data"] == TRUTH


@pytest.mark.parametrize(
    ("fault", "document"),
    [
        (response_faults.message("queued"), {"message": "queued", "data": TRUTH}),
        (response_faults.message(None), {"message": None, "data": TRUTH}),
        (response_faults.no_data(), {"message": "success"}),
        (response_faults.data(None), {"message": "success", "data": None}),
        (response_faults.data({}), {"message": "success", "data": {}}),
        (response_faults.data([]), {"message": "success", "data": []}),
        (response_faults.data([1, [], None]), {"message": "success", "data": [1, [], None]}),
        pytest.param(
            response_faults.edited(lambda content: content.update(extra=1)),
            {"message": "success", "data": TRUTH, "extra": 1},
            id="edited",
        ),
        (response_faults.shuffled(), {"message": "success", "data": TRUTH[::-1]}),
    ],
    ids=str,
)
def test_edited_fault_changes_document(
    request_series: RequestSeries, braze: FaultInjectingBraze, fault: Fault, document: object
) -> None:
    """Only the requested part of the document is changed."""
    braze.inject(fault)
    response = request_series()
    assert (response.status_code, response.json()) == (200, document)


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        (response_faults.time(""), {"time": "", "count": 5}),
        (response_faults.time("yesterday"), {"time": "yesterday", "count": 5}),
        (response_faults.time(1_728_910_800), {"time": 1_728_910_800, "count": 5}),
        (response_faults.time(None), {"time": None, "count": 5}),
        (response_faults.missing("time"), {"count": 5}),
        (response_faults.missing("count"), {"time": TRUTH[1]["time"]}),
        (response_faults.count(None), {"time": TRUTH[1]["time"], "count": None}),
        (response_faults.count(-1), {"time": TRUTH[1]["time"], "count": -1}),
        (response_faults.count("5"), {"time": TRUTH[1]["time"], "count": "5"}),
        (response_faults.count(value=True), {"time": TRUTH[1]["time"], "count": True}),
        (response_faults.count(10**400), {"time": TRUTH[1]["time"], "count": 10**400}),
        (response_faults.count(math.inf), {"time": TRUTH[1]["time"], "count": math.inf}),
        (response_faults.count(5.5), {"time": TRUTH[1]["time"], "count": 5.5}),
    ],
    ids=str,
)
def test_edited_fault_changes_row(
    request_series: RequestSeries, braze: FaultInjectingBraze, fault: Fault, last: object
) -> None:
    """Only the requested field of the newest row is changed."""
    braze.inject(fault)
    assert request_series().json()["data"] == [TRUTH[0], last]


def test_count_fault_returns_nan(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """NaN is written as in Python, which is not valid JSON; the row can be chosen."""
    braze.inject(response_faults.count(math.nan, row=0))
    assert b'{"time":"2024-10-14T12:00:00+00:00","count":NaN}' in request_series().content


@pytest.mark.parametrize("contradicting", [False, True])
def test_duplicated_fault_repeats_row(
    request_series: RequestSeries, braze: FaultInjectingBraze, *, contradicting: bool
) -> None:
    """The newest row appears twice, with the same or another count."""
    braze.inject(response_faults.duplicated(contradicting=contradicting))
    assert request_series().json()["data"] == [*TRUTH, {**TRUTH[1], "count": 6 if contradicting else 5}]


def test_edited_fault_leaves_errors(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """An error response is not edited."""
    braze.inject(response_faults.no_data())
    assert request_series(length=0).json() == {"message": "length must be an integer between 1 and 100"}


@pytest.mark.parametrize("fault", [transfer_faults.disconnect(), transfer_faults.disconnect(reset=False)], ids=str)
def test_disconnect_fault_breaks_connection(
    request_series: RequestSeries, braze: FaultInjectingBraze, fault: Fault
) -> None:
    """The connection breaks before the first byte of a response; the next call succeeds."""
    braze.inject(fault, times=1)
    with pytest.raises(requests.ConnectionError):
        request_series()
    assert request_series().json()["data"] == TRUTH
    assert braze.concurrency_peak == 1


def test_disconnect_fault_sends_reset(braze: FaultInjectingBraze, server: Server) -> None:
    """The connection ends with a TCP reset, or regularly if `reset` is false."""
    braze.inject(transfer_faults.disconnect(), times=1)
    with pytest.raises(ConnectionResetError):
        raw(server)
    braze.inject(transfer_faults.disconnect(reset=False), times=1)
    assert raw(server) == b""


def test_truncated_fault_sends_half(request_series: RequestSeries, braze: FaultInjectingBraze, server: Server) -> None:
    """The header announces the whole body, but half of it is sent before the connection closes."""
    whole = request_series().content
    braze.inject(transfer_faults.truncated())
    head, body = raw(server).split(b"\r\n\r\n", 1)
    assert f"Content-Length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]


def test_truncated_chunks_fault_sends_half(
    request_series: RequestSeries, braze: FaultInjectingBraze, server: Server
) -> None:
    """Half of the body is sent in a chunk, and the connection closes without the last chunk."""
    whole = request_series().content
    half = whole[: len(whole) // 2]
    braze.inject(transfer_faults.truncated_chunks())
    head, body = raw(server).split(b"\r\n\r\n", 1)
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"%x\r\n%b\r\n" % (len(half), half)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        request_series()


def test_delay_fault_waits(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The unchanged response is sent after the delay."""
    braze.inject(transfer_faults.delay(0.05))
    started_at = time.monotonic()
    assert request_series().json()["data"] == TRUTH
    assert time.monotonic() - started_at >= 0.05


def test_hold_fault_waits_until_cleared(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A held request gets its unchanged response once the fault is cleared."""
    responses: list[Any] = []
    braze.inject(transfer_faults.hold(), event="purchase")
    thread = threading.Thread(target=lambda: responses.append(request_series().json()["data"]))
    thread.start()
    braze.wait_for(1)
    braze.clear_faults(event="quiet")
    assert [row["count"] for row in request_series(event="quiet").json()["data"]] == [0, 0]
    assert responses == []
    braze.clear_faults(event="purchase")
    thread.join()
    assert responses == [TRUTH]


@pytest.mark.parametrize(
    "fault",
    [transfer_faults.hang(), transfer_faults.hold(), transfer_faults.delay(60), transfer_faults.drip(60)],
    ids=str,
)
def test_waiting_faults_end_on_close(request_series: RequestSeries, braze: FaultInjectingBraze, fault: Fault) -> None:
    """Closing the server breaks the connection of any waiting response, and later calls succeed."""
    failures: list[Exception] = []

    def fail() -> None:
        try:
            request_series()
        except requests.RequestException as error:
            failures.append(error)

    braze.inject(fault, times=1)
    thread = threading.Thread(target=fail)
    thread.start()
    braze.wait_for(1)
    while thread.is_alive():
        braze.close()
        thread.join(0.01)
    assert len(failures) == 1
    assert request_series().json()["data"] == TRUTH


def test_drip_fault_sends_bytes_slowly(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """The body is sent byte by byte with a pause after each, and is complete."""
    length = len(request_series().content)
    braze.inject(transfer_faults.drip(0.0005))
    started_at = time.monotonic()
    response = request_series()
    assert response.json()["data"] == TRUTH
    assert response.headers["Content-Length"] == str(length)
    assert time.monotonic() - started_at >= length * 0.0005


@pytest.mark.parametrize("announced", [False, True])
def test_huge_fault_pads_body(request_series: RequestSeries, braze: FaultInjectingBraze, *, announced: bool) -> None:
    """The unchanged document is padded to the exact size, in chunks or with its length."""
    braze.inject(transfer_faults.huge(1_000_003, announced=announced))
    response = request_series()
    assert len(response.content) == 1_000_003
    assert response.json()["data"] == TRUTH
    assert response.headers.get("Content-Length") == ("1000003" if announced else None)
    assert response.headers.get("Transfer-Encoding") == (None if announced else "chunked")


def test_huge_fault_uses_little_memory(braze: FaultInjectingBraze, server: Server) -> None:
    """200 MB are generated while they are sent."""
    braze.inject(transfer_faults.huge())
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    tracemalloc.start()
    connection.request("GET", TARGET, headers={"Authorization": "Bearer secret"})
    response = connection.getresponse()
    for _ in range(100):
        assert len(response.read(65_536)) == 65_536
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    response.close()
    connection.close()
    assert peak < 5_000_000


def test_gzip_bomb_fault_expands(braze: FaultInjectingBraze, server: Server) -> None:
    """200 KB of compressed data expand to 200 MB in one valid gzip stream that begins with the unchanged document."""
    braze.inject(transfer_faults.gzip_bomb())
    head, body = raw(server, "close").split(b"\r\n\r\n", 1)
    assert b"Content-Encoding: gzip" in head
    assert len(body) < 250_000
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    assert json.loads(stream.decompress(body, 1_000))["data"] == TRUTH
    braze.inject(transfer_faults.gzip_bomb(3))
    body = raw(server, "close").split(b"\r\n\r\n", 1)[1]
    whole = gzip.decompress(body)
    assert len(whole.rstrip()) == len(whole) - 3_000_000


def test_gzipped_fault_compresses(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A compressed response has the `Content-Encoding` header and the unchanged document."""
    braze.inject(transfer_faults.gzipped())
    response = request_series()
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.json()["data"] == TRUTH


def test_garbled_gzip_fault_is_invalid(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A response that is marked as compressed is not."""
    braze.inject(transfer_faults.garbled_gzip())
    with pytest.raises(requests.exceptions.ContentDecodingError):
        request_series()


def test_faults_apply_given_times(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """Faults with `times` apply in their order, then the newest permanent fault applies until faults are cleared."""
    braze.inject(response_faults.status(504))
    braze.inject(response_faults.status(500), times=2)
    braze.inject(response_faults.status(502), times=1)
    braze.inject(response_faults.status(503))
    assert [request_series().status_code for _ in range(6)] == [500, 500, 502, 503, 503, 503]
    braze.clear_faults()
    assert request_series().status_code == 200


def test_faults_apply_to_one_event(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A fault of an event applies to that event only, before general faults, and can be cleared on its own."""
    braze.inject(response_faults.status(500))
    braze.inject(response_faults.status(503), event="quiet")
    assert [request_series().status_code, request_series(event="quiet").status_code] == [500, 503]
    braze.clear_faults(event="quiet")
    assert [request_series().status_code, request_series(event="quiet").status_code] == [500, 500]
    braze.inject(response_faults.status(503), event="quiet")
    braze.clear_faults()
    assert [request_series().status_code, request_series(event="quiet").status_code] == [200, 200]


def test_faults_are_counted_once_across_threads(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A fault for ten calls applies to exactly ten of many concurrent ones."""
    braze.inject(response_faults.status(503), times=10)
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.extend(request_series().status_code for _ in range(5))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (codes.count(503), codes.count(200)) == (10, 30)
    assert len(braze.requests) == 40


def test_failed_calls_use_rate_limit(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A call with a fault is recorded and uses the rate limit like any other call."""
    braze.inject(response_faults.status(503), times=1)
    request_series()
    assert request_series().headers["X-RateLimit-Remaining"] == "249998"
    assert len(braze.requests) == 2


def test_custom_fault_is_applied(request_series: RequestSeries, braze: FaultInjectingBraze) -> None:
    """A fault is any function that returns a `Reply` for an `Exchange`, or breaks the connection."""

    def fault(exchange: Exchange) -> Any:  # noqa: ANN401 - the type is the library's
        if exchange.request.event == "quiet":
            raise Disconnect
        return exchange.reply

    braze.inject(fault)
    assert request_series().json()["data"] == TRUTH
    with pytest.raises(requests.ConnectionError):
        request_series(event="quiet")


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (response_faults.status(503), "status(503)"),
        (response_faults.count(value=True), "count(value=True)"),
        (response_faults.rate_limited("absent", retry_after="1"), "rate_limited('absent', retry_after='1')"),
        (transfer_faults.huge(), "huge()"),
    ],
    ids=str,
)
def test_faults_have_names(fault: Fault, name: str) -> None:
    """The text of a fault is the call that made it."""
    assert str(fault) == name
