"""SAELens' formulas: a config and its tensors → a coder.

They are those of SAELens 6, computed here: importing SAELens costs seconds, and its `layer_norm`
forgets its statistics after one decode, where a sweep decodes the same tokens many times. The
tests hold every architecture to SAELens' own output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from mdlbench.adapters.checkpoint import as_float32, find_tensor, index_array
from mdlbench.adapters.formats.saelens.config import (
    BATCH_TOPK,
    NORMALISATIONS,
    TOPK,
    SAELensConfig,
    plain,
)
from mdlbench.adapters.formats.saelens.matching_pursuit import MatchingPursuit
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Activation,
    Decoder,
    Encoder,
    Gated,
    GroupNorm,
    JumpReLU,
    LinearCoder,
    Normalisation,
    Skip,
    SparseEncoder,
    TopK,
    TreeDecoder,
    TreeEncoder,
    assemble,
)
from mdlbench.codes.forest import ROOT, Forest
from mdlbench.errors import CheckpointError, CoderError

Weights = dict[str, torch.Tensor]


def build(
    config: SAELensConfig,
    tensors: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    where: str,
    device: str,
) -> LinearCoder:
    """The coder of a config and its tensors; `where` names them in errors."""
    tensors = _without_logarithm(tensors)
    numbers = _without_parents(_without_unit_scaling(tensors), config)
    weights = as_float32(numbers, config.shapes(), where)
    # after the sizes that the config claims have been compared with the tensors'
    forest = _forest(config, tensors, where)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    if config.norm_scaling_factor is not None:
        weights = _with_scale_folded(weights, config.norm_scaling_factor)
    if config.architecture in (*TOPK, *BATCH_TOPK) and config.rescale_acts_by_decoder_norm:
        weights = _with_threshold_scaled(weights, config.norm_scaling_factor)
        weights = _with_norms_folded(weights, where)
    encoder, decoder = _encoder(config, weights), _decoder(config, weights)
    details = _details(config, tensors["W_dec"].dtype)
    if config.architecture == "tree" and forest is not None:
        encoder = TreeEncoder(encoder, forest)
        decoder = TreeDecoder(decoder.W_dec, decoder.b_dec, forest)
    return assemble(
        identity,
        encoder,
        decoder,
        _normalisation(config, weights),
        architecture=config.metadata.training_architecture or config.architecture,
        origin=config.origin,
        promised_l0=config.k or config.max_iterations,
        trained_l0=_trained_l0(details),
        input_scale=config.norm_scaling_factor,
        details=details,
        forest=forest,
    )


def _forest(
    config: SAELensConfig, tensors: Mapping[str, torch.Tensor], where: str
) -> Forest | None:
    """The forest of a tree SAE; of a group-sparse one, each group's first axis and the others."""
    if config.architecture == "group_sparse":
        latent = np.arange(config.d_sae, dtype=np.int32)
        first = latent - latent % config.group_size
        return Forest.from_parents(np.where(first == latent, ROOT, first))
    if config.architecture != "tree":
        return None
    parents = index_array(find_tensor(tensors, "parents", where), "parents", where)
    if parents.shape != (config.d_sae,):
        raise CheckpointError(
            f"{where}: parents has shape {list(parents.shape)}, not one parent for each of "
            f"{config.d_sae} latents"
        )
    try:
        return Forest.from_parents(parents)
    except CoderError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _without_parents(tensors: Weights, config: SAELensConfig) -> Weights:
    if config.architecture != "tree":
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name != "parents"}


@dataclass(frozen=True)
class Transcoding:
    """A transcoder's normalisation: of its input alone, its output has a scale of its own."""

    normalisation: Normalisation
    skip: Skip | None

    @property
    def bits(self) -> float:
        return self.skip.bits if self.skip else 0.0

    def apply(
        self, x: Float32[torch.Tensor, "token d_in"]
    ) -> tuple[Float32[torch.Tensor, "token d_in"], Float32[torch.Tensor, "token side"]]:
        normalised, _ = self.normalisation.apply(x)
        return normalised, self.skip.apply(x)[1] if self.skip else x[:, :0]

    def undo(
        self, x: Float32[torch.Tensor, "token d_out"], side: Float32[torch.Tensor, "token side"]
    ) -> Float32[torch.Tensor, "token d_out"]:
        return self.skip.undo(x, side) if self.skip else x


def _normalisation(config: SAELensConfig, weights: Weights) -> Normalisation:
    normalisation = NORMALISATIONS[config.normalize_activations]()
    if not config.is_transcoder:
        return normalisation
    return Transcoding(normalisation, Skip(weights["W_skip"]) if "W_skip" in weights else None)


def _encoder(config: SAELensConfig, weights: Weights) -> SparseEncoder:
    if config.architecture == "matching_pursuit":
        return MatchingPursuit(
            weights["W_dec"],
            _centre(config, weights),
            config.residual_threshold / (config.norm_scaling_factor or 1.0),
            config.max_iterations or config.d_in,
            config.stop_on_duplicate_support,
        )
    b_enc = weights.get("b_enc", torch.zeros_like(weights["W_enc"][0]))
    return Encoder(weights["W_enc"], b_enc, _centre(config, weights), _activation(config, weights))


def _centre(config: SAELensConfig, weights: Weights) -> torch.Tensor:
    """What is subtracted from the input."""
    if config.is_transcoder or config.apply_b_dec_to_input is False:
        return torch.zeros(config.d_in, device=weights["b_dec"].device)
    return weights["b_dec"]


def _activation(config: SAELensConfig, weights: Weights) -> Activation:
    match config.architecture:
        case "topk" | "abstopk" if config.k:
            return TopK(config.k, signed=config.architecture == "abstopk")
        case "gated":
            return Gated(weights["b_gate"], weights["r_mag"], weights["b_mag"])
        case "group_sparse":
            return GroupNorm(weights["threshold"])
        case "batchtopk" | "matryoshka_batchtopk":
            return JumpReLU(weights["topk_threshold"].expand(config.d_sae))
    return JumpReLU(weights.get("threshold", torch.zeros_like(weights["b_enc"])))


def _decoder(config: SAELensConfig, weights: Weights) -> Decoder:
    if config.architecture == "matching_pursuit":
        return Decoder(weights["W_dec"], _centre(config, weights))
    return Decoder(weights["W_dec"], weights["b_dec"])


def _with_scale_folded(weights: Weights, scale: float) -> Weights:
    """Weights that read x and write its reconstruction, where they were trained on scale·x."""
    folded = {**weights, "b_dec": weights["b_dec"] / scale}
    if "W_enc" in weights:
        folded |= {"W_enc": weights["W_enc"] * scale, "W_dec": weights["W_dec"] / scale}
    return folded


def _with_threshold_scaled(weights: Weights, scale: float | None) -> Weights:
    """A threshold on pre-activations times ‖w_i‖ follows the rows, which the scale has divided."""
    if scale is None or "topk_threshold" not in weights:
        return weights
    return {**weights, "topk_threshold": weights["topk_threshold"] / scale}


def _with_norms_folded(weights: Weights, where: str) -> Weights:
    """`rescale_acts_by_decoder_norm`: pre-activations times ‖w_i‖, rows of unit norm."""
    norms = weights["W_dec"].norm(dim=1)
    if not norms.all():
        dead = int((norms == 0).sum())
        raise CheckpointError(
            f"{where}: W_dec has {dead} rows of norm zero, by which "
            "rescale_acts_by_decoder_norm would divide"
        )
    return {
        **weights,
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
        "W_dec": weights["W_dec"] / norms[:, None],
    }


def _without_logarithm(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """With the `threshold` itself where older trainers kept its logarithm."""
    kept = {name: tensor for name, tensor in tensors.items() if name != "log_threshold"}
    if len(kept) == len(tensors) or not tensors["log_threshold"].is_floating_point():
        return dict(tensors)
    return {**kept, "threshold": tensors["log_threshold"].exp()}


def _without_unit_scaling(tensors: Mapping[str, torch.Tensor]) -> Weights:
    """Without the `scaling_factor` of all ones that old releases carry."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name != "scaling_factor" or not bool((tensor == 1).all())
    }


def _trained_l0(details: Mapping[str, Any]) -> float | None:
    """The k, or the mean L0, that the config tells."""
    l0 = details.get("k", details.get("average_l0"))
    return l0 if isinstance(l0, int | float) and l0 > 0 else None


def _details(config: SAELensConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Plain facts of the metadata; `k` counts latents, also those of an SAE saved as JumpReLU."""
    training = plain(config.metadata.training_architecture_details or {})
    k = config.k or config.mean_k or training.get("k")
    return {
        **plain(config.metadata.model_dump()),
        **plain({"k": k * config.group_size if isinstance(k, int | float) else k}),
        **plain({"norm_scaling_factor": config.norm_scaling_factor}),
        "inference_architecture": config.architecture,
        "normalize_activations": config.normalize_activations,
        "stored_dtype": str(dtype).removeprefix("torch."),
    }
