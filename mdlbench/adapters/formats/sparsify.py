"""`sparsify:FOLDER` — cfg.json and sae.safetensors as sparsify saves them.

These are SAEs and transcoders of EleutherAI's library, in folders named by hook point. With
a = relu(W_enc (x − b_dec) + b_enc), the latents are the k largest of a (`topk`) or the largest of
each of k groups of neighbouring latents (`groupmax`); x̂ = z W_dec + b_dec. A transcoder subtracts
nothing from x. A skip connection adds W_skip x to x̂: the latents do not carry it, so it is side
information.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError

from mdlbench.adapters.checkpoint import (
    Count,
    Text,
    Whole,
    as_float32,
    blamed_on,
    check_k,
    digest_files,
    load_json,
    load_safetensors,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Activation,
    Decoder,
    Encoder,
    GroupMax,
    LinearCoder,
    Normalisation,
    Skip,
    TopK,
    Unnormalised,
    assemble,
)
from mdlbench.adapters.places import HUB, hub_path, hub_place, parts, place
from mdlbench.adapters.protocol import HubPlace, Origin, Request
from mdlbench.errors import CheckpointError, did_you_mean, first_problem, shown
from mdlbench.hub.hub import NoSuchFileError
from mdlbench.sources.language.hooks import module_hook

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
RUN_FILE = "config.json"
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""

ACTIVATIONS = ("topk", "groupmax")
UNSUPPORTED = {
    "embed_skip": "it also reads the model's token embeddings",
    "gram_lookup": "it reconstructs what a table of n-grams leaves over",
}
"""Options of `cfg.json` that change what an SAE reads."""
SEED = re.compile(r"seed\d+")
"""Folder within a hook point's, where several seeds were trained."""


class SparsifyConfig(BaseModel):
    """What of `cfg.json` decides the computation."""

    d_in: Count
    k: Count
    num_latents: Annotated[Whole, Field(ge=0)] = 0
    expansion_factor: Count = 32
    activation: str = "topk"
    signed: bool = False
    transcode: bool = False
    skip_connection: bool = False

    @property
    def d_latents(self) -> int:
        return self.num_latents or self.d_in * self.expansion_factor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that such an SAE has."""
        d, n = self.d_in, self.d_latents
        skip = {"W_skip": (d, d)} if self.skip_connection else {}
        weights = {"encoder.weight": (n, d), "encoder.bias": (n,), "W_dec": (n, d), "b_dec": (d,)}
        return {**weights, **skip}

    @property
    def architecture(self) -> str:
        kind = "skip_transcoder" if self.skip_connection else "transcoder"
        return kind if self.transcode else self.activation


class RunConfig(BaseModel):
    """What the `config.json` of a training run tells of the activations."""

    model: Text | None = None
    ctx_len: Whole | None = None


class SparsifyAdapter:
    """Reads a folder, and the `config.json` of the training run above it."""

    recognised_by = (WEIGHTS_FILE,)

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        read_config(request)
        return CoderIdentity(
            name="/".join(_hook_point(request)),
            adapter="sparsify",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(*place(request, CONFIG_FILE, WEIGHTS_FILE)),
        )

    def origin(self, request: Request) -> Origin:
        """Told by the folder's name, and by the run's `config.json` above it if there is one.

        A transcoder reads what that module is given.
        """
        transcode, run = read_config(request).transcode, _read_run(request)
        given, written = (_hook(request, run.model or "", side) for side in ("input", "output"))
        return Origin(
            model=run.model,
            hook=given if transcode else written,
            hook_out=(written or "") if transcode else None,
            context=run.ctx_len,
        )

    def load(self, request: Request) -> LinearCoder:
        identity, config = request.identity or self.identify(request), read_config(request)
        (file,) = place(request, WEIGHTS_FILE)
        tensors = load_safetensors(file)
        with blamed_on(file):
            return build(config, tensors, identity, self.origin(request), str(file), request.device)

    def hub_place(self, request: Request) -> HubPlace | None:
        """The folder, and every place above it where the run's config may be."""
        found = hub_place(request)
        if found is None:
            return None
        inside = hub_path(request.argument).inside
        above = ["/".join([*inside[:depth], RUN_FILE]) for depth in range(len(inside))]
        return replace(found, beginnings=(*found.beginnings, *above))


ADAPTER = SparsifyAdapter


def read_config(request: Request) -> SparsifyConfig:
    """`cfg.json`; raises `CheckpointError` for what cannot be computed."""
    (file,) = place(request, CONFIG_FILE)
    content = load_json(file)
    for option, reason in UNSUPPORTED.items():
        if content.get(option):
            raise CheckpointError(f"{file}: {option} is not supported: {reason}")
    try:
        config = SparsifyConfig.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    _check(config, str(file))
    return config


def _check(config: SparsifyConfig, where: str) -> None:
    if config.activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{where}: activation: unknown {shown(config.activation)}. "
            f"{did_you_mean(config.activation, ACTIVATIONS)}"
        )
    check_k(config.k, config.d_latents, where)
    if config.activation == "groupmax" and config.d_latents % config.k:
        raise CheckpointError(
            f"{where}: {config.d_latents} latents cannot be split into k={config.k} equal groups"
        )


def build(
    config: SparsifyConfig,
    tensors: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    origin: Origin,
    where: str,
    device: str,
) -> LinearCoder:
    """The coder of a config and its tensors; `where` names them in errors."""
    weights = as_float32(tensors, config.shapes(), where)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    b_dec = weights["b_dec"]
    normalisation: Normalisation = Unnormalised()
    if config.skip_connection:
        normalisation = Skip(weights["W_skip"])
    return assemble(
        identity,
        Encoder(
            weights["encoder.weight"].T,
            weights["encoder.bias"],
            torch.zeros_like(b_dec) if config.transcode else b_dec,
            _activation(config),
        ),
        Decoder(weights["W_dec"], b_dec),
        normalisation,
        architecture=config.architecture,
        origin=origin,
        promised_l0=config.k,
        trained_l0=config.k,
        details=_details(config, tensors["W_dec"].dtype),
    )


def _activation(config: SparsifyConfig) -> Activation:
    if config.activation == "groupmax":
        return GroupMax(config.k)
    return TopK(config.k, signed=config.signed)


def _details(config: SparsifyConfig, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "k": config.k,
        "activation": config.activation,
        "stored_dtype": str(dtype).removeprefix("torch."),
    }


def _read_run(request: Request) -> RunConfig:
    """The `config.json` above all hook points; empty where there is none."""
    file = _run_file(request)
    if file is None:
        return RunConfig()
    try:
        return RunConfig.model_validate(load_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error


def _run_file(request: Request) -> Path | None:
    depth = len(_hook_point(request))
    if not request.argument.startswith(HUB):
        file = request.path.resolve().parents[depth - 1] / RUN_FILE
        return file if file.is_file() else None
    where = hub_path(request.argument)
    if len(where.inside) < depth:
        return None
    try:
        return replace(where, inside=where.inside[:-depth]).file(RUN_FILE)
    except NoSuchFileError:
        return None


def _hook_point(request: Request) -> list[str]:
    """The folder's name, below that of the hook point where it is but a seed's."""
    *above, folder = parts(request)
    return [*above[-1:], folder] if SEED.fullmatch(folder) else [folder]


def _hook(request: Request, model: str, side: str) -> str | None:
    """The TransformerLens name of that side of the module, where it is certain."""
    named = f"{_hook_point(request)[0]}.{side}"
    found = module_hook(named, "/".join([model, *parts(request)]))
    return found.name if found else None
