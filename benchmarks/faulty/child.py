"""One `mdlbench` command in a forked child: importing torch once serves thousands of them."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 10
IDLE_SECONDS = 15
"""Without any work, after which a child is taken to wait for ever; the machine may be busy."""
MEGABYTES = 2048
SPARE_BYTES = 4 << 30
"""What a child may ask for beyond what its parent has; a guard of the machine, not the limit."""
LONGEST_MESSAGE = 4000
MISMATCH = 3
"""Exit code of a child whose command was content, but whose result is not right."""


@dataclass(frozen=True)
class Ran:
    """How a child ended.

    Attributes:
        code: exit code, or minus the signal.
        stdout, stderr: what it printed; bytes that are no UTF-8 as surrogates.
        seconds: of work (CPU time).
        megabytes: its largest resident size, what the parent shares with it included.
        waited: whether it was killed for having waited too long.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    megabytes: float
    waited: bool = False

    @property
    def failure(self) -> str | None:
        """What no command may do, whatever it is given; None if it did nothing of the kind."""
        if self.waited or self.code == -signal.SIGXCPU:
            return "hangs"
        if "Traceback (most recent call last)" in self.stderr:
            return f"traceback: {_clipped(self.stderr.strip().splitlines()[-1])}"
        if self.code == MISMATCH:
            return _clipped(self.stderr.strip())
        if self.code not in (0, 1, 2):
            return f"ends with code {self.code}"
        if self.megabytes > MEGABYTES:
            return "takes more than 2 GB"
        if self.code and len(self.stderr) > LONGEST_MESSAGE:
            return f"says {len(self.stderr):,} characters"
        return None

    @property
    def out_of_memory(self) -> bool:
        said = self.stderr + self.stdout
        words = ("MemoryError", "Unable to allocate", "allocate memory")
        return any(word in said for word in words)


def mdlbench(
    arguments: Sequence[object],
    cwd: Path,
    *,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
    kill_after: float | None = None,
    cpu_seconds: int = CPU_SECONDS,
) -> Ran:
    """`mdlbench ARGUMENTS` in the folder `cwd`.

    Args:
        arguments: of the command line.
        cwd: the working folder; its subfolder `.child` is the child's own.
        before: called in the child first.
        after: called in the child where the command ends with code 0; if it raises `MismatchError`,
            the child ends with code `MISMATCH` and the message on stderr.
        kill_after: seconds until SIGKILL.
        cpu_seconds: of work until the child is stopped.
    """

    def work() -> int:
        if before is not None:
            before()
        code = _command([str(argument) for argument in arguments])
        if code == 0 and after is not None:
            after()
        return code

    return forked(work, cwd, kill_after=kill_after, cpu_seconds=cpu_seconds)


class MismatchError(Exception):
    """A command was content, but its result is not right."""


def forked(
    work: Callable[[], int],
    cwd: Path,
    *,
    kill_after: float | None = None,
    cpu_seconds: int = CPU_SECONDS,
) -> Ran:
    """What `work` does in a forked child, a process group of its own."""
    private = cwd / ".child"
    private.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_child(work, cwd, private, cpu_seconds)
    waited = _stuck(child) if kill_after is None else not _ends_within(child, kill_after)
    if waited:
        _kill(child)
    _, status, usage = os.wait4(child, 0)
    said = [
        (private / name).read_bytes()[: 1 << 24].decode(errors="surrogateescape")
        for name in ("stdout", "stderr")
    ]
    return Ran(
        os.waitstatus_to_exitcode(status),
        *said,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
        waited and kill_after is None,
    )


def _ends_within(child: int, seconds: float) -> bool:
    handle = os.pidfd_open(child)
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def _stuck(child: int) -> bool:
    """Wait for the child's end; whether it does nothing instead."""
    work = -1
    while not _ends_within(child, IDLE_SECONDS):
        before, work = work, _ticks(child)
        if work == before:
            return True
    return False


def _ticks(child: int) -> int:
    """Clock ticks of work so far, in user mode and in the kernel."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _kill(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)


def _be_child(work: Callable[[], int], cwd: Path, private: Path, cpu_seconds: int) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(cwd)
        _redirect(private)
        _limit(cpu_seconds)
        tempfile.tempdir = str(private)
        code = _ended(work)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _ended(work: Callable[[], int]) -> int:
    try:
        return work()
    except MismatchError as mismatch:
        print(mismatch, file=sys.stderr)
        return MISMATCH
    except BaseException:
        traceback.print_exc()
        return 1


def _command(arguments: list[str]) -> int:
    from mdlbench.cli.main import main

    sys.argv = ["mdlbench", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _redirect(private: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(private / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    errors = "backslashreplace"
    sys.stderr = open(2, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115


def _limit(cpu_seconds: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_BYTES, size + SPARE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _clipped(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "…"


def timed(work: Callable[[], Ran]) -> tuple[Ran, float]:
    """What it returns, and the seconds on the clock."""
    start = time.perf_counter()
    ran = work()
    return ran, time.perf_counter() - start
