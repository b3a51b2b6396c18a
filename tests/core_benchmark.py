"""Measures the CPU time and the memory of refreshes without the web server, for `benchmark.py`.

The exporter runs in a process of its own with a virtual clock, and a minimal server sends the responses. The refreshes
are compared with bare calls: the same requests with the same adapter, of which only the JSON is parsed.
"""

import argparse
import contextlib
import gc
import json
import socketserver
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import psutil

from braze_exporter.braze.clock import Clock
from braze_exporter.braze.deadline import deadline_in
from braze_exporter.braze.transport import open_session
from braze_exporter.commands.serve import GC_THRESHOLDS
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.state.state_file import open_state_file

DAY, HOUR = 86_400, 3_600
START = datetime(2026, 11, 23, 12, 20, tzinfo=UTC).timestamp()
CONNECTIONS = 10
ROUNDS = 5
STATISTICS = (
    *("sent", "delivered", "opens", "unique_opens", "clicks", "unique_clicks", "bounces", "reported_spam"),
    *("unsubscribes", "revenue", "machine_opens"),
)
VARIATION_ID = "4f0d6a3e"  # the start of the ids of variations
VARIATIONS = 7  # with the three totals of a campaign: 80 series


def campaign_body(now: float, revision: int, length: int = 14) -> bytes:
    """Return a response for any campaign, with other values of the newest day in each `revision`."""
    rows = []
    for back in reversed(range(length)):
        number = 1_000 + back if back else 5_000 + revision
        date = (datetime.fromtimestamp(now, UTC) - timedelta(days=back)).strftime("%Y-%m-%d")
        stats = {name: number * (position + 1) for position, name in enumerate(STATISTICS)}
        variations = [
            {
                "variation_api_id": f"{VARIATION_ID}-{at:04}-4c1b-9d3e-6a7b8c9d0e1f",
                "variation_name": f"Variant {at}",
                **stats,
            }
            for at in range(VARIATIONS)
        ]
        totals = {"conversions": number, "revenue": number / 4, "unique_recipients": number}
        rows.append({"time": date, "messages": {"email": variations}, **totals})
    return json.dumps({"message": "success", "data": rows}).encode()


def event_body(now: float, revision: int, length: int = 100) -> bytes:
    """Return a response for any hourly event, with other values of the newest hour in each `revision`."""
    newest = int(now) // HOUR * HOUR
    starts = [newest - back * HOUR for back in reversed(range(length))]
    rows = [
        {
            "time": datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "count": 1_000 + start % 997 + (revision if start == newest else 0),
        }
        for start in starts
    ]
    return json.dumps({"message": "success", "data": rows}).encode()


class _Handler(socketserver.StreamRequestHandler):
    """Sends a response for the time and the revision that the path of the last request for `/set` had."""

    now: ClassVar[float] = 0.0
    revision: ClassVar[int] = 0
    bodies: ClassVar[dict[tuple[str, ...], bytes]] = {}

    def handle(self) -> None:
        """Respond to all requests of a connection."""
        with contextlib.suppress(ConnectionError):  # the exporter has ended
            self._respond()

    def _respond(self) -> None:
        self.connection.setsockopt(6, 1, 1)
        while line := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            path = line.split()[1].decode()
            if path.startswith("/set/"):
                _, _, now, revision = path.split("/")
                _Handler.now, _Handler.revision = float(now), int(revision)
                _Handler.bodies = {}
            body = self._body(path)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

    def _body(self, path: str) -> bytes:
        """Return the response to a request for `path`.

        Requests for events that differ only in their subject share it. Each campaign has variations of its own.
        """
        parameters = dict(item.split("=") for item in path.partition("?")[2].split("&") if item)
        if not path.startswith("/events/"):
            key: tuple[str, ...] = ("campaign",)
            if key not in self.bodies:
                self.bodies[key] = campaign_body(self.now, self.revision)
            number = parameters.get("campaign_id", VARIATION_ID)[-8:]
            return self.bodies[key].replace(VARIATION_ID.encode(), number.encode())
        ending_at, length = parameters.get("ending_at", ""), parameters["length"]
        key = (ending_at, length)
        if key not in self.bodies:
            end = datetime.fromisoformat(ending_at.replace("%3A", ":")).timestamp() if ending_at else self.now
            self.bodies[key] = event_body(end, 0 if ending_at else self.revision, int(length))
        return self.bodies[key]


def _serve() -> int:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
    return 0


class _Run(Clock):
    """One exporter with a virtual clock, whose refreshes are measured."""

    def __init__(self, port: int, entries: str, directory: Path | None) -> None:
        self.url, self.now, self.elapsed, self.revision = f"http://127.0.0.1:{port}", START, 0.0, 0
        text = (
            f"workspaces:\n  - name: production\n    url: {self.url}\n    api_key_env: K\n    timezone: UTC\n{entries}"
            f"refresh_interval: {{day: 1h}}\nmax_queries: 10000\nbudget: {{share: 1, concurrency: {CONNECTIONS}}}\n"
        )
        config = load_config(text, "config.yaml", {"K": "k"})
        self.session = open_session(CONNECTIONS)
        self.state_file = open_state_file(str(directory / "state.sqlite")) if directory is not None else None
        self.exporter = Exporter(
            self.state_file,
            clock=self,
            jitter=lambda: 1.0,
            reads_lists=False,
        )
        self.exporter.apply_config(config, build_plan(config), self.session)

    def wall(self) -> float:
        """Return the virtual time in seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """Return the virtual time since the start, in seconds."""
        return self.elapsed

    def get(self, path: str) -> bytes:
        with deadline_in(30, time.monotonic):
            return self.session.get(self.url + path).content

    def set_body(self) -> None:
        self.get(f"/set/{self.now}/{self.revision}")

    def advance(self, seconds: float, *, is_changed: bool) -> None:
        self.now, self.elapsed, self.revision = self.now + seconds, self.elapsed + seconds, self.revision + is_changed
        self.set_body()

    def refresh(self) -> None:
        """Make one scrape of all due queries."""
        self.exporter.refresh().result()
        self.exporter.save().result()
        self.page_bytes = sum(map(len, self.exporter.render(openmetrics=True)))

    def wait_for_history(self) -> None:
        """Wait until no call for history ends within 0.05 seconds. Those in flight would time out with `advance`."""
        before = None
        while (remaining := dict(self.exporter.snapshot().remaining_history)) != before:
            before = remaining
            time.sleep(0.05)

    def bare_calls(self, number: int, path: str) -> None:
        """Make `number` calls in as many threads as there are connections, and parse their JSON."""
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            for _ in threads.map(lambda _: json.loads(self.get(path)), range(number)):
                pass


def cpu_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU time and the duration of `work`, in seconds."""
    wall, started = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - started, time.perf_counter() - wall


def _resident() -> float:
    return psutil.Process().memory_info().rss / 1e6


def _campaigns(port: int, number: int, days: int) -> dict[str, float]:
    """Measure refreshes of `number` campaigns, and the memory after `days` virtual days."""
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(0.001)
    entries = "    campaigns:\n" + "".join(
        f"      - campaign: 3f2504e0-4f89-41d3-9a0c-{at:012x}\n" for at in range(number)
    )
    path = "/campaigns/data_series?campaign_id=3f2504e0-4f89-41d3-9a0c-000000000001&length=14"
    with tempfile.TemporaryDirectory() as directory:
        run = _Run(port, entries, Path(directory))
        run.set_body()
        run.bare_calls(20, path)
        seconds: defaultdict[str, list[float]] = defaultdict(list)

        def measure_calls() -> None:
            seconds["bare"].append(cpu_seconds(lambda: run.bare_calls(number, path))[0])

        result: dict[str, float] = {}
        measure_calls()
        result["first"], result["first_wall"] = cpu_seconds(run.refresh)
        result["first_memory"] = _resident()
        measure_calls()
        run.advance(HOUR, is_changed=True)
        run.refresh()
        for name, is_changed in (("changed", True), ("unchanged", False)) * (ROUNDS if days else 0):
            run.advance(HOUR, is_changed=is_changed)
            seconds[name].append(cpu_seconds(run.refresh)[0])
            measure_calls()
        result |= {name: statistics.median(rounds) for name, rounds in seconds.items()}
        for _ in range(0, days, 5):
            run.advance(5 * DAY, is_changed=True)
            run.refresh()
        result["memory"], result["page"] = _resident(), run.page_bytes / 1e6
        run.exporter.close()
    return result


def _events(port: int, number: int, weeks: int, *, has_state: bool) -> dict[str, float]:
    """Measure refreshes of `number` hourly events with baselines of `weeks`, and the memory."""
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(0.001)
    baseline = f", baseline: {{weeks: {weeks}}}" if weeks else ""
    entries = "    custom_events:\n" + "".join(f"      - {{event: event-{at:04}{baseline}}}\n" for at in range(number))
    with tempfile.TemporaryDirectory() as directory:
        run = _Run(port, entries, Path(directory) if has_state else None)
        run.set_body()
        path = "/events/data_series?event=e&length=24"
        run.bare_calls(20, path)
        result: dict[str, float] = {}
        result["bare"], _ = cpu_seconds(lambda: run.bare_calls(number, path))
        result["empty_memory"] = _resident()
        result["first"], _ = cpu_seconds(run.refresh)
        for _ in range(200):
            if not run.exporter.snapshot().remaining_history:
                break
            run.advance(60, is_changed=False)
            run.refresh()
            run.wait_for_history()
        for name, is_changed in (("changed", True), ("unchanged", False)):
            rounds = []
            for _ in range(3):
                run.advance(300, is_changed=is_changed)
                rounds.append(cpu_seconds(run.refresh)[0])
            result[name] = sorted(rounds)[1]
        result["memory"] = _resident()
        run.exporter.close()
    return result


@contextlib.contextmanager
def _server() -> Iterator[int]:
    with subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def measure(role: str, *arguments: int) -> dict[str, float]:
    """Run a measurement in a process of its own, and return its figures."""
    with _server() as port:
        command = [sys.executable, __file__, role, str(port), *map(str, arguments)]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        return {name: float(value) for name, value in json.loads(process.stdout).items()}


def main() -> int:
    """Run the measurement that the arguments name, or the server, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "campaigns", "events"])
    parser.add_argument("arguments", nargs="*", type=int)
    options = parser.parse_args()
    if options.role == "serve":
        return _serve()
    if options.role == "campaigns":
        print(json.dumps(_campaigns(*options.arguments)))
    else:
        port, number, weeks, has_state = options.arguments
        print(json.dumps(_events(port, number, weeks, has_state=bool(has_state))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
