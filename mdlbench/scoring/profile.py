"""How an SAE's bits and firing are spread over its latents."""

from __future__ import annotations

import numpy as np

from mdlbench.codes.rates import Rates
from mdlbench.records.record import LatentProfile, Pictures, profile_ranks


def latent_profile(
    step: float, rates: Rates, pictures: Pictures | None = None
) -> LatentProfile | None:
    """The profile at one step; None for an SAE without latents."""
    n_latents = len(rates.latent_bits)
    if n_latents == 0:
        return None
    ranks = profile_ranks(n_latents)
    firing = -np.sort(-rates.firing_rates)
    bits = -np.sort(-rates.latent_bits)
    return LatentProfile(
        step=step,
        ranks=ranks.tolist(),
        firing_rates=firing[ranks - 1].tolist(),
        bits=bits[ranks - 1].tolist(),
        cumulative_bits=np.cumsum(bits)[ranks - 1].tolist(),
        pictures=pictures,
    )
