"""Converts what the state file keeps of a query to and from its rows. Nothing here reads a clock.

Times in the state file are in seconds since the epoch, since a monotonic clock starts again with the machine.
"""

import hashlib
import json
import math
import struct
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from braze_exporter.braze.calls import Response
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import ABSENT, Series, SeriesHead, bucket_starts
from braze_exporter.scheduler.history import History
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.repair import RequestPlanner
from braze_exporter.state.tables import restore_error, save_error

# What decoding raises if a row is damaged.
DECODE_ERRORS = (ValueError, TypeError, LookupError, OverflowError, struct.error, zlib.error)
_COMPRESSION_LEVEL = 1


def saved_key(query: Query) -> tuple[int, str]:
    """Return the key of a query in the state file: the id of its rows, which is a digest, and its identity as JSON."""
    identity = json.dumps(query.identity)
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], signed=True), identity


class SavedQueryRow(NamedTuple):
    """What the state file keeps of a query besides its series: the columns of the table `queries` after its key."""

    fetched_at: float
    next_at: float
    failures: int
    error: str | None
    repair: str
    history: str
    sent_at: float | None
    received_at: float | None
    latest_start: int | None
    settled_start: int | None


def to_query_row(
    query_state: QueryState, starts: tuple[int | None, int | None], wall: float, monotonic: float
) -> SavedQueryRow:
    """Return the row of a query that has changed at `wall` and `monotonic`.

    `starts` are the last known starts of its latest and its settled bucket.
    """
    response = query_state.response
    return SavedQueryRow(
        wall,
        wall + query_state.next_at - monotonic,
        query_state.failures,
        save_error(query_state.fetch_error),
        json.dumps(query_state.repair.to_json()),
        json.dumps([*_selection(query_state.query), query_state.history.complete]),
        response.sent_at if response is not None else None,
        response.received_at if response is not None else None,
        *starts,
    )


def _selection(query: Query) -> list[list[str]]:
    """Return the selection of the series that have a baseline."""
    return [list(query.channels), list(query.stats)]


def restore_query_state(
    query: Query, saved: SavedQueryRow, series: tuple[Series, ...], wall: float, monotonic: float
) -> QueryState:
    """Return the state of `query` at `wall` and `monotonic`, as it was when it was saved with these `series`.

    If the clock was set back, so that the age of the response is unknown, the response is stale and the query is due at
    once, or within one refresh if it fails. Raises one of `DECODE_ERRORS` if the row is damaged.
    """
    wait = min(saved.next_at - wall, saved.next_at - saved.fetched_at)
    if saved.fetched_at > wall:
        wait = min(wait, query.refresh_seconds if saved.failures else 0.0)
    response = None
    if saved.sent_at is not None and saved.received_at is not None:
        age = wall - saved.received_at if saved.received_at <= wall else math.inf
        response = Response(series, saved.sent_at, saved.received_at, monotonic - age)
    *selection, saved_ranges = json.loads(saved.history)
    complete = tuple((float(start), float(end)) for start, end in saved_ranges)
    return QueryState(
        query,
        next_at=monotonic + wait,
        response=response,
        fetch_error=restore_error(saved.error),
        failures=saved.failures,
        history=History(complete if selection == _selection(query) else ()),
        repair=RequestPlanner.from_json(json.loads(saved.repair)),
    )


# A series, and the start of the newest bucket that any response had, or None if the last one has it.
SavedHead = tuple[SeriesHead, int | None]


def encode_heads(heads: Iterable[SavedHead]) -> bytes:
    """Return what identifies the series of a query."""
    return _compress_json([[head.key, head.labels, newest] for head, newest in heads])


def decode_heads(data: bytes, metric_groups: Iterable[MetricGroup]) -> list[SavedHead]:
    """Return the series that `encode_heads` encoded. Raises one of `DECODE_ERRORS` if the data is damaged."""
    groups = {metric_group.name: metric_group for metric_group in metric_groups}
    return [
        (SeriesHead(groups[key[0]], tuple((label, value) for label, value in labels), tuple(key)), newest)
        for key, labels, newest in json.loads(zlib.decompress(data))
    ]


def encode_buckets(heads: Iterable[SavedHead], series_list: Sequence[Series]) -> bytes:
    """Return the buckets of a response, in the order of `heads`. A series that the response lacks is absent in all."""
    starts = bucket_starts(series_list)
    absent = array("d", [ABSENT]) * len(starts)
    columns = {series.head.key: series.values for series in series_list}
    values = b"".join(columns.get(head.key, absent).tobytes() for head, _ in heads)
    return zlib.compress(struct.pack(f"=I{len(starts)}q", len(starts), *starts) + values, _COMPRESSION_LEVEL)


def decode_buckets(heads: Sequence[SavedHead], data: bytes) -> tuple[Series, ...]:
    """Return the series of a response; those that it lacked have no buckets.

    Raises one of `DECODE_ERRORS` if the data is damaged.
    """
    content = zlib.decompress(data)
    (length,) = struct.unpack_from("=I", content)
    starts = struct.unpack_from(f"={length}q", content, 4)
    values = array("d", content[4 + 8 * length :])
    if len(values) != length * len(heads):
        raise ValueError("the number of values does not match the series")
    return tuple(Series(head, starts, values[at * length : (at + 1) * length]) for at, (head, _) in enumerate(heads))


BaselineValues = Mapping[tuple[str, ...], "tuple[Sequence[int], array[float]]"]
"""The starts and the values of a query's baselines, by key of the series."""


def encode_baselines(baselines: BaselineValues) -> bytes:
    """Return the values of a query's baselines."""
    return _compress_json([[key, starts, values.tolist()] for key, (starts, values) in baselines.items()])


def decode_baselines(rows: Iterable[bytes]) -> BaselineValues:
    """Return the values that `encode_baselines` encoded. Raises one of `DECODE_ERRORS` if a row is damaged."""
    baselines: dict[tuple[str, ...], tuple[list[int], array[float]]] = {}
    for data in rows:
        for key, starts, values in json.loads(zlib.decompress(data)):
            columns = baselines.setdefault(tuple(key), ([], array("d")))
            columns[0].extend(array("q", starts))
            columns[1].extend(array("d", values))
    if any(len(starts) != len(values) for starts, values in baselines.values()):
        raise ValueError("not one value for each bucket")
    return baselines


def _compress_json(value: object) -> bytes:
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), _COMPRESSION_LEVEL)
