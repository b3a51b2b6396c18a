"""Test that `state_file` may name a state file or a new path, and that any other file is refused and not changed."""

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from support import KEY, Program, copy_during_transaction, run_program, unprivileged_prefix, workspace_yaml, write_file

from braze_exporter.state import StateFileError, open_state_file

pytestmark = pytest.mark.no_cover


@pytest.mark.parametrize("command", ["check", "serve"])
def test_unusable_state_file_is_an_error(tmp_path: Path, command: str) -> None:
    """`check` does not create the state file; `serve` reports in one line why it cannot be created."""
    state = tmp_path / "missing" / "state.sqlite"
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))
    done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
    if command == "check":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 1
        assert done.stderr == (
            f"{config}:{STATE_LINE}: state_file: {state} cannot be used (unable to open database file); "
            "choose another path for state_file, or make this one writable\n"
        )
    assert not state.parent.exists()


STATE_LINE = 10


def config_with_state_file(state: Path) -> str:
    """Return the text of a config with a state file, on the line `STATE_LINE`."""
    return workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}", extra_yaml=f"state_file: {state}\n")


def text_file(path: Path) -> str:
    """Create a text file."""
    write_file(path, "precious: " + "notes\n" * 100)
    return f"{path} is a file of another type"


def short_file(path: Path) -> str:
    """Create a file that starts like a database and ends within its header."""
    path.write_bytes(b"SQLite format 3\0" + bytes(52) + b"Braz" + bytes(27))
    return f"{path} is a file of another type"


def zeros(path: Path) -> str:
    """Create a file of zeros, as a power cut can leave behind."""
    path.write_bytes(bytes(8_192))
    return f"{path} is a file of another type"


def other_database(path: Path) -> str:
    """Create a database of another program that does not set an application id."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders AS SELECT randomblob(50000) AS x")
        connection.execute("PRAGMA user_version = 1")
    return f"{path} is a database of another type"


def empty_database(path: Path) -> str:
    """Create a database of another program without tables."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA application_id = 1")
    return f"{path} is a database of another type"


def killed_database(path: Path) -> str:
    """Create a database of another killed program, which the next process to open it would roll back."""
    whole = path.with_name("whole")
    other_database(whole)
    copy_during_transaction(whole, "INSERT INTO orders SELECT randomblob(50000)", path)
    whole.unlink()
    return f"{path} is a database of another type"


def logged_database(path: Path) -> str:
    """Create a database of another program whose changes are in its write-ahead log."""
    whole = path.with_name("whole")
    with contextlib.closing(sqlite3.connect(whole)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE orders (id)")
        connection.commit()
        for suffix in ("", "-wal", "-shm"):
            shutil.copyfile(f"{whole}{suffix}", f"{path}{suffix}")
    whole.unlink()
    return f"{path}-wal is a file of another type"


def directory(path: Path) -> str:
    """Create a directory."""
    path.mkdir()
    return f"{path} is a directory"


def fifo(path: Path) -> str:
    """Create a FIFO, whose reader waits for a writer."""
    os.mkfifo(path)
    return f"{path} is not a regular file"


def bound_socket(path: Path) -> str:
    """Create a socket."""
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:  # the full path may be too long
        bound.bind(path.name)
    return f"{path} is not a regular file"


def device(path: Path) -> str:
    """Create a link to a device."""
    path.symlink_to("/dev/zero")
    return "/dev/zero is not a regular file"


def endless_link(path: Path) -> str:
    """Create a link to itself."""
    path.symlink_to(path)
    return f"{path} is not a regular file"


def below_a_file(path: Path) -> str:
    """Create a link to a path below a regular file."""
    write_file(path.with_name("file"), "no directory")
    path.symlink_to(path.with_name("file") / "state.sqlite")
    return f"{path.with_name('file')}/state.sqlite cannot be read (Not a directory)"


def neighbor_file(path: Path, suffix: str, content: bytes) -> str:
    """Create a file next to the state file that SQLite would treat as a part of it."""
    neighbor = path.with_name(path.name + suffix)
    neighbor.write_bytes(content)
    return f"{neighbor} is a file of another type"


def journal(path: Path) -> str:
    """Create a file with the name of the state file's journal."""
    return neighbor_file(path, "-journal", b"my journal")


def write_ahead_log(path: Path) -> str:
    """Create a write-ahead log, which a state file never has."""
    return neighbor_file(path, "-wal", b"\x37\x7f\x06\x82" + bytes(28))


def shared_memory(path: Path) -> str:
    """Create a shared memory file, which a state file never has."""
    return neighbor_file(path, "-shm", bytes(32_768))


def journal_fifo(path: Path) -> str:
    """Create a FIFO with the name of the state file's journal."""
    open_state_file(str(path)).close()
    os.mkfifo(f"{path}-journal")
    return f"{path}-journal is not a regular file"


def newer_state(path: Path) -> str:
    """Create a state file of a newer exporter version."""
    open_state_file(str(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    return f"{path} was written by a newer version of the exporter (schema version 2, supported: 1); run that version"


FOREIGN: Sequence[Callable[[Path], str]] = (
    text_file,
    short_file,
    zeros,
    other_database,
    empty_database,
    killed_database,
    logged_database,
    directory,
    fifo,
    bound_socket,
    device,
    endless_link,
    below_a_file,
    journal,
    write_ahead_log,
    shared_memory,
    journal_fifo,
    newer_state,
)


def snapshot(directory: Path) -> Mapping[str, object]:
    """Return the contents of a directory: the mode, inode, modification time and bytes of each file, by its path."""
    rows_by_table = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        rows_by_table[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return rows_by_table


@pytest.mark.parametrize(("make", "name"), [*((make, "state") for make in FOREIGN), (killed_database, "link")])
def test_foreign_file_as_state_file_is_refused(tmp_path: Path, make: Callable[[Path], str], name: str) -> None:
    """Anything that is not a state file is refused in one line; it is not changed, moved or waited for."""
    problem = make(tmp_path / "state")
    (tmp_path / "link").symlink_to("state")
    config = write_file(tmp_path / "config.yaml", config_with_state_file(tmp_path / name))
    before = snapshot(tmp_path)
    for command in ("check", "serve"):
        done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{config}:{STATE_LINE}: state_file: {problem}")
        assert re.search(
            r"; (run that version|choose another path for state_file(, or move the file)?)\n$", done.stderr
        )
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize(
    ("used_as", "info"),
    [
        ("api_key_file", "workspaces[0].api_key_file"),
        ("--web.config.file", "the web configuration file"),
        ("SSL_CERT_FILE", "SSL_CERT_FILE"),
        ("REQUESTS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    ],
)
def test_file_read_by_exporter_as_state_file_is_refused(
    tmp_path: Path, used_as: str, info: str, *, is_there: bool
) -> None:
    """A file that the exporter reads cannot be its state file, even if it is empty or missing, nor can a link to it."""
    used, link = tmp_path / "used", tmp_path / "link"
    if is_there:
        used.touch()
    link.symlink_to("used")
    text, arguments, environ = config_with_state_file(link), list[str](), {"BRAZE_API_KEY": KEY}
    if used_as == "api_key_file":
        text = text.replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {used}")
    elif used_as == "--web.config.file":
        arguments = [f"--web.config.file={used}"]
    else:
        environ[used_as] = str(used)
    config = write_file(tmp_path / "config.yaml", text)
    before = snapshot(tmp_path)
    expected = f"{config}:{STATE_LINE}: state_file: is the same file as {info}; choose another path\n"
    for command in ("check", "serve"):
        done = run_program(command, f"--config.file={config}", *arguments, **environ)
        assert done.returncode == 1
        assert snapshot(tmp_path) == before
        if (command, used_as, is_there) == ("serve", "--web.config.file", False):  # it is read before the state file
            assert done.stderr.startswith(f"{used}: cannot be read")
        else:
            assert done.stderr == expected


@pytest.mark.parametrize("is_hard", [False, True])
def test_config_as_state_file_is_refused(tmp_path: Path, *, is_hard: bool) -> None:
    """The config cannot be the state file, also through a link, and is not moved aside."""
    link, config = tmp_path / "link", tmp_path / "config.yaml"
    write_file(config, config_with_state_file(link))
    if is_hard:
        link.hardlink_to(config)
    else:
        link.symlink_to("config.yaml")
    before = snapshot(tmp_path)
    expected = f"{config}:{STATE_LINE}: state_file: is the same file as the config; choose another path\n"
    for command in ("check", "serve"):
        done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
        assert (done.returncode, done.stderr) == (1, expected)
        assert snapshot(tmp_path) == before


def test_key_file_as_state_file_is_not_read_at_reload(tmp_path: Path) -> None:
    """The config is refused before the key file is opened, so the exporter keeps its lock on the state file."""
    state, config = tmp_path / "state", tmp_path / "config.yaml"
    write_file(config, config_with_state_file(state))
    with Program.start([f"--config.file={config}", "--web.enable-lifecycle"]) as program:
        write_file(
            config, config_with_state_file(state).replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {state}")
        )
        response = program.get("/-/reload", method="POST")
        expected = (
            f"{config}:{STATE_LINE}: state_file: is the same file as workspaces[0].api_key_file; choose another path\n"
        )
        assert (response.status, response.text) == (500, f"failed to reload config: {expected}")
        with pytest.raises(StateFileError, match="is locked by another exporter"):
            open_state_file(str(state), wait=0.1)


def test_unreadable_state_file_is_a_warning(tmp_path: Path) -> None:
    """An unreadable state file makes `serve` fail; `check` only warns, because another user may run it."""
    state = tmp_path / "state"
    open_state_file(str(state)).close()
    state.chmod(0)
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))
    environ = {name: value for name, value in os.environ.items() if name.startswith("COV")}
    problem = f"{config}:{STATE_LINE}: state_file: {state} cannot be read (Permission denied); make it readable, "
    problem += "or choose another path for state_file\n"
    for command, code, stderr in (("check", 0, f"warning: {problem}"), ("serve", 1, problem)):
        done = subprocess.run(  # noqa: S603 - our own program
            [*unprivileged_prefix(), sys.executable, "-m", "braze_exporter", command, f"--config.file={config}"],
            env={**environ, "BRAZE_API_KEY": KEY},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, stderr)


def test_check_creates_no_state_file(tmp_path: Path) -> None:
    """`check` does not create a state file, does not change an empty one, and does not wait for one in use."""
    state = tmp_path / "state"
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))

    def check() -> None:
        before = snapshot(tmp_path)
        done = run_program("check", f"--config.file={config}", BRAZE_API_KEY=KEY)
        assert (done.returncode, done.stderr) == (0, "")
        assert snapshot(tmp_path) == before

    check()
    state.touch()
    check()
    with contextlib.closing(open_state_file(str(state))):
        check()
