"""The coder of a foreign object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.adapters.formats.python.foreign import Foreign
from mdlbench.adapters.parts import Decoder, block_tokens
from mdlbench.adapters.protocol import CoderSpec
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError


@dataclass(frozen=True)
class ForeignCoder:
    """The `SparseCoder` of a foreign object.

    Attributes:
        decoder: its rows and bias, declared or probed.
        affine: whether `decoder` is what its decode computes.
    """

    spec: CoderSpec
    foreign: Foreign
    decoder: Decoder
    affine: bool

    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        block = block_tokens(self.spec.d_latents)
        runs = [self._sparse(part) for part in torch.split(x, block)]
        return concatenate(runs), np.zeros((len(x), 0), dtype=np.float32)

    def _sparse(self, x: Float[torch.Tensor, "token d_in"]) -> SparseLatents:
        z = self.foreign.encode(x)
        if z.shape[1] != self.spec.d_latents:
            raise CoderError(
                f"{self.spec.name}: encode returned {z.shape[1]} latents, "
                f"but {self.spec.d_latents} before"
            )
        return SparseLatents.from_dense(z.cpu().numpy())

    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        if self.affine:
            return self.decoder(latents)
        parts = [
            self.foreign.decode(torch.from_numpy(run.to_dense()).to(self.foreign.device))
            for run in _runs(latents)
        ]
        return torch.cat(parts)

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        rows: np.ndarray = self.decoder.W_dec.cpu().numpy()
        return rows

    def with_decoder_precision(self, bits: int) -> ForeignCoder | None:
        """See `Decoder.rounded`; None where decode is not affine, and so has no such weights."""
        if not self.affine:
            return None
        decoder = self.decoder.rounded(bits)
        details = {**self.spec.details, "decoder_precision": bits}
        spec = replace(self.spec, decoder_norms=decoder.norms(), details=details)
        return replace(self, spec=spec, decoder=decoder)


def _runs(latents: SparseLatents) -> Iterator[SparseLatents]:
    block = block_tokens(latents.n_latents)
    for start in range(0, max(1, latents.n_tokens), block):
        yield latents.rows(start, min(start + block, latents.n_tokens))
