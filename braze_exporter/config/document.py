"""YAML text → plain data, with the line of every value: the ground that clear error messages stand on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

Path: TypeAlias = tuple[str | int, ...]

# Aliases can make a small file stand for a huge tree ("billion laughs"), and nesting can exhaust the stack.
MAX_VALUES = 100_000
MAX_DEPTH = 20

_MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a config: where (line and path, as far as known), what, and the remedy."""

    path: Path
    text: str
    line: int | None = None

    def render(self, source: str) -> str:
        """Return the problem as one line that starts with `source` and, if known, the line in it."""
        where = f"{source}:{self.line}" if self.line else source
        path = path_text(self.path)
        return f"{where}: {path}: {self.text}" if path else f"{where}: {self.text}"


class ConfigError(Exception):
    """A config that cannot be used: every problem of it, one a line."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        """Keep the `problems` of the config called `source`, in the order of their lines."""
        self.source = source
        self.problems = tuple(sorted(set(problems), key=lambda p: (p.line or 0, path_text(p.path), p.text)))
        super().__init__("\n".join(problem.render(source) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None, …) and the line on which each path stands, from 1."""

    data: Any
    lines: Mapping[Path, int]

    def problem(self, path: Path, text: str) -> Problem:
        """Return a problem at `path`, on the line of the nearest thing that the document has."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Problem(path, text, self.lines.get(known))


def path_text(path: Path) -> str:
    """Return a path as people write it: `workspaces[0].custom_events[1].unit`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in path).removeprefix(".")


def shown(value: object, limit: int = 60) -> str:
    """Return a value as it may stand in a one-line message: printable and short."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def parse(text: str, source: str) -> Document:
    """Parse YAML `text` into a `Document`; raise `ConfigError` with each problem of its form, never anything else."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(source, [Problem((), f"not YAML: {shown(error.problem, 200)}", line)]) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow; it has a place, but no line
        reason = getattr(error, "reason", "unreadable")
        raise ConfigError(source, [Problem((), f"not YAML: {shown(reason, 200)}")]) from None
    except (RecursionError, ValueError):
        raise ConfigError(source, [Problem((), "not YAML that can be read: it is nested too deeply")]) from None
    builder = _Builder()
    try:
        data = builder.value(root, ()) if root is not None else None
    except (_TooMuchError, RecursionError):
        text = "holds too much: too many values, or values nested too deeply"
        raise ConfigError(source, [Problem((), text)]) from None
    if builder.problems:
        raise ConfigError(source, builder.problems)
    return Document(data, builder.lines)


class _TooMuchError(Exception):
    """The data is larger than any config has reason to be."""


class _Builder:
    """Turns nodes into data, noting the line of every path and every problem on the way."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._constructor = yaml.constructor.SafeConstructor()
        self._values = 0

    def value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 - YAML holds anything
        """Return the data of `node`, which stands at `path`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self._values > MAX_VALUES or len(path) > MAX_DEPTH:
            raise _TooMuchError
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _complain(self, path: Path, node: yaml.Node, text: str) -> None:
        self.problems.append(Problem(path, text, node.start_mark.line + 1))

    def _scalar(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401
        try:
            return self._constructor.construct_object(node)  # type: ignore[no-untyped-call]
        except (yaml.YAMLError, ValueError, OverflowError, TypeError, LookupError, AttributeError):
            self._complain(path, node, f"cannot be read as {shown(node.tag)}: if it is text, quote it")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, int] = {}  # a key of the mapping itself may override a merged one, but not stand twice
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG or not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in own:
                first = own[key_node.value]
                self._complain((*path, key_node.value), key_node, f"stands twice, first on line {first}: keep one")
            own[key_node.value] = key_node.start_mark.line + 1
        try:
            self._constructor.flatten_mapping(node)  # type: ignore[no-untyped-call]
        except (yaml.YAMLError, RecursionError):
            self._complain(path, node, "has a merge (<<) that is not of mappings")
            return {}
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                written = shown(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "this"
                self._complain(path, key_node, f'keys are text: quote it ("{written}")')
                continue
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            data[key] = self.value(value_node, (*path, key))
        return data
