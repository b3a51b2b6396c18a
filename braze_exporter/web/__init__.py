"""Who may come in and how: the file of `--web.config.file`, TLS and passwords."""

from braze_exporter.web.current import Web
from braze_exporter.web.loading import WebConfig, read
from braze_exporter.web.passwords import BusyError

__all__ = ["BusyError", "Web", "WebConfig", "read"]
