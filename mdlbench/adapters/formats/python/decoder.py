"""What somebody's decode computes: rows and a bias, declared or probed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from mdlbench.adapters.formats.python.foreign import Foreign
from mdlbench.adapters.parts import Decoder, block_tokens

ROUNDING = 1000
"""Relative rounding error allowed to a decoder that is called affine, in units of its epsilon."""


def decoder_of(foreign: Foreign, z: Float32[torch.Tensor, "token latent"]) -> tuple[Decoder, str]:
    """Rows and bias, from the object's own matrix if that is what decode computes."""
    bias = foreign.decode(torch.zeros_like(z[:1]))[0]
    for name, rows in _declared_rows(foreign.target):
        if rows.shape == (z.shape[1], len(bias)):
            decoder = Decoder(rows.to(foreign.device, torch.float32).contiguous(), bias)
            if reproduces(foreign, decoder, z):
                return decoder, name
    return probed(foreign, z.shape[1]), "probed one latent at a time"


def _declared_rows(target: Any) -> Iterator[tuple[str, torch.Tensor]]:
    linear = getattr(getattr(target, "decoder", None), "weight", None)
    candidates = {"W_dec": getattr(target, "W_dec", None), "decoder.weight": linear}
    for name, weights in candidates.items():
        if isinstance(weights, torch.Tensor | np.ndarray) and weights.ndim == 2:
            rows = torch.as_tensor(weights).detach()
            yield name, rows if name == "W_dec" else rows.T


def probed(foreign: Foreign, d_latents: int) -> Decoder:
    """Row i is decode(one-hot i) − decode(0)."""
    bias = foreign.decode(torch.zeros(1, d_latents, device=foreign.device))[0]
    rows = [
        foreign.decode(_one_hots(start, d_latents, foreign.device)) - bias
        for start in range(0, d_latents, block_tokens(d_latents))
    ]
    return Decoder(torch.cat(rows), bias)


def _one_hots(
    start: int, d_latents: int, device: torch.device
) -> Float32[torch.Tensor, "block latent"]:
    stop = min(start + block_tokens(d_latents), d_latents)
    block = torch.zeros(stop - start, d_latents, device=device)
    block[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
    return block


def reproduces(
    foreign: Foreign, decoder: Decoder, z: Float32[torch.Tensor, "token latent"]
) -> bool:
    """Whether decode agrees with rows and bias on encoded and on random latents."""
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(z.shape, generator=generator).to(z) * 3 * (z.abs().max() + 1)
    epsilon = max(torch.finfo(foreign.dtype).eps, torch.finfo(torch.float32).eps)
    tolerance = min(0.02, ROUNDING * epsilon)
    for latents in (z, z / 8, random):
        expected = latents.double() @ decoder.W_dec.double()
        error = (foreign.decode(latents).double() - decoder.b_dec.double() - expected).abs().max()
        magnitude = (latents.abs() @ decoder.W_dec.abs()).max() + decoder.b_dec.abs().max()
        if not error <= tolerance * magnitude:
            return False
    return True
