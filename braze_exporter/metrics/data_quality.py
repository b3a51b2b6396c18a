"""Checks of responses: how late Braze revises buckets, and whether its days match the time zone. Pure functions."""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

from braze_exporter.braze.buckets import bucket_end
from braze_exporter.braze.calls import Response
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import bucket_starts

# Days are not checked this close to midnight, since a small difference of the clocks would look like another time zone.
_MIDNIGHT_MARGIN = timedelta(minutes=30)


def revision_delays(query: Query, previous: Response, response: Response) -> Iterator[float]:
    """Yield the revision delays: for each bucket that changed, the seconds from its end to the request of `response`.

    A bucket counts only if it had ended when the response `previous` was requested. If the requests were two or more
    refresh intervals apart, nothing is yielded, since the time of a change is unknown.
    """
    if response.series is previous.series or response.sent_at - previous.sent_at >= 2 * query.refresh_seconds:
        return
    starts = bucket_starts(response.series)
    ends = [bucket_end(start, query.unit, query.zone) for start in starts]
    indexes = {start: index for index, start in enumerate(bucket_starts(previous.series))}
    # The buckets that had ended, each with its index in both responses.
    ended = [
        (index, indexes[start])
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        if end <= previous.sent_at and start in indexes
    ]
    known = {series.head.key: series for series in previous.series}
    is_aligned = all(index == old_index for index, old_index in ended)
    for series in response.series:
        old = known.get(series.head.key, series)
        size = len(ended) * series.values.itemsize
        if old is series or (is_aligned and series.values.tobytes()[:size] == old.values.tobytes()[:size]):
            continue
        for index, old_index in ended:
            value, old_value = series.values[index], old.values[old_index]
            if value != old_value and math.isfinite(value) and math.isfinite(old_value):
                yield response.sent_at - ends[index]


def is_timezone_mismatch(query: Query, response: Response) -> bool | None:
    """Return whether the newest day of a response is not today in `query.zone`, or None if that is unclear.

    Only yesterday and tomorrow are a mismatch, since any other day has another cause. Kinds whose current day Braze
    does not return are not checked.
    """
    if not query.kind.includes_current_day:
        return None
    known = bucket_starts(response.series) if query.unit is Unit.DAY else []
    if not known:
        return None
    requested = datetime.fromtimestamp(response.sent_at, query.zone)
    if (requested - _MIDNIGHT_MARGIN).date() != (requested + _MIDNIGHT_MARGIN).date():
        return None
    days = abs((datetime.fromtimestamp(known[-1], query.zone).date() - requested.date()).days)
    return days == 1 if days <= 1 else None
