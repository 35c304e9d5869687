"""Which networks the claims are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from mdlbench.errors import UsageError
from mdlbench.suite.folders import suites_folder
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.zoo import RECIPE_FILE, load_bilinear_recipe


def shipped_zoo() -> dict[str, BilinearConfig]:
    """The recipe of suite `mnist`."""
    return load_bilinear_recipe(suites_folder() / "mnist" / RECIPE_FILE)


@dataclass(frozen=True)
class Plan:
    """The networks, by what is tested on them; each is trained once.

    Attributes:
        epochs: of every network but those whose accuracy is claimed.
        long_epochs: of these.
        batch_size: images per step.
        widths: h of the networks that are alike or not across seeds (V2, V3).
        width_seeds: seeds of each.
        accurate_width: h of the networks whose accuracy is claimed (V1, V7, V8).
        noises: levels of the noise (V5), at `noise_width` and the default weight decay.
        seeds: of each network of V1, V5 and V7.
        known_seeds, known_epochs: of the task whose answer is known (V6).
        zoo: the networks of V4: every weight decay with every noise.
    """

    epochs: int = 20
    long_epochs: int = 40
    batch_size: int = 2048
    widths: tuple[int, ...] = (30, 50, 100, 300, 500, 1000)
    width_seeds: int = 5
    accurate_width: int = 300
    noise_width: int = 100
    noises: tuple[float, ...] = (0.0, 0.15, 0.3, 0.45, 0.6)
    seeds: int = 3
    known_seeds: int = 5
    known_epochs: int = 100
    zoo: Mapping[str, BilinearConfig] = field(default_factory=shipped_zoo)

    @property
    def accurate(self) -> list[BilinearConfig]:
        """As V1 has it: little noise, trained for long."""
        return [
            self._config(self.accurate_width, 0.5, 0.15, seed, self.long_epochs)
            for seed in range(self.seeds)
        ]

    @property
    def of_widths(self) -> dict[int, list[BilinearConfig]]:
        """As V2 and V3 have it: weight decay 1, noise 0.4."""
        return {
            width: [self._config(width, 1.0, 0.4, seed) for seed in range(self.width_seeds)]
            for width in self.widths
        }

    @property
    def of_noises(self) -> dict[float, list[BilinearConfig]]:
        """Networks that differ by their noise."""
        return {
            noise: [self._config(self.noise_width, 0.5, noise, seed) for seed in range(self.seeds)]
            for noise in self.noises
        }

    @property
    def noiseless(self) -> list[BilinearConfig]:
        """Networks as wide as the accurate ones, without noise: those that overfit, for V7."""
        return [self._config(self.accurate_width, 0.5, 0.0, seed) for seed in range(self.seeds)]

    def networks(self) -> dict[str, BilinearConfig]:
        """Every network by its key.

        Raises:
            UsageError: two different networks have one key.
        """
        groups = (
            *self.of_widths.values(),
            self.accurate,
            *self.of_noises.values(),
            self.noiseless,
            self.zoo.values(),
        )
        found: dict[str, BilinearConfig] = {}
        for config in chain.from_iterable(groups):
            if found.setdefault(config.key, config) != config:
                raise UsageError(f"two different networks are called {config.key}")
        return found

    def _config(
        self, hidden: int, weight_decay: float, noise: float, seed: int, epochs: int | None = None
    ) -> BilinearConfig:
        return BilinearConfig(
            hidden,
            epochs=epochs or self.epochs,
            batch_size=self.batch_size,
            weight_decay=weight_decay,
            noise=noise,
            seed=seed,
        )
