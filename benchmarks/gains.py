"""What each quantiser gains over the suite's own, by architecture: BD-bits of every SAE's curve.

    python benchmarks/gains.py leaderboards/mnist leaderboards/toy

BD-bits (maths §8) of one SAE under a mode against the same SAE in the suite's own mode: below 0
where the mode is shorter. A cell has the median over an architecture's SAEs, and the range. The
last column is `tree` against the tree code of protocol 1, of the SAEs that the archive has it of:
what siblings and magnitudes gain. Baselines are left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mdlbench.curves.curve import bd_bits
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import read_archive, read_records

Modes = dict[str, dict[str, EvalRecord]]
OWN, TREE, BEYOND = "own", "tree", "tree, beyond before"


def by_mode(records: Iterable[EvalRecord]) -> Modes:
    """Records by mode and SAE, the last of each."""
    found: Modes = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.provenance.date):
        if not record.is_baseline:
            found[record.identity.quantiser or OWN][record.name] = record
    return found


def gains(own: dict[str, EvalRecord], mode: dict[str, EvalRecord]) -> dict[str, list[float]]:
    """BD-bits at MSE by architecture, of the SAEs that both have and whose curves overlap."""
    found = defaultdict(list)
    for name in sorted(set(own) & set(mode)):
        gap = bd_bits(own[name].curve("mse"), mode[name].curve("mse"))
        if gap is not None:
            found[own[name].coder.architecture].append(gap)
    return found


def cell(values: list[float]) -> str:
    if not values:
        return f"{'–':>24}"
    low, high = min(values), max(values)
    return f"{np.median(values):8.2f} [{low:6.2f}, {high:6.2f}]".rjust(24)


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        modes = by_mode(read_records(folder))
        own = modes.pop(OWN)
        names = sorted(modes, key=lambda name: (len(name), name))
        table = {name: gains(own, modes[name]) for name in names}
        if before := by_mode(read_archive(folder)).get(TREE):
            table[BEYOND] = gains(before, modes[TREE])
        print(f"\n{folder.name}: BD-bits per token at MSE against the suite's own mode")
        print(f"{'architecture':24}{'SAEs':>5}" + "".join(f"{name:>24}" for name in table))
        for architecture in sorted({record.coder.architecture for record in own.values()}):
            n = sum(record.coder.architecture == architecture for record in own.values())
            cells = "".join(cell(found.get(architecture, [])) for found in table.values())
            print(f"{architecture:24}{n:5}{cells}")


if __name__ == "__main__":
    main()
