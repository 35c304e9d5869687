"""Resampling of documents: one set of resamples serves every SAE of a suite (maths §7)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int32

CONFIDENCE = 0.95


class Bootstrap:
    """Resampled documents of a split, the same for equal (n_documents, replicates, seed).

    Applies to sums that are additive over documents. Never to plug-in entropy, which duplicates
    would shrink.
    """

    def __init__(self, n_documents: int, replicates: int, seed: int) -> None:
        self._replicates = replicates
        self._n_documents = n_documents
        self._seed = seed
        self._draws = self._draw()

    def means(
        self, sums: Float64[np.ndarray, " document"], tokens: Float64[np.ndarray, " document"]
    ) -> Float64[np.ndarray, " replicate"]:
        """Per-token mean of an additive quantity in every resample."""
        return np.asarray((self._draws @ sums) / (self._draws @ tokens))

    def interval(
        self, sums: Float64[np.ndarray, " document"], tokens: Float64[np.ndarray, " document"]
    ) -> tuple[float, float]:
        """Percentile interval of the per-token mean."""
        return percentile_interval(self.means(sums, tokens))

    def _draw(self) -> Float64[np.ndarray, "replicate document"]:
        """How often each document is drawn in each resample."""
        generator = np.random.default_rng(self._seed)
        drawn = generator.integers(
            self._n_documents, size=(self._replicates, self._n_documents), dtype=np.int32
        )
        return np.stack([_frequencies(row, self._n_documents) for row in drawn])


def percentile_interval(replicates: Float64[np.ndarray, " replicate"]) -> tuple[float, float]:
    """Two-sided percentile interval at `CONFIDENCE`."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def upper_limit(replicates: Float64[np.ndarray, " replicate"]) -> float:
    """One-sided upper confidence limit at `CONFIDENCE`."""
    return float(np.quantile(replicates, CONFIDENCE))


def _frequencies(
    row: Int32[np.ndarray, " document"], n_documents: int
) -> Float64[np.ndarray, " document"]:
    return np.bincount(row, minlength=n_documents).astype(np.float64)
