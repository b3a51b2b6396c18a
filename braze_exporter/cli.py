"""The entry point of the program: handles signals, runs the command in `sys.argv` and returns its exit code.

No other module reads `argv` or the environment.
"""

import contextlib
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from braze_exporter.commands.exit_codes import fail

if TYPE_CHECKING:
    from concurrent.futures import Future

    from _typeshed import ReadableBuffer

SERVING_COMMANDS = {"serve", "demo"}
# prometheus_client reads these at import. If one is set, it writes all metrics to files in a directory.
_IGNORED_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
# The errors of a system that denies memory, a file or a thread: error numbers, and a message of `RuntimeError`.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, "can't start new thread")
# A process that a signal ends exits with this plus the number of the signal, as in a shell.
_SIGNAL_BASE = 128


class StopHandler:
    """Ends the process on SIGTERM and SIGINT, until the server installs its own handlers.

    The handlers call `os._exit`. An exception could be lost in a finalizer, and a normal exit blocks while stdout is a
    full pipe. The default action of the signals is not sufficient, because process 1 of a container has none.
    """

    def __init__(self, *, is_serving: bool) -> None:
        """Install the handlers.

        If `is_serving` is set, the process ends silently with exit code 0, otherwise with a message and 143 (SIGTERM)
        or 130 (SIGINT). Handlers can only be installed in the main thread.
        """
        self._is_serving = is_serving
        self._is_cleaning_up = False
        self._is_writing = False
        self._clean_up: Callable[[], str] = str
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # the parent may have blocked them

    def on_stop(self, clean_up: Callable[[], str]) -> None:
        """Call `clean_up` before the process ends, and add the text that it returns to the message.

        `clean_up` is called in the main thread, so it must not wait for that thread.
        """
        self._clean_up = clean_up

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self._is_serving:
            os._exit(0)
        if self._is_writing:  # an earlier signal is about to end the process
            return
        added = ""
        try:
            if not self._is_cleaning_up:  # a second signal does not wait for the cleanup
                self._is_cleaning_up = True
                added = self._clean_up()
            self._is_writing = True
            text = f"braze-exporter: stopped by {signal.Signals(number).name} before it finished"
            _write_line(f"{text}. {added}" if added else text)
        finally:
            os._exit(_SIGNAL_BASE + number)


def _write_line(text: str) -> None:
    """Write a line to stderr, if that is possible without blocking."""
    with contextlib.suppress(OSError, ValueError):
        erase = "\r\x1b[K" if sys.stderr.isatty() else ""  # removes a progress bar
        descriptor = sys.stderr.fileno()
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, f"{erase}{text}\n".encode(errors="backslashreplace"))


class OutputError(Exception):
    """Raised if stdout cannot be written. It is no `OSError`, since argparse ignores these."""


class _Stdout(io.FileIO):
    """The descriptor of stdout. Raises `OutputError` if a write fails."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data`."""
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.strerror) from None


class _Stderr(io.FileIO):
    """The descriptor of stderr. Drops what cannot be written."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write `data`."""
        with contextlib.suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def _open_output(descriptor: io.FileIO) -> io.TextIOWrapper:
    """Return a text stream in UTF-8, whatever the encoding of the environment: YAML and JSON are UTF-8.

    Each line is written at once, so that a signal loses none.
    """
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _open_standard_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr`.

    A closed descriptor is opened, so that no other file gets its number. Writing to a closed stdout is an error.
    """
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free number
    sys.stdout = _open_output(_Stdout(1, "w", closefd=False))
    sys.stderr = _open_output(_Stderr(2, "w", closefd=False))


def _wait_for(command: "Future[object]") -> None:
    """Wait in the main thread until `command` is done, and let signal handlers run meanwhile.

    The system may deliver a signal to any thread, and then a lock on which the main thread waits is not interrupted. It
    therefore waits for a byte: the interpreter writes one for each signal, and the command writes one at its end.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # a full pipe wakes the main thread as well
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    command.add_done_callback(lambda _command: os.write(writer, b"\0"))
    while not command.done():
        os.read(reader, 1)
    signal.set_wakeup_fd(-1)


def _describe_environment(error: MemoryError | OSError | RuntimeError) -> str | None:
    """Return the problem of the environment that caused `error`, with its fix, or None if the cause is another one."""
    if getattr(error, "library", None) == "SSL":
        reason = getattr(error, "reason", None)
        return f"OpenSSL cannot be used ({reason}); check the file that the variable OPENSSL_CONF names"
    if isinstance(error, FileNotFoundError) and error.filename is None:  # from `os.getcwd`, for a relative path
        return "the working directory was deleted; start the program in another one"
    if isinstance(error, MemoryError) or getattr(error, "errno", str(error)) in _EXHAUSTED:
        reason = getattr(error, "strerror", str(error)) or "out of memory"
        return f"the system denies a resource ({reason}); raise the limits of memory, threads and open files"
    return None


def main() -> int:
    """Run the command in `sys.argv` and return the exit code.

    The code is 0 for success and 1 for failure. For wrong usage, argparse raises `SystemExit` with code 2. SIGTERM and
    SIGINT end the process, except while a server handles them.
    """
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version"}):
        arguments.insert(0, "serve")
    is_serving = arguments[0] in SERVING_COMMANDS
    _open_standard_streams()
    for name in _IGNORED_VARIABLES:
        os.environ.pop(name, None)
    stop = StopHandler(is_serving=is_serving)
    if arguments[0] == "serve":  # a SIGHUP stays pending until a reload is possible
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    # These imports can take several seconds. They come after `StopHandler`, so that a signal can end the process during
    # them.
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from braze_exporter.commands.arguments import build_parser  # noqa: PLC0415
    from braze_exporter.config.document import ConfigError  # noqa: PLC0415

    try:
        options = build_parser().parse_args(arguments)
        options.on_stop = stop.on_stop
        if is_serving:
            return int(options.run(options, os.environ))
        # Signal handlers run in the main thread, but not while it blocks in C code, such as the resolver. The command
        # therefore runs in another thread.
        with ThreadPoolExecutor(1) as pool:
            command = pool.submit(options.run, options, os.environ)
            _wait_for(command)
            return int(command.result())
    except ConfigError as error:
        return fail(str(error))
    except OutputError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout at exit
        return fail(f"stdout cannot be written ({error}); redirect it to a file or a program that reads all of it")
    except (MemoryError, OSError, RuntimeError) as error:
        problem = _describe_environment(error)
        if problem is None:
            raise
        return fail(problem)
