"""Parse the JSON body of a successful response. No I/O."""

import json
from collections.abc import Callable
from typing import Any

from braze_exporter.braze.errors import BrazeError, Reason, invalid_response

# Older documentation describes this response for maintenance: it is accepted, but not processed.
QUEUED_DETAIL = "request queued by Braze during maintenance"


def parse_body(body: bytes, object_hook: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any]:
    """Return the JSON object in the body of a successful response. `object_hook` is as in `json.loads`.

    Raises `BrazeError` if the body is not a JSON object or its `message` is not `success`. The error contains no
    value of the body.
    """
    try:
        document = json.loads(body, object_hook=object_hook)
    except (ValueError, RecursionError):
        raise BrazeError(Reason.INVALID_RESPONSE, "response is not JSON") from None
    if not isinstance(document, dict):
        raise invalid_response("not a JSON object")
    message = document.get("message")
    if message == "queued":
        raise BrazeError(Reason.UNEXPECTED_STATUS, QUEUED_DETAIL, is_transient=True)  # it means a 202
    if message != "success":
        raise invalid_response("message is not success")
    return document
