"""Group-sparse SAEs: a few subspaces are active at a token, and dense inside.

The latents of a group are the signed coordinates of one subspace. Groups are chosen by the norm of
what they contribute, ‖z_g W_g‖: in training the k·B largest of a batch, at inference those above
one threshold θ. What is saved has orthonormal rows in each group, along the principal axes of its
coordinates, so that the norm is that of the coordinates and the first says most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE, SAEConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata, TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from torch import nn
from typing_extensions import override

from mdlbench.training.architectures.shared.selection import (
    Metadata,
    largest,
    pre_activations,
    require,
    require_match,
)


@dataclass
class GroupSparseConfig(SAEConfig):
    """A group-sparse SAE at inference.

    Args:
        group_size: latents of a group; they are neighbours.
    """

    group_size: int = 4
    metadata: Metadata = field(default_factory=SAEMetadata)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "group_sparse"


class GroupSparseSAE(SAE[GroupSparseConfig]):
    """x W_enc + b_enc, without the groups whose norm does not exceed the threshold."""

    b_enc: nn.Parameter
    threshold: nn.Parameter

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.b_enc = nn.Parameter(torch.zeros_like(self.W_dec[:, 0]))
        self.threshold = nn.Parameter(torch.zeros_like(self.b_enc[:: self.cfg.group_size]))

    @override
    def encode(self, x: Float[torch.Tensor, "token d"]) -> Float[torch.Tensor, "token latent"]:
        latents = self.process_sae_in(x) @ self.W_enc + self.b_enc
        grouped = latents.unflatten(1, (-1, self.cfg.group_size))
        return (grouped * (grouped.norm(dim=2) > self.threshold)[:, :, None]).flatten(1)

    @override
    def decode(
        self, feature_acts: Float[torch.Tensor, "token latent"]
    ) -> Float[torch.Tensor, "token d"]:
        return feature_acts @ self.W_dec + self.b_dec


@dataclass
class GroupSparseTrainingConfig(TrainingSAEConfig):
    """Settings of a group-sparse SAE.

    Args:
        k: mean active groups per token.
        group_size: latents of a group.
        running_rate: share of a batch in the running means.
    """

    k: float = 4.0
    group_size: int = 4
    running_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.group_size <= self.d_sae or self.d_sae % self.group_size:
            raise ValueError(f"group_size {self.group_size} does not divide the width {self.d_sae}")
        if self.group_size > self.d_in:
            raise ValueError(
                f"group_size {self.group_size} exceeds the width {self.d_in} of the activations"
            )
        require(self, apply_b_dec_to_input=True, dtype="float32")
        if not 0 < self.k <= self.d_sae // self.group_size:
            raise ValueError(
                f"k={self.k:g} must lie between 0 and the {self.d_sae // self.group_size} groups"
            )

    @override
    @classmethod
    def architecture(cls) -> str:
        return "group_sparse"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return GroupSparseConfig

    def require_batch(self, batch_size: int) -> None:
        require_match(self.k, batch_size)


class GroupSparseTrainingSAE(TrainingSAE[GroupSparseTrainingConfig]):
    """The k·B groups of a batch that contribute most."""

    b_enc: nn.Parameter
    threshold: torch.Tensor
    moments: torch.Tensor

    def __init__(self, cfg: GroupSparseTrainingConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        n_groups, size = cfg.d_sae // cfg.group_size, cfg.group_size
        device = self.W_dec.device
        self.register_buffer("threshold", torch.zeros(n_groups, device=device))
        self.register_buffer("moments", torch.zeros(n_groups, size, size, device=device))

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.b_enc = nn.Parameter(torch.zeros_like(self.W_dec[:, 0]))

    @override
    def encode_with_hidden_pre(
        self, x: Float[torch.Tensor, "token d"]
    ) -> tuple[Float[torch.Tensor, "token latent"], Float[torch.Tensor, "token latent"]]:
        hidden = pre_activations(self, x)
        grouped = hidden.unflatten(1, (-1, self.cfg.group_size))
        norms = self.contributions(grouped.detach().float()).norm(dim=2)
        chosen = largest(norms, round(self.cfg.k * len(x)))
        return (grouped * chosen[:, :, None]).flatten(1), hidden

    @torch.no_grad()
    def contributions(
        self, grouped: Float[torch.Tensor, "token group member"]
    ) -> Float[torch.Tensor, "token group member"]:
        """Coordinates on orthonormal axes of each subspace: z_g L_g, where W_g = L_g Q_g."""
        with torch.autocast(grouped.device.type, enabled=False):
            return torch.einsum("tgm,gmn->tgn", grouped, self.factors()[0])

    @torch.no_grad()
    def factors(
        self,
    ) -> tuple[Float[torch.Tensor, "group m m"], Float[torch.Tensor, "group m d"]]:
        """L and Q with W_g = L_g Q_g, the rows of Q_g orthonormal."""
        rows = self.W_dec.detach().float().unflatten(0, (-1, self.cfg.group_size))
        q, r = torch.linalg.qr(rows.mT)
        return r.mT, q.mT

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        output = super().training_forward_pass(step_input)
        self.update_running(output.feature_acts.detach().float())
        return output

    @torch.no_grad()
    def update_running(self, chosen: Float[torch.Tensor, "token latent"]) -> None:
        """Move the threshold and the coordinates' second moments towards those of a batch."""
        axes = self.contributions(chosen.unflatten(1, (-1, self.cfg.group_size)))
        norms = axes.norm(dim=2)
        rate = 1.0 if not self.threshold.any() else self.cfg.running_rate
        if (norms > 0).any():
            self.threshold.lerp_(norms[norms > 0].min().expand_as(self.threshold), rate)
        with torch.autocast(axes.device.type, enabled=False):
            self.moments.lerp_(torch.einsum("tgm,tgn->gmn", axes, axes) / len(axes), rate)

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        return {}

    @override
    def get_coefficients(self) -> dict[str, TrainCoefficientConfig | float]:
        return {}

    @override
    @torch.no_grad()
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """On orthonormal, principal axes; the reconstruction stays what it is."""
        super().process_state_dict_for_saving_inference(state_dict)
        triangular, orthonormal = self.factors()
        principal = torch.linalg.eigh(state_dict.pop("moments")).eigenvectors.flip(2)
        turned = triangular @ principal
        size = self.cfg.group_size
        for name in ("W_enc", "b_enc"):
            grouped = state_dict[name].unflatten(-1, (-1, size))
            state_dict[name] = torch.einsum("...gm,gmn->...gn", grouped, turned).flatten(-2)
        state_dict["W_dec"] = (principal.mT @ orthonormal).flatten(0, 1)


TRAINING = (GroupSparseTrainingSAE, GroupSparseTrainingConfig)
INFERENCE = (GroupSparseSAE, GroupSparseConfig)
