"""`gemma_scope:FOLDER` — params.npz of Gemma Scope, or params.safetensors of Gemma Scope 2.

These are JumpReLU SAEs and transcoders (arXiv:2408.05147):
z = relu(a)·(a > θ), a = x W_enc + b_enc; x̂ = z W_dec + b_dec. There is no config for the first: the
path tells the hook point and the L0 that the SAE had in training. Those of Gemma Scope 2 have a
config.json, and some transcoders an affine skip connection, which adds x W_skip to x̂: the latents
do not carry it, so it is side information.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError

from mdlbench.adapters.checkpoint import (
    as_float32,
    blamed_on,
    digest_files,
    load_json,
    load_npz,
    load_safetensors,
    matrix_shape,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Decoder,
    Encoder,
    JumpReLU,
    LinearCoder,
    Skip,
    Unnormalised,
    assemble,
)
from mdlbench.adapters.places import HUB, folder_of, parts, place, place_if_there
from mdlbench.adapters.protocol import Origin, Request
from mdlbench.errors import CheckpointError, first_problem
from mdlbench.sources.language.hooks import hook_name

WEIGHTS_FILE = "params.npz"
SECOND_FILE, CONFIG_FILE = "params.safetensors", "config.json"
"""What the second release has instead."""
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""

ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
"""What an archive holds."""
CONTEXT = 1024
"""Tokens of a context that all of Gemma Scope was trained on, the first of them BOS."""
RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")
SAE_ID = re.compile(r"(?:layer_(\d+)|embedding)/width_\w+/average_l0_(\d+)$")
SECOND = re.compile(r"gemma-scope-2-(\d+[bm])-(pt|it)")
"""The size of the model and its training, in the names of the second release's repositories."""
SECOND_SITE = re.compile(r"(resid_post|attn_out|mlp_out|transcoder)(?:_all)?/layer_(\d+)_")
"""The place and the layer, in the folders of these repositories."""
SKIP = "affine_skip_connection"
LOWER = {"w_enc": "W_enc", "w_dec": "W_dec"}
"""What the second release calls weights."""
SITES = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",
}
"""TransformerLens' names of the places in a layer that the releases read."""
SECOND_SITES = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "attn.hook_z",
    "transcoder": "mlp.hook_in",
}
"""The same for the folders of the second release."""


class SecondConfig(BaseModel):
    """What `config.json` of Gemma Scope 2 says."""

    architecture: Literal["jump_relu"] = "jump_relu"
    model_name: str | None = None
    hf_hook_point_in: str | None = None
    hf_hook_point_out: str | None = None
    l0: float | None = None

    def origin(self, path: str) -> Origin:
        """The model may also stand in the path, and where there is no config, the hook points."""
        told, where = SECOND.search(path), SECOND_SITE.search(path)
        model = f"gemma-3-{told[1]}-{told[2]}" if told else (self.model_name or "")
        model = model.replace("-v3", "-3")
        model = model.removesuffix("-pt") if "270m" in model else model
        return Origin(
            model=model or None,
            hook=self._hook(self.hf_hook_point_in) or _told_hook(where),
            hook_out=self._hook(self.hf_hook_point_out) or _told_hook_out(where),
            context=CONTEXT,
            prepend_bos=True,
        )

    def _hook(self, module: str | None) -> str | None:
        return hook_name(module, "gemma-3") if module else None


def _told_hook(where: re.Match[str] | None) -> str | None:
    return f"blocks.{where[2]}.{SECOND_SITES[where[1]]}" if where else None


def _told_hook_out(where: re.Match[str] | None) -> str | None:
    return f"blocks.{where[2]}.hook_mlp_out" if where and where[1] == "transcoder" else None


class GemmaScopeAdapter:
    """Reads a folder, or the archive `gemma_scope:PATH.npz` itself."""

    recognised_by = (WEIGHTS_FILE, SECOND_FILE)

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        return CoderIdentity(
            name=_name(request),
            adapter="gemma_scope",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(_file(request), *_config_file(request)),
        )

    def origin(self, request: Request) -> Origin:
        """Told by the path alone, as in `google/gemma-scope-2b-pt-res/layer_20/width_16k/…`."""
        path = _path(request)
        release, sae_id = RELEASE.search(path), SAE_ID.search(path)
        if _is_second(request):
            return _config(request).origin(path)
        if not release:
            return Origin()
        size, training, site = release.groups()
        block = f"blocks.{sae_id[1]}" if sae_id and sae_id[1] else None
        return Origin(
            model=f"gemma-2-{size}" + ("-it" if training == "it" else ""),
            hook=f"{block}.{SITES[site]}" if block else None,
            hook_out=f"{block}.hook_mlp_out" if block and site == "transcoders" else None,
            context=CONTEXT,
            prepend_bos=True,
        )

    def load(self, request: Request) -> LinearCoder:
        identity, file = request.identity or self.identify(request), _file(request)
        facts, origin = _facts(request), self.origin(request)
        tensors = _load_second(file) if _is_second(request) else load_npz(file, ARRAYS)
        with blamed_on(file):
            return build(tensors, identity, origin, facts, str(file), request.device)


ADAPTER = GemmaScopeAdapter


def build(
    tensors: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    origin: Origin,
    facts: dict[str, Any],
    where: str,
    device: str,
) -> LinearCoder:
    """The coder of the arrays and of what their path tells; `where` names them in errors."""
    d_in, n = matrix_shape(tensors, "W_enc", where)
    _, d_out = matrix_shape(tensors, "W_dec", where)
    shapes = {
        "W_enc": (d_in, n),
        "b_enc": (n,),
        "W_dec": (n, d_out),
        "b_dec": (d_out,),
        "threshold": (n,),
        **({"W_skip": (d_out, d_in)} if "W_skip" in tensors else {}),
    }
    weights = as_float32(tensors, shapes, where, "W_enc")
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    return assemble(
        identity,
        Encoder(
            weights["W_enc"],
            weights["b_enc"],
            torch.zeros(d_in, device=device),
            JumpReLU(weights["threshold"]),
        ),
        Decoder(weights["W_dec"], weights["b_dec"]),
        Skip(weights["W_skip"]) if "W_skip" in weights else Unnormalised(),
        architecture=_architecture(origin, "W_skip" in weights),
        origin=origin,
        trained_l0=facts.get("average_l0") or None,
        details=facts,
    )


def _architecture(origin: Origin, has_skip: bool) -> str:
    if has_skip:
        return "jumprelu_skip_transcoder"
    return "jumprelu_transcoder" if origin.hook_out else "jumprelu"


def _load_second(file: Path) -> dict[str, torch.Tensor]:
    """The tensors by the names of the first release; the skip is kept as [d_in, d_out]."""
    tensors = {LOWER.get(name, name): t for name, t in load_safetensors(file).items()}
    skip = tensors.pop(SKIP, None)
    return tensors if skip is None else {**tensors, "W_skip": skip.T}


def _file(request: Request) -> Path:
    if request.argument.endswith((".npz", ".safetensors")):
        return place(request)[0]
    return place(request, SECOND_FILE if _is_second(request) else WEIGHTS_FILE)[0]


def _is_second(request: Request) -> bool:
    """Whether it is of Gemma Scope 2, by the file that is named or there."""
    if request.argument.endswith((".npz", ".safetensors")):
        return request.argument.endswith(".safetensors")
    if request.argument.startswith(HUB):
        return SECOND.search(request.argument) is not None
    return (request.path / SECOND_FILE).is_file() and not (request.path / WEIGHTS_FILE).is_file()


def _config_file(request: Request) -> list[Path]:
    """`config.json` beside the weights; some repositories have none."""
    if not _is_second(request):
        return []
    named = request.argument.endswith(".safetensors")
    found = place_if_there(folder_of(request) if named else request, CONFIG_FILE)
    return [found] if found else []


def _config(request: Request) -> SecondConfig:
    for file in _config_file(request):
        try:
            return SecondConfig.model_validate(load_json(file))
        except ValidationError as error:
            raise CheckpointError(f"{file}: {first_problem(error)}") from error
    return SecondConfig()


def _path(request: Request) -> str:
    """The path of the folder, `/` between its parts."""
    return "/".join(parts(request)).removesuffix(f"/{WEIGHTS_FILE}").removesuffix(f"/{SECOND_FILE}")


def _name(request: Request) -> str:
    """The release and the SAE's id in it, as far as the path tells them."""
    path = _path(request)
    release, sae_id = RELEASE.search(path), SAE_ID.search(path)
    own = sae_id[0] if sae_id else path.rpartition("/")[2].removesuffix(".npz")
    return f"{release[0]}/{own}" if release else own


def _facts(request: Request) -> dict[str, Any]:
    if _is_second(request):
        l0 = _config(request).l0
        return {} if l0 is None else {"average_l0": l0}
    sae_id = SAE_ID.search(_path(request))
    return {"average_l0": int(sae_id[2])} if sae_id else {}
