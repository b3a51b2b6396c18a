"""Validate a mapping against its model: return an instance of the model, or every problem with its path."""

from collections.abc import Mapping
from inspect import get_annotations
from typing import TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from braze_exporter.config.document import KeyPath
from braze_exporter.config.schema import Model
from braze_exporter.config.suggestions import did_you_mean

M = TypeVar("M", bound=Model)


def validate(
    model: type[M],
    data: object,
    path: KeyPath,
    problems: list[tuple[KeyPath, str]],
    *,
    extra_keys: tuple[str, ...] = (),
    misplaced: Mapping[str, str] | None = None,
) -> M | None:
    """Return the mapping `data` at `path` as an instance of `model`.

    If it is invalid, return None, and add the path and the text of each problem to `problems`. A text states the
    problem and the fix. `extra_keys` are further valid keys of the same mapping, whose values are not validated.
    `misplaced` maps keys that users often set by mistake to the error messages for them.
    """
    own = {key: value for key, value in data.items() if key not in extra_keys} if isinstance(data, dict) else data
    try:
        return model.model_validate(own)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            at = (*path, *(part for part in detail["loc"] if part != "[key]"))
            problems.append((at, _message(detail, model, extra_keys, misplaced or {})))
        return None


def _message(
    detail: ErrorDetails, model: type[Model], extra_keys: tuple[str, ...], misplaced: Mapping[str, str]
) -> str:
    """Return the exporter's message for an error of pydantic, with the problem and the fix."""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] != "extra_forbidden":  # the only other type: the value is not a mapping
        return f"must be a mapping with the keys {', '.join(_keys_of(model, detail['loc']))}"
    key = str(detail["loc"][-1])
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
