"""A disk whose writes take as long as a test wants, for a program in a separate process."""

import subprocess
from pathlib import Path

from servers import require_tool

# Replaces the functions that wait for the disk. The file in STALL_FILE has the seconds by which each call is delayed.
_SOURCE = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void stall(void) {
    FILE *file = fopen(getenv("STALL_FILE"), "r");
    double seconds = 0;
    if (file == NULL) return;
    if (fscanf(file, "%lf", &seconds) == 1) usleep((useconds_t)(seconds * 1e6));
    fclose(file);
}
int fsync(int descriptor) { stall(); return syscall(SYS_fsync, descriptor); }
int fdatasync(int descriptor) { stall(); return syscall(SYS_fdatasync, descriptor); }
"""


class StallingDisk:
    """A disk for the program that runs with `environment`."""

    def __init__(self, directory: Path) -> None:
        """Build the library in `directory`."""
        library, source = directory / "stall.so", directory / "stall.c"
        source.write_text(_SOURCE)
        subprocess.run([require_tool("gcc"), "-shared", "-fPIC", "-o", str(library), str(source)], check=True)  # noqa: S603
        self._file = directory / "seconds"
        self.stall(0)
        self.environment = {"LD_PRELOAD": str(library), "STALL_FILE": str(self._file)}

    def stall(self, seconds: float) -> None:
        """Delay each following write by `seconds`."""
        written = self._file.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self._file)
