"""A backfill from beginning to end: what is missing is read within the budget, and when all is there, it is written."""

import contextlib
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import ceil
from operator import itemgetter

from braze_exporter.backfill.context import Surroundings
from braze_exporter.backfill.lists import needed, whole
from braze_exporter.backfill.openmetrics import Written, write
from braze_exporter.backfill.progress import Progress, State, count, pace, span
from braze_exporter.backfill.reader import Reader
from braze_exporter.backfill.request import BackfillError, Wish, first_sample, written
from braze_exporter.backfill.resume_file import Spool
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.lists import LISTINGS
from braze_exporter.braze.query import Query
from braze_exporter.braze.transport import USUAL_TIMEOUTS, Timeouts
from braze_exporter.config.document import shown
from braze_exporter.config.loading import Config
from braze_exporter.scheduler.admission import REFUSALS, Admission
from braze_exporter.scheduler.clients import open_client
from braze_exporter.scheduler.list_reader import Lister
from braze_exporter.scheduler.plan import Load, Plan

# How often it is looked how far it is, in seconds.
_LOOK = 0.2
_HOUR, _DAY = 3_600, 86_400
# So many pages of lists may be read at once, if the budget has them: 25,000 events.
_MOST_PAGES = 100
# promtool reads the text once for each block that it makes. By default they are of two hours; of these there are 18 in
# a year, and Prometheus makes none longer by itself than a month.
_BLOCKS = "--max-block-duration=720h"


def backfill(wish: Wish, config: Config, plan: Plan, around: Surroundings, timeouts: Timeouts = USUAL_TIMEOUTS) -> None:
    """Carry out `wish` for the queries of `plan`, the plan of `config`, and print what is to be done with the file.

    Raises `BackfillError` if that cannot be, or ends before all is there. Then, and after a signal, what was read is
    kept for the next time.
    """
    wish.check(plan, around.wall())
    progress = Progress(around.err, around.monotonic)
    with contextlib.closing(Spool(wish.spool, wish.start, wish.end)) as spool:
        reader = Reader(wish, spool, wall=around.wall, monotonic=around.monotonic)
        roads = _roads(config, around, reader, timeouts)
        _allow(roads, config, plan, most=_MOST_PAGES)
        lists = [*needed(plan)]
        listers = {name: Lister(client, admission, around.sleep) for name, (client, admission) in roads.items()}
        plan = whole(plan, config.settings, listers, progress.say)
        _allow(roads, config, plan, most=config.settings.budget.concurrency)
        for name, (_, admission) in roads.items():
            kinds = dict.fromkeys(query.kind for query in plan.queries if query.workspace == name)
            admission.use((*kinds, *(listing for workspace, listing, _ in lists if workspace == name)))
        total = sum(len(wish.pieces(query)) for query in plan.queries)
        missing = {load: sum(_missing(wish, spool, query) for query in _asked(plan, load)) for load in plan.loads}
        there = total - sum(missing.values())

        def kept() -> str:
            calls = f"{there + reader.answered:,} of {count(total, 'call', 'calls')}"
            path = shown(wish.spool, 200)
            return f"The responses to {calls} are kept in {path}: run the same command again to resume"

        def stop() -> str:
            spool.close()
            return kept()

        around.on_stop(stop)
        _check_budget(missing)
        progress.say(_announced(wish, plan, missing, there))
        try:
            with contextlib.closing(reader):
                reader.start(roads, plan.queries, config.settings.budget.concurrency)
                while not reader.wait(_LOOK):
                    progress.show(State(there + reader.answered, total, _waiting(reader, around)))
            _check_aside(reader.aside)
            progress.say(f"{count(total, 'call', 'calls')} answered, writing {shown(wish.output, 200)}")
            found = write(wish, plan, spool)
        except BackfillError as error:
            progress.clear()
            raise BackfillError(f"{error}. {kept()}") from None
        around.on_stop(str)
        spool.remove()
    print(_advice(wish, found, around.wall()), file=around.out)


def _asked(plan: Plan, load: Load) -> Iterable[Query]:
    return (query for query in plan.queries if (query.workspace, query.kind.pool) == (load.workspace, load.pool))


def _missing(wish: Wish, spool: Spool, query: Query) -> int:
    return len(spool.missing(wish.pieces(query)))


def _left(load: Load) -> float:
    """Return the calls an hour that are left of the share, when an exporter with the same config runs beside."""
    return load.allowed - load.calls


def _check_budget(missing: Mapping[Load, int]) -> None:
    for load, calls in missing.items():
        if calls and _left(load) < 1:
            raise BackfillError(
                f"{shown(load.workspace)}: the exporter itself needs all of the {load.allowed:,.0f} calls an hour that "
                f"budget.share allows of the {load.pool.name} pool: raise it for the backfill, or take fewer queries"
            )


def _announced(wish: Wish, plan: Plan, missing: Mapping[Load, int], there: int) -> str:
    """Say how much there is to do, and how long that takes."""
    calls = sum(missing.values())
    text = f"{count(len(plan.queries), 'query', 'queries')} from {wish.start} to {wish.end}: "
    text += f"{count(calls, 'call', 'calls')} to make" + (f", {there:,} are made already" if there else "")
    if not calls:
        return text
    seconds, load = max(((number * _HOUR / _left(load), load) for load, number in missing.items()), key=itemgetter(0))
    text += f". At {pace(_left(load) / _HOUR)}, which is what budget.share leaves, they take {span(seconds)} or more"
    return text + (": fewer queries, a later --start or a larger share take less" if seconds > _DAY else "")


def _roads(
    config: Config, around: Surroundings, reader: Reader, timeouts: Timeouts
) -> Mapping[str, tuple[Client, Admission]]:
    """Return who asks for each workspace, and who says when."""
    return {
        spec.name: (
            open_client(
                spec,
                config.keys[spec.name],
                around.session,
                proxies=around.proxies,
                wall=around.wall,
                monotonic=around.monotonic,
                on_call=reader.note_call,
                timeouts=timeouts,
            ),
            Admission(around.monotonic),
        )
        for spec in (workspace.spec for workspace in config.workspaces)
    }


def _allow(roads: Mapping[str, tuple[Client, Admission]], config: Config, plan: Plan, *, most: int) -> None:
    """Let go, of each pool, what an exporter beside leaves of the share, and at most so many calls at once."""
    budget = config.settings.budget
    for name, (_, admission) in roads.items():
        taken = {load.pool: load.calls for load in plan.loads if load.workspace == name}
        for pool in dict.fromkeys([*taken, *(listing.pool for listing in LISTINGS)]):
            left = max(0.0, budget.share * pool.per_hour - taken.get(pool, 0.0))
            burst = max(1, min(most, int(left)))
            admission.allow({pool: burst}, share=left / pool.per_hour, reserve=budget.reserve)


def _waiting(reader: Reader, around: Surroundings) -> str:
    """Return what is waited for and until when, in words, or nothing."""
    wait = reader.waiting()
    if wait is None:
        return ""
    until = datetime.fromtimestamp(around.wall() + wait.until - around.monotonic(), UTC)
    return f"waiting until {until:%H:%M:%S} UTC: {shown(wait.workspace)}: {wait.because}"


def _check_aside(aside: Mapping[Query, BrazeError]) -> None:
    """Refuse to write what would lack some of the queries; name one for each reason that is of the key."""
    if aside:
        examples: dict[str, Query] = {}
        for query, error in aside.items():
            examples.setdefault(error.detail if error.reason in REFUSALS else "", query)
        named = [f"{_named(query)}: {aside[query].detail}" for query in examples.values()]
        raise BackfillError(
            f"Braze refuses {count(len(aside), 'query', 'queries')}, such as {'; '.join(named)}: "
            "mend the config, or take them out of it"
        )


def _named(query: Query) -> str:
    labels = ", ".join(f"{name}={shown(value)}" for name, value in query.labels if value)
    return f"{labels} by the {query.unit}"


def _advice(wish: Wish, found: Written, now: float) -> str:
    """Return what to do with the file, as a script for a shell whose comments are for people."""
    output = str(wish.output) if not str(wish.output).startswith("-") else f"./{wish.output}"
    days = ceil((now - found.oldest) / _DAY) + 1
    samples, series = count(found.samples, "sample", "samples"), count(found.series, "series", "series")
    lines = [
        f"{shown(output, 200)} has {samples} of {series}, from {written(found.oldest)} to {written(found.newest)}."
    ]
    if found.silent:
        lines.append(f"Of {count(found.silent, 'query', 'queries')} Braze told nothing: they have no samples.")
    if found.gaps:
        lines.append(f"Braze left out {count(found.gaps, 'bucket', 'buckets')} between others: they have no samples.")
    lines += [
        f"Prometheus must keep them: --storage.tsdb.retention.time={days}d or more; its default is 15d.",
        "Make blocks of it, as the user that Prometheus runs as; DATA is its --storage.tsdb.path. It sees them soon.",
    ]
    command = f'promtool tsdb create-blocks-from openmetrics {_BLOCKS} {shlex.quote(output)} "${{DATA:?}}"'
    rest = ["The first sample that was scraped from the exporter must be newer. This query finds it:"]
    rest.append(first_sample(wish.labels))
    return "\n".join([*(f"# {line}" for line in lines), command, *(f"# {line}" for line in rest)])
