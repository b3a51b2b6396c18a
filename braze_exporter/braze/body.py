"""The body of a success, as an object. Pure."""

import json
from typing import Any

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.rows import invalid_response


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the object that the body of a success is, or raise `BrazeError`, which repeats nothing of it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BrazeError(Reason.NOT_JSON, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise invalid_response("the body is not an object")
    message = document.get("message")
    if message == "queued":
        raise BrazeError(Reason.QUEUED, "Braze has queued the request, as in maintenance, and has not answered it")
    if message != "success":
        raise invalid_response("the message is not success")
    return document
