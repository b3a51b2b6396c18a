"""The environment of a command that makes calls to Braze."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import requests


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The environment of a command: the HTTP session, the clocks and the output streams.

    `wall` returns seconds since the epoch, `monotonic` seconds of a monotonic clock. `out` is for results, `err` for
    progress.

    `on_stop` sets a function that is called before a signal ends the process. It is called in the main thread while the
    command runs in another one, and returns text to add to the message about the signal.
    """

    session: requests.Session
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    out: TextIO
    err: TextIO
    on_stop: Callable[[Callable[[], str]], None]
