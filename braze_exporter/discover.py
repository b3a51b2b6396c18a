"""The command `discover`: all that Braze lists of the workspaces of a config, printed as config to paste."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import requests

from braze_exporter import paste
from braze_exporter.admission import Admission
from braze_exporter.catalog import LISTINGS, TROUBLES, BrazeError, Held, Listed, Listing, Withheld
from braze_exporter.client import Client, open_client
from braze_exporter.config import Config
from braze_exporter.config.document import shown
from braze_exporter.config.schema import Workspace
from braze_exporter.listing import Walk
from braze_exporter.paste import Found

# A page that Braze's trouble kept from us is asked for again, after so many seconds.
_PAUSES = (1.0, 5.0)

_HEAD = """\
# What Braze has, as config to paste: take what you want to watch. What is in the config already, and what cannot be
# asked for, is commented out. By `braze-exporter discover`.
workspaces:"""


@dataclass(frozen=True, slots=True)
class Surroundings:
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


@dataclass(frozen=True, slots=True)
class Lister:
    """Reads the lists of one workspace."""

    client: Client
    admission: Admission
    sleep: Callable[[float], None]

    def read(self, listing: Listing, *, archived: bool) -> Found:
        """Read a list as far as it can be, and if `archived` is wanted, what is archived too."""
        rows, failure = self._rows(listing)
        if failure or not (archived and listing.can_be_archived):
            return Found(rows, failure=failure)
        every, failure = self._rows(listing.with_archived())
        known = {row.id for row in rows}
        return Found(rows, tuple(row for row in every if row.id not in known), failure)

    def _rows(self, listing: Listing) -> tuple[tuple[Listed, ...], str]:
        """Return the rows of a list, and why these are not all."""
        walk = Walk(listing, self.client, self.admission)
        pauses = list(_PAUSES)
        while True:
            try:
                return walk.go_on(), ""
            except Held:
                error = self.admission.refusal(listing)
                return walk.rows, error.detail if error is not None else "the key was refused"
            except Withheld:
                what = f"budget allows no more calls of the {listing.pool.name} pool now"
                return walk.rows, f"{what}: raise budget.share, or run it again in an hour"
            except BrazeError as error:
                if error.reason not in TROUBLES or not pauses:
                    return walk.rows, error.detail
                self.sleep(pauses.pop(0))


def open_lister(config: Config, workspace: Workspace, around: Surroundings) -> Lister:
    """Return who reads the lists of a workspace, with an hour's share of each pool and none of its reserve."""
    key, budget = config.keys[workspace.name], config.settings.budget
    client = open_client(
        workspace, key, around.session, proxies=around.proxies, wall=around.wall, monotonic=around.monotonic
    )
    admission = Admission(around.monotonic)
    bursts = {listing.pool: max(1, int(listing.pool.per_hour * budget.share)) for listing in LISTINGS}
    admission.allow(bursts, share=budget.share, reserve=budget.reserve)
    return Lister(client, admission, around.sleep)


def discover(config: Config, around: Surroundings, *, archived: bool) -> bool:
    """Print what Braze lists, and of what is `archived` too if that is wanted; return whether anything was listed."""
    found: list[dict[Listing, Found]] = []
    for spec in (workspace.spec for workspace in config.workspaces):
        lister = open_lister(config, spec, around)
        lister.admission.use(LISTINGS)
        read: dict[Listing, Found] = {}
        for listing in LISTINGS:
            read[listing] = lister.read(listing, archived=archived)
            print(f"{shown(spec.name)}: {_outcome(listing, read[listing])}", file=around.err, flush=True)
        refusal = lister.admission.standing().refusal
        if refusal is not None:  # each list alone could not tell a permission from the key
            print(f"{shown(spec.name)}: {refusal.error.detail}", file=around.err, flush=True)
            read = {listing: Found((), failure=refusal.error.detail) for listing in read}
        found.append(read)
    for workspace, read in zip(config.workspaces, found, strict=True):
        count, most = paste.count(workspace, read), config.settings.max_queries
        if count > most:
            text = f"{count:,} entries, more than max_queries, which is {most:,}: take what you watch of them"
            print(f"warning: {shown(workspace.spec.name)}: {text}", file=around.err, flush=True)
    lines = [_HEAD]
    for workspace, read in zip(config.workspaces, found, strict=True):
        lines += paste.fragment(workspace, config.settings, read)
    around.out.write("".join(f"{line}\n" for line in lines))  # at once, so that a signal leaves no part of it
    return any(read.rows or not read.failure for lists in found for read in lists.values())


def _outcome(listing: Listing, read: Found) -> str:
    count = f"{len(read.rows):,} {listing.what[len(read.rows) != 1]}"
    count += f" and {len(read.archived):,} archived" if read.archived else ""
    return f"{count}, and then: {read.failure}" if read.failure else count
