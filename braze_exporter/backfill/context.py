"""What a command needs from its environment: the session, the clocks and the streams."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import requests


@dataclass(frozen=True, slots=True)
class CommandContext:
    """Holds what a command needs from its environment: the session, the clocks and the streams.

    `proxies` returns the proxies for a URL, by scheme. `wall` returns seconds since the epoch, `monotonic` the seconds
    of a clock that never jumps. `out` is for results, `err` for progress.

    `on_stop` sets a function to call before a signal ends the command. It is called in another thread and returns text
    to add to the message about the signal.
    """

    session: requests.Session
    proxies: Callable[[str], Mapping[str, str]]
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    out: TextIO
    err: TextIO
    on_stop: Callable[[Callable[[], str]], None]
