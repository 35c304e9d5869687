"""Latents that are looked up, not computed: those of an oracle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt64

from mdlbench.codes.latents import SparseLatents


@dataclass(frozen=True, eq=False)
class LookUp:
    """Known tokens → known latents; any other token has none.

    Attributes:
        d_in: width of a token.
        keys: of the known tokens, increasing.
        rows: the place of each of them among the known latents' tokens.
        known: their latents.
    """

    d_in: int
    keys: UInt64[np.ndarray, " known"]
    rows: Int64[np.ndarray, " known"]
    known: SparseLatents

    @classmethod
    def of(
        cls, d_in: int, tokens: Iterable[Float32[np.ndarray, "_ d_in"]], known: SparseLatents
    ) -> LookUp:
        """A table of all tokens, in runs, and their latents; equal tokens have the first one's."""
        keys, rows = np.unique(np.concatenate([_keys(run) for run in tokens]), return_index=True)
        return cls(d_in, keys, rows, known)

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        keys = _keys(x.cpu().numpy())
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = np.flatnonzero(self.keys[at] == keys)
        rows = self.rows[at[found]]
        starts, ends = (
            np.searchsorted(self.known.token, rows, side=side) for side in ("left", "right")
        )
        counts = ends - starts
        before = np.cumsum(counts) - counts
        place = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        return SparseLatents(
            np.repeat(found, counts).astype(np.int32),
            self.known.latent[place],
            self.known.value[place],
            n_tokens=len(x),
            n_latents=self.known.n_latents,
        )


def _keys(tokens: Float32[np.ndarray, "token d_in"]) -> UInt64[np.ndarray, " token"]:
    """64 bits of each token's bytes: a sum of its words, each times a random odd number."""
    words = np.ascontiguousarray(tokens, dtype=np.float32).view(np.uint32).astype(np.uint64)
    factors = np.random.Generator(np.random.PCG64(0)).integers(1 << 63, size=words.shape[1])
    weights = 2 * factors.astype(np.uint64) + np.uint64(1)
    return np.asarray((words * weights).sum(axis=1, dtype=np.uint64))
