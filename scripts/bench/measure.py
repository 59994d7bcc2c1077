"""What the benchmarks share: processes and their CPU time, medians, and the table at the end.

The rule this file keeps: CPU time, not wall-clock time, and always of several rounds; what is compared is measured in
the same run, in turns, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
ANY = 1_000  # a server on any processor
PATIENCE = 30.0  # s that a process may take to say that it is ready


def arguments(description: str) -> argparse.Namespace:
    """The command line of every benchmark: `quick`, and `rounds` where the default is not wanted."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of which the median is taken")
    return parser.parse_args()


def raise_descriptor_limit() -> int:
    """As many descriptors as the system allows; gives how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# ---- processes -----------------------------------------------------------------------------------------------


class Process:
    """A child on a processor of its own if there is one; speaks in lines on its standard input and output."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        core: int | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.child = subprocess.Popen(
            [str(item) for item in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=env,
            preexec_fn=lambda: pin(core),
        )
        self._lines = b""

    @property
    def pid(self) -> int:
        return self.child.pid

    def say(self, line: str = "") -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(f"{line}\n".encode())
        self.child.stdin.flush()

    def hear(self, patience: float = PATIENCE) -> str:
        """The next line it prints. Raises SystemExit if none comes: a benchmark cannot go on then."""
        out: IO[bytes] | None = self.child.stdout
        assert out is not None
        deadline = time.monotonic() + patience
        while b"\n" not in self._lines:
            readable, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(out.fileno(), 65_536) if readable else b""
            if not more:
                sys.exit(f"{self.name} {'ended' if readable else f'said nothing for {patience:g} s'}")
            self._lines += more
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all its threads: utime + stime of /proc/PID/stat, to the nanosecond.

        The clock's number is what clock_getcpuclockid(3) gives for a process.
        """
        return time.clock_gettime(~self.pid << 3 | 2)

    def resident(self) -> int:
        """Bytes of memory that are its own."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * resource.getpagesize()

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is None:
                self.child.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.child.wait(10)
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def pin(core: int | None) -> None:
    """Stay on the first (0) or last (-1) processor; on a machine with one there is nothing to choose.

    The first is the server's; ANY lets its threads run side by side. Where that is allowed a server goes before other
    work of the machine, which is not what shall be measured.
    """
    if core is None:
        return
    if core != ANY:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    with contextlib.suppress(PermissionError):
        if core == 0:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        else:
            os.setpriority(os.PRIO_PROCESS, 0, -10)


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str | Path], core: int | None = None, env: dict[str, str] | None = None
) -> Iterator[Process]:
    process = Process(name, command, core, env)
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="streamd-bench-") as name:
        yield Path(name)


def compiled(source: str, into: Path) -> Path | None:
    """A C program of this directory, or None where there is no compiler."""
    program = into / source.removesuffix(".c")
    try:
        subprocess.run(["cc", "-O2", "-Wall", "-o", program, HERE / source], check=True)
    except FileNotFoundError:
        return None
    return program


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# ---- figures -------------------------------------------------------------------------------------------------


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def report(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """Print a Markdown table, first column to the left, and what has to be known about it."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if not at else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    print(f"\n### {title}\n\n{machine()}\n", line(head), line(rule), *map(line, rows), "", sep="\n")
    print(*notes, sep="\n", flush=True)


def progress(text: str) -> None:
    """What is being done, for someone who waits at a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
