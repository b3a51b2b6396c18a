"""Test the log: each event appears once, in a machine-readable format, and never with the key."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import response_faults
from recorded_counts import RecordedCounts
from support import (
    IOS,
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
    """Return the level and message of each line since the last call."""
    texts = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return texts


def test_successful_fetches_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Successful fetches are not logged unless the level is `debug`."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with running_exporter(EVENTS, RecordedCounts(events=NAMES)) as exporter:
        exporter.scrape()
    assert [record for record in caplog.records if record.name.startswith("braze_exporter")] == []


def test_debug_log_has_requests_and_scrapes(tmp_path: Path) -> None:
    """With `--log.level=debug` each request and each scrape is one line, without the key."""
    with running_braze(RecordedCounts(events=["purchase", "signup"])) as (braze, server):
        braze.inject(response_faults.status(503, f"Down {KEY}"), event="signup")
        text = workspace_yaml(server.url, "{event: purchase, apps: [ios]}\n{event: signup}")
        config = write_file(tmp_path / "config.yaml", text)
        with Program.start([f"--config.file={config}", "--log.level=debug"]) as program:
            page = program.get("/metrics")
            program.get("/metrics")
            wait_until(lambda: "path=/events/list" in program.output, "the list is read")
    lines = [re.sub(r"(duration|waited)=\d+\.\d{3}s", r"\1=…", line.partition("msg=")[2]) for line in program.lines]
    start = '"Request to Braze" workspace=production path=/events/data_series length=24'
    assert set(lines) >= {
        f"{start} event=purchase unit=hour app_id={IOS} status=200 duration=… buckets=24\n",
        f'{start} event=signup unit=hour status=503 duration=… error="503 Service Unavailable: Down ***"\n',
        '"Request to Braze" workspace=production path=/events/list page=0 status=200 duration=… items=2\n',
        f"Scrape due=2 fetched=2 waited=… bytes={len(page.body)}\n",
    }
    assert sum(line.startswith("Scrape due=0 fetched=0 waited=… bytes=") for line in lines) == 1
    assert KEY not in program.output


def test_outage_is_logged_at_begin_and_end(caplog: pytest.LogCaptureFixture) -> None:
    """An outage logs three queries and one summary line, then nothing until one line reports its end."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with running_exporter(EVENTS, RecordedCounts(events=NAMES)) as exporter:
        exporter.braze.inject(response_faults.status(503))
        exporter.scrape()
        named = ["WARNING Query failed"] * 3
        assert messages(caplog) == [*named, "WARNING More queries failed for the same reason"]
        exporter.clock.advance(300)
        exporter.scrape()
        assert messages(caplog) == []
        exporter.braze.clear_faults()
        exporter.clock.advance(600)  # after a second failure the next attempt waits for twice `refresh_interval`
        exporter.scrape()
        assert caplog.records[0].__dict__["fields"] == {
            "workspace": "production",
            "reason": "server_error",
            "queries": 6,
        }
        assert messages(caplog) == ["INFO Queries succeed again"]
        exporter.braze.inject(response_faults.status(503), event=NAMES[0])
        exporter.clock.advance(300)
        exporter.scrape()
        assert messages(caplog) == ["WARNING Query failed"]


def test_changed_failure_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A query that fails for a new reason is logged again with that reason."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with running_exporter("{event: event 0}", RecordedCounts(events=NAMES)) as exporter:
        exporter.braze.inject(response_faults.status(503))
        exporter.scrape()
        caplog.clear()
        exporter.braze.inject(response_faults.status(403))
        exporter.clock.advance(300)
        exporter.scrape()
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert [field["reason"] for field in fields] == ["server_error", "forbidden"]
    assert fields[1]["event"] == "event 0"
    assert "events.data_series" in fields[1]["detail"]


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    """Return a log record with fields."""
    record_ = logging.LogRecord("braze_exporter", level, __file__, 1, message, (), None)
    record_.created = NOW + 0.25
    record_.__dict__["fields"] = fields
    return record_


def test_logfmt_line_starts_with_time_level_and_message() -> None:
    """A logfmt line has the keys and the format of a line of Prometheus 3."""
    formatted = logs.Formatter("logfmt").format(record("Exporter started", event="purchase", number=3))
    assert formatted == 'time=2026-11-23T12:20:00.250Z level=INFO msg="Exporter started" event=purchase number=3'


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "DEBUG"),
        (logging.INFO, "INFO"),
        (logging.WARNING, "WARN"),
        (logging.ERROR, "ERROR"),
        (logging.CRITICAL, "ERROR"),
    ],
)
def test_level_is_named_as_in_prometheus(level: int, name: str) -> None:
    """Both formats name the level as Prometheus does."""
    assert f" level={name} " in logs.Formatter("logfmt").format(record("hello", level))
    assert json.loads(logs.Formatter("json").format(record("hello", level)))["level"] == name


@pytest.mark.parametrize(
    ("value", "formatted"),
    [
        ("a/b:c,d[0]'e'", "a/b:c,d[0]'e'"),
        ("günstig🎉", "günstig🎉"),
        (r"C:\path", r"C:\path"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        (r'a "\b"', r'"a \"\\b\""'),
        ("\a\b\f\n\r\t\v", r'"\u0007\u0008\u000c\n\r\t\u000b"'),
        ("\x1b[31m\x7f\x00", r'"\u001b[31m\u007f\u0000"'),
        ("a\N{NO-BREAK SPACE}b", r'"a\u00a0b"'),
        ("a\N{LINE SEPARATOR}b", r'"a\u2028b"'),
        ("\N{RIGHT-TO-LEFT OVERRIDE}ö", r'"\u202eö"'),
        ("\U000e0001", r'"\U000e0001"'),
        ("\udc80", r'"\udc80"'),
        ("\N{REPLACEMENT CHARACTER}", '"\N{REPLACEMENT CHARACTER}"'),
        (1.5, "1.5"),
    ],
    ids=ascii,
)
def test_logfmt_value_is_quoted_if_needed(value: object, formatted: str) -> None:
    """Empty values and values with a space, a quote, `=` or an unprintable character are quoted for Go."""
    line = logs.Formatter("logfmt").format(record("hello", key=value, last="x"))
    assert line == f"time=2026-11-23T12:20:00.250Z level=INFO msg=hello key={formatted} last=x"


def test_json_lines_are_valid() -> None:
    """JSON lines have the same keys in the same order, and numbers stay numbers."""
    parsed = json.loads(logs.Formatter("json").format(record("hello", logging.WARNING, event="a b", number=3)))
    expected = {"time": "2026-11-23T12:20:00.250Z", "level": "WARN", "msg": "hello", "event": "a b", "number": 3}
    assert list(parsed.items()) == list(expected.items())


def test_traceback_is_one_line() -> None:
    """An exception is logged with its traceback in a field of the same line."""
    error = ZeroDivisionError("by zero")
    record_ = logging.LogRecord("x", logging.ERROR, __file__, 1, "fault", (), (ZeroDivisionError, error, None))
    line = logs.Formatter("logfmt").format(record_)
    assert "\n" not in line
    assert 'exception="ZeroDivisionError: by zero"' in line


def test_closed_stderr_does_not_stop_serving(tmp_path: Path) -> None:
    """The exporter works if standard error is closed."""
    with running_braze(RecordedCounts(events=NAMES)) as (_, server):
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, EVENTS))
        port = free_port()
        arguments = f"--config.file={config} --web.listen-address=127.0.0.1:{port}"
        command = f"exec {sys.executable} -m braze_exporter {arguments} 2>&-"
        with subprocess.Popen(  # noqa: S602 - a shell is needed to close standard error
            command, shell=True, env={**os.environ, "BRAZE_API_KEY": KEY}, text=True
        ) as process:
            program = Program(process, port)
            wait_until(lambda: program.is_responding("/-/ready"), "the exporter is ready")
            assert program.scrape().value("braze_up") == 1
            process.terminate()
            assert process.wait(5) == 0


@pytest.mark.alone
def test_blocked_log_reader_does_not_stop_serving(tmp_path: Path) -> None:
    """If the log is not read, lines are dropped, and neither scrapes nor shutdown are blocked."""
    with running_braze(RecordedCounts(events=NAMES)) as (_, server):
        write_file(tmp_path / "config.yaml", workspace_yaml(server.url, EVENTS))
        port = free_port()
        command = [sys.executable, "-m", "braze_exporter", "--config.file=config.yaml"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle"]
        with subprocess.Popen(  # noqa: S603 - runs our own program
            command,
            cwd=tmp_path,  # so that paths in log lines have the same length on every machine
            env={**os.environ, "BRAZE_API_KEY": KEY},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            program = Program(process, port)
            wait_until(lambda: program.is_responding("/-/ready"), "the exporter is ready")
            write_file(tmp_path / "config.yaml", "workspaces: []\n" + "x: y\n" * 20)
            for _ in range(300):  # eleven lines each, more than a pipe buffers
                assert program.get("/-/reload", method="POST").status == 500
            started = time.monotonic()
            assert program.scrape().value("braze_up") == 1
            assert time.monotonic() - started < 1
            process.terminate()
            assert process.wait(5) == 0
            assert process.stderr is not None
            lines = process.stderr.read().splitlines()
    assert 300 < len(lines) < 1_000
    assert 'msg="Exporter started" ' in lines[0]
