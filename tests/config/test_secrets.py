"""Test that the API key appears only in memory and in requests."""

import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import IOS, KEY, VIP

from braze_exporter.commands.plan import find_missing_keys
from braze_exporter.config.document import ConfigError
from braze_exporter.config.loading import Config, load_config
from braze_exporter.config.secrets import ApiKey, Secret

CONFIG = """\
workspaces:
  - {name: a, instance: US-01, api_key_env: BRAZE_API_KEY, custom_events: [{event: purchase}]}
  - {name: b, instance: US-01, api_key_file: KEY_FILE, custom_events: [{event: purchase}]}
"""


def logged(value: object) -> str:
    """Return the log message of a value."""
    record = logging.LogRecord("secrets", logging.ERROR, __file__, 1, "%s %r", (value, value), exc_info=None)
    return logging.Formatter().format(record)


PRINTERS: dict[str, Callable[[object], str]] = {
    "str": str,
    "repr": repr,
    "f-string": lambda value: f"{value} {value!r} {value!s} {value!a}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 - one of the ways to print that are tested
    "pprint": pprint.pformat,
    "json": lambda value: json.dumps({"value": value}, default=str),
    "logging": logged,
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Load a config with one key from a variable and the same key from a file."""
    path = tmp_path / "key"
    path.write_bytes(f"\ufeff\r\n {KEY}\r\n".encode())
    return load_config(CONFIG.replace("KEY_FILE", str(path)), "x.yaml", {"BRAZE_API_KEY": f" {KEY}\n"})


def test_key_is_loaded(config: Config) -> None:
    """Whitespace around the key in a variable or file, and a byte order mark, are removed."""
    assert {name: secret.reveal() for name, secret in config.keys.items()} == {"a": KEY, "b": KEY}


@pytest.mark.parametrize("printer", PRINTERS.values(), ids=PRINTERS)
def test_no_output_shows_key(config: Config, printer: Callable[[object], str]) -> None:
    """The key prints as `***` in every form of output."""
    for value in (config, config.keys, config.keys["a"], [config]):
        printed = printer(value)
        assert KEY not in printed
        assert "***" in printed


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy, lambda secret: f"{secret:>40}"])
def test_secret_cannot_be_copied(write: Callable[[Secret], object]) -> None:
    """A secret cannot be pickled, copied or formatted, and the error does not show it."""
    with pytest.raises(TypeError) as raised:
        write(Secret(KEY))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy, asdict])
def test_config_with_keys_cannot_be_copied(config: Config, write: Callable[[Config], object]) -> None:
    """A config with keys cannot be copied, but the same config without keys can."""
    with pytest.raises(TypeError, match="a secret cannot be pickled or copied"):
        write(config)
    write(replace(config, keys={}))


def test_secret_is_revealed_by_reveal_only() -> None:
    """A secret has no readable or writable attributes and equals only itself."""
    secret = Secret(KEY)
    assert not hasattr(secret, "__dict__")
    assert secret != Secret(KEY)
    with pytest.raises(AttributeError):
        secret.key = KEY  # type: ignore[attr-defined]


def test_key_that_contains_earlier_key_is_redacted() -> None:
    """The current key and earlier keys are redacted, also if one is a part of another."""
    key = ApiKey("production", Secret("key-1"), None)
    key.replace(Secret("key-1-new"), None)
    assert key.redact("refused key-1-new, key-1 and key-2") == "refused ***, *** and key-2"


@pytest.mark.parametrize(
    "key", [f'"{KEY}"', f"{KEY}\n{KEY}", f"Bearer {KEY}", f"export KEY={KEY}", f"{KEY}\x00", f"{KEY}é"]
)
def test_no_error_shows_key(tmp_path: Path, key: str) -> None:
    """The error for an unusable key shows no part of it, also in a stack trace and when pickled."""
    path = tmp_path / "key"
    path.write_text(key, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(CONFIG.replace("KEY_FILE", str(path)), "x.yaml", {"BRAZE_API_KEY": key})
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
def test_yaml_alias_or_tag_is_not_repeated_in_errors(mark: str) -> None:
    """YAML treats an unquoted password that begins with `*` or `!` as an alias or a tag; the error does not show it."""
    for line in (f"a: {mark}{KEY}", f"a: [{mark}{KEY} 1]"):
        with pytest.raises(ConfigError) as raised:
            load_config(f"{line}\n", "x.yaml")
        assert KEY not in str(raised.value)
        assert "x.yaml:1" in str(raised.value)


HEX = "0123456789abcdef"
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def texts(alphabet: str, *lengths: int) -> st.SearchStrategy[str]:
    """Draw a text of one of the given lengths."""
    return st.sampled_from(lengths).flatmap(lambda length: st.text(alphabet, min_size=length, max_size=length))


uuids = st.uuids().map(str)
hexes = texts(HEX, 32, 40, 64)
base64s = texts(BASE64, 24, 43, 44, 88).filter(lambda key: key[0] != "/")
# Forms of keys that no name has, so that the exporter recognizes them in any setting.
recognizable = (uuids | hexes | uuids.map(str.upper) | hexes.map(str.upper) | base64s).filter(
    lambda key: any(letter.isdigit() for letter in key)
)
any_key = recognizable | texts("abcdefghijklmnopqrstuvwxyz", 8, 20, 40) | texts("0123456789", 12, 18, 40)
WRAPPINGS = ("{}", "Bearer {}", '"{}"', "'{}'", " {} ", "{}\n", "{}\n{}", "KEY={}", "$ {}", "${{{}}}", "keys/{}")
wrapped = st.sampled_from(WRAPPINGS)

# Settings for the key or its source; no key of any form is shown there.
KEY_PLACES: tuple[Callable[[str], dict[str, object]], ...] = (
    lambda key: {"api_key_file": key},
    lambda key: {"api_key_env": key},
    lambda key: {"api_key_file": [key]},
    lambda key: {"api_key_env": {"name": key}},
    lambda key: {"api_key": key, "api_key_env": "BRAZE_API_KEY"},
    lambda key: {"key": key},
    lambda key: {"token": {"value": key}},
    lambda key: {"url": f"https://user:{key}@rest.iad-01.braze.com"},
    lambda key: {"url": f"https://rest.iad-01.braze.com/?api_key={key}"},
    lambda key: {"url": key},
    lambda key: {"instance": key},
)
# Settings for other values.
OTHER_PLACES: tuple[Callable[[str], dict[str, object]], ...] = (
    lambda key: {key: 1},
    lambda key: {"timezone": key},
    lambda key: {"name": [key]},
    lambda key: {"apps": {"ios": f"x{key}"}},
    lambda key: {"apps": {key: 1}},
    lambda key: {"apps": {"ios": IOS, key: IOS}},
    lambda key: {"custom_events": [{"event": "purchase", "unit": key}]},
    lambda key: {"custom_events": [{"event": "purchase", "max_age": key}]},
    lambda key: {"custom_events": [{"event": "purchase", "apps": [key, key]}]},
    lambda key: {"custom_events": [{"event": "purchase", "baseline": {"weeks": key}}]},
    lambda key: {"custom_events": [{"event": "purchase", "alerts": {"labels": {key: "a"}}}]},
    lambda key: {"custom_events": [{"event": "purchase", key: "a"}]},
    lambda key: {"custom_events": [{"regex": f"[{key}-\\d]"}]},
    lambda key: {"segment_users": [{"segment": key}], "segments": {f"{key}1": VIP}},
)


def all_messages(text: str) -> str:
    """Return all messages about a config, loaded with and without its keys."""
    message = []
    for environ in (None, {"BRAZE_API_KEY": KEY}):
        try:
            config = load_config(text, "x.yaml", environ)
        except ConfigError as error:
            message.append(f"{error} {error!r} {''.join(traceback.format_exception(error))}")
        else:
            message += [repr(config), *(problem.render("x.yaml") for problem in find_missing_keys(config, {}))]
    return "\n".join(message)


def check_hidden(message: str, key: str) -> None:
    """Check that a message is not empty and contains no eight characters of the key in a row."""
    assert message
    chunks = {key[start : start + 8].lower() for start in range(len(key) - 7)}
    assert not [chunk for chunk in chunks if chunk in message.lower()]


def with_changes(changes: Mapping[str, object]) -> str:
    """Return a config whose workspace has the given values."""
    base: dict[str, object] = {"name": "a", "url": "https://rest.iad-01.braze.com"}
    sections = {"custom_events": [{"event": "purchase"}]}
    key = {} if {"api_key_file", "api_key_env"} & {*changes} else {"api_key_env": "BRAZE_API_KEY"}
    return json.dumps({"workspaces": [{**base, **key, **sections, **changes}]})


@given(any_key, wrapped, st.sampled_from(KEY_PLACES))
@example("b7f3c1deaaaabbbbcccc0123456789ab", "{}", KEY_PLACES[1])
@example("B7F3C1DEAAAABBBBCCCC0123456789AB", "{}", KEY_PLACES[1])
@example("b7f3c1deaaaabbbbcccc0123456789ab", "{}", KEY_PLACES[0])
@example("abcdefghijklmnopqrst", "{}", KEY_PLACES[0])
@example("abcdefghijklmnopqrst", "{}", KEY_PLACES[1])
@example("x" * 300 + "12345678", "{}", KEY_PLACES[0])
def test_misplaced_key_of_any_form_is_not_repeated(
    key: str, wrapping: str, place: Callable[[str], dict[str, object]]
) -> None:
    """In the key settings and the URL, no key of any form is shown."""
    check_hidden(all_messages(with_changes(place(wrapping.replace("{}", key)))), key)


@given(recognizable, wrapped, st.sampled_from(OTHER_PLACES))
def test_key_in_any_setting_is_not_repeated(key: str, wrapping: str, place: Callable[[str], dict[str, object]]) -> None:
    """In any other setting, text that looks like a key is not shown."""
    check_hidden(all_messages(with_changes(place(wrapping.replace("{}", key)))), key)


@given(
    recognizable,
    st.sampled_from(
        [
            "{}",
            "a: {}: b",
            "a: !{}! b",
            "a: !!{} b",
            "a: !{} b",
            "a: *{}",
            "a: &{} b\nc: &{} d\ne: [",
            "%{} x\n---\n",
            "%TAG !{}! x\n%TAG !{}! x\n---\na",
            "%YAML {}\n---\n",
            '"\\{}"',
            "a: '{}",
            "{}: 1\n{}: 2",
            "? {}\n? [{}]",
            "<<: {}",
            "a: |{}\n b",
            "a: @{}",
            "\t{}",
            "a: b\n {}: c",
            "--- {}\n--- {}",
        ]
    ),
)
def test_key_in_invalid_yaml_is_not_repeated(key: str, text: str) -> None:
    """Errors about invalid YAML do not show a key."""
    check_hidden(all_messages(text.replace("{}", key)), key)


NOT_THE_KEY = "must be the name of an environment variable such as BRAZE_API_KEY, not the key itself"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("api_key_file: /nowhere/key", "no such file: /nowhere/key"),
        ("api_key_file: ./nowhere/key", "no such file: ./nowhere/key"),
        ("api_key_file: ../nowhere/key", "no such file: ../nowhere/key"),
        (
            "api_key_file: nowhere/key",
            "no such file; must be a file path such as /run/secrets/braze_api_key, not the key itself",
        ),
        ("api_key_env: BRAZE_KEY_2", "environment variable BRAZE_KEY_2 is not set"),
        ("api_key_env: braze_key", f"is not set; {NOT_THE_KEY}"),
    ],
)
def test_key_source_is_repeated_only_if_it_cannot_be_a_key(line: str, problem: str) -> None:
    """Only a path that begins with `/`, `./` or `../`, or a variable name in capitals, is shown in errors."""
    name, _, value = line.partition(": ")
    config = load_config(with_changes({name: value}), "x.yaml")
    assert [found.text for found in find_missing_keys(config, {})] == [problem]


def test_relative_path_and_lower_case_variable_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are not shown in errors still work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY, encoding="utf-8")
    for changes in ({"api_key_file": "key"}, {"api_key_env": "braze_key"}):
        config = load_config(with_changes(changes), "x.yaml", {"braze_key": KEY})
        assert config.keys["a"].reveal() == KEY
        assert find_missing_keys(config, {"braze_key": KEY}) == ()
