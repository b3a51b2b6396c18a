"""Reads one of Braze's lists to its end for a command, with retries."""

from collections.abc import Callable
from dataclasses import dataclass

from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.lists import Listed, Listing
from braze_exporter.braze.series import TROUBLES
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.errors import Held, Withheld
from braze_exporter.scheduler.list_pager import Walk


@dataclass(frozen=True, slots=True)
class Found:
    """What was read of a list: its rows, and those that are archived; and why that is not all, or nothing."""

    rows: tuple[Listed, ...] = ()
    archived: tuple[Listed, ...] = ()
    failure: str = ""


# A page that Braze's trouble kept from us is asked for again, after so many seconds.
_PAUSES = (1.0, 5.0)


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
