"""A 401 or a 403 is about the endpoint that gave it, until every endpoint in use has refused the key."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange
from recorded_counts import Recorded
from support import KEY, Rig, rig, until, workspace_item, write

from braze_exporter.scheduler.rate_limiter import HOLD
from braze_exporter.simulator.reply import Reply
from braze_exporter.web.status_response import status_response

EVENTS, SESSIONS, LIST = "/events/data_series", "/sessions/data_series", "/events/list"
TWO = "{event: purchase}\n{event: signup}"
BOTH = "    sessions:\n      - {}\n"
EVENTS_UP, SESSIONS_UP = "braze_custom_events_hourly_up", "braze_sessions_hourly_up"
NEW_KEY = "0e1d2c3b-another-secret-key-of-a-test-7f65"
REJECTED = "401 Unauthorized: API key rejected"
LACKS_SESSIONS = "401 Unauthorized: the key lacks the permission sessions.data_series"
LACKS_EVENTS = "401 Unauthorized: the key lacks the permission events.data_series"


def quiet() -> Recorded:
    """Return events that exist and never happen."""
    return Recorded(events=["purchase", "signup"])


def calls(exporter: Rig) -> list[tuple[float, str]]:
    """Return the calls so far: when, in seconds since the clock began, and at which endpoint."""
    start = exporter.clock.now - exporter.clock.passed
    return [(request.time - start, request.path) for request in exporter.braze.requests]


def counted(exporter: Rig) -> Counter[str]:
    """Return how many calls there were at each endpoint."""
    return Counter(path for _, path in calls(exporter))


def scrape_for(exporter: Rig, seconds: float, every: float = 15.0) -> None:
    """Scrape at an interval for so long, and have the lists read that are due."""
    end = exporter.clock.now + seconds
    while exporter.clock.now < end:
        exporter.ask()
        read_lists(exporter)
        exporter.clock.advance(every)


def read_lists(exporter: Rig) -> None:
    """Have the lists read that are due, and wait until none is being read."""
    inside = exporter.exporter._discovery  # noqa: SLF001 - no scrape waits for it
    inside.refresh()
    until(lambda: not any(one.busy for one in inside._lists.values()), "no list is read")  # noqa: SLF001


def sentences(exporter: Rig, workspace: int = 0) -> Sequence[str]:
    """Return what the status page says of a workspace."""
    return status_response(exporter.exporter)["workspaces"][workspace]["sentences"]


def details(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return why queries were not answered, as the log has it."""
    return [str(fields["detail"]) for fields in logged(caplog, "query not answered")]


def logged(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    """Return the fields of the lines with that message."""
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == message]


def test_a_401_at_one_endpoint_holds_that_endpoint_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The others are asked as ever; the page, the log and the metrics name the permission, and not the key."""
    with rig(TWO, quiet(), rest=BOTH) as exporter:
        exporter.braze.fail(response_faults.status(401), path=SESSIONS)
        scrape_for(exporter, 600)
        assert [moment for moment, path in calls(exporter) if path == SESSIONS] == [0, 120, 240, 360, 480]
        assert counted(exporter)[EVENTS] == 2 * 3
        page = exporter.page()
        assert page.of(EVENTS_UP) == [1, 1]
        assert page.value(SESSIONS_UP) == 0
        assert page.value("braze_up") == 1
        assert page.value("braze_api_errors_total", endpoint=SESSIONS, reason="unauthorized") == 5
        assert page.value("braze_api_requests_deferred_total") == 0
        assert sentences(exporter)[0].startswith(f"{LACKS_SESSIONS}. Next attempt ")
        words = {query["words"] for query in status_response(exporter.exporter)["queries"]}
        assert words == {"answering", f"refused: {LACKS_SESSIONS}"}
        assert details(caplog) == [f"{LACKS_SESSIONS} (or Braze does not know the key)"]
        exporter.braze.heal()
        scrape_for(exporter, HOLD)
        assert exporter.page().value(SESSIONS_UP) == 1


def test_a_401_for_a_list_holds_that_list_alone() -> None:
    """No query is down for it, and the page names the permission."""
    with rig("{event: purchase}\n{match: 's.*'}", quiet(), reads_lists=True) as exporter:
        exporter.braze.fail(response_faults.status(401), path=LIST)
        scrape_for(exporter, 3_600)
        moments = [moment for moment, path in calls(exporter) if path == LIST]
        assert len(moments) >= 3
        assert min(later - earlier for earlier, later in itertools.pairwise(moments)) >= HOLD
        assert counted(exporter)[EVENTS] == 13
        assert exporter.page().of(EVENTS_UP) == [1]
        (unread,) = [text for text in sentences(exporter) if "list of events" in text and "cannot be read" in text]
        assert "401 Unauthorized: the key lacks the permission events.list)" in unread
        exporter.braze.heal()
        scrape_for(exporter, 3_600)
        assert exporter.page().of(EVENTS_UP) == [1, 1]


def test_a_list_that_the_key_lacks_keeps_no_counter_from_being_fed() -> None:
    """A list that is refused while the key is accepted is not waited for, whether by a 401 or a 403."""
    events = "{event: purchase, unit: day}\n{match: 'p.*'}"
    for status in (401, 403):
        with rig(events, quiet(), reads_lists=True) as exporter:
            exporter.braze.fail(response_faults.status(status), path=LIST)
            scrape_for(exporter, 60)
            assert exporter.page().of("braze_custom_events_total") == [0]
        with rig(events, quiet(), reads_lists=True) as exporter:
            exporter.braze.key = NEW_KEY
            scrape_for(exporter, 60)
            assert exporter.page().of("braze_custom_events_total") == []


def test_an_unknown_key_costs_one_call_an_endpoint_and_then_one_in_two_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the start endpoints are tried one alone after another; then those of queries take turns."""
    with rig(TWO, quiet(), rest=BOTH, reads_lists=True) as exporter:
        exporter.braze.key = NEW_KEY
        scrape_for(exporter, 500, every=5)
        paths = [path for _, path in calls(exporter)]
        assert sorted(paths[:3]) == sorted([EVENTS, LIST, SESSIONS])
        assert [moment for moment, _ in calls(exporter)[3:]] == [120, 240, 360, 480]
        assert Counter(paths[3:]) == {EVENTS: 2, SESSIONS: 2}
        assert paths[3] != paths[4]
        assert exporter.braze.concurrency_peak == 1
        page = exporter.page()
        assert page.of(EVENTS_UP) == [0, 0]
        assert page.value(SESSIONS_UP) == 0
        assert page.value("braze_up") == 0
        assert sentences(exporter)[0] == f"{REJECTED}. Next attempt at 07:30."
        assert "cannot be read" not in " ".join(sentences(exporter))
        assert {query["words"] for query in status_response(exporter.exporter)["queries"]} == {f"refused: {REJECTED}"}
        (fields,) = logged(caplog, "API key rejected")
        assert str(fields["detail"]).startswith(f"{REJECTED} (check that it is a REST API key of this workspace")
        assert len(details(caplog)) == 3  # before the last endpoint had refused the key too
        exporter.braze.key = KEY
        exporter.braze.reset()
        scrape_for(exporter, HOLD, every=5)
        page = exporter.page()
        assert page.of(EVENTS_UP) == [1, 1]
        assert page.value(SESSIONS_UP) == 1
        assert {moment for moment, path in calls(exporter) if path != LIST} == {600}
        assert len(details(caplog)) == 3  # nor is a permission missing now
        scrape_for(exporter, 3_600)
        assert counted(exporter)[LIST] >= 2
        assert sentences(exporter)[0] == "All 3 queries are answered."


def test_an_unknown_key_of_wildcards_alone_is_tried_by_their_lists() -> None:
    """Without a query it is the lists that take turns, every two minutes; what they take is asked for in the end."""
    rest = "    purchases:\n      - match: '.*'\n"
    products = "/purchases/product_list"
    with rig("{match: '.*'}", quiet(), rest=rest, reads_lists=True) as exporter:
        exporter.braze.key = NEW_KEY
        scrape_for(exporter, 730)
        assert counted(exporter) == {LIST: 1 + 3, products: 1 + 3}
        assert [moment for moment, _ in calls(exporter)[2:]] == [120, 240, 360, 480, 600, 720]
        assert any(REJECTED in text for text in sentences(exporter))
        exporter.braze.key = KEY
        scrape_for(exporter, 2 * HOLD)
        assert exporter.page().of(EVENTS_UP) == [1, 1]


@pytest.mark.parametrize("reads_lists", [True, False])
def test_a_key_that_is_revoked_is_found_out_by_every_endpoint_once(reads_lists: bool) -> None:  # noqa: FBT001 - a case
    """After one refusal of each endpoint there is one call in two minutes for all of them."""
    events = "{event: purchase}\n{event: signup, refresh: 12h}"
    with rig(events, quiet(), rest="    sessions:\n      - refresh: 6h\n", reads_lists=reads_lists) as exporter:
        scrape_for(exporter, 600)
        exporter.clock.advance(300)
        exporter.braze.key = NEW_KEY
        exporter.braze.reset()
        scrape_for(exporter, 30)
        assert counted(exporter) == {EVENTS: 1, SESSIONS: 1, **({LIST: 1} if reads_lists else {})}
        exporter.braze.reset()
        scrape_for(exporter, 1_200)
        assert counted(exporter) == {EVENTS: 5, SESSIONS: 5}
        assert sentences(exporter)[0].startswith(f"{REJECTED}. Next attempt ")
        assert exporter.page().value("braze_exporter_queries", state="up", kind="sessions") == 0


def test_the_only_endpoint_in_use_speaks_for_the_key() -> None:
    """Where one endpoint is all that is asked, its refusal is that of the key; with a list that is read, it is not."""
    with rig(TWO, quiet()) as exporter:
        exporter.braze.fail(response_faults.status(401))
        scrape_for(exporter, 300)
        assert [moment for moment, _ in calls(exporter)] == [0, 120, 240]
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")
    with rig(TWO, quiet(), reads_lists=True) as exporter:
        exporter.braze.fail(response_faults.status(401), path=EVENTS)
        scrape_for(exporter, 300)
        assert [moment for moment, path in calls(exporter) if path == EVENTS] == [0, 120, 240]
        assert sentences(exporter)[0].startswith(f"{LACKS_EVENTS}. Next attempt ")


def test_a_403_accepts_the_key_and_holds_its_endpoint() -> None:
    """With 403 at one endpoint and 401 at the other each is held by itself, and each permission is named."""
    with rig("{event: purchase}", quiet(), rest=BOTH) as exporter:
        exporter.braze.fail(response_faults.status(401), path=SESSIONS)
        exporter.braze.fail(response_faults.status(403), path=EVENTS)
        scrape_for(exporter, 370)
        assert counted(exporter) == {EVENTS: 4, SESSIONS: 4}
        assert sorted(text.partition(". Next attempt ")[0] for text in sentences(exporter)[:2]) == [
            LACKS_SESSIONS,
            "403 Forbidden: the key lacks the permission events.data_series",
        ]
        exporter.braze.fail(response_faults.status(401), path=EVENTS)  # and now neither is accepted
        exporter.braze.reset()
        scrape_for(exporter, 600)
        assert len(calls(exporter)) <= 2 + 4
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")


def test_a_call_that_says_nothing_of_the_key_frees_nothing() -> None:
    """A probe that meets trouble is the only one for two minutes, as one that is refused."""
    with rig("{event: purchase}", quiet(), rest=BOTH) as exporter:
        exporter.braze.fail(response_faults.status(401))
        exporter.ask()
        exporter.braze.fail(response_faults.status(503))
        scrape_for(exporter, 400)
        assert [moment for moment, _ in calls(exporter)[2:]] == [120, 240, 360]
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")


def test_an_endpoint_without_budget_does_not_keep_the_key_from_being_tried() -> None:
    """The turn of an endpoint that may not be asked now goes to the next one."""
    campaigns = "/campaigns/data_series"
    rest = """\
    campaigns:
      - campaign: f293e280-c0e7-4304-b9b9-62803fc0b053
budget: {share: 0.001}
"""
    with rig("{event: purchase, refresh: 1h}", quiet(), rest=rest) as exporter:
        exporter.braze.limit = 1_000  # of which a thousandth is a call an hour
        exporter.ask()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(3_600)
        scrape_for(exporter, 380)
        found = [(moment - 3_600, path) for moment, path in calls(exporter)[2:]]
        assert set(found[:2]) == {(0, campaigns), (0, EVENTS)}
        assert found[2:] == [(120, campaigns), (240, campaigns), (360, campaigns)]


def test_a_reload_with_the_same_key_probes_nothing() -> None:
    """However often the config is read, what is held is held for its two minutes."""
    with rig("{event: purchase}", quiet(), rest=BOTH, reads_lists=True) as exporter:
        exporter.braze.key = NEW_KEY
        exporter.ask()
        read_lists(exporter)
        assert len(calls(exporter)) == 3
        for _ in range(11):
            exporter.clock.advance(10)
            exporter.use("{event: purchase}", rest=BOTH)
            exporter.ask()
            read_lists(exporter)
        assert len(calls(exporter)) == 3
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")
        exporter.clock.advance(10)
        exporter.ask()
        assert len(calls(exporter)) == 4
    for status in (401, 403):
        with rig("{event: purchase}", quiet(), reads_lists=True) as exporter:
            exporter.braze.fail(response_faults.status(status), path=LIST)
            exporter.ask()
            read_lists(exporter)
            exporter.clock.advance(HOLD / 2)
            exporter.use("{event: purchase}")
            exporter.ask()
            read_lists(exporter)
            assert counted(exporter)[LIST] == 1


def test_a_reload_with_another_key_knows_nothing_of_it(tmp_path: Path) -> None:
    """What was refused is tried at once, one alone, and what was accepted is unknown again."""
    new = {"api_key_env: BRAZE_API_KEY": f"api_key_file: {write(tmp_path / 'key', NEW_KEY)}"}
    with rig(TWO, quiet(), rest=BOTH, reads_lists=True) as exporter:
        exporter.braze.fail(response_faults.status(401), path=SESSIONS)
        exporter.ask()
        read_lists(exporter)
        exporter.braze.heal()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(30)
        exporter.braze.reset()
        exporter.use(TWO, rest=BOTH, **new)
        exporter.clock.advance(1)
        assert exporter.scrape().value(SESSIONS_UP) == 1
        assert counted(exporter)[SESSIONS] == 1
        exporter.braze.key = KEY  # and back: the key of the config is refused everywhere
        exporter.clock.advance(300)
        exporter.use(TWO, rest=BOTH, **new)
        exporter.braze.reset()
        scrape_for(exporter, 100)
        assert sum(counted(exporter)[path] for path in (EVENTS, SESSIONS)) <= 2 + 10
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")


def test_an_endpoint_that_is_not_in_use_any_more_does_not_count() -> None:
    """Once the endpoint that accepts the key is gone from the config, the others speak for the key, without a call."""
    with rig("{event: purchase}", quiet(), rest=BOTH) as exporter:
        exporter.braze.fail(response_faults.status(401), path=EVENTS)
        exporter.ask()
        assert sentences(exporter)[0].startswith(f"{LACKS_EVENTS}.")
        exporter.use("{event: purchase}")
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")
        exporter.clock.advance(HOLD - 1)
        exporter.ask()
        assert counted(exporter) == {EVENTS: 1, SESSIONS: 1}
        exporter.use("{event: purchase}", rest=BOTH)
        assert sentences(exporter)[0].startswith(f"{LACKS_EVENTS}.")


def test_workspaces_are_judged_by_themselves(tmp_path: Path) -> None:
    """A key that is refused in one workspace says nothing of the key of another."""
    with rig("{event: purchase}", quiet()) as exporter:
        item = workspace_item(exporter.url, "{event: signup}", name="staging")
        key = write(tmp_path / "key", NEW_KEY)
        exporter.use("{event: purchase}", rest=item.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {key}"))
        page = exporter.scrape()
        assert [page.value("braze_up", workspace=name) for name in ("production", "staging")] == [1, 0]
        assert sentences(exporter, 0) == ["The only query is answered."]
        assert sentences(exporter, 1)[0].startswith(f"{REJECTED}.")


class Rotation:
    """The exporter with its key in a file."""

    def __init__(self, exporter: Rig, file: Path) -> None:
        self.exporter = exporter
        self.file = file
        write(file, KEY)
        self.use()

    def use(self) -> None:
        """Have the exporter read its config again, and the file with it."""
        self.exporter.use(TWO, rest=BOTH, **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {self.file}"})

    def keys(self) -> list[str]:
        """Return the keys of the calls so far."""
        return [request.key for request in self.exporter.braze.requests]


def test_a_key_file_that_is_rotated_is_read_before_the_next_probe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a reload, the probe after two minutes has the new key, and all that was held goes with it."""
    caplog.set_level(logging.INFO)
    with rig(TWO, quiet(), rest=BOTH, reads_lists=True) as exporter:
        rotation = Rotation(exporter, tmp_path / "key")
        exporter.braze.fail(response_faults.status(403), path=LIST)
        exporter.ask()
        read_lists(exporter)
        exporter.braze.heal()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(300)
        exporter.ask()
        read_lists(exporter)  # which is refused too
        assert exporter.page().value("braze_up") == 0
        write(rotation.file, f"{NEW_KEY}\n")
        exporter.braze.reset()
        exporter.clock.advance(HOLD - 1)
        exporter.ask()
        assert rotation.keys() == []
        exporter.clock.advance(1)
        page = exporter.scrape()
        read_lists(exporter)
        assert page.of(EVENTS_UP) == [1, 1]
        assert page.value(SESSIONS_UP) == 1
        assert set(rotation.keys()) == {NEW_KEY}
        assert counted(exporter)[LIST] == 2  # the permission that the old key lacked is tried at once
        assert "API key file read again: the key has changed" in caplog.messages
    assert KEY not in caplog.text
    assert NEW_KEY not in caplog.text


def test_a_missing_permission_is_had_by_a_rotated_key(tmp_path: Path) -> None:
    """The probe of one endpoint reads the file too; the other endpoints go on with the new key."""
    with rig(TWO, quiet(), rest=BOTH) as exporter:
        rotation = Rotation(exporter, tmp_path / "key")
        exporter.braze.fail(response_faults.status(401), path=SESSIONS)
        exporter.ask()
        write(rotation.file, NEW_KEY)
        exporter.braze.heal()
        exporter.braze.key = NEW_KEY
        exporter.braze.reset()
        exporter.clock.advance(HOLD)
        page = exporter.scrape()
        assert page.value(SESSIONS_UP) == 1
        assert rotation.keys() == [NEW_KEY]
        exporter.clock.advance(300)
        assert exporter.scrape().of(EVENTS_UP) == [1, 1]
        assert set(rotation.keys()) == {NEW_KEY}


def test_a_key_that_is_revoked_soon_after_an_endpoint_accepted_it() -> None:
    """That endpoint is not refused until its own refresh: the second refusal of another one has it tried."""
    with rig("{event: purchase, refresh: 1m}", quiet(), rest="    new_users:\n      - {}\n") as exporter:
        exporter.ask()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(60)
        scrape_for(exporter, HOLD + 30)
        assert exporter.page().value("braze_up") == 0
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")


@pytest.mark.parametrize("how", ["missing", "empty", "a folder", "a FIFO", "two words"])
def test_a_key_file_that_cannot_be_used_leaves_the_old_key(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key that was read last is used, and one line says why, until a key is read again."""
    with rig(TWO, quiet(), rest=BOTH) as exporter:
        rotation = Rotation(exporter, tmp_path / "key")
        exporter.braze.fail(response_faults.status(401))
        exporter.ask()
        rotation.file.unlink()
        if how == "empty":
            write(rotation.file, "\n")
        elif how == "a folder":
            rotation.file.mkdir()
        elif how == "a FIFO":
            os.mkfifo(rotation.file)
        elif how == "two words":
            write(rotation.file, f"{NEW_KEY} {NEW_KEY}")
        scrape_for(exporter, 600)
        assert set(rotation.keys()) == {KEY}
        assert len(rotation.keys()) == 2 + 4
        (fields,) = logged(caplog, "API key file cannot be used: the key before is kept")
        assert fields["workspace"] == "production"
        exporter.braze.heal()
        scrape_for(exporter, HOLD)
        assert exporter.page().value("braze_up") == 1
    assert NEW_KEY not in caplog.text
    assert NEW_KEY not in str([record.__dict__ for record in caplog.records])


def test_a_rotation_to_another_bad_key_costs_one_call_an_endpoint(tmp_path: Path) -> None:
    """The new key is tried as at the start: at each endpoint that is due, one alone after another."""
    with rig(TWO, quiet(), rest=BOTH) as exporter:
        rotation = Rotation(exporter, tmp_path / "key")
        exporter.braze.fail(response_faults.status(401))
        exporter.ask()
        write(rotation.file, NEW_KEY)
        exporter.clock.advance(HOLD)
        exporter.ask()
        assert sorted(rotation.keys()) == sorted([KEY, KEY, NEW_KEY, NEW_KEY])
        assert counted(exporter) == {EVENTS: 2, SESSIONS: 2}
        scrape_for(exporter, HOLD)
        assert len(rotation.keys()) == 4
        exporter.ask()
        assert len(rotation.keys()) == 5
        assert sentences(exporter)[0].startswith(f"{REJECTED}.")


def test_a_call_with_the_old_key_says_nothing_of_the_new_one(tmp_path: Path) -> None:
    """What was under way while the file was rotated comes back refused, and holds nothing."""
    with rig(TWO, quiet(), rest=BOTH) as exporter, ThreadPoolExecutor(1) as pool:
        rotation = Rotation(exporter, tmp_path / "key")
        exporter.braze.fail(response_faults.status(401), path=SESSIONS)
        exporter.ask()
        exporter.braze.heal()
        exporter.clock.advance(300)
        exporter.braze.reset()

        def late(exchange: Exchange) -> Reply:
            exchange.wait_until_healed()
            return response_faults.status(401)(exchange)

        exporter.braze.fail(late, path=EVENTS)
        exporter.braze.fail(transfer_faults.hold(), path=SESSIONS)
        scrape = pool.submit(exporter.ask, 1.0)
        exporter.braze.wait_for(3)
        scrape.result()
        write(rotation.file, NEW_KEY)
        exporter.braze.heal(path=SESSIONS)
        until(lambda: exporter.page().value(SESSIONS_UP) == 1, "sessions are answered")
        rotation.use()
        exporter.braze.key = NEW_KEY
        exporter.braze.heal(path=EVENTS)
        until(lambda: exporter.page().of(EVENTS_UP) == [0, 0], "both are refused")
        assert "401" not in sentences(exporter)[0]
        exporter.clock.advance(HOLD)
        exporter.ask()
        assert exporter.page().of(EVENTS_UP) == [1, 1]


def test_neither_the_key_nor_the_one_before_it_is_in_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Braze's own words are shown without both, after a rotation by the file and after one by a reload."""
    with rig(TWO, quiet(), rest=BOTH) as exporter:
        rotation = Rotation(exporter, tmp_path / "key")
        exporter.braze.fail(response_faults.status(401))
        exporter.ask()
        write(rotation.file, NEW_KEY)
        exporter.braze.fail(response_faults.status(400, f"neither {KEY} nor {NEW_KEY} nor a third-key"))
        exporter.clock.advance(HOLD)
        exporter.ask()
        assert set(rotation.keys()) == {KEY, NEW_KEY}
        assert details(caplog)[-1] == "HTTP 400: neither *** nor *** nor a third-key"
        write(rotation.file, "a-third-key")
        exporter.use(
            "{event: signup}\n{event: purchase, unit: day}",
            **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {rotation.file}"},
        )
        exporter.braze.fail(response_faults.status(400, f"neither {NEW_KEY} nor a-third-key"))
        exporter.clock.advance(300)
        exporter.ask()
        assert details(caplog)[-1] == "HTTP 400: neither *** nor ***"
