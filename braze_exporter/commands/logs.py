"""Log lines that machines read: logfmt as Prometheus's own exporters write it, or JSON, one line for each event."""

import atexit
import contextlib
import json
import logging
import os
import queue
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Literal

Format = Literal["logfmt", "json"]
LEVELS = ("debug", "info", "warn", "error")
# So many lines wait for a reader of standard error that stands still; what comes after is lost, and nothing else is.
_MAX_QUEUED_LINES = 1_000
# Seconds that it has at the end to take what waits.
_FLUSH_SECONDS = 1.0
# A name out of the config can be as long as it likes.
_MAX_VALUE_LENGTH = 2_000


class Formatter(logging.Formatter):
    """Writes time, level, message and the `fields` of a record, in this order."""

    def __init__(self, line_format: Format) -> None:
        """Write lines in the format `line_format`."""
        super().__init__()
        self._line_format = line_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line without its end."""
        level = "warn" if record.levelno == logging.WARNING else record.levelname.lower()
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, object] = {"ts": moment, "level": level, "msg": record.getMessage()}
        record_fields = getattr(record, "fields", None)
        if isinstance(record_fields, Mapping):
            fields.update({name: _truncate(value) for name, value in record_fields.items()})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._line_format == "json":
            return json.dumps(fields, default=str, ensure_ascii=False)
        return " ".join(f"{name}={_logfmt(value)}" for name, value in fields.items())


def _truncate(value: object) -> object:
    return value[:_MAX_VALUE_LENGTH] + "…" if isinstance(value, str) and len(value) > _MAX_VALUE_LENGTH else value


def _logfmt(value: object) -> str:
    text = str(value)
    plain = text and all(letter.isprintable() and letter not in ' "=\\' for letter in text)
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


class _LineHandler(QueueHandler):
    """Hands lines on to the thread that writes; who logs never waits for it."""

    def prepare(self, record: logging.LogRecord) -> Any:  # noqa: ANN401 - the signature of logging
        """Return the line."""
        return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the signature of logging
        """Drop a line that finds no place."""


class _LineWriter(QueueListener):
    """The thread that writes. It holds no lock of `logging` or of `sys.stderr`, at which the end would wait for it."""

    def __init__(self, waiting: "queue.Queue[bytes]", descriptor: int) -> None:
        super().__init__(waiting)
        self._descriptor = descriptor

    def handle(self, record: Any) -> None:  # noqa: ANN401 - a line
        """Write a line, if somebody takes it."""
        left = memoryview(record)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def stop(self) -> None:
        """Write what waits, but wait for that no longer than a moment."""
        with contextlib.suppress(queue.Full):
            self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(_FLUSH_SECONDS)


def configure_logging(level: str, line_format: Format) -> None:
    """Send everything from `level` up to standard error, in the format `line_format`, by a thread of its own."""
    if sys.stderr is None:  # it is closed
        logging.disable()
        return
    waiting: queue.Queue[bytes] = queue.Queue(_MAX_QUEUED_LINES)
    handler = _LineHandler(waiting)
    handler.setFormatter(Formatter(line_format))
    writer = _LineWriter(waiting, sys.stderr.fileno())
    writer.start()
    atexit.register(writer.stop)
    logging.basicConfig(level=level.upper().replace("WARN", "WARNING"), handlers=[handler], force=True)
    # They report every client and every broken connection; what matters of those is in the metrics.
    for name in ("uvicorn", "urllib3", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
