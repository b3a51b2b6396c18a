"""Test that SIGTERM and SIGINT end each command with its exit code and at most one line, without a traceback."""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from recorded_counts import RecordedCounts
from support import KEY, Program, free_port, running_braze, wait_until, workspace_yaml, write_file

from braze_exporter.state.lock_file import lock_path

# The exit codes that a shell shows for a signal. The program returns them itself, because as process 1 it would not be
# killed.
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
SERVING = {"serve", "demo"}
LABELS = ("--label=job=braze", "--label=instance=exporter:27293")


def stop_message(stop: signal.Signals) -> str:
    """Return the message of a command that was stopped."""
    return f"braze-exporter: stopped by {stop.name} before it finished\n"


@contextmanager
def started(
    *arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the program with both signals blocked, as some supervisors do, and kill it at the end of the block."""
    command = [sys.executable, "-m", "braze_exporter", *arguments]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "BRAZE_API_KEY": KEY, **environment}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, CODES)
    try:
        process = subprocess.Popen(command, env=variables, stdout=stdout, stderr=stderr, text=True)  # noqa: S603
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """Run a server that accepts connections but never responds; yield its URL and an event.

    The event is set when a client connects.
    """
    reached, kept = threading.Event(), []

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return
            reached.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", reached
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for client in kept:
        client.close()


def backfill(directory: Path) -> tuple[str, ...]:
    """Return the command line of a backfill without its config."""
    return ("backfill", "--start=2026-01-01", "--end=2026-01-03", f"--output={directory / 'history.om'}", *LABELS)


def command_line(name: str, directory: Path, config: str) -> Sequence[str]:
    """Return the command line of a command that reads a config."""
    address = (f"--web.listen-address=127.0.0.1:{free_port()}",) if name == "serve" else ()
    first = backfill(directory) if name == "backfill" else tuple(name.split())
    return (*first, f"--config.file={config}", *address)


@pytest.mark.parametrize("stop", CODES)
@pytest.mark.parametrize("name", ["check --live", "discover", "backfill"])
def test_command_waiting_for_braze_is_stopped(
    silent_server: tuple[str, threading.Event], tmp_path: Path, name: str, stop: signal.Signals
) -> None:
    """An interrupted command exits with the signal's code, prints a line about it, and prints no findings."""
    url, reached = silent_server
    config = write_file(tmp_path / "config.yaml", workspace_yaml(url, "{event: purchase}"))
    with started(*command_line(name, tmp_path, config)) as process:
        assert reached.wait(20)
        process.send_signal(stop)
        out, err = process.communicate(timeout=5)
    assert process.returncode == CODES[stop]
    if name == "check --live":
        assert len(out.splitlines()) == 3  # the findings that need no network are complete
    else:
        assert out == ""
    if name == "backfill":
        partial = f"{tmp_path / 'history.om'}.partial"
        assert (
            f"braze-exporter: stopped by {stop.name} before it finished. "
            f"The responses to 0 of 1 call are saved in {partial}; run the same command again to resume"
        ) in err.splitlines()  # besides the progress messages
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "history.om.partial"]
    else:
        assert err == stop_message(stop)


@pytest.mark.parametrize("stop", CODES)
@pytest.mark.parametrize("name", ["serve", "check", "discover", "backfill", "rules"])
def test_command_waiting_for_config_is_stopped(tmp_path: Path, name: str, stop: signal.Signals) -> None:
    """A command that waits for its config ends at once; `serve` exits with 0 and without a message."""
    config = tmp_path / "config.yaml"
    os.mkfifo(config)
    with started(*command_line(name, tmp_path, str(config))) as process, config.open("w"):  # a FIFO opens on both sides
        process.send_signal(stop)
        out, err = process.communicate(timeout=5)
    assert process.returncode == (0 if name == "serve" else CODES[stop])
    assert (out, err) == ("", "" if name == "serve" else stop_message(stop))


@pytest.mark.parametrize("stop", CODES)
@pytest.mark.parametrize("entry", ["module", "script"])
@pytest.mark.parametrize("arguments", [["check"], ["--help"], ["demo"], []])
def test_loading_program_is_stopped(tmp_path: Path, arguments: list[str], entry: str, stop: signal.Signals) -> None:
    """A signal while modules are still being loaded from a slow disk does not cause a traceback.

    SIGHUP does not end the exporter.
    """
    started = tmp_path / "begun"
    slow = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(30)\n"
    write_file(tmp_path / "yaml.py", slow)
    program = [str(Path(sys.executable).with_name("braze-exporter"))]
    command = program if entry == "script" else [sys.executable, "-m", "braze_exporter"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(  # noqa: S603
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(started.exists, "the program loads its modules")
        if not arguments:
            process.send_signal(signal.SIGHUP)  # stays pending until a reload is possible
        process.send_signal(stop)
        out, err = process.communicate(timeout=5)
    is_serving = not arguments or arguments[0] in SERVING
    assert process.returncode == (0 if is_serving else CODES[stop])
    assert (out, err) == ("", "" if is_serving else stop_message(stop))


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Yield the read and the write end of a pipe with a capacity of 4 KiB."""
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4_096)
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def is_full(pipe: int) -> bool:
    """Return whether a pipe is full."""
    waiting = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0] == 4_096


@pytest.mark.parametrize("stop", CODES)
@pytest.mark.parametrize("name", ["schema", "rules"])
def test_command_with_unread_output_is_stopped(tmp_path: Path, name: str, stop: signal.Signals) -> None:
    """A command ends with its exit code even if its output is not read."""
    events = "\n".join(f"{{event: event {number}, alerts: {{silent: 2d}}}}" for number in range(20))
    config = write_file(tmp_path / "config.yaml", workspace_yaml("https://rest.iad-01.braze.com", events))
    arguments = [name] if name == "schema" else [name, f"--config.file={config}"]
    with full_pipe() as (ours, theirs), started(*arguments, stdout=theirs) as process:
        wait_until(lambda: is_full(ours), "the pipe is full")
        process.send_signal(stop)
        _, err = process.communicate(timeout=5)
    assert (process.returncode, err) == (CODES[stop], stop_message(stop))


def test_command_with_unread_messages_is_stopped() -> None:
    """A command ends even if its message is not read."""
    with full_pipe() as (ours, theirs), started("schema", stdout=theirs, stderr=theirs) as process:
        wait_until(lambda: is_full(ours), "the pipe is full")
        process.terminate()
        assert process.wait(5) == 143


def test_command_without_stderr_is_stopped(silent_server: tuple[str, threading.Event], tmp_path: Path) -> None:
    """A command without stderr has the same exit code."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(silent_server[0], "{event: purchase}"))
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "braze_exporter"]
    with subprocess.Popen(  # noqa: S603
        [*shell, "discover", f"--config.file={config}"], env={**os.environ, "BRAZE_API_KEY": KEY}
    ) as process:
        assert silent_server[1].wait(20)
        process.terminate()
        assert process.wait(5) == 143


@pytest.mark.parametrize("stop", CODES)
def test_signal_received_by_another_thread_stops_command(
    silent_server: tuple[str, threading.Event], tmp_path: Path, stop: signal.Signals
) -> None:
    """A command ends whichever of its threads receives the signal."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(silent_server[0], "{event: purchase}"))
    with started("discover", f"--config.file={config}") as process:
        assert silent_server[1].wait(20)
        thread = max(int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir())
        assert thread != process.pid
        assert ctypes.CDLL(None).tgkill(process.pid, thread, stop) == 0
        out, err = process.communicate(timeout=5)
    assert (process.returncode, out, err) == (CODES[stop], "", stop_message(stop))


def test_many_signals_write_one_line(silent_server: tuple[str, threading.Event], tmp_path: Path) -> None:
    """Repeated Ctrl-C, or a SIGTERM after it, results in one line and one exit code."""
    config = write_file(tmp_path / "config.yaml", workspace_yaml(silent_server[0], "{event: purchase}"))
    with started("discover", f"--config.file={config}") as process:
        assert silent_server[1].wait(20)
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=5)
    assert process.returncode in CODES.values()
    assert (out, err) == ("", stop_message(signal.Signals(process.returncode - 128)))


def test_many_signals_end_exporter_with_0(tmp_path: Path) -> None:
    """Further signals change nothing, also during the last write. The full pipe delays the end until all are sent."""
    state = tmp_path / "state.sqlite"
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        text = workspace_yaml(server.url, "{event: purchase}", extra_yaml=f"state_file: {state}\n")
        config = write_file(tmp_path / "config.yaml", text)
        port = free_port()
        arguments = ["serve", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
        with full_pipe() as (_, theirs), started(*arguments, stderr=theirs) as process:
            os.write(theirs, bytes(4_096))
            program = Program(process, port)
            wait_until(lambda: program.is_responding("/-/ready"), "the exporter is ready")
            with lock_path(state).open() as lock:
                while is_locked(lock.fileno()):
                    process.send_signal(signal.SIGTERM)
                    process.send_signal(signal.SIGINT)
            assert process.wait(5) == 0


def is_locked(file: int) -> bool:
    """Return whether another process has locked a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def test_command_resolving_a_name_is_stopped(tmp_path: Path) -> None:
    """A resolver that does not respond cannot be interrupted, but the command ends nevertheless."""
    has_started = tmp_path / "begun"
    resolver = f"""\
import ctypes, pathlib, socket

def never(*arguments, **more):
    mutex = ctypes.create_string_buffer(64)
    pathlib.Path({str(has_started)!r}).touch()
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

socket.getaddrinfo = never
"""
    write_file(tmp_path / "sitecustomize.py", resolver)
    config = write_file(tmp_path / "config.yaml", workspace_yaml("https://rest.iad-01.braze.com", "{event: purchase}"))
    with started("discover", f"--config.file={config}", PYTHONPATH=str(tmp_path)) as process:
        wait_until(has_started.exists, "the command waits for the resolver")
        process.terminate()
        assert process.communicate(timeout=5) == ("", stop_message(signal.SIGTERM))
    assert process.returncode == 143


def test_discover_prints_everything_at_once(tmp_path: Path) -> None:
    """`discover` writes its whole output at once, so that a signal leaves all or nothing.

    Several writes would arrive as several packets.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, running_braze(RecordedCounts(events=[f"event {number}" for number in range(1_000)])) as (_, server):
        config = write_file(tmp_path / "config.yaml", workspace_yaml(server.url, "{event: purchase}"))
        with theirs, started("discover", f"--config.file={config}", stdout=theirs.fileno()) as process:
            theirs.close()
            output = ours.recv(1_000_000).decode()
            assert ours.recv(1_000_000) == b""
            assert process.wait(20) == 0
    assert output.startswith("# ")
    assert output.count("- event: event ") == 1_000
    assert output.endswith("\n")
