"""`llama_scope:FOLDER` — hyperparams.json and checkpoints/final.safetensors of Llama Scope.

These are SAEs and transcoders of OpenMOSS' Language-Model-SAEs (arXiv:2410.20526), trained on
activations scaled to norm √d on average. With s = √d/norm of what is read and t = √d/norm of what
is reconstructed,

    a = W_enc x + b_enc/s,  x̂ = W z + b_dec/t,  W = (s/t) W_dec

z is a where a·‖w_i‖ > θ (`jumprelu`, θ in units of what is reconstructed), relu(a), or the k
largest of relu(a)·‖w_i‖; without `sparsity_include_decoder_norm`, ‖w_i‖ is left out.
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
    load_safetensors,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Decoder, Encoder, JumpReLU, LinearCoder, TopK, assemble
from mdlbench.adapters.places import parts, place
from mdlbench.adapters.protocol import Origin, Request
from mdlbench.errors import CheckpointError, first_problem

CONFIG_FILE = "hyperparams.json"
WEIGHTS_FILE = "checkpoints/final.safetensors"
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""
MODEL, CONTEXT = "meta-llama/Llama-3.1-8B", 1024
"""What all of Llama Scope was trained on, the first token BOS."""

Norm = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Norms(BaseModel):
    """Mean norms of what is read and of what is reconstructed."""

    norm_in: Annotated[Norm, Field(alias="in")]
    norm_out: Annotated[Norm, Field(alias="out")]


class LlamaScopeConfig(BaseModel):
    """What of `hyperparams.json` decides the computation."""

    d_model: Annotated[int, Field(gt=0)]
    d_sae: Annotated[int, Field(gt=0)]
    act_fn: Literal["jumprelu", "relu", "topk"]
    jump_relu_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: int = 0
    norm_activation: Literal["dataset-wise", "inference"]
    dataset_average_activation_norm: Norms | None = None
    use_decoder_bias: bool = True
    apply_decoder_bias_to_pre_encoder: bool = False
    sparsity_include_decoder_norm: bool = False
    use_glu_encoder: Literal[False] = False
    hook_point_in: str | None = None
    hook_point_out: str | None = None

    @property
    def scales(self) -> tuple[float, float]:
        """s and t; 1 where they are folded in already."""
        norms = self.dataset_average_activation_norm
        if self.norm_activation == "inference" or norms is None:
            return 1.0, 1.0
        return math.sqrt(self.d_model) / norms.norm_in, math.sqrt(self.d_model) / norms.norm_out

    @property
    def origin(self) -> Origin:
        other = self.hook_point_out not in (None, self.hook_point_in)
        return Origin(
            model=MODEL,
            hook=self.hook_point_in,
            hook_out=self.hook_point_out if other else None,
            context=CONTEXT,
            prepend_bos=True,
        )


class LlamaScopeAdapter:
    """Reads a folder."""

    recognised_by = (CONFIG_FILE,)

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        return CoderIdentity(
            name=parts(request)[-1],
            adapter="llama_scope",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(*place(request, CONFIG_FILE, WEIGHTS_FILE)),
        )

    def origin(self, request: Request) -> Origin:
        return read_config(request).origin

    def load(self, request: Request) -> LinearCoder:
        identity, config = request.identity or self.identify(request), read_config(request)
        (file,) = place(request, WEIGHTS_FILE)
        return build(config, load_safetensors(file), identity, str(file), request.device)


ADAPTER = LlamaScopeAdapter


def read_config(request: Request) -> LlamaScopeConfig:
    """`hyperparams.json`; raises `CheckpointError` for what cannot be computed."""
    (file,) = place(request, CONFIG_FILE)
    try:
        config = LlamaScopeConfig.model_validate(load_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    _check(config, file)
    return config


def _check(config: LlamaScopeConfig, file: Path) -> None:
    if config.norm_activation == "dataset-wise" and config.dataset_average_activation_norm is None:
        raise CheckpointError(
            f"{file}: norm_activation is dataset-wise, but dataset_average_activation_norm is "
            "missing"
        )
    if config.apply_decoder_bias_to_pre_encoder and config.origin.hook_out:
        raise CheckpointError(
            f"{file}: apply_decoder_bias_to_pre_encoder: a transcoder's bias belongs to its output"
        )
    if config.act_fn == "topk":
        check_k(config.top_k, config.d_sae, str(file))


def build(
    config: LlamaScopeConfig,
    tensors: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    where: str,
    device: str,
) -> LinearCoder:
    """The coder of a config and its tensors; `where` names them in errors."""
    d, n = config.d_model, config.d_sae
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (n, d),
        "encoder.bias": (n,),
        "decoder.weight": (d, n),
    }
    if config.use_decoder_bias:
        shapes["decoder.bias"] = (d,)
    weights = as_float32(tensors, shapes, where)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    s, t = config.scales
    W_enc, b_enc = weights["encoder.weight"].T, weights["encoder.bias"] / s
    W_dec = weights["decoder.weight"].T * (s / t)
    b_dec = weights.get("decoder.bias", torch.zeros(d, device=device)) / t
    norms = W_dec.norm(dim=1)
    if not config.sparsity_include_decoder_norm:
        norms = torch.ones_like(norms)
    if not norms.all():
        raise CheckpointError(f"{where}: decoder.weight has {int((norms == 0).sum())} columns of 0")
    if config.act_fn == "topk":
        W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms[:, None]
    threshold = config.jump_relu_threshold * (config.act_fn == "jumprelu") / norms
    k = config.top_k if config.act_fn == "topk" else None
    return assemble(
        identity,
        Encoder(
            W_enc,
            b_enc,
            b_dec * float(config.apply_decoder_bias_to_pre_encoder),
            TopK(k) if k else JumpReLU(threshold),
        ),
        Decoder(W_dec.contiguous(), b_dec),
        architecture=_architecture(config),
        origin=config.origin,
        promised_l0=k,
        trained_l0=config.top_k or None,
        input_scale=s if s != 1 else None,
        details=_details(config),
    )


def _architecture(config: LlamaScopeConfig) -> str:
    kind = {"relu": "standard"}.get(config.act_fn, config.act_fn)
    if not config.origin.hook_out:
        return kind
    return "transcoder" if kind == "standard" else f"{kind}_transcoder"


def _details(config: LlamaScopeConfig) -> dict[str, Any]:
    named = ("act_fn", "jump_relu_threshold", "top_k", "norm_activation")
    return {**config.model_dump(include={*named}), "input_scale": config.scales[0]}
