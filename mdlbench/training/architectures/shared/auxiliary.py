"""Auxiliary losses that give dead and underused latents something to learn.

`aux_k_loss` (arXiv:2406.04093) lets dead latents explain the reconstruction error. Of
`aux_zipf_loss`, which comes with Feature Choice and Mutual Choice, we know that it generalises
`aux_k_loss` to underused latents; its formula was not to be found. **The one here is our
reconstruction**: latents fire about as a Zipf law of their rank has it, and those that fall far
below that count as underused.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float

Auxiliary = Literal["none", "aux_k", "aux_zipf"]


def zipf_density(density: Float[torch.Tensor, " latent"]) -> Float[torch.Tensor, " latent"]:
    """What each latent's rank has it expect: a least-squares fit of log density on log rank.

    Dead latents rank last and are left out of the fit. With fewer than two live ones it is 0.
    """
    order = torch.argsort(density, descending=True)
    ranked = density[order].double()
    n_alive = int((ranked > 0).sum())
    expected = torch.zeros_like(ranked)
    if n_alive >= 2:
        log_rank = torch.arange(1, len(ranked) + 1, dtype=torch.double, device=density.device).log()
        x, y = log_rank[:n_alive], ranked[:n_alive].log()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        expected = (y.mean() + slope * (log_rank - x.mean())).exp()
    result = torch.empty_like(density)
    result[order] = expected.to(density.dtype)
    return result


def underused(
    density: Float[torch.Tensor, " latent"], ratio: float, dead: Bool[torch.Tensor, " latent"]
) -> Bool[torch.Tensor, " latent"]:
    """Dead latents, and those that fire less than `ratio` times what their rank has them expect.

    Args:
        density: running firing rates.
        ratio: τ.
        dead: latents that have been silent for long; the fit leaves them out.
    """
    alive = torch.where(dead, 0.0, density)
    return dead | (alive < ratio * zipf_density(alive))


def auxiliary_loss(
    error: Float[torch.Tensor, "token d"],
    hidden: Float[torch.Tensor, "token latent"],
    rows: Float[torch.Tensor, "latent d"],
    chosen: Bool[torch.Tensor, " latent"],
) -> Float[torch.Tensor, ""]:
    """‖e − TopK_kaux(z′ on `chosen`) W_dec‖² / ‖e‖², with k_aux = d/2 or all of the chosen.

    Args:
        error: e = x − x̂; no gradient flows into it.
        hidden: z′, magnitudes before the choice.
        rows: the decoder's rows for `hidden`'s units.
        chosen: dead latents give `aux_k_loss`, underused ones `aux_zipf_loss`.
    """
    if not chosen.any():
        return hidden.new_zeros(())
    error = error.detach().float()
    latents = torch.nonzero(chosen)[:, 0]
    magnitudes = hidden[:, latents]
    k = min(error.shape[1] // 2, len(latents))
    if k < len(latents):
        top = magnitudes.topk(k, dim=1, sorted=False)
        magnitudes = torch.zeros_like(magnitudes).scatter(1, top.indices, top.values)
    unexplained = (error - magnitudes @ rows[latents]).square().sum()
    return unexplained / error.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
