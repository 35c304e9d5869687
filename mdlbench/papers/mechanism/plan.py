"""Which networks are described, and by which messages, rounded how coarsely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdlbench.training.bilinear.config import BilinearConfig

WEIGHTS, SVD, EIGENVECTORS, BASIS = "weights", "svd", "eigenvectors", "shared basis"
CALLED = {
    WEIGHTS: "the network's weights",
    SVD: "a truncated SVD",
    EIGENVECTORS: "eigenvectors",
    BASIS: "forms in a shared basis",
}
"""The kinds of messages, and what a sentence calls each."""


def _sizes() -> dict[str, tuple[int, ...]]:
    return {
        WEIGHTS: (0,),
        SVD: (15, 20, 25, 35, 50),
        EIGENVECTORS: (5, 7, 10, 15, 20, 30),
        BASIS: (15, 20, 25, 35, 50),
    }


@dataclass(frozen=True)
class Plan:
    """What is trained, measured and scored.

    Attributes:
        hidden, weight_decay, noise, epochs, batch_size: of every network.
        seeds: networks, which differ by their seed alone.
        sizes: of each kind of message, eigenvectors a class or ranks; 0 where there is no choice.
        shares: steps, as shares of the root mean square of the matrix that is rounded.
        suite: whose images, tolerances on ΔCE and SAEs are taken.
        saes: keys of SAEs of that suite, which are scored against every network; of the suite's
            board the shortest at ΔCE ≤ 0.05 and 0.1.
    """

    hidden: int = 300
    weight_decay: float = 0.5
    noise: float = 0.15
    epochs: int = 40
    batch_size: int = 2048
    seeds: int = 5
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=_sizes)
    shares: tuple[float, ...] = tuple(2 ** (i / 2) for i in range(-4, 5))
    suite: str = "mnist-bilinear"
    saes: tuple[str, ...] = ("batchtopk-64-k15",)

    def networks(self) -> dict[str, BilinearConfig]:
        """Every network by its key, in the order of seeds."""
        found = [
            BilinearConfig(
                self.hidden,
                epochs=self.epochs,
                batch_size=self.batch_size,
                weight_decay=self.weight_decay,
                noise=self.noise,
                seed=seed,
            )
            for seed in range(self.seeds)
        ]
        return {config.key: config for config in found}
