"""Mutual Choice SAEs: the k·B largest matches of a batch of B tokens are on.

z = S ⊙ z′, with the matches S chosen over a batch. TopK lets each token choose k latents; this is
BatchTopK's rule. One threshold for all latents stands in at inference, so that what is saved is a
JumpReLU SAE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from typing_extensions import override

from mdlbench.training.architectures.shared.selection import (
    SelectionConfig,
    SelectionTrainingSAE,
    largest,
)


@dataclass
class MutualChoiceConfig(SelectionConfig):
    """Settings of a Mutual Choice SAE."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "mutual_choice"


class MutualChoiceTrainingSAE(SelectionTrainingSAE):
    """The k·B largest positive matches of a batch."""

    cfg: MutualChoiceConfig

    @override
    def select(
        self, magnitude: Float[torch.Tensor, "token latent"]
    ) -> Bool[torch.Tensor, "token latent"]:
        return largest(magnitude, round(self.cfg.k * len(magnitude)))


TRAINING = (MutualChoiceTrainingSAE, MutualChoiceConfig)
