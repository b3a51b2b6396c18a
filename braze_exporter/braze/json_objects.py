"""JSON objects in less memory than a `dict` takes, for large bodies."""

import functools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from braze_exporter.braze.columns import are_amounts


class CompactObject:
    """A JSON object without nested values, in a fourth of the memory of a `dict`."""

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: tuple[str, ...], values: Sequence[Any]) -> None:
        """Create an object with these values of `fields`."""
        self._fields = fields
        self._values = array("d", values) if are_amounts(values) else values

    def __iter__(self) -> Iterator[str]:
        """Yield the fields, as a mapping does."""
        return iter(self._fields)

    def values(self) -> Sequence[Any]:
        """Return the values in the order of the fields."""
        return self._values

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return the fields with their values."""
        return zip(self._fields, self._values, strict=True)

    def get(self, field: str) -> Any:  # noqa: ANN401 - a value of JSON
        """Return the value of a field, or None if the object does not have it."""
        return dict(self.items()).get(field)


def compact_object(document: dict[str, Any]) -> "Row":
    """Return a JSON object as a `CompactObject`, unless it has nested values or is a row. A hook for `json.loads`."""
    if "time" in document or not {*map(type, document.values())}.isdisjoint({dict, list, CompactObject}):
        return document
    return CompactObject(_intern(tuple(document)), tuple(document.values()))


@functools.lru_cache(maxsize=1_024)  # most objects have the same fields
def _intern(fields: tuple[str, ...]) -> tuple[str, ...]:
    return fields


Row: TypeAlias = Mapping[str, Any] | CompactObject


def as_mapping(value: object) -> Row:
    """Return `value` if it is an object, otherwise an empty one."""
    return value if isinstance(value, dict | CompactObject) else {}


def as_mappings(value: object) -> list[Row]:
    """Return the objects in `value` if it is an array, otherwise none."""
    return [item for item in value if isinstance(item, dict | CompactObject)] if isinstance(value, list) else []
