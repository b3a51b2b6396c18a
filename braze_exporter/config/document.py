"""Parse YAML text into plain data, and record the line of every value for error messages."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

KeyPath: TypeAlias = tuple[str | int, ...]

# Aliases let a small file expand to a huge tree ("billion laughs").
MAX_VALUES = 100_000

# Replaces a secret, or a value that may be one, in messages.
MASK = "***"

_TAG = "tag:yaml.org,2002:"
# The message does not repeat the tag: an unquoted password that begins with ! is read as a tag.
_TAG_MESSAGE = "YAML tags are not supported; remove the tag, or quote a value that starts with !"
_SURROGATE = re.compile("[\ud800-\udfff]")
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
    "found half a character": "remove it",
    "keys must be strings": "quote a key that starts with { or [",
    "mapping values are not allowed here": 'check the indentation, and quote a value that contains ": "',
    "found another document": "the file must be a single document, remove the line ---",
    "found unexpected end of stream": "close the quote that begins here",
    "found unexpected document separator": "close the quote that begins here",
    "could not find expected ':'": "write a colon and a space after a key",
    "expected ',' or": "close the bracket, or add a comma",
}
# The messages of the YAML parser whose cause is where the value begins, not where parsing ends.
_MESSAGE_ABOUT_BEGIN = re.compile(
    "found unexpected (end of stream|document separator)|could not find expected ':'|expected ',' .* '(:|<stream end>)'"
)


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
        self.source = shorten_path(source)
        self.problems = tuple(sorted(set(problems), key=lambda p: (p.line or 0, format_path(p.path), p.text)))
        super().__init__("\n".join(problem.render(self.source) for problem in self.problems))


class _Mapping(dict[str, Any]):
    """A mapping of a document, with the line of each key."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class _List(list[Any]):
    """A list of a document, with the line of each item."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Document:
    """The plain data (dict, list, str, int, float, bool, None, …) of a YAML text, and the line at which it begins.

    `unreadable` are the problems of single values. At their paths the data has None or no value, so that the rest can
    still be validated. Lines are numbered from 1.
    """

    data: Any
    line: int | None = None
    unreadable: tuple[Problem, ...] = ()

    def find_problems(self, invalid: Iterable[tuple[KeyPath, str]]) -> list[Problem]:
        """Return the problems of the document: unreadable values, and `invalid` ones, given by their paths and texts.

        A value that is unreadable has no other problem.
        """
        paths = {problem.path for problem in self.unreadable}
        return [*self.unreadable, *(self.make_problem(path, text) for path, text in invalid if path not in paths)]

    def make_problem(self, path: KeyPath, text: str) -> Problem:
        """Return a `Problem` at `path`, with the line of the nearest enclosing path that the document has."""
        return Problem(path, text, self.find_line(path))

    def find_line(self, path: KeyPath) -> int | None:
        """Return the line of the value at `path`, or of the nearest enclosing path that the document has."""
        return self._lines_along(path)[-1]

    def has_value(self, path: KeyPath) -> bool:
        """Return whether the document has a value at `path`."""
        return len(self._lines_along(path)) > len(path)

    def _lines_along(self, path: KeyPath) -> list[int | None]:
        """Return the line of the document, and those of the values on the way to `path` that it has."""
        lines, value = [self.line], self.data
        for part in path:
            known = getattr(value, "lines", {})
            if part not in known:
                break
            lines.append(known[part])
            value = value[part]
        return lines


def format_path(path: KeyPath) -> str:
    """Return a path as text, such as `workspaces[0].custom_events[1].unit`; keys that may be secret are hidden."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_echo_key(part)}" for part in path).removeprefix(".")


def shorten(value: object, limit: int = 60) -> str:
    """Return `value` as text for a one-line message: printable, and at most `limit` characters long."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shorten_path(path: object) -> str:
    """Return the path of a file for a one-line message: printable, and at most 200 characters long."""
    return shorten(path, 200)


def echo_value(value: object) -> str:
    """Return `value` as text for an error message, or `***` if a part of it looks like a key."""
    is_key_like = any(re.search("[0-9]", word) for word in _LONG_WORD.findall(str(value)))
    return MASK if is_key_like else shorten(value)


def _echo_key(key: str) -> str:
    """Return a mapping key as text for an error message, or `***` if it may be a key or `user:password`."""
    return MASK if ":" in key else echo_value(key)


def parse(text: str, source: str) -> Document:
    """Parse YAML `text` into a `Document`; `source` is its name in messages.

    Raises `ConfigError`, and no other exception, if the text is not YAML or exceeds `MAX_VALUES`.
    """
    try:
        return _Builder(text).build_document()
    except yaml.MarkedYAMLError as error:
        # The handle of a tag may be an unquoted password that begins with !.
        problem_text = re.sub("tag handle .*", "tag handle", (error.problem or "unreadable").removeprefix("but "))
        marks = [error.problem_mark, error.context_mark]
        if _MESSAGE_ABOUT_BEGIN.match(problem_text):
            marks.reverse()
        mark = next(filter(None, marks), None)
        hint = next((f"; {hint}" for start, hint in _HINTS.items() if problem_text.startswith(start)), "")
        problem = Problem((), f"invalid YAML: {shorten(problem_text, 200)}{hint}", mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        problem = Problem((), f"invalid YAML: character {character} is not allowed; remove it", line)
    except (ValueError, OverflowError):  # the parser does not check the range of escapes such as \UFFFFFFFF
        problem = Problem((), "invalid YAML: invalid escape such as \\U…, or invalid directive (%); remove it")
    except (_DocumentTooLargeError, RecursionError):
        problem = Problem(
            (), f"too many values, or values nested too deeply; at most {MAX_VALUES:,} values are allowed"
        )
    raise ConfigError(source, [problem])


class _DocumentTooLargeError(Exception):
    """Raised if a document has more values than any real config."""


class _Builder:
    """Converts the events of the YAML parser to plain data with line numbers, and collects the problems.

    No tree of nodes is built, because that of a large config takes ten times the memory of the data.
    """

    def __init__(self, text: str) -> None:
        self._yaml = yaml.SafeLoader(text)
        self._problems: list[Problem] = []
        # The values of anchors, and the numbers of values in them.
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._value_count = 0

    def build_document(self) -> Document:
        """Return the only document of the text."""
        self._yaml.get_event()  # the start of the stream
        if self._yaml.check_event(yaml.StreamEndEvent):
            return Document(None)
        self._yaml.get_event()  # the start of the document
        line = self._next_line()
        document = Document(self._build(()), line, tuple(self._problems))
        self._yaml.get_event()  # the end of the document
        if not self._yaml.check_event(yaml.StreamEndEvent):
            raise _invalid("found another document", self._yaml.peek_event())
        return document

    def _next_line(self) -> int:
        """Return the line of the next event."""
        return int(self._yaml.peek_event().start_mark.line) + 1

    def _build(self, path: KeyPath) -> Any:  # noqa: ANN401 - a YAML value can have any type
        """Return the value that begins with the next event, and whose path is `path`."""
        line, event, count_before = self._next_line(), self._yaml.get_event(), self._value_count
        if isinstance(event, yaml.AliasEvent):
            return self._resolve_alias(event)
        self._count_values(1)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._build_scalar(event, line, path)
        else:
            value = self._build_mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._build_list(path)
            if event.tag not in {None, "!", f"{_TAG}map", f"{_TAG}seq"}:
                self._add_problem(path, line, _TAG_MESSAGE)
                value = None
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._value_count - count_before
        return value

    def _resolve_alias(self, event: yaml.AliasEvent) -> Any:  # noqa: ANN401
        """Return the value of an anchor."""
        if event.anchor not in self._anchors:  # its name may be an unquoted password that begins with *
            raise _invalid("found undefined alias", event)
        value, count = self._anchors[event.anchor]
        self._count_values(count)
        return value

    def _count_values(self, values: int) -> None:
        """Add `values` to the number of values. Raises `_DocumentTooLargeError` if it exceeds `MAX_VALUES`."""
        self._value_count += values
        if self._value_count > MAX_VALUES:
            raise _DocumentTooLargeError

    def _add_problem(self, path: KeyPath, line: int, text: str) -> None:
        self._problems.append(Problem(path, text, line))

    def _read_scalar(self, event: yaml.Event) -> tuple[str, str]:
        """Return the text of a scalar and its tag, which is that of its form if none is written."""
        if not isinstance(event, yaml.ScalarEvent):
            raise _invalid("keys must be strings", event)
        # JSON writes characters such as emoji as pairs of surrogates.
        text = event.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        if _SURROGATE.search(text):
            raise _invalid("found half a character (a lone surrogate)", event)
        has_tag = event.tag not in {None, "!"}
        return text, str(event.tag if has_tag else self._yaml.resolve(yaml.ScalarNode, event.value, event.implicit))

    def _build_scalar(self, event: yaml.ScalarEvent, line: int, path: KeyPath) -> Any:  # noqa: ANN401
        text, tag = self._read_scalar(event)
        if tag in {f"{_TAG}str", f"{_TAG}value", f"{_TAG}merge"}:  # the last two are = and <<
            return text
        try:
            return self._yaml.construct_object(yaml.ScalarNode(tag, text))
        except (yaml.YAMLError, ValueError, OverflowError, TypeError, LookupError, AttributeError):
            kind = tag.removeprefix(_TAG)
            parse_error = f"cannot be parsed as {kind}; quote it if it is a string"
            self._add_problem(path, line, parse_error if kind in _SCALAR_TAGS else _TAG_MESSAGE)
            return None

    def _build_list(self, path: KeyPath) -> _List:
        items = _List()
        while not self._yaml.check_event(yaml.SequenceEndEvent):
            index = len(items)
            items.lines[index] = self._next_line()
            items.append(self._build((*path, index)))
        self._yaml.get_event()
        return items

    def _build_mapping(self, path: KeyPath) -> _Mapping:
        """Return a mapping. Its own keys override those that it merges (`<<`); the first merged mapping wins."""
        own, sources = _Mapping(), list[_Mapping]()
        while not self._yaml.check_event(yaml.MappingEndEvent):
            line = self._next_line()
            key, tag = self._read_scalar(self._yaml.get_event())
            key_path = (*path, key)
            value = self._build(key_path)
            if tag == f"{_TAG}merge":
                for source in value if isinstance(value, _List) else [value]:
                    if isinstance(source, _Mapping):
                        sources.append(source)
                    else:
                        text = "must be a mapping or a list of mappings; write <<: *name"
                        self._add_problem(key_path, line, text)
            elif tag != f"{_TAG}str":
                self._add_problem(key_path, line, f'keys must be strings; quote it ("{echo_value(key)}")')
            else:
                if key in own:
                    self._add_problem(key_path, line, f"duplicate key, first defined on line {own.lines[key]}")
                own[key], own.lines[key] = value, line
        self._yaml.get_event()
        result = _Mapping()
        for mapping in (*reversed(sources), own):
            result.update(mapping)
            result.lines.update(mapping.lines)
        return result


def _invalid(problem: str, event: Any) -> yaml.MarkedYAMLError:  # noqa: ANN401 - the types of yaml lack its mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
