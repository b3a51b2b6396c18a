"""Test the progress messages of a backfill."""

import io

import pytest
from support import Clock

from braze_exporter.backfill.progress import Progress, format_rate


@pytest.mark.parametrize(
    ("per_second", "expected"),
    [(6.94, "6.9 calls/s"), (1, "1.0 calls/s"), (0.5, "1,800 calls/h"), (0.0277, "100 calls/h")],
)
def test_rate_is_per_second_or_per_hour(per_second: float, expected: str) -> None:
    """A rate below one call per second is shown per hour."""
    assert format_rate(per_second) == expected


def test_progress_without_terminal_is_a_line_per_interval() -> None:
    """Without a terminal, a line appears each minute and when a pause starts or ends; rates are of the last minute."""
    clock, stream = Clock(), io.StringIO()
    progress = Progress(stream, clock.monotonic)
    for second in range(180):
        waiting = "production paused until 13:00:00 UTC: 429 Too Many Requests" if 70 <= second < 75 else ""
        progress.update(min(10 * second, 700), 1_000, waiting)
        clock.advance(1)
    assert stream.getvalue().splitlines() == [
        "0 of 1,000 calls",
        "600 of 1,000 calls, 10.0 calls/s, 40s left",
        "700 of 1,000 calls, production paused until 13:00:00 UTC: 429 Too Many Requests",
        "700 of 1,000 calls, 9.2 calls/s, 33s left",
        "700 of 1,000 calls",
    ]
