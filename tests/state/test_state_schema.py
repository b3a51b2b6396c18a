"""Test what the state file stores, and that a file of schema 1 is migrated without losing a counter."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support import IOS, KEY, VIP, Program, run_program, workspace_yaml, write_file

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.series import HOLE
from braze_exporter.state.contents import counter_changes
from braze_exporter.state.counter_state import Counter, CounterKey, CounterState, NameKey
from braze_exporter.state.errors import StateFileError
from braze_exporter.state.migration import Aliases
from braze_exporter.state.state_file import open_state_file
from braze_exporter.state.tables import TableChanges

URL = "https://rest.iad-01.braze.com"
SESSIONS = ("production", URL, "sessions", "", "", "", "", "")  # the key of a counter
CAMPAIGN = "0C38A773-8e62-4f14-a3f5-0f5c8bb8c1d2"
VARIATION = "3BC4555B-0000-4c9b-a5c0-4505edf3e064"
ALIASES = Aliases(
    apps={("production", URL, IOS.upper()): "ios", ("staging", URL, "app"): "other"},
    segments={("production", URL, VIP): "vip"},
)
# The only table of schema 1.
SCHEMA_1 = (
    "CREATE TABLE accounts (subject TEXT PRIMARY KEY, unit TEXT NOT NULL, total REAL NOT NULL,"
    " floor INTEGER NOT NULL, asked_at REAL NOT NULL, seen TEXT NOT NULL) WITHOUT ROWID"
)


def create_schema_1_file(path: Path, *rows: tuple[object, ...]) -> None:
    """Create a state file of schema 1. Each row is a key, its total, and optionally the time of its last request."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SCHEMA_1)
        for key, total, *requested_at in rows:
            values = (json.dumps(key), "day", total, 7, *(requested_at or [1_000.5]), "[[7, 2.5], [8, null]]")
            connection.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?)", values)
        connection.execute("PRAGMA application_id = 0x4272617A")
        connection.execute("PRAGMA user_version = 1")


def make_state(unit: Unit, requested_at: float, *, total: float, withheld: float = 0.0, zone: str = "") -> CounterState:
    """Return the state of a query with one counter, which has a value of 2.5 in bucket 7 and a hole in bucket 8."""
    counter = Counter(7, array("d", [2.5, HOLE]), 8, total, withheld)
    return CounterState(unit, requested_at, zone, (7, 8), {(): counter})


def assert_same_states(read: Mapping[CounterKey, CounterState], written: Mapping[CounterKey, CounterState]) -> None:
    """Check that states are equal, also where a bucket has no number."""
    first, second = (
        {key: (state.to_row(), state.pack_counters()) for key, state in states.items()} for states in (read, written)
    )
    assert first == second


def read_totals(path: Path, aliases: Aliases = ALIASES) -> dict[CounterKey, float]:
    """Open a state file and return the totals of its counters."""
    with contextlib.closing(open_state_file(str(path), aliases=aliases)) as state_file:
        return {
            (*key, *series_key): counter.total
            for key, state in state_file.read_counters().items()
            for series_key, counter in state.counters.items()
        }


def test_schema_1_counter_keeps_its_state(tmp_path: Path) -> None:
    """All fields of a counter state are kept; nothing is withheld and the zone is not known."""
    create_schema_1_file(tmp_path / "state", (["production", URL, "sessions", "", "", ""], 12.5))
    for _ in range(2):
        with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
            assert_same_states(state_file.read_counters(), {SESSIONS: make_state(Unit.DAY, 1_000.5, total=12.5)})
            assert state_file.read_names() == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("custom_events", "FADE", "", ""), ("custom_events", "FADE", "", "", "", "")),
        (("custom_events", "a", IOS, VIP), ("custom_events", "a", "ios", IOS, "vip", VIP)),
        (("custom_events", "a", IOS.upper(), "Unknown"), ("custom_events", "a", "ios", IOS, "", "Unknown")),
        (("purchases", "ABC-1", "app", ""), ("purchases", "ABC-1", "", "app", "", "")),
        (("campaigns", CAMPAIGN, "", ""), ("campaigns", CAMPAIGN.lower(), "", "", "", "")),
        (("campaigns", "My-Id", "", ""), ("campaigns", "My-Id", "", "", "", "")),
    ],
)
def test_key_of_schema_1_is_migrated(tmp_path: Path, old: Sequence[str], new: Sequence[str]) -> None:
    """Ids are put into lower case, names are not; the aliases of the workspace are added, or are empty if unknown."""
    create_schema_1_file(tmp_path / "state", (["production", URL, *old], 3.0))
    for aliases in (ALIASES, Aliases({}, {})):
        with contextlib.closing(open_state_file(str(tmp_path / "state"), aliases=aliases)) as state_file:
            assert [*state_file.read_counters()] == [("production", URL, *new)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("campaign_conversions",), ("campaign_conversions",)),
        (("campaign_revenue",), ("campaign_revenue_dollars",)),
        (("canvas_revenue",), ("canvas_revenue_dollars",)),
        (("canvas_entries",), ("canvas_entries",)),
        (
            ("campaign_messages", VARIATION, "email", "sent"),
            ("campaign_messages", VARIATION.lower(), "", "email", "sent"),
        ),
        (("canvas_messages", "Step", "email", "opens"), ("canvas_messages", "Step", "", "email", "opens")),
        (
            ("campaign_messages", VARIATION, "email", "revenue"),
            ("campaign_message_revenue_dollars", VARIATION.lower(), "", "email"),
        ),
        (
            ("canvas_messages", "AB-1", "email", "revenue"),
            ("canvas_message_revenue_dollars", "ab-1", "", "email"),
        ),
    ],
)
def test_series_of_schema_1_is_migrated(tmp_path: Path, old: Sequence[str], new: Sequence[str]) -> None:
    """The metric groups get their present names, and the id of a variation or step is followed by an empty name."""
    query = ["production", URL, "campaigns", "ab", "", ""]
    create_schema_1_file(tmp_path / "state", (query, 0.0, 7.0), ([*query, *old], 4.0, 9.0))
    migrated_query = (*query, "", "")
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        assert state_file.read_counters()[migrated_query].requested_at == 7.0
    assert read_totals(tmp_path / "state") == {(*migrated_query, *new): 4.0}


def test_newest_of_schema_1_counters_with_same_id_is_kept(tmp_path: Path) -> None:
    """If two keys differ only in the case of an id, the counter with the newest request is kept."""
    keys = [["production", URL, "sessions", "", app, ""] for app in ("AB", "ab", "Ab")]
    create_schema_1_file(tmp_path / "state", (keys[0], 1.0, 7.0), (keys[1], 2.0, 5.0), (keys[2], 3.0, 6.0))
    assert read_totals(tmp_path / "state") == {("production", URL, "sessions", "", "", "ab", "", ""): 1.0}


def test_schema_1_file_is_used_by_serve(tmp_path: Path) -> None:
    """`check` accepts a file of schema 1 unchanged; `serve` migrates it with the aliases of the config."""
    state = tmp_path / "state"
    rows = (
        ["production", URL, "custom_events", "purchase", app, segment] for app in ("", IOS) for segment in ("", VIP)
    )
    create_schema_1_file(state, *((key, number) for number, key in enumerate(rows)))
    before = state.read_bytes()
    text = workspace_yaml(URL, "{event: purchase}", extra_yaml=f"state_file: {state}\n")
    config = write_file(tmp_path / "config.yaml", text)
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert (done.returncode, done.stderr, state.read_bytes()) == (0, "", before)
    for _ in range(2):
        with Program.start([f"--config.file={config}"]) as program:
            pass
        assert "damaged" not in program.output
        assert {key[3:]: total for key, total in read_totals(state).items()} == {
            ("purchase", "", "", "", ""): 0,
            ("purchase", "", "", "vip", VIP): 1,
            ("purchase", "ios", IOS, "", ""): 2,
            ("purchase", "ios", IOS, "vip", VIP): 3,
        }


MIGRATION = """
import os, signal, sqlite3, sys
from braze_exporter.state.state_file import open_state_file
class Killed(sqlite3.Connection):
    left = int(sys.argv[2])
    def execute(self, *arguments):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return super().execute(*arguments)
connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **more: connect(*arguments, factory=Killed, **more)
open_state_file(sys.argv[1])
"""


def test_killed_migration_loses_nothing(tmp_path: Path) -> None:
    """If the process is killed at any point of the migration, the file has the old or the new schema in full."""
    rows = [(["production", URL, "custom_events", f"event {number}", "", ""], number) for number in range(300)]
    versions = []
    for statements in range(60):
        path = tmp_path / str(statements)
        create_schema_1_file(path, *rows)
        # Coverage measurement would use a database, too.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        killed = subprocess.run(  # noqa: S603
            [sys.executable, "-c", MIGRATION, str(path), str(statements)], env=environment, check=False
        )
        with contextlib.closing(sqlite3.connect(path)) as connection:
            versions.append(connection.execute("PRAGMA user_version").fetchone()[0])
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            assert ("accounts" in tables, "counters" in tables) == (versions[-1] == 1, versions[-1] == 2)
        assert read_totals(path) == {("production", URL, "custom_events", key[3], "", "", "", ""): n for key, n in rows}
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL
    assert 15 < len(versions) < 60
    assert (versions[0], versions[-1]) == (1, 2)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts SET seen = 'nonsense'",
        "UPDATE accounts SET unit = 'week'",
        "UPDATE accounts SET subject = 'nonsense'",
        """UPDATE accounts SET subject = '["production", "url", "sessions"]'""",
        """UPDATE accounts SET subject = '["production", "url", "campaigns", 1, 2, 3]'""",
        "UPDATE accounts SET subject = '7'",
        "ALTER TABLE accounts RENAME COLUMN seen TO known",
        "DROP TABLE accounts",
        "CREATE TABLE counters (key)",
    ],
)
def test_damaged_schema_1_file_is_moved_aside(tmp_path: Path, statement: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file of schema 1 that cannot be migrated is moved aside unchanged, and the counters restart at 0."""
    create_schema_1_file(tmp_path / "state", (["production", URL, "sessions", "", "", ""], 1.0))
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as connection, connection:
        connection.execute(statement)
    content = (tmp_path / "state").read_bytes()
    assert read_totals(tmp_path / "state") == {}
    (aside,) = tmp_path.glob("state.damaged-*")
    assert aside.read_bytes() == content
    assert [entry.getMessage() for entry in caplog.records] == [
        "State file is damaged, moving it aside and resetting counters"
    ]


def test_file_with_damaged_structure_is_moved_aside(tmp_path: Path) -> None:
    """A file that SQLite's check finds damaged is moved aside, even if its rows can be read."""
    state = tmp_path / "state"
    open_state_file(str(state)).close()
    with state.open("r+b") as file:
        file.seek(36)
        file.write(bytes([0, 0, 0, 1]))  # a wrong number of unused pages: the file has none
    content = state.read_bytes()
    assert read_totals(state) == {}
    (aside,) = tmp_path.glob("state.damaged-*")
    assert aside.read_bytes() == content


def test_withheld_amount_and_zone_are_kept(tmp_path: Path) -> None:
    """A counter state is read as it was written."""
    state = make_state(Unit.HOUR, 1e9, total=3.5, withheld=2.5, zone="America/New_York")
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        state_file.write(counter_changes({SESSIONS: state.to_row()}, {SESSIONS: state.pack_counters()}))
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        assert_same_states(state_file.read_counters(), {SESSIONS: state})


def name_changes(names: Mapping[NameKey, str]) -> TableChanges:
    """Return the changes that write `names`."""
    return {("names", key): (*key, name) for key, name in names.items()}


def test_names_are_kept(tmp_path: Path) -> None:
    """Names are written alone or with counters, replace the previous ones, and are kept by later writes."""
    row = CounterState(Unit.HOUR, 1e9).to_row()
    names = {("production", URL, "campaigns", str(number)): f"Campaign {number}" for number in range(500)}
    changed = ("production", URL, "campaigns", "7")
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        assert state_file.read_names() == {}
        state_file.write(name_changes(names))
        renamed = {changed: "Renamed", ("production", URL, "canvases", "7"): "Welcome"}
        state_file.write(counter_changes({SESSIONS: row}, {}) | name_changes(renamed))
        state_file.write(counter_changes({}, {}, removed=[SESSIONS]))
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        assert state_file.read_names() == {
            **names,
            changed: "Renamed",
            ("production", URL, "canvases", "7"): "Welcome",
        }
        assert state_file.read_counters() == {}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE names",
        "ALTER TABLE names RENAME COLUMN name TO title",
        "INSERT INTO names VALUES ('production', 'url', 'campaigns', 'id', x'ff00')",
        """INSERT INTO counters VALUES ('["","","","","","","",""]', 'week', 0, '')""",
        """INSERT INTO counter_buckets VALUES ('["","","","","","","",""]', x'00')""",
        "INSERT INTO budgets VALUES ('url', 'digest', 'default', 'much', 0, NULL, NULL, 0, NULL, NULL, NULL)",
    ],
)
def test_file_with_unreadable_content_is_moved_aside_by_serve(tmp_path: Path, statement: str) -> None:
    """`serve` moves a file aside whose names or buckets cannot be read, and starts with a new one."""
    state = tmp_path / "state"
    open_state_file(str(state)).close()
    with contextlib.closing(sqlite3.connect(state)) as connection, connection:
        connection.execute(statement)
    content = state.read_bytes()
    text = workspace_yaml(URL, "{event: purchase}", extra_yaml=f"state_file: {state}\n")
    with Program.start([f"--config.file={write_file(tmp_path / 'config.yaml', text)}"]) as program:
        pass
    (aside,) = tmp_path.glob("state.damaged-*")
    assert aside.read_bytes() == content
    assert read_totals(state) == {}
    assert "Traceback" not in program.output


def test_file_with_further_columns_is_written(tmp_path: Path) -> None:
    """Counters and names are written to a file that has columns unknown to this version."""
    names = {("production", URL, "campaigns", "7"): "Welcome"}
    row = CounterState(Unit.HOUR, 1e9).to_row()
    open_state_file(str(tmp_path / "state")).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as connection, connection:
        for table in ("counters", "names"):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT")
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        state_file.write(counter_changes({SESSIONS: row}, {}) | name_changes(names))
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        assert state_file.read_names() == names
        assert [state.to_row() for state in state_file.read_counters().values()] == [row]


def test_unreadable_names_are_an_error(tmp_path: Path) -> None:
    """If the table of names is missing, reading it fails with the reason."""
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        assert state_file.read_names() == {}
        state_file._connection.execute("DROP TABLE names")  # noqa: SLF001 - simulates damage while the file is open
        with pytest.raises(StateFileError, match="cannot be read: no such table: names"):
            state_file.read_names()
