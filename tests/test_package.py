"""Test the source distribution and the wheel, as they are built and installed."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import docs
import pytest

from braze_exporter import __version__

pytestmark = pytest.mark.no_cover


def run(*arguments: str, cwd: Path, python_path: Path | None = None) -> str:
    """Run Python with arguments and return its output; it must succeed."""
    environment = {"PYTHONPATH": str(python_path)} if python_path else {}
    done = subprocess.run(  # noqa: S603
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_sdist_and_wheel_install_and_contain_what_they_should(tmp_path: Path) -> None:
    """The sdist has the whole repository. The wheel built from it has the package alone, and runs once installed."""
    run("-m", "hatchling", "build", "--target=sdist", f"--directory={tmp_path}", cwd=docs.ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    assert {PurePosixPath(name) for name in ("README.md", "tests/test_package.py", ".ci/run")} <= packed
    package = {
        PurePosixPath(path.relative_to(docs.ROOT))
        for path in (docs.ROOT / "braze_exporter").rglob("*.*")
        if "__pycache__" not in path.parts
    }
    assert package <= packed

    offline = ["-m", "pip", "--no-input", "--disable-pip-version-check"]
    run(
        *offline,
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        f"--wheel-dir={tmp_path}",
        str(sdist),
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = [PurePosixPath(name) for name in files.namelist()]
    assert {name for name in names if not name.parts[0].endswith(".dist-info")} == package
    installed = tmp_path / "installed"
    run(*offline, "install", "-q", "--no-deps", f"--target={installed}", str(wheel), cwd=tmp_path)
    program = str(installed / "bin/braze-exporter")
    assert run(program, "--version", cwd=tmp_path, python_path=installed).split()[:2] == ["braze-exporter", __version__]
    assert '"$schema"' in run(program, "schema", cwd=tmp_path, python_path=installed)
