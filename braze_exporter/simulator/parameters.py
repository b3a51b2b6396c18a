"""The parameters of a request, read as Braze documents them.

Whatever is not as documented is answered with 400. The wording of the messages is ours, except where a recorded one is
cited: what Braze says here was not seen.
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
    """Answered with 400 and this message."""


def reject(message: str) -> NoReturn:
    """Answer the request with 400."""
    raise BadRequestError(message)


def required_text(request: Request, parameter: str) -> str:
    """Return what is asked about: required, any text in UTF-8, taken to the letter."""
    text = request.params.get(parameter, "")
    if not text:
        reject(f"{parameter} is required")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        reject(f"{parameter} is not valid UTF-8")
    return text


def parse_unit(request: Request) -> Unit:
    """Return the width of a bucket, by default a day."""
    return Unit(parse_choice(request, "unit", (Unit.DAY, Unit.HOUR)))


def parse_length(request: Request, maximum: int = 100) -> int:
    """Return the number of units: required, 1 to 100, or to `maximum`."""
    text = request.params.get("length", "")
    if not _LENGTH.fullmatch(text) or int(text) > maximum:
        reject(f"length must be an integer between 1 and {maximum}")
    return int(text)


def parse_ending_at(request: Request, zone: ZoneInfo) -> float:
    """Return when the series ends, by default now. A future end was reported to be refused."""
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
    """Return the id to filter by, empty without one. The message is worded as the one recorded for a Canvas."""
    text = request.params.get(name)
    if text is not None and text not in known:
        reject(f"{name} must be a string of the {name.removesuffix('_id').capitalize()} api identifier")
    return text or ""


def parse_page(request: Request) -> int:
    """Return which page of a list is asked for, from 0, which is the default."""
    text = request.params.get("page", "0")
    if not _PAGE.fullmatch(text):
        reject("page must be a non-negative integer")
    return int(text)


def parse_choice(request: Request, parameter: str, known: Sequence[str]) -> str:
    """Return one of a few words, by default the first."""
    text = request.params.get(parameter, known[0])
    if text not in known:
        reject(f"{parameter} must be one of {', '.join(known)}")
    return text
