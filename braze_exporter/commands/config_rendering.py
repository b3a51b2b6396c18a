"""What Braze lists → a piece of config to paste, with comments. Pure.

What is in the config already, and what cannot be asked for, is commented out with the reason: so all that is not can
be pasted at once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, CUSTOM_EVENTS, PURCHASES, SEGMENT_USERS, Kind
from braze_exporter.braze.lists import (
    CAMPAIGN_LIST,
    CANVAS_LIST,
    EVENT_LIST,
    PRODUCT_LIST,
    SEGMENT_LIST,
    Listed,
    Listing,
)
from braze_exporter.config.document import shown
from braze_exporter.config.loading import ConfiguredWorkspace
from braze_exporter.config.schema import Settings
from braze_exporter.config.values import ALL, is_braze_id
from braze_exporter.config.yaml_scalar import scalar
from braze_exporter.scheduler.list_reader import Found

# A key of YAML may have 1,024 characters, and each of a name may take ten.
_LONGEST_KEY = 100
_MOST_TAGS = 5

# The sections whose entries are what a list has: by name, by id where there is one, and segments by our names.
SECTIONS = (
    (CUSTOM_EVENTS, EVENT_LIST),
    (SEGMENT_USERS, SEGMENT_LIST),
    (CAMPAIGNS, CAMPAIGN_LIST),
    (CANVASES, CANVAS_LIST),
    (PURCHASES, PRODUCT_LIST),
)

_TAKEN = "in the config"


@dataclass(frozen=True, slots=True)
class _Line:
    """An item of a section: what it is, a comment, and why it is commented out, if it is."""

    text: str
    notes: tuple[str, ...] = ()
    unfit: str = ""

    def __str__(self) -> str:
        comment = "; ".join(note for note in (*self.notes, self.unfit) if note)
        return f"      {'# ' if self.unfit else ''}{self.text}{f'  # {comment}' if comment else ''}"


def fragment(workspace: ConfiguredWorkspace, settings: Settings, found: Mapping[Listing, Found]) -> Iterator[str]:
    """Yield the lines of one item of `workspaces`: its name, and all of what was `found` that it could have."""
    yield f"  - name: {scalar(workspace.spec.name)}"
    for kind, listing, lines in _sections(workspace, found):
        read = found[listing]
        if listing is SEGMENT_LIST:
            yield from _block("segments", listing, read, list(_segments(workspace, read)))
        yield from _block(kind.section, listing, read, lines, _cost(kind, len(read.rows), settings))


def count(workspace: ConfiguredWorkspace, found: Mapping[Listing, Found]) -> int:
    """Return how many entries of `fragment` are not commented out."""
    return sum(not line.unfit for *_, lines in _sections(workspace, found) for line in lines)


def _sections(
    workspace: ConfiguredWorkspace, found: Mapping[Listing, Found]
) -> Iterator[tuple[Kind, Listing, Sequence[_Line]]]:
    """Yield each section with its list and its entries."""
    for kind, listing in SECTIONS:
        if listing not in found:
            continue
        read = found[listing]
        specs = [entry.spec for entry in workspace.entries.get(kind.section, ())]
        matched = {row.id for row in read.rows if any(spec.takes(row) for spec in specs)}
        named = {str(getattr(spec, kind.subject)) for spec in specs if not spec.is_wild}
        if listing is SEGMENT_LIST:
            names = _segment_names(workspace, read)
            taken = matched | {row.id for row in read.rows if names[row.id] in named}
            yield kind, listing, list(_by_our_name(kind, names, read, taken))
        elif listing.has_ids:
            lower = {braze_id.lower() for braze_id in named}
            taken = matched | {row.id for row in (*read.rows, *read.archived) if row.id.lower() in lower}
            yield kind, listing, list(_by_id(kind, read, taken))
        else:
            yield kind, listing, list(_by_name(kind, read, matched | named))


def _block(key: str, listing: Listing, read: Found, lines: Sequence[_Line], cost: str = "") -> Iterator[str]:
    """Yield the lines of a key of the workspace, and what is to be said of it."""
    one, many = listing.what
    yield ""
    if read.failure:
        what = f"only {len(read.rows):,} {many} were listed" if read.rows else "not listed"
        yield f"    # {key}: {what}: {shown(read.failure, 300)}"
    elif not lines:
        yield f"    # {key}: Braze lists no {many}"
    if lines:
        taken = sum(line.unfit == _TAKEN for line in lines)
        of_them = f", {taken:,} of them in the config" if taken else ""
        yield f"    # {len(lines):,} {one if len(lines) == 1 else many}{of_them}{cost}"
        yield f"    {'# ' if all(line.unfit for line in lines) else ''}{key}:"
        yield from map(str, lines)


def _cost(kind: Kind, rows: int, settings: Settings) -> str:
    """Return what all of a list would cost."""
    calls = rows * 3_600 / max(settings.refresh.of(kind.units[0]), kind.refresh)
    allowed = kind.pool.per_hour * settings.budget.share
    return f"; all of them make {calls:,.0f} calls an hour, and budget.share allows {allowed:,.0f}"


def _by_name(kind: Kind, read: Found, taken: set[str]) -> Iterator[_Line]:
    """Yield entries that have a name and no id."""
    alike: dict[str, list[str]] = {}
    for row in read.rows:
        alike.setdefault(row.name.casefold(), []).append(row.name)
    for row in read.rows:
        other = next((name for name in alike[row.name.casefold()] if name != row.name), None)
        note = f'differs only by case from "{shown(other)}"' if other is not None else ""
        unfit = _TAKEN if row.name in taken else "" if row.name.strip() else "it has no name"
        if kind is PURCHASES and row.name == ALL:
            unfit = "the name stands for all products"
        yield _Line(f"- {kind.subject}: {scalar(row.name)}", (note,), unfit)


def _by_id(kind: Kind, read: Found, taken: set[str]) -> Iterator[_Line]:
    """Yield entries that are named by an id, first those that are not archived."""
    called, archived = Counter(row.name for row in read.rows), {row.id for row in read.archived}
    for row in (*read.rows, *read.archived):
        same = f"{called[row.name]:,} have this name" if called[row.name] > 1 else ""
        unfit = _TAKEN if row.id in taken else _unfit(row)
        if row.id in archived:
            unfit = unfit or "archived"
        yield _Line(f"- {kind.subject}: {scalar(row.id)}", (_about(row), same, _edited(row)), unfit)


def _by_our_name(kind: Kind, names: Mapping[str, str], read: Found, taken: set[str]) -> Iterator[_Line]:
    """Yield entries that are named as the config names the ids."""
    for row in read.rows:
        text = f"- {kind.subject}: {scalar(names[row.id])}"
        yield _Line(text, (), _TAKEN if row.id in taken else _unfit(row))


def _segments(workspace: ConfiguredWorkspace, read: Found) -> Iterator[_Line]:
    """Yield the items of the mapping of our names to ids."""
    names = _segment_names(workspace, read)
    taken = {braze_id.lower() for braze_id in workspace.spec.segments.values()}
    for row in read.rows:
        about = _about(row, names[row.id])
        yield _Line(
            f"{scalar(names[row.id])}: {scalar(row.id)}", (about,), _TAKEN if row.id.lower() in taken else _unfit(row)
        )


def _segment_names(workspace: ConfiguredWorkspace, read: Found) -> Mapping[str, str]:
    """Return our name for each segment by its id: the one in the config, or Braze's, or the id if that cannot be."""
    configured = {braze_id.lower(): name for name, braze_id in workspace.spec.segments.items()}
    names: dict[str, str] = {}
    used = {ALL, *configured.values()}
    for row in read.rows:
        fits = row.name.strip() and row.name not in used and len(row.name) <= _LONGEST_KEY
        names[row.id] = configured.get(row.id.lower(), row.name if fits else row.id)
        used.add(names[row.id])
    return names


def _unfit(row: Listed) -> str:
    """Return why a row with an id cannot stand in a config, or nothing."""
    if not is_braze_id(row.id):
        return "its id is not of the form of Braze's identifiers"
    return "" if row.is_tracked else "not tracked: switch its analytics tracking on in Braze"


def _about(row: Listed, written: str = "") -> str:
    """Return the name of a row, unless it is `written` already, and its tags."""
    tags = [shown(tag) for tag in row.tags[:_MOST_TAGS]] + (["…"] if len(row.tags) > _MOST_TAGS else [])
    return " ".join(([] if row.name == written else [shown(row.name)]) + ([f"[{', '.join(tags)}]"] if tags else []))


def _edited(row: Listed) -> str:
    return f"edited {shown(row.last_edited[:10])}" if row.last_edited else ""
