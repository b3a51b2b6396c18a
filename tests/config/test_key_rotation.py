"""Test that a 401 or 403 holds only its endpoint, until every endpoint in use has rejected the key."""

import contextlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import RecordedCounts
from support import KEY, ExporterRig, running_exporter, wait_until, workspace_item_yaml, write_file

from braze_exporter.scheduler.key_state import AUTH_RETRY_SECONDS
from braze_exporter.simulator.reply import Reply
from braze_exporter.web.status_response import read_status_response

EVENTS, SESSIONS, LIST = "/events/data_series", "/sessions/data_series", "/events/list"
TWO_EVENTS = "{event: purchase}\n{event: signup}"
SESSIONS_SECTION = "    sessions:\n      - {}\n"
UP = "braze_query_up"
NEW_KEY = "0e1d2c3b-another-secret-key-of-a-test-7f65"
REJECTED = "401 Unauthorized: API key rejected"
LACKS_SESSIONS = "401 Unauthorized: the key lacks the permission sessions.data_series"
LACKS_EVENTS = "401 Unauthorized: the key lacks the permission events.data_series"


def silent_traffic() -> RecordedCounts:
    """Return events whose counts are all zero."""
    return RecordedCounts(events=["purchase", "signup"])


def request_times(exporter: ExporterRig) -> list[tuple[float, str]]:
    """Return the requests so far: seconds since the start of the clock, and the endpoint."""
    start = exporter.clock.now - exporter.clock.elapsed
    return [(request.time - start, request.path) for request in exporter.braze.requests]


def requests_by_endpoint(exporter: ExporterRig) -> Counter[str]:
    """Return the number of requests per endpoint."""
    return Counter(path for _, path in request_times(exporter))


def scrape_for(exporter: ExporterRig, seconds: float, every: float = 15.0) -> None:
    """Scrape at an interval for a number of seconds, and refresh the lists that are due."""
    end = exporter.clock.now + seconds
    while exporter.clock.now < end:
        exporter.refresh()
        exporter.read_lists()
        exporter.clock.advance(every)


def workspace_messages(exporter: ExporterRig, workspace: int = 0) -> Sequence[str]:
    """Return the messages of the status page about a workspace."""
    messages: list[str] = read_status_response(exporter.exporter)["workspaces"][workspace]["messages"]
    return messages


def details(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged reasons of failed queries."""
    return [str(fields["detail"]) for fields in logged(caplog, "Query failed")]


def logged(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    """Return the fields of the log lines with the given message."""
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == message]


def test_401_of_one_endpoint_holds_that_endpoint_only(caplog: pytest.LogCaptureFixture) -> None:
    """Other endpoints are fetched as usual, and the page, the log and the metrics name the permission, not the key."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        exporter.braze.inject(response_faults.status(401), path=SESSIONS)
        scrape_for(exporter, 600)
        assert [moment for moment, path in request_times(exporter) if path == SESSIONS] == [0, 120, 240, 360, 480]
        assert requests_by_endpoint(exporter)[EVENTS] == 2 * 3
        page = exporter.page()
        assert page.values(UP, kind="custom_events") == [1, 1]
        assert page.value(UP, kind="sessions") == 0
        assert page.value("braze_up") == 1
        assert page.value("braze_api_requests_failed_total", path=SESSIONS, reason="unauthorized") == 5
        assert page.value("braze_api_requests_deferred_total") == 0
        assert workspace_messages(exporter)[0].startswith(f"{LACKS_SESSIONS}. Next attempt ")
        messages = {query["message"] for query in read_status_response(exporter.exporter)["queries"]}
        assert messages == {"up", f"failed: {LACKS_SESSIONS}"}
        assert details(caplog) == [f"{LACKS_SESSIONS} (or the key is rejected)"]
        exporter.braze.clear_faults()
        scrape_for(exporter, AUTH_RETRY_SECONDS)
        assert exporter.page().value(UP, kind="sessions") == 1


def test_401_of_list_holds_that_list_only() -> None:
    """A 401 of a list leaves the queries up, and the status page names the permission."""
    with running_exporter("{event: purchase}\n{regex: 's.*'}", silent_traffic(), reads_lists=True) as exporter:
        exporter.braze.inject(response_faults.status(401), path=LIST)
        scrape_for(exporter, 3_600)
        moments = [moment for moment, path in request_times(exporter) if path == LIST]
        assert len(moments) >= 3
        assert min(later - earlier for earlier, later in itertools.pairwise(moments)) >= AUTH_RETRY_SECONDS
        assert requests_by_endpoint(exporter)[EVENTS] == 13
        assert exporter.page().values(UP, kind="custom_events") == [1]
        (message,) = [text for text in workspace_messages(exporter) if "could not be read" in text]
        expected = (
            "Braze's list of events could not be read: 401 Unauthorized: the key lacks the permission events.list."
        )
        assert message.startswith(expected)
        exporter.braze.clear_faults()
        scrape_for(exporter, 3_600)
        assert exporter.page().values(UP, kind="custom_events") == [1, 1]


def test_forbidden_list_does_not_stop_counters() -> None:
    """Counters do not wait for a list that a 401 or 403 holds while the key is accepted elsewhere."""
    events = "{event: purchase, unit: day}\n{regex: 'p.*'}"
    for status in (401, 403):
        with running_exporter(events, silent_traffic(), reads_lists=True) as exporter:
            exporter.braze.inject(response_faults.status(status), path=LIST)
            scrape_for(exporter, 60)
            assert exporter.page().values("braze_custom_events_total") == [0]
        with running_exporter(events, silent_traffic(), reads_lists=True) as exporter:
            exporter.braze.key = NEW_KEY
            scrape_for(exporter, 60)
            assert exporter.page().values("braze_custom_events_total") == []


def test_rejected_key_costs_one_call_per_endpoint_then_one_per_two_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the start, one endpoint after another is tried alone; then one call every two minutes probes them in turn."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION, reads_lists=True) as exporter:
        exporter.braze.key = NEW_KEY
        scrape_for(exporter, 500, every=5)
        paths = [path for _, path in request_times(exporter)]
        assert sorted(paths[:3]) == sorted([EVENTS, LIST, SESSIONS])
        assert [moment for moment, _ in request_times(exporter)[3:]] == [120, 240, 360, 480]
        assert Counter(paths[3:]) == {EVENTS: 2, SESSIONS: 2}
        assert paths[3] != paths[4]
        assert exporter.braze.concurrency_peak == 1
        page = exporter.page()
        assert page.values(UP, kind="custom_events") == [0, 0]
        assert page.value(UP, kind="sessions") == 0
        assert page.value("braze_up") == 0
        assert workspace_messages(exporter)[0] == f"{REJECTED}. Next attempt at 07:30."
        assert "could not be read" not in " ".join(workspace_messages(exporter))
        assert {query["message"] for query in read_status_response(exporter.exporter)["queries"]} == {
            f"failed: {REJECTED}"
        }
        (fields,) = logged(caplog, "API key rejected")
        assert str(fields["detail"]).startswith(f"{REJECTED} (check that it is a REST API key of this workspace")
        assert len(details(caplog)) == 3  # logged before the last endpoint had rejected the key too
        exporter.braze.key = KEY
        exporter.braze.reset()
        scrape_for(exporter, AUTH_RETRY_SECONDS, every=5)
        page = exporter.page()
        assert page.values(UP, kind="custom_events") == [1, 1]
        assert page.value(UP, kind="sessions") == 1
        assert {moment for moment, path in request_times(exporter) if path != LIST} == {600}
        assert len(details(caplog)) == 3  # this time, no missing permission is logged
        scrape_for(exporter, 3_600)
        assert requests_by_endpoint(exporter)[LIST] >= 2
        assert workspace_messages(exporter)[0] == "All 3 queries are up."


@pytest.mark.parametrize("fault", [transfer_faults.huge(9 * 1024**2), transfer_faults.truncated()])
def test_unreadable_success_accepts_key(fault: Fault) -> None:
    """A status of 200 ends the hold of a rejected key, even if the body is too large or truncated."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        exporter.braze.key = NEW_KEY
        exporter.refresh()
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")
        exporter.braze.key = KEY
        exporter.braze.inject(fault, times=1)
        exporter.clock.advance(AUTH_RETRY_SECONDS)
        exporter.refresh()
        assert REJECTED not in " ".join(workspace_messages(exporter))
        assert requests_by_endpoint(exporter).total() > 2 + 1  # after the probe, the other queries were fetched


def test_rejected_key_with_selectors_only_is_probed_by_lists() -> None:
    """Without queries the lists are probed in turn every two minutes; their items are fetched once the key is valid."""
    extra_yaml = "    purchases:\n      - regex: '.*'\n"
    products = "/purchases/product_list"
    with running_exporter("{regex: '.*'}", silent_traffic(), extra_yaml=extra_yaml, reads_lists=True) as exporter:
        exporter.braze.key = NEW_KEY
        scrape_for(exporter, 730)
        assert requests_by_endpoint(exporter) == {LIST: 1 + 3, products: 1 + 3}
        assert [moment for moment, _ in request_times(exporter)[2:]] == [120, 240, 360, 480, 600, 720]
        assert any(REJECTED in text for text in workspace_messages(exporter))
        exporter.braze.key = KEY
        scrape_for(exporter, 2 * AUTH_RETRY_SECONDS)
        assert exporter.page().values(UP, kind="custom_events") == [1, 1]


@pytest.mark.parametrize("reads_lists", [True, False])
def test_revoked_key_is_tried_once_by_every_endpoint(reads_lists: bool) -> None:  # noqa: FBT001 - a parametrized value
    """After each endpoint has rejected the key once, one call probes every two minutes in total."""
    events = "{event: purchase}\n{event: signup, refresh_interval: 12h}"
    with running_exporter(
        events, silent_traffic(), extra_yaml="    sessions:\n      - refresh_interval: 6h\n", reads_lists=reads_lists
    ) as exporter:
        scrape_for(exporter, 600)
        exporter.clock.advance(300)
        exporter.braze.key = NEW_KEY
        exporter.braze.reset()
        scrape_for(exporter, 30)
        assert requests_by_endpoint(exporter) == {EVENTS: 1, SESSIONS: 1, **({LIST: 1} if reads_lists else {})}
        exporter.braze.reset()
        scrape_for(exporter, 1_200)
        assert requests_by_endpoint(exporter) == {EVENTS: 5, SESSIONS: 5}
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}. Next attempt ")
        assert exporter.page().value("braze_queries", state="up", kind="sessions") == 0


def test_single_endpoint_decides_about_key() -> None:
    """A 401 of the only endpoint means that the key is rejected, unless a list is fetched as well."""
    with running_exporter(TWO_EVENTS, silent_traffic()) as exporter:
        exporter.braze.inject(response_faults.status(401))
        scrape_for(exporter, 300)
        assert [moment for moment, _ in request_times(exporter)] == [0, 120, 240]
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")
    with running_exporter(TWO_EVENTS, silent_traffic(), reads_lists=True) as exporter:
        exporter.braze.inject(response_faults.status(401), path=EVENTS)
        scrape_for(exporter, 300)
        assert [moment for moment, path in request_times(exporter) if path == EVENTS] == [0, 120, 240]
        assert workspace_messages(exporter)[0].startswith(f"{LACKS_EVENTS}. Next attempt ")


def test_403_accepts_key_and_holds_endpoint() -> None:
    """With 403 at one endpoint and 401 at another, each is held separately and each permission is named."""
    with running_exporter("{event: purchase}", silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        exporter.braze.inject(response_faults.status(401), path=SESSIONS)
        exporter.braze.inject(response_faults.status(403), path=EVENTS)
        scrape_for(exporter, 370)
        assert requests_by_endpoint(exporter) == {EVENTS: 4, SESSIONS: 4}
        assert sorted(text.partition(". Next attempt ")[0] for text in workspace_messages(exporter)[:2]) == [
            LACKS_SESSIONS,
            "403 Forbidden: the key lacks the permission events.data_series",
        ]
        exporter.braze.inject(response_faults.status(401), path=EVENTS)  # now no endpoint accepts the key
        exporter.braze.reset()
        scrape_for(exporter, 600)
        assert len(request_times(exporter)) <= 2 + 4
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")
        exporter.braze.inject(response_faults.status(403), path=EVENTS)
        scrape_for(exporter, 2 * AUTH_RETRY_SECONDS)
        assert REJECTED not in " ".join(workspace_messages(exporter))


def test_inconclusive_call_keeps_circuit_open() -> None:
    """A probe that fails for another reason is not repeated for two minutes, as after a rejection."""
    with running_exporter("{event: purchase}", silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        exporter.braze.inject(response_faults.status(401))
        exporter.refresh()
        exporter.braze.inject(response_faults.status(503))
        scrape_for(exporter, 400)
        assert [moment for moment, _ in request_times(exporter)[2:]] == [120, 240, 360]
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")


def test_endpoint_without_budget_does_not_block_key_probe() -> None:
    """If an endpoint has no budget for its probe, the next endpoint is probed."""
    campaigns = "/campaigns/data_series"
    extra_yaml = """\
    campaigns:
      - campaign: f293e280-c0e7-4304-b9b9-62803fc0b053
budget: {share: 0.001}
"""
    with running_exporter(
        "{event: purchase, refresh_interval: 1h}", silent_traffic(), extra_yaml=extra_yaml
    ) as exporter:
        exporter.braze.limit = 1_000  # the share of 0.001 allows one call an hour
        exporter.refresh()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(3_600)
        scrape_for(exporter, 380)
        probes = [(moment - 3_600, path) for moment, path in request_times(exporter)[2:]]
        assert set(probes[:2]) == {(0, campaigns), (0, EVENTS)}
        assert probes[2:] == [(120, campaigns), (240, campaigns), (360, campaigns)]


def test_reload_with_same_key_probes_nothing() -> None:
    """A reload with the same key does not shorten the two minutes of a hold."""
    with running_exporter(
        "{event: purchase}", silent_traffic(), extra_yaml=SESSIONS_SECTION, reads_lists=True
    ) as exporter:
        exporter.braze.key = NEW_KEY
        exporter.refresh()
        exporter.read_lists()
        assert len(request_times(exporter)) == 3
        for _ in range(11):
            exporter.clock.advance(10)
            exporter.apply_config("{event: purchase}", extra_yaml=SESSIONS_SECTION)
            exporter.refresh()
            exporter.read_lists()
        assert len(request_times(exporter)) == 3
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")
        exporter.clock.advance(10)
        exporter.refresh()
        assert len(request_times(exporter)) == 4
    for status in (401, 403):
        with running_exporter("{event: purchase}", silent_traffic(), reads_lists=True) as exporter:
            exporter.braze.inject(response_faults.status(status), path=LIST)
            exporter.refresh()
            exporter.read_lists()
            exporter.clock.advance(AUTH_RETRY_SECONDS / 2)
            exporter.apply_config("{event: purchase}")
            exporter.refresh()
            exporter.read_lists()
            assert requests_by_endpoint(exporter)[LIST] == 1


def test_reload_with_other_key_resets_verdicts(tmp_path: Path) -> None:
    """After a reload with another key, held endpoints are tried at once, one at a time, and no verdict is kept."""
    new = {"api_key_env: BRAZE_API_KEY": f"api_key_file: {write_file(tmp_path / 'key', NEW_KEY)}"}
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION, reads_lists=True) as exporter:
        exporter.braze.inject(response_faults.status(401), path=SESSIONS)
        exporter.refresh()
        exporter.read_lists()
        exporter.braze.clear_faults()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(30)
        exporter.braze.reset()
        exporter.apply_config(TWO_EVENTS, extra_yaml=SESSIONS_SECTION, **new)
        exporter.clock.advance(1)
        assert exporter.scrape().value(UP, kind="sessions") == 1
        assert requests_by_endpoint(exporter)[SESSIONS] == 1
        exporter.braze.key = KEY  # the configured key is now rejected everywhere
        exporter.clock.advance(300)
        exporter.apply_config(TWO_EVENTS, extra_yaml=SESSIONS_SECTION, **new)
        exporter.braze.reset()
        scrape_for(exporter, 100)
        assert sum(requests_by_endpoint(exporter)[path] for path in (EVENTS, SESSIONS)) <= 2 + 10
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")


def test_removed_endpoint_is_ignored() -> None:
    """If the only endpoint that accepts the key is removed, the others decide about the key, without a new call."""
    with running_exporter("{event: purchase}", silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        exporter.braze.inject(response_faults.status(401), path=EVENTS)
        exporter.refresh()
        assert workspace_messages(exporter)[0].startswith(f"{LACKS_EVENTS}.")
        exporter.apply_config("{event: purchase}")
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")
        exporter.clock.advance(AUTH_RETRY_SECONDS - 1)
        exporter.refresh()
        assert requests_by_endpoint(exporter) == {EVENTS: 1, SESSIONS: 1}
        exporter.apply_config("{event: purchase}", extra_yaml=SESSIONS_SECTION)
        assert workspace_messages(exporter)[0].startswith(f"{LACKS_EVENTS}.")


def test_verdict_of_removed_endpoint_does_not_count() -> None:
    """If a reload replaces the only endpoint that accepts the key, one call tries the new endpoint."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        exporter.refresh()
        exporter.braze.inject(response_faults.status(401), path=SESSIONS)
        sessions = "    sessions: [{apps: [all, ios], segments: [all, vip]}]\n"
        exporter.apply_config("{event: purchase}", **{"    custom_events:\n      - {event: purchase}\n": sessions})
        exporter.clock.advance(300)
        exporter.refresh()
        assert requests_by_endpoint(exporter) == {EVENTS: 1, SESSIONS: 1}


def test_workspaces_have_separate_verdicts(tmp_path: Path) -> None:
    """A key that is rejected in one workspace does not affect other workspaces."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        item = workspace_item_yaml(exporter.url, "{event: signup}", name="staging")
        key = write_file(tmp_path / "key", NEW_KEY)
        exporter.apply_config(
            "{event: purchase}", extra_yaml=item.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {key}")
        )
        page = exporter.scrape()
        assert [page.value("braze_up", workspace=name) for name in ("production", "staging")] == [1, 0]
        assert workspace_messages(exporter, 0) == ["The only query is up."]
        assert workspace_messages(exporter, 1)[0].startswith(f"{REJECTED}.")


class KeyRotation:
    """Runs the exporter with its key in a file."""

    def __init__(self, exporter: ExporterRig, file: Path) -> None:
        self.exporter = exporter
        self.file = file
        write_file(file, KEY)
        self.reload()

    def reload(self) -> None:
        """Reload the config, and with it the key file."""
        self.exporter.apply_config(
            TWO_EVENTS, extra_yaml=SESSIONS_SECTION, **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {self.file}"}
        )

    def keys(self) -> list[str]:
        """Return the keys of the requests so far."""
        return [request.key for request in self.exporter.braze.requests]


def test_rotated_key_file_is_read_before_next_probe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a reload, the probe after two minutes uses the new key of the file, and all holds end."""
    caplog.set_level(logging.INFO)
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION, reads_lists=True) as exporter:
        rotation = KeyRotation(exporter, tmp_path / "key")
        exporter.braze.inject(response_faults.status(403), path=LIST)
        exporter.refresh()
        exporter.read_lists()
        exporter.braze.clear_faults()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(300)
        exporter.refresh()
        exporter.read_lists()  # the list rejects the key too
        assert exporter.page().value("braze_up") == 0
        write_file(rotation.file, f"{NEW_KEY}\n")
        exporter.braze.reset()
        exporter.clock.advance(AUTH_RETRY_SECONDS - 1)
        exporter.refresh()
        assert rotation.keys() == []
        exporter.clock.advance(1)
        page = exporter.scrape()
        exporter.read_lists()
        assert page.values(UP, kind="custom_events") == [1, 1]
        assert page.value(UP, kind="sessions") == 1
        assert set(rotation.keys()) == {NEW_KEY}
        assert requests_by_endpoint(exporter)[LIST] == 2  # the permission that the old key lacked is tried at once
        assert "Loaded a new API key from the key file" in caplog.messages
    assert KEY not in caplog.text
    assert NEW_KEY not in caplog.text


def test_rotated_key_gains_missing_permission(tmp_path: Path) -> None:
    """The probe of a single held endpoint reads the key file too, and the other endpoints use the new key."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        rotation = KeyRotation(exporter, tmp_path / "key")
        exporter.braze.inject(response_faults.status(401), path=SESSIONS)
        exporter.refresh()
        write_file(rotation.file, NEW_KEY)
        exporter.braze.clear_faults()
        exporter.braze.key = NEW_KEY
        exporter.braze.reset()
        exporter.clock.advance(AUTH_RETRY_SECONDS)
        page = exporter.scrape()
        assert page.value(UP, kind="sessions") == 1
        assert rotation.keys() == [NEW_KEY]
        exporter.clock.advance(300)
        assert exporter.scrape().values(UP, kind="custom_events") == [1, 1]
        assert set(rotation.keys()) == {NEW_KEY}


@contextlib.contextmanager
def two_key_files(directory: Path, *keys: str) -> Iterator[tuple[ExporterRig, list[Path]]]:
    """Run the exporter with two workspaces of the same url, with these keys in files."""
    with running_exporter("{event: purchase}", silent_traffic()) as exporter:
        files = [Path(write_file(directory / f"key{at}", key)) for at, key in enumerate(keys)]
        item = workspace_item_yaml(exporter.url, "{event: signup}", name="staging")
        item = item.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {files[1]}")
        exporter.apply_config(
            "{event: purchase}", extra_yaml=item, **{"api_key_env: BRAZE_API_KEY\n": f"api_key_file: {files[0]}\n"}
        )
        scrape_for(exporter, 60)
        yield exporter, files


def test_key_files_of_two_workspaces_are_rotated_one_after_the_other(tmp_path: Path) -> None:
    """The workspace whose file has the old key for longer is up soon after its file changes too."""
    with two_key_files(tmp_path, KEY, KEY) as (exporter, files):
        assert exporter.page().values("braze_up") == [1, 1]
        exporter.braze.key = NEW_KEY
        scrape_for(exporter, 600)
        expected = [0, 0]
        for at, file in enumerate(files):
            assert exporter.page().values("braze_up") == expected
            write_file(file, NEW_KEY)
            scrape_for(exporter, 2 * AUTH_RETRY_SECONDS)
            expected[at] = 1
        assert exporter.page().values("braze_up") == expected


def test_probe_reads_no_file_of_another_key(tmp_path: Path) -> None:
    """While the key of one workspace is rejected, a working key of another is not replaced."""
    with two_key_files(tmp_path, "a-rejected-key", KEY) as (exporter, files):
        write_file(files[1], NEW_KEY)
        scrape_for(exporter, 600)
        assert exporter.page().values("braze_up") == [0, 1]


def test_key_revoked_soon_after_success_is_detected_early() -> None:
    """An endpoint with a recent success is tried early once another endpoint has rejected the key twice."""
    with running_exporter(
        "{event: purchase, refresh_interval: 1m}", silent_traffic(), extra_yaml="    new_users:\n      - {}\n"
    ) as exporter:
        exporter.refresh()
        exporter.braze.key = NEW_KEY
        exporter.clock.advance(60)
        scrape_for(exporter, AUTH_RETRY_SECONDS + 30)
        assert exporter.page().value("braze_up") == 0
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")


@pytest.mark.parametrize("how", ["missing", "empty", "a directory", "a FIFO", "two words"])
def test_unusable_key_file_keeps_old_key(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last valid key stays in use, and one log line gives the reason, until a key can be read."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        rotation = KeyRotation(exporter, tmp_path / "key")
        exporter.braze.inject(response_faults.status(401))
        exporter.refresh()
        rotation.file.unlink()
        if how == "empty":
            write_file(rotation.file, "\n")
        elif how == "a directory":
            rotation.file.mkdir()
        elif how == "a FIFO":
            os.mkfifo(rotation.file)
        elif how == "two words":
            write_file(rotation.file, f"{NEW_KEY} {NEW_KEY}")
        scrape_for(exporter, 600)
        assert set(rotation.keys()) == {KEY}
        assert len(rotation.keys()) == 2 + 4
        (fields,) = logged(caplog, "API key file could not be read, keeping the previous key")
        assert fields["workspace"] == "production"
        exporter.braze.clear_faults()
        scrape_for(exporter, AUTH_RETRY_SECONDS)
        assert exporter.page().value("braze_up") == 1
    assert NEW_KEY not in caplog.text
    assert NEW_KEY not in str([record.__dict__ for record in caplog.records])


def test_rotation_to_other_bad_key_costs_one_call_per_endpoint(tmp_path: Path) -> None:
    """A new key is tried as at the start: once at each due endpoint, one at a time."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        rotation = KeyRotation(exporter, tmp_path / "key")
        exporter.braze.inject(response_faults.status(401))
        exporter.refresh()
        write_file(rotation.file, NEW_KEY)
        exporter.clock.advance(AUTH_RETRY_SECONDS)
        exporter.refresh()
        assert sorted(rotation.keys()) == sorted([KEY, KEY, NEW_KEY, NEW_KEY])
        assert requests_by_endpoint(exporter) == {EVENTS: 2, SESSIONS: 2}
        scrape_for(exporter, AUTH_RETRY_SECONDS)
        assert len(rotation.keys()) == 4
        exporter.refresh()
        assert len(rotation.keys()) == 5
        assert workspace_messages(exporter)[0].startswith(f"{REJECTED}.")


def test_late_call_with_old_key_is_ignored(tmp_path: Path) -> None:
    """A 401 for a request that was in flight with the old key does not hold its endpoint."""
    with (
        running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter,
        ThreadPoolExecutor(1) as pool,
    ):
        rotation = KeyRotation(exporter, tmp_path / "key")
        exporter.braze.inject(response_faults.status(401), path=SESSIONS)
        exporter.refresh()
        exporter.braze.clear_faults()
        exporter.clock.advance(300)
        exporter.braze.reset()

        def delayed_401(exchange: Exchange) -> Reply:
            exchange.wait_until_cleared()
            return response_faults.status(401)(exchange)

        exporter.braze.inject(delayed_401, path=EVENTS)
        exporter.braze.inject(transfer_faults.hold(), path=SESSIONS)
        scrape = pool.submit(exporter.refresh, 1.0)
        exporter.braze.wait_for(3)
        scrape.result()
        write_file(rotation.file, NEW_KEY)
        exporter.braze.clear_faults(path=SESSIONS)
        wait_until(lambda: exporter.page().value(UP, kind="sessions") == 1, "the sessions query is up")
        rotation.reload()
        exporter.braze.key = NEW_KEY
        exporter.braze.clear_faults(path=EVENTS)
        wait_until(lambda: exporter.page().values(UP, kind="custom_events") == [0, 0], "both event queries are down")
        assert "401" not in workspace_messages(exporter)[0]
        exporter.clock.advance(AUTH_RETRY_SECONDS)
        exporter.refresh()
        assert exporter.page().values(UP, kind="custom_events") == [1, 1]


def test_no_error_shows_current_or_previous_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Braze's error messages are shown without the current and the previous key, after a probe and after a reload."""
    with running_exporter(TWO_EVENTS, silent_traffic(), extra_yaml=SESSIONS_SECTION) as exporter:
        rotation = KeyRotation(exporter, tmp_path / "key")
        exporter.braze.inject(response_faults.status(401))
        exporter.refresh()
        write_file(rotation.file, NEW_KEY)
        exporter.braze.inject(response_faults.status(400, f"neither {KEY} nor {NEW_KEY} nor a third-key"))
        exporter.clock.advance(AUTH_RETRY_SECONDS)
        exporter.refresh()
        assert set(rotation.keys()) == {KEY, NEW_KEY}
        assert details(caplog)[-1] == "400 Bad Request: neither *** nor *** nor a third-key"
        write_file(rotation.file, "a-third-key")
        exporter.apply_config(
            "{event: signup}\n{event: purchase, unit: day}",
            **{"api_key_env: BRAZE_API_KEY": f"api_key_file: {rotation.file}"},
        )
        exporter.braze.inject(response_faults.status(400, f"neither {NEW_KEY} nor a-third-key"))
        exporter.clock.advance(300)
        exporter.refresh()
        assert details(caplog)[-1] == "400 Bad Request: neither *** nor ***"
