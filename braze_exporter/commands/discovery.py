"""Select the items of Braze's lists that can be added to a config. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, CUSTOM_EVENTS, PURCHASES, SEGMENT_USERS, SeriesKind, Unit
from braze_exporter.braze.lists import (
    CAMPAIGN_LIST,
    CANVAS_LIST,
    EVENT_LIST,
    PRODUCT_LIST,
    SEGMENT_LIST,
    ListEndpoint,
    ListItem,
)
from braze_exporter.braze.names import normalize_id
from braze_exporter.config.loading import Config, ConfiguredWorkspace, LocatedEntry
from braze_exporter.config.schema import SECTIONS
from braze_exporter.config.values import is_braze_id
from braze_exporter.scheduler.list_reader import ListResult
from braze_exporter.scheduler.plan import Plan, build_plan
from braze_exporter.scheduler.selectors import ListSnapshot, ListSnapshots, expand_selectors

# The kinds whose subjects become entries, by their list.
KINDS_BY_LIST: Mapping[ListEndpoint, SeriesKind] = {
    EVENT_LIST: CUSTOM_EVENTS,
    PRODUCT_LIST: PURCHASES,
    SEGMENT_LIST: SEGMENT_USERS,
    CAMPAIGN_LIST: CAMPAIGNS,
    CANVAS_LIST: CANVASES,
}


class Discovery:
    """Which items of lists a config does not select yet, and which of these can be added to it.

    `results` holds the lists that were read, by the name of the workspace and the list. `exceeding_count` is the number
    of items that could be added if `max_queries` or `budget.share` were larger.
    """

    def __init__(self, config: Config, results: Mapping[str, Mapping[ListEndpoint, ListResult]]) -> None:
        """Compare `results` with `config`.

        Raises `ConfigError` if no entry can be added, because `settle` or `refresh_interval` is too long.
        """
        self.results = results
        self._workspaces = {workspace.spec.name: workspace for workspace in config.workspaces}
        listed = {
            (name, list_endpoint): result.items
            for name, lists in results.items()
            for list_endpoint, result in lists.items()
        }
        plan = _expand(build_plan(config), config, listed)
        self._configured = {query.identity[:3] for query in plan.queries}
        new = {
            key: [item for item in items if not (self.is_configured(*key, item) or self._defect(*key, item))]
            for key, items in listed.items()
        }
        entries = [replace(workspace, entries=_entries_for_all(workspace)) for workspace in config.workspaces]
        selectors = build_plan(replace(config, workspaces=tuple(entries))).selectors
        named = {  # a selector adds no segment without a name, but the config can give it one
            key: [item if item.name.strip() else replace(item, name=item.id) for item in items]
            for key, items in new.items()
        }
        plan = _expand(replace(plan, selectors=selectors), config, named)
        self._fitting = {query.identity[:3] for query in plan.queries}
        self.exceeding_count = sum(
            _identity(*key, item) not in self._fitting for key, items in new.items() for item in items
        )

    def is_configured(self, workspace: str, list_endpoint: ListEndpoint, item: ListItem) -> bool:
        """Return whether an entry of the config names or selects `item`."""
        return _identity(workspace, list_endpoint, item) in self._configured

    def skip_reason(self, workspace: str, list_endpoint: ListEndpoint, item: ListItem) -> str:
        """Return why `item` cannot be added to the config, or an empty text."""
        is_fitting = _identity(workspace, list_endpoint, item) in self._fitting
        exceeds = "" if is_fitting else "exceeds max_queries or budget.share"
        return self._defect(workspace, list_endpoint, item) or exceeds

    def _defect(self, workspace: str, list_endpoint: ListEndpoint, item: ListItem) -> str:
        return describe_defect(list_endpoint, item) or (
            ""
            if _can_have_entries(KINDS_BY_LIST[list_endpoint], self._workspaces[workspace])
            else "requires timezone in the workspace"
        )


def describe_defect(list_endpoint: ListEndpoint, item: ListItem) -> str:
    """Return why `item` cannot be in any config, or an empty text."""
    if list_endpoint.has_ids and not is_braze_id(item.id):
        return "not a valid Braze id"
    if not (list_endpoint.has_ids or item.name.strip()):
        return "no name"
    return "" if item.is_tracked else "not tracked; enable its analytics tracking in Braze"


def _identity(workspace: str, list_endpoint: ListEndpoint, item: ListItem) -> tuple[str, str, str]:
    """Return the first fields of the identity of the queries for `item`."""
    return workspace, KINDS_BY_LIST[list_endpoint].section, normalize_id(item.id) if list_endpoint.has_ids else item.id


def _can_have_entries(kind: SeriesKind, workspace: ConfiguredWorkspace) -> bool:
    """Return whether the start of a bucket is known. Without a time zone, that of a day is not."""
    return Unit.HOUR in kind.units or workspace.spec.timezone is not None


def _entries_for_all(workspace: ConfiguredWorkspace) -> Mapping[str, tuple[LocatedEntry, ...]]:
    """Return an entry for each section that selects all items of its list."""
    return {
        kind.section: (LocatedEntry(SECTIONS[kind.section].model_validate({"regex": ".*"}), workspace.path),)
        for kind in KINDS_BY_LIST.values()
        if _can_have_entries(kind, workspace)
    }


def _expand(plan: Plan, config: Config, items: Mapping[tuple[str, ListEndpoint], Iterable[ListItem]]) -> Plan:
    """Return `plan` with the queries of its selectors, whose lists have `items`."""
    lists: ListSnapshots = {key: ListSnapshot(tuple(listed), calls=0) for key, listed in items.items()}
    return expand_selectors(plan, config.settings, lists)
