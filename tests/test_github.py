"""Test the files in `.github/` with linters.

Needs `check-jsonschema` and `zizmor` (PyPI). A test is skipped without its tool, except in CI, where it fails.
"""

import re
import subprocess
import tomllib

import docs
import pytest
from servers import require_tool

pytestmark = pytest.mark.no_cover

GITHUB = docs.ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = sorted(path for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if path.name != "config.yml")


@pytest.mark.parametrize(
    "command",
    [
        ["check-jsonschema", "--builtin-schema=vendor.github-workflows", *map(str, WORKFLOWS)],
        ["check-jsonschema", "--builtin-schema=vendor.github-issue-forms", *map(str, FORMS)],
        ["check-jsonschema", "--builtin-schema=vendor.dependabot", str(GITHUB / "dependabot.yml")],
        ["zizmor", "--offline", "--quiet", str(GITHUB)],
    ],
    ids=["workflows", "forms", "updates", "zizmor"],
)
def test_github_files_pass_linters(command: list[str]) -> None:
    """Workflows and issue forms match their schemas. Workflows have pinned actions and minimal permissions."""
    done = subprocess.run(  # noqa: S603
        [require_tool(command[0]), *command[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_starts_with_oldest_python() -> None:
    """CI runs the tests on the oldest supported Python and on newer ones."""
    oldest = tomllib.loads((docs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    text = (GITHUB / "workflows/ci.yml").read_text(encoding="utf-8")
    (first,) = re.findall(r"^ +python: \[\"([\d.]+)\",", text, re.MULTILINE)
    assert oldest == f">={first}"
