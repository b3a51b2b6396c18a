"""A page of one of Braze's lists → its rows. Pure."""

from braze_exporter.braze.body import parse_body
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.names import clean_text
from braze_exporter.braze.rows import invalid_response


def parse_list_page(list_endpoint: ListEndpoint, body: bytes) -> tuple[ListItem | None, ...]:
    """Return the rows in the `body` of a success, or raise `BrazeError` if there is no list in it.

    A row without a name or an id that can be read is None: it can be neither asked for nor shown. What else is odd in a
    row counts as not told. After the end of a list its key is said to be missing at times.
    """
    rows = parse_body(body).get(list_endpoint.response_key, [])
    if not isinstance(rows, list):
        raise invalid_response(f"{list_endpoint.response_key} is not a list")
    return tuple(_parse_item(row) if list_endpoint.has_ids else _parse_name(row) for row in rows)


def _parse_name(row: object) -> ListItem | None:
    """Return a row that is a name alone."""
    name = _valid_text(row)
    return ListItem(id=name, name=name) if name is not None else None


def _parse_item(row: object) -> ListItem | None:
    """Return a row with an id."""
    if not isinstance(row, dict):
        return None
    braze_id, name, tags = _valid_text(row.get("id")), _valid_text(row.get("name")), row.get("tags")
    if not braze_id or name is None:
        return None
    return ListItem(
        id=braze_id,
        name=name,
        tags=tuple(filter(None, map(_valid_text, tags))) if isinstance(tags, list) else (),
        is_tracked=row.get("analytics_tracking_enabled") is not False,
        last_edited=_valid_text(row.get("last_edited")) or "",
    )


def _valid_text(value: object) -> str | None:
    """Return a text that can be written in UTF-8, or None for what is no such thing."""
    return value if isinstance(value, str) and clean_text(value) == value else None
