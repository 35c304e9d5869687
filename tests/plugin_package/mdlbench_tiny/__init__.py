"""An adapter outside the tree: latents are the positive activations times a factor."""

import numpy as np
import torch

from mdlbench.adapters import CoderIdentity, CoderSpec, Request
from mdlbench.codes.latents import SparseLatents


class ScaledAdapter:
    def load(self, request: Request) -> "ScaledCoder":
        request.reject_unknown_options("width")
        return ScaledCoder(float(request.argument), request.integer("width", 8, 1, 4096))


class ScaledCoder:
    def __init__(self, factor: float, width: int) -> None:
        self.factor = factor
        self.spec = CoderSpec(
            CoderIdentity(
                name=f"scaled-{factor:g}",
                adapter="scaled",
                version="2.5",
                arguments={"factor": factor, "width": width},
                weights_sha256="",
            ),
            architecture="scaled",
            hook="",
            d_in=width,
            d_out=width,
            d_latents=width,
            decoder_norms=np.full(width, 1 / factor, dtype=np.float32),
        )

    def encode(self, x: torch.Tensor) -> tuple[SparseLatents, np.ndarray]:
        z = (x * self.factor).relu().cpu().numpy()
        return SparseLatents.from_dense(z), np.zeros((len(z), 0), dtype=np.float32)

    def decode(self, latents: SparseLatents, side: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(latents.to_dense() / np.float32(self.factor))

    def decoder_rows(self) -> np.ndarray:
        return np.eye(self.spec.d_latents, dtype=np.float32) / np.float32(self.factor)

    def with_decoder_precision(self, bits: int) -> None:
        return None
