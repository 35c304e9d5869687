"""What SAELens' `cfg.json` says, whichever version wrote it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from mdlbench.adapters.checkpoint import LONGEST_TEXT, Count, Text, Whole
from mdlbench.adapters.parts import ConstantNorm, LayerNorm, Normalisation, Unnormalised
from mdlbench.adapters.protocol import Origin
from mdlbench.errors import CheckpointError, did_you_mean, first_problem, shown
from mdlbench.sources.language.hooks import hook_name

AFFINE = ("W_enc", "b_enc", "W_dec", "b_dec")
TENSORS: dict[str, tuple[str, ...]] = {
    "standard": AFFINE,
    "topk": AFFINE,
    "abstopk": AFFINE,
    "jumprelu": (*AFFINE, "threshold"),
    "gated": ("W_enc", "W_dec", "b_dec", "b_gate", "r_mag", "b_mag"),
    "matching_pursuit": ("W_dec", "b_dec"),
    "batchtopk": (*AFFINE, "topk_threshold"),
    "matryoshka_batchtopk": (*AFFINE, "topk_threshold"),
    "tree": (*AFFINE, "threshold"),
    "group_sparse": (*AFFINE, "threshold"),
    "transcoder": AFFINE,
    "skip_transcoder": (*AFFINE, "W_skip"),
    "jumprelu_transcoder": (*AFFINE, "threshold"),
    "jumprelu_skip_transcoder": (*AFFINE, "threshold", "W_skip"),
}
TOPK = ("topk", "abstopk")
BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
"""What training keeps of an SAE that SAELens ships as JumpReLU: one threshold for all latents."""
UNSUPPORTED = {"temporal": "its latents depend on other tokens"}
NORMALISATIONS: dict[str, type[Normalisation]] = {
    "none": Unnormalised,
    "layer_norm": LayerNorm,
    "constant_norm_rescale": ConstantNorm,
}
SCALED = "expected_average_only_in"
"""Trained on activations times one factor, which a release's SAEs have folded in when loaded."""
SCALER_FILE = "activation_scaler.json"
"""Where training keeps that factor, beside a checkpoint."""
UNFOLDED = {
    SCALED: "the factor on its activations has not been folded in, and neither a release nor "
    f"{SCALER_FILE} beside it says what it was; load it as saelens:RELEASE/ID, or save it again "
    "after SAELens' fold_activation_norm_scaling_factor",
    "covariance_whitening": "the whitening of its activations has not been folded in; save it "
    "again after SAELens' fold_activation_whitening",
}
RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
"""Keys of configs older than SAELens 6.0."""
METADATA = (
    "model_name",
    "hook_name",
    "hook_name_out",
    "hf_hook_name",
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

    model_name: Text | None = None
    hook_name: Text | None = None
    hook_name_out: Text | None = None
    hf_hook_name: Text | None = None
    context_size: Whole | None = None
    prepend_bos: bool | None = None
    model_from_pretrained_kwargs: dict[str, Any] | None = None
    training_architecture: Text | None = None
    training_architecture_details: dict[str, Any] | None = None


class SAELensConfig(BaseModel):
    """What of `cfg.json` decides the computation."""

    architecture: str
    d_in: Count
    d_sae: Count
    d_out: Count | None = None
    dtype: str = "float32"
    apply_b_dec_to_input: bool | None = None
    normalize_activations: str = "none"
    norm_scaling_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The factor of `expected_average_only_in`; no config has it, a release or a file may."""
    k: Count | None = None
    mean_k: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What configs call k where it is the average token's, and may be a fraction."""
    rescale_acts_by_decoder_norm: bool = False
    residual_threshold: Annotated[float, Field(allow_inf_nan=False)] = 1e-2
    max_iterations: Count | None = None
    stop_on_duplicate_support: bool = True
    group_size: Count = 1
    finetuning_scaling_factor: Literal[False] = False
    activation_fn: Literal["relu", "topk"] = "relu"
    activation_fn_kwargs: dict[str, Any] = {}
    metadata: SAELensMetadata = SAELensMetadata()

    @property
    def is_transcoder(self) -> bool:
        return self.architecture.endswith("transcoder")

    @property
    def width_out(self) -> int:
        """Width of what is reconstructed."""
        return self.d_out or self.d_in if self.is_transcoder else self.d_in

    @property
    def origin(self) -> Origin:
        """What is known of its activations."""
        return _origin(self.metadata, self.is_transcoder)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that the architecture has."""
        special = {
            "W_enc": (self.d_in, self.d_sae),
            "W_dec": (self.d_sae, self.width_out),
            "b_dec": (self.width_out,),
            "W_skip": (self.width_out, self.d_in),
            "topk_threshold": (),
        }
        if self.architecture == "group_sparse":
            special["threshold"] = (self.d_sae // self.group_size,)
        return {name: special.get(name, (self.d_sae,)) for name in TENSORS[self.architecture]}


def parse_config(
    content: dict[str, Any], where: str, norm_scaling_factor: float | None = None
) -> SAELensConfig:
    """`cfg.json` of any SAELens version.

    Args:
        content: the object in it.
        where: names it in errors.
        norm_scaling_factor: that of the release or of training, for SAEs trained on scaled
            activations.

    Raises:
        CheckpointError: what it describes cannot be computed.
    """
    try:
        config = SAELensConfig.model_validate(_modernised(content))
    except ValidationError as error:
        raise CheckpointError(f"{where}: {first_problem(error)}") from error
    if config.normalize_activations == SCALED and norm_scaling_factor is not None:
        scaled = {"normalize_activations": "none", "norm_scaling_factor": norm_scaling_factor}
        config = config.model_copy(update=scaled)
    _look_up(config.architecture, TENSORS, UNSUPPORTED, f"{where}: architecture")
    _look_up(
        config.normalize_activations, NORMALISATIONS, UNFOLDED, f"{where}: normalize_activations"
    )
    if config.d_sae % config.group_size:
        raise CheckpointError(
            f"{where}: group_size {config.group_size} does not divide d_sae={config.d_sae}"
        )
    most = max(config.d_in, config.d_sae)
    if (config.max_iterations or 0) > most:
        raise CheckpointError(
            f"{where}: max_iterations must be from 1 to {most}, the larger of d_in and d_sae, not "
            f"{config.max_iterations}"
        )
    if config.is_transcoder and config.apply_b_dec_to_input:
        raise CheckpointError(
            f"{where}: apply_b_dec_to_input: a transcoder's b_dec belongs to its output, not its "
            "input"
        )
    if config.architecture not in TOPK:
        return config.model_copy(update={"k": None})
    if not 0 < (config.k or 0) <= config.d_sae:
        raise CheckpointError(f"{where}: k must be from 1 to d_sae={config.d_sae}, not {config.k}")
    return config


def origin_of(content: Mapping[str, Any], where: str) -> Origin:
    """What a config says of an SAE's activations, whatever its architecture.

    Raises:
        CheckpointError: it is not of the kinds that a config has.
    """
    config = _modernised(dict(content))
    try:
        metadata = SAELensMetadata.model_validate(dict(config["metadata"]))
    except (ValidationError, TypeError, ValueError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{where}: metadata: {problem}") from error
    return _origin(metadata, "transcoder" in str(config["architecture"]))


def refuse_unfolded(content: Mapping[str, Any], where: str) -> None:
    """Raise `CheckpointError` for an SAE of activations that were scaled outside of it."""
    normalised = _modernised(dict(content)).get("normalize_activations")
    if normalised in UNFOLDED:
        _look_up(str(normalised), {}, UNFOLDED, f"{where}: normalize_activations")


def _origin(metadata: SAELensMetadata, is_transcoder: bool) -> Origin:
    """What metadata says; a transcoder's unsaid output is "", an SAE's None."""
    return Origin(
        model=metadata.model_name,
        hook=_hook(metadata),
        hook_out=(metadata.hook_name_out or "") if is_transcoder else None,
        context=metadata.context_size,
        prepend_bos=metadata.prepend_bos,
        model_options=plain(metadata.model_from_pretrained_kwargs or {}),
    )


def _hook(metadata: SAELensMetadata) -> str | None:
    """`hook_mlp_in` means two places; where a config says the module, too, that decides."""
    name, module = metadata.hook_name, metadata.hf_hook_name
    if name is None or module is None or not name.endswith(".hook_mlp_in"):
        return name
    return hook_name(module, metadata.model_name or "")


def is_scaled(content: dict[str, Any]) -> bool:
    """Whether a `cfg.json` is of an SAE that was trained on activations times one factor."""
    return _modernised(content).get("normalize_activations") == SCALED


def scaling_factor(content: dict[str, Any], where: str) -> float | None:
    """The factor in what training wrote into `activation_scaler.json`, None if it had none.

    Raises:
        CheckpointError: it is no positive number.
    """
    factor = content.get("scaling_factor")
    if factor is None:
        return None
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not math.isfinite(factor) or factor <= 0:
        raise CheckpointError(f"{where}: scaling_factor must be a positive number, not {factor!r}")
    return float(factor)


def plain(facts: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Those that can be shown and stored: short text, and numbers that JSON and tables have."""
    return {key: value for key, value in facts.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def overridden(content: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what its release says instead, wherever that config keeps it."""
    changed = {**content, **overrides}
    if isinstance(content.get("metadata"), dict):
        moved = {key: value for key, value in overrides.items() if key in METADATA}
        changed["metadata"] = {**content["metadata"], **moved}
    return changed


def _modernised(content: dict[str, Any]) -> dict[str, Any]:
    """A config as SAELens 6 would write it; newer ones pass unchanged."""
    config = {RENAMED.get(key, key): value for key, value in content.items() if value is not None}
    config.pop("norm_scaling_factor", None)
    config.setdefault("architecture", "standard")
    if config.get("activation_fn") == "topk":
        kwargs = config.get("activation_fn_kwargs")
        k = kwargs.get("k") if isinstance(kwargs, dict) else None
        config |= {"architecture": "topk", "k": config.get("k") if k is None else k}
    if config["architecture"] in BATCH_TOPK:
        config["mean_k"] = config.pop("k", None)
    if isinstance(normalised := config.get("normalize_activations"), bool):
        config["normalize_activations"] = SCALED if normalised else "none"
    config.setdefault("metadata", {key: config[key] for key in METADATA if key in config})
    return config


def _look_up(
    value: str, supported: Mapping[str, object], refused: Mapping[str, str], where: str
) -> None:
    if value in supported:
        return
    if value in refused:
        raise CheckpointError(f"{where}: {value!r} is not supported yet: {refused[value]}")
    raise CheckpointError(f"{where}: unknown {shown(value)}. {did_you_mean(value, supported)}")
