"""Parse a page of one of Braze's lists into items. No I/O."""

from braze_exporter.braze.body import parse_body
from braze_exporter.braze.errors import invalid_response
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.braze.names import clean_text


def parse_list_page(list_endpoint: ListEndpoint, body: bytes) -> tuple[ListItem | None, ...]:
    """Return the items in the `body` of a successful response.

    An item without a valid name and id is None, since it can neither be queried nor displayed. Other invalid fields of
    an item are treated as absent. A body without the list's key is an empty page, as reported for pages past the end.
    Raises `BrazeError` if the body is invalid or the value of the key is not a list.
    """
    rows = parse_body(body).get(list_endpoint.response_key, [])
    if not isinstance(rows, list):
        raise invalid_response(f"{list_endpoint.response_key} is not a list")
    return tuple(_parse_item(row) if list_endpoint.has_ids else _parse_name(row) for row in rows)


def _parse_name(row: object) -> ListItem | None:
    """Return the item for a row that is a name only, or None if it is invalid."""
    name = _valid_text(row)
    return ListItem(id=name, name=name) if name is not None else None


def _parse_item(row: object) -> ListItem | None:
    """Return the item for a row that is an object with an id, or None if it is invalid."""
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
    )


def _valid_text(value: object) -> str | None:
    """Return `value` if it is a string that can be encoded in UTF-8, otherwise None."""
    return value if isinstance(value, str) and clean_text(value) == value else None
