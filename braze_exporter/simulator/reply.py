"""What the simulated Braze sends back: a `Reply`, or no reply at all (`Disconnect`)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import responses


class Disconnect(Exception):  # noqa: N818 - a wish to the server, not an error
    """Break the connection now: with a TCP reset, or, where `reset` is false, as if all had been sent."""

    def __init__(self, *, reset: bool = True) -> None:
        """Keep how to break it."""
        super().__init__()
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, its headers and a body.

    A body of `bytes` is sent with its length, unless the headers name another one; a body of chunks is sent with the
    length that the headers name, or chunked without one.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""

    def read(self) -> bytes:
        """Return the whole body."""
        return self.body if isinstance(self.body, bytes) else b"".join(self.body)


def status_phrase(code: int) -> str:
    """Return what HTTP calls the status."""
    return responses.get(code, "Unknown")


def encode_json(document: object) -> bytes:
    """Return the document as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
