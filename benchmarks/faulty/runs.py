"""Runs of `eval` and `train` that are killed, then run again: the folder must be as if never."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny import write_sae, write_tiny_suite

from faulty.child import Ran, mdlbench, timed
from faulty.outcome import Outcome, Watch

SHIM = "MDLBENCH_CRASH_SHIM"
"""Environment variable: the path of `crash.c`, compiled, which is preloaded."""
TIME_AND_PLACE = ("environment", "provenance", "checksum")
CRASHED = 137
JOBS = ("eval", "train")


@dataclass
class Job:
    """A command that fills a folder, and what the folder is when nothing interrupts it.

    Attributes:
        name: eval or train.
        inputs: where the suite and its SAE are.
        whole: what the uninterrupted run left.
        seconds: that it took, on the clock.
    """

    name: str
    inputs: Path
    whole: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def arguments(self) -> list[object]:
        suite = ["--suite", self.inputs / "suite", "-o", "out", "--quiet"]
        if self.name == "eval":
            return ["eval", *suite]
        own = ["--width", "12", "--k", "3", "--epochs", "12", "--batch-size", "100"]
        return ["train", *suite, *own, "--threads", "1"]

    def run(self, folder: Path, **how: Any) -> Ran:
        return mdlbench(self.arguments(), folder, **how)

    def measure(self, folder: Path) -> None:
        """The uninterrupted run; the second of two, whose caches are as warm as later ones'."""
        for attempt in ("first", "second"):
            place = folder / f"{self.name}-{attempt}"
            ran, self.seconds = timed(lambda place=place: self.run(place))
            if ran.code != 0:
                raise SystemExit(f"{self.name} fails where nothing is broken:\n{ran.stderr}")
            self.whole = contents(place / "out")

    def finish(self, folder: Path, watch: Watch) -> None:
        """Run it again to the end, and compare."""
        command = " ".join(map(str, ["mdlbench", *self.arguments()]))
        early = finished_records(folder / "out")
        if not watch.see(self.run(folder), command):
            watch.blame("cannot go on", command)
            return
        for path, stamp in early.items():
            if not path.exists() or path.stat().st_mtime_ns != stamp:
                watch.blame("a finished record was made again", command)
        for difference in differences(self.whole, contents(folder / "out")):
            watch.blame(difference, command)


def finished_records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("records/[!.]*.json")}


def contents(folder: Path) -> dict[str, Any]:
    """What each file says, but for when and where it was written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _content(path) for path in files}


def _content(path: Path) -> Any:
    try:
        if path.name == "training.json":
            return _without(json.loads(path.read_text())["result"], "seconds")
        if path.name == "log.csv":
            return [row[:-1] for row in csv.reader(path.read_text().splitlines())]
        if path.parent.name == "records":
            return _without(json.loads(path.read_text()), *TIME_AND_PLACE)
    except (ValueError, KeyError) as error:
        return f"unreadable: {error}"
    return path.read_bytes()


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def differences(whole: dict[str, Any], found: dict[str, Any]) -> list[str]:
    missing = [f"{_kind(name)} is missing" for name in whole if name not in found]
    other = [f"{_kind(name)} differs" for name in whole if found.get(name, ...) != whole[name]]
    more = [f"{_kind(name)} is left behind" for name in found if name not in whole]
    return missing + other + more


def _kind(name: str) -> str:
    """The file, without what is random or of one SAE."""
    path = Path(name)
    if any(part.startswith(".") for part in path.parts):
        return f"a temporary file in {path.parent}/"
    return f"{path.parent}/*{path.suffix}" if len(path.parts) > 1 else name


class _Runs:
    """What both parts have: the jobs, measured."""

    def __init__(self, jobs: tuple[str, ...]) -> None:
        self._names = jobs
        self.jobs: dict[str, Job] = {}

    def prepare(self, work: Path) -> None:
        inputs = work / "inputs"
        suite = write_tiny_suite(
            inputs / "suite",
            steps={"finest": 0.0625, "octaves": 3},
            replicates=100,
            saes=[{"key": "own", "spec": "saelens:sae"}, {"key": "mean", "spec": "baseline:mean"}],
        )
        write_sae(suite / "sae")
        for name in self._names:
            self.jobs[name] = Job(name, inputs)
            self.jobs[name].measure(work)


class Kills(_Runs):
    """SIGKILL of the process group at a random moment."""

    def __init__(self, job: str, count: int) -> None:
        super().__init__((job,))
        self.name, self.count = f"kills of {job}", count

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        (job,) = self.jobs.values()
        moment = draw.uniform(0.02, job.seconds)
        watch = Watch(f"killed #{number} at {moment:.2f} of {job.seconds:.2f} s")
        job.run(folder, kill_after=moment)
        job.finish(folder, watch)
        return watch.outcome()


@dataclass(frozen=True)
class CrashPoint:
    """The n-th change of the folder, counted from 1; `half`: after half of the bytes."""

    job: str
    number: int
    what: str
    half: bool


class Crashes(_Runs):
    """The process ends before each change that it makes to the folder, or half-way in a write."""

    name = "crash points"

    def __init__(self, limit: int) -> None:
        super().__init__(JOBS)
        self._limit = limit
        self._points: list[CrashPoint] = []

    @property
    def count(self) -> int:
        return len(self._points)

    def prepare(self, work: Path) -> None:
        super().prepare(work)
        for job in self.jobs.values():
            self._points += _points(job, work)
        if self._limit < len(self._points):
            step = len(self._points) / self._limit
            self._points = [self._points[int(i * step)] for i in range(self._limit)]

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        point = self._points[number]
        when = "half-way in" if point.half else "before"
        watch = Watch(f"{point.job} ends {when} {point.what} #{point.number}")
        job = self.jobs[point.job]
        ran = job.run(folder, before=armed(folder, point.number, point.half))
        if ran.code != CRASHED:
            watch.blame(f"the crash was not reached: code {ran.code}", "")
        job.finish(folder, watch)
        return watch.outcome()


def armed(folder: Path, number: int, half: bool, log: Path | None = None) -> Callable[[], None]:
    """Sets the trap, in the child, for changes of `folder/out`."""

    def arm() -> None:
        shim = ctypes.CDLL(os.environ[SHIM])
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = -1 if log is None else os.open(log, flags, 0o644)
        shim.crash_arm(os.fsencode(folder.resolve() / "out"), number, int(half), descriptor)

    return arm


def _points(job: Job, work: Path) -> list[CrashPoint]:
    place, log = work / f"{job.name}-counted", work / f"{job.name}.log"
    job.run(place, before=armed(place, 0, False, log))
    points = []
    for number, line in enumerate(log.read_text().splitlines(), 1):
        change, path = line.split("\t")
        what = f"{change} of {_kind(path)}"
        points += [
            CrashPoint(job.name, number, what, half)
            for half in ((False, True) if change == "write" else (False,))
        ]
    shutil.rmtree(place)
    return points
