"""A page of one of Braze's lists → its rows. Pure."""

from braze_exporter.braze.body import content
from braze_exporter.braze.lists import Listed, Listing
from braze_exporter.braze.names import text
from braze_exporter.braze.rows import bad


def listed(listing: Listing, body: bytes) -> tuple[Listed | None, ...]:
    """Return the rows in the `body` of a success, or raise `BrazeError` if there is no list in it.

    A row without a name or an id that can be read is None: it can be neither asked for nor shown. What else is odd in a
    row counts as not told. After the end of a list its key is said to be missing at times.
    """
    rows = content(body).get(listing.key, [])
    if not isinstance(rows, list):
        raise bad(f"{listing.key} is not a list")
    return tuple(_listed(row) if listing.has_ids else _named(row) for row in rows)


def _named(row: object) -> Listed | None:
    """Return a row that is a name alone."""
    name = _text(row)
    return Listed(id=name, name=name) if name is not None else None


def _listed(row: object) -> Listed | None:
    """Return a row with an id."""
    if not isinstance(row, dict):
        return None
    braze_id, name, tags = _text(row.get("id")), _text(row.get("name")), row.get("tags")
    if not braze_id or name is None:
        return None
    return Listed(
        id=braze_id,
        name=name,
        tags=tuple(filter(None, map(_text, tags))) if isinstance(tags, list) else (),
        is_tracked=row.get("analytics_tracking_enabled") is not False,
        last_edited=_text(row.get("last_edited")) or "",
    )


def _text(value: object) -> str | None:
    """Return a text that can be written in UTF-8, or None for what is no such thing."""
    return value if isinstance(value, str) and text(value) == value else None
