"""Generates parts of the documents and of `deploy/` from the code: `python tests/docs.py`.

Tests check that these parts are current.
"""

import argparse
import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from support import SELF_FAMILIES

from braze_exporter.braze.kinds import CUSTOM_EVENTS, KINDS, Unit
from braze_exporter.braze.lists import LIST_ENDPOINTS
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.pools import CAMPAIGNS_POOL, DEFAULT_POOL, LISTS_POOL
from braze_exporter.braze.query import QUERY_LABELS
from braze_exporter.commands.arguments import build_parser
from braze_exporter.config.json_schema import build_schema
from braze_exporter.config.loading import load_config
from braze_exporter.config.schema import SECTIONS, Entry
from braze_exporter.metrics.families import GAUGE_HELP, QUERY_FAMILIES, Family, build_counter, build_gauge
from braze_exporter.metrics.promql import format_number
from braze_exporter.monitoring.dashboard import View, build_dashboard
from braze_exporter.monitoring.kind_texts import alert_prefix
from braze_exporter.monitoring.rules import as_yaml, build_builtin_rules, build_rules
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator import demo_config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHART = ROOT / "deploy/helm/braze-exporter"
# Files other than documents that name the repository.
SETTINGS = [CHART / "Chart.yaml", CHART / "values.yaml", ROOT / ".github/ISSUE_TEMPLATE/config.yml"]
RULES = ROOT / "deploy/compose/prometheus/rules/exporter.yml"
CHART_RULES = CHART / "files/rules.yml"
DASHBOARDS = {view: ROOT / f"deploy/compose/grafana/dashboards/{view}.json" for view in View}


def generate_blocks() -> dict[str, str]:
    """Return the generated blocks of the documents, by the name in their markers."""
    pools = _labels(pool.name for pool in (DEFAULT_POOL, LISTS_POOL, CAMPAIGNS_POOL))
    lists = _labels(endpoint.response_key for endpoint in LIST_ENDPOINTS)
    return {
        "metrics": _table(_families())
        + f"\nEach query, whatever its kind, has these metrics. Their labels are {_labels(QUERY_LABELS)}. Labels that "
        + "do not apply are empty, which Prometheus treats as missing.\n\n"
        + _table(replace(family, labels=("labels of queries",)) for family in QUERY_FAMILIES),
        "kinds": _kind_table(),
        "own metrics": _table(SELF_FAMILIES) + f"\nThe `pool` is one of {pools}, and the `list` one of {lists}.\n",
        "config": _config_tables(),
        "alerts": _key_table(build_schema()["$defs"]["Alerts"]),
        "alert metrics": _alert_table(),
        "built-in alerts": _builtin_alert_table(),
        "example": f"```yaml\n{(ROOT / 'config.example.yaml').read_text(encoding='utf-8')}```\n",
        "help": _help_texts(),
        "endpoints": _endpoint_table(),
        "values": f"```yaml\n{(CHART / 'values.yaml').read_text(encoding='utf-8')}```\n",
    }


def generate_files() -> dict[Path, str]:
    """Return the current content of each file that is generated as a whole or in parts."""
    config = load_config(demo_config.build_config("http://127.0.0.1"), "demo")
    plan, settings = build_plan(config), config.settings
    blocks, url = generate_blocks(), repository()
    texts = {path: path.read_text(encoding="utf-8") for path in (*documents(), *SETTINGS)}
    return {
        **{path: set_repository(_fill_blocks(text, blocks), url) for path, text in texts.items()},
        RULES: as_yaml(build_rules(plan, settings)),
        CHART_RULES: as_yaml(build_builtin_rules()),
        **{path: json.dumps(build_dashboard(view, plan), indent=1) + "\n" for view, path in DASHBOARDS.items()},
    }


def documents() -> list[Path]:
    """Return the Markdown files of the repository."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/**/*.md"), *CHART.glob("*.md")])


def code_blocks(language: str, paths: Iterable[Path] = ()) -> list[str]:
    """Return the code blocks in a language, of some documents or of all."""
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    texts = [path.read_text(encoding="utf-8") for path in paths or documents()]
    return [textwrap.dedent(block) for text in texts for _, block in pattern.findall(text)]


def _fill_blocks(text: str, blocks: Mapping[str, str]) -> str:
    """Return the text with the current content of each generated block.

    Raises `KeyError` if it has a block of an unknown name.
    """
    return re.sub(
        r"^<!-- ([\w -]+) -->\n.*?^<!-- end of \1 -->$",
        lambda match: f"<!-- {match[1]} -->\n{blocks[match[1]]}<!-- end of {match[1]} -->",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )


def repository() -> str:
    """Return the URL of the repository from `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def set_repository(text: str, url: str) -> str:
    """Return the text with the owner of the repository at `url`, wherever it names a repository.

    Registries allow only lowercase names. The placeholder is not one, so it never names the images of a stranger.
    """
    owner = url.split("/")[3]
    owners = {"github.com": owner, "ghcr.io": owner if owner == "OWNER" else owner.lower()}
    return re.sub(
        r"\b(github\.com|ghcr\.io)/[\w-]+/(?=(charts/)?braze-exporter\b)",
        lambda match: f"{match[1]}/{owners[match[1]]}/",
        text,
    )


def _families() -> Iterator[Family]:
    """Yield the families of each metric group, with placeholders for the group and the unit."""
    metric_group = MetricGroup("<noun>", "Value")
    counter = build_counter(CUSTOM_EVENTS, metric_group)
    for family in (*(build_gauge(CUSTOM_EVENTS, metric_group, Unit.HOUR, measure) for measure in GAUGE_HELP), counter):
        name = family.name.replace("_hourly_", "_<unit>_")
        yield Family(name, family.type, family.help.replace("hour", "bucket"), ("labels of the noun",))


def _kind_table() -> str:
    """Return the table of the kinds: one row for each metric group."""
    rows = [
        "| `<noun>` | value | config section | units | labels, besides `workspace` | counter |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for metric_group in (*kind.metric_groups, *kind.partial_groups):
            cells = (
                f"`{metric_group.name}`",
                metric_group.help_prefix,
                f"`{kind.section}`",
                ", ".join(unit.adverb for unit in kind.units),
                _labels((*metric_group.labels, *metric_group.series_labels)),
                "yes" if metric_group.is_additive and "segment" not in metric_group.labels else "-",
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _endpoint_table() -> str:
    """Return the table of the endpoints of series, and the table of those of lists."""
    rows = ["| endpoint | config section | permission | rate limit | buckets per response |", "|---|---|---|---|---|"]
    for kind in KINDS:
        limit = f"{kind.max_length} {' or '.join(f'{unit}s' for unit in kind.units)}"
        rows.append(f"| `{kind.path}` | `{kind.section}` | `{kind.permission}` | `{kind.pool.name}` | {limit} |")
    rows += ["", "| endpoint | list | permission | rate limit |", "|---|---|---|---|"]
    rows += [
        f"| `{endpoint.path}` | {endpoint.item_names[1]} | `{endpoint.permission}` | `{endpoint.pool.name}` |"
        for endpoint in LIST_ENDPOINTS
    ]
    return "\n".join(rows) + "\n"


def _alert_table() -> str:
    """Return the table of the alert name prefixes, and of the metric that the alerts of each kind evaluate."""
    rows = ["| config section | alerts | evaluated metric |", "|---|---|---|"]
    for kind in KINDS:
        stats = " and ".join(f"`{stat}`" for stat in kind.metric_group.primary_stats)
        metric = f"`{kind.metric_group.name}`" + (f", summed over `stat` {stats}" if stats else "")
        rows.append(f"| `{kind.section}` | `{alert_prefix(kind)}…` | {metric} |")
    return "\n".join(rows) + "\n"


def _builtin_alert_table() -> str:
    """Return the table of the built-in alerts."""
    rows = ["| alert | summary | for | severity |", "|---|---|---|---|"]
    for rule in (rule for group in build_builtin_rules()["groups"] for rule in group["rules"]):
        name, summary = rule["alert"], rule["annotations"]["summary"]
        rows.append(f"| `{name}` | {summary} | {rule.get('for', '-')} | {rule['labels']['severity']} |")
    return "\n".join(rows) + "\n"


def _labels(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def _table(families: Iterable[Family]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(label if " " in label else f"`{label}`" for label in family.labels) or "-"
        meaning = re.sub(r" (Fetched from|From Braze) .*", "", family.help)
        rows.append(f"| `{family.name}` | {family.type} | {labels} | {meaning} |")
    return "\n".join(rows) + "\n"


def _config_tables() -> str:
    """Return the tables of all configuration keys except those of `alerts`."""
    schema = build_schema()
    definitions = schema["$defs"]
    common_keys = [field.alias or name for name, field in Entry.model_fields.items()]
    sections = definitions["Workspace"]["properties"]
    parts = [
        ("Top level", _key_table(schema)),
        *(
            (f"`{name}`", _key_table(definitions[schema["properties"][name]["$ref"].rpartition("/")[2]]))
            for name in ("refresh_interval", "settle", "budget")
        ),
        ("Each of `workspaces`", _key_table(definitions["Workspace"])),
    ]
    names: dict[str, list[str]] = {}
    for section in SECTIONS:
        names.setdefault(sections[section]["items"]["$ref"].rpartition("/")[2], []).append(section)
    for model, section_names in names.items():
        title = f"Each entry of {', '.join(f'`{section}`' for section in section_names)}"
        parts.append((title, _key_table(definitions[model], without=common_keys)))
    common = {"properties": {name: definitions["Users"]["properties"][name] for name in common_keys}}
    parts += [("Every entry, in addition", _key_table(common)), ("`baseline`", _key_table(definitions["Baseline"]))]
    return "\n".join(f"**{title}**\n\n{table}" for title, table in parts)


def _key_table(definition: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """Return the table of the keys of a mapping, from its JSON Schema."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = definition.get("required", ())
    for name, schema in definition["properties"].items():
        if name in without:
            continue
        value = schema.get("title") or f"mapping, see `{name}`"
        default = "required" if name in required else _default(schema)
        rows.append(f"| `{name}` | {value} | {default} | {schema['description']} |")
    return "\n".join(rows) + "\n"


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return "-"
    default = schema["default"]
    text = (
        f"[{', '.join(default)}]"
        if isinstance(default, list)
        else format_number(default)
        if isinstance(default, float)
        else str(default)
    )
    return f"`{text}`"


def _help_texts() -> str:
    """Return the table of the commands and the table of the flags of each command."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    rows = [f"| `{name}` | {command.description} |" for name, command in commands.choices.items()]
    tables = ["| command | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"]
    for name, command in commands.choices.items():
        flags = [action for action in command._actions if action.dest != "help"]  # noqa: SLF001
        if flags:
            rows = [f"| {_flag(flag)} | {(flag.help or '') % vars(flag)} |" for flag in flags]
            tables.append(f"**{name}**\n\n| flag | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(tables)


def _flag(flag: argparse.Action) -> str:
    value = flag.metavar or (f"{{{','.join(flag.choices)}}}" if flag.choices else None)
    text = f"`{flag.option_strings[-1]}{f'={value}' if value else ''}`"
    return f"{text} (required)" if flag.required else text


if __name__ == "__main__":
    for path, content in generate_files().items():
        path.write_text(content, encoding="utf-8")
