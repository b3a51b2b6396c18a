"""Test that the JSON Schema accepts what the exporter accepts, and rejects what a schema can detect."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support import run_program

from braze_exporter.config.document import ConfigError, parse
from braze_exporter.config.json_schema import build_schema
from braze_exporter.config.loading import load_config

pytestmark = pytest.mark.no_cover

CONFIG_DIRECTORY = Path(__file__).parent
GOOD = [CONFIG_DIRECTORY.parents[1] / "config.example.yaml", *sorted((CONFIG_DIRECTORY / "good").glob("*.yaml"))]
REMOVED = object()
SCHEMA = Draft202012Validator(build_schema())
# Problems that no schema can detect: references to other keys, sums, timezones, hostnames, keys, files and duplicates.
UNDETECTABLE: tuple[str, ...] = (
    "alerts-",
    "baseline-",
    "canvas-settle",
    "choice-",
    "day-without",
    "duplicate-",
    "instance-",
    "key-",
    "merge-",
)
UNDETECTABLE += (
    "name-twice",
    "plan-",
    "purchases-too",
    "same-",
    "state-file-",
    "stats-without-",
    "surrogate-",
    "timezone-",
    "url-",
)
# JSON Schema also treats 10.0 as an integer, and it cannot require a duration of at least a second.
UNDETECTABLE += ("concurrency-fraction", "share-nan", "duration-milliseconds", "duration-zero")
ODD_VALUES: tuple[object, ...] = (None, True, 1, 0.5, "", "all", "5m", [], {})


def document(path: Path) -> Any:  # noqa: ANN401 - YAML can hold any type
    """Return the data of a file, or None if it is not valid YAML."""
    try:
        return parse(path.read_text(encoding="utf-8"), path.name).data
    except ConfigError:
        return None


def paths_in(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    """Yield the path of each value within `data`."""
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield (*at, key)
        yield from paths_in(data[key], (*at, key))


def changed_copies(data: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield copies of `data`, each with one value removed or replaced by an unusual one."""
    for *way, last in paths_in(data):
        for odd in (*ODD_VALUES, REMOVED):
            other = copy.deepcopy(data)
            owner = other
            for part in way:
                owner = owner[part]
            if odd is REMOVED:
                del owner[last]
            else:
                owner[last] = odd
            yield other


def test_schema_command_prints_json_schema() -> None:
    """The schema is valid JSON Schema, the command prints it, and every key has a description."""
    Draft202012Validator.check_schema(build_schema())
    done = run_program("schema")
    assert (done.returncode, json.loads(done.stdout)) == (0, build_schema())
    mappings = [build_schema(), *build_schema()["$defs"].values()]
    lacking = [
        name for mapping in mappings for name, key in mapping["properties"].items() if not key.get("description")
    ]
    assert lacking == []


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_schema_accepts_valid_configs(path: Path) -> None:
    """The schema accepts every config that the exporter accepts."""
    assert [error.message for error in SCHEMA.iter_errors(document(path))] == []


def test_schema_rejects_invalid_configs() -> None:
    """The schema rejects every invalid config except those listed in `UNDETECTABLE`."""
    bad = {path.stem: SCHEMA.is_valid(document(path)) for path in (CONFIG_DIRECTORY / "bad").glob("*.yaml")}
    accepted = {name for name, is_accepted in bad.items() if is_accepted}
    assert {name for name in accepted if not name.startswith(UNDETECTABLE)} == set()
    # Many files with these prefixes are rejected.
    assert sum(name.startswith(UNDETECTABLE) for name in bad.keys() - accepted) >= 60, sorted(accepted)


@pytest.mark.parametrize("name", ["every-section", "every-setting", "shortest"])
def test_schema_accepts_every_loadable_config(name: str) -> None:
    """With any value removed or replaced, the schema accepts at least every config that the exporter loads."""
    tried = 0
    for data in changed_copies(document(CONFIG_DIRECTORY / "good" / f"{name}.yaml")):
        text = json.dumps(data)
        try:
            load_config(text, "config.yaml")
        except ConfigError:
            continue
        tried += 1
        assert SCHEMA.is_valid(data), text
    assert tried > 0
