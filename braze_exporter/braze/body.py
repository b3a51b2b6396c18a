"""The body of a success, as an object. Pure."""

import json
from typing import Any

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.rows import bad


def content(body: bytes) -> dict[str, Any]:
    """Return the object that the body of a success is, or raise `BrazeError`, which repeats nothing of it."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise BrazeError(Reason.NOT_JSON, "the body is not JSON") from None
    if not isinstance(found, dict):
        raise bad("the body is not an object")
    said = found.get("message")
    if said == "queued":
        raise BrazeError(Reason.QUEUED, "Braze has queued the request, as in maintenance, and has not answered it")
    if said != "success":
        raise bad("the message is not success")
    return found
