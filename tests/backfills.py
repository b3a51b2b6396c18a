"""Helpers to run backfills in tests, over real sockets against a simulated Braze, and to parse their output files."""

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

from braze_exporter.backfill.command_context import CommandContext
from braze_exporter.backfill.request import BackfillRequest, parse_time
from braze_exporter.backfill.run import run_backfill
from braze_exporter.braze import transport
from braze_exporter.config.loading import load_config
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.traffic import Counts

# The target labels that each series of a backfill has.
TARGET = (("job", "braze"), ("instance", "exporter:27293"))
SETTLED, TOTAL = "braze_custom_events_hourly_settled", "braze_custom_events_total"

# The times and values of each series, oldest first.
Samples = dict[tuple[str, Labels], list[tuple[float, float]]]


def unfiltered_labels(**labels: str) -> Labels:
    """Return the labels of a backfilled series of a query without filters, including the target labels."""
    return frozenset({"workspace": "production", **labels, **dict(TARGET)}.items())


def samples(text: str) -> Samples:
    """Parse an OpenMetrics file, and check that the times of each series increase."""
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
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@dataclass
class BackfillRig:
    """A backfill in this process, with a clock and a simulated Braze that the test controls."""

    clock: Clock
    braze: FaultInjectingBraze
    request: BackfillRequest
    config: str
    stream: io.StringIO = field(default_factory=Terminal)

    def set_events(self, events: str, extra_yaml: str = "") -> None:
        """Replace the events and further settings in the config, for the same workspace."""
        url = self.config.partition("url: ")[2].partition("\n")[0]
        self.config = workspace_yaml(url, events, extra_yaml=extra_yaml)

    def set_span(self, start: str, end: str) -> None:
        """Set another time span."""
        self.request = replace(self.request, start=parse_time(start), end=parse_time(end))

    def run(self) -> str:
        """Run the backfill while the clock advances quickly, and return its output."""
        return self.begin().end()

    def begin(self) -> "RunningBackfill":
        """Start the backfill in a thread. The clock advances only by `RunningBackfill.end()`."""
        return RunningBackfill(self)

    def run_request(self) -> str:
        """Run the backfill in this thread, and return its output."""
        config = load_config(self.config, "config.yaml", {"BRAZE_API_KEY": KEY})
        out, clock = io.StringIO(), self.clock
        with contextlib.closing(transport.open_session(10)) as session:
            ctx = CommandContext(session, clock, clock.advance, out, self.stream, lambda _: None)
            timeouts = transport.Timeouts(total=1e9)  # the clock jumps while a response is in progress
            run_backfill(self.request, config, build_plan(config), ctx, timeouts)
        return out.getvalue()

    @property
    def output_samples(self) -> Samples:
        """The samples in the output file."""
        return samples(self.request.output.read_text(encoding="utf-8"))

    @property
    def progress_text(self) -> str:
        """The progress messages so far."""
        return self.stream.getvalue()


class RunningBackfill:
    """A backfill that runs in a thread."""

    def __init__(self, target: BackfillRig) -> None:
        self._target = target
        self._future: Future[str] = Future()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._target.run_request())
        except Exception as error:  # noqa: BLE001 - the test checks it
            self._future.set_exception(error)

    def end(self, step: float = 1.0) -> str:
        """Advance the clock by `step` seconds until the backfill ends, and return its output, or raise its error."""
        for _ in range(2_000):
            with contextlib.suppress(TimeoutError):
                return self._future.result(0.01)
            self._target.clock.advance(step)
        raise AssertionError("the backfill has not ended:\n" + self._target.progress_text)


@contextlib.contextmanager
def prepared_backfill(
    directory: Path,
    events: str,
    traffic: Counts,
    start: str,
    end: str,
    *,
    extra_yaml: str = "",
    clock: Clock | None = None,
) -> Iterator[BackfillRig]:
    """Yield a backfill of one workspace that is ready to run."""
    clock = clock or Clock()
    with running_braze(traffic, clock) as (braze, server):
        request = BackfillRequest(parse_time(start), parse_time(end), TARGET, directory / "history.om")
        yield BackfillRig(clock, braze, request, workspace_yaml(server.url, events, extra_yaml=extra_yaml))


def backfill_arguments(config: str, output: Path, start: str, end: str) -> Sequence[str]:
    """Return the command line arguments of a backfill."""
    labels = [f"--label={name}={value}" for name, value in TARGET]
    return ("backfill", f"--config.file={config}", f"--start={start}", f"--end={end}", f"--output={output}", *labels)


@contextlib.contextmanager
def start_program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program with pipes for its output, and kill it at the end of the block."""
    command = [sys.executable, "-m", "braze_exporter", *arguments]
    environment = {**os.environ, "BRAZE_API_KEY": KEY}
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
