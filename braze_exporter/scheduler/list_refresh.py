"""What Braze lists, read beside the scrapes: about once an hour, as long as someone scrapes.

The last list that was read to its end is held until another one was, and what that lacks until the next one lacks it
too: pages shift while they are read, and what is taken away is hard to bring back. Nobody waits for a list.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import Listed, Listing
from braze_exporter.scheduler.admission import REFUSALS
from braze_exporter.scheduler.errors import Held, Withheld
from braze_exporter.scheduler.list_pager import Admitter, Asker, Busy, Walk
from braze_exporter.scheduler.selectors import Known, Lists

# How often a list is read, in seconds.
EVERY = 3_600.0
# A list that was withheld goes on after so long, and one that failed begins anew, the longer the more often it failed.
RETRY = 60.0
# The permissions of a key cannot be changed, only the key; an address that is not allowed may be.
FORBIDDEN_RETRY = 86_400.0
# So many rows that are not listed any more keep their names.
_MOST_GONE = 10_000
# How soon it is tried again, in seconds, whether a page may be asked for while another call goes alone.
_TRY = 0.1

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A workspace, and where its Braze is: what was listed there is true of no other."""

    workspace: str
    url: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lists of a place are read, and who asks for them, and whether with the same key as before."""

    listings: Sequence[Listing]
    asker: Asker
    admitter: Admitter
    is_same_key: bool


@dataclass(frozen=True, slots=True)
class ListState:
    """How a list stands: when it was read last, in seconds since the epoch, 0 for never, and why not since, if so.

    In so many `seconds` the next scrape has it read, or read on.
    """

    listing: Listing
    read_at: float
    error: BrazeError | None
    seconds: float


@dataclass(slots=True, eq=False)
class _List:
    """One list as it stands: the last whole one, or None, and when it is to be read or read on.

    `missed` are the ids of what is known yet and was not listed, the last time. `walk` is how far it was read, `busy`
    means queued or being read, `error` is why it could not be, the last time. `read_at` is 0 until it was, in seconds
    since the epoch.
    """

    place: Place
    listing: Listing
    next_at: float
    known: Known | None = None
    missed: frozenset[str] = frozenset()
    walk: Walk | None = None
    busy: bool = False
    failures: int = 0
    error: BrazeError | None = None
    read_at: float = 0.0


class Discovery:
    """Reads lists in a thread of its own. Thread-safe."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
        on_end: Callable[[], None],
        on_deferred: Callable[[str, Listing], None] = lambda _workspace, _listing: None,
    ) -> None:
        """Begin without lists.

        `wall` tells seconds since the epoch, `monotonic` seconds that never jump, `jitter` a factor for waiting after
        failures. `on_end` is called, from the thread, when a list was read to its end, or failed; `on_deferred` is
        told of a list of a workspace that is due and withheld, but for a refusal.
        """
        self._wall = wall
        self._monotonic = monotonic
        self._jitter = jitter
        self._on_end = on_end
        self._on_deferred = on_deferred
        self._changed = threading.Condition()
        self._lists: dict[tuple[Place, Listing], _List] = {}
        self._wanted: Mapping[Place, Wanted] = {}
        self._due: deque[_List] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def use(self, wanted: Mapping[Place, Wanted]) -> None:
        """Read these lists from now on, and forget all others.

        All are due at once, but for those that the same key was refused.
        """
        with self._changed:
            now = self._monotonic()
            keys = [(place, listing) for place, found in wanted.items() for listing in found.listings]
            self._lists = {key: self._lists.get(key) or _List(*key, next_at=now) for key in keys}
            self._wanted = wanted
            for one in self._lists.values():
                one.walk = None
                if not (wanted[one.place].is_same_key and _is_refused(one)):
                    one.next_at = now

    def try_again(self, place: Place) -> None:
        """Have the lists of a place read by the next scrape that were refused: the key is another one now."""
        with self._changed:
            for one in self._lists.values():
                if one.place == place and _is_refused(one):
                    one.next_at = self._monotonic()

    def known(self) -> Lists:
        """Return what is known."""
        with self._changed:
            lists = self._lists.values()
            return {(one.place.workspace, one.listing): one.known for one in lists if one.known is not None}

    def awaited(self) -> set[tuple[str, Listing]]:
        """Return the lists that are not known and may yet be, with the name of the workspace before each."""
        with self._changed:
            return {
                (one.place.workspace, one.listing)
                for one in self._lists.values()
                if one.known is None and not (_is_refused(one) and self._wanted[one.place].admitter.is_key_accepted)
            }

    def states(self) -> Mapping[str, Sequence[ListState]]:
        """Return how the lists stand, by the name of the workspace."""
        found: dict[str, list[ListState]] = {}
        with self._changed:
            now = self._monotonic()
            for one in self._lists.values():
                state = ListState(one.listing, one.read_at, one.error, max(0.0, one.next_at - now))
                found.setdefault(one.place.workspace, []).append(state)
        return found

    def refresh(self) -> None:
        """Have the lists read that are due."""
        with self._changed:
            if self._closed:
                return
            now = self._monotonic()
            for one in self._lists.values():
                is_due = one.next_at <= now or self._wanted[one.place].admitter.is_sought(one.listing)
                if is_due and not one.busy:
                    one.busy = True
                    self._due.append(one)
            if self._due and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lists", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Begin no more pages. One that is under way ends by itself, or with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (one := self._take()) is not None:
            try:
                if self._read(one):
                    self._on_end()
            except Exception:  # noqa: BLE001 - the thread lives on for the others
                _log.exception("a list was not taken in by a fault of the exporter", extra={"fields": _fields(one)})
            with self._changed:
                one.busy = False

    def _take(self) -> _List | None:
        """Wait for a list that is due and return it, or None to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._due)
            if self._closed:
                return None
            one = self._due.popleft()
            one.next_at = self._monotonic() + RETRY  # whatever comes of it
            return one

    def _read(self, one: _List) -> bool:
        """Read a list on, and return whether it was read to its end, or failed."""
        with self._changed:
            wanted = self._wanted.get(one.place)
            if wanted is None or self._lists.get((one.place, one.listing)) is not one:
                return False  # it is not wanted any more
            walk = one.walk = one.walk or Walk(one.listing, wanted.asker, wanted.admitter)
        error: BrazeError | None = None
        rows: tuple[Listed, ...] | None = None
        try:
            rows = self._walk(walk)
        except Held:  # for a refusal, which is no want of budget
            return False
        except Withheld:
            self._on_deferred(one.place.workspace, one.listing)
            return False
        except BrazeError as failure:
            error = failure.bare()
        with self._changed:
            if one.walk is not walk:
                return False  # a new config has come: it is read anew, as that has it
            one.walk = None
            self._schedule(one, error)
            if rows is None:
                return True
            missed = _missed(one, rows)
            one.missed = frozenset(row.id for row in missed)
            if missed:
                one.next_at = self._monotonic() + RETRY
            before, every = one.known, (*rows, *missed)
            known = Known(every, calls=walk.pages + 1, gone=_gone(one, every))
            if before is not None and before.rows == known.rows:
                known = replace(known, near=before.near)
            one.known, one.read_at = known, self._wall()
            return True

    def _walk(self, walk: Walk) -> tuple[Listed, ...]:
        """Read on to the end, and wait only for a call that goes alone."""
        while True:
            try:
                return walk.go_on()
            except Busy:
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed, _TRY):
                        raise

    def _schedule(self, one: _List, error: BrazeError | None) -> None:
        """Set when a list is read again, and tell the log if it fails for another reason than before, or does not."""
        reason = error.reason if error is not None else None
        one.failures = one.failures + 1 if error is not None else 0
        wait = EVERY
        if reason is Reason.FORBIDDEN:
            wait = FORBIDDEN_RETRY
        elif error is not None:
            wait = min(RETRY * 2.0 ** (one.failures - 1), EVERY) * self._jitter()
        one.next_at = self._monotonic() + wait
        before, one.error = one.error, error
        if reason is (before.reason if before is not None else None):
            return
        if error is not None:
            detail = {"reason": error.reason, "detail": error.detail}
            known = "none is known yet" if one.known is None else "the one before is used"
            _log.warning("list not read: %s", known, extra={"fields": _fields(one) | detail})
        else:
            _log.info("list read again", extra={"fields": _fields(one)})


def _is_refused(one: _List) -> bool:
    return one.error is not None and one.error.reason in REFUSALS


def _missed(one: _List, rows: Sequence[Listed]) -> tuple[Listed, ...]:
    """Return the rows that were known and are missing for the first time."""
    found = {row.id for row in rows} | one.missed
    return tuple(row for row in one.known.rows if row.id not in found) if one.known is not None else ()


def _gone(one: _List, rows: Sequence[Listed]) -> tuple[Listed, ...]:
    """Return the rows with ids that were known once and are not among `rows`, as many of the last as are kept."""
    if one.known is None or not one.listing.has_ids:
        return ()
    found = {row.id for row in rows}
    return tuple(row for row in (*one.known.gone, *one.known.rows) if row.id not in found)[-_MOST_GONE:]


def _fields(one: _List) -> dict[str, object]:
    return {"workspace": one.place.workspace, "list": one.listing.what[1]}
