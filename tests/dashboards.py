"""Reads dashboards."""

from collections.abc import Iterator
from typing import Any


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all panels except row headings, including those in collapsed rows."""
    for panel in dashboard["panels"]:
        yield from [panel] if panel["type"] != "row" else panel["panels"]
