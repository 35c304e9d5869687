"""SAEs whose latents form a directed forest: a latent is on only where its parent is.

Encoder and decoder both know the tree. A match's score is the smallest magnitude on the path from
its root, so that a child scores no higher than its parent; in training the k·B highest scores of a
batch are chosen, at inference those above one threshold θ, which is to say: a latent is on where
its own magnitude exceeds θ and its parent is on. The decoder ignores a child whose parent is off.
Where its parent is off, a child costs next to nothing (tree code, maths §3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEConfig, SAEMetadata
from typing_extensions import override

from mdlbench.codes.forest import ROOT, Forest
from mdlbench.training.architectures.shared.selection import (
    Metadata,
    SelectionConfig,
    SelectionTrainingSAE,
    largest,
)


@dataclass
class TreeConfig(JumpReLUSAEConfig):
    """A tree SAE at inference."""

    metadata: Metadata = field(default_factory=SAEMetadata)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "tree"


class Gate:
    """What a forest lets through.

    Attributes:
        levels: latents of each depth below the roots, with their parents.
    """

    def __init__(self, parents: Int64[torch.Tensor, " latent"]) -> None:
        below = Forest.from_parents(parents.cpu().numpy()).levels[1:]
        self.levels = [(torch.from_numpy(level), parents.cpu()[level]) for level in below]

    def lowest(
        self, magnitude: Float[torch.Tensor, "token latent"]
    ) -> Float[torch.Tensor, "token latent"]:
        """The smallest magnitude on the path from each latent's root to it."""
        score = magnitude.clone()
        for level, parents in self.levels:
            score[:, level] = torch.minimum(score[:, level], score[:, parents])
        return score


class TreeSAE(JumpReLUSAE):
    """JumpReLU, but for latents whose parent is off."""

    parents: torch.Tensor

    def __init__(self, cfg: TreeConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        roots = torch.full((cfg.d_sae,), ROOT, dtype=torch.int64, device=self.W_dec.device)
        self.register_buffer("parents", roots)

    @override
    def encode(self, x: Float[torch.Tensor, "token d"]) -> Float[torch.Tensor, "token latent"]:
        return self._gated(super().encode(x))

    @override
    def decode(
        self, feature_acts: Float[torch.Tensor, "token latent"]
    ) -> Float[torch.Tensor, "token d"]:
        return super().decode(self._gated(feature_acts))

    def _gated(
        self, latents: Float[torch.Tensor, "token latent"]
    ) -> Float[torch.Tensor, "token latent"]:
        return latents * (Gate(self.parents.long()).lowest(latents) > 0)


@dataclass
class TreeTrainingConfig(SelectionConfig):
    """Settings of a tree SAE; one of `branching` and `parents` must be given.

    Args:
        branching: [roots, children of each, children of each of those, …].
        parents: each latent's parent, −1 for roots.
    """

    branching: list[int] = field(default_factory=list)
    parents: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.branching) == bool(self.parents):
            raise ValueError("give either branching, such as [32, 3], or parents")
        if any(not isinstance(n, int) or n < 1 for n in self.branching):
            raise ValueError(f"branching: whole numbers from 1 on, not {self.branching}")
        if any(not isinstance(parent, int) for parent in self.parents):
            raise ValueError("parents: one whole number for each latent; none can have two parents")
        forest = self.forest
        if len(forest) != self.d_sae:
            raise ValueError(
                f"a forest of {len(forest)} latents does not fit the width {self.d_sae}"
            )
        Forest.from_parents(np.array(forest))

    @property
    def forest(self) -> Sequence[int]:
        return self.parents or branching_parents(self.branching)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "tree"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return TreeConfig


class TreeTrainingSAE(SelectionTrainingSAE):
    """The k·B matches of a batch with the highest scores."""

    cfg: TreeTrainingConfig
    parents: torch.Tensor

    def __init__(self, cfg: TreeTrainingConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        parents = torch.tensor(cfg.forest, dtype=torch.int64, device=self.W_dec.device)
        self.register_buffer("parents", parents)
        self._gate = Gate(parents)

    @override
    def select(
        self, magnitude: Float[torch.Tensor, "token latent"]
    ) -> Bool[torch.Tensor, "token latent"]:
        return largest(self._gate.lowest(magnitude), round(self.cfg.k * len(magnitude)))


def branching_parents(branching: Sequence[int]) -> list[int]:
    """Parents where so many roots have so many children each, those so many each, and so on.

    The roots come first, then their children in the roots' order, then theirs.
    """
    parents, level = [ROOT] * branching[0], list(range(branching[0]))
    for children in branching[1:]:
        first = len(parents)
        parents += [parent for parent in level for _ in range(children)]
        level = list(range(first, len(parents)))
    return parents


TRAINING = (TreeTrainingSAE, TreeTrainingConfig)
INFERENCE = (TreeSAE, TreeConfig)
