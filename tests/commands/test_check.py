"""Test what `check` prints without `--live`."""

from pathlib import Path

import pytest
from support import KEY, run_program, workspace_item_yaml, workspace_yaml, write_file

EVENT = "{event: purchase}"


@pytest.mark.parametrize(
    ("old", "new", "is_shared"),
    [
        ("", "", True),
        ("iad-01", "iad-02", False),
        ("api_key_env: BRAZE_API_KEY", "api_key_env: OTHER_API_KEY", False),
        ("api_key_env: BRAZE_API_KEY", "api_key_file: /run/secrets/BRAZE_API_KEY", False),
    ],
)
def test_workspaces_with_equal_key_source_are_reported(tmp_path: Path, old: str, new: str, *, is_shared: bool) -> None:
    """A workspace with the url and the key source of an earlier one is reported by a warning, with its line."""
    first, second = (workspace_item_yaml("https://rest.iad-01.braze.com", EVENT, name=name) for name in ("one", "two"))
    config = write_file(tmp_path / "config.yaml", f"workspaces:\n{first}{second.replace(old, new)}")
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert done.returncode == 0
    text = 'has the same url and API key as "one", so both share one budget; merge them'
    shared = f"warning: {config}:10: workspaces[1]: {text}"
    assert [line for line in done.stderr.splitlines() if "budget" in line] == ([shared] if is_shared else [])


@pytest.mark.parametrize(
    ("zone", "has_warning"),
    [("EST", True), ("Etc/GMT+5", True), ("GMT", True), ("UTC", False), ("Asia/Tokyo", False), ("EST5EDT", False)],
)
def test_zone_without_dst_is_reported(tmp_path: Path, zone: str, *, has_warning: bool) -> None:
    """A time zone that is an abbreviation or an offset is reported by a warning, because it has no DST."""
    text = workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}").replace("America/New_York", zone)
    config = write_file(tmp_path / "config.yaml", text)
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    text = f"{zone} has no DST; if the company's clock changes, set a name such as America/New_York"
    warning = f"warning: {config}:5: workspaces[0].timezone: {text}\n"
    assert (done.returncode, done.stderr) == (0, warning if has_warning else "")


@pytest.mark.parametrize(("refresh", "calls"), [("30m", "2 calls"), ("1h", "1 call"), ("90m", "less than 1 call")])
def test_calls_of_single_query_are_named(tmp_path: Path, refresh: str, calls: str) -> None:
    """One query and one call are named in singular, and a query that is fetched less than hourly needs some calls."""
    event = f"{{event: purchase, refresh_interval: {refresh}}}"
    config = write_file(tmp_path / "config.yaml", workspace_yaml("https://rest.iad-01.braze.com", event))
    output = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY).stdout
    assert output.startswith(
        f"{config} is valid: 1 query\nproduction: 1 query needs {calls} per hour in the default pool;"
    )


@pytest.mark.parametrize(("products", "calls"), [(24, None), (25, "0 calls")])
def test_lists_that_cannot_be_read_are_reported(tmp_path: Path, products: int, calls: str | None) -> None:
    """Queries that leave too few calls of the share to read the lists every hour are reported by a warning."""
    purchases = "".join(f"      - product: p{number}\n" for number in range(products))
    text = workspace_yaml("https://rest.iad-01.braze.com", EVENT) + f"    purchases:\n{purchases}"
    config = write_file(tmp_path / "config.yaml", text)
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    problem = f"the queries leave {calls} per hour of budget.share in the lists pool"
    reason = "too few to read the lists of events and products"
    fix = "set a longer refresh_interval, or configure fewer queries"
    warning = f"warning: {config}:2: workspaces[0]: {problem}, {reason}; {fix}\n"
    assert (done.returncode, done.stderr) == (0, warning if calls else "")


def test_lists_that_cannot_be_read_within_shared_budget_are_reported(tmp_path: Path) -> None:
    """The calls that are left for lists are those that all workspaces with the same url and key leave."""
    purchases = "".join(f"      - product: p{number}\n" for number in range(12))
    workspaces = "".join(
        workspace_item_yaml("https://rest.iad-01.braze.com", EVENT, name=name) + f"    purchases:\n{purchases}"
        for name in ("one", "two")
    )
    config = write_file(tmp_path / "config.yaml", f"workspaces:\n{workspaces}")
    done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
    assert "2: workspaces[0]: the queries leave 4 calls per hour of budget.share in the lists pool" in done.stderr
    assert "too few to read the lists of events and products;" in done.stderr
