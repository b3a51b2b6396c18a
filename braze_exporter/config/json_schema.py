"""Build the JSON Schema of the config, with which editors complete and validate it.

The schema does not express every rule that involves several values. `loading` checks all rules.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic.json_schema import models_json_schema

from braze_exporter.braze.kinds import KINDS, SeriesKind
from braze_exporter.config.schema import ALERT_CONDITIONS, SECTIONS, Model, RegexEntry, Settings, Workspace
from braze_exporter.config.values import format_duration

Json: TypeAlias = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ENDPOINT_CHOICE = {"oneOf": [{"required": ["url"]}, {"required": ["instance"]}]}
_KEY_CHOICE = {"oneOf": [{"required": ["api_key_file"]}, {"required": ["api_key_env"]}]}


def build_schema() -> Json:
    """Return the JSON Schema of the config."""
    models: tuple[type[Model], ...] = (Settings, Workspace, *dict.fromkeys(SECTIONS.values()))
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    definitions = {name: _without_nulls(definition) for name, definition in schema["$defs"].items()}
    settings, workspace = definitions.pop("Settings"), definitions["Workspace"]
    definitions["Alerts"]["anyOf"] = [{"required": [key]} for key in ALERT_CONDITIONS]
    for kind in KINDS:
        if issubclass(SECTIONS[kind.section], RegexEntry):
            definitions[SECTIONS[kind.section].__name__] |= _subject_or_selector(kind)
    workspace["properties"] |= {kind.section: _section_schema(kind) for kind in KINDS}
    workspace |= {
        "allOf": [_ENDPOINT_CHOICE, _KEY_CHOICE, {"anyOf": [{"required": [section]} for section in SECTIONS]}]
    }
    workspaces = {
        "description": "Braze workspaces, each with its endpoint, API key and queries",
        "title": "list of workspaces",
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/Workspace"},
    }
    return {
        "$schema": _DIALECT,
        "title": "Configuration of the Braze exporter",
        "type": "object",
        "additionalProperties": False,
        "required": ["workspaces"],
        "properties": {"workspaces": workspaces, **settings["properties"]},
        "$defs": definitions,
    }


def _section_schema(kind: SeriesKind) -> Json:
    text = kind.metric_group.help_prefix[0].lower() + kind.metric_group.help_prefix[1:]
    reference = {"$ref": f"#/$defs/{SECTIONS[kind.section].__name__}"}
    return {"description": text, "title": "list of entries", "type": "array", "minItems": 1, "items": reference}


def _subject_or_selector(kind: SeriesKind) -> Json:
    """Return the schema rule that an entry has either a subject or a selector (`regex` or `tag`).

    If the subject is optional, as in `purchases`, both may be missing.
    """
    names = [name for name in ("regex", "tag") if name in SECTIONS[kind.section].model_fields]
    subject, selector = {"required": [kind.subject_label]}, {"anyOf": [{"required": [name]} for name in names]}
    return (
        {"oneOf": [subject, selector]}
        if kind.subject_label in kind.metric_group.labels
        else {"not": {"allOf": [subject, selector]}}
    )


def _without_nulls(definition: Mapping[str, Any]) -> Json:
    """Return the schema of a mapping as users write it: optional keys are not null, and durations are strings."""
    properties = {name: _property_schema(dict(schema)) for name, schema in definition.get("properties", {}).items()}
    return {**{key: value for key, value in definition.items() if key != "title"}, "properties": properties}


def _property_schema(schema: Json) -> Json:
    if "anyOf" in schema:
        (kept,) = [choice for choice in schema.pop("anyOf") if choice != {"type": "null"}]
        schema = {**kept, **schema}
    default = schema.get("default")
    if default is None or default == [] or isinstance(default, dict):
        schema.pop("default", None)
    elif schema["type"] == "string" and not isinstance(default, str):
        schema["default"] = format_duration(default)
    return schema
