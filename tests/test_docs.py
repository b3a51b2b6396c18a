"""Test that the documents match the code."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import docs
import graphs
import pictures
import pytest
import yaml
from support import Program, run_program

from braze_exporter import __version__
from braze_exporter.braze.errors import Reason
from braze_exporter.commands.arguments import build_parser
from braze_exporter.config.json_schema import build_schema
from braze_exporter.config.loading import load_config
from braze_exporter.config.schema import Settings
from braze_exporter.metrics.self_families import QueryStatus
from braze_exporter.scheduler.plan import build_plan

ROOT = docs.ROOT


def test_generated_files_are_current() -> None:
    """The generated parts of the documents and of `deploy/` are what `python tests/docs.py` writes."""
    files = docs.generate_files()
    assert {path: path.read_text(encoding="utf-8") for path in files} == files


def test_names_in_registry_are_lowercase() -> None:
    """The images and charts of an owner with capitals have the lowercase names that `release.yml` pushes."""
    text = "github.com/OWNER/braze-exporter ghcr.io/OWNER/braze-exporter ghcr.io/OWNER/charts/braze-exporter"
    expected = "github.com/Acme/braze-exporter ghcr.io/acme/braze-exporter ghcr.io/acme/charts/braze-exporter"
    assert docs.set_repository(text, "https://github.com/Acme/braze-exporter") == expected
    assert docs.set_repository(text, "https://github.com/OWNER/braze-exporter") == text


def test_every_generated_block_is_in_one_document() -> None:
    """Each generated block is in exactly one document."""
    texts = [path.read_text(encoding="utf-8") for path in docs.documents()]
    names = [name for text in texts for name in re.findall(r"^<!-- ([\w -]+) -->\n", text, re.MULTILINE)]
    assert sorted(name for name in names if not name.startswith("end of ")) == sorted(docs.generate_blocks())


def test_example_config_passes_check() -> None:
    """`config.example.yaml` is valid, with a warning about the missing key file."""
    done = run_program("check", f"--config.file={ROOT / 'config.example.yaml'}")
    assert done.returncode == 0, done.stderr
    assert "is valid: 22 queries" in done.stdout


def test_example_config_shows_every_default() -> None:
    """Each commented-out line of the example is the default: enabling all of them does not change the plan."""
    text = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    everything = re.sub(r"^( *)# (?=[a-z_ ]+:[ \n])", r"\1", text, flags=re.MULTILINE)
    assert yaml.safe_load(everything) != yaml.safe_load(text)
    assert set(yaml.safe_load(everything)) == {"workspaces", *Settings.model_fields}
    first, second = (load_config(content, "config.example.yaml") for content in (text, everything))
    assert build_plan(first) == build_plan(second)
    assert first.settings == second.settings


def test_example_config_shows_every_key() -> None:
    """Each key of the config is in the example, as a setting or in a comment."""
    text = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    schema = build_schema()
    keys = {key for mapping in (schema, *schema["$defs"].values()) for key in mapping["properties"]}
    assert {"workspaces", "keep_firing_for", "channels", "stats", "regex"} <= keys
    assert {key for key in keys if not re.search(rf"\b{key}: ?", text)} == set()


def test_every_yaml_block_is_valid() -> None:
    """Each YAML block in the documents can be parsed. Those of configs are valid and have queries."""
    plans = []
    for block in docs.code_blocks("yaml"):
        content = yaml.safe_load(block)
        if "custom_events" in block and "workspaces" in content:
            plans.append(build_plan(load_config(block, "config.yaml")))
    assert len(plans) >= 5
    assert all(plan.queries for plan in plans)


def test_states_and_reasons_are_explained() -> None:
    """The metric reference explains each value of the labels `state` and `reason`, and no other."""
    section = (ROOT / "docs/metrics.md").read_text(encoding="utf-8").partition("## State of queries")[2]
    explained = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert explained == [*QueryStatus, *Reason]


def test_every_metric_in_documents_exists() -> None:
    """The PromQL and the samples in the documents have only metrics that the exporter has."""
    contract = (ROOT / "tests/contract/metrics.txt").read_text(encoding="utf-8")
    known = set(re.findall(r"^# TYPE (\S+)", contract, re.MULTILINE))
    known |= {f"{name}_bucket" for name in re.findall(r"^# TYPE (\S+) histogram", contract, re.MULTILINE)}
    used = {name for block in docs.code_blocks("promql") for name in re.findall(r"\bbraze_\w+\b(?!\()", block)}
    used |= {name for block in docs.code_blocks("text") for name in re.findall(r"^(braze_\w+)\{", block, re.MULTILINE)}
    assert used - {"braze_app"} <= known


def test_demo_has_samples_of_readme() -> None:
    """The samples that the README shows, without their values, are on the first page of the demo, in this order."""
    (block,) = (block for block in docs.code_blocks("text", [docs.README]) if block.startswith("$ curl"))
    shown = re.findall(r"^braze_\w+\{.*\}", block, re.MULTILINE)
    with Program.start(["demo"]) as program:
        exported = re.findall(r"^braze_\w+\{.*\}", program.get("/metrics").body.decode(), re.MULTILINE)
    assert shown == [sample for sample in exported if sample in shown]


def test_every_command_in_documents_is_valid(tmp_path: Path) -> None:
    """Each command line of the exporter in the documents is valid, and those that do not need Braze succeed."""
    scripts = "\n".join(docs.code_blocks("sh")).replace("\\\n", " ")
    found = set(re.findall(r"(?:^|&& |exec \S+ (?:-- )?)(braze-exporter .*?)(?=  #| > |;|$)", scripts, re.MULTILINE))
    assert len(found) >= 10
    config = tmp_path / "config.yaml"
    config.write_text((ROOT / "config.example.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    for command in found:
        first, *rest = shlex.split(command, comments=True)[1:]
        arguments = ["serve", first, *rest] if first.startswith("-") else [first, *rest]
        build_parser().parse_args(arguments)
        if arguments[0] in {"check", "rules", "dashboard", "schema"} and "--live" not in arguments:
            done = run_program(*(re.sub("=.*config.yaml$", f"={config}", argument) for argument in arguments))
            assert done.returncode == 0, (command, done.stderr)


def test_documented_check_output_is_real(tmp_path: Path) -> None:
    """The documents show what `check` prints about the config of the README."""
    (_, config) = (block for block in docs.code_blocks("yaml", [docs.README]) if block.startswith("workspaces:"))
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    done = run_program("check", f"--config.file={tmp_path / 'config.yaml'}")
    output = done.stdout.replace(f"{tmp_path}/", "")
    (shown,) = (block for block in docs.code_blocks("text") if "is valid" in block)
    assert output.startswith(shown)


def test_ci_runs_readme_commands() -> None:
    """CI runs the two commands of the README: one starts the demo, the other runs the tests."""
    demo, tests = "pip install . && braze-exporter demo", 'pip install -e ".[dev]" && pytest --cov'
    assert {f"{demo}\n", f"{tests}\n"} <= set(docs.code_blocks("sh", [docs.README]))
    scripts = [(ROOT / path).read_text(encoding="utf-8") for path in (".ci/run", ".github/workflows/ci.yml")]
    assert f"{{ {demo}; }} &\n" in scripts[1]
    assert all(f"{tests}\n" in script for script in scripts)


def test_changelog_has_current_version() -> None:
    """The current version is in the newest or second-newest section of the changelog."""
    sections = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert __version__ in sections[:2]


def test_every_dependency_has_a_reason() -> None:
    """The documents give a reason for each package that the exporter or an extra requires, and for no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    needed = {re.split(r"[><=]", name)[0] for name in [*project["dependencies"], *extras]}
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Dependencies")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE))
    assert explained == needed


def test_every_package_is_described() -> None:
    """The documents describe each package and each module at the top level, and no other."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    described = re.findall(
        r"`([\w.]+)/?`", "".join(re.findall(r"^\| (`.*?) \|", text.partition("\n## The way")[0], re.MULTILINE))
    )
    existing = {path.name for path in (ROOT / "braze_exporter").iterdir() if path.is_dir() or path.name == "cli.py"}
    assert set(described) == existing - {"__pycache__"}


def test_every_link_resolves() -> None:
    """Each relative link or image in the documents refers to an existing file, and to a heading in it."""
    texts = {path: path.read_text(encoding="utf-8") for path in docs.documents()}
    anchors = {
        path: {
            re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")
            for title in re.findall(
                r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
            )
        }
        for path, text in texts.items()
    }
    for path, text in texts.items():
        for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"\s]+)[)\"]", text):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            assert file.exists(), (path.name, target)
            assert not anchor or anchor in anchors[file], (path.name, target)


def test_every_picture_is_shown_and_small() -> None:
    """The documents show exactly the images of `python tests/pictures.py`, and each is below `MAX_BYTES`."""
    paths = sorted(pictures.PICTURES.iterdir())
    text = "".join(path.read_text(encoding="utf-8") for path in docs.documents())
    shown = set(re.findall(rf"{pictures.PICTURES.name}/([\w-]+\.png)", text))
    assert {path.name for path in paths} == set(pictures.names()) == shown
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG"), path
        assert path.stat().st_size < pictures.MAX_BYTES, path


def test_every_graph_uses_a_documented_query() -> None:
    """The expression of each graph is in a code block of a document."""
    lines = {line for block in docs.code_blocks("promql") for line in block.splitlines()}
    assert {graph.expr for graph in graphs.GRAPHS.values()} <= lines


TOOLS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports", "--no-logo"],
    "codespell": ["codespell", "braze_exporter", "deploy", "tests", "config.example.yaml", *map(str, docs.documents())],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_static_checks_pass(tool: str) -> None:
    """Linters, formatters, type checks, import checks and spell checks report no problems."""
    name, *arguments = TOOLS[tool]
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
