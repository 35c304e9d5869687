"""Everything that was measured, and what of it each claim asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.bilinear.known_task import Known
from mdlbench.papers.bilinear.masks import STRENGTHS, Masked
from mdlbench.papers.bilinear.measure import Measured, similarity
from mdlbench.papers.bilinear.plan import Plan
from mdlbench.training.bilinear.config import BilinearConfig


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements.

    Attributes:
        plan: which networks there are.
        image_shape: rows and columns.
        measured: every network, by key.
        masked: those of V7, by key.
        known: of each seed of V6, what was found of either target.
    """

    plan: Plan
    image_shape: tuple[int, int]
    measured: dict[str, Measured]
    masked: dict[str, Masked]
    known: list[list[Known]]

    def of(self, configs: Sequence[BilinearConfig]) -> list[Measured]:
        return [self.measured[config.key] for config in configs]

    def accuracy(self, configs: Sequence[BilinearConfig]) -> SeedMean:
        return SeedMean.of([network.accuracy for network in self.of(configs)])

    def similarity(self, width: int) -> SeedMean:
        """V2: |cosine| of the top eigenvectors of different seeds."""
        return SeedMean.of_pairs(similarity(self.of(self.plan.of_widths[width])))

    def similarity_step(self, width: int, wider: int) -> SeedMean:
        """V2: what that cosine gains from one width to another."""
        one, other = (similarity(self.of(self.plan.of_widths[w])) for w in (width, wider))
        return SeedMean.of_pairs(other - one)

    def drop(self, width: int, n: int) -> SeedMean:
        """V3: accuracy that is lost where n eigenvectors of each class are kept."""
        networks = self.of(self.plan.of_widths[width])
        return SeedMean.of([network.accuracy - network.kept[n] for network in networks])

    def rank(self, hidden: int, weight_decay: float, noise: float) -> SeedMean:
        """V4: mean effective rank over classes."""
        return SeedMean.of(
            [_mean_rank(n) for n in self._zoo(hidden, weight_decay=weight_decay, noise=noise)]
        )

    def rank_change(self, hidden: int, setting: str) -> SeedMean:
        """V4: what the rank gains from the smallest to the largest value of a setting.

        Paired by seed, the mean over all values of the other setting.
        """
        values = self.zoo_values(setting)
        by_seed = []
        for seed in self.zoo_values("seed"):
            low, high = (
                [_mean_rank(n) for n in self._zoo(hidden, **{setting: value, "seed": seed})]
                for value in (values[0], values[-1])
            )
            by_seed.append(float(np.mean(high) - np.mean(low)))
        return SeedMean.of(by_seed)

    def zoo_values(self, setting: str) -> list[float]:
        """The values that a setting takes in the zoo."""
        return sorted({getattr(config, setting) for config in self.plan.zoo.values()})

    def _zoo(self, hidden: int, **settings: float) -> list[Measured]:
        return [
            self.measured[key]
            for key, config in self.plan.zoo.items()
            if config.hidden == hidden
            and all(getattr(config, name) == value for name, value in settings.items())
        ]

    def by_noise(self, number: Callable[[Measured], float]) -> dict[float, SeedMean]:
        """V5: a number of each network, by the noise that it was trained with."""
        return {
            noise: SeedMean.of([number(network) for network in self.of(configs)])
            for noise, configs in self.plan.of_noises.items()
        }

    def noise_steps(self, number: Callable[[Measured], float]) -> list[SeedMean]:
        """V5: what a number gains from each noise to the next, paired by seed."""
        groups = [self.of(configs) for configs in self.plan.of_noises.values()]
        return [
            SeedMean.of([number(other) - number(one) for one, other in zip(*both, strict=True)])
            for both in pairwise(groups)
        ]

    def under_masks(self, configs: Sequence[BilinearConfig]) -> list[MaskLevel]:
        """V7: accuracy under the masks, the mean over classes, at each strength."""
        found = [self.masked[config.key] for config in configs]
        return [
            MaskLevel(
                strength,
                SeedMean.of([float(each.accuracy[:, i].mean()) for each in found]),
                SeedMean.of([float(each.permuted[:, i].mean()) for each in found]),
                SeedMean.of(
                    [float((each.permuted - each.accuracy)[:, i].mean()) for each in found]
                ),
                SeedMean.of([float(each.towards[:, i].mean()) for each in found]),
            )
            for i, strength in enumerate(STRENGTHS)
        ]

    def known_mean(self, number: Callable[[Known], float]) -> SeedMean:
        """V6: a number, the mean over both targets of each seed."""
        return SeedMean.of([float(np.mean([number(one) for one in both])) for both in self.known])

    @property
    def ranks(self) -> list[tuple[int, float, float]]:
        """Width, weight decay and noise of every group of the zoo."""
        widths = sorted({config.hidden for config in self.plan.zoo.values()})
        return list(product(widths, self.zoo_values("weight_decay"), self.zoo_values("noise")))


@dataclass(frozen=True)
class MaskLevel:
    """Accuracies at one strength of the masks.

    Attributes:
        accuracy, permuted: under the masks, and under the same with permuted pixels.
        lower: by how much the first is below the second, paired by seed.
        towards: share of other classes' images that become the mask's.
    """

    strength: float
    accuracy: SeedMean
    permuted: SeedMean
    lower: SeedMean
    towards: SeedMean


def _mean_rank(network: Measured) -> float:
    return float(np.mean(network.effective_rank))
