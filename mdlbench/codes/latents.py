"""Sparse latents: the (token, latent, value) triplets that every later stage works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from mdlbench.errors import CoderError


@dataclass(frozen=True)
class SparseLatents:
    """The nonzero latents of a run of tokens, sorted by token, then by latent.

    Attributes:
        token: row of each nonzero within this run, 0-based, non-decreasing.
        latent: dictionary index of each nonzero, increasing within a token.
        value: the latent's value, never zero; signed for PCA-like coders.
        n_tokens: tokens in the run, those without a nonzero included.
        n_latents: dictionary size D.
    """

    token: Int32[np.ndarray, " nnz"]
    latent: Int32[np.ndarray, " nnz"]
    value: Float32[np.ndarray, " nnz"]
    n_tokens: int
    n_latents: int

    def __post_init__(self) -> None:
        if not len(self.token) == len(self.latent) == len(self.value):
            raise CoderError(
                "latents: token, latent and value differ in length: "
                f"{len(self.token)}, {len(self.latent)}, {len(self.value)}"
            )

    @property
    def nnz(self) -> int:
        return len(self.value)

    @classmethod
    def from_dense(cls, z: Float32[np.ndarray, "token latent"]) -> SparseLatents:
        """The nonzeros of a dense matrix; raises `CoderError` if one is not finite."""
        token, latent = np.nonzero(z)
        value = z[token, latent]
        if not np.isfinite(value).all():
            raise CoderError("latents: encode returned NaN or infinite values")
        return cls(
            token.astype(np.int32),
            latent.astype(np.int32),
            value.astype(np.float32),
            n_tokens=z.shape[0],
            n_latents=z.shape[1],
        )

    def to_dense(self) -> Float32[np.ndarray, "token latent"]:
        z = np.zeros((self.n_tokens, self.n_latents), dtype=np.float32)
        z[self.token, self.latent] = self.value
        return z

    def scaled(self, scale: Float32[np.ndarray, " latent"]) -> SparseLatents:
        """Every value multiplied by its latent's factor (decoder norms, or their inverses)."""
        value = self.value * scale[self.latent]
        return SparseLatents(self.token, self.latent, value, self.n_tokens, self.n_latents)

    def rows(self, start: int, stop: int) -> SparseLatents:
        """Tokens `start` to `stop` as a run of their own."""
        lo, hi = np.searchsorted(self.token, [start, stop])
        return SparseLatents(
            self.token[lo:hi] - np.int32(start),
            self.latent[lo:hi],
            self.value[lo:hi],
            n_tokens=stop - start,
            n_latents=self.n_latents,
        )


def concatenate(runs: Sequence[SparseLatents]) -> SparseLatents:
    """One run of all tokens of `runs`, in order; at least one run, all of the same dictionary."""
    offsets = np.cumsum([0] + [run.n_tokens for run in runs]).astype(np.int32)
    return SparseLatents(
        np.concatenate([run.token + o for run, o in zip(runs, offsets, strict=False)]),
        np.concatenate([run.latent for run in runs]),
        np.concatenate([run.value for run in runs]),
        n_tokens=int(offsets[-1]),
        n_latents=runs[0].n_latents,
    )
