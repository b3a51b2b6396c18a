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
from support import KEY, Clock, Labels, running_braze, workspace_yaml

from braze_exporter.backfill.context import CommandContext
from braze_exporter.backfill.request import BackfillRequest, parse_time
from braze_exporter.backfill.run import run_backfill
from braze_exporter.braze import transport
from braze_exporter.config.loading import load_config
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.traffic import Counts

# What every series of a backfill has, as of a target of Prometheus.
TARGET = (("job", "braze"), ("instance", "exporter:27293"))
SETTLED, TOTAL = "braze_custom_events_hourly_settled", "braze_custom_events_total"

# The samples of each series, oldest first: their times and values.
Samples = dict[tuple[str, Labels], list[tuple[float, float]]]


def single_value(**labels: str) -> Labels:
    """Return the labels of a series of a backfill."""
    return frozenset({"workspace": "production", **labels, **dict(TARGET)}.items())


def samples(text: str) -> Samples:
    """Return what a file of OpenMetrics holds; each series is in one piece and in the order of time, without twins."""
    result: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            result.setdefault((sample.name, frozenset(sample.labels.items())), []).append(
                (float(str(sample.timestamp)), sample.value)
            )
    for series in result.values():
        times = [time for time, _ in series]
        assert times == sorted(set(times))
    return result


class Terminal(io.StringIO):
    """A terminal of the usual width."""

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


@dataclass
class BackfillRig:
    """A backfill in this process, with its clock and its Braze in the test's hand."""

    clock: Clock
    braze: FaultInjectingBraze
    request: BackfillRequest
    config: str
    stream: io.StringIO = field(default_factory=Terminal)

    def use(self, events: str, pause: str = "") -> None:
        """Have another config of the same workspace from now on."""
        url = self.config.partition("url: ")[2].partition("\n")[0]
        self.config = workspace_yaml(url, events, pause=pause)

    def span(self, start: str, end: str) -> None:
        """Have another span from now on."""
        self.request = replace(self.request, start=parse_time(start), end=parse_time(end))

    def run(self) -> str:
        """Carry it out while time passes, a second in a moment, and return what it advises."""
        return self.begin().end()

    def begin(self) -> "Running":
        """Carry it out in a thread, at a time that stands still."""
        return Running(self)

    def run_request(self) -> str:
        """Carry it out, and return what it advises."""
        config = load_config(self.config, "config.yaml", {"BRAZE_API_KEY": KEY})
        out, clock = io.StringIO(), self.clock
        with contextlib.closing(transport.open_session(10)) as session:
            ctx = CommandContext(
                session, lambda _: {}, clock.wall, clock.monotonic, clock.advance, out, self.stream, lambda _: None
            )
            timeouts = transport.Timeouts(total=1e9)  # time jumps while an answer is under way
            run_backfill(self.request, config, build_plan(config), ctx, timeouts)
        return out.getvalue()

    @property
    def output_samples(self) -> Samples:
        """What it has written."""
        return samples(self.request.output.read_text(encoding="utf-8"))

    @property
    def progress_text(self) -> str:
        """What it has told of how far it is."""
        return self.stream.getvalue()


class Running:
    """A backfill that is under way."""

    def __init__(self, what: BackfillRig) -> None:
        self._what = what
        self._future: Future[str] = Future()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._what.run_request())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self._future.set_exception(error)

    def end(self, step: float = 1.0) -> str:
        """Let time pass by steps until it ends; return what it advises, or raise what brought the end about."""
        for _ in range(2_000):
            with contextlib.suppress(TimeoutError):
                return self._future.result(0.01)
            self._what.clock.advance(step)
        raise AssertionError("it has not ended:\n" + self._what.progress_text)


@contextlib.contextmanager
def prepared_backfill(
    folder: Path, events: str, traffic: Counts, start: str, end: str, *, pause: str = "", clock: Clock | None = None
) -> Iterator[BackfillRig]:
    """Yield a backfill of one workspace that can be run."""
    clock = clock or Clock()
    with running_braze(traffic, clock) as (braze, server):
        request = BackfillRequest(parse_time(start), parse_time(end), TARGET, folder / "history.om")
        yield BackfillRig(clock, braze, request, workspace_yaml(server.url, events, pause=pause))


def backfill_arguments(config: str, output: Path, start: str, end: str) -> Sequence[str]:
    """Return the command line of a backfill."""
    labels = [f"--label={name}={value}" for name, value in TARGET]
    return ("backfill", f"--config.file={config}", f"--start={start}", f"--end={end}", f"--output={output}", *labels)


@contextlib.contextmanager
def start_program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
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
