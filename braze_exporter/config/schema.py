"""What may stand in a config: one frozen model for each mapping, with the defaults and the meaning of every key.

A model refuses unknown keys, and takes values as they are written: no number becomes text, no text a number. What only
makes sense together (a name used in one place and defined in another) is the business of `loading`.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from braze_exporter.catalog import INSTANCES, Unit
from braze_exporter.config.document import shown

# Not filtered: what `all` stands for in the lists `apps` and `segments`.
ALL = "all"

# Prometheus's own form: units from large to small, each at most once.
_DURATION_UNITS = {"y": 31_536_000, "w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _DURATION_UNITS), re.ASCII)
# Recorded ids of Braze are not all RFC 4122 UUIDs, so any of that form is taken.
_BRAZE_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def quoted(values: Iterable[object]) -> str:
    """Return values as a list for people: `"a", "b"`."""
    return ", ".join(f'"{shown(value)}"' for value in values)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean "…"?)` for the known word nearest to `word`, or nothing if none is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {quoted(found)}?)" if found else ""


def _text(value: object) -> str:
    if not isinstance(value, str):
        wanted = "" if value is None or isinstance(value, list | dict) else f', not {shown(value)}: quote it ("…")'
        raise ValueError(f"must be text{wanted}")
    if not value.strip():
        raise ValueError("must not be empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("has half a character (a lone surrogate), which is no text")
    return value


def _duration(value: object) -> float:
    found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if found is None:
        example = f': write "{value}s" or "{value}m"' if isinstance(value, int) and not isinstance(value, bool) else ""
        raise ValueError(f"must be a duration such as 30s, 5m, 1h30m or 2d, not {shown(value)}{example}")
    seconds = sum(int(part) * unit for part, unit in zip(found.groups("0"), _DURATION_UNITS.values(), strict=True))
    if seconds < 1:
        raise ValueError("must be at least 1s")
    return float(seconds)


def _unit(value: object, info: ValidationInfo) -> Unit:
    if value not in tuple(Unit):
        raise ValueError(f"must be hour or day, not {shown(value)}")
    unit = Unit(str(value))
    if unit is Unit.DAY and not (info.context or {}).get("timezone", True):
        raise ValueError(
            "days need to know where they begin: add the workspace's timezone, as in Braze's company settings"
        )
    return unit


def _braze_id(value: object) -> str:
    if not isinstance(value, str) or not _BRAZE_ID.fullmatch(value):
        raise ValueError(
            f"must be an identifier of Braze such as 3bbc4555-8fa0-4c9b-a5c0-4505edf3e064, not {shown(value)}"
        )
    return value


def _named_ids(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of names to Braze's identifiers, such as {ios: 3bbc4555-…}")  # noqa: TRY004 - pydantic reports ValueError only
    if ALL in value:
        raise ValueError(f'the name "{ALL}" is reserved for "not filtered": choose another')
    names: dict[str, str] = {}
    for name, braze_id in value.items():
        if isinstance(braze_id, str) and (other := names.setdefault(braze_id.lower(), name)) != name:
            raise ValueError(f"{quoted([other, name])} are the same identifier: keep one")
    return value


def _selection(value: object, info: ValidationInfo) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a list of names, such as [{ALL}, …]")
    known: Iterable[str] = (info.context or {}).get(info.field_name, ())
    for index, name in enumerate(value):
        if name != ALL and name not in known:
            raise ValueError(f'"{shown(name)}" is not in the workspace\'s {info.field_name}{nearest(str(name), known)}')
        if name in value[:index]:
            raise ValueError(f'"{shown(name)}" stands twice: keep one')
    return tuple(value)


def _timezone(value: object) -> ZoneInfo:
    name = _text(value)
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        hint = nearest(name, available_timezones()) or ", as in America/New_York"
        raise ValueError(f'"{shown(name)}" is not the name of a time zone{hint}') from None


def _url(value: object) -> str:
    """Accept a REST endpoint; no message repeats the value, since it may hold a secret."""
    example = "such as https://rest.iad-01.braze.com"
    if not isinstance(value, str):
        raise ValueError(f"must be the REST endpoint, {example}")  # noqa: TRY004 - pydantic reports ValueError only
    try:
        parts = urlsplit(value)
        host, has_port = parts.hostname or "", parts.port != 0
    except ValueError:
        host, has_port, parts = "", False, urlsplit("")
    problem = None
    if not value.isprintable() or " " in value or not has_port or (parts.scheme and not host):
        problem = f"is not a URL: give the REST endpoint, {example}"
    elif parts.scheme not in {"http", "https"}:
        problem = f"must begin with https://, {example}"
    elif parts.username is not None or parts.password is not None:
        problem = "must not hold a user or password: the key comes from api_key_file or api_key_env"
    elif parts.scheme == "http" and not is_loopback(host):
        problem = "must begin with https://: the key would travel in the clear"
    elif parts.path.strip("/") or parts.query or parts.fragment:
        problem = f"must be only the REST endpoint, without a path, {example}"
    elif host.startswith("sdk."):
        problem = f"is the SDK endpoint: give the REST endpoint, {example}"
    elif host.startswith("dashboard"):
        problem = f"is the dashboard: give the REST endpoint, {example}"
    if problem:
        raise ValueError(problem)
    return value.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _instance(value: object) -> str:
    if not isinstance(value, str) or value.upper() not in INSTANCES:
        raise ValueError(f"is not an instance of Braze known here: give one of {', '.join(INSTANCES)}, or its url")
    return value.upper()


def _variable(value: object) -> str:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):  # never shown: it may be the key itself
        raise ValueError("must be the name of an environment variable, such as BRAZE_API_KEY, not the key itself")
    return value


def _key_file(value: object) -> str:
    path = _text(value)
    if _BRAZE_ID.fullmatch(path) or "\0" in path:  # never shown: it may be the key itself
        raise ValueError("must be the path of a file that holds the key, not the key itself")
    return path


def _number(low: float, high: float, *, whole: bool = False) -> BeforeValidator:
    def check(value: object) -> float:
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # type: ignore[operator] # it is a number
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"must be {kind} from {low:g} to {high:g}, not {shown(value)}")
        return value  # type: ignore[return-value] # it is a number

    return BeforeValidator(check)


Text = Annotated[str, BeforeValidator(_text)]
Duration = Annotated[float, BeforeValidator(_duration)]
BrazeId = Annotated[str, BeforeValidator(_braze_id)]
NamedIds = Annotated[dict[Text, BrazeId], BeforeValidator(_named_ids)]
Selection = Annotated[tuple[str, ...], BeforeValidator(_selection)]


class Model(BaseModel):
    """A mapping of the config: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class ByUnit(Model):
    """A duration in seconds for each unit."""

    hour: Duration
    day: Duration

    def of(self, unit: Unit) -> float:
        """Return the seconds for `unit`."""
        return self.hour if unit is Unit.HOUR else self.day


class Refresh(ByUnit):
    """How often a query is fetched, in seconds."""

    hour: Duration = 300.0
    day: Duration = 900.0


class Settle(ByUnit):
    """How long after the end of a bucket it is trusted, in seconds."""

    hour: Duration = 3_600.0
    day: Duration = 7_200.0


class Budget(Model):
    """What of Braze's rate limits the exporter may use, and over how many connections for each workspace."""

    share: Annotated[float, _number(0.001, 1)] = 0.1
    reserve: Annotated[float, _number(0, 0.9)] = 0.2
    concurrency: Annotated[int, _number(1, 100, whole=True)] = 10


class Settings(Model):
    """The keys of the file beside `workspaces`."""

    refresh: Refresh = Refresh()
    settle: Settle = Settle()
    max_age: Duration = 3_600.0
    max_queries: Annotated[int, _number(1, 1_000_000, whole=True)] = 2_000
    budget: Budget = Budget()


class CustomEvent(Model):
    """One entry of `custom_events`: an event, times each of the apps, times each of the segments."""

    event: Text
    unit: Annotated[Unit, BeforeValidator(_unit)] = Unit.HOUR
    apps: Selection = (ALL,)
    segments: Selection = (ALL,)
    refresh: Duration | None = None
    settle: Duration | None = None
    max_age: Duration | None = None


class Workspace(Model):
    """The keys of a workspace beside its sections. Exactly one of `url` and `instance`, and of the two key sources."""

    name: Text
    url: Annotated[str, BeforeValidator(_url)] | None = None
    instance: Annotated[str, BeforeValidator(_instance)] | None = None
    api_key_file: Annotated[str, BeforeValidator(_key_file)] | None = None
    api_key_env: Annotated[str, BeforeValidator(_variable)] | None = None
    timezone: Annotated[ZoneInfo, BeforeValidator(_timezone)] | None = None
    apps: NamedIds = Field(default_factory=dict)
    segments: NamedIds = Field(default_factory=dict)

    @property
    def rest_endpoint(self) -> str:
        """The base URL of Braze's REST API for this workspace."""
        return self.url or INSTANCES[str(self.instance)]


# The sections of a workspace, by key: the model of their entries.
SECTIONS: Mapping[str, type[CustomEvent]] = {"custom_events": CustomEvent}
