"""Determine which items of Braze's lists can be added to a config. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import TypeAlias

from braze_exporter.braze.kinds import KINDS, REVENUE, SeriesKind, Unit
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.names import normalize_id
from braze_exporter.config.document import ConfigError, format_path
from braze_exporter.config.loading import Config, ConfiguredWorkspace, LocatedEntry
from braze_exporter.config.schema import SECTIONS
from braze_exporter.config.values import is_braze_id
from braze_exporter.scheduler.list_reader import ListResult
from braze_exporter.scheduler.plan import Plan, Selector, build_plan
from braze_exporter.scheduler.selectors import ListSnapshot, ListSnapshots, expand_selectors

# The kinds whose subjects become entries, by their list. Revenue has the same list as purchases.
KINDS_BY_LIST: Mapping[ListEndpoint, SeriesKind] = {
    kind.list_endpoint: kind for kind in KINDS if kind.list_endpoint is not None and kind is not REVENUE
}
EXCEEDS_LIMITS = "exceeds max_queries or budget.share"

Results: TypeAlias = Mapping[str, Mapping[ListEndpoint, ListResult]]
"""The lists that were read, by the name of the workspace and the list."""
ItemKey: TypeAlias = tuple[str, ...]


def identify(workspace: str, list_endpoint: ListEndpoint, item: ListItem) -> ItemKey:
    """Return the first fields of the identity of the queries for `item`: workspace, section and subject."""
    return workspace, KINDS_BY_LIST[list_endpoint].section, normalize_id(item.id) if list_endpoint.has_ids else item.id


def find_skip_reasons(config: Config, results: Results) -> Mapping[ItemKey, str]:
    """Return, for each item that `config` does not select, why it is not added, or an empty text if it is.

    An item is not added if it is archived or cannot be queried, or if it exceeds `max_queries` or `budget.share` beside
    the queries of the config and the items before it.
    """
    listed = {(name, key): result.items for name, lists in results.items() for key, result in lists.items()}
    plan = _expand(build_plan(config), config, listed)
    configured = {query.identity[:3] for query in plan.queries}
    reasons: dict[ItemKey, str] = {}
    addable: dict[tuple[str, ListEndpoint], list[ListItem]] = {}
    selectors: list[Selector] = []
    for workspace, (list_endpoint, kind) in product(config.workspaces, KINDS_BY_LIST.items()):
        name = workspace.spec.name
        selectors_of_list, problem = _select_all(config, workspace, kind)
        selectors += selectors_of_list
        result = results[name][list_endpoint]
        found = {item: describe_defect(list_endpoint, item) or problem for item in result.items}
        found |= dict.fromkeys(result.archived_items, "archived")
        further = {item: why for item, why in found.items() if identify(name, list_endpoint, item) not in configured}
        reasons |= {identify(name, list_endpoint, item): why for item, why in further.items()}
        # A selector adds no segment without a name, but the config can give it one.
        addable[name, list_endpoint] = [
            item if item.name.strip() else replace(item, name=item.id) for item, why in further.items() if not why
        ]
    plan = _expand(replace(plan, selectors=tuple(selectors)), config, addable)
    fitting = {query.identity[:3] for query in plan.queries}
    return {key: reason or ("" if key in fitting else EXCEEDS_LIMITS) for key, reason in reasons.items()}


def describe_defect(list_endpoint: ListEndpoint, item: ListItem) -> str:
    """Return why `item` cannot be in any config, or an empty text."""
    if list_endpoint.has_ids and not is_braze_id(item.id):
        return "not a valid Braze id"
    if not (list_endpoint.has_ids or item.name.strip()):
        return "no name"
    return "" if item.is_tracked else "not tracked; enable its analytics tracking in Braze"


def _select_all(config: Config, workspace: ConfiguredWorkspace, kind: SeriesKind) -> tuple[tuple[Selector, ...], str]:
    """Return selectors of all items of `kind`, or why a workspace cannot have an entry for them."""
    if Unit.HOUR not in kind.units and workspace.spec.timezone is None:  # the starts of days are not known
        return (), "requires timezone in the workspace"
    entry = LocatedEntry(kind, SECTIONS[kind.section].model_validate({"regex": ".*"}), workspace.path)
    try:
        plan = build_plan(replace(config, workspaces=(replace(workspace, entries=(entry,)),)))
    except ConfigError as error:
        return (), "; ".join(f"{format_path(problem.path)} {problem.text}" for problem in error.problems)
    return plan.selectors, ""


def _expand(plan: Plan, config: Config, items: Mapping[tuple[str, ListEndpoint], Iterable[ListItem]]) -> Plan:
    """Return `plan` with the queries of its selectors, whose lists have `items`."""
    lists: ListSnapshots = {key: ListSnapshot(tuple(listed), calls=0) for key, listed in items.items()}
    return expand_selectors(plan, config.settings, lists)
