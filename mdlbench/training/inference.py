"""What a trained SAE does at inference, where a BatchTopK SAE is a JumpReLU one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from sae_lens import SAE, TrainingSAE

from mdlbench.sources.protocol import Activations

Weights = dict[str, torch.Tensor]


class Inference(NamedTuple):
    """Means over the test split.

    Attributes:
        mse: squared error per dimension.
        l0: active latents per token.
        firing_rate: fraction of the tokens on which each latent is active.
    """

    mse: float
    l0: float
    firing_rate: Float64[torch.Tensor, " latent"]

    @property
    def dead_fraction(self) -> float:
        """Fraction of the latents that are active on no token."""
        return float((self.firing_rate == 0).double().mean())


@torch.no_grad()
def measure_inference(sae: SAE[Any], source: Activations) -> Inference:
    """The SAE's numbers on the test split of a source, unquantised."""
    squared_error = torch.zeros((), dtype=torch.float64, device=source.device)
    n_active = torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device=source.device)
    n_tokens = source.n_tokens["test"]
    for block in source.blocks("test"):
        latents = sae.encode(block.activations)
        error = sae.decode(latents) - block.activations
        squared_error += error.square().sum(dtype=torch.float64)
        n_active += (latents != 0).sum(dim=0)
    return Inference(
        mse=float(squared_error) / (n_tokens * source.d_in),
        l0=float(n_active.sum()) / n_tokens,
        firing_rate=(n_active / n_tokens).cpu(),
    )


def inference_weights(sae: TrainingSAE[Any], scale: float | None = None) -> Weights:
    """The weights that SAELens would ship, all that was factored out folded in; a copy.

    Args:
        sae: the SAE in training.
        scale: the factor on the activations that it was trained on, if any.
    """
    weights = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    if scale is not None:
        weights["W_enc"] *= scale
        weights["W_dec"] /= scale
        weights["b_dec"] /= scale
    return weights


def inference_config(sae: TrainingSAE[Any]) -> dict[str, Any]:
    """SAELens' config of the SAE as it is shipped: any scale of the activations is folded in."""
    config: dict[str, Any] = sae.cfg.get_inference_sae_cfg_dict()
    return {**config, "normalize_activations": "none"}


def inference_sae(sae: TrainingSAE[Any]) -> SAE[Any]:
    """An SAE of the architecture that a training SAE is shipped as, with weights of its own."""
    shipped = SAE.from_dict(inference_config(sae))
    shipped.load_state_dict(inference_weights(sae))
    return shipped
