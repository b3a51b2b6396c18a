"""What a command is given of its environment: the session, the clocks and the streams."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import requests


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What a command finds where it runs: the way to Braze, the clocks, and where to write.

    `proxies` tells which proxies lead to a URL, by scheme; `wall` tells seconds since the epoch, `monotonic` seconds
    that never jump. `out` is for what was asked for, `err` for how it goes. `on_stop` has a signal that ends the
    command call a function first, in another thread, which returns what to add to the line that says so.
    """

    session: requests.Session
    proxies: Callable[[str], Mapping[str, str]]
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    out: TextIO
    err: TextIO
    on_stop: Callable[[Callable[[], str]], None]
