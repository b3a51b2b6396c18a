"""Measure the performance figures of docs/architecture.md, as ratios within one run: `python tests/benchmark.py`.

A simulated Braze, the exporter and the scraper run as separate processes and communicate over loopback. The exit code
is 1 if a limit is exceeded.
"""

import argparse
import contextlib
import gc
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import core_benchmark
import psutil
import transfer_faults
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from simulated_braze import FaultInjectingBraze
from support import SavedCounters
from wsgi_server import serve

from braze_exporter.braze.deadline import deadline_in
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.transport import open_session
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.metrics.baseline import BaselineHistory
from braze_exporter.scheduler.query_state import Refresh
from braze_exporter.simulator.demo_config import ZONE
from braze_exporter.simulator.traffic import Traffic, TrafficShape
from braze_exporter.state.counter_state import CounterKey
from braze_exporter.state.state_file import open_state_file
from braze_exporter.web import listening, server

LATENCY_SECONDS = 0.1
CONNECTIONS = 10
KEY = "benchmark"
_CAMPAIGNS_AND_DAYS = ((100, 0), (300, 100), (1_000, 0))


def main() -> int:
    """Run all benchmarks, or the helper process that the arguments name, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="all", choices=["all", "braze", "constant"])
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=250_000)
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    if options.role == "braze":
        return _simulate_braze(options.latency, options.limit)
    if options.role == "constant":
        return _serve_constant(options.file)
    measurements = (
        *(_measure_refresh, _measure_scrape, _measure_ten_scrapers, _measure_counters, _measure_backfill),
        *(_measure_campaigns, _measure_baselines),
    )
    passed = [measure() for measure in measurements]
    return 0 if all(passed) else 1


def _check(what: str, measured: float, limit: float, unit: str = "x") -> bool:
    passed = measured <= limit
    print(f"{'ok  ' if passed else 'FAIL'} {what}: {measured:.2f} {unit} (limit: {limit:g} {unit})", flush=True)
    return passed


def _measure_refresh() -> bool:
    """Fetch 500 due queries at 100 ms over 10 connections, and compare with the same calls of ten bare threads."""
    queries, ours, bare = 500, [], []
    for _ in range(5):
        with _processes(queries, LATENCY_SECONDS) as (exporter, braze, _):
            started = time.perf_counter()
            page, _ = _get(exporter.port, timeout=60)
            ours.append(time.perf_counter() - started)
            bare.append(_seconds_of_bare_calls(braze.port, queries))
        if len(re.findall(rb"^braze_query_up\{.*\} 1\.0$", page, re.MULTILINE)) < queries:
            print("FAIL a query failed")
            return False
    seconds, minimum = statistics.median(ours), statistics.median(bare)
    print(f"     {queries} queries in {seconds:.2f} s; bare calls in {minimum:.2f} s")
    return _check("refresh of 500 queries, relative to bare calls", seconds / minimum, 1.1)


def _seconds_of_bare_calls(port: int, number: int) -> float:
    """Return how long `number` calls to the simulated Braze take in as many threads as there are connections."""
    session = open_session(CONNECTIONS)
    session.headers["Authorization"] = f"Bearer {KEY}"
    url = f"http://127.0.0.1:{port}/events/data_series?length=24&unit=hour&event=event%20"

    def call(at: int) -> object:
        with deadline_in(30, time.monotonic):
            return session.get(f"{url}{at:04}").json()

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        started = time.perf_counter()
        results = [*threads.map(call, range(number))]
        seconds = time.perf_counter() - started
    assert len(results) == number
    return seconds


def _measure_scrape() -> bool:
    """Compare a scrape of 2,000 queries with none due to the same page served as a constant, and check the memory."""
    with _processes(2_000, 0.0) as (exporter, _, directory):
        _get(exporter.port, timeout=60)
        page, _ = _get(exporter.port)
        while b"braze_query_unlisted{" not in page:  # the page is stable once Braze's list has been read
            time.sleep(0.1)
            page, _ = _get(exporter.port)
        (directory / "page").write_bytes(page)
        command = [sys.executable, __file__, "constant", "--file", str(directory / "page")]
        with _process(command) as constant:
            ours, theirs = _median_scrape_seconds(exporter.port, constant.port)
        resident = psutil.Process(exporter.pid).memory_info().rss / 1e6
    library = _library_seconds(page)
    print(
        f"     page of {len(page):,} bytes: {ours * 1e3:.2f} ms; constant response: {theirs * 1e3:.2f} ms; "
        f"rendering by prometheus_client: {library * 1e3:.0f} ms"
    )
    is_fast = _check("scrape of 2,000 queries, relative to a constant response", ours / theirs, 2)
    is_small = _check("resident memory with 2,000 queries", resident, 120, "MB")
    return is_fast and is_small


def _median_scrape_seconds(ours: int, theirs: int, rounds: int = 60) -> tuple[float, float]:
    """Return the median times in seconds of compressed scrapes of two servers, from alternating requests."""
    seconds: dict[int, list[float]] = {ours: [], theirs: []}
    connections = {port: http.client.HTTPConnection("127.0.0.1", port) for port in seconds}
    for _ in range(rounds):
        for port, connection in connections.items():
            started = time.perf_counter()
            connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
            connection.getresponse().read()
            seconds[port].append(time.perf_counter() - started)
    for connection in connections.values():
        connection.close()
    return statistics.median(seconds[ours]), statistics.median(seconds[theirs])


def _library_seconds(page: bytes) -> float:
    """Return the seconds that `prometheus_client` takes to render the families of `page` from existing samples."""
    families = list(text_string_to_metric_families(page.decode()))

    class Families:
        def collect(self) -> Iterator[Metric]:
            yield from families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        generate_latest(registry)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _measure_ten_scrapers() -> bool:
    """Compare the calls to Braze of ten simultaneous scrapers, twice, to those of one scraper."""
    queries = 200
    calls = {}
    for scrapers in (1, 10):
        with _processes(queries, 0.02) as (exporter, *_):
            for _ in range(2):
                threads = [threading.Thread(target=_get, args=(exporter.port, 30)) for _ in range(scrapers)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            page, _ = _get(exporter.port)
        match = re.search(rb"^braze_api_requests_total\{.*/data_series.*\} (\d+)", page, re.MULTILINE)
        calls[scrapers] = int(match.group(1)) if match else -1
    print(f"     calls to Braze: {calls[1]} for one scraper, {calls[10]} for ten")
    return _check("calls of ten scrapers, relative to one", calls[10] / calls[1], 1)


def _measure_counters() -> bool:
    """Compare the CPU time of counting and saving 2,000 queries to that of their whole refresh."""
    queries = 2_000
    with _processes(queries, 0.0) as (exporter, *_):
        process = psutil.Process(exporter.pid)
        before = sum(process.cpu_times()[:2])
        _get(exporter.port, timeout=60)
        refresh = sum(process.cpu_times()[:2]) - before
    subjects = [
        ("production", "https://rest.iad-01.braze.com", "custom_events", f"e{n}", "", "", "", "")
        for n in range(queries)
    ]
    seconds, memory = _fill_counters(subjects, trace=False)[0], _fill_counters(subjects, trace=True)[1]
    print(
        f"     CPU time of a refresh of {queries:,} queries: {refresh:.2f} s; of counting and saving: {seconds:.2f} s"
    )
    is_fast = _check("refresh with counting and saving, relative to one without", refresh / (refresh - seconds), 1.2)
    return _check("memory of the counters of 2,000 queries", memory / 1e6, 30, "MB") and is_fast


def _fill_counters(subjects: Sequence[CounterKey], *, trace: bool) -> tuple[float, int]:
    """Count three responses for each subject, the last one of 100 buckets.

    Return the seconds of CPU for the second response, and the traced memory in bytes.
    """
    seconds = 0.0
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(open_state_file(f"{directory}/state.sqlite")) as store,
    ):
        if trace:
            tracemalloc.start()
        counters = SavedCounters(store)
        for round_, length in enumerate((24, 24, 100)):
            elapsed = _count_all(counters, subjects, length, grown=1_000.5 * round_)
            seconds = elapsed if round_ == 1 else seconds
        memory = tracemalloc.get_traced_memory()[0] if trace else 0
        tracemalloc.stop()
    return seconds, memory


def _count_all(counters: SavedCounters, subjects: Sequence[CounterKey], length: int, grown: float) -> float:
    """Count and save one response for each subject, and return the seconds of CPU that it took."""
    numbers = tuple(hour * 3_600 for hour in range(length))
    responses = [array("d", [hour + grown for hour in range(length)]) for _ in subjects]
    started = time.process_time()
    for subject, values in zip(subjects, responses, strict=True):
        counters.record(subject, Unit.HOUR, numbers, [((), values, True)], requested_from=0, requested_at=0.0)
    counters.save()
    return time.process_time() - started


def _measure_backfill() -> bool:
    """Backfill a year of 100 hourly queries, and compare with the minimum time that the budget allows.

    Braze's limit is 10 times the usual one.
    """
    queries, limit, share = 100, 2_500_000, 0.1
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=4)
    with (
        tempfile.TemporaryDirectory() as name,
        _process([sys.executable, __file__, "braze", f"--limit={limit}"]) as braze,
    ):
        directory = Path(name)
        config = _config(directory, braze.port, queries, f"budget: {{share: {share}, concurrency: {CONNECTIONS}}}\n")
        labels = ("--label=job=braze", "--label=instance=exporter:27293")
        span = (f"--start={(now - timedelta(days=365)).isoformat()}", f"--end={now.isoformat()}")
        command = [sys.executable, "-m", "braze_exporter", "backfill", f"--config.file={config}", *span, *labels]
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, f"--output={directory / 'year.om'}"],
            env={**os.environ, "BRAZE_API_KEY": KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        peak = _PeakMemory(process.pid)
        message = process.stderr.read() if process.stderr is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        match = re.search(r"([\d,]+) calls \w+, writing", message)
        size = (directory / "year.om").stat().st_size if process.returncode == 0 else 0
    calls = int(match.group(1).replace(",", "")) if match else 0
    # Half of the share that an exporter leaves, which fetches each query every five minutes.
    left = (share - queries * 12 / 250_000) / 2
    minimum = (calls - CONNECTIONS) / (left * limit / 3_600)
    print(
        f"     {calls:,} calls in {seconds:.1f} s; minimum: {minimum:.1f} s; output: {size / 1e6:.0f} MB; "
        f"CPU time: {usage.ru_utime + usage.ru_stime:.1f} s"
    )
    is_fast = _check("backfill of a year of 100 hourly queries, relative to the minimum", seconds / minimum, 1.15)
    is_small = _check("peak memory of the backfill", peak.bytes / 1e6, 150, "MB")
    return is_fast and is_small and process.returncode == 0


def _measure_campaigns() -> bool:
    """Compare the CPU time of refreshes of campaigns of 80 series to that of bare calls, and check the memory."""
    results = {number: core_benchmark.measure("campaigns", number, days) for number, days in _CAMPAIGNS_AND_DAYS}
    for number, result in results.items():
        print(
            f"     first refresh of {number:,} campaigns: {result['first']:.2f} s of CPU time; bare calls: "
            f"{result['bare']:.2f} s; memory: {result['first_memory']:.0f} MB"
        )
    usual, large = results[300], results[1_000]
    return all(
        [
            _check("300 campaigns, newest day changed, relative to bare calls", usual["changed"] / usual["bare"], 2.5),
            _check("300 campaigns, nothing changed, relative to bare calls", usual["unchanged"] / usual["bare"], 2),
            _check("resident memory with 300 campaigns after 100 days", usual["memory"], 140, "MB"),
            _check("first refresh of 1,000 campaigns, relative to bare calls", large["first"] / large["bare"], 3),
            _check("first refresh of 1,000 campaigns", large["first_wall"], 5, "s"),
            _check("resident memory with 1,000 campaigns", large["first_memory"], 400, "MB"),
        ]
    )


def _measure_baselines() -> bool:
    """Check the memory of hourly queries with baselines of four weeks, and of one such baseline."""
    for number in (500, 2_000, 8_000):
        result = core_benchmark.measure("events", number, 0, 0)
        print(f"     {number:,} queries without a baseline: {result['memory']:.0f} MB")
    result = core_benchmark.measure("events", 2_000, 4, 0)
    query = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase", baseline_weeks=4)
    tracemalloc.start()
    baselines = [BaselineHistory(query) for _ in range(100)]
    hours = range(5 * 7 * 24)  # with the week that the settled bucket may be late
    for baseline in baselines:
        baseline.add([(hour * 3_600, float(hour)) for hour in hours], (hours.stop + 1) * 3_600)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] / len(baselines)
    tracemalloc.stop()
    is_small = _check("memory of a baseline of four weeks", size / 1e3, 15, "kB")
    return _check("resident memory with 2,000 such queries", result["memory"], 100, "MB") and is_small


class _PeakMemory(threading.Thread):
    """Measures the peak memory of a process. `wait4` is no alternative: its value includes the parent's memory."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.bytes = 0
        self.start()

    def run(self) -> None:
        """Read the peak repeatedly until the process has ended."""
        with contextlib.suppress(OSError):
            while match := re.search(r"VmHWM:\s+(\d+) kB", self._status.read_text()):
                self.bytes = int(match[1]) * 1_024
                time.sleep(0.05)


class _Process:
    """A process that listens on `port`."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port


@contextlib.contextmanager
def _processes(queries: int, latency: float) -> Iterator[tuple[_Process, _Process, Path]]:
    """Run a simulated Braze and an exporter with `queries` queries, and yield the exporter, Braze and a directory."""
    with (
        tempfile.TemporaryDirectory() as name,
        _process([sys.executable, __file__, "braze", "--latency", str(latency)]) as braze,
    ):
        directory = Path(name)
        config = _config(directory, braze.port, queries, f"budget: {{concurrency: {CONNECTIONS}}}\n")
        port = _free_port()
        command = [sys.executable, "-m", "braze_exporter", f"--config.file={config}"]
        with _process([*command, f"--web.listen-address=127.0.0.1:{port}"], port) as exporter:
            yield exporter, braze, directory


def _config(directory: Path, port: int, queries: int, extra_yaml: str) -> Path:
    """Write a config with `queries` queries that ends with the text `extra_yaml`, and return its path."""
    config = directory / "config.yaml"
    events = "".join(f"      - event: event {number:04}\n" for number in range(queries))
    config.write_text(
        f"workspaces:\n  - name: production\n    url: http://127.0.0.1:{port}\n"
        f"    api_key_env: BRAZE_API_KEY\n    custom_events:\n{events}{extra_yaml}"
    )
    return config


@contextlib.contextmanager
def _process(command: list[str], port: int | None = None) -> Iterator[_Process]:
    """Run a command that listens on `port` or, if that is None, on the port that it prints first."""
    environment = {**os.environ, "BRAZE_API_KEY": KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            if port is None:
                assert process.stdout is not None
                port = int(process.stdout.readline())
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    _get(port, path="/-/ready")
                    break
                time.sleep(0.02)
            yield _Process(process.pid, port)
        finally:
            process.terminate()


def _get(port: int, timeout: float = 10, path: str = "/metrics") -> tuple[bytes, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout + 5)
    connection.request("GET", path, headers={"X-Prometheus-Scrape-Timeout-Seconds": str(timeout)})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return body, response.status


def _free_port() -> int:
    (listener,) = listening.listen(["127.0.0.1:0"])
    with listener:
        return int(listener.getsockname()[1])


def _simulate_braze(latency: float, limit: int) -> int:
    names = [f"event {number:04}" for number in range(2_000)]
    shapes = {name: TrafficShape(100.0 + 10 * index) for index, name in enumerate(names)}
    braze = FaultInjectingBraze(
        key=KEY, traffic=Traffic(1, ZONE, shapes), clock=time.time, zone=ZONE, apps=(), segments=()
    )
    braze.limit = limit
    if latency:
        braze.inject(transfer_faults.delay(latency))
    with serve(braze) as running:
        print(running.url.rpartition(":")[2], flush=True)
        threading.Event().wait()
    return 0


class _ConstantExporter:
    """A source of pages that always returns the same page."""

    def __init__(self, page: bytes) -> None:
        self._page = page

    def refresh(self) -> Refresh:
        refresh = Refresh()
        refresh.set_result(None)
        return refresh

    save = refresh

    def render(self, *, openmetrics: bool) -> list[bytes]:
        return [] if openmetrics else [self._page]

    def stop_fetching(self) -> None:
        pass


def _serve_constant(file: Path) -> int:
    (listener,) = listening.listen(["127.0.0.1:0"])
    print(listener.getsockname()[1], flush=True)
    exporter = cast("Exporter", _ConstantExporter(file.read_bytes()))
    server.serve(server.Application(exporter), [listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
