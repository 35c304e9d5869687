"""Feature Choice SAEs: the m_j largest matches of each latent in a batch are on.

z = S ⊙ z′, with the matches S chosen over a batch: m_j is equal for all latents, or follows a Zipf
law of the latent's index. A threshold for each latent stands in at inference, so that what is saved
is a JumpReLU SAE.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from typing_extensions import override

from mdlbench.codes.closed_forms import zipf_rates
from mdlbench.training.architectures.shared.selection import SelectionConfig, SelectionTrainingSAE

LATENTS_AT_ONCE = 128
"""Quotas fall with the index, so that each run of latents need be sorted as far as its first."""


@dataclass
class FeatureChoiceConfig(SelectionConfig):
    """Settings of a Feature Choice SAE.

    Args:
        zipf: exponent α of m_j ∝ j^−α; 0 for the same m for all latents.
    """

    zipf: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.zipf >= 0:
            raise ValueError(f"zipf, an exponent, must not be negative, not {self.zipf}")

    @override
    @classmethod
    def architecture(cls) -> str:
        return "feature_choice"

    @override
    def require_batch(self, batch_size: int) -> None:
        quotas(self.k, batch_size, self.d_sae, self.zipf)


class FeatureChoiceTrainingSAE(SelectionTrainingSAE):
    """The m_j largest positive matches of each latent."""

    cfg: FeatureChoiceConfig

    @override
    def select(
        self, magnitude: Float[torch.Tensor, "token latent"]
    ) -> Bool[torch.Tensor, "token latent"]:
        quota = quotas(self.cfg.k, len(magnitude), self.cfg.d_sae, self.cfg.zipf)
        quota = quota.to(magnitude.device)
        columns = magnitude.T.contiguous()
        least = [
            part.topk(int(m[0]), dim=1).values.gather(1, m[:, None] - 1)
            for part, m in zip(
                columns.split(LATENTS_AT_ONCE), quota.split(LATENTS_AT_ONCE), strict=True
            )
        ]
        return (magnitude >= torch.cat(least)[:, 0]) & (magnitude > 0)

    @override
    def smallest_chosen(
        self, chosen: Float[torch.Tensor, "token latent"]
    ) -> tuple[Float[torch.Tensor, " latent"], Bool[torch.Tensor, " latent"]]:
        """Each latent's own."""
        smallest = torch.where(chosen > 0, chosen, torch.inf).amin(dim=0)
        return smallest, smallest.isfinite()


@functools.cache
def quotas(k: float, n_tokens: int, n_latents: int, zipf: float) -> Int64[torch.Tensor, " latent"]:
    """m_j: tokens of a batch that each latent may choose; they sum to k·n_tokens.

    In proportion to j^−zipf, none above n_tokens, whole by rounding their running sum; they fall
    with the index but for that rounding, which is undone by sorting.

    Raises:
        ValueError: a latent would have none.
    """
    quota = torch.from_numpy(zipf_rates(n_latents, k, zipf)) * n_tokens
    ends = quota.cumsum(0).round()
    whole = ends.diff(prepend=torch.zeros(1, dtype=torch.double)).long()
    whole = whole.clamp(max=n_tokens).sort(descending=True).values
    if whole[-1] < 1:
        raise ValueError(
            f"k={k:g} leaves a latent {float(quota.min()):.2g} of {n_tokens} tokens: raise k or "
            f"batch_size, or lower the width {n_latents} or zipf"
        )
    return whole


TRAINING = (FeatureChoiceTrainingSAE, FeatureChoiceConfig)
