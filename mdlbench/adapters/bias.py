"""Is the decoder's bias as it was in training, and subtracted from the input where it was?

Nobody tells. But an SAE was trained to a minimum of its loss: with other multiples of its bias on
the input, or at the output, it must not do better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Float64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder

FACTORS = (1 / 2, 2 / 3, 3 / 2, 2, 3)
"""How many times too large or too small a bias is looked for."""


@dataclass(frozen=True)
class Reading:
    """A way in which the bias b may be meant, other than as loaded.

    Attributes:
        words: what is wrong if this is right.
        offset: the multiple of b that is then missing on the input.
        factor: what b at the output is then to be multiplied by.
    """

    words: str
    offset: float
    factor: float = 1.0


def readings() -> Iterator[Reading]:
    """All that are tried."""
    yield Reading("it is not subtracted from the input, but should be", -1.0)
    yield Reading("it is subtracted from the input, but should not be", 1.0)
    for factor in FACTORS:
        words = f"it is {factor:.2g} times what it was"
        yield Reading(words, 1 - 1 / factor, 1 / factor)


@dataclass(frozen=True)
class Fit:
    """How well an SAE does under one reading.

    Attributes:
        error: mean squared error.
        unexplained: what remains of it with the best scale and the best constant, so that neither
            the shrinkage of an L1 penalty nor activations of another mean count.
        constant: share of the error that a constant added to the output would take away.
    """

    error: float
    unexplained: float
    constant: float


def fit(
    coder: SparseCoder,
    x: Float32[torch.Tensor, "token d"],
    bias: Float[torch.Tensor, " d"],
    reading: Reading | None = None,
) -> Fit:
    """How well the SAE does under a reading; as loaded without one."""
    offset, factor = (reading.offset, reading.factor) if reading else (0.0, 1.0)
    latents, side = checked.encode(coder, x + offset * bias)
    decoded = checked.decode(coder, latents, side, x.device) + (factor - 1) * bias
    error, y = (x - decoded).double(), _centred(x)
    total, z = float(error.square().mean()), _centred(decoded)
    power = max(float(z.square().mean()), 1e-30)
    unexplained = float(y.square().mean()) - float((y * z).mean()) ** 2 / power
    constant = float(error.mean(dim=0).square().mean()) / max(total, 1e-30)
    return Fit(total, unexplained, constant)


def _centred(values: Float[torch.Tensor, "token d"]) -> Float64[torch.Tensor, "token d"]:
    return values.double() - values.double().mean(dim=0)
