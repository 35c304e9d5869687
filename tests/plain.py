"""SAEs as somebody writes one, in a module that is quick to import."""

from __future__ import annotations

import torch

from tests.tiny import D_IN

WIDTH = 40


class PlainSAE:
    """ReLU SAE on tensors; others change what `encode` does of it."""

    d_in = D_IN

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.W_dec = torch.nn.functional.normalize(
            torch.randn(WIDTH, D_IN, generator=generator), dim=1
        )
        self.bias = torch.full((WIDTH,), -0.1)

    def pre(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() @ self.W_dec.T + self.bias

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre(x).relu()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z.float() @ self.W_dec


class BatchTopK(PlainSAE):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = self.pre(x).relu()
        return z * (z >= z.flatten().topk(5 * len(x)).values[-1])
