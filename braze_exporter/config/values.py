"""The value types of the config. Each validates a value as written, or raises an error with the problem and the fix.

Numbers are not converted to strings, nor strings to numbers.
"""

import ipaddress
import json
import math
import os
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, WithJsonSchema

from braze_exporter.braze.instances import INSTANCES
from braze_exporter.braze.kinds import KINDS, Unit
from braze_exporter.braze.names import BRAZE_ID
from braze_exporter.braze.time_zones import known_zones
from braze_exporter.config.document import echo_value
from braze_exporter.config.regex import Regex, RegexError, compile_regex
from braze_exporter.config.secrets import MUST_BE_PATH, MUST_BE_VARIABLE
from braze_exporter.config.suggestions import did_you_mean

# The name for an unfiltered query in the lists `apps` and `segments`.
ALL = "all"

# The units of Prometheus's durations in seconds. They must be written in this order, each at most once.
_DURATION_UNITS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _DURATION_UNITS), re.ASCII)
# Prometheus refuses rules with a duration of more than 292 years.
_MAX_DURATION_SECONDS = 100 * _DURATION_UNITS["y"]
# A Braze API key without its dashes, or a longer key.
_HEX_KEY = re.compile(r"[0-9a-f]{32,}", re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# An abbreviation of a time zone or an offset from UTC, such as PST, GMT+2 or Z.
_ABBREVIATION = re.compile(r"[A-Za-z]{0,4}(?:[+-][\d:]*)?", re.ASCII)
_METRIC_GROUPS = [group for kind in KINDS for group in (*kind.metric_groups, *kind.partial_groups)]
# Labels that a generated alert already has: those of its series, and those that the rule adds.
ALERT_LABELS = {"alertname", "kind", "selector", "severity", "unit", "workspace"}.union(
    *((*group.labels, *group.series_labels) for group in _METRIC_GROUPS)
)


class InvalidValueError(ValueError):
    """Raised if a value is invalid. The message states the problem and the fix."""


def _describe(value: object) -> str:
    """Return `value` as text, or only its type if it is a list or a mapping, which may contain a secret."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    if isinstance(value, str):
        return f'"{echo_value(value)}"'
    return json.dumps(value) if value is None or isinstance(value, bool) else echo_value(value)


def _validate_text(value: object) -> str:
    if not isinstance(value, str):
        is_scalar = value is not None and not isinstance(value, list | dict)
        raise InvalidValueError(f"must be a string, not {_describe(value)}{'; quote it' if is_scalar else ''}")
    if not value.strip():
        raise InvalidValueError("must not be empty")
    return value


def _validate_duration(value: object) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        example = f'; write "{value}s" or "{value}m"' if is_count else ""
        raise InvalidValueError(f"must be a duration such as 30s, 5m, 1h30m or 2d, not {_describe(value)}{example}")
    seconds = sum(int(part) * unit for part, unit in zip(match.groups("0"), _DURATION_UNITS.values(), strict=True))
    if seconds < 1:
        raise InvalidValueError("must be at least 1s")
    if seconds > _MAX_DURATION_SECONDS:
        raise InvalidValueError("must be at most 100y")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Return a duration in Prometheus's notation, with days as the largest unit: 5400 seconds are `1h30m`."""
    left, text = round(seconds * 1_000), ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, round(_DURATION_UNITS[unit] * 1_000))
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def format_rounded_up(seconds: float) -> str:
    """Return a duration as `format_duration` does, rounded up to seconds, or to minutes if it is longer than one."""
    step = _DURATION_UNITS["s" if seconds <= _DURATION_UNITS["m"] else "m"]
    return format_duration(math.ceil(seconds / step) * step)


def _validate_unit(value: object) -> Unit:
    if value in tuple(Unit):
        return Unit(str(value))
    raise InvalidValueError(f"must be hour or day, not {_describe(value)}")


def is_braze_id(text: str) -> bool:
    """Return whether `text` has the form of a Braze identifier."""
    return BRAZE_ID.fullmatch(text) is not None


def _braze_id(place: str) -> BeforeValidator:
    """Return a validator for Braze's identifiers; `place` is where Braze shows them."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not is_braze_id(value):
            example = "such as 3bbc4555-8fa0-4c9b-a5c0-4505edf3e064"
            raise InvalidValueError(f"must be a Braze API identifier {example}, not {_describe(value)}; it is {place}")
        return value

    return BeforeValidator(check)


def _validate_regex(value: object) -> Regex:
    try:
        return compile_regex(_validate_text(value))
    except RegexError as error:
        raise InvalidValueError(str(error)) from None


def valid_if(is_valid: Callable[[Any], bool], problem: str) -> BeforeValidator:
    """Return a validator that refuses values that are not valid with the message `problem`."""

    def check(value: object) -> object:
        if not is_valid(value):
            raise InvalidValueError(problem)
        return value

    return BeforeValidator(check)


def mapping_of(contents: str) -> BeforeValidator:
    """Return a validator for mappings; `contents` describes them in the message for other values."""
    return valid_if(lambda value: isinstance(value, dict), f"must be a mapping of {contents}")


def _validate_timezone(value: object) -> ZoneInfo:
    name = _validate_text(value)
    if name not in known_zones():
        # Abbreviations and offsets resemble names of other zones, such as PST and EST.
        known = () if _ABBREVIATION.fullmatch(name) else sorted(known_zones())
        hint = did_you_mean(name, known) or "; expected a name such as America/New_York"
        raise InvalidValueError(f'unknown time zone "{echo_value(name)}"{hint}')
    return ZoneInfo(name)


def _validate_url(value: object) -> str:
    """Return the REST endpoint in `value`, normalized. Errors omit the value, because it may contain a secret."""
    expected = "expected the REST endpoint, such as https://rest.iad-01.braze.com"
    not_a_url = f"is not a valid URL; {expected}"
    if not isinstance(value, str):
        raise InvalidValueError(f"is not a URL; {expected}")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidValueError(not_a_url) from None
    is_private = parts.scheme == "https" or is_loopback(host)
    rest = parts.path.strip("/") + parts.query + parts.fragment
    checks = {
        "must not contain a user or password; set api_key_file or api_key_env instead": "@" not in parts.netloc,
        f"must start with https://; {expected}": parts.scheme in {"http", "https"},
        not_a_url: value.isprintable() and " " not in value and _normalize_host(host) and port != 0,
        f"is the SDK endpoint; {expected}": not host.startswith("sdk."),
        f"is the dashboard; {expected}": not host.startswith("dashboard"),
        "must start with https://; http would send the API key unencrypted": is_private,
        f"must not contain a path, query or fragment; {expected}": not rest,
    }
    for problem, is_valid in checks.items():
        if not is_valid:
            raise InvalidValueError(problem)
    is_default_port = port in {None, {"https": 443, "http": 80}[parts.scheme]}
    return f"{parts.scheme}://{_normalize_host(host)}{'' if is_default_port else f':{port}'}"


def _normalize_host(host: str) -> str:
    """Return the only form of a host name or an address in URLs, or an empty text if `host` is neither."""
    address = _parse_address(host)
    if address is None:
        return host.removesuffix(".") if _HOST.fullmatch(host) else ""
    return f"[{address}]" if ":" in host else str(address)


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address, or the host name `localhost`."""
    address = _parse_address(host)
    return address.is_loopback if address is not None else host == "localhost"


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _validate_instance(value: object) -> str:
    if not isinstance(value, str) or value.upper() not in INSTANCES:
        raise InvalidValueError(f"unknown Braze instance; expected one of {', '.join(INSTANCES)}, or set url instead")
    return value.upper()


def _is_encodable(path: str) -> bool:
    """Return whether a file can have the name `path` in the encoding of the locale."""
    try:
        return bool(os.fsencode(path))
    except UnicodeEncodeError:
        return False


def _may_be_key_file(value: object) -> bool:
    """Return whether `value` can be a path, and is not a key."""
    is_path = isinstance(value, str) and bool(value.strip()) and "\0" not in value
    return is_path and ("/" in str(value) or not (BRAZE_ID.search(str(value)) or _HEX_KEY.search(str(value))))


def _may_be_variable(value: object) -> bool:
    """Return whether `value` can be the name of an environment variable, and is not a key."""
    return isinstance(value, str) and bool(_VARIABLE.fullmatch(value)) and not _HEX_KEY.fullmatch(value)


def number_range(low: float, high: float, *, whole: bool = False) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return a validator for numbers from `low` to `high`, and its JSON Schema."""
    kind = "whole number" if whole else "number"

    def check(value: object) -> float:
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # type: ignore[operator] # it is a number
            raise InvalidValueError(f"must be a {kind} from {low:,} to {high:,}, not {_describe(value)}")
        return value  # type: ignore[return-value] # it is a number

    title, name = f"{kind} from {low:,} to {high:,}", "integer" if whole else "number"
    return BeforeValidator(check), WithJsonSchema({"title": title, "type": name, "minimum": low, "maximum": high})


def _validate_label_name(value: object) -> str:
    name = _validate_text(value)
    if not _VARIABLE.fullmatch(name) or name.startswith("__"):
        text = "is not a valid label name; use letters, digits and _, without a digit or __ at the start"
        raise InvalidValueError(text)
    if name in ALERT_LABELS:
        remedy = "set the key severity of alerts instead" if name == "severity" else "choose another name"
        raise InvalidValueError(f"is already a label of the alert; {remedy}")
    return name


def _text_other_than_all(problem: str) -> tuple[BeforeValidator, BeforeValidator]:
    """Return validators for texts that refuse `all` with the message `problem`. The last one runs first."""
    return BeforeValidator(_validate_text), valid_if(lambda value: value != ALL, problem)


# The JSON Schemas accept slightly more than the validators. Their titles are the names of the types in documents.
def _string(title: str, pattern: str = r"\S") -> WithJsonSchema:
    return WithJsonSchema({"title": title, "type": "string", "pattern": pattern})


def _list(title: str, items: WithJsonSchema, contents: str) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return a validator for non-empty lists, and its JSON Schema. `contents` describes the items in the message."""
    check = valid_if(lambda value: isinstance(value, list) and bool(value), f"must be a non-empty list of {contents}")
    rules = {"items": items.json_schema, "minItems": 1, "uniqueItems": True}
    return check, WithJsonSchema({"title": title, "type": "array", **rules})


def _mapping(title: str, names: object, values: WithJsonSchema) -> WithJsonSchema:
    rules = {"propertyNames": names, "additionalProperties": values.json_schema}
    return WithJsonSchema({"title": title, "type": "object", **rules})


_TEXT = _string("string")
_ID = _string("Braze API identifier", f"^{BRAZE_ID.pattern}$")
_NAME_RULES = {"type": "string", "pattern": r"\S", "not": {"const": ALL}}
_NAME = WithJsonSchema({"title": f"string other than `{ALL}`", **_NAME_RULES})
_SECONDS = _string("duration", f"^(?=[0-9]){_DURATION.pattern}$")
_PATH = _string("file path")
_UNIT = WithJsonSchema({"title": "`hour` or `day`", "type": "string", "enum": [*Unit]})
_IDS = _mapping("mapping of names to Braze API identifiers", _NAME.json_schema, _ID)
_LABEL_NAMES = {"pattern": f"^(?!__){_VARIABLE.pattern}$", "not": {"enum": sorted(ALERT_LABELS)}}
_LABELS = _mapping("mapping of label names to strings", _LABEL_NAMES, _TEXT)
_MESSAGE_PARTS = f"list of strings other than `{ALL}`"

Text = Annotated[str, BeforeValidator(_validate_text), _TEXT]
Duration = Annotated[float, BeforeValidator(_validate_duration), _SECONDS]
UnitName = Annotated[Unit, BeforeValidator(_validate_unit), _UNIT]
_CONFIGURED_NAME = _text_other_than_all(f'the name "{ALL}" is reserved for unfiltered queries; choose another name')
ConfiguredName = Annotated[str, *_CONFIGURED_NAME, _NAME]
BrazeId = Annotated[str, _braze_id("on the page APIs and Identifiers in Braze"), _ID]
NamedIds = Annotated[
    dict[ConfiguredName, BrazeId], mapping_of("names to Braze API identifiers, such as {ios: 3bbc4555-…}"), _IDS
]
Selection = Annotated[tuple[Text, ...], *_list("list of names", _TEXT, f"names, such as [{ALL}]")]
MessagePart = Annotated[
    str, *_text_other_than_all(f'must be a name in Braze, not "{ALL}"; without the list, everything is exported')
]
Channels = Annotated[
    tuple[MessagePart, ...], *_list(_MESSAGE_PARTS, _NAME, "channels in Braze, such as [email, ios_push]")
]
Stats = Annotated[
    tuple[MessagePart, ...], *_list(_MESSAGE_PARTS, _NAME, "statistics in Braze, such as [sent, delivered]")
]
LabelName = Annotated[str, BeforeValidator(_validate_label_name)]
AlertLabels = Annotated[dict[LabelName, Text], mapping_of("label names to values, such as {team: growth}"), _LABELS]

# Types of optional keys. A key without a value is refused, because `timezone:` alone is a mistake.
OptionalDuration = Annotated[float | None, BeforeValidator(_validate_duration), _SECONDS]
OptionalText = Annotated[str | None, BeforeValidator(_validate_text), _TEXT]
OptionalCampaignId = Annotated[str | None, _braze_id("at the bottom of the campaign's page in Braze"), _ID]
OptionalCanvasId = Annotated[str | None, _braze_id("under Analyze Variants on the Canvas's page in Braze"), _ID]
OptionalSegment = Annotated[str | None, *_CONFIGURED_NAME, _NAME]
_PRODUCT = _text_other_than_all(
    f'the name "{ALL}" is reserved; leave product out for all products together, or set regex: {ALL} for a product of '
    "this name"
)
OptionalProduct = Annotated[str | None, *_PRODUCT, _NAME]
OptionalRegex = Annotated[Regex | None, BeforeValidator(_validate_regex), _string("regex")]
_ZONE = _string("time zone name, such as `America/New_York`")
OptionalTimeZone = Annotated[ZoneInfo | None, BeforeValidator(_validate_timezone), _ZONE]
OptionalUrl = Annotated[str | None, BeforeValidator(_validate_url), _string("URL", "^https?://")]
_INSTANCE = _string("Braze instance, such as `US-01`", "^[A-Za-z]{2}-[0-9]{2}$")
OptionalInstance = Annotated[str | None, BeforeValidator(_validate_instance), _INSTANCE]
_ENVIRONMENT = _string("environment variable name", f"^{_VARIABLE.pattern}$")
OptionalVariable = Annotated[str | None, valid_if(_may_be_variable, MUST_BE_VARIABLE), _ENVIRONMENT]
# The last validator runs first.
_ENCODABLE = valid_if(
    _is_encodable, "contains characters that the locale of the process cannot encode; set the variable LC_ALL=C.UTF-8"
)
_WITHOUT_NUL = valid_if(lambda path: "\0" not in path, "must be a file path without NUL characters")
OptionalPath = Annotated[str | None, _ENCODABLE, _WITHOUT_NUL, BeforeValidator(_validate_text), _PATH]
OptionalKeyFile = Annotated[str | None, _ENCODABLE, valid_if(_may_be_key_file, MUST_BE_PATH), _PATH]
