"""Latents → reconstruction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32

from mdlbench.adapters.parts.blocks import block_tokens
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import CoderError, UsageError

SPARSE_SHARE = 1 / 8
"""Share of active latents above which the decoder is a dense product.

Measured on a 2-core x86 CPU at d = 784: the two cost the same at 0.35 for D ≤ 1,024, whose rows
stay in cache, and at 0.08 for D = 24,576.
"""


@dataclass(frozen=True)
class Decoder:
    """z W_dec + b_dec."""

    W_dec: Float32[torch.Tensor, "latent d_out"]
    b_dec: Float32[torch.Tensor, " d_out"]

    def __call__(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        """The reconstruction of all tokens; the cost is that of the active latents' rows."""
        if latents.n_latents != len(self.W_dec):
            raise CoderError(
                f"decode: {latents.n_latents} latents given to a dictionary of {len(self.W_dec)}"
            )
        if latents.nnz == 0:
            return self.b_dec.expand(latents.n_tokens, -1).clone()
        if latents.nnz > SPARSE_SHARE * latents.n_tokens * latents.n_latents:
            return self._dense(latents)
        return self._sparse(latents)

    def _sparse(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        first = np.searchsorted(latents.token, np.arange(latents.n_tokens)).astype(np.int32)
        device = self.W_dec.device
        weighted = torch.nn.functional.embedding_bag(
            torch.from_numpy(latents.latent).to(device),
            self.W_dec,
            torch.from_numpy(first).to(device),
            mode="sum",
            per_sample_weights=torch.from_numpy(latents.value).to(device),
        )
        return weighted.add_(self.b_dec)

    def _dense(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        block = block_tokens(latents.n_latents)
        device = self.W_dec.device
        parts = []
        for start in range(0, latents.n_tokens, block):
            z = latents.rows(start, min(start + block, latents.n_tokens)).to_dense()
            parts.append(torch.addmm(self.b_dec, torch.from_numpy(z).to(device), self.W_dec))
        return torch.cat(parts)

    def norms(self) -> Float32[np.ndarray, " latent"]:
        """‖w_i‖ of every row."""
        norms: np.ndarray = self.W_dec.double().norm(dim=1).float().cpu().numpy()
        return norms

    def rounded(self, bits: int) -> Decoder:
        """Every weight w as s·round(w/s), s = max|w| / (2^(bits−1) − 1) over W_dec and b_dec."""
        if not 2 <= bits <= 32:
            raise UsageError(f"decoder precision must be from 2 to 32 bits, not {bits}")
        largest = max(
            float(weights.abs().max()) for weights in (self.W_dec, self.b_dec) if weights.numel()
        )
        step = largest / (2 ** (bits - 1) - 1)
        if step == 0.0:
            return self

        W_dec, b_dec = (
            ((weights.double() / step).round() * step).float()
            for weights in (self.W_dec, self.b_dec)
        )
        return replace(self, W_dec=W_dec, b_dec=b_dec)


@dataclass(frozen=True)
class TreeDecoder(Decoder):
    """A decoder that ignores latents whose parent is off."""

    forest: Forest

    def __call__(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        return super().__call__(self.forest.gated(latents))
