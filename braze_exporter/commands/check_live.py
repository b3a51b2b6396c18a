"""`check --live`: asks Braze once for everything in a config, as the exporter would, and tells what is wrong."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TextIO

from braze_exporter.backfill.context import Surroundings
from braze_exporter.braze import time_zones
from braze_exporter.braze.buckets import bucket_end, starts
from braze_exporter.braze.client import unauthorized
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import INSTANCES, Unit
from braze_exporter.braze.lists import SEGMENT_LIST, Listing
from braze_exporter.braze.query import Query
from braze_exporter.commands.context import open_lister
from braze_exporter.config.document import shown
from braze_exporter.config.loading import Config, ConfiguredWorkspace
from braze_exporter.exporter import Exporter
from braze_exporter.metrics.data_quality import timezone_mismatch
from braze_exporter.scheduler.admission import REJECTED
from braze_exporter.scheduler.list_reader import Found
from braze_exporter.scheduler.plan import Discovered, Named, Plan
from braze_exporter.scheduler.query_state import Entry
from braze_exporter.scheduler.selectors import Known, Lists, filled, needed

# How often a shorter request is tried, a second apart, after an oversized response.
_MOST_TRIES = 60
# So many of the queries that are not answered for one reason are named.
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a workspace, in a sentence, and whether something is to be done about it."""

    text: str
    is_problem: bool = True


def check_live(config: Config, plan: Plan, around: Surroundings) -> bool:
    """Print what Braze says of the queries of `plan`, the plan of `config`, and return whether all is well.

    It keeps to the config's budget: one refresh of the plan, and an hour's share for the lists.
    """
    lists = _read(config, plan, around)
    known: Lists = {key: Known(found.rows, calls=0) for key, found in lists.items() if not found.failure}
    plan = filled(plan, config.settings, known)
    # Without baselines, whose history is long; and with all that one answer can tell.
    queries = tuple(replace(query, weeks=0, length=query.kind.longest) for query in plan.queries)
    exporter = Exporter(wall=around.wall, monotonic=around.monotonic, proxies=around.proxies, reads_lists=False)
    problems, lines = 0, []
    with closing(exporter):
        exporter.use(config, replace(plan, queries=queries), around.session)
        _wait(exporter, len(queries), around.err)
        malformed = {
            entry: entry.error
            for entry in exporter.entries
            if entry.error is not None and entry.error.reason is Reason.BAD_ANSWER
        }
        for _ in range(_MOST_TRIES):
            if not _are_oversized(exporter.entries, around.monotonic()):
                break
            around.sleep(1.0)  # the budget may have to grow
            _wait(exporter, len(queries), around.err)
        for workspace in config.workspaces:
            name = workspace.spec.name
            entries = [entry for entry in exporter.entries if entry.query.workspace == name]
            mine = {listing: found for (owner, listing), found in lists.items() if owner == name}
            for finding in _findings(workspace, plan, entries, mine, malformed):
                problems += finding.is_problem
                sort = "problem: " if finding.is_problem else ""
                lines.append(f"{shown(name)}: {sort}{finding.text}\n")
    around.out.write("".join(lines))  # at once, so that a signal leaves no part of it
    return not problems


def _read(config: Config, plan: Plan, around: Surroundings) -> dict[tuple[str, Listing], Found]:
    """Return the lists that tell something of the plan, by the name of the workspace."""
    lists: dict[tuple[str, Listing], Found] = {}
    listings = needed(plan)
    for spec in (workspace.spec for workspace in config.workspaces):
        lister = open_lister(config, spec, around)
        for listing in dict.fromkeys([*listings.get(spec.name, ()), *([SEGMENT_LIST] if spec.segments else [])]):
            lists[spec.name, listing] = lister.read(listing, archived=False)
    return lists


def _wait(exporter: Exporter, count: int, err: TextIO) -> None:
    """Ask, and wait until all is answered, or will not be now; who looks on is told how far it is."""
    asked = exporter.refresh()
    while not wait([asked], 1.0).done:
        if err.isatty():
            print(f"\r{sum(entry.is_tried for entry in exporter.entries):,} of {count:,}", end="", file=err, flush=True)
    if err.isatty():
        print("\r", end="", file=err, flush=True)


def _are_oversized(entries: Iterable[Entry], now: float) -> bool:
    """Return whether some responses are oversized for which a shorter request is due at `now`."""
    return any(
        entry.error is not None and entry.error.reason is Reason.TOO_LARGE and entry.is_due(now) for entry in entries
    )


def _findings(
    workspace: ConfiguredWorkspace,
    plan: Plan,
    entries: Sequence[Entry],
    lists: Mapping[Listing, Found],
    malformed: Mapping[Entry, BrazeError],
) -> Iterator[Finding]:
    failed = {*malformed, *(entry for entry in entries if entry.error is not None or entry.answer is None)}
    answered = [entry for entry in entries if entry not in failed]
    text = f"{len(answered):,} of {len(entries):,} {'query is' if len(entries) == 1 else 'queries are'} answered"
    yield Finding(text, is_problem=False)
    is_rejected = _is_rejected(entries, lists)
    errors = {entry: malformed.get(entry, entry.error) for entry in entries}
    yield from _unanswered(workspace, errors, is_rejected=is_rejected)
    for listing, found in lists.items():
        if found.failure and not is_rejected:
            is_needed = any(
                one.kind.listing is listing for one in plan.wildcards if one.workspace == workspace.spec.name
            )
            what = "what match takes is not known" if is_needed else "what is named was not compared with it"
            yield Finding(f"Braze's list of {listing.what[1]} could not be read, {what}: {found.failure}", is_needed)
    yield from _unlisted(named for named in plan.named if named.workspace == workspace.spec.name)
    yield from _taken(found for found in plan.discovered if found.workspace == workspace.spec.name)
    yield from _segments(workspace, lists.get(SEGMENT_LIST))
    yield from _without_data(answered)
    yield from _zone(workspace, answered)
    yield from _lag(answered)


def _is_rejected(entries: Iterable[Entry], lists: Mapping[Listing, Found]) -> bool:
    """Return whether Braze refuses the key at all endpoints, those of the lists too."""
    return any(entry.error is not None and entry.error.detail == REJECTED for entry in entries) and all(
        found.failure == unauthorized(listing) for listing, found in lists.items()
    )


def _unanswered(
    workspace: ConfiguredWorkspace, errors: Mapping[Entry, BrazeError | None], *, is_rejected: bool
) -> Iterator[Finding]:
    """Yield why queries are not answered, each reason once."""
    groups: dict[str, list[Query]] = {}
    for entry, error in errors.items():
        if error is not None and error.reason is Reason.UNAUTHORIZED:
            detail = unauthorized(entry.query.kind)
            if is_rejected:
                url = workspace.spec.rest_endpoint
                instance = next((f", which is {name}" for name, known in INSTANCES.items() if known == url), "")
                detail = f"{REJECTED}. A key belongs to one instance, and may be of another one than {url}{instance}"
            groups.setdefault(detail, []).append(entry.query)
        elif error is not None:
            groups.setdefault(error.detail, []).append(entry.query)
        elif not entry.is_tried:
            text = "not asked: what the budget or Braze's rate limit has left does not allow it now"
            groups.setdefault(text, []).append(entry.query)
    for detail, queries in groups.items():
        more = len(queries) - _MOST_NAMED
        named = ", ".join(map(_words, queries[:_MOST_NAMED])) + (f" and {more:,} more" if more > 0 else "")
        yield Finding(f"{named}: {detail}")


def _unlisted(named: Iterable[Named]) -> Iterator[Finding]:
    """Yield what the config names and Braze does not list."""
    for one in named:
        if one.is_listed or one.kind.listing is None:
            continue
        what = f'no {one.kind.listing.what[0]} "{shown(one.subject)}"'
        if one.kind.is_named:
            yield Finding(f"Braze lists {what}: is it archived, or of another workspace?")
        else:
            names = ", ".join(f'"{shown(name)}"' for name in one.nearest)
            hint = f" (did you mean {names}?)" if names else ""
            yield Finding(f"Braze lists {what}{hint}: upper and lower case matter")


def _taken(discovered: Iterable[Discovered]) -> Iterator[Finding]:
    """Yield what match and tag take of what Braze lists."""
    for one in discovered:
        text = f"{one.kind.section}: match takes {one.matched:,} of {one.found:,} that Braze lists"
        if one.left_out:
            text += f", of which {one.left_out:,} are left out: raise max_queries or budget.share, or match fewer"
        yield Finding(text, is_problem=one.left_out > 0 or not one.matched)


def _segments(workspace: ConfiguredWorkspace, found: Found | None) -> Iterator[Finding]:
    """Yield the segments that have no series."""
    if found is None or found.failure:
        return
    rows = {row.id.lower(): row for row in found.rows}
    for name, braze_id in workspace.spec.segments.items():
        row = rows.get(braze_id.lower())
        if row is None:
            yield Finding(
                f'Braze lists no segment with the id of "{shown(name)}": is it archived, or of another workspace?'
            )
        elif not row.is_tracked:
            yield Finding(
                f'the segment "{shown(name)}" has no series: switch its analytics tracking on in Braze '
                f"({shown(row.name)})"
            )


def _without_data(answered: Iterable[Entry]) -> Iterator[Finding]:
    """Yield the queries whose answer tells nothing, or nothing but zeros."""
    for entry in answered:
        points = (
            [point for series in entry.answer.series for point in series.points] if entry.answer is not None else []
        )
        if not points and starts(entry.answer.series if entry.answer is not None else ()):
            yield Finding(f"{_words(entry.query)}: no bucket of Braze's response has a number")
        elif not points:
            is_name = entry.query.subject and not entry.query.subject_id
            hint = "is the name right, to the letter?" if is_name else "it may be new, or nothing may have happened yet"
            yield Finding(f"{_words(entry.query)}: Braze answers without data: {hint}")
        elif not any(value for _, value in points):
            text = f"{_words(entry.query)}: Braze counted nothing in the last {len(points)} {entry.query.unit}s"
            yield Finding(text, is_problem=False)


def _zone(workspace: ConfiguredWorkspace, answered: Sequence[Entry]) -> Iterator[Finding]:
    """Yield what the days tell of the company's time zone, where they tell something."""
    zone = workspace.spec.timezone
    if zone is None:
        return
    remedy = "set timezone to that of the company in Braze"
    fits = [fit for fit in _fits(answered) if fit]
    common = [name for name in fits[0] if all(name in fit for fit in fits)] if fits else []
    if zone.key in common:
        yield Finding(f"days begin as in {zone.key}: their hours add up to them", is_problem=False)
    elif common:
        as_in = ", ".join(common[:_MOST_NAMED])
        yield Finding(f"days do not begin as in {zone.key}: their hours add up to them as in {as_in}: {remedy}")
    else:
        for entry in answered:
            if entry.answer is not None and timezone_mismatch(entry.query, entry.answer):
                newest = datetime.fromtimestamp(max(_points(entry)), zone).date()
                yield Finding(
                    f"{_words(entry.query)}: the newest day is {newest}, and not today in {zone.key}: {remedy}"
                )
                return


def _fits(answered: Iterable[Entry]) -> Iterator[Sequence[str]]:
    """Yield, for each series that is asked for by the hour and by the day, the zones in which the two agree."""
    pairs: dict[tuple[str, ...], dict[Unit, Entry]] = {}
    for entry in answered:
        pairs.setdefault(entry.query.counted, {})[entry.query.unit] = entry
    for pair in pairs.values():
        if len(pair) == len(Unit):
            hours, days = _points(pair[Unit.HOUR]), _points(pair[Unit.DAY])
            zone, answer = pair[Unit.DAY].query.zone, pair[Unit.HOUR].answer
            dated = {datetime.fromtimestamp(start, zone).date(): value for start, value in days.items()}
            yield time_zones.fitting(dated, hours, answer.sent_at if answer is not None else 0.0)


def _lag(answered: Iterable[Entry]) -> Iterator[Finding]:
    """Yield how near to now Braze has counted, which is all that one answer tells of its delay."""
    hourly = [entry for entry in answered if entry.query.unit is Unit.HOUR and any(_points(entry).values())]
    if not hourly:
        return

    def left(entry: Entry) -> float:
        newest = max(start for start, value in _points(entry).items() if value)
        return (
            entry.answer.sent_at - bucket_end(newest, Unit.HOUR, entry.query.zone) if entry.answer is not None else 0.0
        )

    nearest_entry = min(hourly, key=left)
    seconds, settle = left(nearest_entry), nearest_entry.query.settle
    if seconds > settle:
        yield Finding(
            f"the newest hour in which Braze has counted anything ended {_minutes(seconds)} ago, but hours settle "
            f"after {_minutes(settle)}: Braze is behind, or settle is too short"
        )
    else:
        when = f"ended {_minutes(seconds)} ago" if seconds > 0 else "has not ended yet"
        text = (
            f"the newest hour in which Braze has counted anything {when}. How late it still revises hours, one answer "
            "does not tell: braze_revision_age_seconds will"
        )
        yield Finding(text, is_problem=False)


def _points(entry: Entry) -> Mapping[int, float]:
    return dict(point for series in entry.answer.series for point in series.points) if entry.answer is not None else {}


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min"


def _words(query: Query) -> str:
    """Return a query in words: its section, its labels and its unit."""
    labels = [shown(value) for name, value in query.labels if name != "workspace" and value]
    return f"{query.kind.section} {' / '.join(labels)} by the {query.unit}"
