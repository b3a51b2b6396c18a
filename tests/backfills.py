"""Backfills in the hands of a test: over real sockets against a simulated Braze, and what is in their files."""

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from simulated_braze import FaultInjectingBraze
from support import KEY, Clock, Labels, simulated, workspace

from braze_exporter.backfill.context import Surroundings
from braze_exporter.backfill.request import Wish, moment
from braze_exporter.backfill.run import backfill
from braze_exporter.braze import transport
from braze_exporter.config.loading import load
from braze_exporter.scheduler.plan import build
from braze_exporter.simulator.traffic import Counts

# What every series of a backfill has, as of a target of Prometheus.
TARGET = (("job", "braze"), ("instance", "exporter:27293"))
SETTLED, TOTAL = "braze_custom_events_hourly_settled", "braze_custom_events_total"

# The samples of each series, oldest first: their times and values.
Samples = dict[tuple[str, Labels], list[tuple[float, float]]]


def one(**labels: str) -> Labels:
    """Return the labels of a series of a backfill."""
    return frozenset({"workspace": "production", **labels, **dict(TARGET)}.items())


def samples(text: str) -> Samples:
    """Return what a file of OpenMetrics holds; each series is in one piece and in the order of time, without twins."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault((sample.name, frozenset(sample.labels.items())), []).append(
                (float(str(sample.timestamp)), sample.value)
            )
    for series in found.values():
        times = [time for time, _ in series]
        assert times == sorted(set(times))
    return found


class Terminal(io.StringIO):
    """A terminal of the usual width."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


@dataclass
class Backfill:
    """A backfill in this process, with its clock and its Braze in the test's hand."""

    clock: Clock
    braze: FaultInjectingBraze
    wish: Wish
    config: str
    stream: io.StringIO = field(default_factory=Terminal)

    def use(self, events: str, rest: str = "") -> None:
        """Have another config of the same workspace from now on."""
        url = self.config.partition("url: ")[2].partition("\n")[0]
        self.config = workspace(url, events, rest=rest)

    def span(self, start: str, end: str) -> None:
        """Have another span from now on."""
        self.wish = replace(self.wish, start=moment(start), end=moment(end))

    def run(self) -> str:
        """Carry it out while time passes, a second in a moment, and return what it advises."""
        return self.begin().end()

    def begin(self) -> "Running":
        """Carry it out in a thread, at a time that stands still."""
        return Running(self)

    def carry_out(self) -> str:
        """Carry it out, and return what it advises."""
        config = load(self.config, "config.yaml", {"BRAZE_API_KEY": KEY})
        out, clock = io.StringIO(), self.clock
        with contextlib.closing(transport.open_session(10)) as session:
            around = Surroundings(
                session, lambda _: {}, clock.wall, clock.monotonic, clock.advance, out, self.stream, lambda _: None
            )
            timeouts = transport.Timeouts(answer=1e9)  # time jumps while an answer is under way
            backfill(self.wish, config, build(config), around, timeouts)
        return out.getvalue()

    @property
    def found(self) -> Samples:
        """What it has written."""
        return samples(self.wish.output.read_text(encoding="utf-8"))

    @property
    def said(self) -> str:
        """What it has told of how far it is."""
        return self.stream.getvalue()


class Running:
    """A backfill that is under way."""

    def __init__(self, what: Backfill) -> None:
        self._what = what
        self._future: Future[str] = Future()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._what.carry_out())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self._future.set_exception(error)

    def end(self, step: float = 1.0) -> str:
        """Let time pass by steps until it ends; return what it advises, or raise what brought the end about."""
        for _ in range(2_000):
            with contextlib.suppress(TimeoutError):
                return self._future.result(0.01)
            self._what.clock.advance(step)
        raise AssertionError("it has not ended:\n" + self._what.said)


@contextlib.contextmanager
def prepared(
    folder: Path, events: str, traffic: Counts, start: str, end: str, *, rest: str = "", clock: Clock | None = None
) -> Iterator[Backfill]:
    """Yield a backfill of one workspace that can be run."""
    clock = clock or Clock()
    with simulated(traffic, clock) as (braze, server):
        wish = Wish(moment(start), moment(end), TARGET, folder / "history.om")
        yield Backfill(clock, braze, wish, workspace(server.url, events, rest=rest))


def arguments(config: str, output: Path, start: str, end: str) -> Sequence[str]:
    """Return the command line of a backfill."""
    labels = [f"--label={name}={value}" for name, value in TARGET]
    return ("backfill", f"--config.file={config}", f"--start={start}", f"--end={end}", f"--output={output}", *labels)


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program with its streams in the hands of the test, and not longer than that."""
    command = [sys.executable, "-m", "braze_exporter", *arguments]
    environment = {**os.environ, "BRAZE_API_KEY": KEY}
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
