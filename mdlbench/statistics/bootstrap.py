"""Resampling of documents: one set of resamples serves every SAE of a suite (maths §7)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

CONFIDENCE = 0.95


class Bootstrap:
    """Resampled documents of a split, the same for equal (tokens, replicates, seed).

    Applies to sums that are additive over documents. Never to plug-in entropy, which duplicates
    would shrink.
    """

    def __init__(
        self, tokens: Float64[np.ndarray, " document"], replicates: int, seed: int
    ) -> None:
        """`tokens` is how many tokens each document has."""
        self._draws = _draws(len(tokens), replicates, seed)
        self._tokens = self._draws @ tokens

    def means(self, sums: Float64[np.ndarray, " document"]) -> Float64[np.ndarray, " replicate"]:
        """Per-token mean of an additive quantity in every resample."""
        return np.asarray((self._draws @ sums) / self._tokens)

    def interval(self, sums: Float64[np.ndarray, " document"]) -> tuple[float, float]:
        """Percentile interval of the per-token mean."""
        return percentile_interval(self.means(sums))


def _draws(
    n_documents: int, replicates: int, seed: int
) -> Float64[np.ndarray, "replicate document"]:
    """How often each document is drawn in each resample."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(n_documents, size=(replicates, n_documents), dtype=np.int32)
    return np.stack([np.bincount(row, minlength=n_documents) for row in drawn]).astype(np.float64)


def percentile_interval(replicates: Float64[np.ndarray, " replicate"]) -> tuple[float, float]:
    """Two-sided percentile interval at `CONFIDENCE`."""
    low, high = percentile_intervals(replicates[np.newaxis])[0]
    return float(low), float(high)


def percentile_intervals(
    replicates: Float64[np.ndarray, "row replicate"],
) -> Float64[np.ndarray, "row 2"]:
    """`percentile_interval` of every row."""
    tail = (1 - CONFIDENCE) / 2
    return np.asarray(np.quantile(replicates, [tail, 1 - tail], axis=1).T)


def side(low: float, high: float, limit: float = 0.0) -> int:
    """1 or −1 where an interval lies above or below a limit; 0 where it covers it, or is NaN."""
    return int(low > limit) - int(high < limit)


def upper_limit(replicates: Float64[np.ndarray, " replicate"]) -> float:
    """One-sided upper confidence limit at `CONFIDENCE`."""
    return float(np.quantile(replicates, CONFIDENCE))
