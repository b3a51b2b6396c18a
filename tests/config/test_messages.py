"""Test the example configs beside this file: `bad/` with the expected messages, `good/` with the expected plans."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from braze_exporter.braze.query import Query
from braze_exporter.commands.plan import find_missing_keys
from braze_exporter.config.document import ConfigError, parse
from braze_exporter.config.loading import Config, load_config, read_config
from braze_exporter.scheduler.plan import build_plan

CONFIG_DIRECTORY = Path(__file__).parent
KEY = "b7f3c1de-aaaa-bbbb-cccc-0123456789ab"
NOT_THE_KEY = "must be a file path such as /run/secrets/braze_api_key, not the key itself"
ENVIRON = {"BRAZE_API_KEY": KEY, "EMPTY": " ", "QUOTED": f"'{KEY}'", "TWO_LINES": f"{KEY}\n{KEY}"}


def config_files(room: str) -> list[str]:
    """Return the names of the configs in `bad` or `good`."""
    return sorted(path.stem for path in (CONFIG_DIRECTORY / room).glob("*.yaml"))


def expected(room: str, name: str) -> list[str]:
    """Return the expected lines for a config."""
    return (CONFIG_DIRECTORY / room / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def describe_parts(query: Query) -> str:
    """Return the channels and the statistics to which a query is limited, if any."""
    parts = {"channels": query.channels, "stats": query.stats}
    return "".join(f" {name}={','.join(names)}" for name, names in parts.items() if names)


def describe_plan(config: Config) -> Iterator[str]:
    """Yield a line for each query, pool, workspace and alert group of a config."""
    plan = build_plan(config)
    for query in plan.queries:
        labels = ",".join(f'{name}="{value}"' for name, value in query.labels)
        ids = f"app={query.app_id} segment={query.segment_id}"
        times = (
            f"refresh={query.refresh_seconds:.9g} settle={query.settle_seconds:.9g} max_age={query.max_age_seconds:.9g}"
        )
        query_text = f"{query.metric_group.name} {labels!r} {ids} {query.unit} x {query.length} in {query.zone} {times}"
        yield query_text + describe_parts(query)
    for selector in plan.selectors:
        list_endpoint = selector.kind.list_endpoint
        assert list_endpoint is not None
        for query in selector.queries:
            query_text = f"{query.metric_group.name} per {query.unit}"
            selection = f"{query_text} selected by {query.subject!r} in {list_endpoint.path}"
            yield f"{selector.workspace}: {selection}{describe_parts(query)}"
    for cost in plan.pool_usage:
        usage = f"{cost.hourly_calls:g} of {cost.allowed_hourly_calls:g} calls"
        yield f"{cost.workspace}: {cost.query_count} queries in pool {cost.pool.name} need {usage}"
    for workspace in config.workspaces:
        yield f"{workspace.spec.name}: {workspace.spec.rest_endpoint}"
    for query, alerts in plan.alerts:
        yield f"{query.metric_group.name} {','.join(value for _, value in query.labels)} per {query.unit}: {alerts}"


@pytest.mark.parametrize("name", config_files("bad"))
def test_invalid_config_has_expected_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid config has exactly the expected messages, with line numbers, and without a key or a password."""
    monkeypatch.chdir(CONFIG_DIRECTORY / "bad")
    with pytest.raises(ConfigError) as raised:
        build_plan(read_config(f"{name}.yaml", ENVIRON))
    message = str(raised.value)
    assert message.splitlines() == expected("bad", name)
    assert "hunter2" not in message
    assert KEY not in message.lower()


@pytest.mark.parametrize("name", config_files("good"))
def test_valid_config_has_expected_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid config has exactly the expected plan and a key for every workspace."""
    monkeypatch.chdir(CONFIG_DIRECTORY / "good")
    config = read_config(f"{name}.yaml", ENVIRON)
    assert list(describe_plan(config)) == expected("good", name)
    assert {secret.reveal() for secret in config.keys.values()} == {KEY}
    assert list(config.keys) == [workspace.spec.name for workspace in config.workspaces]


@pytest.mark.parametrize("room", ["bad", "good"])
def test_every_expectation_has_a_config(room: str) -> None:
    """Every text file has a config, and every config has a text file."""
    assert sorted(path.stem for path in (CONFIG_DIRECTORY / room).glob("*.txt")) == config_files(room) != []


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("HTTPS://REST.IAD-01.BRAZE.COM", "https://rest.iad-01.braze.com"),
        ("https://rest.iad-01.braze.com/", "https://rest.iad-01.braze.com"),
        ("https://rest.iad-01.braze.com:8443//", "https://rest.iad-01.braze.com:8443"),
        ("https://rest.iad-01.braze.com:", "https://rest.iad-01.braze.com"),
        ("https://rest.iad-01.braze.com:0443", "https://rest.iad-01.braze.com"),
        ("https://rest.iad-01.braze.com.:8443", "https://rest.iad-01.braze.com:8443"),
        ("https://rest.iad-01.braze.com?", "https://rest.iad-01.braze.com"),
        ("https://rest.new-99.example", "https://rest.new-99.example"),
        ("https://[2001:DB8::1]:8443", "https://[2001:db8::1]:8443"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.2:8080/", "http://127.0.0.2:8080"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
    ],
)
def test_equivalent_urls_are_normalized(tmp_path: Path, url: str, endpoint: str) -> None:
    """Equivalent URLs are normalized to the same endpoint, because it is a part of the keys of budgets and counters."""
    text = (CONFIG_DIRECTORY / "good" / "shortest.yaml").read_text(encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("https://rest.iad-01.braze.com", f'"{url}"'), encoding="utf-8")
    assert read_config(str(path)).workspaces[0].spec.rest_endpoint == endpoint


def test_config_without_environment_reads_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment no key is read, and `find_missing_keys` reports why each key is missing."""
    monkeypatch.chdir(CONFIG_DIRECTORY / "bad")
    for name, expected_problems in {
        "key-file-missing": ["api_key_file: no such file: ./keys/missing"],
        "key-file-directory": [f"api_key_file: no such file; {NOT_THE_KEY}"],
        "key-file-below-file": [f"api_key_file: no such file; {NOT_THE_KEY}"],
        "key-variable-unset": ["api_key_env: environment variable UNSET is not set"],
        "key-file-two-lines": [],
    }.items():
        config = read_config(f"{name}.yaml")
        assert config.keys == {}
        problems = [problem.render(config.source) for problem in find_missing_keys(config, ENVIRON)]
        assert problems == [f"{name}.yaml:4: workspaces[0].{text}" for text in expected_problems]


def test_inaccessible_key_file_is_missing_key() -> None:
    """A key file whose path the system refuses is reported as missing, without a traceback."""
    text = (CONFIG_DIRECTORY / "good" / "shortest.yaml").read_text(encoding="utf-8")
    path = f"./{'x' * 300}"
    config = load_config(text.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {path}"), "x.yaml")
    (problem,) = find_missing_keys(config, {})
    assert problem.text == f"no such file: {path[:199]}…"


@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("missing.yaml", "missing.yaml: cannot be read (No such file or directory); set --config.file to"),
        (".", ".: cannot be read (Is a directory); set --config.file to"),
        ("/dev/zero", "/dev/zero: cannot be read (Larger than 4,096 KiB); set --config.file to"),
        ("fifo", "fifo: must be a mapping with the key workspaces"),
        ("latin-1.yaml", "latin-1.yaml: cannot be read (not UTF-8 text); set --config.file to"),
        ("two\nlines.yaml", "two\N{REPLACEMENT CHARACTER}lines.yaml: must be a mapping with the key workspaces"),
    ],
)
def test_unreadable_config_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, info: str
) -> None:
    """A config file that cannot be read as text gives a one-line error with its name and advice."""
    (tmp_path / "latin-1.yaml").write_bytes("name: Zürich".encode("latin-1"))
    (tmp_path / "two\nlines.yaml").touch()
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        read_config(name)
    assert str(raised.value).startswith(info)
    assert len(str(raised.value).splitlines()) == 1


def test_nested_merges_are_refused_quickly() -> None:
    """Thirty levels of YAML merges with ten references each are refused, as other aliases are."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], y: {n}}}" for n in range(1, 31)]
    started = time.process_time()
    with pytest.raises(ConfigError, match="too many values, or values nested too deeply"):
        parse("\n".join(lines), "x.yaml")
    assert time.process_time() - started < 2


def test_many_merges_of_large_mapping_are_refused() -> None:
    """Copies made by merges count toward the size limit of a config."""
    large = ", ".join(f"k{number}: 1" for number in range(400))
    with pytest.raises(ConfigError, match="too many values, or values nested too deeply"):
        parse(f"a: &a {{{large}}}\nb:\n" + "- {<<: *a}\n" * 100 + "- {<<: [" + "*a, " * 200 + "]}", "x.yaml")


@pytest.mark.parametrize("text", ["&a {<<: *a, x: 1}", "&a {x: *a}", "&a [*a]"])
def test_value_that_contains_itself_is_refused(text: str) -> None:
    """An anchor cannot be used within its own value."""
    with pytest.raises(ConfigError, match="found undefined alias"):
        parse(text, "x.yaml")


def test_product_of_long_lists_is_refused_quickly() -> None:
    """The queries of 700 apps times 700 segments in twelve entries are counted without being built."""
    names = ", ".join(f"n{number}" for number in range(700))
    ids = ", ".join(f"n{number}: 3bbc4555-8fa0-4c9b-a5c0-{number:012}" for number in range(700))
    shortest = (CONFIG_DIRECTORY / "good" / "shortest.yaml").read_text(encoding="utf-8")
    text = shortest.replace("    custom_events:", f"    apps: &ids {{{ids}}}\n    segments: *ids\n    custom_events:")
    text += f"        apps: &names [{names}]\n        segments: *names\n"
    text += "".join(f"      - {{event: e{number}, apps: *names, segments: *names}}\n" for number in range(11))
    started = time.process_time()
    with pytest.raises(ConfigError, match="max_queries: is 2,000, but the entries need 5,880,000 queries"):
        build_plan(load_config(text, "x.yaml"))
    assert time.process_time() - started < 8
