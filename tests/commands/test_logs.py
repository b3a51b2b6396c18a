"""What a person reads in the log: each event once, in a form that machines read too, and never the key."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import response_faults
from recorded_counts import RecordedCounts
from support import (
    KEY,
    NOW,
    Program,
    free_port,
    running_braze,
    running_exporter,
    wait_until,
    workspace_yaml,
    write_file,
)

from braze_exporter.commands import logs

NAMES = [f"event {number}" for number in range(6)]
EVENTS = "\n".join(f"{{event: {name}}}" for name in NAMES)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged since the last time: the level and the message."""
    result = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return result


def test_successful_fetches_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged while all is well, not even for debugging."""
    caplog.set_level(logging.DEBUG, logger="braze_exporter")
    with running_exporter(EVENTS, RecordedCounts(events=NAMES)) as exporter:
        exporter.scrape()
    assert [record for record in caplog.records if record.name.startswith("braze_exporter")] == []


def test_outage_is_logged_at_begin_and_end(caplog: pytest.LogCaptureFixture) -> None:
    """Three queries are named, the rest is one line, repetition is silent, and the end is one line."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with running_exporter(EVENTS, RecordedCounts(events=NAMES)) as exporter:
        exporter.braze.inject(response_faults.status(503))
        exporter.scrape()
        named = ["WARNING query not answered"] * 3
        assert messages(caplog) == [*named, "WARNING more queries not answered for the same reason"]
        exporter.clock.advance(300)
        exporter.scrape()
        assert messages(caplog) == []
        exporter.braze.clear_faults()
        exporter.clock.advance(600)  # after a second failure it waits for twice its refresh
        exporter.scrape()
        assert caplog.records[0].__dict__["fields"] == {
            "workspace": "production",
            "reason": "server_error",
            "queries": 6,
        }
        assert messages(caplog) == ["INFO no query fails for this reason any more"]
        exporter.braze.inject(response_faults.status(503), event=NAMES[0])
        exporter.clock.advance(300)
        exporter.scrape()
        assert messages(caplog) == ["WARNING query not answered"]


def test_changed_failure_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A query that fails for a new reason is logged with it, and leaves the old one."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with running_exporter("{event: event 0}", RecordedCounts(events=NAMES)) as exporter:
        exporter.braze.inject(response_faults.status(503))
        exporter.scrape()
        caplog.clear()
        exporter.braze.inject(response_faults.status(403))
        exporter.clock.advance(300)
        exporter.scrape()
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [result["reason"] for result in fields] == ["server_error", "forbidden"]
    assert fields[1]["event"] == "event 0"
    assert "events.data_series" in fields[1]["detail"]


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    """Return a log record with fields."""
    made = logging.LogRecord("braze_exporter", level, __file__, 1, message, (), None)
    made.created = NOW + 0.25
    made.__dict__["fields"] = fields
    return made


def test_logfmt_lines_are_escaped() -> None:
    """Values with spaces, quotes or control characters are quoted, so that a line stays a line of pairs."""
    made = logs.Formatter("logfmt").format(record("hello", event='say "hi"\n', plain="a/b", empty="", umlaut="günstig"))
    expected = (
        r'ts=2026-11-23T12:20:00.250Z level=info msg=hello event="say \"hi\"\n" plain=a/b empty="" umlaut=günstig'
    )
    assert made == expected


def test_json_lines_are_valid() -> None:
    """JSON has the same fields, and `warn` for a warning."""
    made = json.loads(logs.Formatter("json").format(record("hello", logging.WARNING, event="a b", number=3)))
    ts = made.pop("ts")
    assert ts == "2026-11-23T12:20:00.250Z"
    assert made == {"level": "warn", "msg": "hello", "event": "a b", "number": 3}


def test_traceback_is_one_line() -> None:
    """An exception comes with its traceback in a field, still on one line."""
    error = ZeroDivisionError("by zero")
    made = logging.LogRecord("x", logging.ERROR, __file__, 1, "fault", (), (ZeroDivisionError, error, None))
    line = logs.Formatter("logfmt").format(made)
    assert "\n" not in line
    assert 'exception="ZeroDivisionError: by zero"' in line


def test_long_value_is_truncated() -> None:
    """An event name can have ten thousand characters; what is logged of it is enough to know it by."""
    line = logs.Formatter("logfmt").format(record("hello", event="x" * 10_000))
    assert len(line) < 2_200
    assert line.endswith("x…")


def test_closed_stderr_does_not_stop_serving(tmp_path: Path) -> None:
    """Started with standard error closed, it has nowhere to log to, and works."""
    with running_braze(RecordedCounts(events=NAMES)) as (_, server):
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, EVENTS))
        port = free_port()
        arguments = f"--config.file={config} --web.listen-address=127.0.0.1:{port}"
        command = f"exec {sys.executable} -m braze_exporter {arguments} 2>&-"
        with subprocess.Popen(  # noqa: S602 - the shell closes it
            command, shell=True, env={**os.environ, "BRAZE_API_KEY": KEY}, text=True
        ) as process:
            program = Program(process, port)
            wait_until(lambda: program.is_responding("/-/ready"), "it is ready")
            assert program.scrape().value("braze_up") == 1
            process.terminate()
            assert process.wait(5) == 0


def test_blocked_log_reader_does_not_stop_serving(tmp_path: Path) -> None:
    """With nobody taking the log, thousands of lines cost a few of themselves, no scrape, and not the end."""
    with running_braze(RecordedCounts(events=NAMES)) as (_, server):
        write_file(tmp_path / "config.yaml", workspace_yaml(server.url, EVENTS))
        port = free_port()
        command = [sys.executable, "-m", "braze_exporter", "--config.file=config.yaml"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle"]
        with subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=tmp_path,  # so that lines are as long on every machine
            env={**os.environ, "BRAZE_API_KEY": KEY},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            program = Program(process, port)
            wait_until(lambda: program.is_responding("/-/ready"), "it is ready")
            write_file(tmp_path / "config.yaml", "workspaces: []\n" + "x: y\n" * 20)
            for _ in range(300):  # eleven lines each, which a pipe does not hold
                assert program.get("/-/reload", method="POST").status == 400
            started = time.monotonic()
            assert program.scrape().value("braze_up") == 1
            assert time.monotonic() - started < 1
            process.terminate()
            assert process.wait(5) == 0
            assert process.stderr is not None
            lines = process.stderr.read().splitlines()
    assert 300 < len(lines) < 1_000
    assert lines[0].endswith("queries=6")
