"""Parse and validate the arguments of a backfill. Error messages state the fix."""

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from braze_exporter.braze.buckets import bucket_end, bucket_start, midnight
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point
from braze_exporter.config.document import shorten, shorten_path
from braze_exporter.metrics.promql import select_series
from braze_exporter.metrics.self_families import BUILD_INFO
from braze_exporter.scheduler.plan import Plan

# The time range that Prometheus keeps in memory. Imported blocks must not overlap with it, because Prometheus would
# lose samples at a restart.
HEAD_BLOCK_SECONDS = 3 * 3_600
# The labels that Prometheus adds to every scraped series.
_SCRAPE_LABELS = ("job", "instance")
_LABEL_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DATE_PATTERN = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SECONDS_PATTERN = re.compile(r"\d{9,10}(\.\d*)?", re.ASCII)
# Earlier times are typing errors, because Braze started in 2011.
_FIRST_YEAR = 2000


class BackfillError(Exception):
    """Raised if a backfill cannot start or ends early. The message is one line with the reason and the fix."""


class UsageError(BackfillError):
    """Raised if a required flag is missing, or is given twice."""


@dataclass(frozen=True, slots=True)
class TimeArgument:
    """A time argument: an instant in seconds since the epoch, or a date, which starts at local midnight."""

    value: float | date

    def in_zone(self, zone: ZoneInfo) -> float:
        """Return the instant in seconds since the epoch. A date starts at midnight in `zone`."""
        if isinstance(self.value, date):
            return midnight(self.value, zone)
        return self.value

    def __str__(self) -> str:
        """Return the time as text that `parse_time` reads as the same time."""
        return self.value.isoformat() if isinstance(self.value, date) else format_time(self.value)


def format_time(instant: float) -> str:
    """Return an instant in RFC 3339, to the second, or to the millisecond if it is not a whole second."""
    moment = datetime.fromtimestamp(round(instant, 3), UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def parse_time(text: str) -> TimeArgument:
    """Return the time in `text`: a date, an instant with its offset from UTC, or seconds since the epoch.

    Raises `ValueError` with a message that states the fix.
    """
    try:
        result = _parse(text)
        year = int(str(result)[:4])
    except (ValueError, OverflowError):
        formats = "a date (2026-01-31), a time with UTC offset (2026-01-31T12:00:00Z), or Unix seconds"
        raise ValueError(f'invalid time "{shorten(text)}"; expected {formats}') from None
    if year < _FIRST_YEAR:
        raise ValueError(f'invalid time "{shorten(text)}"; expected the year {_FIRST_YEAR} or later')
    return result


def _parse(text: str) -> TimeArgument:
    if _DATE_PATTERN.fullmatch(text):
        return TimeArgument(date.fromisoformat(text))
    if _SECONDS_PATTERN.fullmatch(text):
        return TimeArgument(float(text))
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError
    return TimeArgument(instant.timestamp())


def parse_label(text: str) -> tuple[str, str]:
    """Return the name and the value of a label in the form `name=value`. Raises `ValueError` if it is invalid."""
    name, separator, value = text.partition("=")
    if not separator or not _LABEL_NAME_PATTERN.fullmatch(name) or name.startswith("__"):
        expected = "name=value, such as job=braze, with a name that does not start with __"
        raise ValueError(f'invalid label "{shorten(text)}"; expected {expected}')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the value of label {name} is not valid UTF-8") from None
    return name, value


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """The range of buckets to fetch, the labels that a scrape adds, and the file to write.

    The range has the buckets that start at `start` or later and whose samples are older than `end`. The time of a
    sample is the end of its bucket plus `settle`, which is when a scrape would first have returned it.
    """

    start: TimeArgument
    end: TimeArgument
    labels: tuple[tuple[str, str], ...]
    output: Path

    @property
    def resume_path(self) -> Path:
        """The path of the resume file, which holds the fetched data until the output is complete."""
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def unfinished_output_path(self) -> Path:
        """The path of the output while it is written. A file there is from a backfill if a resume file exists too."""
        return self.output.with_name(f"{self.resume_path.name}-text")

    def select_points(self, query: Query, points: Iterable[Point]) -> Iterator[tuple[Point, float]]:
        """Yield the `points` of `query` in the range, each with the time of its sample in seconds since the epoch."""
        start, end = self.start.in_zone(query.zone), self.end.in_zone(query.zone)
        for point in points:
            timestamp = bucket_end(point.start, query.unit, query.zone) + query.settle_seconds
            if start <= point.start and timestamp < end:
                yield point, timestamp

    def chunks(self, query: Query) -> tuple[Query, ...]:
        """Return the calls for the buckets of `query` in the range, the newest first.

        Each call ends at the last second of a bucket, and overlaps the next one by a bucket, since days differ in
        length.
        """
        settled_before = math.ceil(self.end.in_zone(query.zone) - query.settle_seconds)
        newest = bucket_start(settled_before - 1, query.unit, query.zone) - 1
        oldest, length = self.start.in_zone(query.zone), query.kind.max_length
        if bucket_start(newest, query.unit, query.zone) < oldest:
            return ()
        step = (length - 1) * query.unit.seconds
        starts = (
            bucket_start(newest - number * step, query.unit, query.zone)
            for number in range(math.ceil((newest - oldest) / step))
        )
        return tuple(
            replace(query, ending_at=bucket_end(start, query.unit, query.zone) - 1, length=length) for start in starts
        )

    def validate(self, plan: Plan, now: float) -> None:
        """Raise `BackfillError` if the request is invalid for `plan` at `now`, in seconds since the epoch.

        It is a `UsageError` if the labels of the target are incomplete or ambiguous.
        """
        queries = [*plan.queries, *(query for selector in plan.selectors for query in selector.queries)]
        self._check_span(queries, now)
        self._check_labels(queries)
        folder = self.output.parent
        if not folder.is_dir():
            raise BackfillError(
                f"--output={shorten_path(self.output)}: directory {shorten_path(folder)} does not exist; create it"
            )
        if os.path.lexists(self.output):
            text = f"--output={shorten_path(self.output)} already exists; choose another path, or remove the file"
            raise BackfillError(text)
        unfinished = self.unfinished_output_path
        if os.path.lexists(unfinished) and (unfinished.is_dir() or not self.resume_path.exists()):
            raise BackfillError(
                f"{shorten_path(unfinished)} is a file of another type; choose another --output, or move the file"
            )

    def _check_span(self, queries: Iterable[Query], now: float) -> None:
        zones = {query.zone for query in queries}
        if any(self.start.in_zone(zone) >= self.end.in_zone(zone) for zone in zones):
            raise BackfillError(f"--start={self.start} is not before --end={self.end}")
        if any(self.end.in_zone(zone) > now - HEAD_BLOCK_SECONDS for zone in zones):
            raise BackfillError(
                f"--end={self.end} is in the future, or within the last three hours that Prometheus keeps in memory; "
                f"set {format_time(now // 1 - HEAD_BLOCK_SECONDS)} or earlier, or wait"
            )
        if not any(self.chunks(query) for query in queries):
            raise BackfillError(
                f"no bucket starts, ends and settles between --start={self.start} and --end={self.end}; set a longer "
                "time range"
            )

    def _check_labels(self, queries: Iterable[Query]) -> None:
        names = [name for name, _ in self.labels]
        metric_groups = {metric_group for query in queries for metric_group in query.metric_groups}
        series_labels = {"workspace"}.union(
            *((*metric_group.labels, *metric_group.series_labels) for metric_group in metric_groups)
        )
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"duplicate --label {name}; set each label once")
            if name in series_labels:
                raise BackfillError(f"--label {name} is a label of the exported series; remove it")
        for name in _SCRAPE_LABELS:
            if name not in names:
                raise UsageError(
                    f"--label {name}=… is required. Set all target labels as in Prometheus, so that backfilled and "
                    f"scraped samples are in the same series. If the target has no such label, set --label {name}="
                )


def build_request(
    start: TimeArgument, end: TimeArgument | None, labels: Iterable[tuple[str, str]], output: Path
) -> BackfillRequest:
    """Return a `BackfillRequest`.

    Raises `UsageError` if `end` is None. The message contains the PromQL query that returns its value.
    """
    if end is None:
        raise UsageError(
            "--end=… is required. Set it to the time of the first sample that Prometheus scraped from the exporter. "
            f"This PromQL query returns it: {first_sample_query(labels)}"
        )
    return BackfillRequest(start, end, tuple(labels), output)


def first_sample_query(labels: Iterable[tuple[str, str]]) -> str:
    """Return the PromQL query for the time of a target's first scrape, or up to one minute before it.

    The query selects a metric that backfills do not contain.
    """
    return f"min(min_over_time(timestamp({select_series(BUILD_INFO, labels)})[1y:1m])) - 60"
