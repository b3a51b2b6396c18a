"""Parse YAML text into plain data, and record the line of every value for error messages."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

KeyPath: TypeAlias = tuple[str | int, ...]
_Pairs: TypeAlias = dict[str, tuple[yaml.Node, yaml.Node]]

# Aliases let a small file expand to a huge tree ("billion laughs"), and deep nesting can exhaust the stack.
MAX_VALUES = 100_000
MAX_DEPTH = 20
# Larger integers are refused, because Python cannot print an integer of thousands of digits.
_MAX_BITS = 64

# Replaces a secret, or a value that may be one, in messages.
MASK = "***"

_TAG = "tag:yaml.org,2002:"
# The message does not repeat the tag: an unquoted password that begins with ! is read as a tag.
_TAG_MESSAGE = "YAML tags are not supported; remove the tag, or quote a value that starts with !"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_MESSAGE = "contains half a character (a lone surrogate); remove it"
# A word of this length that contains a digit is probably a key, a hash or a token; names rarely are.
_LONG_WORD = re.compile("[A-Za-z0-9+/=_.~-]{20,}")
# The standard tags of scalars in YAML. Any other tag may be a password that begins with !!.
_SCALAR_TAGS = {"binary", "bool", "float", "int", "null", "timestamp"}
# The fixes for messages of the YAML parser, by the start of the message.
_HINTS = {
    "found character '\\t'": "indent with spaces, not tabs",
    "found character": "quote a value that starts with this character",
    "found unknown escape character": "write a value with backslashes in single quotes",
    "found undefined alias": "quote a value that starts with *",
    "mapping values are not allowed here": 'check the indentation, and quote a value that contains ": "',
    "found another document": "the file must be a single document, remove the line ---",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in a config: its `path`, its `line` if known, and a `text` that states the problem and the fix."""

    path: KeyPath
    text: str
    line: int | None = None

    def render(self, source: str) -> str:
        """Return the problem as one line that starts with `source` and, if known, the line number."""
        where = f"{source}:{self.line}" if self.line else source
        path = format_path(self.path)
        return f"{where}: {path}: {self.text}" if path else f"{where}: {self.text}"


class ConfigError(Exception):
    """Raised if a config cannot be used. The message lists every problem, one per line."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        """Store the `problems` of the config named `source`, sorted by line."""
        self.source = shorten(source, 200)
        self.problems = tuple(sorted(set(problems), key=lambda p: (p.line or 0, format_path(p.path), p.text)))
        super().__init__("\n".join(problem.render(self.source) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Document:
    """The plain data (dict, list, str, int, float, bool, None, …) of a YAML text, and the line number of each path.

    `problems` are those of single values. At their paths the data has None or no value, so that the rest can still be
    validated. Lines are numbered from 1.
    """

    data: Any
    lines: Mapping[KeyPath, int]
    problems: tuple[Problem, ...] = ()

    def make_problem(self, path: KeyPath, text: str) -> Problem:
        """Return a `Problem` at `path`, with the line of the nearest enclosing path that the document has."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Problem(path, text, self.lines.get(known))


def format_path(path: KeyPath) -> str:
    """Return a path as text, such as `workspaces[0].custom_events[1].unit`; keys that may be secret are hidden."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_echo_key(part)}" for part in path).removeprefix(".")


def shorten(value: object, limit: int = 60) -> str:
    """Return `value` as text for a one-line message: printable, and at most `limit` characters long."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def echo_value(value: object) -> str:
    """Return `value` as text for an error message, or `***` if a part of it looks like a key."""
    is_key_like = any(re.search("[0-9]", word) for word in _LONG_WORD.findall(str(value)))
    return MASK if is_key_like else shorten(value)


def _echo_key(key: str) -> str:
    """Return a mapping key as text for an error message, or `***` if it may be a key or `user:password`."""
    return MASK if ":" in key else echo_value(key)


def parse(text: str, source: str) -> Document:
    """Parse YAML `text` into a `Document`; `source` is its name in messages.

    Raises `ConfigError`, and no other exception, if the text is not YAML or exceeds `MAX_VALUES` or `MAX_DEPTH`.
    """
    try:
        root = _parse_root(text)
        builder = _Builder()
        data = builder.build(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The name of an alias or the handle of a tag may be an unquoted password that begins with * or !.
        problem_text = (error.problem or "unreadable").removeprefix("but ")
        problem_text = re.sub("(undefined alias|tag handle) .*", r"\1", problem_text)
        hint = next((f"; {hint}" for start, hint in _HINTS.items() if problem_text.startswith(start)), "")
        problem = Problem((), f"invalid YAML: {shorten(problem_text, 200)}{hint}", mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        problem = Problem((), f"invalid YAML: character {character} is not allowed; remove it", line)
    except (ValueError, OverflowError):  # the parser does not check the range of escapes such as \UFFFFFFFF
        problem = Problem((), "invalid YAML: invalid escape such as \\U…, or invalid directive (%); remove it")
    except (_DocumentTooLargeError, RecursionError):
        limits = f"at most {MAX_VALUES:,} values and {MAX_DEPTH} levels are allowed"
        problem = Problem((), f"too many values, or values nested too deeply; {limits}")
    else:
        return Document(data, builder.lines, tuple(builder.problems))
    raise ConfigError(source, [problem])


def _parse_root(text: str) -> yaml.Node | None:
    loader = yaml.SafeLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _DocumentTooLargeError(Exception):
    """Raised if a document has more values or deeper nesting than any real config."""


class _Builder:
    """Converts YAML nodes to plain data, and collects the line of every path and the problems."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._constructor = yaml.constructor.SafeConstructor()
        self._pairs_of: dict[yaml.Node, _Pairs] = {}
        self._value_count = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:  # noqa: ANN401 - a YAML value can have any type
        """Return the data of `node`, whose path is `path`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count_values(1)
        if len(path) > MAX_DEPTH:
            raise _DocumentTooLargeError
        if isinstance(node, yaml.ScalarNode):
            return self._build_scalar(node, path)
        if node.tag not in {f"{_TAG}map", f"{_TAG}seq"}:
            self._add_problem(path, node, _TAG_MESSAGE)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._build_mapping(node, path)
        return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]

    def _count_values(self, values: int) -> None:
        """Add `values` to the number of values. Raises `_DocumentTooLargeError` if it exceeds `MAX_VALUES`."""
        self._value_count += values
        if self._value_count > MAX_VALUES:
            raise _DocumentTooLargeError

    def _add_problem(self, path: KeyPath, node: yaml.Node, text: str) -> None:
        self.problems.append(Problem(path, text, node.start_mark.line + 1))

    def _build_scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:  # noqa: ANN401
        node.value = _join_surrogates(node.value)
        if _SURROGATE.search(node.value):
            self._add_problem(path, node, _SURROGATE_MESSAGE)
            return None
        try:
            value = self._constructor.construct_object(node)
            if not isinstance(value, int) or value.bit_length() <= _MAX_BITS:
                return value
        except (yaml.YAMLError, ValueError, OverflowError, TypeError, LookupError, AttributeError):
            pass
        kind = node.tag.removeprefix(_TAG)
        self._add_problem(
            path,
            node,
            f"cannot be parsed as {kind}; quote it if it is a string" if kind in _SCALAR_TAGS else _TAG_MESSAGE,
        )
        return None

    def _build_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, (key_node, value_node) in self._collect_pairs(node, path).items():
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            data[key] = self.build(value_node, (*path, key))
        return data

    def _collect_pairs(self, node: yaml.MappingNode, path: KeyPath) -> _Pairs:
        """Return the nodes of a mapping by key.

        The mapping's own keys override those that it merges (`<<`). Among the merged mappings the first wins.
        """
        if node in self._pairs_of:
            return self._pairs_of[node]
        merged: _Pairs = {}
        own: _Pairs = {}
        self._pairs_of[node] = own  # ends the recursion if the mapping merges itself
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                for source in self._merged_mappings(value_node, (*path, "<<")):
                    merged = self._collect_pairs(source, (*path, "<<")) | merged
                    self._count_values(len(merged))
                continue
            key = self._read_key(key_node, path)
            if key is None:
                continue
            if key in own:
                first = own[key][0].start_mark.line + 1
                self._add_problem((*path, key), key_node, f"duplicate key, first defined on line {first}")
            own[key] = (key_node, value_node)
        self._pairs_of[node] = merged | own
        return self._pairs_of[node]

    def _merged_mappings(self, node: yaml.Node, path: KeyPath) -> list[yaml.MappingNode]:
        """Return the mappings in the value of a merge key (`<<`)."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        mappings = [source for source in sources if isinstance(source, yaml.MappingNode)]
        if len(mappings) < len(sources):
            self._add_problem(path, node, "must be a mapping or a list of mappings; write <<: *name")
        return mappings

    def _read_key(self, node: yaml.Node, path: KeyPath) -> str | None:
        """Return the key in `node`, or None if it is invalid, which adds a problem."""
        if not isinstance(node, yaml.ScalarNode):
            self._add_problem(path, node, "keys must be strings; quote a key that starts with { or [")
            return None
        node.value = _join_surrogates(node.value)
        if node.tag != f"{_TAG}str":
            self._add_problem((*path, node.value), node, f'keys must be strings; quote it ("{echo_value(node.value)}")')
        elif _SURROGATE.search(node.value):
            self._add_problem((*path, node.value), node, _SURROGATE_MESSAGE)
        else:
            return str(node.value)
        return None


def _join_surrogates(text: str) -> str:
    """Return `text` with each pair of surrogates as one character. JSON writes characters such as emoji as pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
