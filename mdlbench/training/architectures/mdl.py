"""An SAE trained on its own description length: squared error + λ·bits, as image codecs are.

In the forward pass latents are rounded to multiples of a step Δ and decoded as such; gradients pass
straight through. The rate is −log₂ q_i(symbol) under an entropy model per latent, a running
histogram of its symbols shrunk towards that of all latents; between two symbols it is interpolated,
so that its slope says what a smaller or larger magnitude would cost. λ = (ln2/6)Δ² is the slope at
which a finely quantised source trades squared error against bits (maths §2).

What is below Δ/2 is rounded to zero, so that it is a JumpReLU SAE of threshold Δ/2, and saved so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from sae_lens import SAEConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAEConfig
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch import nn
from typing_extensions import override

from mdlbench.training.architectures.shared.selection import pre_activations, require

LARGEST_SYMBOL = 63
"""Larger symbols are priced as this one."""

STRENGTH = 20.0
"""Tokens' worth of the pooled distribution in each latent's."""


@dataclass
class MDLConfig(TrainingSAEConfig):
    """Settings of a directly MDL-trained SAE.

    Args:
        step: Δ, the quantiser's step in units of decoder norms.
        rate_weight: λ over (ln2/6)Δ².
        warm_up: batches over which the rate's weight rises to it.
        memory: tokens that the histograms remember.
    """

    step: float = 1.0
    rate_weight: float = 1.0
    warm_up: int = 500
    memory: float = 20_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step", "memory"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if not self.rate_weight >= 0:
            raise ValueError(f"rate_weight must not be negative, not {self.rate_weight}")
        require(self, apply_b_dec_to_input=True, dtype="float32")

    @override
    @classmethod
    def architecture(cls) -> str:
        return "mdl"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return JumpReLUSAEConfig


class MDLTrainingSAE(TrainingSAE[MDLConfig]):
    """Minimises ‖x − x̂‖² + λ·bits per token, with x̂ decoded from rounded latents."""

    b_enc: nn.Parameter
    histogram: torch.Tensor

    def __init__(self, cfg: MDLConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        histogram = torch.zeros(cfg.d_sae, LARGEST_SYMBOL + 1, device=self.W_dec.device)
        self.register_buffer("histogram", histogram)

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.b_enc = nn.Parameter(torch.zeros_like(self.W_dec[:, 0]))

    @override
    def encode_with_hidden_pre(
        self, x: Float[torch.Tensor, "token d"]
    ) -> tuple[Float[torch.Tensor, "token latent"], Float[torch.Tensor, "token latent"]]:
        hidden = pre_activations(self, x) * self.W_dec.norm(dim=-1)
        magnitude = hidden.relu().float()
        rounded = (magnitude / self.cfg.step).add(0.5).floor() * self.cfg.step
        return magnitude + (rounded - magnitude).detach(), hidden

    @override
    def decode(
        self, feature_acts: Float[torch.Tensor, "token latent"]
    ) -> Float[torch.Tensor, "token d"]:
        return super().decode(feature_acts / self.W_dec.norm(dim=-1))

    @override
    def get_coefficients(self) -> dict[str, TrainCoefficientConfig | float]:
        return {}

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        relative = hidden_pre.relu().float() / self.cfg.step
        self.count(relative.detach())
        bits = self.bits(relative).sum(dim=1).mean()
        warmth = min(1.0, step_input.n_training_steps / max(self.cfg.warm_up, 1))
        slope = math.log(2) / 6 * self.cfg.step**2
        return {"rate": self.cfg.rate_weight * warmth * slope * bits}

    @torch.no_grad()
    def count(self, relative: Float[torch.Tensor, "token latent"]) -> None:
        """Add a batch to the histograms, and forget as much of what was before."""
        n_tokens, n_latents = relative.shape
        cell = symbols(relative) + (LARGEST_SYMBOL + 1) * torch.arange(
            n_latents, device=relative.device
        )
        counted = torch.bincount(cell.flatten(), minlength=self.histogram.numel())
        self.histogram *= 1 - min(1.0, n_tokens / self.cfg.memory)
        self.histogram += counted.reshape(self.histogram.shape)

    def prices(self) -> Float[torch.Tensor, "latent symbol"]:
        """−log₂ q_i(v): each latent's histogram, shrunk towards all latents' together."""
        pooled = self.histogram.sum(dim=0) + 1
        smoothed = self.histogram + STRENGTH * pooled / pooled.sum()
        return -(smoothed / smoothed.sum(dim=1, keepdim=True)).log2()

    def bits(
        self, relative: Float[torch.Tensor, "token latent"]
    ) -> Float[torch.Tensor, "token latent"]:
        """The price of each symbol; its gradient is the slope between the nearest two."""
        prices = self.prices()
        latent = torch.arange(relative.shape[1], device=relative.device).expand(relative.shape)
        below = _whole(relative.detach()).clamp(max=LARGEST_SYMBOL - 1)
        slope = prices[latent, below + 1] - prices[latent, below]
        slope = torch.where(relative.detach() > 0, slope, 0.0)
        straight = slope * (relative - relative.detach())
        return prices[latent, symbols(relative.detach())] + straight

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        state_dict.pop("histogram")
        norms = self.get_W_dec_norm()
        state_dict["W_enc"] = state_dict["W_enc"] * norms
        state_dict["b_enc"] = state_dict["b_enc"] * norms
        state_dict["W_dec"] = state_dict["W_dec"] / norms[:, None]
        state_dict["threshold"] = torch.full_like(self.b_enc, self.cfg.step / 2).detach()


def symbols(relative: Float[torch.Tensor, "token latent"]) -> Int64[torch.Tensor, "token latent"]:
    """Magnitudes over the step, rounded half up, the largest ones clipped."""
    return _whole(relative.add(0.5)).clamp(max=LARGEST_SYMBOL)


def _whole(relative: Float[torch.Tensor, "token latent"]) -> Int64[torch.Tensor, "token latent"]:
    """Rounded down; what is not finite, as in a run that diverges, becomes 0."""
    return relative.nan_to_num(0.0, posinf=0.0, neginf=0.0).clamp(0, 2**30).long()


TRAINING = (MDLTrainingSAE, MDLConfig)
