"""Validate a mapping against its model: return an instance of the model, or raise every problem with its path."""

from collections.abc import Iterator, Mapping
from inspect import get_annotations
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from braze_exporter.config.document import KeyPath
from braze_exporter.config.schema import Model
from braze_exporter.config.suggestions import did_you_mean

M = TypeVar("M", bound=Model)


class InvalidError(Exception):
    """Raised if a mapping is invalid. `problems` holds pairs of a path and a text with the problem and the fix."""

    def __init__(self, problems: list[tuple[KeyPath, str]]) -> None:
        """Store the problems."""
        super().__init__(problems)
        self.problems = problems


def validate(
    model: type[M],
    data: Mapping[str, Any],
    path: KeyPath,
    *,
    extra_keys: tuple[str, ...] = (),
    misplaced: Mapping[str, str] | None = None,
) -> M:
    """Return the mapping `data` at `path` as an instance of `model`.

    `extra_keys` are further valid keys of the same mapping, whose values are not validated. `misplaced` maps keys that
    users often set by mistake to the error messages for them.

    Raises `InvalidError` with every problem.
    """
    try:
        return model.model_validate({key: value for key, value in data.items() if key not in extra_keys})
    except ValidationError as error:
        problems = list(_problems(error, model, path, extra_keys, misplaced or {}))
    raise InvalidError(problems)


def _problems(
    error: ValidationError, model: type[Model], path: KeyPath, extra_keys: tuple[str, ...], misplaced: Mapping[str, str]
) -> Iterator[tuple[KeyPath, str]]:
    for detail in error.errors(include_url=False, include_input=False):
        at = (*path, *(part for part in detail["loc"] if part != "[key]"))
        yield at, _message(detail, model, extra_keys, misplaced)


def _message(
    detail: ErrorDetails, model: type[Model], extra_keys: tuple[str, ...], misplaced: Mapping[str, str]
) -> str:
    """Return the exporter's message for an error of pydantic, with the problem and the fix."""
    key = str(detail["loc"][-1])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] != "extra_forbidden":  # the only other type: the value is not a mapping
        return f"must be a mapping with the keys {', '.join(_keys_of(model, detail['loc']))}"
    if key in misplaced:
        return misplaced[key]
    at = detail["loc"][:-1]
    known = (*_keys_of(model, at), *(() if at else extra_keys))
    return f"unknown key{did_you_mean(key, known)}; known keys: {', '.join(known)}"


def _keys_of(model: type[Model], loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the keys of the mapping at `loc` within `model`."""
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        model = next(
            kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, Model)
        )
    # The model's own keys first, then those of its bases, the nearest first.
    order = {name: depth for depth, base in reversed([*enumerate(model.__mro__)]) for name in get_annotations(base)}
    fields = sorted(model.model_fields.items(), key=lambda item: order[item[0]])
    return tuple(field.alias or name for name, field in fields)
