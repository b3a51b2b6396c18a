"""Test the clock for ages and intervals."""

import time

import pytest

from braze_exporter.commands.clock import read_monotonic_clock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has this clock")
def test_clock_advances_during_suspend() -> None:
    """The clock is the one that the system advances while the machine is suspended."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= read_monotonic_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
