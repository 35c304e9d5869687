"""How far a reconstruction is from its activations, token by token.

Each function takes a few tokens at a time, so that their differences stay in a CPU's cache from one
step to the next. Sums are those of a token alone and so do not depend on how many are taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float64

CACHED_BYTES = 1 << 18
"""Memory of the differences of the tokens that are taken at a time, on a CPU."""


def squared_errors(
    x: Float[torch.Tensor, "token d"], reconstruction: Float[torch.Tensor, "token d"]
) -> Float64[np.ndarray, " token"]:
    """‖x − x̂‖² of each token, summed in float64."""
    norms = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for tokens, room in _parts(x):
        _error_norms(x[tokens], reconstruction[tokens], room, norms[tokens])
    return np.asarray(norms.square_().cpu())


def errors_and_cosines(
    x: Float[torch.Tensor, "token d"],
    norms: Float64[torch.Tensor, " token"],
    reconstruction: Float[torch.Tensor, "token d"],
) -> tuple[Float64[np.ndarray, " token"], Float64[np.ndarray, " token"]]:
    """`squared_errors`, and the cosine similarity of each token, 0 where either vector is zero.

    Args:
        x: activations.
        norms: ‖x‖.
        reconstruction: x̂.
    """
    errors = torch.empty(len(x), dtype=torch.float64, device=x.device)
    inner = torch.empty(len(x), dtype=x.dtype, device=x.device)
    lengths = torch.empty_like(inner)
    for tokens, room in _parts(x):
        here, there = x[tokens], reconstruction[tokens]
        _error_norms(here, there, room, errors[tokens])
        torch.sum(torch.mul(here, there, out=room), dim=1, out=inner[tokens])
        torch.linalg.vector_norm(there, dim=1, out=lengths[tokens])
    cosines = inner.double() / (norms * lengths).clamp_min(torch.finfo(torch.float32).tiny)
    return np.asarray(errors.square_().cpu()), np.asarray(cosines.cpu())


def _error_norms(
    x: Float[torch.Tensor, "token d"],
    reconstruction: Float[torch.Tensor, "token d"],
    room: Float[torch.Tensor, "token d"],
    norms: Float64[torch.Tensor, " token"],
) -> None:
    """Write ‖x − x̂‖ of each token to `norms`, by way of `room`."""
    torch.sub(x, reconstruction, out=room)
    torch.linalg.vector_norm(room, dim=1, dtype=torch.float64, out=norms)


def _parts(x: Float[torch.Tensor, "token d"]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some tokens at a time, and room for their differences, the same room each time.

    All tokens at once where each step is a start of its own, as on a GPU.
    """
    on_cpu = x.device.type == "cpu"
    at_once = max(1, CACHED_BYTES // max(1, x[:1].nbytes)) if on_cpu else max(1, len(x))
    room = torch.empty_like(x[:at_once])
    for start in range(0, len(x), at_once):
        stop = min(start + at_once, len(x))
        yield slice(start, stop), room[: stop - start]
