"""Builds the status page at `/`: one HTML document with its style, its script and the current status."""

import html
import json
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files

from braze_exporter.web.status_types import StatusResponse

# Characters that could end the script element with the status, and their escapes in JSON.
_ESCAPES = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"}


class StatusPage:
    """Renders the result of `read_status` as HTML, and as JSON, with which the page updates itself.

    `policy` is the Content-Security-Policy. It allows only the script and style of the page, and no HTML from strings.
    """

    def __init__(self, read_status: Callable[[], StatusResponse]) -> None:
        """Read the template of the page, its style and its script."""
        self._read_status = read_status
        style, script, page = (_read_resource(name) for name in ("page.css", "page.js", "page.html"))
        page = page.replace("{{style}}", style).replace("{{script}}", script)
        self._before, _, remainder = page.partition("{{workspaces}}")
        self._between, _, self._after = remainder.partition("{{status_data}}")
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
        """Return the status as JSON."""
        return _json(self._read_status()).encode()

    def html(self) -> bytes:
        """Return the page with the current status, and a list of workspaces for browsers without scripts."""
        response = self._read_status()
        text = _json(response)
        for letter, escaped in _ESCAPES.items():
            text = text.replace(letter, escaped)
        return f"{self._before}{_format_workspaces(response)}{self._between}{text}{self._after}".encode()


def _read_resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _json(response: StatusResponse) -> str:
    """Return ASCII JSON, so that line separators and lone surrogates are escaped."""
    return json.dumps(response, separators=(",", ":"), allow_nan=False)


def _format_workspaces(response: StatusResponse) -> str:
    """Return the workspaces as HTML list items, for browsers without scripts."""
    items = ((workspace["name"], " ".join(workspace["messages"])) for workspace in response["workspaces"])
    return "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(text)}</li>" for name, text in items)
