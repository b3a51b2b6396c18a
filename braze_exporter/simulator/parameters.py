"""Parse the parameters of a request as Braze documents them.

Any other value is rejected with 400. Braze's messages for this were not recorded, so the texts are invented, except
where a docstring refers to a recorded message.
"""

import re
from collections.abc import Collection, Sequence
from typing import NoReturn
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import Unit
from braze_exporter.simulator.request import Request
from braze_exporter.simulator.times import parse_time

_LENGTH = re.compile(r"[1-9][0-9]?|100")
_PAGE = re.compile(r"[0-9]{1,9}", re.ASCII)


class BadRequestError(Exception):
    """Raised to reject a request with 400 and this message."""


def reject(message: str) -> NoReturn:
    """Reject the request with 400. Raises `BadRequestError`."""
    raise BadRequestError(message)


def required_text(request: Request, parameter: str) -> str:
    """Return a required parameter as sent. It may be any text in UTF-8."""
    text = request.params.get(parameter, "")
    if not text:
        reject(f"{parameter} is required")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        reject(f"{parameter} is not valid UTF-8")
    return text


def parse_unit(request: Request) -> Unit:
    """Return the unit of the buckets, by default `Unit.DAY`."""
    return Unit(parse_choice(request, "unit", (Unit.DAY, Unit.HOUR)))


def parse_length(request: Request, maximum: int = 100) -> int:
    """Return the number of buckets, which is required and from 1 to `maximum`."""
    text = request.params.get("length", "")
    if not _LENGTH.fullmatch(text) or int(text) > maximum:
        reject(f"length must be an integer between 1 and {maximum}")
    return int(text)


def parse_ending_at(request: Request, zone: ZoneInfo) -> float:
    """Return the end of the series in seconds since the epoch, by default the time of the request.

    An end in the future is rejected, as reported for Braze.
    """
    text = request.params.get("ending_at")
    if text is None:
        return request.time
    try:
        end = parse_time(text, zone)
    except ValueError:
        reject("ending_at must be an ISO 8601 datetime")
    if end > request.time:
        reject("ending_at must not be in the future")
    return end


def parse_identifier(request: Request, name: str, known: Collection[str]) -> str:
    """Return the id in the parameter `name`, or an empty string if it is absent.

    The message for an id that is not in `known` follows the one recorded for a Canvas.
    """
    text = request.params.get(name)
    if text is not None and text not in known:
        reject(f"{name} must be a string of the {name.removesuffix('_id').capitalize()} api identifier")
    return text or ""


def required_identifier(request: Request, name: str, known: Collection[str]) -> str:
    """Return the id in the required parameter `name`, which must be in `known`."""
    return parse_identifier(request, name, known) or required_text(request, name)


def parse_page(request: Request) -> int:
    """Return the number of the page, from 0, which is the default."""
    text = request.params.get("page", "0")
    if not _PAGE.fullmatch(text):
        reject("page must be a non-negative integer")
    return int(text)


def parse_choice(request: Request, parameter: str, known: Sequence[str]) -> str:
    """Return the value of a parameter that must be one of `known`, by default the first."""
    text = request.params.get(parameter, known[0])
    if text not in known:
        reject(f"{parameter} must be one of {', '.join(known)}")
    return text
