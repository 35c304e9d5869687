"""`batchtopk:FOLDER` — config.json and sae.pt of bartbussmann/BatchTopK.

Where `input_unit_norm` is set, x is layer-normalised first (unbiased std, ε = 1e-5 added to it),
and x̂ scaled back. x̂ = z W_dec + b_dec, and by `sae_type`:

- vanilla: z = relu((x − b_dec) W_enc + b_enc)
- topk: the k largest of relu((x − b_dec) W_enc) of each token
- batchtopk: the same of the whole batch; `?threshold=θ` has z where it is above θ, whatever the
  batch is, as the checkpoint itself keeps no threshold
- jumprelu: relu(a)·(a > exp(log_threshold)), a = x W_enc + b_enc
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError

from mdlbench.adapters.checkpoint import (
    as_float32,
    check_k,
    digest_files,
    load_json,
    load_pickle_free,
    only_tensors,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Activation,
    Decoder,
    Encoder,
    JumpReLU,
    LayerNorm,
    LinearCoder,
    TopK,
    Unnormalised,
    assemble,
)
from mdlbench.adapters.places import folder_with, parts, place
from mdlbench.adapters.protocol import FORMAT, Origin, Request
from mdlbench.errors import CheckpointError, UsageError, first_problem

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae.pt"
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""
LOG_THRESHOLD = "jumprelu.log_threshold"


class BatchTopKConfig(BaseModel):
    """What of `config.json` decides the computation, and what tells where it was trained."""

    sae_type: Literal["vanilla", "topk", "batchtopk", "jumprelu"]
    act_size: Annotated[int, Field(gt=0)]
    dict_size: Annotated[int, Field(gt=0)]
    top_k: int = 0
    input_unit_norm: bool = False
    use_encoder_bias: bool = False
    tied_weights: Literal[False] = False
    activation: Literal["relu"] = "relu"
    model_name: str | None = None
    hook_point: str | None = None
    seq_len: int | None = None

    @property
    def origin(self) -> Origin:
        return Origin(model=self.model_name, hook=self.hook_point, context=self.seq_len)

    @property
    def has_encoder_bias(self) -> bool:
        return self.sae_type in ("vanilla", "jumprelu") or self.use_encoder_bias

    def shapes(self) -> dict[str, tuple[int, ...]]:
        d, n = self.act_size, self.dict_size
        threshold = {LOG_THRESHOLD: (n,)} if self.sae_type == "jumprelu" else {}
        return {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), **threshold}


class BatchTopKAdapter:
    """Reads a folder that the library's `save_checkpoint` wrote."""

    def recognises(self, path: Path) -> int:
        folder = path.parent if path.name == WEIGHTS_FILE else path
        files = (folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        return FORMAT * bool(
            all(file.is_file() for file in files) and "sae_type" in load_json(files[0])
        )

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options("threshold")
        request = folder_with(request, WEIGHTS_FILE)
        threshold = _asked_threshold(request)
        return CoderIdentity(
            name=parts(request)[-1],
            adapter="batchtopk",
            version=VERSION,
            arguments={} if threshold is None else {"threshold": threshold},
            weights_sha256=digest_files(*place(request, CONFIG_FILE, WEIGHTS_FILE)),
        )

    def origin(self, request: Request) -> Origin:
        return read_config(folder_with(request, WEIGHTS_FILE)).origin

    def load(self, request: Request) -> LinearCoder:
        request = folder_with(request, WEIGHTS_FILE)
        identity, config = request.identity or self.identify(request), read_config(request)
        (file,) = place(request, WEIGHTS_FILE)
        tensors = only_tensors(load_pickle_free(file), str(file))
        weights = as_float32(tensors, config.shapes(), str(file))
        weights = {name: tensor.to(request.device) for name, tensor in weights.items()}
        return build(config, weights, identity, _asked_threshold(request), str(file))


ADAPTER = BatchTopKAdapter


def read_config(request: Request) -> BatchTopKConfig:
    """`config.json`; raises `CheckpointError` for what cannot be computed."""
    (file,) = place(request, CONFIG_FILE)
    try:
        config = BatchTopKConfig.model_validate(load_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    if "topk" in config.sae_type:
        check_k(config.top_k, config.dict_size, str(file))
    return config


def build(
    config: BatchTopKConfig,
    weights: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    threshold: float | None,
    where: str,
) -> LinearCoder:
    """The coder of a config and its weights; `where` names them in errors."""
    b_dec, kind = weights["b_dec"], config.sae_type
    k = config.top_k if "topk" in kind else None
    return assemble(
        identity,
        Encoder(
            weights["W_enc"],
            weights["b_enc"] * float(config.has_encoder_bias),
            b_dec * float(kind != "jumprelu"),
            _activation(config, weights, threshold, where),
        ),
        Decoder(weights["W_dec"], b_dec),
        LayerNorm() if config.input_unit_norm else Unnormalised(),
        architecture="standard" if kind == "vanilla" else kind,
        origin=config.origin,
        promised_l0=k if kind == "topk" else None,
        trained_l0=k,
        details=_details(config, threshold),
    )


def _activation(
    config: BatchTopKConfig,
    weights: Mapping[str, torch.Tensor],
    threshold: float | None,
    where: str,
) -> Activation:
    zero = torch.zeros_like(weights["b_enc"])
    if config.sae_type == "topk":
        return TopK(config.top_k)
    if config.sae_type == "jumprelu":
        return JumpReLU(weights[LOG_THRESHOLD].exp())
    if config.sae_type == "vanilla":
        return JumpReLU(zero)
    if threshold is None:
        raise CheckpointError(
            f"{where}: a BatchTopK SAE without a threshold: which latents are active depends on "
            "the other tokens of a batch. Say ?threshold=θ, where θ is the smallest latent that a "
            f"batch keeps ({config.top_k} per token), averaged over many batches"
        )
    return JumpReLU(zero + threshold)


def _asked_threshold(request: Request) -> float | None:
    text = request.options.get("threshold")
    if text is None:
        return None
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold) or threshold < 0:
        raise UsageError(f"{request.argument!r}: threshold must be a number from 0, not {text!r}")
    return threshold


def _details(config: BatchTopKConfig, threshold: float | None) -> dict[str, Any]:
    facts = {
        "sae_type": config.sae_type,
        "k": config.top_k if "topk" in config.sae_type else None,
        "threshold": threshold,
        "input_unit_norm": config.input_unit_norm,
    }
    return {name: value for name, value in facts.items() if value is not None}
