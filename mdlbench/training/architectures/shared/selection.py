"""What SAEs have in common whose active latents are chosen over a whole batch in training.

At inference no token may look at another, so thresholds stand in for the choice: running means of
the smallest magnitudes that were chosen.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from sae_lens import TrainingSAE
from sae_lens.saes.jumprelu_sae import JumpReLUSAEConfig
from sae_lens.saes.sae import SAEConfig, SAEMetadata, TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from typing_extensions import override

from mdlbench.training.architectures.shared.auxiliary import Auxiliary, auxiliary_loss, underused

Metadata = SAEMetadata | dict[str, Any]
"""What SAELens makes of a config's metadata, and what it gives a config's class to begin with."""


@runtime_checkable
class ChosenPerBatch(Protocol):
    """Settings that only some batches can be chosen from."""

    def require_batch(self, batch_size: int) -> None:
        """Raise `ValueError` unless the choice can be made over batches of this size."""
        ...


def pre_activations(
    sae: TrainingSAE[Any], x: Float[torch.Tensor, "token d"]
) -> Float[torch.Tensor, "token latent"]:
    """(x − b_dec) W_enc + b_enc; b_dec learns through the decoder alone, which saves a product."""
    return (x.to(sae.dtype) - sae.b_dec.detach()) @ sae.W_enc + sae.b_enc


def require(config: SAEConfig, **fixed: object) -> None:
    """Raise `ValueError` where a setting that the architecture fixes has another value."""
    for name, value in fixed.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} is {value} here, not {getattr(config, name)!r}")


def require_match(k: float, batch_size: int) -> None:
    """Raise `ValueError` unless k·B is at least one match."""
    if k * batch_size < 1:
        raise ValueError(f"k={k:g} chooses nothing in a batch of {batch_size} tokens")


def largest(
    magnitude: Float[torch.Tensor, "token match"], n: int
) -> Bool[torch.Tensor, "token match"]:
    """The n largest positive entries of a whole batch, and what equals the last of them."""
    flat = magnitude.flatten()
    least = flat.topk(min(n, len(flat)), sorted=False).values.min()
    return (magnitude >= least) & (magnitude > 0)


@dataclass
class SelectionConfig(TopKTrainingSAEConfig):
    """Settings of an SAE whose matches are chosen per batch.

    Args:
        k: mean active latents per token.
        auxiliary: which latents an auxiliary loss is for: none, dead ones (aux_k), or those
            underused for their rank (aux_zipf).
        aux_loss_coefficient: its weight beside the fraction of variance unexplained.
        underuse_ratio: a latent is underused below this share of what its rank has it expect.
        running_rate: share of a batch in the running means of thresholds and firing rates.
    """

    k: float = 100
    auxiliary: Auxiliary = "aux_zipf"
    aux_loss_coefficient: float = 1 / 32
    underuse_ratio: float = 0.1
    running_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.auxiliary not in ("none", "aux_k", "aux_zipf"):
            raise ValueError(f"auxiliary is none, aux_k or aux_zipf, not {self.auxiliary!r}")
        if not 0 < self.running_rate <= 1:
            raise ValueError(f"running_rate must lie between 0 and 1, not {self.running_rate}")
        if not 0 < self.k <= self.d_sae:
            raise ValueError(f"k={self.k:g} must lie between 0 and the {self.d_sae} latents")
        require(self, apply_b_dec_to_input=True, rescale_acts_by_decoder_norm=True, dtype="float32")

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return JumpReLUSAEConfig

    def require_batch(self, batch_size: int) -> None:
        require_match(self.k, batch_size)


class SelectionTrainingSAE(TopKTrainingSAE):
    """Chooses matches by `select`; keeps running thresholds and firing rates.

    Magnitudes are in units of decoder norms, z_i‖w_i‖, as they are for BatchTopK.
    """

    cfg: SelectionConfig
    threshold: torch.Tensor
    density: torch.Tensor

    def __init__(self, cfg: SelectionConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        zeros = torch.zeros(cfg.d_sae, dtype=torch.float32, device=self.W_dec.device)
        self.register_buffer("threshold", zeros)
        self.register_buffer("density", zeros.clone())

    @abstractmethod
    def select(
        self, magnitude: Float[torch.Tensor, "token latent"]
    ) -> Bool[torch.Tensor, "token latent"]:
        """Which matches of a batch are made; no gradient is asked for."""

    @override
    def encode_with_hidden_pre(
        self, x: Float[torch.Tensor, "token d"]
    ) -> tuple[Float[torch.Tensor, "token latent"], Float[torch.Tensor, "token latent"]]:
        hidden = pre_activations(self, x) * self.W_dec.norm(dim=-1)
        magnitude = hidden.relu()
        return magnitude * self.select(magnitude.detach()), hidden

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        output = super().training_forward_pass(step_input)
        self.update_running(output.feature_acts.detach().float())
        return output

    @torch.no_grad()
    def update_running(self, chosen: Float[torch.Tensor, "token latent"]) -> None:
        """Move thresholds and firing rates towards those of a batch."""
        smallest, seen = self.smallest_chosen(chosen)
        rate = torch.where(self.threshold == 0, 1.0, self.cfg.running_rate)
        moved = self.threshold + rate * (smallest - self.threshold)
        self.threshold.copy_(torch.where(seen, moved, self.threshold))
        fired = (chosen > 0).float().mean(dim=0)
        self.density.lerp_(fired, self.cfg.running_rate)

    def smallest_chosen(
        self, chosen: Float[torch.Tensor, "token latent"]
    ) -> tuple[Float[torch.Tensor, " latent"], Bool[torch.Tensor, " latent"]]:
        """The smallest magnitude chosen for each latent, and whether there is one.

        One for all latents, since the choice was among all of them.
        """
        positive = chosen[chosen > 0]
        seen = torch.full_like(self.threshold, len(positive) > 0, dtype=torch.bool)
        smallest = positive.min() if len(positive) else chosen.new_zeros(())
        return smallest.expand(len(seen)), seen

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        chosen = self.in_need(step_input.dead_neuron_mask)
        if chosen is None:
            return {}
        rows = self.W_dec / self.W_dec.norm(dim=-1, keepdim=True)
        x = step_input.sae_in
        loss = auxiliary_loss(x - sae_out, hidden_pre, rows, chosen)
        variance = (x - x.mean(dim=0)).square().sum(dim=1).mean()
        return {self.cfg.auxiliary: self.cfg.aux_loss_coefficient * variance * loss}

    def in_need(
        self, dead: Bool[torch.Tensor, " latent"] | None
    ) -> Bool[torch.Tensor, " latent"] | None:
        """The latents that the auxiliary loss is for."""
        if self.cfg.auxiliary == "aux_k":
            return dead
        if self.cfg.auxiliary == "aux_zipf" and dead is not None and self.density.any():
            return underused(self.density, self.cfg.underuse_ratio, dead)
        return None

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        super().fold_activation_norm_scaling_factor(scaling_factor)
        self.threshold /= scaling_factor

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving_inference(state_dict)
        state_dict.pop("density")
