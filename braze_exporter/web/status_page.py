"""Builds the status page at `/`: one HTML document with its style and its script, which fetches the status as JSON."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any


class StatusPage:
    """The status page: `html` is the document, the same for every status, and `policy` its Content-Security-Policy.

    The policy allows only the script and style of the page, and no HTML from strings.
    """

    def __init__(self, read_status: Callable[[], Mapping[str, Any]]) -> None:
        """Show the result of `read_status`."""
        self._read_status = read_status
        style, script, page = (_read_resource(name) for name in ("page.css", "page.js", "page.html"))
        self.html = page.replace("{{style}}", style).replace("{{script}}", script).encode()
        self.policy = "; ".join(
            [
                "default-src 'none'",
                f"script-src {_hash(script)}",
                f"style-src {_hash(style)}",
                "img-src data:",
                "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
            ]
        )

    def json(self) -> bytes:
        """Return the current status as ASCII JSON, so that lone surrogates are escaped."""
        return json.dumps(self._read_status(), separators=(",", ":"), allow_nan=False).encode()


def _read_resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
