"""Load a file and the environment into one frozen `Config`, or raise one `ConfigError` with every problem.

Each mapping is validated separately, so that a mistake in one does not hide mistakes in the others.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from braze_exporter.braze.kinds import KINDS_BY_SECTION, SEGMENT_USERS, SeriesKind, Unit
from braze_exporter.braze.names import normalize_id
from braze_exporter.config import secrets
from braze_exporter.config.document import ConfigError, Document, KeyPath, echo_value, format_path, parse
from braze_exporter.config.files import is_same_file, read_config_text
from braze_exporter.config.quoting import quote_scalar
from braze_exporter.config.schema import (
    ALERT_CONDITIONS,
    SECTIONS,
    Alerts,
    Entry,
    RegexEntry,
    Settings,
    Workspace,
)
from braze_exporter.config.secrets import Secret
from braze_exporter.config.suggestions import did_you_mean
from braze_exporter.config.validation import M, validate
from braze_exporter.config.values import ALL

_MISPLACED_KEYS = dict.fromkeys(
    ("api_key", "key", "token"), "the API key must not be in the config; set api_key_file or api_key_env instead"
)
# The keys of a workspace that define names for its entries. Entries have lists of these names under the same keys.
_DEFINED_NAMES = ("apps", "segments")
# The maximum number of queries that are compared to find duplicates. A plan cannot have more.
_MAX_COMPARED = 1_000_000


@dataclass(frozen=True, slots=True)
class LocatedEntry:
    """An entry, the kind that its section stands for, and its path in the file."""

    kind: SeriesKind
    spec: Entry
    path: KeyPath


@dataclass(frozen=True, slots=True)
class ConfiguredWorkspace:
    """A workspace, its entries in the order of the sections, and its path in the file."""

    spec: Workspace
    entries: tuple[LocatedEntry, ...]
    path: KeyPath


@dataclass(frozen=True)
class Config:
    """A valid config. `keys` holds the API keys by workspace name, or is empty if they were not read.

    `text` is that of the file. `document` parses it again, because data and line numbers are rarely needed afterwards
    and take far more memory.
    """

    settings: Settings
    workspaces: tuple[ConfiguredWorkspace, ...]
    keys: Mapping[str, Secret]
    source: str
    text: str = field(repr=False)

    @functools.cached_property
    def document(self) -> Document:
        """The data of the file, with line numbers."""
        return parse(self.text, self.source)

    def make_error(self, problems: Iterable[tuple[KeyPath, str]]) -> ConfigError:
        """Return a `ConfigError` for `problems` that were found after loading: pairs of path and text."""
        return ConfigError(self.source, [self.document.make_problem(path, text) for path, text in problems])


def read_config(path: str, environ: Mapping[str, str] | None = None, *, allow_empty: bool = False) -> Config:
    """Read and validate the config file at `path`.

    With `environ`, the API keys are read too, from variables or key files. Without it, no key is read. A workspace
    without entries is a problem unless `allow_empty` is set.

    Raises `ConfigError` with every problem.
    """
    text = read_config_text(path, "set --config.file to the path of the config file")
    return load_config(text, source=path, environ=environ, allow_empty=allow_empty)


def load_config(
    text: str, source: str, environ: Mapping[str, str] | None = None, *, allow_empty: bool = False
) -> Config:
    """Return the `Config` in `text`, as `read_config` does; `source` is its name in messages."""
    document = parse(text, source)
    loader = _Loader(document, environ, allow_empty=allow_empty)
    settings, workspaces = loader.build()
    problems = document.find_problems(loader.problems)
    if settings is None or problems:
        raise ConfigError(source, problems)
    return Config(settings, workspaces, loader.keys, source, text)


class _Loader:
    """Builds a `Config` from a document, and collects every problem."""

    def __init__(self, document: Document, environ: Mapping[str, str] | None, *, allow_empty: bool) -> None:
        self.document = document
        self.environ = environ
        self.allow_empty = allow_empty
        self.problems: list[tuple[KeyPath, str]] = []
        self.keys: dict[str, Secret] = {}
        self._state_file: str | None = None

    def build(self) -> tuple[Settings | None, tuple[ConfiguredWorkspace, ...]]:
        """Return the settings and the workspaces, as far as they are valid."""
        data = self._check_mapping(self.document.data, (), "with the key workspaces")
        if data is None:
            return None, ()
        settings = self._validate(Settings, data, (), extra_keys=("workspaces",))
        self._state_file = settings.state_file if settings is not None else None
        needs = "name, url, api_key_file and a section such as custom_events"
        raw = self._check_list(data, ("workspaces",), f"workspaces, each with {needs}")
        workspaces = [self._build_workspace(item, ("workspaces", index)) for index, item in enumerate(raw)]
        self._check_unique_names(raw)
        return settings, tuple(filter(None, workspaces))

    def _build_workspace(self, raw: object, path: KeyPath) -> ConfiguredWorkspace | None:
        data = self._check_mapping(raw, path)
        if data is None:
            return None
        spec = self._validate(Workspace, data, path, extra_keys=tuple(SECTIONS))
        for pair in (("url", "instance"), ("api_key_file", "api_key_env")):
            given = [key for key in pair if key in data]
            if len(given) != 1:
                both = f"{' and '.join(pair)} are mutually exclusive; remove one of them"
                self._add_problem((*path, *given[1:]), both if given else f"{' or '.join(pair)} is required")
        for names in _DEFINED_NAMES:
            self._check_unique_ids(data.get(names), (*path, names))
        sections = [section for section in SECTIONS if section in data]
        entries = tuple(entry for section in sections for entry in self._build_entries(section, data, path))
        if not sections and not self.allow_empty:
            self._add_problem(path, f"at least one of {', '.join(SECTIONS)} is required")
        self._check_unique_queries(entries)
        key = self._read_api_key(data, path)
        if spec is None:
            return None
        if key is not None:
            self.keys[spec.name] = key
        return ConfiguredWorkspace(spec, entries, path)

    def _build_entries(self, section: str, data: Mapping[str, Any], path: KeyPath) -> Iterator[LocatedEntry]:
        """Yield the valid entries of a section of the workspace `data` at `path`."""
        raw = self._check_list(data, (*path, section), f"entries, such as - {SECTIONS[section].example}")
        entries = (self._build_entry(section, item, (*path, section, index), data) for index, item in enumerate(raw))
        return filter(None, entries)

    def _build_entry(
        self, section: str, item: object, path: KeyPath, data_of_workspace: Mapping[str, Any]
    ) -> LocatedEntry | None:
        kind, model = KINDS_BY_SECTION[section], SECTIONS[section]
        data = self._check_mapping(item, path, f"of keys to values, such as {{{_entry_example(model, item)}}}")
        if data is None:
            return None
        spec = self._validate(model, data, path)
        if "timezone" not in data_of_workspace:
            self._check_timezone(data, path, only_days=Unit.HOUR not in kind.units)
        for key in (*_DEFINED_NAMES, "channels", "stats"):
            self._check_names(data.get(key), (*path, key), data_of_workspace)
        if issubclass(model, RegexEntry):
            self._check_subject(kind, data, path)
        if spec is None:
            return None
        if spec.alerts is not None:
            self._check_alerts(kind, spec, spec.alerts, data["alerts"], (*path, "alerts"))
        if kind is SEGMENT_USERS and not spec.is_selector and "segment" in data:
            self._check_known(data["segment"], (*path, "segment"), "segments", data_of_workspace)
        return LocatedEntry(kind, spec, path)

    def _check_subject(self, kind: SeriesKind, keys: Collection[str], path: KeyPath) -> None:
        """Check that an entry with `keys` has a subject or a selector (`regex`, `tag`), but not both.

        The subject is optional in sections that can also count all subjects together. An entry with `tag` and `alerts`
        requires `regex`, because the metrics have no label for Braze's tags.
        """
        selectors = [name for name in ("regex", "tag") if name in SECTIONS[kind.section].model_fields]
        given_selectors = [name for name in selectors if name in keys]
        if kind.subject_label in keys and given_selectors:
            text = f"{kind.subject_label} and {given_selectors[0]} are mutually exclusive; remove one of them"
            self._add_problem((*path, given_selectors[0]), text)
        elif kind.subject_label not in keys and not given_selectors and kind.subject_label in kind.metric_group.labels:
            self._add_problem((*path, kind.subject_label), f"is required unless {' or '.join(selectors)} is set")
        if "tag" in keys and "regex" not in keys and "alerts" in keys:
            self._add_problem(
                (*path, "alerts"), "regex is required beside tag; metrics have labels for names, but not for tags"
            )

    def _check_timezone(self, data: Mapping[str, Any], path: KeyPath, *, only_days: bool) -> None:
        """Add a problem for each setting that requires a time zone. Called if the workspace sets none."""
        remedy = "requires timezone in the workspace; set it as in Braze's company settings"
        if only_days or data.get("unit") == Unit.DAY:
            at = path if only_days else (*path, "unit")
            self._add_problem(at, f"a day starts at local midnight, which {remedy}")
        if "baseline" in data:
            self._add_problem((*path, "baseline"), f"a baseline compares local hours, which {remedy}")

    def _check_mapping(self, raw: object, path: KeyPath, contents: str = "of keys to values") -> dict[str, Any] | None:
        """Return `raw` if it is a mapping. `contents` describes it in the message for other values."""
        if isinstance(raw, dict):
            return raw
        self._add_problem(path, f"must be a mapping {contents}")
        return None

    def _check_list(self, data: Mapping[str, Any], path: KeyPath, contents: str) -> list[Any]:
        """Return the list at `path`, which is a key of `data`. If it is no list or empty, the result is empty."""
        raw = data.get(str(path[-1]))
        if isinstance(raw, list) and raw:
            return raw
        self._add_problem(path, f"must be a non-empty list of {contents}")
        return []

    def _validate(
        self, model: type[M], data: dict[str, Any], path: KeyPath, extra_keys: tuple[str, ...] = ()
    ) -> M | None:
        return validate(model, data, path, self.problems, extra_keys=extra_keys, misplaced=_MISPLACED_KEYS)

    def _add_problem(self, path: KeyPath, text: str) -> None:
        self.problems.append((path, text))

    def _check_unique_names(self, raw: list[Any]) -> None:
        first: dict[str, int] = {}
        for index, data in enumerate(raw):
            name = data.get("name") if isinstance(data, dict) else None
            if isinstance(name, str) and (other := first.setdefault(name, index)) != index:
                text = f'"{echo_value(name)}" is already the name of workspaces[{other}]; choose another name'
                self._add_problem(("workspaces", index, "name"), text)

    def _check_unique_ids(self, raw: object, path: KeyPath) -> None:
        first: dict[str, str] = {}
        for name, braze_id in raw.items() if isinstance(raw, dict) else ():
            if isinstance(braze_id, str) and (other := first.setdefault(normalize_id(braze_id), name)) != name:
                self._add_problem(
                    (*path, name), f'has the same identifier as "{echo_value(other)}"; remove one of them'
                )

    def _check_names(self, raw: object, path: KeyPath, data_of_workspace: Mapping[str, Any]) -> None:
        """Check that no name in a list of an entry is repeated, and that the workspace defines apps and segments."""
        key = str(path[-1])
        seen: set[str] = set()
        for index, name in enumerate(raw if isinstance(raw, list) else ()):
            if not isinstance(name, str) or not name.strip():
                continue  # the validation of the entry reports it
            if name in seen:
                self._add_problem((*path, index), f'duplicate name "{echo_value(name)}"; remove one of them')
            elif key in _DEFINED_NAMES and name != ALL:
                self._check_known(name, (*path, index), key, data_of_workspace)
            seen.add(name)

    def _check_known(self, name: str, path: KeyPath, names: str, data_of_workspace: Mapping[str, Any]) -> None:
        """Add a problem if the workspace does not define `name` under the key `names`."""
        defined = data_of_workspace.get(names)
        known = defined if isinstance(defined, dict) else {}
        if name not in known:
            hint = did_you_mean(name, [ALL, *known]) or "; add it there"
            self._add_problem(path, f'"{echo_value(name)}" is not defined in the workspace\'s {names}{hint}')

    def _check_alerts(
        self, kind: SeriesKind, entry: Entry, alerts: Alerts, written_keys: Mapping[str, Any], path: KeyPath
    ) -> None:
        """Add a problem for alerts that can never fire, and for settings that have no effect on them."""
        if not {*ALERT_CONDITIONS} & {*written_keys}:
            self._add_problem(path, f"at least one of {', '.join(ALERT_CONDITIONS)} is required")
        if alerts.drop is not None and entry.baseline is None:
            self._add_problem((*path, "drop"), "requires a baseline; add baseline: {weeks: 4} to the entry")
        if alerts.drop is None and "min_baseline" in written_keys:
            self._add_problem(
                (*path, "min_baseline"),
                "is the minimum baseline for drop, which is not set; add drop or remove min_baseline",
            )
        if alerts.below is not None and alerts.above is not None and alerts.below >= alerts.above:
            text = f"must be less than above, which is {alerts.above:,.15g}; values between the two do not fire"
            self._add_problem((*path, "below"), text)
        primary_stats, stats = kind.metric_group.primary_stats, entry.query_spec.stats
        if primary_stats and stats and not {*primary_stats} & {*stats}:
            text = f"counts {' and '.join(primary_stats)}, but stats contains neither; add one of them to stats"
            self._add_problem(path, text)
        if alerts.silent is None:
            return
        if not any(metric_group.is_additive for metric_group in kind.metric_groups):
            self._add_problem((*path, "silent"), f"requires a counter, and {kind.section} has none; use below or drop")
        elif ALL not in entry.query_spec.segments:
            text = "requires a counter, and segments have none; add all to segments, or use below or drop"
            self._add_problem((*path, "silent"), text)

    def _check_unique_queries(self, entries: Iterable[LocatedEntry]) -> None:
        """Check that no two entries define the same query, since their series would have the same labels."""
        first: dict[tuple[object, ...], KeyPath] = {}
        for entry in entries:
            query, is_id = entry.spec.query_spec, entry.kind.is_identified_by_id
            subject = (normalize_id(query.subject) if is_id else query.subject, *entry.spec.selector)
            for names in islice(product(query.apps, query.segments), _MAX_COMPARED - len(first)):
                if (other := first.setdefault((entry.kind, subject, query.unit, *names), entry.path)) != entry.path:
                    text = f"defines the same query as the entry on line {self.document.find_line(other)}"
                    self._add_problem(entry.path, f"{text}; remove one of them")

    def _read_api_key(self, data: Mapping[str, Any], path: KeyPath) -> Secret | None:
        """Return the API key of the workspace `data`, or None if it is invalid or not to be read.

        A key file that is the state file is not read. During a reload the state file is open, and closing a second
        descriptor of it would release the lock of the process.
        """
        refused = {path for path, _ in self.problems} | {problem.path for problem in self.document.unreadable}
        file, variable = (
            data.get(name) if (*path, name) not in refused else None for name in ("api_key_file", "api_key_env")
        )
        if file is not None and self._state_file and is_same_file(self._state_file, file):
            text = f"is the same file as {format_path((*path, 'api_key_file'))}; choose another path"
            self._add_problem(("state_file",), text)
        elif self.environ is not None and (file is not None or variable is not None):
            try:
                if file is not None:
                    return secrets.read_key_file(file)
                return secrets.read_key_variable(str(variable), self.environ)
            except secrets.KeyUnusableError as error:
                self._add_problem((*path, "api_key_env" if file is None else "api_key_file"), str(error))
        return None


def _entry_example(model: type[Entry], item: object) -> str:
    """Return an entry of a section, with `item` as its subject if that is a string."""
    is_subject = isinstance(item, str) and model.example.startswith(f"{model.subject_key}:")
    return f"{model.subject_key}: {quote_scalar(echo_value(item))}" if is_subject else model.example
