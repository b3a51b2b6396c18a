"""A list of Braze's, read page by page to its end, as far as the budget lets it. It waits for nothing by itself."""

from typing import Protocol

from braze_exporter.braze.calls import Permit, Told
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import Listed, Listing
from braze_exporter.braze.pools import Endpoint
from braze_exporter.scheduler.errors import Withheld

# So many pages are all that Braze answers in an hour of events and products; no list has reason to be longer.
MOST_PAGES = 1_000
# Nor to hold more letters: names are short, and all that is read is kept.
MOST_LETTERS = 20_000_000


class Busy(Withheld):
    """A call was not made, because another one goes alone just now."""


class Asker(Protocol):
    """Who asks Braze for a page."""

    def page(self, listing: Listing, number: int, permit: Permit) -> tuple[Listed | None, ...]:
        """Ask once, with leave to, for a page from 0; raise `BrazeError` if it is not answered.

        A row that cannot be read is None.
        """


class Admitter(Protocol):
    """Who says whether a call may be made."""

    def admit(self, at: Endpoint) -> Permit | Withheld | None:
        """Return leave to make one call, or why it is not to be made now, or None while another one goes alone."""

    def is_sought(self, at: Endpoint) -> bool:
        """Return whether a call is wanted for what it will show of the key, though nothing is due."""

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""


class Walk:
    """The way through one list. A list ends where a page has no rows: a short page is no sign of it.

    Rows that cannot be read are left out, unless none can. Where rows come while it is read, pages overlap; what is
    listed twice is there once, as it was listed last.
    """

    def __init__(self, listing: Listing, asker: Asker, admitter: Admitter) -> None:
        """Begin before the first page."""
        self.listing = listing
        self.pages = 0
        self._asker = asker
        self._admitter = admitter
        self._rows: dict[str, Listed] = {}
        self._letters = 0

    @property
    def rows(self) -> tuple[Listed, ...]:
        """What was read so far, in the order of the list."""
        return tuple(self._rows.values())

    def go_on(self) -> tuple[Listed, ...]:
        """Read on to the end, and return all rows in the order of the list.

        Raises `Withheld` where no call may be made now, and `Busy` if that is only until another one has ended: the
        next time it goes on there. Raises `BrazeError` if a page was not answered, or the list does not end.
        """
        while page := self._page():
            rows, before = [row for row in page if row is not None], len(self._rows)
            self._rows |= {row.id: row for row in rows}
            self._letters += sum(len(row.id) + len(row.name) + sum(map(len, row.tags)) for row in rows)
            self.pages += 1
            if not self._rows:
                raise self._unreadable(f"no row of page {self.pages - 1} has a name and an id that are text")
            if rows and len(self._rows) == before:
                raise self._unreadable(f"page {self.pages - 1} repeats what came before it")
            if self.pages == MOST_PAGES or self._letters > MOST_LETTERS:
                raise self._unreadable(f"there is no end to it after {self.pages:,} pages")
        return self.rows

    def _page(self) -> tuple[Listed | None, ...]:
        permit = self._admitter.admit(self.listing)
        if permit is None:
            raise Busy(self.listing.pool.name)
        if isinstance(permit, Withheld):
            raise permit
        try:
            return self._asker.page(self.listing, self.pages, permit)
        finally:
            permit.end(BrazeError(Reason.BAD_ANSWER, "a fault of the exporter itself"), Told())  # if it has not ended

    def _unreadable(self, why: str) -> BrazeError:
        return BrazeError(Reason.BAD_ANSWER, f"the list of {self.listing.what[1]} cannot be read: {why}")
