"""How far a reconstruction is from its activations, token by token."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64


def squared_errors(
    x: Float[torch.Tensor, "token d"], reconstruction: Float[torch.Tensor, "token d"]
) -> Float64[np.ndarray, " token"]:
    """‖x − x̂‖² of each token, summed in float64."""
    norms = torch.linalg.vector_norm(x - reconstruction, dim=1, dtype=torch.float64)
    return np.asarray(norms.square().cpu())


def cosines(
    x: Float[torch.Tensor, "token d"],
    norms: Float64[torch.Tensor, " token"],
    reconstruction: Float[torch.Tensor, "token d"],
) -> Float64[np.ndarray, " token"]:
    """Cosine similarity of each token, given ‖x‖; 0 where either vector is zero."""
    product = torch.linalg.vecdot(x, reconstruction).double()
    both = norms * torch.linalg.vector_norm(reconstruction, dim=1)
    return np.asarray((product / both.clamp_min(torch.finfo(torch.float32).tiny)).cpu())
