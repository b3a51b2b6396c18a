"""What answers say about Braze itself: how late it still revises a bucket, and in which zone its days begin. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from braze_exporter.braze.buckets import bucket_end, bucket_starts
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.query_state import Response

# So close to midnight a small difference of the clocks would look like another zone.
_NEAR_MIDNIGHT = timedelta(minutes=30)


def revision_delays(query: Query, before: Response, now: Response) -> Iterator[float]:
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


def is_timezone_mismatch(query: Query, response: Response) -> bool | None:
    """Return whether the newest day of an answer is not the one that runs in `query.zone`, or None if that is unclear.

    Only yesterday and tomorrow are judged: an answer that is further behind has another cause, and of some kinds Braze
    tells a day only later.
    """
    if not query.kind.includes_current_day:
        return None
    known = bucket_starts(response.series) if query.unit is Unit.DAY else []
    if not known:
        return None
    requested = datetime.fromtimestamp(response.sent_at, query.zone)
    if (requested - _NEAR_MIDNIGHT).date() != (requested + _NEAR_MIDNIGHT).date():
        return None
    days = abs((datetime.fromtimestamp(known[-1], query.zone).date() - requested.date()).days)
    return days == 1 if days <= 1 else None
