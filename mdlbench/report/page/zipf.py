"""How nearly firing rates fall like a power of their rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mdlbench.records.record import LatentProfile

LEAST_RANKS = 3
"""The fewest live latents that a line is fitted to; two points always lie on one."""


class Zipf(NamedTuple):
    """The line log rate = log `first` − `exponent` · log rank.

    Attributes:
        exponent: 1 is Zipf's own law, 0 equal rates.
        first: firing rate of rank 1 by that line.
    """

    exponent: float
    first: float


def zipf_fit(profile: LatentProfile) -> Zipf | None:
    """Least squares of log firing rate on log rank over live latents (maths §8).

    The ranks are those of the profile: of many latents they are spaced evenly in their logarithm,
    so that every octave of ranks weighs the same. None below `LEAST_RANKS` live ranks.
    """
    rates = np.array(profile.firing_rates, dtype=np.float64)
    live = rates > 0
    if live.sum() < LEAST_RANKS:
        return None
    ranks = np.array(profile.ranks, dtype=np.float64)[live]
    slope, intercept = np.polyfit(np.log(ranks), np.log(rates[live]), deg=1)
    return Zipf(exponent=-float(slope), first=float(np.exp(intercept)))
