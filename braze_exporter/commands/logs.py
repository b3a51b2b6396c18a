"""Write one log line per record to stderr, as JSON or as logfmt, in the format of Prometheus 3 (Go's `slog`)."""

import atexit
import contextlib
import json
import logging
import os
import queue
import sys
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Literal

from braze_exporter.config.quoting import quote

Format = Literal["logfmt", "json"]
LEVELS = ("debug", "info", "warn", "error")
# The levels whose names differ between Go's `slog` and Python.
_LEVEL_NAMES = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}
# Printable characters that make quotes necessary.
_QUOTED_LETTERS = ' "=\N{REPLACEMENT CHARACTER}'
# The maximum number of queued lines. While stderr blocks, further lines are dropped.
_MAX_QUEUED_LINES = 1_000
# How long the process waits at exit for queued lines to be written.
_FLUSH_SECONDS = 1.0


class Formatter(logging.Formatter):
    """Formats the time, level, message and `fields` of a record, in this order."""

    def __init__(self, line_format: Format) -> None:
        """Format lines as `line_format`."""
        super().__init__()
        self._line_format = line_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, without a line break at its end."""
        level = _LEVEL_NAMES.get(record.levelno, record.levelname)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields: dict[str, object] = {"time": moment, "level": level, "msg": record.getMessage()}
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._line_format == "json":
            return json.dumps(fields, default=str, ensure_ascii=False)
        return " ".join(f"{name}={_format_logfmt_value(value)}" for name, value in fields.items())


def _format_logfmt_value(value: object) -> str:
    """Return `value` as text, in quotes where Go's `slog.TextHandler` writes them."""
    text = str(value)
    is_plain = text and all(letter.isprintable() and letter not in _QUOTED_LETTERS for letter in text)
    return text if is_plain else quote(text)


class _LineHandler(QueueHandler):
    """Queues lines for the writer thread, so that logging never blocks."""

    def prepare(self, record: logging.LogRecord) -> Any:  # noqa: ANN401 - the signature of logging
        """Return the formatted line as bytes."""
        return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the signature of logging
        """Drop the line, because the queue is full."""


class _LineWriter(QueueListener):
    """Writes queued lines to stderr in its own thread.

    The thread holds no lock of `logging` or `sys.stderr`, because the interpreter would wait for that lock at exit.
    """

    def __init__(self, queued_lines: "queue.Queue[bytes]", descriptor: int) -> None:
        super().__init__(queued_lines)
        self._descriptor = descriptor

    def handle(self, record: Any) -> None:  # noqa: ANN401 - the signature of logging
        """Write a line; drop it if stderr cannot be written to."""
        left = memoryview(record)
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def stop(self) -> None:
        """Write the queued lines, for at most `_FLUSH_SECONDS`."""
        with contextlib.suppress(queue.Full):
            self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(_FLUSH_SECONDS)


def configure_logging(level: str, line_format: Format) -> None:
    """Log everything from `level` up to stderr in the format `line_format`, from a separate thread."""
    queued_lines: queue.Queue[bytes] = queue.Queue(_MAX_QUEUED_LINES)
    handler = _LineHandler(queued_lines)
    handler.setFormatter(Formatter(line_format))
    writer = _LineWriter(queued_lines, sys.stderr.fileno())
    writer.start()
    atexit.register(writer.stop)
    logging.basicConfig(level=level.upper().replace("WARN", "WARNING"), handlers=[handler], force=True)
    # These libraries log every client and every broken connection. Metrics count failed requests to Braze.
    for name in ("urllib3", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
