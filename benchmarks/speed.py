"""Where an evaluation's time goes, how often it runs the model, and how fast another checkout is.

    python benchmarks/speed.py shares --suite mnist --sae batchtopk-128-k13
    python benchmarks/speed.py shares --suite smollm2-l15 --sae batchtopk-1024-k96 --limit 8
    python benchmarks/speed.py against ../other --suite mnist --sae batchtopk-128-k13 --sae pca

`shares` scores SAEs in this process, `baseline:mean` before them, so that what all SAEs share is
not theirs. A *suffix pass* is the test split once through the model behind the hook: the floor,
each dyadic step, each position that the search on a spliced metric tries, each accepted position of
the other metrics (a record has the model's losses there, too), and each decoder precision tried on
a spliced metric. By the definition (maths §3, §6) no fewer will do than one for the floor and for
each different step that is dyadic, accepted, or the neighbour at which a spliced metric fails, and
two for the decoder (`needed`). Seconds are the CPU's, in which other processes do not count.

`against` runs one command in turns in this checkout and in another, and compares medians: CPU and
wall seconds of the command, and wall seconds that the records say their SAEs took.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clock import Clock

from mdlbench.adapters import checked
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.suite_run import Failed, run
from mdlbench.scoring.targets import target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.statistics.bootstrap import Bootstrap
from mdlbench.statistics.metrics import metric_of
from mdlbench.statistics.tolerance import dyadic_positions, position_of
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite

HERE = Path(__file__).resolve().parent.parent
SPLICES = "suffix passes and their losses"


class Shares:
    """CPU seconds and calls of functions, by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def watch(self, name: str, owner: Any, attribute: str) -> None:
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - start
                self.calls[name] += 1

        setattr(owner, attribute, timed)

    def clear(self) -> None:
        self.seconds.clear()
        self.calls.clear()


def needed(record: EvalRecord, suite: Suite) -> int:
    """The fewest suffix passes that can show all that the record says."""
    finest = record.points[0].step
    steps = set(dyadic_positions(suite.steps.octaves))
    for result in record.tolerances:
        if result.step is None or result.at_coarsest:
            continue
        position = position_of(finest, result.step)
        steps |= {position, position + 1} if metric_of(result.metric).spliced else {position}
    met = [result for result in record.tolerances if result.feasible]
    headline = (suite.headline.metric, suite.headline.epsilon)
    kept = next((r for r in met if (r.metric, r.epsilon) == headline), met[0] if met else None)
    rounded = kept is not None and record.coder.decoder_weight_bits is not None
    return 1 + len(steps) + (2 if rounded and metric_of(kept.metric).spliced else 0)


@dataclass
class Passes:
    """Suffix passes of an SAE: all so far, and how many there were when each stage began."""

    shares: Shares
    n_blocks: int
    before: dict[str, float] = field(default_factory=dict)

    @property
    def so_far(self) -> float:
        return self.shares.calls[SPLICES] / self.n_blocks

    def on_stage(self, stage: str) -> None:
        self.before[stage.rpartition(": ")[2]] = self.so_far

    def lines(self) -> Iterator[str]:
        yield f"suffix passes               {self.so_far:g}"
        yield f"  floor                     {self.before['distortion']:g}"
        yield f"  dyadic steps and search   {self.before['rate'] - self.before['distortion']:g}"
        yield f"  decoder and other points  {self.so_far - self.before['decoder']:g}"


def print_sae(record: EvalRecord, suite: Suite, passes: Passes, seconds: float) -> None:
    print(f"\n{suite.name}, {record.name}, {len(record.tolerances)} tolerances")
    for result in record.tolerances:
        at = f"step {result.step:.5g}" if result.step else "not met"
        print(f"  {result.metric} {result.epsilon:<8g} {at}")
    print(f"  bits of a decoder weight    {record.coder.decoder_weight_bits}")
    for line in passes.lines():
        print(f"  {line}")
    print(f"  needed                      {needed(record, suite)}")
    print(f"  CPU seconds of the SAE      {seconds:.2f}, of which")
    for name, spent in passes.shares.seconds.most_common():
        print(f"    {name:<32} {spent:8.2f}  {spent / seconds:6.1%}")


def print_shares(suite_name: str, saes: Sequence[str], limit: int | None) -> None:
    suite = load_suite(suite_name)
    opener = Opener(suite, Setting(limit=limit))
    wanted = targets(suite, ["baseline:mean", *saes], None)
    source, found = opener.open(target_site(opener, wanted[-1])), Shares()
    passes = Passes(found, source.n_blocks("test"))
    found.watch(SPLICES, type(source), "splice")
    found.watch("encoding", checked, "encode")
    found.watch("decoding", checked, "decode")
    found.watch("bootstrap", Bootstrap, "means")
    del source
    with TemporaryDirectory() as folder:
        start = time.process_time()
        for outcome in run(opener, wanted, Path(folder), passes.on_stage):
            seconds = time.process_time() - start
            if isinstance(outcome, Failed):
                print(outcome.message)
            elif outcome.target != wanted[0]:
                print_sae(outcome.record, suite, passes, seconds)
            found.clear()
            start = time.process_time()


def print_against(other: Path, suite: str, saes: Sequence[str], turns: int) -> None:
    checkouts = {"here": HERE, "other": other.resolve()}
    cpu, wall, scored = Clock(), Clock(), Clock()
    for turn in range(turns):
        for name in checkouts if turn % 2 else reversed(checkouts):
            with TemporaryDirectory() as folder:
                before = _children_seconds()
                wall.time(name, lambda: _score(checkouts[name], suite, saes, Path(folder)))  # noqa: B023
                cpu.seconds.setdefault(name, []).append(_children_seconds() - before)
                records = [
                    json.loads(p.read_text()) for p in Path(folder).glob("records/**/*.json")
                ]
                took = sum(record["environment"]["seconds"] for record in records) / len(saes)
                scored.seconds.setdefault(name, []).append(took)
    print(f"\nmdlbench eval --suite {suite}, {len(saes)} SAEs, {turns} turns; medians")
    for what, clock in (
        ("CPU seconds an SAE, whole command", cpu),
        ("wall seconds an SAE, whole command", wall),
        ("wall seconds an SAE, by its record", scored),
    ):
        per = 1 if clock is scored else len(saes)
        here, there = clock.median("here") / per, clock.median("other") / per
        ratio = clock.ratio("other", "here")
        print(f"  {what:<36} {there:8.2f}  here {here:8.2f}  faster by {ratio:.2f} ×")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _score(checkout: Path, suite: str, saes: Sequence[str], folder: Path) -> None:
    named = [word for sae in saes for word in ("--sae", sae)]
    command = [
        sys.executable,
        "-m",
        "mdlbench",
        "eval",
        "--suite",
        suite,
        *named,
        "-o",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    own = kinds.add_parser("shares")
    own.add_argument("--limit", type=int)
    other = kinds.add_parser("against")
    other.add_argument("checkout", type=Path)
    other.add_argument("--turns", type=int, default=3)
    for kind in (own, other):
        kind.add_argument("--suite", required=True)
        kind.add_argument("--sae", action="append", required=True)
    asked = parser.parse_args()
    if asked.kind == "shares":
        print_shares(asked.suite, asked.sae, asked.limit)
    else:
        print_against(asked.checkout, asked.suite, asked.sae, asked.turns)


if __name__ == "__main__":
    main()
