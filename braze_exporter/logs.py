"""Log lines that machines read: logfmt as Prometheus's own exporters write it, or JSON, one line for each event."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

Format = Literal["logfmt", "json"]
LEVELS = ("debug", "info", "warn", "error")


class Formatter(logging.Formatter):
    """Writes time, level, message and the `fields` of a record, in this order."""

    def __init__(self, form: Format) -> None:
        """Write lines in the format `form`."""
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line without its end."""
        level = "warn" if record.levelno == logging.WARNING else record.levelname.lower()
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, object] = {"ts": moment, "level": level, "msg": record.getMessage()}
        found = getattr(record, "fields", None)
        if isinstance(found, Mapping):
            fields.update(found)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._form == "json":
            return json.dumps(fields, default=str, ensure_ascii=False)
        return " ".join(f"{name}={_logfmt(value)}" for name, value in fields.items())


def _logfmt(value: object) -> str:
    text = str(value)
    plain = text and all(letter.isprintable() and letter not in ' "=\\' for letter in text)
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


def configure(level: str, form: Format) -> None:
    """Send everything from `level` up to standard error, in the format `form`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(form))
    logging.basicConfig(level=level.upper().replace("WARN", "WARNING"), handlers=[handler], force=True)
    # They report every client and every broken connection; what matters of those is in the metrics.
    for name in ("uvicorn", "urllib3", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
