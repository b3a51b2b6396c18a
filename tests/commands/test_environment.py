"""Test unusual environments, and that environment variables that the libraries read change nothing."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from backfills import backfill_arguments
from recorded_counts import RecordedCounts
from support import KEY, Program, run_program, running_braze, workspace_yaml, write_file


def library_variables(directory: Path) -> Mapping[str, str]:
    """Return variables that libraries read, with paths in `directory` and with values that cannot be used."""
    return {
        "CURL_CA_BUNDLE": str(directory),
        "FORWARDED_ALLOW_IPS": "*",
        "NETRC": str(directory),
        "PROMETHEUS_MULTIPROC_DIR": str(directory),
        "PYDANTIC_ERRORS_INCLUDE_URL": "x",
        "SSLKEYLOGFILE": str(directory / "keys"),
        "SSL_CERT_DIR": str(directory),
        "TMPDIR": str(directory),
        "TZ": "nonsense",
        "WEB_CONCURRENCY": "auto",
        "prometheus_multiproc_dir": str(directory),
    }


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("command", ["serve", "discover"])
def test_variables_of_libraries_are_ignored(tmp_path: Path, command: str, *, exists: bool) -> None:
    """The variables neither break a command nor make it write files, whether their directory exists or not."""
    directory = tmp_path / "directory"
    if exists:
        directory.mkdir()
    variables = library_variables(directory)
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        if command == "serve":
            with Program.start([f"--config.file={config}"], variables) as program:
                assert program.scrape().value("braze_up") == 1
        else:
            done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY, **variables)
            assert (done.returncode, done.stderr.count("\n")) == (0, 5)  # one line for each list
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", *["directory"] * exists]


@pytest.mark.parametrize("command", ["serve", "discover"])
def test_openssl_without_ciphers_is_an_error(tmp_path: Path, command: str) -> None:
    """If the configuration of OpenSSL leaves nothing to use, one line names it instead of the CA file."""
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = all\n[all]\nproviders = none\n[none]\nnull = on\n[on]\nactivate = 1\n", encoding="utf-8"
    )
    web = write_file(tmp_path / "web.yaml", "")
    config = write_file(tmp_path / "config.yaml", workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}"))
    done = run_program(
        command,
        f"--config.file={config}",
        *([f"--web.config.file={web}"] if command == "serve" else []),
        BRAZE_API_KEY=KEY,
        OPENSSL_CONF=str(tmp_path / "openssl.cnf"),
    )
    text = "OpenSSL cannot be used (LIBRARY_HAS_NO_CIPHERS); check the file that the variable OPENSSL_CONF names"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{text}\n")


def run_after(preparation: str, directory: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the program in `directory` until it exits, by a shell that runs `preparation` first."""
    return subprocess.run(  # noqa: S603 - our own program
        ["/bin/sh", "-c", f'{preparation} && exec "$@"', "sh", sys.executable, "-m", "braze_exporter", *arguments],
        cwd=directory,
        env={"BRAZE_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("command", ["serve", "check"])
def test_denied_thread_is_an_error(tmp_path: Path, command: str) -> None:
    """If the system starts no further thread, a command exits with 1 and one line."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}"))
    too_large_stacks = "ulimit -s 200000000000"
    done = run_after(too_large_stacks, tmp_path, [command, f"--config.file={config}"])
    text = "the system denies a resource (can't start new thread); raise the limits of memory, threads and open files"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{text}\n")


@pytest.mark.parametrize("command", ["serve", "check", "backfill"])
def test_deleted_working_directory_is_an_error(tmp_path: Path, command: str) -> None:
    """A relative path of a file to write gives one line if the working directory was deleted."""
    text = workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}", extra_yaml="state_file: state.sqlite\n")
    config = write_file(tmp_path / "config.yaml", text)
    arguments = [command, f"--config.file={config}"]
    if command == "backfill":
        arguments = [*backfill_arguments(config, Path("h.om"), "2026-01-01", "2026-01-03")]
    (tmp_path / "deleted").mkdir()
    done = run_after("rmdir ../deleted", tmp_path / "deleted", arguments)
    text = "the working directory was deleted; start the program in another one"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{text}\n")


def test_path_outside_locale_is_an_error(tmp_path: Path) -> None:
    """A path that the encoding of the locale does not have gives one line that names the setting."""
    text = workspace_yaml(
        "https://rest.iad-01.braze.com", "{event: purchase}", extra_yaml="state_file: ./\N{SNOWMAN}\n"
    )
    config = write_file(tmp_path / "config.yaml", text.replace("api_key_env: BRAZE_API_KEY", "api_key_file: ./\xe9"))
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_program("check", f"--config.file={config}", **locale)
    problem = "contains characters that the locale of the process cannot encode; set the variable LC_ALL=C.UTF-8"
    places = ("4: workspaces[0].api_key_file", "10: state_file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"{config}:{place}: {problem}" for place in places]
