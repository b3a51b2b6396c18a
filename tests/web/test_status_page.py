"""Test the status page at `/` as it is served: one self-contained document, which has no data, and JSON."""

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from recorded_counts import RecordedCounts
from support import Program, running_braze, workspace_yaml, write_file
from test_names import NAMES

from braze_exporter.web.status_page import StatusPage

ROOT = Path(__file__).parents[2]
HTML, JSON = "text/html; charset=utf-8", "application/json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Run the exporter with queries with many sorts of names, scraped once."""
    events = "\n".join(json.dumps({"event": name}, ensure_ascii=False) for name in NAMES.values())
    with running_braze(RecordedCounts(events=list(NAMES.values()))) as (_, running):
        path = write_file(tmp_path_factory.mktemp("front") / "config.yaml", workspace_yaml(running.url, events))
        with Program.start([f"--config.file={path}"]) as program_:
            program_.scrape()
            yield program_


def part(page: str, start: str) -> str:
    """Return the text between a start tag and its end tag."""
    name = start.split(maxsplit=1)[0].strip("<>")
    match = re.search(rf"{re.escape(start)}(.*?)</{name}>", page, re.DOTALL)
    assert match is not None
    return match[1]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, HTML),
        ("*/*", HTML),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("application/json", JSON),
        ("application/json, text/html;q=0.5", JSON),
        ("text/html, application/json;q=0.5", HTML),
        ("APPLICATION/JSON;q=0", HTML),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_page_is_html_or_json_by_accept_header(
    program: Program, accept: str | None, content_type: str, *, zipped: bool
) -> None:
    """The `Accept` header selects HTML or JSON, compressed if accepted; HEAD gives the headers without a body."""
    headers = {**({"Accept": accept} if accept else {}), **({"Accept-Encoding": "gzip"} if zipped else {})}
    got, head = program.get("/", headers), program.get("/", headers, method="HEAD")
    assert (got.status, got.headers["content-type"]) == (200, content_type)
    assert (head.status, head.headers["content-type"], head.body) == (200, content_type, b"")
    assert (got.headers.get("content-encoding") == "gzip") == zipped
    assert got.headers["cache-control"] == "no-store"
    text = (gzip.decompress(got.body) if zipped else got.body).decode()
    if content_type == JSON:
        assert [query["name"] for query in json.loads(text)["queries"]] == list(NAMES.values())
    else:
        assert text.startswith("<!doctype html>")


def test_policy_allows_page_content_only(program: Program) -> None:
    """The policy allows the page's own style and script by their hashes, and the page loads nothing else."""
    response = program.get("/")
    policy = dict(line.split(" ", 1) for line in response.headers["content-security-policy"].split("; "))
    for directive, start in (("script-src", "<script>"), ("style-src", "<style>")):
        digest = b64encode(sha256(part(response.text, start).encode()).digest()).decode()
        assert policy.pop(directive) == f"'sha256-{digest}'"
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "data:"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"}
    assert set(policy.values()) == {"'none'"}
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    assert "content-security-policy" not in program.get("/", {"Accept": "application/json"}).headers


def test_page_is_the_same_for_every_status(program: Program) -> None:
    """The page contains no name and no message. Its script inserts them as text."""
    page = StatusPage(dict)
    assert program.get("/").body == page.html
    assert b"production" not in page.html
