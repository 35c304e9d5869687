"""Matching pursuit: latents are chosen one after another, each by what the others left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64

from mdlbench.adapters.parts import block_tokens
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError


@dataclass(frozen=True)
class MatchingPursuit:
    """Latents of SAELens' matching-pursuit SAEs, whose encoder is their decoder.

    From r = x − centre, each step takes i = argmax(r·w_i), adds z = relu(r·w_i) to latent i and
    takes z w_i from r. A token is finished after `max_iterations` steps, once ‖r‖ is below
    `residual_threshold` (if that is positive), or, with `stop_on_duplicate_support`, once a step
    has made no further latent active. A step whose z is 0 changes nothing, so neither do those
    after it: the token is finished.
    """

    W_dec: Float32[torch.Tensor, "latent d_in"]
    centre: Float32[torch.Tensor, " d_in"]
    residual_threshold: float
    max_iterations: int
    stop_on_duplicate_support: bool

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        """Latents of all tokens, block by block."""
        if not x.isfinite().all():
            raise CoderError("encode: pre-activations are NaN or infinite")
        parts = torch.split(x, block_tokens(len(self.W_dec)))
        return concatenate([self._block(part) for part in parts])

    def _block(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        rest = x - self.centre
        z = torch.zeros(len(x), len(self.W_dec), device=x.device)
        unfinished = torch.arange(len(x), device=x.device)
        for _ in range(self.max_iterations):
            if not len(unfinished):
                break
            unfinished = self._step(rest, z, unfinished)
        return SparseLatents.from_dense(z.cpu().numpy())

    def _step(
        self,
        rest: Float32[torch.Tensor, "token d_in"],
        z: Float32[torch.Tensor, "token latent"],
        unfinished: Int64[torch.Tensor, " open"],
    ) -> Int64[torch.Tensor, " still"]:
        """One step of the unfinished tokens, in place; those that are unfinished after it."""
        left = rest[unfinished]
        chosen = (left @ self.W_dec.T).argmax(dim=1)
        rows = self.W_dec[chosen]
        value = (left * rows).sum(dim=1).relu()
        was_active = z[unfinished, chosen] != 0
        z[unfinished, chosen] += value
        left = left - value[:, None] * rows
        rest[unfinished] = left
        finished = value == 0
        if self.stop_on_duplicate_support:
            finished |= was_active
        if self.residual_threshold > 0:
            finished |= left.norm(dim=1) < self.residual_threshold
        return unfinished[~finished]
