"""What it costs to score an SAE in a second mode that rounds alike.

    python benchmarks/modes.py --suite smollm2-l15 --sae batchtopk-1024-k96 --limit 8

The SAE is scored in each mode alone, and in both in one run, where the second finds the losses of
the first. `baseline:mean` is scored before each, so that what all SAEs share is not its own.
Seconds are the CPU's, in which other processes do not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mdlbench.scoring.suite_run import Failed, run
from mdlbench.scoring.targets import in_modes, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite

MODES = ("normalised", "tree")


def seconds(suite_name: str, sae: str, limit: int | None, modes: Sequence[str]) -> float:
    """CPU seconds of an SAE in some modes, in one run."""
    suite = load_suite(suite_name)
    opener = Opener(suite, Setting(limit=limit))
    first = targets(suite, ["baseline:mean"], None)
    wanted = in_modes(suite, targets(suite, [sae], None), modes)
    with TemporaryDirectory() as folder:
        outcomes = run(opener, [*first, *wanted], Path(folder))
        next(outcomes)
        start = time.process_time()
        failed = [outcome.message for outcome in outcomes if isinstance(outcome, Failed)]
        took = time.process_time() - start
    if failed:
        raise SystemExit("; ".join(failed))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", required=True)
    parser.add_argument("--sae", required=True)
    parser.add_argument("--limit", type=int)
    said = parser.parse_args()
    one, other = (seconds(said.suite, said.sae, said.limit, [mode]) for mode in MODES)
    both = seconds(said.suite, said.sae, said.limit, MODES)
    print(f"{said.suite}, {said.sae}, limit {said.limit}; CPU seconds of the SAE")
    for name, took in zip((*MODES, " and ".join(MODES)), (one, other, both), strict=True):
        print(f"  {name:22}{took:8.1f}")
    print(f"  both in one run take {both / (one + other):.2f} times what two runs take")


if __name__ == "__main__":
    main()
