"""The page at `/`: how everything stands, in words and in figures, for people.

It shows what the metrics show, and looking at it asks Braze for nothing.
"""

from braze_exporter.status.facts import InUse, facts
from braze_exporter.status.forms import Facts
from braze_exporter.status.page import StatusPage

__all__ = ["Facts", "InUse", "StatusPage", "facts"]
