"""Test that `discover` prints Braze's lists as a valid config, whatever names they contain."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import response_faults
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import KEY, NEW_YORK, NOW, VIP, run_program, running_braze, workspace_item_yaml, workspace_yaml, write_file

from braze_exporter.backfill import context
from braze_exporter.braze import transport
from braze_exporter.braze.lists import CAMPAIGN_LIST, EVENT_LIST, LIST_ENDPOINTS, SEGMENT_LIST, ListItem
from braze_exporter.commands import config_rendering, discover
from braze_exporter.config.loading import Config, load_config
from braze_exporter.config.schema import SECTIONS
from braze_exporter.config.yaml_scalar import quote_scalar
from braze_exporter.scheduler.list_reader import ListResult
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory, Segment
from braze_exporter.simulator.server import Server

WORLD = Inventory(
    segments=(
        Segment(VIP, "Very important", tags=("loyalty", None)),
        Segment("1" * 8 + "-1111-1111-1111-" + "1" * 12, "all"),
        Segment("2" * 8 + "-2222-2222-2222-" + "2" * 12, "Test devices", tracked=False),
        Segment("not-a-uuid", "Odd"),
    ),
    campaigns=(
        Campaign("aaaaaaaa-0000-0000-0000-000000000001", "Win-back", ("a", "b")),
        Campaign("aaaaaaaa-0000-0000-0000-000000000002", "Win-back", last_edited=""),
        Campaign("aaaaaaaa-0000-0000-0000-000000000003", "Old\n- x", archived=True),
    ),
    canvases=(Canvas("bbbbbbbb-0000-0000-0000-000000000001", "Onboarding", tuple("abcdefg")),),
    products=("P: 1", " ", "all"),
)
PRINTED = """\
# What Braze has, as config to paste: take what you want to watch. What is in the config already, and what cannot be
# asked for, is commented out. By `braze-exporter discover`.
workspaces:
  - name: production

    # 4 events, 1 of them in the config; all of them make 48 calls an hour, and budget.share allows 25,000
    custom_events:
      - event: "Größe & Maß\\u2028🛒 \\"#1\\": x"
      - event: Login  # differs only by case from "login"
      - event: login  # differs only by case from "Login"
      # - event: purchase  # in the config

    # 4 segments, 1 of them in the config
    segments:
      # vip: 6d68ea15-26c4-4109-835a-65b81773a5e2  # Very important [loyalty]; in the config
      11111111-1111-1111-1111-111111111111: 11111111-1111-1111-1111-111111111111  # all
      # Test devices: 22222222-2222-2222-2222-222222222222  # not tracked: switch its analytics tracking on in Braze
      # Odd: not-a-uuid  # its id is not of the form of Braze's identifiers

    # 4 segments; all of them make 16 calls an hour, and budget.share allows 25,000
    segment_users:
      - segment: vip
      - segment: 11111111-1111-1111-1111-111111111111
      # - segment: Test devices  # not tracked: switch its analytics tracking on in Braze
      # - segment: Odd  # its id is not of the form of Braze's identifiers

    # 3 campaigns; all of them make 8 calls an hour, and budget.share allows 300,000
    campaigns:
      - campaign: aaaaaaaa-0000-0000-0000-000000000001  # Win-back [a, b]; 2 have this name; edited 2026-03-02
      - campaign: aaaaaaaa-0000-0000-0000-000000000002  # Win-back; 2 have this name
      # - campaign: aaaaaaaa-0000-0000-0000-000000000003  # Old\N{REPLACEMENT CHARACTER}- x; edited 2026-03-02; archived

    # 1 Canvas; all of them make 4 calls an hour, and budget.share allows 25,000
    canvases:
      - canvas: bbbbbbbb-0000-0000-0000-000000000001  # Onboarding [a, b, c, d, e, …]; edited 2026-03-02

    # 3 products; all of them make 12 calls an hour, and budget.share allows 100
    purchases:
      - product: "P: 1"
      # - product: " "  # it has no name
      # - product: all  # the name stands for all products
"""


@pytest.fixture
def braze() -> Iterator[tuple[FaultInjectingBraze, Server]]:
    """Run a simulated Braze with items of each list, including unusual names."""
    events = ["purchase", "Login", "login", 'Größe & Maß\u2028🛒 "#1": x']
    with running_braze(RecordedCounts(events=events)) as (running, server):
        running.inventory = WORLD
        yield running, server


def discovered(config: str, *flags: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """Run the command, and check that it shows no key and no traceback."""
    done = run_program("discover", f"--config.file={config}", *flags, BRAZE_API_KEY=key)
    assert key not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_discover_prints_every_list_item(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """Each list item is printed with comments, and an item that cannot be queried is commented out with the reason."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: purchase}"))
    done = discovered(config, "--archived")
    assert done.returncode == 0
    assert done.stdout == PRINTED
    assert done.stderr.splitlines() == [
        "production: 4 events",
        "production: 4 segments",
        "production: 2 campaigns and 1 archived",
        "production: 1 Canvas",
        "production: 3 products",
    ]
    assert "aaaaaaaa-0000-0000-0000-000000000003" not in discovered(config).stdout


def test_selected_items_are_marked_as_configured(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """Items that a regex or tag of the config selects are commented out like items that the config names."""
    text = workspace_yaml(braze[1].url, "{match: '(?i)login'}").replace(
        "    custom_events:",
        "    campaigns: [{tag: a}]\n    segment_users: [{segment: vip}, {match: 'a.*'}]\n    custom_events:",
    )
    done, campaign = discovered(write_file(tmp_path / "config.yaml", text)), WORLD.campaigns[0].id
    for line in (
        "      - event: purchase",
        '      # - event: Login  # differs only by case from "login"; in the config',
        "      # - segment: vip  # in the config",
        "      # - segment: 11111111-1111-1111-1111-111111111111  # in the config",
        f"      # - campaign: {campaign}  # Win-back [a, b]; 2 have this name; edited 2026-03-02; in the config",
    ):
        assert line in done.stdout.splitlines()


def test_discover_accepts_config_without_sections(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """`discover` needs only a URL and a key per workspace; `check` requires an entry; other problems are reported."""
    head = f"workspaces:\n  - name: production\n    url: {braze[1].url}\n    api_key_env: BRAZE_API_KEY\n"
    config = write_file(tmp_path / "config.yaml", head)
    done = discovered(config)
    assert done.returncode == 0
    assert "      - event: purchase\n" in done.stdout
    assert run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY).returncode == 1
    bad = discovered(write_file(tmp_path / "bad.yaml", head + "    zone: 1\n"))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "bad.yaml:5: workspaces[0].zone: unknown key" in bad.stderr


def test_missing_permission_does_not_stop_other_lists(
    braze: tuple[FaultInjectingBraze, Server], tmp_path: Path
) -> None:
    """A list that the key may not read is named in a comment; the command fails only if no list can be read."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: purchase}"))
    braze[0].permissions = {"events.data_series", "segments.list"}
    done = discovered(config)
    assert done.returncode == 0
    for key, permission in (
        ("custom_events", "events.list"),
        ("campaigns", "campaigns.list"),
        ("canvases", "canvas.list"),
        ("purchases", "purchases.product_list"),
    ):
        line = f"    # {key}: not listed: 403 Forbidden: the key lacks the permission {permission}: Access Denied"
        assert line in done.stdout.splitlines()
    assert "    segments:\n" in done.stdout
    assert len(braze[0].requests) == 6
    assert "production: 0 events, and then: 403 Forbidden" in done.stderr
    braze[0].permissions = {"events.data_series"}
    done = discovered(config)
    assert done.returncode == 1
    assert done.stdout.count(": not listed: 403 Forbidden") == 6
    assert set(yaml.safe_load(done.stdout)["workspaces"][0]) == {"name"}


def test_rejected_key_is_tried_once_per_list(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """With a rejected key each list costs one call, and each missing list has a comment with the reason."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: purchase}"))
    done = discovered(config, key="another-key")
    assert done.returncode == 1
    assert done.stdout.count(": not listed: 401 Unauthorized: API key rejected (check that it is a REST API key") == 6
    assert done.stderr.splitlines()[-1].startswith("production: 401 Unauthorized: API key rejected (check that it is ")
    assert len(braze[0].requests) == 5


def test_list_with_401_is_reported_and_others_are_read(
    braze: tuple[FaultInjectingBraze, Server], tmp_path: Path
) -> None:
    """A 401 of one list is reported as its missing permission if other lists accept the key."""
    braze[0].inject(response_faults.status(401), path="/events/list")
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: purchase}"))
    done = discovered(config)
    assert done.returncode == 0
    refused = "401 Unauthorized: the key lacks the permission events.list (or the key is rejected)"
    assert f"production: 0 events, and then: {refused}" in done.stderr
    assert done.stdout.count(": not listed: ") == 1
    assert "API key rejected" not in done.stdout + done.stderr


def test_missing_key_variable_is_an_error(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """Without a key no request is sent."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: purchase}"))
    done = run_program("discover", f"--config.file={config}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "environment variable BRAZE_API_KEY is not set" in done.stderr
    assert braze[0].requests == []


def test_discover_with_two_workspaces_prints_both(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """Each workspace is listed with its own key, and a failure of one does not affect the other."""
    items = [workspace_item_yaml(braze[1].url, "{event: purchase}", name=name) for name in ("one", "two")]
    items[1] = items[1].replace("BRAZE_API_KEY", "OTHER")
    config = write_file(tmp_path / "config.yaml", "workspaces:\n" + "".join(items))
    done = run_program("discover", f"--config.file={config}", BRAZE_API_KEY=KEY, OTHER="wrong")
    assert done.returncode == 0
    item, two = yaml.safe_load(done.stdout)["workspaces"]
    assert (item["name"], len(item["custom_events"])) == ("one", 3)
    assert two == {"name": "two"}


def test_too_many_items_print_a_warning(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """If there are more entries than `max_queries`, they are printed and a warning follows."""
    braze[0].traffic = RecordedCounts(events=[f"event {n}" for n in range(30)])
    config = write_file(
        tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: x}", extra_yaml="max_queries: 20\n")
    )
    done = discovered(config)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == (
        "warning: production: 36 entries, more than max_queries, which is 20: take what you watch of them"
    )
    assert done.stdout.count("- event:") == 30


def test_closed_pipe_is_no_error(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> None:
    """A pipe that closes early causes no error message."""
    braze[0].traffic = RecordedCounts(events=[f"event {n}" for n in range(9_000)])
    config = write_file(tmp_path / "config.yaml", workspace_yaml(braze[1].url, "{event: x}"))
    command = [sys.executable, "-m", "braze_exporter", "discover", f"--config.file={config}"]
    with subprocess.Popen(  # noqa: S603 - runs our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"BRAZE_API_KEY": KEY}, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("# What Braze has")
        process.stdout.close()
        message = process.stderr.read()
    assert process.returncode == 1
    assert message.splitlines()[-1].startswith("warning: production: 9,006 entries, more than max_queries")


@contextlib.contextmanager
def lister(share: float = 0.1) -> Iterator[tuple[FaultInjectingBraze, Config]]:
    """Run a simulated Braze with 1,000 events, and yield it with a config."""
    with running_braze(RecordedCounts(events=[f"event {n:04}" for n in range(1_000)])) as (braze, server):
        extra_yaml = f"budget: {{share: {share}}}\n"
        yield (
            braze,
            load_config(
                workspace_yaml(server.url, "{event: x}", extra_yaml=extra_yaml), "config.yaml", {"BRAZE_API_KEY": KEY}
            ),
        )


def printed(config: Config, slept: list[float]) -> tuple[bool, str]:
    """Run the command in this process, and append the requested sleep times to `slept`."""
    out = io.StringIO()
    with contextlib.closing(transport.open_session(1)) as session:
        ctx = context.CommandContext(
            session, lambda _url: {}, lambda: NOW, lambda: 0.0, slept.append, out, io.StringIO(), lambda _: None
        )
        good = discover.print_lists(config, ctx, archived=False)
    return good, out.getvalue()


def test_discover_keeps_to_share() -> None:
    """With a share of two calls an hour two pages are read, and comments say what is missing."""
    with lister(share=0.002) as (braze, config):
        good, text = printed(config, [])
        assert good
        assert text.count("- event:") == 500
        assert (
            "    # custom_events: only 500 events were listed: budget of the lists pool is used up; "
            "raise budget.share, or run the command again in an hour\n"
        ) in text
        assert "    # purchases: not listed: budget of the lists pool is used up" in text
        assert sum(request.path == "/events/list" for request in braze.requests) == 2


def test_discover_leaves_reserve() -> None:
    """If the remaining limit is within the reserve, no call follows the one that reported it."""
    with lister() as (braze, config):
        braze.spend_calls(850, pool="lists")
        _, text = printed(config, [])
        assert "only 250 events were listed: budget of the lists pool is used up" in text
        assert sum(request.path in {"/events/list", "/purchases/product_list"} for request in braze.requests) == 1


def test_transient_failure_is_retried() -> None:
    """A page is retried twice after a transient failure; if it still fails, the list is reported as missing."""
    with lister() as (braze, config):
        slept: list[float] = []
        braze.inject(response_faults.edited(lambda _: None), path="/events/list", times=1)
        braze.inject(response_faults.status(503), path="/events/list", times=2)
        assert printed(config, slept)[1].count("- event:") == 1_000
        assert slept == [1, 5]
        braze.inject(response_faults.status(503), path="/events/list", times=3)
        assert "# custom_events: not listed: 503 Service Unavailable" in printed(config, slept)[1]
        braze.inject(response_faults.html(), path="/events/list")
        slept.clear()
        assert "# custom_events: not listed: malformed response: not JSON" in printed(config, slept)[1]
        assert slept == []


@given(st.text())
@example("\u2028\x85\ufeff\x00\x1b\U000e0001")
@example("yes")
@example("1e3")
@example("- a: b # c")
@example("<<")
@example("0x1F")
@example("2026-01-01")
def test_quoted_scalar_reads_as_same_text(text: str) -> None:
    """Any text is quoted as one line of YAML that parses to the same text, alone and before a comment."""
    written = quote_scalar(text)
    assert len(written.splitlines()) == 1
    assert yaml.safe_load(f"- {written}  # {text.splitlines()[:0]}") == [text]
    assert yaml.safe_load(f"a: {{b: {written}}}") == {"a": {"b": text}}


ids = st.uuids().map(str)
rows = st.builds(ListItem, ids, st.text(), st.lists(st.text(), max_size=7).map(tuple), st.booleans(), st.text())
named = st.text().map(lambda name: ListItem(name, name))


def different(item: st.SearchStrategy[ListItem]) -> st.SearchStrategy[list[ListItem]]:
    """Return lists of items with unique ids, as Braze returns them."""
    return st.lists(item, unique_by=lambda row: row.id)


@given(different(named), different(rows), different(rows), st.text(), st.sets(st.sampled_from(["event", "login"])))
def test_any_names_give_valid_config(
    events: list[ListItem], segments: list[ListItem], campaigns: list[ListItem], failure: str, own: set[str]
) -> None:
    """The printed entries are exactly the items that can be queried, and they form a valid config."""
    archived = campaigns[:2]
    events = [*events, *(ListItem(name, name) for name in own if name not in {row.name for row in events})]
    configured = "".join(f"      - event: {name}\n" for name in sorted(own))
    head = f"""\
    instance: US-01
    api_key_env: BRAZE_API_KEY
    timezone: {NEW_YORK}
"""
    start = f"workspaces:\n  - name: production\n{head}"
    config = load_config(start + (f"    custom_events:\n{configured}" if own else ""), "config.yaml", allow_empty=True)
    result = {
        **dict.fromkeys(LIST_ENDPOINTS, ListResult(failure=failure)),
        EVENT_LIST: ListResult(tuple(events), failure=failure),
        SEGMENT_LIST: ListResult(tuple(segments)),
        CAMPAIGN_LIST: ListResult(tuple(campaigns[2:]), tuple(archived)),
    }
    lines = list(config_rendering.render_config(config.workspaces[0], config.settings, result))
    assert all(len(line.splitlines()) <= 1 for line in lines)
    text = "\n".join([f"workspaces:\n{lines[0]}\n{head}", *lines[1:]])
    whole = yaml.safe_load(text)["workspaces"][0]
    assert [entry["event"] for entry in whole.get("custom_events", [])] == [
        row.name for row in events if row.name.strip() and row.name not in own
    ]
    tracked = [row.id for row in segments if row.is_tracked]
    assert list(whole.get("segments", {}).values()) == tracked
    assert [whole["segments"][entry["segment"]] for entry in whole.get("segment_users", [])] == tracked
    expected = [row.id for row in campaigns[2:] if row.is_tracked]
    assert [entry["campaign"] for entry in whole.get("campaigns", [])] == expected
    known = {key: value for key, value in whole.items() if key in {*SECTIONS, "name", "segments"}}
    pasted = load_config(
        yaml.safe_dump({"workspaces": [known | yaml.safe_load(start)["workspaces"][0]]}, allow_unicode=True),
        "pasted.yaml",
        allow_empty=True,
    )
    (workspace,) = pasted.workspaces
    assert sum(map(len, workspace.entries.values())) == sum(len(whole.get(key, ())) for key in SECTIONS)
