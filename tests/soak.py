"""Test the exporter under many faults at once: `python tests/soak.py --minutes 10`. Exit with 1 if a check fails.

The exporter runs as a program. The simulated Braze runs in this process. Its counts grow continuously. The faults are
injected one after another, each for some of the events. Three scrapers and 200 idle clients stay connected, and the
config is reloaded repeatedly. At the end each counter must equal what Braze has reported.
"""

import argparse
import contextlib
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import RecordedCounts
from support import HOUR, Program, running_braze, wait_until, workspace_yaml, write_file

from braze_exporter.simulator.reply import Reply

EVENTS = [f"event {number:02}" for number in range(60)]
ROUND_SECONDS = 5.0  # duration of a fault
SCRAPE_TIMEOUT_SECONDS = 2.0  # sent in the request
IDLE_CONNECTIONS = 200


def limited(seconds: float) -> Fault:
    """Return a 429 whose rate limit resets after `seconds`, because Braze's own reset can be an hour away."""
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(seconds)}

    def fault(exchange: Exchange) -> Reply:
        return response_faults.with_headers(headers)(replace(exchange, reply=response_faults.status(429)(exchange)))

    return fault


FAULTS: dict[str, Fault] = {
    "503": response_faults.status(503),
    "400": response_faults.status(400),
    "404": response_faults.status(404),
    "202": response_faults.queued(),
    "204": response_faults.no_content(),
    "429": limited(2),
    "reserve": response_faults.with_headers({"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "2"}),
    "headers": response_faults.with_headers(
        {"X-RateLimit-Limit": "", "X-RateLimit-Remaining": "", "X-RateLimit-Reset": ""}
    ),
    "reset": transfer_faults.disconnect(),
    "closed": transfer_faults.disconnect(reset=False),
    "truncated": transfer_faults.truncated(),
    "truncated chunks": transfer_faults.truncated_chunks(),
    "redirect": response_faults.redirect("http://127.0.0.1:9/"),
    "HTML": response_faults.html(),
    "empty body": response_faults.empty_body(),
    "deep nesting": response_faults.deeply_nested(),
    "invalid gzip": transfer_faults.garbled_gzip(),
    "gzip": transfer_faults.gzipped(),
    "200 MB": transfer_faults.huge(),
    "compressed bomb": transfer_faults.gzip_bomb(),
    "no data": response_faults.data([]),
    "negative count": response_faults.count(-1),
    "invalid time": response_faults.time("yesterday"),
    "contradicting rows": response_faults.duplicated(contradicting=True),
    "shuffled": response_faults.shuffled(),
    "slow": transfer_faults.delay(1.0),
}
# These occupy a connection for half a minute, so they apply to few events only.
BLOCKING_FAULTS = {"no response": transfer_faults.hang(), "slow bytes": transfer_faults.drip(0.5)}
# After one of these, the exporter makes no calls for two minutes.
AUTH_FAULTS = {"401": response_faults.status(401), "403": response_faults.status(403)}


@dataclass
class GrowingCounts:
    """Growing counts, and the total growth of each event since the start."""

    recorded: RecordedCounts
    growth: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EVENTS, 0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_occurrences(self, rng: random.Random) -> None:
        """Add occurrences of some events, mostly in the current hour and sometimes some hours ago."""
        this_hour = int(time.time()) // HOUR * HOUR
        with self.lock:
            for event in rng.sample(EVENTS, 30):
                hour = this_hour - HOUR * rng.choice([0, 0, 0, 1, 5])
                more = rng.randint(1, 9)
                self.recorded.set(event, hour, self.recorded.count(event, hour, 0) + more)
                self.growth[event] += more


@dataclass
class ScrapeStatistics:
    """The results of the scrapes of one scraper."""

    scrapes: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    last_totals: dict[str, float] = field(default_factory=dict)


def scrape(program: Program, statistics: ScrapeStatistics) -> None:
    """Scrape once and check that no counter fell."""
    started = time.monotonic()
    try:
        page = program.scrape(SCRAPE_TIMEOUT_SECONDS)
    except (OSError, AssertionError, ValueError) as error:
        statistics.failures.append(repr(error))
        return
    statistics.scrapes += 1
    statistics.slowest = max(statistics.slowest, time.monotonic() - started)
    for event in EVENTS:
        total = page.value("braze_custom_events_total", event=event)
        if total is None or total < statistics.last_totals.get(event, 0):
            statistics.failures.append(f"counter of {event} decreased to {total}")
        statistics.last_totals[event] = total or 0


@contextlib.contextmanager
def calling_repeatedly(target: object, *arguments: object) -> Iterator[None]:
    """Call `target` repeatedly in a thread until the end of the block."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            target(*arguments)  # type: ignore[operator] # it is a function
            ended.wait(0.2)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def schedule(minutes: float, rng: random.Random) -> Iterator[tuple[str, Fault, list[str]]]:
    """Yield the fault of each round and the events that it affects.

    A 401 and a 403 come early, so that the exporter has recovered from them long before the end.
    """
    names = itertools.cycle(rng.sample(sorted(FAULTS), len(FAULTS)))
    rounds = int(minutes * 60 / ROUND_SECONDS)
    for number in range(rounds):
        if number in {rounds // 4, rounds // 4 + 26} and minutes >= 8:
            name = "401" if number == rounds // 4 else "403"
            yield name, AUTH_FAULTS[name], EVENTS
        elif number % 10 == 9:
            name = rng.choice(sorted(BLOCKING_FAULTS))
            yield name, BLOCKING_FAULTS[name], rng.sample(EVENTS, 4)
        else:
            name = next(names)
            yield name, FAULTS[name], rng.sample(EVENTS, 20)


def soak(minutes: float, seed: int) -> bool:
    """Run the soak test, print the results, and return whether all checks passed."""
    rng = random.Random(seed)  # noqa: S311 - does not need to be secure
    shop, all_statistics = GrowingCounts(RecordedCounts(events=EVENTS)), [ScrapeStatistics() for _ in range(3)]
    usage: list[tuple[float, int, int]] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        braze, server = stack.enter_context(running_braze(shop.recorded))
        events = "\n".join(f"{{event: {event}, refresh_interval: 2s}}" for event in EVENTS)
        extra_yaml = f"budget: {{share: 1}}\nstate_file: {directory / 'state.sqlite'}\n"
        path = write_file(directory / "config.yaml", workspace_yaml(server.url, events, extra_yaml=extra_yaml))
        # As in deploy/. Otherwise, the memory depends on which threads read the oversized responses.
        environment = {"MALLOC_ARENA_MAX": "1"}
        program = stack.enter_context(Program.start([f"--config.file={path}"], environment))
        process = psutil.Process(program.process.pid)
        wait_until(lambda: program.scrape().value("braze_queries", state="up") == len(EVENTS), "all queries are up")
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", program.port)))
        with contextlib.ExitStack() as load:
            load.enter_context(calling_repeatedly(shop.add_occurrences, rng))
            for statistics in all_statistics:
                load.enter_context(calling_repeatedly(scrape, program, statistics))
            for name, fault, affected_events in schedule(minutes, random.Random(seed)):  # noqa: S311
                for event in affected_events:
                    braze.inject(fault, event=event)
                os.kill(process.pid, signal.SIGHUP)
                time.sleep(ROUND_SECONDS)
                braze.clear_faults()
                usage.append((process.memory_info().rss / 1e6, process.num_threads(), process.num_fds()))
                print(
                    f"{name:>16}: {usage[-1][0]:.0f} MB, {usage[-1][1]} threads, {usage[-1][2]} open files", flush=True
                )
        last = ScrapeStatistics(last_totals=dict(all_statistics[0].last_totals))

        def all_counted() -> bool:
            scrape(program, last)
            return last.last_totals == shop.growth

        is_counted = True
        try:
            wait_until(all_counted, "all counters equal what Braze has reported", seconds=200)
        except AssertionError:
            is_counted = False
        lines = len(program.lines)
        ended = program.stop()
    return print_summary(all_statistics, usage, is_counted=is_counted, lines=lines, ended=ended, program=program)


def print_summary(
    all_statistics: list[ScrapeStatistics],
    usage: list[tuple[float, int, int]],
    *,
    is_counted: bool,
    lines: int,
    ended: float,
    program: Program,
) -> bool:
    """Print the result of each check, and return whether all passed."""
    # Each fault occurs in both halves, so the second half should not need more than the first.
    half = len(usage) // 2
    early, late = ([max(values) for values in zip(*part, strict=True)] for part in (usage[:half], usage[half:]))
    failures = [failure for statistics in all_statistics for failure in statistics.failures]
    scrapes, slowest = (
        sum(statistics.scrapes for statistics in all_statistics),
        max(statistics.slowest for statistics in all_statistics),
    )
    checks = {
        f"scrapes: {scrapes}, failed: {len(failures)} {failures[:3]}": not failures and scrapes > 0,
        f"slowest scrape: {slowest:.2f} s (timeout: {SCRAPE_TIMEOUT_SECONDS:g} s)": slowest < SCRAPE_TIMEOUT_SECONDS,
        f"memory: {late[0] / early[0]:.2f} x ({early[0]:.0f} MB, then {late[0]:.0f} MB)": late[0] < 1.1 * early[0],
        f"threads: {early[1]}, then {late[1]}": late[1] <= early[1] + 2,
        f"open files: {early[2]}, then {late[2]}": late[2] <= early[2] + 10,
        "counters equal what Braze has reported": is_counted,
        f"log: {lines} lines": lines < 60 * len(usage),
        f"exit code {program.process.returncode} after {ended:.2f} s": ended < 2 and program.process.returncode == 0,
        "log: no traceback": "Traceback" not in program.output,
    }
    for text, passed in checks.items():
        print(f"{'ok  ' if passed else 'FAIL'} {text}")
    return all(checks.values())


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    sys.exit(not soak(options.minutes, options.seed))
