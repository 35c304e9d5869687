"""`gemma_scope:FOLDER` — params.npz of Gemma Scope.

These are JumpReLU SAEs and transcoders (arXiv:2408.05147):
z = relu(a)·(a > θ), a = x W_enc + b_enc; x̂ = z W_dec + b_dec. There is no config: the path tells
the hook point and the L0 that the SAE had in training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mdlbench.adapters.checkpoint import (
    as_float32,
    blamed_on,
    digest_files,
    load_npz,
    matrix_shape,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Decoder, Encoder, JumpReLU, LinearCoder, Unnormalised, assemble
from mdlbench.adapters.places import parts, place
from mdlbench.adapters.protocol import Origin, Request

WEIGHTS_FILE = "params.npz"
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""

ARRAYS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
"""What an archive holds."""
CONTEXT = 1024
"""Tokens of a context that all of Gemma Scope was trained on, the first of them BOS."""
RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)")
SAE_ID = re.compile(r"(?:layer_(\d+)|embedding)/width_\w+/average_l0_(\d+)$")
SITES = {
    "res": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "att": "attn.hook_z",
    "transcoders": "ln2.hook_normalized",
}
"""TransformerLens' names of the places in a layer that the releases read.

Transcoders can be loaded and checked, but not scored: no model is cut at `ln2.hook_normalized`.
"""


class GemmaScopeAdapter:
    """Reads a folder, or the archive `gemma_scope:PATH.npz` itself."""

    recognised_by = (WEIGHTS_FILE,)

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        return CoderIdentity(
            name=_name(request),
            adapter="gemma_scope",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(_file(request)),
        )

    def origin(self, request: Request) -> Origin:
        """Told by the path alone, as in `google/gemma-scope-2b-pt-res/layer_20/width_16k/…`."""
        path = _path(request)
        release, sae_id = RELEASE.search(path), SAE_ID.search(path)
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
        facts = _facts(_path(request))
        arrays, origin = load_npz(file, ARRAYS), self.origin(request)
        with blamed_on(file):
            return build(arrays, identity, origin, facts, str(file), request.device)


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
        Unnormalised(),
        architecture="jumprelu_transcoder" if origin.hook_out else "jumprelu",
        origin=origin,
        trained_l0=facts.get("average_l0") or None,
        details=facts,
    )


def _file(request: Request) -> Path:
    names = () if request.argument.endswith(".npz") else (WEIGHTS_FILE,)
    return place(request, *names)[0]


def _path(request: Request) -> str:
    """The path of the folder, `/` between its parts."""
    return "/".join(parts(request)).removesuffix(f"/{WEIGHTS_FILE}")


def _name(request: Request) -> str:
    """The release and the SAE's id in it, as far as the path tells them."""
    path = _path(request)
    release, sae_id = RELEASE.search(path), SAE_ID.search(path)
    own = sae_id[0] if sae_id else path.rpartition("/")[2].removesuffix(".npz")
    return f"{release[0]}/{own}" if release else own


def _facts(path: str) -> dict[str, Any]:
    sae_id = SAE_ID.search(path)
    return {"average_l0": int(sae_id[2])} if sae_id else {}
