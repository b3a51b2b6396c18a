"""Render Braze's lists as entries of a config, with comments. No I/O.

Items that are already in the config, and items that cannot be queried, are commented out with the reason. All other
lines can be copied into a config unchanged.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, CUSTOM_EVENTS, PURCHASES, SEGMENT_USERS, SeriesKind
from braze_exporter.braze.lists import (
    CAMPAIGN_LIST,
    CANVAS_LIST,
    EVENT_LIST,
    PRODUCT_LIST,
    SEGMENT_LIST,
    ListEndpoint,
    ListItem,
)
from braze_exporter.config.document import shorten
from braze_exporter.config.loading import ConfiguredWorkspace
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.schema import Settings
from braze_exporter.config.values import ALL, is_braze_id
from braze_exporter.config.yaml_scalar import quote_scalar
from braze_exporter.scheduler.list_reader import ListResult

# The maximum length of a YAML key is 1,024 characters, and an escaped character of a name has up to ten.
_MAX_KEY_LENGTH = 100
_MAX_TAGS = 5

# The sections whose entries come from a list, each with its list. An entry contains the id of its item, or the name if
# the list has no ids. An entry of a segment contains its name under `segments`.
SECTIONS = (
    (CUSTOM_EVENTS, EVENT_LIST),
    (SEGMENT_USERS, SEGMENT_LIST),
    (CAMPAIGNS, CAMPAIGN_LIST),
    (CANVASES, CANVAS_LIST),
    (PURCHASES, PRODUCT_LIST),
)

_ALREADY_CONFIGURED = "already in the config"


@dataclass(frozen=True, slots=True)
class _ConfigLine:
    """One line of a section: its text, comments, and the reason if it is commented out."""

    text: str
    notes: tuple[str, ...] = ()
    skip_reason: str = ""

    def __str__(self) -> str:
        comment = "; ".join(note for note in (*self.notes, self.skip_reason) if note)
        return f"      {'# ' if self.skip_reason else ''}{self.text}{f'  # {comment}' if comment else ''}"


def render_config(
    workspace: ConfiguredWorkspace, settings: Settings, results: Mapping[ListEndpoint, ListResult]
) -> Iterator[str]:
    """Yield the lines of one workspace: its name, and an entry for each item in `results`."""
    yield f"  - name: {quote_scalar(workspace.spec.name)}"
    for kind, list_endpoint, lines in _sections(workspace, results):
        result = results[list_endpoint]
        if list_endpoint is SEGMENT_LIST:
            yield from _render_block("segments", list_endpoint, result, list(_segment_definitions(workspace, result)))
        yield from _render_block(
            kind.section, list_endpoint, result, lines, _describe_cost(kind, len(result.items), settings)
        )


def count_entries(workspace: ConfiguredWorkspace, results: Mapping[ListEndpoint, ListResult]) -> int:
    """Return how many entries of `render_config` are not commented out."""
    return sum(not line.skip_reason for *_, lines in _sections(workspace, results) for line in lines)


def _sections(
    workspace: ConfiguredWorkspace, results: Mapping[ListEndpoint, ListResult]
) -> Iterator[tuple[SeriesKind, ListEndpoint, Sequence[_ConfigLine]]]:
    """Yield each section with its list and its lines."""
    for kind, list_endpoint in SECTIONS:
        if list_endpoint not in results:
            continue
        result = results[list_endpoint]
        specs = [entry.spec for entry in workspace.entries.get(kind.section, ())]
        matched = {item.id for item in result.items if any(spec.matches(item) for spec in specs)}
        named = {str(getattr(spec, kind.subject_label)) for spec in specs if not spec.is_selector}
        if list_endpoint is SEGMENT_LIST:
            names = _segment_names(workspace, result)
            configured_ids = matched | {item.id for item in result.items if names[item.id] in named}
            yield kind, list_endpoint, list(_segment_entries(kind, names, result, configured_ids))
        elif list_endpoint.has_ids:
            lower = {braze_id.lower() for braze_id in named}
            configured_ids = matched | {
                item.id for item in (*result.items, *result.archived_items) if item.id.lower() in lower
            }
            yield kind, list_endpoint, list(_id_entries(kind, result, configured_ids))
        else:
            yield kind, list_endpoint, list(_name_entries(kind, result, matched | named))


def _render_block(
    key: str, list_endpoint: ListEndpoint, result: ListResult, lines: Sequence[_ConfigLine], cost: str = ""
) -> Iterator[str]:
    """Yield the lines of one key of the workspace, after a comment with the number of items or the failure."""
    singular, plural = list_endpoint.item_names
    yield ""
    if result.failure:
        what = f"only {len(result.items):,} {plural} could be read" if result.items else "the list could not be read"
        yield f"    # {key}: {what}: {shorten(result.failure, 300)}"
    elif not lines:
        yield f"    # {key}: the list of {plural} is empty"
    if lines:
        configured_count = sum(line.skip_reason == _ALREADY_CONFIGURED for line in lines)
        configured = f", {configured_count:,} already in the config" if configured_count else ""
        yield f"    # {len(lines):,} {singular if len(lines) == 1 else plural}{configured}{cost}"
        yield f"    {'# ' if all(line.skip_reason for line in lines) else ''}{key}:"
        yield from map(str, lines)


def _describe_cost(kind: SeriesKind, item_count: int, settings: Settings) -> str:
    """Return the part of a comment with the calls per hour that all items of a list need."""
    calls = item_count * 3_600 / max(settings.refresh_interval.for_unit(kind.units[0]), kind.min_refresh_seconds)
    allowed = kind.pool.per_hour * settings.budget.share
    return f"; {pluralize(calls, 'call', 'calls')} per hour in total, budget.share allows {allowed:,.0f}"


def _name_entries(kind: SeriesKind, result: ListResult, configured_names: set[str]) -> Iterator[_ConfigLine]:
    """Yield the entries of a list whose items have no id."""
    names_by_casefold: dict[str, list[str]] = {}
    for item in result.items:
        names_by_casefold.setdefault(item.name.casefold(), []).append(item.name)
    for item in result.items:
        other = next((name for name in names_by_casefold[item.name.casefold()] if name != item.name), None)
        note = f'differs from "{shorten(other)}" only in case' if other is not None else ""
        skip_reason = _ALREADY_CONFIGURED if item.name in configured_names else "" if item.name.strip() else "no name"
        # The config reserves the name `all` of a product, but a regex can select it.
        key = "regex" if kind is PURCHASES and item.name == ALL else kind.subject_label
        yield _ConfigLine(f"- {key}: {quote_scalar(item.name)}", (note,), skip_reason)


def _id_entries(kind: SeriesKind, result: ListResult, configured_ids: set[str]) -> Iterator[_ConfigLine]:
    """Yield the entries of a list whose items have an id, archived items last."""
    name_counts, archived = Counter(item.name for item in result.items), {item.id for item in result.archived_items}
    for item in (*result.items, *result.archived_items):
        same = f"{name_counts[item.name]:,} items have this name" if name_counts[item.name] > 1 else ""
        skip_reason = _ALREADY_CONFIGURED if item.id in configured_ids else _skip_reason(item)
        if item.id in archived:
            skip_reason = skip_reason or "archived"
        yield _ConfigLine(
            f"- {kind.subject_label}: {quote_scalar(item.id)}",
            (_describe_item(item), same, _edit_date_text(item)),
            skip_reason,
        )


def _segment_entries(
    kind: SeriesKind, names: Mapping[str, str], result: ListResult, configured_ids: set[str]
) -> Iterator[_ConfigLine]:
    """Yield the entries of segments, which are identified by their names in the config."""
    for item in result.items:
        text = f"- {kind.subject_label}: {quote_scalar(names[item.id])}"
        yield _ConfigLine(text, (), _ALREADY_CONFIGURED if item.id in configured_ids else _skip_reason(item))


def _segment_definitions(workspace: ConfiguredWorkspace, result: ListResult) -> Iterator[_ConfigLine]:
    """Yield the lines of `segments`, the mapping of names to Braze's ids."""
    names = _segment_names(workspace, result)
    configured_ids = {braze_id.lower() for braze_id in workspace.spec.segments.values()}
    for item in result.items:
        about = _describe_item(item, names[item.id])
        yield _ConfigLine(
            f"{quote_scalar(names[item.id])}: {quote_scalar(item.id)}",
            (about,),
            _ALREADY_CONFIGURED if item.id.lower() in configured_ids else _skip_reason(item),
        )


def _segment_names(workspace: ConfiguredWorkspace, result: ListResult) -> Mapping[str, str]:
    """Return a name for each segment, by its id: the name in the config, else Braze's name, else the id.

    Braze's name is not used if it is empty, too long or already used.
    """
    configured = {braze_id.lower(): name for name, braze_id in workspace.spec.segments.items()}
    names: dict[str, str] = {}
    used = {ALL, *configured.values()}
    for item in result.items:
        fits = item.name.strip() and item.name not in used and len(item.name) <= _MAX_KEY_LENGTH
        names[item.id] = configured.get(item.id.lower(), item.name if fits else item.id)
        used.add(names[item.id])
    return names


def _skip_reason(item: ListItem) -> str:
    """Return why an item with an id cannot be used in a config, or an empty text."""
    if not is_braze_id(item.id):
        return "not a valid Braze id"
    return "" if item.is_tracked else "not tracked; enable its analytics tracking in Braze"


def _describe_item(item: ListItem, key: str = "") -> str:
    """Return the name of an item, unless it is equal to the YAML key `key`, and its tags."""
    tags = [shorten(tag) for tag in item.tags[:_MAX_TAGS]] + (["…"] if len(item.tags) > _MAX_TAGS else [])
    return " ".join(([] if item.name == key else [shorten(item.name)]) + ([f"[{', '.join(tags)}]"] if tags else []))


def _edit_date_text(item: ListItem) -> str:
    return f"edited {shorten(item.last_edited[:10])}" if item.last_edited else ""
