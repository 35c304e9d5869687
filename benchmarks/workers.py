"""What workers cost and gain: seconds, bytes, the driver's share, and what deaths change.

    python benchmarks/workers.py ratios --suite mnist --sae batchtopk-64-k15 --sae batchtopk-128-k11
    python benchmarks/workers.py deaths --suite toy --sae truth --sae split --deaths 20
    python benchmarks/workers.py scaling --suite mnist --sae batchtopk-64-k15

`ratios` scores the same SAEs, references included, in turns: by one worker of one thread in this
process, by one worker of Ray, and by two. Starting workers and loading the model is not counted.
Ratios are medians over turns, each of which has all three. The longest CPU time, the driver's and
that of the worker that has most, is what it would take were no other process on the machine, and
nothing waited for. `deaths` compares the records of one
worker with those of two and three in this process; then it scores the SAEs by two workers of Ray,
kills the process of one of them at so many drawn moments, and compares again. `scaling` counts what
SAEs send and how long the driver itself computes, measured apart (whole SAEs) and together (round
by round), beside what is measured once a site. From that it says what any number of workers would
take on a network of 1 GB/s.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from clock import Clock

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.cluster import RayEngine, Workers
from mdlbench.scoring.executor import Executor, InProcess, Raised, Task
from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import Target, target_site, targets
from mdlbench.scoring.tasks import (
    DescribeSource,
    FindEigenvalues,
    MeasureScatter,
    MeasureUntouched,
)
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite

BYTES_PER_SECOND = 1e9
OTHER = ("environment", "provenance", "checksum")
WORKERS = (1, 2, 4, 8, 16, 32, 64)
OF_A_SITE = (DescribeSource, MeasureUntouched, MeasureScatter, FindEigenvalues)
"""What is found once for all SAEs at a site."""


@dataclass
class Held:
    """The engine of workers that there are already."""

    executor: Executor

    @contextmanager
    def workers(self, opener: Opener) -> Iterator[Executor]:
        yield self.executor


def records(executor: Executor, opener: Opener, wanted: Sequence[Target]) -> list[dict[str, Any]]:
    """The records of SAEs and the references, without what differs between runs."""
    with TemporaryDirectory() as folder:
        found = []
        for outcome in run(opener, wanted, Path(folder), engine=Held(executor)):
            if not isinstance(outcome, Scored):
                raise outcome.error
            record = json.loads(outcome.record.to_json())
            found.append({key: value for key, value in record.items() if key not in OTHER})
        return [*found, json.loads((Path(folder) / "references.json").read_text())]


@dataclass
class Case:
    """What is scored."""

    suite: str
    saes: list[str]
    limit: int | None
    text: str | None

    def opener(self) -> Opener:
        return Opener(load_suite(self.suite), Setting(limit=self.limit, text=self.text))

    def wanted(self) -> list[Target]:
        return targets(load_suite(self.suite), self.saes, None)


@contextmanager
def warm(case: Case, n_workers: int | None) -> Iterator[tuple[Executor, Opener]]:
    """Workers that have opened the activations; None stands for this process."""
    opener = case.opener()
    opener.settle()
    site = target_site(opener, case.wanted()[0])
    if n_workers is None:
        executor = InProcess(opener)
        Bench.open(executor, site)
        yield executor, opener
        return
    engine = RayEngine(Workers(n_workers), print)
    try:
        with engine.workers(opener) as executor:
            Bench.open(executor, site)
            yield executor, opener
    finally:
        engine.close()


def ratios(case: Case, turns: int) -> None:
    names = {None: "one worker, this process", 1: "one worker of Ray", 2: "two workers of Ray"}
    clock, cpu, found = Clock(), Clock(), {}
    for turn in range(turns):
        for n_workers in list(names)[:: -1 if turn % 2 else 1]:
            name = names[n_workers]
            with warm(case, n_workers) as (executor, opener):
                before = _cpu_seconds(executor)
                found[name] = clock.time(name, lambda: records(executor, opener, case.wanted()))
                spent = [b - a for a, b in zip(before, _cpu_seconds(executor), strict=True)]
                longest = spent[0] + max(spent[1:], default=0.0)
                cpu.seconds.setdefault(name, []).append(longest)
    one = names[None]
    print(f"{len(case.saes)} SAEs of {case.suite}, {turns} turns, one thread a worker")
    print(f"  {'':26}      wall               longest CPU")
    for name in names.values():
        times = "   ".join(
            f"{c.median(name):8.2f} s {c.ratio(one, name):5.2f} ×" for c in (clock, cpu)
        )
        print(f"  {name:26} {times}   {_compared(found[name] == found[one])}")


def _cpu_seconds(executor: Executor) -> list[float]:
    """CPU seconds so far: this process's, then each other worker's."""
    if executor.is_one:
        return [time.process_time()]
    return [
        time.process_time(),
        *executor.run([_CpuSeconds() for _ in range(executor.n_workers)]),
    ]


@dataclass(frozen=True)
class _CpuSeconds:
    def __call__(self, worker: Any) -> float:
        return time.process_time()


def deaths(case: Case, n_deaths: int, seed: int) -> None:
    with warm(case, None) as (executor, opener):
        started = time.perf_counter()
        expected = records(executor, opener, case.wanted())
        seconds = time.perf_counter() - started
    print(f"{len(case.saes)} SAEs of {case.suite}")
    for n_workers in (2, 3):
        opener = case.opener()
        found = records(InProcess(opener, n_workers), opener, case.wanted())
        print(f"  {n_workers} workers of this process: {_compared(found == expected)}", flush=True)
    draw, killed, same, runs = random.Random(seed), 0, 0, 0
    with warm(case, 2) as (executor, opener):
        while killed < n_deaths:
            pids = executor.run([_Pid(), _Pid()])
            timer = threading.Timer(draw.uniform(0, seconds), _kill, [draw.choice(pids)])
            timer.start()
            found = records(executor, opener, case.wanted())
            killed += timer.finished.is_set()
            timer.cancel()
            runs += 1
            same += found == expected
    print(f"  {killed} workers of Ray killed at drawn moments in {runs} runs: {same} the same")


def _compared(is_same: bool) -> str:
    return "the same records" if is_same else "OTHER RECORDS"


@dataclass(frozen=True)
class _Pid:
    def __call__(self, worker: Any) -> int:
        return os.getpid()


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


class Counting(InProcess):
    """A worker that counts what would be sent to it, and how long it computes."""

    def __init__(self, opener: Opener, is_one: bool) -> None:
        super().__init__(opener)
        self.is_one = is_one
        self.clear()

    def clear(self) -> None:
        self.sent = self.received = self.rounds = 0
        self.seconds = self.counted = 0.0

    def run(self, tasks: Sequence[Task[Any]]) -> list[Any]:
        started = time.process_time()
        found = super().run(tasks)
        self._count(tasks, found, started)
        return found

    def as_done(self, tasks: Sequence[Task[Any]], on_stage: Any = None) -> Iterator[Any]:
        for i, task in enumerate(tasks):
            started = time.process_time()
            ((_, found),) = super().as_done([task])
            self._count([task], found, started)
            if isinstance(found, Raised):
                raise found.error
            yield i, found

    def _count(self, tasks: Sequence[Task[Any]], found: Any, started: float) -> None:
        done = time.process_time()
        if isinstance(tasks[0], OF_A_SITE):
            self.counted += done - started
            return
        self.sent += sum(len(pickle.dumps(task, protocol=5)) for task in tasks)
        self.received += len(pickle.dumps(found, protocol=5))
        self.rounds += 1
        self.seconds += done - started
        self.counted += time.process_time() - done


def scaling(case: Case) -> None:
    for is_one, how in ((False, "apart"), (True, "together")):
        opener = case.opener()
        opener.settle()
        executor = Counting(opener, is_one)
        bench = Bench.open(executor, target_site(opener, case.wanted()[0]))
        n_tokens = sum(bench.source.n_tokens.values())
        with TemporaryDirectory() as folder:
            list(run(opener, targets(opener.suite, ["baseline:mean"], None), Path(folder)))
            executor.clear()
            started = time.process_time()
            list(run(opener, case.wanted(), Path(folder), engine=Held(executor)))
            whole = time.process_time() - started - executor.counted
        _print_scaling(case, how, executor, whole, n_tokens)


def _print_scaling(case: Case, how: str, executor: Counting, whole: float, n_tokens: int) -> None:
    n = len(case.saes)
    computing, sent, received = executor.seconds / n, executor.sent / n, executor.received / n
    driver, rounds = (whole - executor.seconds) / n, executor.rounds / n
    print(f"{n} SAEs of {case.suite} measured {how}, {n_tokens:,} tokens, one thread; per SAE")
    print(f"  {'rounds':32}{rounds:10.1f}")
    print(f"  {'CPU seconds at workers':32}{computing:10.3f}")
    print(f"  {'CPU seconds at the driver':32}{driver:10.3f}, {driver / rounds:.4f} a round")
    for name, n_bytes in (("sent", sent), ("received", received)):
        print(f"  {name:32}{n_bytes / 1e6:10.2f} MB, {n_bytes / n_tokens:.1f} bytes a token")
    print("  workers   seconds an SAE   driver busy   1,000 SAEs")
    for workers in WORKERS:
        to_each = workers if how == "together" else 1
        busy = driver + (to_each * sent + received) / BYTES_PER_SECOND
        at_once = computing / workers
        seconds = at_once + busy if how == "together" else max(at_once, busy)
        hours = seconds * 1000 / 3600
        print(f"  {workers:7} {seconds:16.3f} {busy / seconds:13.0%} {hours:10.2f} h")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["ratios", "deaths", "scaling"])
    parser.add_argument("--suite", default="mnist")
    parser.add_argument("--sae", action="append", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--text")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case = Case(arguments.suite, arguments.sae, arguments.limit, arguments.text)
    if arguments.what == "ratios":
        ratios(case, arguments.turns)
    elif arguments.what == "deaths":
        deaths(case, arguments.deaths, arguments.seed)
    else:
        scaling(case)


if __name__ == "__main__":
    main()
