"""What a new protocol changed: the scores and ranks of a results folder beside its archive.

    python benchmarks/protocols.py leaderboards/mnist leaderboards/toy

SAEs are matched by name, quantiser and tolerance. Ranks are counted among those that both have, and
among trained SAEs alone, so that only their order differs. Of several archived measurements of one
SAE the last is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mdlbench.records.record import EvalRecord
from mdlbench.records.store import read_archive, read_records

Key = tuple[str, str | None]
Limit = tuple[str, float]


def by_key(records: Iterable[EvalRecord]) -> dict[Key, EvalRecord]:
    ordered = sorted(records, key=lambda record: record.provenance.date)
    return {(record.name, record.identity.quantiser): record for record in ordered}


def bits(records: dict[Key, EvalRecord], limit: Limit) -> dict[Key, float]:
    found = {}
    for key, record in records.items():
        for result in record.tolerances:
            if (result.metric, result.epsilon) == limit and result.bits is not None:
                found[key] = result.bits
    return found


def ranks(scores: dict[Key, float], keys: list[Key]) -> dict[Key, int]:
    return {key: i + 1 for i, key in enumerate(sorted(keys, key=lambda key: scores[key]))}


def label(key: Key) -> str:
    return key[0] if key[1] is None else f"{key[0]} [{key[1]}]"


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        new, old = by_key(read_records(folder)), by_key(read_archive(folder))
        limits = {(r.metric, r.epsilon) for record in old.values() for r in record.tolerances}
        print(
            f"\n{folder.name}: {len(new)} records, {len(set(new) & set(old))} also in the archive"
        )
        print(f"{'tolerance':18}{'both':>6}{'median change':>15}   largest change; largest move")
        for limit in sorted(limits):
            after, before = bits(new, limit), bits(old, limit)
            both = sorted(set(after) & set(before), key=label)
            saes = [key for key in both if not new[key].is_baseline]
            if not both:
                continue
            change = {key: after[key] / before[key] - 1 for key in both if before[key]}
            most = max(change, key=lambda key: abs(change[key]))
            places = ranks(before, saes), ranks(after, saes)
            moved = max(saes, key=lambda key: abs(places[1][key] - places[0][key]), default=None)
            move = (
                f"{label(moved)} from {places[0][moved]} to {places[1][moved]} of {len(saes)}"
                if moved and places[0][moved] != places[1][moved]
                else "nobody moved"
            )
            print(
                f"{limit[0] + f' {limit[1]:g}':18}{len(both):6}"
                f"{np.median(list(change.values())):15.1%}   {label(most)} {before[most]:.2f} to "
                f"{after[most]:.2f} ({change[most]:+.1%}); {move}"
            )
            gone = sorted(map(label, set(before) - set(after)))
            if gone and set(new) >= set(before):
                print(f"{'':18}no longer met by {', '.join(gone)}")


if __name__ == "__main__":
    main()
