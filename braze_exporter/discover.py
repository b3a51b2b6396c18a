"""The command `discover`: all that Braze lists of the workspaces of a config, printed as config to paste."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

import requests

from braze_exporter import paste
from braze_exporter.admission import Admission
from braze_exporter.catalog import LISTINGS, BrazeError, Held, Listed, Listing, Withheld
from braze_exporter.client import Client, open_client
from braze_exporter.config import Config
from braze_exporter.config.document import shown
from braze_exporter.config.schema import Budget
from braze_exporter.listing import Walk
from braze_exporter.paste import Found
from braze_exporter.reading import TROUBLES

# A page that Braze's trouble kept from us is asked for again, after so many seconds.
_PAUSES = (1.0, 5.0)

_HEAD = """\
# What Braze has, as config to paste: take what you want to watch. What is in the config already, and what cannot be
# asked for, is commented out. By `braze-exporter discover`.
workspaces:"""


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


def discover(
    config: Config,
    session: requests.Session,
    *,
    archived: bool,
    proxies: Callable[[str], Mapping[str, str]],
    wall: Callable[[], float],
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
    out: TextIO,
    err: TextIO,
) -> bool:
    """Print to `out` what Braze lists, and to `err` how it goes; return whether anything could be listed.

    It keeps to the share and the reserve of the config's budget, and makes at most the calls of an hour.
    """
    found: list[dict[Listing, Found]] = []
    for spec in (workspace.spec for workspace in config.workspaces):
        client = open_client(spec, config.keys[spec.name], session, proxies=proxies, wall=wall, monotonic=monotonic)
        lister = Lister(client, _admission(config.settings.budget, monotonic), sleep)
        read: dict[Listing, Found] = {}
        for listing in LISTINGS:
            read[listing] = lister.read(listing, archived=archived)
            print(f"{shown(spec.name)}: {_outcome(listing, read[listing])}", file=err, flush=True)
        found.append(read)
    for workspace, read in zip(config.workspaces, found, strict=True):
        count, most = paste.count(workspace, read), config.settings.max_queries
        if count > most:
            text = f"{count:,} entries, more than max_queries, which is {most:,}: take what you watch of them"
            print(f"warning: {shown(workspace.spec.name)}: {text}", file=err, flush=True)
    print(_HEAD, file=out)
    for workspace, read in zip(config.workspaces, found, strict=True):
        for line in paste.fragment(workspace, config.settings, read):
            print(line, file=out)
    return any(read.rows or not read.failure for lists in found for read in lists.values())


def _admission(budget: Budget, monotonic: Callable[[], float]) -> Admission:
    """Return who lets the calls of one workspace go: an hour's share of each pool."""
    admission = Admission(monotonic)
    bursts = {listing.pool: max(1, int(listing.pool.per_hour * budget.share)) for listing in LISTINGS}
    admission.allow(bursts, share=budget.share, reserve=budget.reserve)
    return admission


def _outcome(listing: Listing, read: Found) -> str:
    count = f"{len(read.rows):,} {listing.what[len(read.rows) != 1]}"
    count += f" and {len(read.archived):,} archived" if read.archived else ""
    return f"{count}, and then: {read.failure}" if read.failure else count
