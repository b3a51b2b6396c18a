"""The counters: what Braze has reported of each bucket, and the sum of what was new in it.

Braze tells totals of buckets, again and again, and revises them. A counter may only rise, by each occurrence once. With
a state file, what is shown of a counter is always in the file first.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from braze_exporter.braze.kinds import MAX_LENGTH, Unit
from braze_exporter.state import Account, Store, StoreError, Subject

# As many buckets as Braze can tell in one answer; what is older never counts.
MAX_BUCKETS = MAX_LENGTH
# Seconds after which no answer can tell any more of a bucket that is held, of days not either.
_REMEMBERED = MAX_LENGTH * 24 * 3_600.0
# Counters that have changed and are not written: the next page would wait for a tenth of a second, or two.
MANY = 2_000

_log = logging.getLogger(__name__)


class Ledger:
    """Turns the buckets of answers into totals that never fall. Thread-safe.

    `revision` changes whenever a total that may be shown does.
    A subject is what a counter is of, in Braze's own ids: the names of labels may change, and the counter goes on.
    """

    def __init__(self, store: Store | None = None, on_write_failure: Callable[[], None] = lambda: None) -> None:
        """Begin with what is in `store`, or with nothing; `on_write_failure` is told of each write that failed."""
        self._store = store
        self._on_write_failure = on_write_failure
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._accounts: dict[Subject, Account] = store.read() if store is not None else {}
        self._changed: set[Subject] = set()
        self._forgotten: set[Subject] = set()
        self._shown = {subject: account.total for subject, account in self._accounts.items()}
        self._is_failing = False
        self._is_closing = False
        self.revision = 0

    def record(
        self,
        subject: Subject,
        unit: Unit,
        buckets: Iterable[tuple[int, float]],
        asked_from: int,
        asked_at: float | None,
        *,
        is_complete: bool = True,
        unknown: Iterable[int] = (),
        new_from: int | None = None,
    ) -> None:
        """Take in the buckets of an answer, each as a number that rises by time, and its value.

        The answer was asked for at `asked_at`, for buckets from `asked_from` on. `asked_at` is None where another
        account tells that, and moves only by an answer that `is_complete`. The first one of a subject, or of another
        unit than before, is the ground that later ones rise from and counts nothing; nor does the first number of a
        bucket that was `unknown` then. After that a rise of a bucket is added, a fall is not subtracted, and a later
        rise counts only above the most that was seen. Buckets older than the oldest that is held do not count. With
        `new_from` a subject that is new has risen from nothing in the buckets from that one on.
        """
        found, holes = dict(buckets), list(unknown)
        with self._lock:
            account = self._accounts.get(subject)
            if account is None and new_from is not None:
                account = self._accounts[subject] = Account(unit, 0.0, new_from, asked_at or 0.0)
                self._changed.add(subject)
            if account is None or account.unit is not unit:
                total = account.total if account is not None else 0.0
                ground: dict[int, float | None] = dict.fromkeys(holes)
                ground |= {bucket: max(value, 0.0) for bucket, value in found.items()}  # as if it had risen to that
                self._accounts[subject] = Account(unit, total, min(ground, default=asked_from), asked_at or 0.0, ground)
                self._changed.add(subject)
                return
            if asked_at is not None and is_complete:
                account.asked_at = asked_at
                self._changed.add(subject)
            if self._count(account, found):
                self._changed.add(subject)

    @staticmethod
    def _count(account: Account, found: Mapping[int, float]) -> bool:
        """Add to an account what is new in its buckets, and return whether anything was."""
        is_news = False
        for bucket, value in found.items():
            before = account.seen.get(bucket, 0.0)
            if before is None:
                account.seen[bucket] = max(value, 0.0)
                is_news = True
                continue
            rise = value - before
            if bucket >= account.floor and rise > 0:
                account.total += rise
                account.seen[bucket] = value
                is_news = True
        for bucket in sorted(account.seen)[:-MAX_BUCKETS]:
            del account.seen[bucket]
        if len(account.seen) == MAX_BUCKETS:
            account.floor = min(account.seen)
        return is_news

    def forget_others(self, asked_for: Collection[Subject]) -> None:
        """Forget what is not `asked_for` and was not told of in the hundred days before the newest answer.

        The subjects that are asked for are of one length, and those of their series begin with them. What comes back
        begins at 0. While nothing is asked for, nothing is forgotten.
        """
        width = len(next(iter(asked_for), ()))
        with self._lock:
            accounts = self._accounts
            oldest = max((account.asked_at for account in accounts.values()), default=0.0) - _REMEMBERED
            others = [subject for subject in accounts if width and subject[:width] not in asked_for]
            forgotten = [
                subject for subject in others if accounts.get(subject[:width], accounts[subject]).asked_at < oldest
            ]
            for subject in forgotten:
                del accounts[subject]
                self._shown.pop(subject, None)
            self._changed.difference_update(forgotten)
            self._forgotten.update(forgotten)

    def last_asked(self, subject: Subject) -> float | None:
        """Return when the last answer that told of a subject was asked for, in seconds since the epoch, or None.

        If none has told anything yet, it is when the first was asked for, None if that was a short one.
        """
        with self._lock:
            account = self._accounts.get(subject)
            return account.asked_at or None if account is not None else None

    def total(self, subject: Subject) -> float:
        """Return what may be shown of a counter: 0 before its first answer, then what `save` has made durable."""
        with self._lock:
            return self._shown.get(subject, 0.0)

    @property
    def is_standing_still(self) -> bool:
        """Whether the last write failed, so that no total that is shown rises."""
        return self._is_failing

    def save(self) -> None:
        """Write what has changed, and let it be shown. If it cannot be written, the totals stand still until it can."""
        with self._writing:
            self._save()

    def save_many(self) -> None:
        """Save if so much has changed that the next page would wait for it, unless that is done already, or fails."""
        with self._lock:
            are_many = len(self._changed) >= MANY
        if are_many and self._writing.acquire(blocking=False):
            try:
                if not (self._is_failing or self._is_closing):
                    self._save()
            finally:
                self._writing.release()

    def close(self) -> None:
        """Save what changes for those alone who ask for it: with the last of them the store may be closed."""
        with self._writing:
            self._is_closing = True

    def _save(self) -> None:
        with self._lock:
            changed = {subject: self._accounts[subject].copy() for subject in self._changed}
            self._changed.clear()
            forgotten, self._forgotten = self._forgotten, set()
        if not changed and not forgotten:
            return
        try:
            if self._store is not None:
                self._store.write({subject: account.frozen() for subject, account in changed.items()}, forgotten)
        except StoreError as error:
            self._note_failure(error)
            with self._lock:
                self._changed |= changed.keys() & self._accounts.keys()
                self._forgotten |= forgotten
            return
        if self._is_failing:
            self._is_failing = False
            _log.info("the state file is written again")
        with self._lock:
            found = changed.keys() & self._accounts.keys()
            self._shown.update({subject: changed[subject].total for subject in found})
            self.revision += 1

    def _note_failure(self, error: StoreError) -> None:
        self._on_write_failure()
        if not self._is_failing:
            self._is_failing = True
            _log.error("the state file cannot be written: counters stand still", extra={"fields": {"reason": error}})
