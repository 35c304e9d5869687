"""What workers cost and gain: seconds, bytes, the driver's share, and what deaths change.

    python benchmarks/workers.py ratios --suite mnist --sae batchtopk-64-k15 --sae batchtopk-128-k11
    python benchmarks/workers.py deaths --suite toy --sae truth --deaths 20
    python benchmarks/workers.py scaling --suite mnist --sae batchtopk-64-k15

`ratios` scores the same SAEs, references included, in turns: by one worker of one thread in this
process, by one worker of Ray, and by two. Starting workers and loading the model is not counted.
`deaths` scores SAEs by two workers of Ray, kills the process of one of them at so many drawn
moments, and compares the record with that of one worker. `scaling` counts what one SAE sends and
how long the driver itself computes, and from that says what any number of workers would take on a
network of 1 GB/s: computing is divided by their number, what each is sent is not.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from clock import Clock

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.cluster import RayEngine, Workers
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import Executor, InProcess, Task
from mdlbench.scoring.rounds import Rounds
from mdlbench.scoring.targets import Target, target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite

TURNS = 3
BYTES_PER_SECOND = 1e9
OTHER = ("environment", "provenance", "checksum")


def records(executor: Executor, opener: Opener, wanted: Sequence[Target]) -> list[dict[str, Any]]:
    """The records of SAEs at one site, without what differs between runs."""
    bench = Bench.open(executor, target_site(opener, wanted[0]))
    bench.references()
    found = []
    for target in wanted:
        identity = bench.identity(bench.identify(target.sae), target.name)
        record = json.loads(evaluate_coder(bench, target.sae, identity).record.to_json())
        found.append({key: value for key, value in record.items() if key not in OTHER})
    return found


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
            executor.run([_Open(site) for _ in range(n_workers)])
            yield executor, opener
    finally:
        engine.close()


@dataclass(frozen=True)
class _Open:
    site: Any

    def __call__(self, worker: Any) -> None:
        worker.source(self.site)


def ratios(case: Case) -> None:
    names = {None: "one worker, this process", 1: "one worker of Ray", 2: "two workers of Ray"}
    clock, found = Clock(), {}
    for _ in range(TURNS):
        for n_workers, name in names.items():
            with warm(case, n_workers) as (executor, opener):
                found[name] = clock.time(name, lambda: records(executor, opener, case.wanted()))
    one = names[None]
    print(f"{len(case.saes)} SAEs of {case.suite}, {TURNS} turns, one thread a worker")
    for name in names.values():
        same = "the same records" if found[name] == found[one] else "OTHER RECORDS"
        print(f"  {name:26} {clock.median(name):8.2f} s   {clock.ratio(one, name):5.2f} ×   {same}")


def deaths(case: Case, n_deaths: int, seed: int) -> None:
    with warm(case, None) as (executor, opener):
        started = time.perf_counter()
        expected = records(executor, opener, case.wanted())
        seconds = time.perf_counter() - started
    draw, killed, same, rounds = random.Random(seed), 0, 0, 0
    while killed < n_deaths:
        with warm(case, 2) as (executor, opener):
            pids = executor.run([_Pid(), _Pid()])
            timer = threading.Timer(draw.uniform(0, seconds), _kill, [draw.choice(pids)])
            timer.start()
            found = records(executor, opener, case.wanted())
            if timer.finished.is_set():
                killed += 1
            timer.cancel()
            rounds += 1
            same += found == expected
    print(f"{killed} workers killed at drawn moments in {rounds} runs: {same} the same records")


@dataclass(frozen=True)
class _Pid:
    def __call__(self, worker: Any) -> int:
        return os.getpid()


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@dataclass
class Counting:
    """An executor that counts what would be sent, and how long workers compute."""

    inner: Executor
    sent: int = 0
    received: int = 0
    rounds: int = 0
    seconds: float = 0.0
    counted: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, tasks: Sequence[Task[Any]]) -> list[Any]:
        started = time.process_time()
        found = self.inner.run(tasks)
        done = time.process_time()
        sizes = [len(pickle.dumps(task, protocol=5)) for task in tasks]
        self.sent += sum(sizes)
        self.received += len(pickle.dumps(found, protocol=5))
        self.rounds += 1
        self.seconds += done - started
        self.counted += time.process_time() - done
        return found


def scaling(case: Case) -> None:
    with warm(case, None) as (executor, opener):
        bench = Bench.open(executor, target_site(opener, case.wanted()[0]))
        bench.references()
        target = case.wanted()[0]
        counting = Counting(executor)
        rounds = Rounds(counting, bench.source)
        counted = Bench(bench.suite, rounds, bench.limit, bench.mode)
        counted.__dict__["reference"] = bench.reference
        counted.__dict__["bootstrap"] = bench.bootstrap
        started = time.process_time()
        identity = counted.identity(counted.identify(target.sae), target.name)
        evaluate_coder(counted, target.sae, identity)
        whole = time.process_time() - started - counting.counted
    driver = whole - counting.seconds
    n_tokens = sum(bench.source.n_tokens.values())
    print(f"one SAE of {case.suite} ({case.saes[0]}), {n_tokens:,} tokens, CPU seconds, one thread")
    print(f"  {'rounds':32}{counting.rounds:10}")
    print(f"  {'computing at workers':32}{counting.seconds:10.2f} s")
    print(f"  {'computing at the driver':32}{driver:10.2f} s")
    for name, n_bytes in (
        ("sent to each worker", counting.sent),
        ("received from all together", counting.received),
    ):
        print(f"  {name:32}{n_bytes / 1e6:10.2f} MB, {n_bytes / n_tokens:.1f} bytes a token")
    print("  workers   seconds an SAE   driver busy   1,000 SAEs, one at a time")
    for workers in (1, 2, 4, 8, 16, 32, 64):
        network = (workers * counting.sent + counting.received) / BYTES_PER_SECOND
        busy = driver + network
        seconds = counting.seconds / workers + busy
        hours = seconds * 1000 / 3600
        print(f"  {workers:7} {seconds:16.2f} {busy / seconds:13.0%} {hours:10.1f} h")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["ratios", "deaths", "scaling"])
    parser.add_argument("--suite", default="mnist")
    parser.add_argument("--sae", action="append", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--text")
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case = Case(arguments.suite, arguments.sae, arguments.limit, arguments.text)
    done: dict[str, Callable[[], None]] = {
        "ratios": lambda: ratios(case),
        "deaths": lambda: deaths(case, arguments.deaths, arguments.seed),
        "scaling": lambda: scaling(case),
    }
    done[arguments.what]()


if __name__ == "__main__":
    main()
