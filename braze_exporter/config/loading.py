"""File + environment → one frozen `Config`, or one `ConfigError` that lists every problem with its place.

Each mapping is validated by itself, so that a mistake in one does not hide those in the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from braze_exporter.config.document import ConfigError, Document, Path, Problem, parse, shown
from braze_exporter.config.schema import SECTIONS, CustomEvent, Model, Settings, Workspace, nearest

M = TypeVar("M", bound=Model)

_ASSIGN_KEY = "keys do not belong in the file: use api_key_file or api_key_env"
_REMEDIES = {"api_key": _ASSIGN_KEY, "key": _ASSIGN_KEY, "token": _ASSIGN_KEY}


class Secret:
    """A text that prints as `***`, whatever prints it. `reveal` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Keep `text`."""
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        """Return `***`."""
        return "***"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a section, and where it stands in the file."""

    spec: CustomEvent
    path: Path


@dataclass(frozen=True, slots=True)
class ConfiguredWorkspace:
    """A workspace with its entries by section, and where it stands in the file."""

    spec: Workspace
    entries: Mapping[str, tuple[Entry, ...]]
    path: Path


@dataclass(frozen=True, slots=True)
class Config:
    """A config without a problem. `keys` holds the API key of each workspace by its name, if they were asked for."""

    settings: Settings
    workspaces: tuple[ConfiguredWorkspace, ...]
    keys: Mapping[str, Secret]
    source: str
    document: Document = field(repr=False)

    def error(self, problems: Mapping[Path, str]) -> ConfigError:
        """Return the error for problems that were found later, by their paths."""
        return ConfigError(self.source, [self.document.problem(path, text) for path, text in problems.items()])


def read(path: str, environ: Mapping[str, str] | None = None) -> Config:
    """Read the config file at `path`; raise `ConfigError` with every problem of it.

    With `environ` the API keys are read too, from it or from their files. Without it no key is touched.
    """
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a text file in UTF-8"
        remedy = "give the config file by --config.file"
        raise ConfigError(shown(path, 200), [Problem((), f"cannot be read ({reason}): {remedy}")]) from None
    return load(text, source=path, environ=environ)


def load(text: str, source: str, environ: Mapping[str, str] | None = None) -> Config:
    """Return the `Config` that `text` holds, as `read` does; `source` is its name in messages."""
    document = parse(text, source)
    loader = _Loader(document, environ)
    config = loader.config(source)
    if loader.problems or config is None:
        raise ConfigError(source, loader.problems)
    return config


def missing_keys(config: Config, environ: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each workspace whose key is not there. The keys themselves are not read."""
    problems = []
    for workspace in config.workspaces:
        spec = workspace.spec
        if spec.api_key_file and not FilePath(spec.api_key_file).is_file():
            path, text = (*workspace.path, "api_key_file"), f"there is no file {shown(spec.api_key_file, 200)}"
            problems.append(config.document.problem(path, text))
        if spec.api_key_env and not environ.get(spec.api_key_env):
            path, text = (*workspace.path, "api_key_env"), f"the variable {spec.api_key_env} is not set"
            problems.append(config.document.problem(path, text))
    return problems


class _Loader:
    """Collects what is good of a document, and every problem."""

    def __init__(self, document: Document, environ: Mapping[str, str] | None) -> None:
        self.document = document
        self.environ = environ
        self.problems: list[Problem] = []
        self.keys: dict[str, Secret] = {}

    def config(self, source: str) -> Config | None:
        """Return the config, or None if it has a problem that leaves nothing to return."""
        data = self._mapping(self.document.data, ())
        if data is None:
            return None
        settings = self._model(Settings, {key: value for key, value in data.items() if key != "workspaces"}, ())
        found = data.get("workspaces")
        if not isinstance(found, list) or not found:
            text = "must be a list of at least one workspace, each with name, url, a key and custom_events"
            self._complain(("workspaces",), text)
            return None
        workspaces = [self._workspace(item, ("workspaces", index)) for index, item in enumerate(found)]
        self._refuse_same_names(found)
        if settings is None or None in workspaces:
            return None
        return Config(settings, tuple(filter(None, workspaces)), self.keys, source, self.document)

    def _workspace(self, found: object, path: Path) -> ConfiguredWorkspace | None:
        data = self._mapping(found, path)
        if data is None:
            return None
        head = {key: value for key, value in data.items() if key not in SECTIONS}
        spec = self._model(Workspace, head, path, known=(*Workspace.model_fields, *SECTIONS))
        for pair in (("url", "instance"), ("api_key_file", "api_key_env")):
            given = [key for key in pair if key in data]
            if len(given) != 1:
                what = "both are given: keep one of" if given else "one is required:"
                self._complain((*path, *given[1:]), f"{what} {' and '.join(pair) if given else ' or '.join(pair)}")
        context = {
            "apps": _names(data.get("apps")),
            "segments": _names(data.get("segments")),
            "timezone": "timezone" in data,
        }
        entries = {
            section: self._entries(section, data[section], path, context) for section in SECTIONS if section in data
        }
        if not entries:
            self._complain(path, f"has nothing to ask: add one of {', '.join(SECTIONS)}")
        if spec is None:
            return None
        self._refuse_same_queries(spec, entries)
        if self.environ is not None:
            self._read_key(spec, path, self.environ)
        return ConfiguredWorkspace(spec, entries, path)

    def _entries(self, section: str, found: object, at: Path, context: Mapping[str, object]) -> tuple[Entry, ...]:
        path = (*at, section)
        if not isinstance(found, list) or not found:
            self._complain(path, "must be a list of at least one entry, such as - event: purchase")
            return ()
        entries = []
        for index, item in enumerate(found):
            data = self._mapping(item, (*path, index))
            spec = self._model(SECTIONS[section], data, (*path, index), context) if data is not None else None
            if spec is not None:
                entries.append(Entry(spec, (*path, index)))
        return tuple(entries)

    def _mapping(self, found: object, path: Path) -> dict[str, Any] | None:
        if isinstance(found, dict):
            return found
        self._complain(path, "must be a mapping of keys to values" if path else "must begin with workspaces:")
        return None

    def _model(
        self,
        model: type[M],
        data: dict[str, Any],
        path: Path,
        context: Mapping[str, object] | None = None,
        known: tuple[str, ...] = (),
    ) -> M | None:
        try:
            return model.model_validate(data, context=dict(context or {}))
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                at = (*path, *(part for part in detail["loc"] if part != "[key]"))
                self._complain(at, _message(detail, known or _keys_around(model, detail["loc"])))
            return None

    def _complain(self, path: Path, text: str) -> None:
        self.problems.append(self.document.problem(path, text))

    def _refuse_same_names(self, found: list[Any]) -> None:
        first: dict[str, int] = {}
        for index, data in enumerate(found):
            name = data.get("name") if isinstance(data, dict) else None
            if isinstance(name, str) and (other := first.setdefault(name, index)) != index:
                text = f'"{shown(name)}" is the name of workspaces[{other}] too: choose another'
                self._complain(("workspaces", index, "name"), text)

    def _refuse_same_queries(self, spec: Workspace, entries: Mapping[str, tuple[Entry, ...]]) -> None:
        """Two entries that ask for the same would be two series with the same labels."""
        first: dict[tuple[str, ...], Path] = {}
        for section, group in entries.items():
            for entry in group:
                for app in entry.spec.apps:
                    for segment in entry.spec.segments:
                        ids = (spec.apps.get(app, ""), spec.segments.get(segment, ""))
                        asked = (section, entry.spec.event, entry.spec.unit, *ids)
                        if (other := first.setdefault(asked, entry.path)) != entry.path:
                            line = self.document.lines[other]
                            text = f"asks for the same as the entry on line {line} (event, unit, app and segment)"
                            self._complain(entry.path, f"{text}: remove one")
                            break

    def _read_key(self, spec: Workspace, path: Path, environ: Mapping[str, str]) -> None:
        """Read the key of a workspace. No message shows what was read."""
        if spec.api_key_env:
            at, key = (*path, "api_key_env"), environ.get(spec.api_key_env, "").strip()
            problem = None if key else f"the variable {spec.api_key_env} is not set: set it to the REST API key"
        elif spec.api_key_file:
            at, key, problem = (*path, "api_key_file"), "", None
            try:
                key = FilePath(spec.api_key_file).read_text(encoding="utf-8").strip()
            except UnicodeDecodeError:
                problem = "the file does not hold a key: it is not text"
            except OSError as error:
                problem = f"cannot be read ({error.strerror}): {shown(spec.api_key_file, 200)}"
            else:
                problem = None if key else "the file is empty: write the REST API key into it"
        else:
            return
        if problem is None and key[0] in "\"'":
            problem = "the key is in quotes: remove them, Braze would refuse it"
        if problem is None and not (key.isascii() and key.isprintable() and " " not in key):
            problem = "the key has characters that no key has: it must be one line of plain letters and digits"
        if problem:
            self._complain(at, problem)
        else:
            self.keys[spec.name] = Secret(key)


def _names(found: object) -> tuple[str, ...]:
    return tuple(found) if isinstance(found, dict) else ()


def _keys_around(model: type[Model], loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the keys that may stand where `loc` points to, within `model`."""
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, Model):
            model = annotation
    return tuple(model.model_fields)


def _message(detail: ErrorDetails, known: tuple[str, ...]) -> str:
    """Return our words for an error of pydantic's: what is wrong and what to write."""
    key = str(detail["loc"][-1]) if detail["loc"] else ""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] == "extra_forbidden":
        remedy = _REMEDIES.get(key, f"here are known {', '.join(known)}")
        return f"unknown key{nearest(key, known)}: {remedy}"
    return "must be a mapping of keys to values"
