"""A mapping against its model: either a frozen value, or every problem in our words, each with its path."""

from collections.abc import Iterator, Mapping
from inspect import get_annotations
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from braze_exporter.config.document import Path
from braze_exporter.config.schema import Model
from braze_exporter.config.values import did_you_mean

M = TypeVar("M", bound=Model)


class InvalidError(Exception):
    """What is wrong with a mapping: `problems`, each a path and what to write."""

    def __init__(self, problems: list[tuple[Path, str]]) -> None:
        """Keep the problems."""
        super().__init__(problems)
        self.problems = problems


def validate(
    model: type[M],
    data: Mapping[str, Any],
    path: Path,
    *,
    also_known: tuple[str, ...] = (),
    misplaced: Mapping[str, str] | None = None,
) -> M:
    """Return the `model` of the mapping `data` at `path`; raise `InvalidError` with every problem of it.

    `also_known` are keys of the same mapping that were taken out before. `misplaced` tells what to do about keys that
    people write and that are not known here.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = list(_problems(error, model, path, also_known, misplaced or {}))
    raise InvalidError(problems)


def _problems(
    error: ValidationError, model: type[Model], path: Path, also_known: tuple[str, ...], misplaced: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    for detail in error.errors(include_url=False, include_input=False):
        at = (*path, *(part for part in detail["loc"] if part != "[key]"))
        yield at, _message(detail, model, also_known, misplaced)


def _message(
    detail: ErrorDetails, model: type[Model], also_known: tuple[str, ...], misplaced: Mapping[str, str]
) -> str:
    """Return our words for an error of pydantic's: what is wrong and what to write."""
    key = str(detail["loc"][-1])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "missing":
        return "is required: add it"
    if detail["type"] != "extra_forbidden":  # what is left: a mapping of fixed keys that is none
        return f"must be a mapping with the keys {', '.join(_keys_of(model, detail['loc']))}"
    if key in misplaced:
        return misplaced[key]
    at = detail["loc"][:-1]
    known = (*_keys_of(model, at), *(() if at else also_known))
    return f"unknown key{did_you_mean(key, known)}: here are known {', '.join(known)}"


def _keys_of(model: type[Model], loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the keys of the mapping that stands at `loc` within `model`."""
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        model = next(
            kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, Model)
        )
    # Its own first, and then those of the nearest of its bases.
    order = {name: depth for depth, base in reversed([*enumerate(model.__mro__)]) for name in get_annotations(base)}
    fields = sorted(model.model_fields.items(), key=lambda item: order[item[0]])
    return tuple(field.alias or name for name, field in fields)
