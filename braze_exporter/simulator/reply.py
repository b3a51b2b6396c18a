"""The responses of the simulated Braze."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: status, headers and body.

    A body of `bytes` is sent with its length unless the headers have a `Content-Length`. A body of chunks is sent with
    the `Content-Length` of the headers, or with chunked encoding if they have none.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""

    def read(self) -> bytes:
        """Return the whole body."""
        return self.body if isinstance(self.body, bytes) else b"".join(self.body)


def encode_json(document: object) -> bytes:
    """Return the document as compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
