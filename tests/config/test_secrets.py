"""The key is in the memory of the exporter and in its requests, and nowhere else."""

import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support import KEY

from braze_exporter.config import Config, ConfigError, Secret, load

CONFIG = """\
workspaces:
  - {name: a, instance: US-01, api_key_env: BRAZE_API_KEY, custom_events: [{event: purchase}]}
  - {name: b, instance: US-01, api_key_file: KEY_FILE, custom_events: [{event: purchase}]}
"""


def logged(value: object) -> str:
    """Return what a log holds of a value."""
    record = logging.LogRecord("secrets", logging.ERROR, __file__, 1, "%s %r", (value, value), exc_info=None)
    return logging.Formatter().format(record)


PRINTERS: dict[str, Callable[[object], str]] = {
    "str": str,
    "repr": repr,
    "f-string": lambda value: f"{value} {value!r} {value!s} {value!a}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 - one way of many
    "pprint": pprint.pformat,
    "json": lambda value: json.dumps({"value": value}, default=str),
    "logging": logged,
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Load a config with a key from a variable and the same from a file."""
    path = tmp_path / "key"
    path.write_text(f"\n {KEY}\n", encoding="utf-8")
    return load(CONFIG.replace("KEY_FILE", str(path)), "x.yaml", {"BRAZE_API_KEY": f" {KEY}\n"})


def test_the_key_is_there(config: Config) -> None:
    """The key is what the variable or the file holds, less the white space around it."""
    assert {name: secret.reveal() for name, secret in config.keys.items()} == {"a": KEY, "b": KEY}


@pytest.mark.parametrize("printer", PRINTERS.values(), ids=PRINTERS)
def test_no_print_shows_the_key(config: Config, printer: Callable[[object], str]) -> None:
    """However a config or its keys are printed, the key is `***`."""
    for value in (config, config.keys, config.keys["a"], [config]):
        printed = printer(value)
        assert KEY not in printed
        assert "***" in printed


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy, lambda secret: f"{secret:>40}"])
def test_a_key_cannot_be_copied(write: Callable[[Secret], object]) -> None:
    """A secret is neither pickled nor copied nor formatted, and the refusal does not tell it."""
    with pytest.raises(TypeError) as raised:
        write(Secret(KEY))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy, asdict])
def test_a_config_with_keys_cannot_be_copied(config: Config, write: Callable[[Config], object]) -> None:
    """What holds a key is refused as well, while the same without keys is not."""
    with pytest.raises(TypeError, match="a secret cannot be pickled or copied"):
        write(config)
    write(replace(config, keys={}))


def test_a_secret_has_no_other_way_to_it() -> None:
    """A secret has no attributes to list, is equal to itself alone, and none can be added."""
    secret = Secret(KEY)
    assert not hasattr(secret, "__dict__")
    assert secret != Secret(KEY)
    with pytest.raises(AttributeError):
        secret.key = KEY  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", [f'"{KEY}"', f"{KEY}\n{KEY}", f"Bearer {KEY}", f"{KEY}\x00", f"{KEY}é"])
def test_no_error_shows_the_key(tmp_path: Path, key: str) -> None:
    """A key that cannot be used is refused, with a trace of the stack and as a pickle, without being told."""
    path = tmp_path / "key"
    path.write_text(key, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load(CONFIG.replace("KEY_FILE", str(path)), "x.yaml", {"BRAZE_API_KEY": key})
    error = raised.value
    assert [problem.path for problem in error.problems] == [
        ("workspaces", 0, "api_key_env"),
        ("workspaces", 1, "api_key_file"),
    ]
    for printer in PRINTERS.values():
        assert KEY not in printer(error)
    assert KEY not in "".join(traceback.format_exception(error))
    assert KEY.encode() not in pickle.dumps(error)


@pytest.mark.parametrize("mark", ["*", "!"])
def test_what_yaml_takes_for_an_alias_or_a_tag_is_not_repeated(mark: str) -> None:
    """A password that begins so and stands there without quotes is no text to YAML; the problem does not show it."""
    for line in (f"a: {mark}{KEY}", f"a: [{mark}{KEY} 1]"):
        with pytest.raises(ConfigError) as found:
            load(f"{line}\n", "x.yaml")
        assert KEY not in str(found.value)
        assert "x.yaml:1" in str(found.value)
