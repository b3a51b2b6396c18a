"""Test that names of events, apps and workspaces may contain any text, and that every output shows them as text."""

import json
from pathlib import Path

import pytest
import response_faults
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from recorded_counts import RecordedCounts
from support import KEY, Program, run_program, running_braze, series_requests, write_file

pytestmark = pytest.mark.no_cover

NAMES = {
    "quotes": "say \"hi\" and 'bye'",
    "backslashes": "a\\b\\n\\",
    "newlines": "first\nsecond\r\n\tthird",
    "html": "</title><script>alert(1)</script>&amp;<img src=x onerror=alert(1)>",
    "emoji": "sign up 🎉👩‍👩‍👧 \N{RIGHT-TO-LEFT OVERRIDE}evil",
    "url": "a/b?c=d&e=f#g+h%20i;j",
    "labels": '"} 1\nbraze_up{workspace="x"} 0',
    "format": "{0} %s ${x} {{x}} $(x) `x`",
    "length": "long " * 2_000,
}


def config(url: str, path: Path) -> str:
    """Write a config with each of `NAMES` as an event, and with similar app and workspace names; JSON is valid YAML."""
    workspaces = [
        {
            "name": f"{name} {NAMES['html'] if name == 'html' else NAMES[name][:50]}",
            "url": url,
            "api_key_env": "BRAZE_API_KEY",
            "apps": {NAMES[name][:500]: "3bbc4555-8fa0-4c9b-a5c0-4505edf3e064"},  # YAML keys cannot be longer
            "custom_events": [{"event": NAMES[name], "apps": ["all", NAMES[name][:500]]}],
        }
        for name in NAMES
    ]
    return write_file(path, json.dumps({"workspaces": workspaces}, ensure_ascii=False))


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_name_is_text_on_every_surface(form: str, tmp_path: Path) -> None:
    """Metrics in both formats, the status page, the log, a reload and `check` show each name complete or escaped."""
    with running_braze(RecordedCounts(events=list(NAMES.values()))) as (braze, server):
        braze.apps = ("3bbc4555-8fa0-4c9b-a5c0-4505edf3e064",)
        path = config(server.url, tmp_path / "config.yaml")
        arguments = [f"--config.file={path}", "--web.enable-lifecycle", f"--log.format={form}"]
        with Program.start(arguments) as program:
            page = program.scrape()
            openmetrics = program.get("/metrics", {"Accept": "application/openmetrics-text"}).text
            status = json.loads(program.get("/", {"Accept": "application/json"}).text)
            braze.inject(response_faults.status(400))
            assert program.get("/-/reload", method="POST").status == 200
            nameless = [{"name": name} for name in NAMES.values()]
            write_file(tmp_path / "config.yaml", json.dumps({"workspaces": nameless}, ensure_ascii=False))
            refused = program.get("/-/reload", method="POST")
        events = {request.event for request in series_requests(braze)}
    assert events == set(NAMES.values())
    for name in NAMES.values():
        assert page.value("braze_query_up", event=name, braze_app="") == 1
        assert page.value("braze_query_up", event=name, braze_app=name[:500]) == 1
    exposed_events = {
        sample.labels.get("event") for family in openmetrics_families(openmetrics) for sample in family.samples
    }
    assert set(NAMES.values()) <= exposed_events
    assert {query["name"] for query in status["queries"]} == set(NAMES.values())
    assert refused.status == 500
    assert refused.headers["content-type"].startswith("text/plain")
    failed, problems = "failed to reload config: ", refused.text
    assert problems.startswith(failed)
    assert all(line.startswith(f"{path}:1: workspaces[") for line in problems.removeprefix(failed).splitlines())
    assert all(line.startswith(("time=", "{")) for line in program.lines)
    done = run_program("check", f"--config.file={config(server.url, tmp_path / 'again.yaml')}", BRAZE_API_KEY=KEY)
    assert done.returncode == 0
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())  # the workspaces have one key
    assert len(done.stdout.splitlines()) == 1 + 2 * len(NAMES)


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_failure_names_query_on_one_line(form: str, tmp_path: Path) -> None:
    """The log names each failed query on one line with the start of Braze's message, for any name and message."""
    with running_braze(RecordedCounts(events=list(NAMES.values()))) as (braze, server):
        braze.inject(response_faults.status(400, "no\ntime=2026 level=ERROR msg=forged <script> " * 100))
        path = config(server.url, tmp_path / "config.yaml")
        with Program.start([f"--config.file={path}", f"--log.format={form}"]) as program:
            program.scrape()
    failures = [line for line in program.lines if "Query failed" in line]
    assert len(failures) == 2 * len(NAMES)
    lists = [line for line in program.lines if "List could not be read" in line]
    assert len(program.lines) == len(failures) + len(lists) + 2
    assert all(line.count("forged") <= 5 for line in program.lines)
    for line in failures:
        assert line.startswith("time=" if form == "logfmt" else '{"time"')
