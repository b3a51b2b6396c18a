"""A page of one of Braze's lists → its rows. Pure."""

import re

from braze_exporter.answer.body import content
from braze_exporter.answer.rows import bad
from braze_exporter.catalog import Listed, Listing

_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")


def listed(listing: Listing, body: bytes) -> tuple[Listed, ...]:
    """Return the rows in the `body` of a success, or raise `BrazeError`: a row that cannot be read is one.

    After the end of a list its key is said to be missing at times.
    """
    rows = content(body).get(listing.key, [])
    if not isinstance(rows, list):
        raise bad(f"{listing.key} is not a list")
    return tuple(_listed(row) if listing.has_ids else _named(row) for row in rows)


def _named(row: object) -> Listed:
    """Return a row that is a name alone."""
    name = _text(row)
    return Listed(id=name, name=name)


def _listed(row: object) -> Listed:
    """Return a row with an id. A tag may be null; what else is told of a row may be missing."""
    if not isinstance(row, dict):
        raise bad("a row of the list is not an object")
    tags, is_tracked = row.get("tags") or [], row.get("analytics_tracking_enabled", True)
    if not isinstance(tags, list) or not isinstance(is_tracked, bool):
        raise bad("a row of the list has tags that are no list, or tracking that is neither true nor false")
    braze_id = _text(row.get("id"))
    if not braze_id:
        raise bad("a row of the list has no id")
    return Listed(
        id=braze_id,
        name=_text(row.get("name")),
        tags=tuple(_text(tag) for tag in tags if tag is not None),
        is_tracked=is_tracked,
        last_edited=_text(row.get("last_edited") or ""),
    )


def _text(value: object) -> str:
    """Return a text that can be written in UTF-8."""
    if not isinstance(value, str) or _HALF_A_CHARACTER.search(value):
        raise bad("a row of the list has a name, an id or a tag that is no text")
    return value
