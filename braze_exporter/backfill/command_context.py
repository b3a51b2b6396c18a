"""The environment of a command that makes calls to Braze."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import requests

from braze_exporter.braze.clock import Clock


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The environment of a command: the HTTP session, the clock and the output streams.

    `out` is for results, `err` for progress.

    `on_stop` sets a function that is called before a signal ends the process. It is called in the main thread while the
    command runs in another one, and returns text to add to the message about the signal.
    """

    session: requests.Session
    clock: Clock
    sleep: Callable[[float], None]
    out: TextIO
    err: TextIO
    on_stop: Callable[[Callable[[], str]], None]
