"""Test that one exporter at a time uses a state file, and that any other file is refused and not changed."""

import contextlib
import errno
import fcntl
import io
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from recorded_counts import RecordedCounts
from support import (
    HOUR,
    KEY,
    Program,
    copy_during_transaction,
    run_program,
    running_braze,
    unprivileged_prefix,
    wait_until,
    workspace_yaml,
    write_file,
)

from braze_exporter.braze.kinds import Unit
from braze_exporter.state.contents import counter_changes
from braze_exporter.state.counter_state import CounterState
from braze_exporter.state.errors import StateFileError
from braze_exporter.state.state_file import open_state_file


@pytest.mark.no_cover
@pytest.mark.parametrize("command", ["check", "serve"])
def test_unusable_state_file_is_an_error(tmp_path: Path, command: str) -> None:
    """`check` warns of a missing directory, which it does not create; `serve` reports in one line why it fails."""
    state = tmp_path / "missing" / "state.sqlite"
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))
    done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
    problem = f"{config}:{STATE_LINE}: state_file: {state.parent} does not exist; create the directory\n"
    expected = (0, f"warning: {problem}") if command == "check" else (1, problem)
    assert (done.returncode, done.stderr) == expected
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
        connection.execute("PRAGMA user_version = 3")
    return f"{path} was written by a newer version of the exporter (schema version 3, supported: 2); run that version"


def other_users_link(path: Path) -> str:
    """Create a link of another user in a directory like /tmp, to a path at which a file could be created."""
    if os.geteuid():
        pytest.skip("only root can create links of other users")
    path.symlink_to("missing")
    os.chown(path, 12_345, -1, follow_symlinks=False)
    path.parent.chmod(0o1777)
    return f"{path} belongs to another user"


def lock_with_text(path: Path) -> str:
    """Create a file with the name of the lock file."""
    return neighbor_file(path, ".lock", b"precious")


def lock_link(path: Path) -> str:
    """Create a link with the name of the lock file, to a path at which a file could be created."""
    path.with_name(f"{path.name}.lock").symlink_to("new")
    return f"{path}.lock is not a regular file"


def lock_link_to_file(path: Path) -> str:
    """Create a link with the name of the lock file, to an empty file."""
    path.with_name("empty").touch()
    path.with_name(f"{path.name}.lock").symlink_to("empty")
    return f"{path}.lock is not a regular file"


def lock_fifo(path: Path) -> str:
    """Create a FIFO with the name of the lock file."""
    os.mkfifo(f"{path}.lock")
    return f"{path}.lock is not a regular file"


def lock_directory(path: Path) -> str:
    """Create a directory with the name of the lock file of an existing state file."""
    open_state_file(str(path)).close()
    path.with_name(f"{path.name}.lock").unlink()
    path.with_name(f"{path.name}.lock").mkdir()
    return f"{path}.lock is a directory"


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
    other_users_link,
    lock_with_text,
    lock_link,
    lock_link_to_file,
    lock_fifo,
    lock_directory,
)


def snapshot(directory: Path) -> Mapping[str, object]:
    """Return the contents of a directory: the mode, inode, modification time and bytes of each file, by its path."""
    rows_by_table = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        rows_by_table[str(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return rows_by_table


@pytest.mark.no_cover
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")
@pytest.mark.parametrize("mode", [0o777, 0o1755], ids=oct)
def test_state_file_of_other_user_in_usual_directory_is_used(tmp_path: Path, mode: int) -> None:
    """Owners matter only in directories like /tmp. Volumes of containers are often writable for all."""
    path = tmp_path / "state"
    open_state_file(str(path)).close()
    for file in (path, path.with_name("state.lock")):
        os.chown(file, 12_345, -1)
    tmp_path.chmod(mode)
    open_state_file(str(path)).close()


@pytest.mark.no_cover
@pytest.mark.parametrize("is_there", [False, True])
def test_key_file_as_state_file_is_refused(tmp_path: Path, *, is_there: bool) -> None:
    """The key file cannot be the state file, even if it is empty or missing, nor can a link to it."""
    used, link = tmp_path / "used", tmp_path / "link"
    if is_there:
        used.touch()
    link.symlink_to("used")
    text = config_with_state_file(link).replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {used}")
    config = write_file(tmp_path / "config.yaml", text)
    before = snapshot(tmp_path)
    problem = "state_file: is the same file as workspaces[0].api_key_file; choose another path"
    for command in ("check", "serve"):
        done = run_program(command, f"--config.file={config}")
        assert (done.returncode, done.stderr) == (1, f"{config}:{STATE_LINE}: {problem}\n")
        assert snapshot(tmp_path) == before


@pytest.mark.no_cover
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
    problem = "has another hard link" if is_hard else "is a file of another type"
    for command in ("check", "serve"):
        done = run_program(command, f"--config.file={config}", BRAZE_API_KEY=KEY)
        assert done.returncode == 1
        assert problem in done.stderr
        assert snapshot(tmp_path) == before


@pytest.mark.no_cover
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
        (tmp_path / "state.lock").unlink()  # so that only the lock of the database remains, which a read would release
        with pytest.raises(StateFileError, match="is locked by another exporter"):
            open_state_file(str(state), wait=0.1)


@pytest.mark.no_cover
def test_unreadable_state_file_is_a_warning(tmp_path: Path) -> None:
    """An unreadable state file makes `serve` fail; `check` only warns, because another user may run it."""
    state = tmp_path / "state"
    open_state_file(str(state)).close()
    state.chmod(0)
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))
    problem = f"{config}:{STATE_LINE}: state_file: {state} cannot be read (Permission denied); make it readable, "
    problem += "or choose another path for state_file\n"
    for command, code, stderr in (("check", 0, f"warning: {problem}"), ("serve", 1, problem)):
        done = run_unprivileged(command, config)
        assert (done.returncode, done.stderr) == (code, stderr)


def run_unprivileged(command: str, config: str) -> subprocess.CompletedProcess[str]:
    """Run the program until it exits, without the capabilities of root."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith("COV")}
    return subprocess.run(  # noqa: S603 - our own program
        [*unprivileged_prefix(), sys.executable, "-m", "braze_exporter", command, f"--config.file={config}"],
        env={**inherited, "BRAZE_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.no_cover
@pytest.mark.parametrize(("unwritable", "mode"), [("directory", 0o500), ("directory/state.lock", 0)])
def test_unwritable_directory_of_state_file_is_an_error(tmp_path: Path, unwritable: str, mode: int) -> None:
    """If no file can be created beside the state file, or its lock not opened, `serve` fails and `check` warns."""
    state = tmp_path / "directory" / "state"
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))
    state.parent.mkdir()
    open_state_file(str(state)).close()
    (tmp_path / unwritable).chmod(mode)
    before = snapshot(tmp_path)
    text = f"{tmp_path / unwritable} is not writable; make it writable for the exporter's user"
    problem = f"{config}:{STATE_LINE}: state_file: {text}\n"
    done = run_unprivileged("serve", str(config))
    assert (done.returncode, done.stderr) == (1, problem)
    done = run_unprivileged("check", str(config))
    assert (done.returncode, done.stderr) == (0, f"warning: {problem}")
    assert snapshot(tmp_path) == before


@pytest.mark.no_cover
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


def test_files_are_private(tmp_path: Path) -> None:
    """Only the owner can write the state file and use its lock file, which is beside the real file and is kept."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/state")
    for _ in range(2):
        with contextlib.closing(open_state_file(str(tmp_path / "link"))):
            pass
        status = (tmp_path / "real" / "state.lock").lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o600, 0)
        assert (tmp_path / "link").stat().st_mode & 0o133 == 0
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "real", "state", "state.lock"]


def test_state_file_is_closed_twice(tmp_path: Path) -> None:
    """Closing a state file again has no effect."""
    state_file = open_state_file(str(tmp_path / "state"))
    state_file.close()
    state_file.close()
    open_state_file(str(tmp_path / "state")).close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file as another exporter does."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_locked_state_file_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The wait for another exporter is logged at once, once, with its length, and ends with a one-line error."""
    with locked(tmp_path / "state.lock"), pytest.raises(StateFileError) as raised:
        open_state_file(str(tmp_path / "state"), wait=0.5)
    assert str(raised.value) == (
        f"{tmp_path}/state is locked by another exporter; use one state file per exporter, or wait until it has stopped"
    )
    (line,) = caplog.records
    assert (line.levelname, line.getMessage()) == ("WARNING", "State file is locked by another exporter, waiting")
    assert vars(line)["fields"] == {"file": f"{tmp_path}/state", "timeout": "0.5s"}
    assert not (tmp_path / "state").exists()


@pytest.mark.no_cover
def test_damaged_file_of_other_exporter_is_not_moved(tmp_path: Path) -> None:
    """A second exporter says that it waits, and moves a damaged file aside only once it has the lock."""
    state = tmp_path / "state"
    open_state_file(str(state)).close()
    damaged = state.read_bytes()[:200]
    state.write_bytes(damaged)
    config = write_file(tmp_path / "config.yaml", config_with_state_file(state))
    command = [sys.executable, "-m", "braze_exporter", f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]
    environ = {**os.environ, "BRAZE_API_KEY": KEY}
    with (
        locked(tmp_path / "state.lock"),
        subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as second,  # noqa: S603
    ):
        assert second.stderr is not None
        line = second.stderr.readline()
        assert 'msg="State file is locked by another exporter, waiting"' in line
        assert line.endswith(f" file={state} timeout=30s\n")
        time.sleep(1)
        assert (second.poll(), state.read_bytes(), [*tmp_path.glob("*.damaged-*")]) == (None, damaged, [])
        second.terminate()  # ends the wait
        assert second.communicate(timeout=10)[1] == ""
    assert second.returncode == 0
    with (
        Program.start([f"--config.file={config}"]) as program,
        pytest.raises(StateFileError, match="is locked by another exporter"),
    ):
        open_state_file(str(state), wait=0.1)
    assert "State file is damaged" in program.output
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes() == damaged


def test_deleted_lock_file_lets_no_other_exporter_in(tmp_path: Path) -> None:
    """If the lock file is deleted, the lock of the database still keeps other exporters out."""
    with contextlib.closing(open_state_file(str(tmp_path / "state"))) as state_file:
        (tmp_path / "state.lock").unlink()
        with pytest.raises(StateFileError, match="is locked by another exporter"):
            open_state_file(str(tmp_path / "state"), wait=0.3)
        state_file.write(counter_changes({KEYS[0]: ROW}, {}))
        assert set(state_file.read_counters()) == {KEYS[0]}


def test_replaced_lock_file_is_locked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the lock file is deleted or replaced before it is locked, the one at its path is locked."""
    lock = tmp_path / "state.lock"
    flock = fcntl.flock

    def replace_lock() -> None:
        lock.unlink()
        lock.touch()

    changes = iter([lock.unlink, replace_lock])

    def flock_late(file: io.FileIO, operation: int) -> None:
        next(changes, lambda: None)()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with contextlib.closing(open_state_file(str(tmp_path / "state"))), lock.open() as file:
        with pytest.raises(BlockingIOError):
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert next(changes, None) is None


def test_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file cannot be locked, the state file is refused instead of used without a lock."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(StateFileError) as raised:
        open_state_file(str(tmp_path / "state"))
    assert str(raised.value) == (
        f"{tmp_path}/state.lock cannot be locked (No locks available); "
        "choose another path for state_file, on a file system with locks"
    )
    assert not (tmp_path / "state").exists()


KEYS = [("production", "url", "custom_events", name, "", "", "", "") for name in ("a", "b", "c", "d")]
NAME = ("production", "url", "campaigns", "7")

ROW = CounterState(Unit.HOUR, 0.0).to_row()


def test_deleted_state_file_is_created_again(tmp_path: Path) -> None:
    """The first write after a deletion fails; the next one creates the file again with its whole content."""
    state = tmp_path / "state"
    with contextlib.closing(open_state_file(str(state))) as state_file:
        state_file.write(counter_changes({KEYS[0]: ROW}, {}) | {("names", NAME): (*NAME, "Welcome")})
        for path in tmp_path.iterdir():
            path.unlink()
        with pytest.raises(StateFileError) as raised:
            state_file.write(counter_changes({KEYS[1]: ROW}, {}))
        assert str(raised.value) == f"{state} was deleted; the next write creates it again"
        assert [*tmp_path.iterdir()] == []
        state_file.write(counter_changes({KEYS[2]: ROW}, {}))
        state_file.write(counter_changes({KEYS[3]: ROW}, {}))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "state-journal", "state.lock"]
        with pytest.raises(StateFileError, match="is locked by another exporter"):
            open_state_file(str(state), wait=0.1)
        shutil.copyfile(state, tmp_path / "copy")  # as after kill -9
    for path in (state, tmp_path / "copy"):
        with contextlib.closing(open_state_file(str(path))) as state_file:
            assert set(state_file.read_counters()) == {KEYS[0], KEYS[2], KEYS[3]}
            assert state_file.read_names() == {NAME: "Welcome"}


def test_moved_state_file_is_used_again_once_it_is_back(tmp_path: Path) -> None:
    """A state file that is moved away and back is used without being created again."""
    state = tmp_path / "state"
    with contextlib.closing(open_state_file(str(state))) as state_file:
        for key in KEYS[:2]:
            identity = state.stat().st_ino
            state.rename(tmp_path / "moved")
            with pytest.raises(StateFileError, match="was deleted"):
                state_file.write(counter_changes({key: ROW}, {}))
            (tmp_path / "moved").rename(state)
            state_file.write(counter_changes({key: ROW}, {}))
            assert state.stat().st_ino == identity
    with contextlib.closing(open_state_file(str(state))) as state_file:
        assert set(state_file.read_counters()) == set(KEYS[:2])


def test_replaced_state_file_is_not_changed(tmp_path: Path) -> None:
    """If another file is at the path, also a link to the moved file, writes fail and nothing at the path is changed."""
    state, other = tmp_path / "state", tmp_path / "other"
    with contextlib.closing(open_state_file(str(other))) as state_file:
        state_file.write(counter_changes({KEYS[3]: ROW}, {}))
    with contextlib.closing(open_state_file(str(state))) as state_file:
        state_file.write(counter_changes({KEYS[0]: ROW}, {}))
        state.rename(tmp_path / "moved")
        state.with_name("state-journal").unlink()
        state.symlink_to("moved")
        expected = f"{state} was replaced by another file; restart the exporter to use that file, or delete it"
        for change in (bool, lambda: other.replace(state)):
            change()
            state.with_name("state-journal").write_bytes(b"of the other file")
            before = snapshot(tmp_path)
            with pytest.raises(StateFileError) as raised:
                state_file.write(counter_changes({KEYS[1]: ROW}, {}))
            assert str(raised.value) == expected
            assert snapshot(tmp_path) == before
        assert set(state_file.read_counters()) == {KEYS[0]}
        before = snapshot(tmp_path)
    assert snapshot(tmp_path) == before


def test_truncated_state_file_is_not_changed(tmp_path: Path) -> None:
    """After another program has truncated the file, writes fail, and a restart uses it as a new file."""
    state = tmp_path / "state"
    with contextlib.closing(open_state_file(str(state))) as state_file:
        state_file.write(counter_changes({KEYS[0]: ROW}, {}))
        os.truncate(state, 0)
        for _ in range(2):
            with pytest.raises(StateFileError, match="was truncated by another program; restart the exporter"):
                state_file.write(counter_changes({KEYS[1]: ROW}, {}))
    assert state.read_bytes() == b""
    with contextlib.closing(open_state_file(str(state))) as state_file:
        assert state_file.read_counters() == {}


def test_deleted_directory_of_state_file_is_waited_for(tmp_path: Path) -> None:
    """While the directory is missing or unusable, each write fails with the reason; then the file is created again."""
    directory = tmp_path / "directory"
    state = directory / "state"
    directory.mkdir()
    with contextlib.closing(open_state_file(str(state))) as state_file:
        state_file.write(counter_changes({KEYS[0]: ROW}, {}))
        shutil.rmtree(directory)
        messages = []
        for change in (bool, bool, directory.touch):
            change()
            with pytest.raises(StateFileError) as raised:
                state_file.write(counter_changes({KEYS[1]: ROW}, {}))
            messages.append(str(raised.value))
        remedy = "choose another path for state_file, or make this one writable"
        assert messages == [
            f"{state} was deleted; the next write creates it again",
            f"{state} cannot be used (No such file or directory); {remedy}",
            f"{state} cannot be used (Not a directory); {remedy}",
        ]
        directory.unlink()
        directory.mkdir()
        with locked(directory / "state.lock"), pytest.raises(StateFileError, match="is locked by another exporter"):
            state_file.write(counter_changes({KEYS[1]: ROW}, {}))
        assert not state.exists()
        state_file.write(counter_changes({KEYS[1]: ROW}, {}))
    with contextlib.closing(open_state_file(str(state))) as state_file:
        assert set(state_file.read_counters()) == set(KEYS[:2])


def test_failed_creation_after_deletion_is_repeated(tmp_path: Path) -> None:
    """If the deleted file cannot be created again, for example on a full disk, the next write tries it again."""
    state = tmp_path / "state"
    with contextlib.closing(open_state_file(str(state))) as state_file:
        state_file.write(counter_changes({KEYS[0]: ROW}, {}))
        state.unlink()
        with pytest.raises(StateFileError, match="was deleted"):
            state_file.write(counter_changes({KEYS[1]: ROW}, {}))
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
            with pytest.raises(StateFileError, match=f"{state} cannot be created again"):
                state_file.write(counter_changes({KEYS[1]: ROW}, {}))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert not state.exists()
        state_file.write(counter_changes({KEYS[1]: ROW}, {}))
    with contextlib.closing(open_state_file(str(state))) as state_file:
        assert set(state_file.read_counters()) == set(KEYS[:2])


@pytest.mark.no_cover
@pytest.mark.parametrize("is_replaced", [False, True])
def test_exporter_reports_deleted_state_file(tmp_path: Path, *, is_replaced: bool) -> None:
    """If the file is deleted or replaced, the exporter counts and logs failed writes, and shows the last totals.

    A deleted file is created again with all totals. A replaced one is not changed, and is used after a restart.
    """
    recorded = RecordedCounts(events=["purchase"])
    state, other = tmp_path / "state", tmp_path / "other"
    open_state_file(str(other)).close()
    this_hour = int(time.time()) // HOUR * HOUR
    with running_braze(recorded) as (_, server):
        extra_yaml = f"state_file: {state}\nbudget: {{share: 0.5}}\n"
        text = workspace_yaml(server.url, "{event: purchase, refresh_interval: 1s}", extra_yaml=extra_yaml)
        config = write_file(tmp_path / "config.yaml", text)

        def wait_for_total(total: float) -> None:
            wait_until(lambda: program.scrape().value("braze_custom_events_total") == total, f"the total is {total}")

        def failures() -> float:
            return program.scrape().value("braze_exporter_state_write_failures_total") or 0.0

        with Program.start([f"--config.file={config}"]) as program:
            wait_for_total(0)
            recorded.set("purchase", this_hour, 40)
            wait_for_total(40)
            assert failures() == 0
            content = other.read_bytes()
            other.replace(state) if is_replaced else state.unlink()
            recorded.set("purchase", this_hour, 60)
            if is_replaced:
                wait_until(lambda: failures() >= 3, "three writes have failed")
                assert program.scrape().value("braze_custom_events_total") == 40
                assert state.read_bytes() == content
            else:
                wait_for_total(60)
                assert failures() == 1
            program.stop(signal.SIGKILL if not is_replaced else None)
        lines = [line for line in program.lines if "State file" in line]
        assert 'msg="State file could not be written, counters are not updated"' in lines[0]
        assert f"{state} was {'replaced by another file' if is_replaced else 'deleted'}; " in lines[0]
        assert ["State file written again" in line for line in lines[1:]] == ([] if is_replaced else [True])
        if is_replaced:
            assert state.read_bytes() == content
        recorded.set("purchase", this_hour, 70)
        with Program.start([f"--config.file={config}"]) as program:
            wait_for_total(0 if is_replaced else 70)
            assert failures() == 0
