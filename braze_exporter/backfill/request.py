"""What a backfill is asked for: taken as it is written, or refused with what to write."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from braze_exporter.braze.buckets import bucket_end, bucket_start, midnight
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point
from braze_exporter.config.document import shown
from braze_exporter.metrics.promql import series
from braze_exporter.metrics.self_metrics import BUILD_INFO
from braze_exporter.scheduler.plan import Plan, pieces

# Prometheus holds so much in memory, and blocks must not reach into that: a restart would forget the rest of it.
HEAD = 3 * 3_600
# What every series has that Prometheus scraped itself.
_OF_A_SCRAPE = ("job", "instance")
_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SECONDS = re.compile(r"\d{9,10}(\.\d*)?", re.ASCII)
# What is before that is a slip of the pen: Braze began in 2011.
_FIRST_YEAR = 2000


class BackfillError(Exception):
    """A backfill that cannot begin, or that ended before its end: one line that says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment as a user means it: an instant in seconds since the epoch, or a day, which begins by the local clock."""

    meant: float | date

    def of(self, zone: ZoneInfo) -> float:
        """Return the instant (seconds since the epoch), which for a day depends on the zone."""
        if isinstance(self.meant, date):
            return midnight(self.meant, zone)
        return self.meant

    def __str__(self) -> str:
        """Return what can be written to mean the same."""
        return self.meant.isoformat() if isinstance(self.meant, date) else written(self.meant)


def written(instant: float) -> str:
    """Return an instant in RFC 3339, to the second or, if it is within one, to the millisecond."""
    moment = datetime.fromtimestamp(round(instant, 3), UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def moment(text: str) -> Moment:
    """Return what a date, an instant with its offset from UTC, or a number of seconds since the epoch means.

    Raises ValueError, with what to write.
    """
    try:
        found = _meant(text)
        year = int(str(found)[:4])
    except (ValueError, OverflowError):
        forms = "a date (2026-01-31), an instant with its offset from UTC (2026-01-31T12:00:00Z), or Unix seconds"
        raise ValueError(f"{shown(text)} is not a moment: write {forms}") from None
    if year < _FIRST_YEAR:
        raise ValueError(f"{shown(text)} is before Braze began")
    return found


def _meant(text: str) -> Moment:
    if _DATE.fullmatch(text):
        return Moment(date.fromisoformat(text))
    if _SECONDS.fullmatch(text):
        return Moment(float(text))
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError
    return Moment(instant.timestamp())


def label(text: str) -> tuple[str, str]:
    """Return the name and the value of a label that is written as `name=value`; raise ValueError if it is not one."""
    name, found, value = text.partition("=")
    if not found or not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
        raise ValueError(f"{shown(text)} is not a label: write name=value, such as job=braze; no name begins with __")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the value of {name} is not text in UTF-8") from None
    return name, value


@dataclass(frozen=True, slots=True)
class Wish:
    """What a backfill is to bring: which buckets, the labels that the scrape adds, and where to write it.

    It takes the buckets that begin at `start` or later, and whose samples come before `end`. A sample comes at the end
    of its bucket plus the time to settle, when a scrape would have seen it first.
    """

    start: Moment
    end: Moment
    labels: tuple[tuple[str, str], ...]
    output: Path

    @property
    def spool(self) -> Path:
        """Where is kept what was read, while the output is not finished."""
        return self.output.with_name(f"{self.output.name}.partial")

    @property
    def text(self) -> Path:
        """Where the output is written, until it is whole. Without a spool no file of ours is there."""
        return self.output.with_name(f"{self.spool.name}-text")

    def wanted(self, query: Query, points: Iterable[Point]) -> Iterator[tuple[Point, float]]:
        """Yield those points of `query` that are wanted, each with the time of its sample (seconds since the epoch)."""
        start, end = self.start.of(query.zone), self.end.of(query.zone)
        for point in points:
            stamp = bucket_end(point.start, query.unit, query.zone) + query.settle
            if start <= point.start and stamp < end:
                yield point, stamp

    def pieces(self, query: Query) -> tuple[Query, ...]:
        """Return the calls for the buckets of `query`, the newest first."""
        begun = bucket_start(self.end.of(query.zone) - query.settle - 1, query.unit, query.zone)
        newest, oldest = begun - 1, self.start.of(query.zone)
        is_any = bucket_start(newest, query.unit, query.zone) >= oldest
        return pieces(query, oldest, newest) if is_any else ()

    def check(self, plan: Plan, now: float) -> None:
        """Raise `BackfillError` if there is anything against carrying it out at `now`."""
        queries = [*plan.queries, *(query for wildcard in plan.wildcards for query in wildcard.queries)]
        self._check_span(queries, now)
        self._check_labels(queries)
        folder = self.output.parent
        if not folder.is_dir():
            raise BackfillError(f"--output={shown(self.output, 200)}: there is no folder {shown(folder, 200)}: make it")
        if self.output.exists():
            text = f"--output={shown(self.output, 200)} is there already: choose another name, or remove it"
            raise BackfillError(text)
        if os.path.lexists(self.text) and not self.spool.exists():
            raise BackfillError(
                f"{shown(self.text, 200)} is the file of something else: choose another --output, or move it away"
            )

    def _check_span(self, queries: Iterable[Query], now: float) -> None:
        zones = {query.zone for query in queries}
        if any(self.start.of(zone) >= self.end.of(zone) for zone in zones):
            raise BackfillError(f"--start={self.start} is not before --end={self.end}")
        if any(self.end.of(zone) > now - HEAD for zone in zones):
            raise BackfillError(
                f"--end={self.end} is in the future or within the last three hours, which Prometheus holds in memory: "
                f"give {written(now // 1 - HEAD)} or earlier, or wait"
            )
        if not any(self.pieces(query) for query in queries):
            raise BackfillError(
                f"between --start={self.start} and --end={self.end} no bucket began, ended and settled: give more time"
            )

    def _check_labels(self, queries: Iterable[Query]) -> None:
        names = [name for name, _ in self.labels]
        nouns = {noun for query in queries for noun in query.nouns}
        taken = {"workspace"}.union(*((*noun.labels, *noun.breakdown) for noun in nouns))
        for name in names:
            if names.count(name) > 1:
                raise BackfillError(f"--label {name} is given twice")
            if name in taken:
                raise BackfillError(f"--label {name}: the series have that label of their own")
        for name in _OF_A_SCRAPE:
            if name not in names:
                raise BackfillError(
                    f"--label {name}=… is missing: give each label of the target as Prometheus has it, or what is "
                    f"scraped later makes other series (if yours have none, --label {name}=)"
                )


def wish(start: Moment, end: Moment | None, labels: Iterable[tuple[str, str]], output: Path) -> Wish:
    """Return a wish; raise `BackfillError` without an `end`, with the query that finds it."""
    if end is None:
        raise BackfillError(
            "--end=… is missing: give the time of the first sample that was scraped from the exporter. In Prometheus "
            f"this query finds it: {first_sample(labels)}"
        )
    return Wish(start, end, tuple(labels), output)


def first_sample(labels: Iterable[tuple[str, str]]) -> str:
    """Return the PromQL that finds when the target with these labels was scraped first, within a minute before that.

    What it looks at is in no backfill.
    """
    return f"min(min_over_time(timestamp({series(BUILD_INFO, labels)})[1y:1m])) - 60"
