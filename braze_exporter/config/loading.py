"""File + environment → one frozen `Config`, or one `ConfigError` that lists every problem with its place.

Each mapping is validated by itself, so that a mistake in one does not hide those in the others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path as FilePath
from typing import Any

from braze_exporter.braze.kinds import KINDS, Kind, Unit
from braze_exporter.config import secrets
from braze_exporter.config.document import ConfigError, Document, Path, Problem, echoed, parse, path_text
from braze_exporter.config.schema import (
    SECTIONS,
    WHEN,
    Alerts,
    Asking,
    Matching,
    SegmentUsers,
    Settings,
    Tagged,
    Workspace,
)
from braze_exporter.config.secrets import Secret
from braze_exporter.config.validation import InvalidError, M, validate
from braze_exporter.config.values import ALL, is_same_file, nearest

_MISPLACED = dict.fromkeys(
    ("api_key", "key", "token"), "the key does not belong in the file: name its place by api_key_file or api_key_env"
)
# Of more queries than any plan may have, it does not matter whether two are the same.
_MAX_COMPARED = 1_000_000
_KINDS = {kind.section: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a section, and where it stands in the file."""

    spec: Asking
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

    def error(self, problems: Iterable[tuple[Path, str]]) -> ConfigError:
        """Return the error for problems that were found later, each by its path."""
        return ConfigError(self.source, [self.document.problem(path, text) for path, text in problems])


def read(path: str, environ: Mapping[str, str] | None = None, *, may_ask_nothing: bool = False) -> Config:
    """Read the config file at `path`; raise `ConfigError` with every problem of it.

    With `environ` the API keys are read too, from it or from their files. Without it no key is touched. A workspace
    without an entry is a problem unless it `may_ask_nothing`.
    """
    try:
        text = FilePath(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a text file in UTF-8"
        remedy = "give the config file by --config.file"
        raise ConfigError(path, [Problem((), f"cannot be read ({reason}): {remedy}")]) from None
    return load(text, source=path, environ=environ, may_ask_nothing=may_ask_nothing)


def load(text: str, source: str, environ: Mapping[str, str] | None = None, *, may_ask_nothing: bool = False) -> Config:
    """Return the `Config` that `text` holds, as `read` does; `source` is its name in messages."""
    loader = _Loader(parse(text, source), environ, may_ask_nothing=may_ask_nothing)
    config = loader.config(source)
    if loader.problems or config is None:
        raise ConfigError(source, loader.problems)
    return config


def missing_keys(config: Config, environ: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each workspace whose key is not there. The keys themselves are not read."""
    problems = []
    for workspace in config.workspaces:
        spec = workspace.spec
        if spec.api_key_file and not secrets.is_there(spec.api_key_file):
            text = f"there is no such file: {secrets.shown_path(spec.api_key_file)}"
            problems.append(config.document.problem((*workspace.path, "api_key_file"), text))
        if spec.api_key_env and not environ.get(spec.api_key_env):
            text = secrets.unset_variable(spec.api_key_env)
            problems.append(config.document.problem((*workspace.path, "api_key_env"), text))
    return problems


class _Loader:
    """Collects what is good of a document, and every problem."""

    def __init__(self, document: Document, environ: Mapping[str, str] | None, *, may_ask_nothing: bool) -> None:
        self.document = document
        self.environ = environ
        self.may_ask_nothing = may_ask_nothing
        self.problems = list(document.problems)
        self.keys: dict[str, Secret] = {}
        self._state_file: str | None = None
        self._faulty = {problem.path for problem in self.problems}

    def config(self, source: str) -> Config | None:
        """Return the config, or None if it has a problem that leaves nothing to return."""
        data = self._mapping(self.document.data, ())
        if data is None:
            return None
        head = {key: value for key, value in data.items() if key != "workspaces"}
        settings = self._model(Settings, head, (), also_known=("workspaces",))
        self._state_file = settings.state_file if settings is not None else None
        found = data.get("workspaces")
        if not isinstance(found, list) or not found:
            needs = "name, url, a key and a section such as custom_events"
            self._complain(("workspaces",), f"must be a list of at least one workspace, each with {needs}")
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
        spec = self._model(Workspace, head, path, also_known=tuple(SECTIONS))
        for pair in (("url", "instance"), ("api_key_file", "api_key_env")):
            given = [key for key in pair if key in data]
            if len(given) != 1:
                what = "both are given: keep one of" if given else "one is required:"
                self._complain((*path, *given[1:]), f"{what} {' and '.join(pair) if given else ' or '.join(pair)}")
        for names in ("apps", "segments"):
            self._refuse_same_ids(data.get(names), (*path, names))
        entries = {section: self._entries(section, data, path) for section in SECTIONS if section in data}
        if not entries and not self.may_ask_nothing:
            self._complain(path, f"has nothing to ask: add one of {', '.join(SECTIONS)}")
        self._refuse_same_queries(entries)
        has_key = self._refuse_state_file(data.get("api_key_file"), path)
        key = self._key(data, path, self.environ) if has_key and self.environ is not None else None
        if spec is None:
            return None
        if key is not None:
            self.keys[spec.name] = key
        return ConfiguredWorkspace(spec, entries, path)

    def _entries(self, section: str, workspace: Mapping[str, Any], at: Path) -> tuple[Entry, ...]:
        path = (*at, section)
        found = workspace[section]
        if not isinstance(found, list) or not found:
            self._complain(path, f"must be a list of at least one entry, such as {SECTIONS[section].example}")
            return ()
        entries = []
        for index, item in enumerate(found):
            data = self._mapping(item, (*path, index))
            if data is None:
                continue
            spec = self._model(SECTIONS[section], data, (*path, index))
            if spec is not None:
                entries.append(Entry(spec, (*path, index)))
            if "timezone" not in workspace:
                self._refuse_local_time(data, (*path, index), only_days=Unit.HOUR not in _KINDS[section].units)
            if spec is not None and spec.alerts is not None:
                at = (*path, index, "alerts")
                self._refuse_idle_alerts(_KINDS[section], spec, spec.alerts, data["alerts"], at)
            for names in ("apps", "segments"):
                self._refuse_wrong_choices(data.get(names), (*path, index, names), workspace.get(names))
            if issubclass(SECTIONS[section], Matching):
                self._refuse_no_subject(_KINDS[section], data, (*path, index))
            if isinstance(spec, SegmentUsers) and spec.segment is not None:
                self._refuse_unknown(spec.segment, (*path, index, "segment"), "segments", workspace.get("segments"))
        return tuple(entries)

    def _refuse_no_subject(self, kind: Kind, data: Mapping[str, Any], path: Path) -> None:
        """Refuse an entry with both its subject and what stands in place of it, or with neither if that is not all."""
        instead = [name for name in ("match", "tag") if name in data and name in SECTIONS[kind.section].model_fields]
        if kind.subject in data and instead:
            self._complain((*path, instead[0]), f"both are given: keep one of {kind.subject} and {instead[0]}")
        elif kind.subject not in data and not instead and kind.subject in kind.noun.labels:
            self._complain((*path, kind.subject), "is required: add it, or match with a pattern for names")
        if "tag" in data and "match" not in data and "alerts" in data:
            self._complain((*path, "alerts"), "need match beside tag: Prometheus knows names, and no tags")

    def _refuse_local_time(self, data: Mapping[str, Any], path: Path, *, only_days: bool) -> None:
        """Refuse what needs to know the time zone, which the workspace does not tell."""
        remedy = "add the workspace's timezone, as in Braze's company settings"
        if only_days or data.get("unit") == Unit.DAY:
            at = path if only_days else (*path, "unit")
            self._complain(at, f"days need to know where they begin: {remedy}")
        if "baseline" in data:
            text = f"a baseline compares local hours, which need to be known: {remedy}"
            self._complain((*path, "baseline"), text)

    def _mapping(self, found: object, path: Path) -> dict[str, Any] | None:
        if isinstance(found, dict):
            return found
        self._complain(path, "must be a mapping of keys to values" if path else "must begin with workspaces:")
        return None

    def _model(self, model: type[M], data: dict[str, Any], path: Path, also_known: tuple[str, ...] = ()) -> M | None:
        try:
            return validate(model, data, path, also_known=also_known, misplaced=_MISPLACED)
        except InvalidError as error:
            for at, text in error.problems:
                self._complain(at, text)
            return None

    def _complain(self, path: Path, text: str) -> None:
        """Note a problem, unless the document has no value at `path`, and said so."""
        if path not in self._faulty:
            self.problems.append(self.document.problem(path, text))

    def _refuse_same_names(self, found: list[Any]) -> None:
        first: dict[str, int] = {}
        for index, data in enumerate(found):
            name = data.get("name") if isinstance(data, dict) else None
            if isinstance(name, str) and (other := first.setdefault(name, index)) != index:
                text = f'"{echoed(name)}" is the name of workspaces[{other}] too: choose another'
                self._complain(("workspaces", index, "name"), text)

    def _refuse_same_ids(self, found: object, path: Path) -> None:
        first: dict[str, str] = {}
        for name, braze_id in found.items() if isinstance(found, dict) else ():
            if isinstance(braze_id, str) and (other := first.setdefault(braze_id.lower(), name)) != name:
                self._complain((*path, name), f'has the same identifier as "{echoed(other)}": keep one')

    def _refuse_wrong_choices(self, found: object, path: Path, defined: object) -> None:
        """Of the names that an entry chooses, each is to be one of the workspace's, and to stand there once."""
        names = str(path[-1])
        seen: set[str] = set()
        for index, name in enumerate(found if isinstance(found, list) else ()):
            if not isinstance(name, str) or not name.strip():
                continue  # the model says so
            if name in seen:
                self._complain((*path, index), f'"{echoed(name)}" stands twice: keep one')
            elif name != ALL:
                self._refuse_unknown(name, (*path, index), names, defined)
            seen.add(name)

    def _refuse_unknown(self, name: str, path: Path, names: str, defined: object) -> None:
        """Refuse a name that is not among those that the workspace defines."""
        known: Mapping[str, Any] = defined if isinstance(defined, dict) else {}
        if name not in known:
            hint = nearest(name, sorted([ALL, *known]))
            self._complain(path, f'"{echoed(name)}" is not in the workspace\'s {names}{hint}: define it')

    def _refuse_idle_alerts(
        self, kind: Kind, entry: Asking, alerts: Alerts, given: Mapping[str, Any], path: Path
    ) -> None:
        """Refuse alerts that could never fire, and what has no effect on them."""
        if not {*WHEN} & {*given}:
            self._complain(path, f"says nothing of when: add one of {', '.join(WHEN)}")
        if alerts.drop is not None and entry.baseline is None:
            text = "compares with what is usual, which this entry does not know: add baseline: {weeks: 4} beside alerts"
            self._complain((*path, "drop"), text)
        if alerts.drop is None and "min" in given:
            self._complain((*path, "min"), "is the least baseline that drop looks at: add drop, or remove min")
        if alerts.below is not None and alerts.above is not None and alerts.below >= alerts.above:
            text = f"must be less than above, which is {alerts.above:,.15g}: between the two is what is usual"
            self._complain((*path, "below"), text)
        if alerts.silent is None:
            return
        if not any(noun.is_additive for noun in kind.nouns):
            self._complain((*path, "silent"), f"needs a counter, which {kind.section} have not: take below or drop")
        elif ALL not in entry.asked.segments:
            text = "needs a counter, which segments do not have: add all to segments, or take below or drop"
            self._complain((*path, "silent"), text)

    def _refuse_same_queries(self, entries: Mapping[str, tuple[Entry, ...]]) -> None:
        """Two entries that ask for the same would be two series with the same labels."""
        every = (
            ((section, subject, asked.unit, app, segment), entry.path)
            for section, group in entries.items()
            for entry in group
            for subject, asked in [(_subject(entry.spec), entry.spec.asked)]  # once for a million of them
            for app, segment in product(set(asked.apps), set(asked.segments))
        )
        first: dict[tuple[Any, ...], Path] = {}
        for query, path in islice(every, _MAX_COMPARED):
            if (other := first.setdefault(query, path)) != path:
                text = f"asks for the same as the entry on line {self.document.lines[other]}"
                self._complain(path, f"{text} ({_what_is_asked(query[0])}): remove one")

    def _refuse_state_file(self, key_file: object, path: Path) -> bool:
        """Refuse a state file that is the key file; return whether it is another, so that the key may be read.

        After a reload the state file is in use, and whoever closes it lets go of the lock that the process has on it.
        """
        is_other = not (self._state_file and isinstance(key_file, str) and is_same_file(self._state_file, key_file))
        if not is_other:
            text = f"is the same file as {path_text((*path, 'api_key_file'))}: choose another path"
            self._complain(("state_file",), text)
        return is_other

    def _key(self, data: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> Secret | None:
        refused = {problem.path for problem in self.problems}
        for name in ("api_key_file", "api_key_env"):
            if name not in data or (*path, name) in refused:
                continue
            try:
                return (
                    secrets.from_file(data[name])
                    if name == "api_key_file"
                    else secrets.from_variable(data[name], environ)
                )
            except secrets.KeyUnusableError as error:
                self._complain((*path, name), str(error))
        return None


def _subject(entry: Asking) -> tuple[object, ...]:
    """Return what tells entries of a section apart that have the same unit, app and segment."""
    return (entry.is_wild, getattr(entry, "match", None), getattr(entry, "tag", None), entry.asked.subject)


def _what_is_asked(section: str) -> str:
    """Return what tells the queries of a section apart, in words."""
    own = [name for name in SECTIONS[section].model_fields if name not in Tagged.model_fields]
    words = [name.removesuffix("s") for name in own]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
