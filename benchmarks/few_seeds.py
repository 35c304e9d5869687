"""Do a study's intervals hold where there are few training seeds (maths §7)?

Architectures of equal bits are made up: documents and training seeds add normal noise. In how many
studies do all intervals of differences to the shortest hold 0, and how many of them do?

    python benchmarks/few_seeds.py
"""

from __future__ import annotations

from itertools import product

import numpy as np

from mdlbench.studies.inference import standing
from mdlbench.studies.results import Configuration, Family, Level

ARCHITECTURES, REPLICATES, STUDIES = 8, 500, 400
SPREAD = 0.7
"""How much the logarithms of the standard deviations of architectures' seeds vary."""
APART = 0.5
"""Bits between one configuration of an architecture and the next, where that of seeds is 1."""
KINDS = {"alike": (0.0, 1), "unlike": (SPREAD, 1), "unlike, 6 configurations": (SPREAD, 6)}
"""By name: how much the noise of architectures' seeds differs, and how many configurations."""


def study(generator: np.random.Generator, n_seeds: int, documents: float, kind: str) -> Level:
    """Architectures of equal bits.

    Args:
        generator: of the noise.
        n_seeds: training seeds of each.
        documents: standard deviation of what documents add to each, where that of seeds is 1.
        kind: which of `KINDS`.
    """
    spread, n_configurations = KINDS[kind]
    configurations = tuple(Configuration(i, 0, "k") for i in range(n_configurations))
    families = []
    for i in range(ARCHITECTURES):
        scale = np.exp(spread * generator.standard_normal())
        own = APART * scale * np.arange(n_configurations)[:, None] + documents * (
            generator.standard_normal()
        )
        own = own + scale * generator.standard_normal((n_configurations, n_seeds))
        drawn = own[..., None] + documents * generator.standard_normal(REPLICATES)
        families.append(Family(str(i), configurations, own, drawn, ()))
    return Level("fvu", 0.1, tuple(families))


def held(generator: np.random.Generator, n_seeds: int, documents: float, kind: str) -> list[bool]:
    """Whether each interval of a difference to the shortest holds 0."""
    found = standing(study(generator, n_seeds, documents, kind), int(generator.integers(2**31)))
    return [more.low <= 0 <= more.high for more in found.more.values()]


def main() -> None:
    print(f"{ARCHITECTURES} architectures of equal bits, {STUDIES} studies of each kind")
    print(f"seeds   documents' noise   {'seeds of architectures':>24}   all hold   one holds")
    generator = np.random.default_rng(0)
    for kind, n_seeds, documents in product(KINDS, (2, 3, 5), (0.0, 0.3, 1.0)):
        found = np.array([held(generator, n_seeds, documents, kind) for _ in range(STUDIES)])
        print(
            f"{n_seeds:5}   {documents:16.1f}   {kind:>24}   {found.all(axis=1).mean():8.1%}"
            f"   {found.mean():9.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
