"""Parse the JSON body of a successful response. No I/O."""

import json
from typing import Any

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.rows import invalid_response


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in the body of a successful response.

    Raises `BrazeError` if the body is not a JSON object or its `message` is not `success`. The error contains no
    value of the body.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BrazeError(Reason.NOT_JSON, "malformed response: not JSON") from None
    if not isinstance(document, dict):
        raise invalid_response("not a JSON object")
    message = document.get("message")
    if message == "queued":
        raise BrazeError(Reason.QUEUED, "request queued by Braze, as during maintenance; no data returned")
    if message != "success":
        raise invalid_response("message is not success")
    return document
