"""Plan + what Braze lists → the plan with what its wildcards take, within `max_queries` and the budget. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from braze_exporter.braze.kinds import SEGMENT_USERS
from braze_exporter.braze.lists import Listed, Listing
from braze_exporter.braze.names import told_apart
from braze_exporter.braze.pools import Pool
from braze_exporter.braze.query import Query
from braze_exporter.config.schema import Settings
from braze_exporter.config.suggestions import nearest
from braze_exporter.scheduler.plan import Discovered, Load, Named, Plan, Wildcard, fits, loads_of

# The nearest names are sought for so many of a list: where more are not in it the reason is another.
_MOST_SOUGHT = 20


@dataclass(frozen=True, slots=True)
class Known:
    """A list that was read to its end, in so many calls.

    `gone` are rows that were listed before: what has an id keeps its last name, when it is archived too. `near` keeps
    what was sought in the list: that takes a while.
    """

    rows: tuple[Listed, ...]
    calls: int
    gone: tuple[Listed, ...] = ()
    near: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)


Key: TypeAlias = tuple[str, Listing | None]
Lists: TypeAlias = Mapping[Key, Known]
"""The lists that are known, by the name of the workspace and the list."""
Identity: TypeAlias = tuple[object, ...]


def needed(plan: Plan) -> dict[str, tuple[Listing, ...]]:
    """Return the lists that tell something of a plan's queries and wildcards, by the name of the workspace.

    Segments that the config names have its own names, so their list is needed for wildcards alone.
    """
    found: dict[str, dict[Listing, None]] = {}
    asked = [(query.workspace, query.kind) for query in plan.queries if query.asked and query.kind is not SEGMENT_USERS]
    for workspace, kind in [*asked, *((wildcard.workspace, wildcard.kind) for wildcard in plan.wildcards)]:
        if kind.listing is not None:
            found.setdefault(workspace, {})[kind.listing] = None
    return {workspace: tuple(listings) for workspace, listings in found.items()}


def filled(
    plan: Plan,
    settings: Settings,
    lists: Lists,
    served: Collection[Identity] = (),
    awaited: Collection[Key] = (),
) -> Plan:
    """Return `plan`, as `build` made it with `settings`, with the queries that come of its wildcards.

    What the config names itself comes first. Of what wildcards take, that is asked which is `served` already, by the
    identity of its queries, and then the others in the order of the entries and of the names, as far as there is room.
    Campaigns and Canvases get the names that Braze lists. While a list is `awaited` nothing feeds a counter that what a
    wildcard takes of it may feed by a finer unit: the unit would change, and what came meanwhile would be lost.
    """
    names = {key: _names(known) for key, known in lists.items() if key[1] is not None and key[1].has_ids}
    waiting = [wildcard for wildcard in plan.wildcards if (wildcard.workspace, wildcard.kind.listing) in awaited]
    queries = tuple(_fed(_renamed(query, names), waiting) for query in plan.queries)
    candidates = list(_candidates(plan.wildcards, queries, lists, names))
    room = _Room(settings, plan.loads, len(queries), lists)
    order = sorted(range(len(candidates)), key=lambda at: (not candidates[at].is_served(served), at))
    taken = {at for at in order if room.take(candidates[at].queries, is_served=candidates[at].is_served(served))}
    chosen = [candidate for at, candidate in enumerate(candidates) if at in taken]
    asked = [(query, candidate.wildcard.entry.alerts) for candidate in chosen for query in candidate.queries]
    whole = (*queries, *(query for query, _ in asked))
    return replace(
        plan,
        queries=whole,
        loads=tuple(loads_of(settings, whole)),
        alerts=(
            *((_renamed(query, names), alerts) for query, alerts in plan.alerts),
            *((query, alerts) for query, alerts in asked if alerts is not None),
        ),
        discovered=tuple(_discovered(plan.wildcards, lists, candidates, taken)),
        named=tuple(_named(queries, lists)),
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row of a list that a wildcard takes, and the queries that come of it which no other entry asks for."""

    wildcard: Wildcard
    row: Listed
    queries: tuple[Query, ...]

    def is_served(self, served: Collection[Identity]) -> bool:
        return any(query.identity in served for query in self.queries)


def _candidates(
    wildcards: Iterable[Wildcard], queries: Sequence[Query], lists: Lists, names: Mapping[Key, Mapping[str, str]]
) -> Iterator[_Candidate]:
    """Yield what wildcards take, in the order of the entries and of the names. The first that asks for a query has it.

    A name that the config has given to something else is told apart by the id.
    """
    taken = {_identity(query) for query in queries}
    called = {(query.workspace, query.kind, query.subject): query.asked for query in queries}
    for wildcard in wildcards:
        key = (wildcard.workspace, wildcard.kind.listing)
        for row in sorted(lists[key].rows, key=lambda row: (row.name, row.id)) if key in lists else ():
            if not row.is_tracked or not row.name.strip() or not wildcard.entry.takes(row):
                continue
            name, subject_id = row.name, ""
            if key in names:
                name, subject_id = names[key][row.id.lower()], row.id
                if called.get((wildcard.workspace, wildcard.kind, name), row.id).lower() != row.id.lower():
                    name = f"{row.name} ({row.id})"
            found = [replace(query, subject=name, subject_id=subject_id) for query in wildcard.queries]
            own = tuple(query for query in found if _identity(query) not in taken)
            taken |= {_identity(query) for query in own}
            yield _Candidate(wildcard, row, own)


def _identity(query: Query) -> Identity:
    """Return the identity of a query, with ids as in the config or as in the list."""
    return tuple(part.lower() for part in query.identity) if query.subject_id else query.identity


def _fed(query: Query, waiting: Iterable[Wildcard]) -> Query:
    """Return a query that feeds no counter, if a wildcard that waits for its list may do that by a finer unit."""
    subject = Listed(query.asked, query.subject)
    is_awaited = any(
        (finer.workspace, finer.kind, finer.app_id, finer.segment_id)
        == (query.workspace, query.kind, query.app_id, query.segment_id)
        and finer.unit.seconds < query.unit.seconds
        and wildcard.entry.takes(subject)
        for wildcard in waiting
        for finer in wildcard.queries
    )
    return replace(query, feeds=False) if is_awaited else query


def _names(known: Known) -> Mapping[str, str]:
    """Return the name of each row by its id in lower case; of several with one name the id tells them apart.

    What is gone leaves its name to what is listed.
    """
    called = {row.name for row in known.rows}
    names = {row.id: row.name if row.name not in called else f"{row.name} ({row.id})" for row in known.gone}
    return {key.lower(): name for key, name in told_apart(names | {row.id: row.name for row in known.rows}).items()}


def _renamed(query: Query, names: Mapping[Key, Mapping[str, str]]) -> Query:
    """Return a query by the name that Braze lists, where the config has only an id."""
    name = names.get((query.workspace, query.kind.listing), {}).get(query.asked.lower(), "")
    return replace(query, subject=name) if query.kind.is_named and name.strip() else query


class _Room:
    """What there is room for yet: queries, and calls of each pool, for what is new beside those that its lists cost.

    Lists get longer, and what is served already does not give way to that.
    """

    def __init__(self, settings: Settings, loads: Iterable[Load], queries: int, lists: Lists) -> None:
        self._settings = settings
        self._queries = settings.max_queries - queries
        self._loads = {(load.workspace, load.pool): load for load in loads}
        self._for_lists: Counter[tuple[str, Pool]] = Counter()
        for (workspace, listing), known in lists.items():
            if listing is not None:
                self._for_lists[workspace, listing.pool] += known.calls

    def take(self, queries: Sequence[Query], *, is_served: bool) -> bool:
        """Take what these queries need, if there is room for all of them, and tell whether."""
        if len(queries) > self._queries:
            return False
        needed = {}
        for more in loads_of(self._settings, queries):
            key = (more.workspace, more.pool)
            load = self._loads.get(key)
            if load is not None:
                more = replace(more, calls=more.calls + load.calls, once=more.once + load.once)  # noqa: PLW2901
            if not fits(more if is_served else replace(more, allowed=more.allowed - self._for_lists[key])):
                return False
            needed[key] = more
        self._loads |= needed
        self._queries -= len(queries)
        return True


def _discovered(
    wildcards: Iterable[Wildcard], lists: Lists, candidates: Sequence[_Candidate], taken: Collection[int]
) -> Iterator[Discovered]:
    """Yield what there is to be told of each kind with wildcards whose list is known."""
    for workspace, kind in dict.fromkeys((wildcard.workspace, wildcard.kind) for wildcard in wildcards):
        if (workspace, kind.listing) not in lists:
            continue
        mine = [
            (candidate.row.id, at in taken)
            for at, candidate in enumerate(candidates)
            if (candidate.wildcard.workspace, candidate.wildcard.kind) == (workspace, kind)
        ]
        left_out = {row for row, is_taken in mine if not is_taken}
        found = len(lists[workspace, kind.listing].rows)
        yield Discovered(workspace, kind, found, len({row for row, _ in mine}), len(left_out))


def _named(queries: Iterable[Query], lists: Lists) -> Iterator[Named]:
    """Yield each subject that the config names, as far as the list of its kind is known."""
    ids = {
        key: {row.id.lower() if key[1] is not None and key[1].has_ids else row.id for row in known.rows}
        for key, known in lists.items()
    }
    subjects = {
        (query.workspace, query.kind, query.asked): query.subject
        for query in queries
        if query.asked and query.kind is not SEGMENT_USERS and (query.workspace, query.kind.listing) in ids
    }
    missing: dict[Key, dict[str, None]] = {}
    for workspace, kind, asked in subjects:
        if not kind.is_named and asked not in ids[workspace, kind.listing]:
            missing.setdefault((workspace, kind.listing), {})[asked] = None
    for key, names in missing.items():
        near = lists[key].near
        sought = [name for name in list(names)[:_MOST_SOUGHT] if name not in near]
        if sought:
            near |= nearest(sought, ids[key])
    for (workspace, kind, asked), subject in subjects.items():
        key = (workspace, kind.listing)
        is_listed = (asked.lower() if kind.is_named else asked) in ids[key]
        yield Named(workspace, kind, subject, is_listed, () if is_listed else lists[key].near.get(asked, ()))
