"""The history of the configured queries → a file of OpenMetrics, of which promtool makes blocks for Prometheus.

What was read is kept beside the file until it is finished, so that an end halfway loses nothing.
"""

from braze_exporter.backfill.run import backfill
from braze_exporter.backfill.wish import BackfillError, Moment, Wish, label, moment, wish

__all__ = ["BackfillError", "Moment", "Wish", "backfill", "label", "moment", "wish"]
