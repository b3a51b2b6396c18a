"""Expands the selectors of a plan into queries for the listed items, within `max_queries` and the budget.

Pure functions.
"""

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from braze_exporter.braze.kinds import SEGMENT_USERS
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.names import disambiguate, normalize_id
from braze_exporter.braze.pools import Pool
from braze_exporter.braze.query import Query
from braze_exporter.config.document import shorten
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.schema import Entry, Settings
from braze_exporter.config.suggestions import find_nearest, format_suggestions
from braze_exporter.scheduler.plan import ConfiguredSubject, Plan, SelectionResult, Selector
from braze_exporter.scheduler.pool_usage import compute_pool_usage, with_budget_owners
from braze_exporter.state.counter_state import NameKey

# The number of unlisted names of a list for which suggestions are searched. The search is slow, and further names are
# unlikely to be typing errors.
_MAX_NAMES_WITH_SUGGESTIONS = 20


@dataclass(frozen=True, slots=True)
class ListSnapshot:
    """The items of a complete read of a list, and the number of its calls."""

    items: tuple[ListItem, ...]
    calls: int


ListKey: TypeAlias = tuple[str, ListEndpoint | None]
ListSnapshots: TypeAlias = Mapping[ListKey, ListSnapshot]
"""The result of the last complete read of each list, by the name of the workspace and the list."""
Identity: TypeAlias = tuple[object, ...]


def name_key(query: Query) -> NameKey:
    """Return the key under which the state file keeps the name of the subject of `query`."""
    return (query.workspace, query.url, query.kind.section, normalize_id(query.subject_id))


def required_lists(plan: Plan) -> dict[str, tuple[ListEndpoint, ...]]:
    """Return the lists that a plan needs for its selectors and configured subjects, keyed by workspace name.

    Segments in the config have names of the user's choice. So their list is needed only for selectors.
    """
    lists: dict[str, dict[ListEndpoint, None]] = {}
    kinds = [
        (query.workspace, query.kind)
        for query in plan.queries
        if query.request_value and query.kind is not SEGMENT_USERS
    ]
    for workspace, kind in [*kinds, *((selector.workspace, selector.kind) for selector in plan.selectors)]:
        if kind.list_endpoint is not None:
            lists.setdefault(workspace, {})[kind.list_endpoint] = None
    return {workspace: tuple(list_endpoints) for workspace, list_endpoints in lists.items()}


def expand_selectors(
    plan: Plan,
    settings: Settings,
    lists: ListSnapshots,
    *,
    current: Collection[Identity] = (),
    pending: Collection[ListKey] = (),
    last_names: Mapping[NameKey, str] = MappingProxyType({}),
) -> Plan:
    """Return `plan`, as `build_plan` made it with `settings`, with the queries of its selectors added.

    Subjects that the config names come first. Items that already have queries in `current` come next. All other items
    follow in the order of the entries, and by name within an entry. Items that exceed `max_queries` or the budget are
    skipped. Campaigns and Canvases get the names that Braze lists, or `last_names` if Braze does not list them.

    While a list is `pending`, a query does not feed a counter that a selected query with a finer unit may feed later.
    Otherwise the unit of the counter would change, and occurrences in the meantime would be lost.
    """
    names = {**last_names, **_listed_names(plan, lists)}
    waiting = [selector for selector in plan.selectors if (selector.workspace, selector.kind.list_endpoint) in pending]
    queries = tuple(_suspend_counter(_with_name(query, names), waiting) for query in plan.queries)
    candidates = list(_candidates(plan.selectors, queries, lists))
    capacity = _Capacity(settings, queries, lists, plan.budget_owners)
    order = sorted(range(len(candidates)), key=lambda index: (not candidates[index].is_current(current), index))
    selected_indexes = {
        index
        for index in order
        if capacity.try_add(candidates[index].queries, is_current=candidates[index].is_current(current))
    }
    chosen = [candidate for index, candidate in enumerate(candidates) if index in selected_indexes]
    selected = [(query, candidate.selector.entry.alerts) for candidate in chosen for query in candidate.queries]
    all_queries = (*queries, *(query for query, _ in selected))
    return replace(
        plan,
        queries=all_queries,
        pool_usage=tuple(compute_pool_usage(settings, all_queries)),
        budget_usage=tuple(compute_pool_usage(settings, with_budget_owners(all_queries, plan.budget_owners))),
        alerts=(
            *((_with_name(query, names), alerts) for query, alerts in plan.alerts),
            *((query, alerts) for query, alerts in selected if alerts is not None),
        ),
        selection_results=tuple(_selection_results(plan.selectors, lists, candidates, selected_indexes)),
        configured_subjects=tuple(_configured_subjects(queries, lists)),
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An item that a selector matches, with those of its queries that no earlier entry has."""

    selector: Selector
    item: ListItem
    queries: tuple[Query, ...]

    def is_current(self, current: Collection[Identity]) -> bool:
        return any(query.identity in current for query in self.queries)


def _candidates(selectors: Iterable[Selector], queries: Sequence[Query], lists: ListSnapshots) -> Iterator[_Candidate]:
    """Yield the items that selectors match, in the order of the entries and by name within an entry.

    If several entries have the same query, it belongs to the first.
    """
    known_identities = {query.identity for query in queries}
    for selector in selectors:
        key, kind = (selector.workspace, selector.kind.list_endpoint), selector.kind
        items = lists[key].items if key in lists else ()
        segment_labels = _segment_labels(items, selector.workspace, queries) if kind is SEGMENT_USERS else {}
        for item in sorted(items, key=lambda item: (item.name, item.id)):
            if not item.is_tracked or not selector.entry.matches(item):
                continue
            if not kind.is_identified_by_id and not item.name.strip():
                continue
            subject = segment_labels.get(item.id, item.name)
            subject_id = item.id if kind is SEGMENT_USERS or kind.is_identified_by_id else ""
            queries_of_item = [replace(query, subject=subject, subject_id=subject_id) for query in selector.queries]
            new_queries = tuple(query for query in queries_of_item if query.identity not in known_identities)
            known_identities |= {query.identity for query in new_queries}
            yield _Candidate(selector, item, new_queries)


def _segment_labels(items: Sequence[ListItem], workspace: str, queries: Iterable[Query]) -> dict[str, str]:
    """Return the label of each listed segment by its id.

    It is the name. The id is appended to names that several segments have, or that the config gives to another segment.
    """
    configured_ids = {
        query.subject: normalize_id(query.subject_id)
        for query in queries
        if query.kind is SEGMENT_USERS and query.workspace == workspace
    }
    labels = disambiguate({item.id: item.name for item in items})
    for item_id, label in labels.items():
        while configured_ids.get(label, normalize_id(item_id)) != normalize_id(item_id):
            label = f"{label} ({item_id})"  # noqa: PLW2901
        labels[item_id] = label
    return labels


def _suspend_counter(query: Query, waiting: Iterable[Selector]) -> Query:
    """Return `query`, without its counter if a selector in `waiting` may feed that counter with a finer unit."""
    subject = ListItem(query.request_value, query.subject)
    is_pending = any(
        (finer.workspace, finer.kind, finer.app_id, finer.segment_id)
        == (query.workspace, query.kind, query.app_id, query.segment_id)
        and finer.unit.seconds < query.unit.seconds
        and selector.entry.matches(subject)
        for selector in waiting
        for finer in selector.queries
    )
    return replace(query, has_counter=False) if is_pending else query


def _listed_names(plan: Plan, lists: ListSnapshots) -> dict[NameKey, str]:
    """Return the names of the listed items that Braze identifies by an id."""
    templates = (query for selector in plan.selectors for query in selector.queries)
    return {
        (workspace, url, kind.section, normalize_id(item.id)): item.name
        for workspace, url, kind in {(query.workspace, query.url, query.kind) for query in (*plan.queries, *templates)}
        if kind.is_identified_by_id and (workspace, kind.list_endpoint) in lists
        for item in lists[workspace, kind.list_endpoint].items
    }


def _with_name(query: Query, names: Mapping[NameKey, str]) -> Query:
    """Return `query` with the name of its subject, if Braze identifies it by an id."""
    return replace(query, subject=names.get(name_key(query), "")) if query.kind.is_identified_by_id else query


class _Capacity:
    """Tracks how many more queries fit into `max_queries`, and how many more calls into the budget of each pool.

    Calls for lists are subtracted only for new items. Otherwise a growing list would remove items that already have
    queries.
    """

    def __init__(
        self, settings: Settings, queries: Sequence[Query], lists: ListSnapshots, owners: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._owners = owners
        self._queries = settings.max_queries - len(queries)
        usages = compute_pool_usage(settings, with_budget_owners(queries, owners))
        self._pool_usage = {(usage.workspace, usage.pool): usage for usage in usages}
        self._list_calls: Counter[tuple[str, Pool]] = Counter()
        for (workspace, list_endpoint), known in lists.items():
            if list_endpoint is not None:
                self._list_calls[owners[workspace], list_endpoint.pool] += known.calls

    def try_add(self, queries: Sequence[Query], *, is_current: bool) -> bool:
        """Add `queries` and return True, or return False if there is no capacity for all of them."""
        if len(queries) > self._queries:
            return False
        usages = {}
        for more in compute_pool_usage(self._settings, with_budget_owners(queries, self._owners)):
            key = (more.workspace, more.pool)
            usage = self._pool_usage.get(key)
            if usage is not None:
                more = replace(  # noqa: PLW2901
                    more,
                    hourly_calls=more.hourly_calls + usage.hourly_calls,
                    startup_calls=more.startup_calls + usage.startup_calls,
                )
            list_calls = 0.0 if is_current else self._list_calls[key]
            if not replace(more, allowed_hourly_calls=more.allowed_hourly_calls - list_calls).is_within_budget:
                return False
            usages[key] = more
        self._pool_usage |= usages
        self._queries -= len(queries)
        return True


def _selection_results(
    selectors: Sequence[Selector],
    lists: ListSnapshots,
    candidates: Sequence[_Candidate],
    selected_indexes: Collection[int],
) -> Iterator[SelectionResult]:
    """Yield the result for each kind that has selectors and whose list was read."""
    for workspace, kind in dict.fromkeys((selector.workspace, selector.kind) for selector in selectors):
        if (workspace, kind.list_endpoint) not in lists:
            continue
        matched = [
            (candidate.item.id, index in selected_indexes)
            for index, candidate in enumerate(candidates)
            if (candidate.selector.workspace, candidate.selector.kind) == (workspace, kind)
        ]
        skipped = {item_id for item_id, is_selected in matched if not is_selected}
        items = lists[workspace, kind.list_endpoint].items
        entries = [selector.entry for selector in selectors if (selector.workspace, selector.kind) == (workspace, kind)]
        mismatches = tuple(filter(None, (_describe_mismatch(entry, items) for entry in entries)))
        matched_ids = {item_id for item_id, _ in matched}
        yield SelectionResult(workspace, kind, len(items), len(matched_ids), len(skipped), mismatches)


def _describe_mismatch(entry: Entry, items: Sequence[ListItem]) -> str:
    """Return that a selector matches none of `items`, or an empty text if it matches any."""
    items = [item for item in items if item.is_tracked]
    if any(map(entry.matches, items)):
        return ""
    regex, tag = entry.selector
    tags = {tag for item in items for tag in item.tags}
    if tag is not None and tag not in tags:
        hint = format_suggestions(map(shorten, find_nearest([tag], tags)[tag]))
        return f'no item in Braze\'s list has the tag "{shorten(tag)}"{hint}; tags are case-sensitive'
    count, text = pluralize(len(items), "item", "items"), regex.text if regex is not None else ""
    both = f' with the tag "{shorten(tag)}"' if tag is not None else ""
    return f'regex "{shorten(text)}" matches none of {count} in Braze\'s list{both}'


def _configured_subjects(queries: Iterable[Query], lists: ListSnapshots) -> Iterator[ConfiguredSubject]:
    """Yield each subject that the config names, if the list of its kind has been read."""
    ids = {
        key: frozenset(
            normalize_id(item.id) if key[1] is not None and key[1].has_ids else item.id for item in known.items
        )
        for key, known in lists.items()
    }
    subjects = dict.fromkeys(
        (query.workspace, query.kind, query.request_value)
        for query in queries
        if query.request_value
        and query.kind is not SEGMENT_USERS
        and (query.workspace, query.kind.list_endpoint) in ids
    )
    missing: dict[ListKey, dict[str, None]] = {}
    for workspace, kind, subject in subjects:
        if not kind.is_identified_by_id and subject not in ids[workspace, kind.list_endpoint]:
            missing.setdefault((workspace, kind.list_endpoint), {})[subject] = None
    suggestions = {
        key: _find_nearest(tuple(names)[:_MAX_NAMES_WITH_SUGGESTIONS], ids[key]) for key, names in missing.items()
    }
    for workspace, kind, subject in subjects:
        key = (workspace, kind.list_endpoint)
        is_listed = (normalize_id(subject) if kind.is_identified_by_id else subject) in ids[key]
        yield ConfiguredSubject(workspace, kind, subject, is_listed, suggestions.get(key, {}).get(subject, ()))


@functools.lru_cache(maxsize=4)  # lists are read again and again, but rarely change
def _find_nearest(names: tuple[str, ...], listed: frozenset[str]) -> Mapping[str, tuple[str, ...]]:
    return find_nearest(names, listed)
