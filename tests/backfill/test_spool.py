"""What was read is kept, by one process at a time, in a file that is taken for no other and no other for it."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support import NEW_YORK

from braze_exporter.backfill import BackfillError, Moment
from braze_exporter.backfill.spool import Spool
from braze_exporter.catalog import CAMPAIGNS, CUSTOM_EVENTS, UTC, Point, Query, Series, Unit

START, END = Moment(0.0), Moment(1e6)
QUERY = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase", zone=NEW_YORK, ending_at=7_199)


def opened(path: Path) -> Spool:
    """Open a spool."""
    return Spool(path, START, END)


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    """Several series of a query, each with its points in order, and which calls were answered."""
    messages, conversions = CAMPAIGNS.nouns[:2]
    campaign = replace(QUERY, kind=CAMPAIGNS, unit=Unit.DAY)
    older = replace(campaign, ending_at=3_599)
    sent, other = ("v1", "email", "sent"), ("v2", "email", "sent")
    with closing(opened(tmp_path / "x")) as spool:
        spool.keep(
            campaign,
            [
                Series(messages, (Point(3_600, 2.5),), (("variation", "new name"),), sent),
                Series(messages, (Point(3_600, 7.0),), (("variation", "b"),), other),
                Series(conversions, (Point(3_600, 9.0),)),
            ],
        )
        spool.keep(older, [Series(messages, (Point(0, 1.0), Point(3_600, 3.0)), (("variation", "old name"),), sent)])
        spool.keep(replace(older, workspace="other"), [])
    with closing(opened(tmp_path / "x")) as spool:
        found = {series: [*spool.points(number)] for number, series in spool.series(campaign)}
        assert found == {
            Series(messages, (), (("variation", "new name"),), sent): [Point(0, 1.0), Point(3_600, 3.0)],
            Series(messages, (), (("variation", "b"),), other): [Point(3_600, 7.0)],
            Series(conversions, ()): [Point(3_600, 9.0)],
        }
        assert spool.missing([campaign, older, replace(campaign, ending_at=1)]) == [replace(campaign, ending_at=1)]
        assert spool.series(replace(campaign, workspace="other")) == []
        spool.remove()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "other",
    [
        {"workspace": "staging"},
        {"unit": Unit.DAY},
        {"subject": "signup"},
        {"app_id": "a"},
        {"segment_id": "a"},
        {"url": "https://rest.iad-02.braze.com"},
        {"zone": UTC},
    ],
)
def test_what_is_asked_otherwise_is_not_there(tmp_path: Path, other: dict[str, object]) -> None:
    """The answers to one query are never those to another; names and times to refresh make none."""
    with closing(opened(tmp_path / "x")) as spool:
        spool.keep(QUERY, [Series(CUSTOM_EVENTS.noun, (Point(0, 1.0),))])
        changed = replace(QUERY, **other)  # type: ignore[arg-type] # each is of its type
        assert spool.missing([changed]) == [changed]
        assert spool.series(changed) == []
        assert spool.missing([replace(QUERY, app="ios", refresh=1.0, settle=1.0, length=1)]) == []


def test_the_points_of_a_long_history_are_read_bit_by_bit(tmp_path: Path) -> None:
    """More than are read at once, in order."""
    points = tuple(Point(hour * 3_600, float(hour)) for hour in range(2_500))
    with closing(opened(tmp_path / "x")) as spool:
        spool.keep(QUERY, [Series(CUSTOM_EVENTS.noun, points[::-1])])
        assert tuple(spool.points(spool.series(QUERY)[0][0])) == points


@pytest.mark.parametrize(
    ("setting", "refusal"),
    [
        ("PRAGMA user_version = 2", "x was begun by another version of the exporter: go on with that, or remove it"),
        ("PRAGMA application_id = 1", "x is the database of something else: choose another --output"),
    ],
)
def test_another_database_is_left_alone(tmp_path: Path, setting: str, refusal: str) -> None:
    """One of another version or of something else is refused, and nothing in it changes."""
    opened(tmp_path / "x").close()
    with closing(sqlite3.connect(tmp_path / "x")) as connection:
        connection.execute("INSERT INTO points VALUES (1, 2, 3)")
        connection.execute(setting)
        connection.commit()
    with pytest.raises(BackfillError, match=refusal):
        opened(tmp_path / "x")
    with closing(sqlite3.connect(tmp_path / "x")) as connection:
        assert connection.execute("SELECT * FROM points").fetchall() == [(1, 2, 3)]


@pytest.mark.parametrize("damage", [b"precious", b"SQLite format 3\0" + bytes(5_000)])
def test_a_file_that_is_no_spool_is_left_alone(tmp_path: Path, damage: bytes) -> None:
    """It is not what a backfill has kept; it stays as it is."""
    (tmp_path / "x").write_bytes(damage)
    with pytest.raises(BackfillError, match=r"x is not what a backfill has kept \(.*\): remove it"):
        opened(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == damage


def test_one_that_is_in_use_is_refused(tmp_path: Path) -> None:
    """It is held from the first moment to the last."""
    with closing(opened(tmp_path / "x")), pytest.raises(BackfillError, match="is in use by another backfill"):
        opened(tmp_path / "x")
    opened(tmp_path / "x").close()


def test_one_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """No folder, or no file but a folder."""
    for path in (tmp_path / "nowhere" / "x", tmp_path):
        with pytest.raises(BackfillError, match=r"cannot be used \(unable to open database file\): make room"):
            opened(path)


def test_what_comes_after_the_end_is_not_kept(tmp_path: Path) -> None:
    """An answer that was under way is refused, not half written."""
    spool = opened(tmp_path / "x")
    spool.close()
    with pytest.raises(BackfillError, match="is closed"):
        spool.keep(QUERY, [])


def test_one_that_holds_nothing_takes_another_span(tmp_path: Path) -> None:
    """Before the first answer there is nothing to lose; after it the span is the one that it was begun with."""
    opened(tmp_path / "x").close()
    with closing(Spool(tmp_path / "x", START, Moment(2e6))) as spool:
        spool.keep(QUERY, [])
    with pytest.raises(BackfillError, match="x was begun with --start=1970-01-01T00:00:00Z --end=1970-01-24T03:33:20Z"):
        opened(tmp_path / "x")
