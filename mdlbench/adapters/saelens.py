"""SAEs in the folders that SAELens saves: `cfg.json` and `sae_weights.safetensors`.

The formulas are those of SAELens 6, read here from the files themselves: importing SAELens costs
seconds, and its `layer_norm` forgets its statistics after one decode, where a sweep decodes the
same tokens many times. The tests hold every architecture to SAELens' own output.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError

from mdlbench.adapters.checkpoint import (
    PICKLES,
    as_float32,
    digest_files,
    load_safetensors,
    require_file,
)
from mdlbench.adapters.linear import (
    Activation,
    ConstantNorm,
    Decoder,
    Encoder,
    Gated,
    JumpReLU,
    LayerNorm,
    LinearCoder,
    Normalisation,
    TopK,
    Unnormalised,
)
from mdlbench.adapters.protocol import CoderIdentity, CoderSpec, Request
from mdlbench.errors import CheckpointError, did_you_mean, first_problem

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
VERSION = "1"
"""Of this reader: it changes when the same files come to mean other numbers."""

TENSORS = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "abstopk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "r_mag", "b_mag"),
}
UNSUPPORTED = {
    "transcoder": "it reconstructs another activation than the one it reads",
    "skip_transcoder": "it reconstructs another activation than the one it reads",
    "jumprelu_transcoder": "it reconstructs another activation than the one it reads",
    "jumprelu_skip_transcoder": "it reconstructs another activation than the one it reads",
    "matching_pursuit": "its encoder is iterative",
    "temporal": "its latents depend on other tokens",
}
NORMALISATIONS: dict[str, type[Normalisation]] = {
    "none": Unnormalised,
    "layer_norm": LayerNorm,
    "constant_norm_rescale": ConstantNorm,
}
UNFOLDED = {
    "expected_average_only_in": "the scaling factor of its release has not been folded in",
    "covariance_whitening": "the whitening of its activations has not been folded in",
}
RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
"""Keys of configs older than SAELens 6.0."""
OLD_METADATA = (
    "model_name",
    "hook_name",
    "hook_head_index",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "context_size",
    "dataset_path",
    "sae_lens_training_version",
)
"""Keys that SAELens 6.0 moved under `metadata`."""


class SAELensMetadata(BaseModel, extra="allow"):
    """What of the metadata is read; the rest is only shown."""

    hook_name: str | None = None
    training_architecture: str | None = None
    training_architecture_details: dict[str, Any] | None = None


class SAELensConfig(BaseModel):
    """What of `cfg.json` decides the computation."""

    architecture: str
    d_in: Annotated[int, Field(gt=0)]
    d_sae: Annotated[int, Field(gt=0)]
    dtype: str = "float32"
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    k: Annotated[int, Field(gt=0)] | None = None
    rescale_acts_by_decoder_norm: bool = False
    finetuning_scaling_factor: Literal[False] = False
    activation_fn: Literal["relu", "topk"] = "relu"
    activation_fn_kwargs: dict[str, Any] = {}
    metadata: SAELensMetadata = SAELensMetadata()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that the architecture has."""
        special = {
            "W_enc": (self.d_in, self.d_sae),
            "W_dec": (self.d_sae, self.d_in),
            "b_dec": (self.d_in,),
        }
        return {name: special.get(name, (self.d_sae,)) for name in TENSORS[self.architecture]}


class SAELensAdapter:
    """`saelens:FOLDER`."""

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        config, weights = _files(request.path)
        return CoderIdentity(
            name=request.path.resolve().name,
            adapter="saelens",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(config, weights),
        )

    def load(self, request: Request) -> LinearCoder:
        identity = self.identify(request)
        config_file, weights_file = _files(request.path)
        config = parse_config(_read_json(config_file), str(config_file))
        tensors = load_safetensors(weights_file)
        return build(config, tensors, identity, str(weights_file), request.device)


def parse_config(content: dict[str, Any], where: str) -> SAELensConfig:
    """`cfg.json` of any SAELens version; raises `CheckpointError` for what cannot be computed."""
    try:
        config = SAELensConfig.model_validate(_modernised(content))
    except ValidationError as error:
        raise CheckpointError(f"{where}: {first_problem(error)}") from error
    _look_up(config.architecture, TENSORS, UNSUPPORTED, f"{where}: architecture")
    _look_up(
        config.normalize_activations, NORMALISATIONS, UNFOLDED, f"{where}: normalize_activations"
    )
    if config.architecture not in ("topk", "abstopk"):
        return config.model_copy(update={"k": None})
    if not 0 < (config.k or 0) <= config.d_sae:
        raise CheckpointError(f"{where}: k must be from 1 to d_sae={config.d_sae}, not {config.k}")
    return config


def build(
    config: SAELensConfig,
    tensors: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    where: str,
    device: str,
) -> LinearCoder:
    """The coder of a config and its tensors; `where` names them in errors."""
    weights = as_float32(_without_unit_scaling(tensors), config.shapes(), where)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    if config.rescale_acts_by_decoder_norm:
        weights = _with_norms_folded(weights, where)
    decoder = Decoder(weights["W_dec"], weights["b_dec"])
    centre = weights["b_dec"] * float(config.apply_b_dec_to_input)
    b_enc = weights.get("b_enc", torch.zeros(config.d_sae, device=device))
    normalisation = NORMALISATIONS[config.normalize_activations]()
    spec = CoderSpec(
        **vars(identity),
        architecture=config.metadata.training_architecture or config.architecture,
        hook=config.metadata.hook_name or "",
        d_in=config.d_in,
        d_out=config.d_in,
        d_latents=config.d_sae,
        decoder_norms=decoder.norms(),
        promised_l0=float(config.k) if config.k else None,
        side_bits=normalisation.bits,
        details=_details(config, tensors["W_dec"].dtype),
    )
    encoder = Encoder(weights["W_enc"], b_enc, centre, _activation(config, weights))
    return LinearCoder(spec, encoder, decoder, normalisation)


def _activation(config: SAELensConfig, weights: dict[str, torch.Tensor]) -> Activation:
    match config.architecture:
        case "topk" | "abstopk" if config.k:
            return TopK(config.k, signed=config.architecture == "abstopk")
        case "gated":
            return Gated(weights["b_gate"], weights["r_mag"], weights["b_mag"])
        case "jumprelu":
            return JumpReLU(weights["threshold"])
    return JumpReLU(torch.zeros_like(weights["b_enc"]))


def _with_norms_folded(weights: dict[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
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


def _without_unit_scaling(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the `scaling_factor` of all ones that old releases carry."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name != "scaling_factor" or not bool((tensor == 1).all())
    }


def _modernised(content: dict[str, Any]) -> dict[str, Any]:
    """A config as SAELens 6 would write it; newer ones pass unchanged."""
    config = {RENAMED.get(key, key): value for key, value in content.items() if value is not None}
    config.setdefault("architecture", "standard")
    if config.get("activation_fn") == "topk":
        kwargs = config.get("activation_fn_kwargs")
        k = kwargs.get("k") if isinstance(kwargs, dict) else None
        config |= {"architecture": "topk", "k": config.get("k") if k is None else k}
    if isinstance(normalised := config.get("normalize_activations"), bool):
        config["normalize_activations"] = "expected_average_only_in" if normalised else "none"
    config.setdefault("metadata", {key: config[key] for key in OLD_METADATA if key in config})
    return config


def _look_up(
    value: str, supported: Mapping[str, object], refused: Mapping[str, str], where: str
) -> None:
    if value in supported:
        return
    if value in refused:
        raise CheckpointError(f"{where}: {value!r} is not supported yet: {refused[value]}")
    raise CheckpointError(f"{where}: unknown {value!r}. {did_you_mean(value, supported)}")


def _details(config: SAELensConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Plain facts of the metadata; `k` is also that of a BatchTopK SAE saved as JumpReLU."""
    training = config.metadata.training_architecture_details or {}
    return {
        **_plain(config.metadata.model_dump()),
        **_plain({"k": config.k or training.get("k")}),
        "inference_architecture": config.architecture,
        "normalize_activations": config.normalize_activations,
        "stored_dtype": str(dtype).removeprefix("torch."),
    }


def _plain(facts: dict[str, Any]) -> dict[str, str | int | float]:
    """Those that can be shown and stored: text, and numbers that JSON has."""
    return {
        key: value
        for key, value in facts.items()
        if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    }


def _files(folder: Path) -> tuple[Path, Path]:
    if folder.is_file():
        reason = "a pickle can run code and is not read" if folder.suffix in PICKLES else "a file"
        raise CheckpointError(
            f"{folder}: {reason}; saelens reads a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    return require_file(folder / CONFIG_FILE), require_file(folder / WEIGHTS_FILE)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, found a {type(content).__name__}")
    return content
