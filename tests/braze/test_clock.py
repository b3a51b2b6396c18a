"""Test the clock for ages and intervals."""

import time

import pytest

from braze_exporter.braze.clock import Clock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has this clock")
def test_clock_advances_during_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the one that the system advances while the machine is suspended."""
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 5.0}.__getitem__)
    assert Clock().monotonic() == 5.0
