"""What answers say about Braze itself: how late it still revises a bucket, and in which zone its days begin. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from braze_exporter.braze.buckets import bucket_end, starts
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.query_state import Answer

# So close to midnight a small difference of the clocks would look like another zone.
_NEAR_MIDNIGHT = timedelta(minutes=30)


def revision_ages(query: Query, before: Answer, now: Answer) -> Iterator[float]:
    """Yield, for each bucket that has changed since the answer before, how long after its end it was, in seconds.

    Only what had ended when it was asked for before tells of a revision; and after a pause of two refreshes or more
    nothing tells when it happened.
    """
    if now.sent_at - before.sent_at >= 2 * query.refresh:
        return
    known = {series.identity: dict(series.points) for series in before.series}
    for series in now.series:
        old = known.get(series.identity, {})
        for start, value in series.points:
            end = bucket_end(start, query.unit, query.zone)
            if end <= before.sent_at and old.get(start, value) != value:
                yield now.sent_at - end


def timezone_mismatch(query: Query, answer: Answer) -> bool | None:
    """Return whether the newest day of an answer is not the one that runs in `query.zone`, or None if that is unclear.

    Only yesterday and tomorrow are judged: an answer that is further behind has another cause, and of some kinds Braze
    tells a day only later.
    """
    if not query.kind.tells_today:
        return None
    known = starts(answer.series) if query.unit is Unit.DAY else []
    if not known:
        return None
    asked = datetime.fromtimestamp(answer.sent_at, query.zone)
    if (asked - _NEAR_MIDNIGHT).date() != (asked + _NEAR_MIDNIGHT).date():
        return None
    days = abs((datetime.fromtimestamp(known[-1], query.zone).date() - asked.date()).days)
    return days == 1 if days <= 1 else None
