"""`openai:PATH.pt` — a state dict of OpenAI's sparse_autoencoder.

latents = act(W_enc (x − pre_bias) + latent_bias), x̂ = W_dec latents + pre_bias. The input is
layer-normalised exactly if the activation is TopK; x̂ is then scaled back by the token's mean and
standard deviation (unbiased, ε = 1e-5 added to it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float32
from pydantic import BaseModel, ValidationError

from mdlbench.adapters.checkpoint import (
    Count,
    as_float32,
    blamed_on,
    check_k,
    digest_files,
    load_pickle_free,
    matrix_shape,
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
    Unrectified,
    assemble,
)
from mdlbench.adapters.places import parts, place
from mdlbench.adapters.protocol import FORMAT, Origin, Request
from mdlbench.errors import CheckpointError, did_you_mean, first_problem, shown

VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""

ACTIVATIONS = {"ReLU": "standard", "TopK": "topk", "Identity": "linear"}
"""What the library calls them, and what the field calls such an SAE."""
NOT_WEIGHTS = {
    "activation",
    "activation_state_dict",
    "activation.k",
    "activation.postact_fn",
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
}
"""The kind of activation, in both forms that the library writes, and statistics of training."""

LOCATIONS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
"""The library's names of places in GPT-2-small, and TransformerLens' (README of the library).

SAEs of `mlp.hook_post` can be loaded and checked, but not scored: no model is cut there.
"""
RELEASE = re.compile(rf"/({'|'.join(LOCATIONS)})(_v\d\w*)?(?:/autoencoders)?/(\d+)\.pt$")
"""Where the library keeps its files: place, version, and the layer as the file's name."""


class TopKState(BaseModel):
    """`activation_state_dict` of a TopK autoencoder."""

    k: Count
    postact_fn: Literal["ReLU", "Identity"]


class OpenAIAdapter:
    """Reads one file; its path may tell what it was trained on."""

    def recognises(self, path: Path) -> int:
        if path.suffix != ".pt" or not path.is_file():
            return 0
        return FORMAT * ({"pre_bias", "latent_bias"} <= set(load_pickle_free(path)))

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        (file,) = place(request)
        found = _release(request)
        return CoderIdentity(
            name=f"{found[1]}{found[2] or ''}/{found[3]}"
            if found
            else Path(parts(request)[-1]).stem,
            adapter="openai",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(file),
        )

    def origin(self, request: Request) -> Origin:
        """Told by the path alone, as in `gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt`."""
        found = _release(request)
        if not found:
            return Origin()
        return Origin(
            model="gpt2-small",
            hook=f"blocks.{found[3]}.{LOCATIONS[found[1]]}",
            model_options={"center_writing_weights": False},
        )

    def load(self, request: Request) -> LinearCoder:
        identity = request.identity or self.identify(request)
        (file,) = place(request)
        content = load_pickle_free(file)
        with blamed_on(file):
            return build(content, identity, self.origin(request), str(file), request.device)


ADAPTER = OpenAIAdapter


def build(
    content: Mapping[str, Any], identity: CoderIdentity, origin: Origin, where: str, device: str
) -> LinearCoder:
    """The coder of a state dict; `where` names it in errors."""
    weights = only_tensors({k: v for k, v in content.items() if k not in NOT_WEIGHTS}, where)
    n, d = matrix_shape(weights, "encoder.weight", where)
    shapes = {
        "pre_bias": (d,),
        "encoder.weight": (n, d),
        "latent_bias": (n,),
        "decoder.weight": (d, n),
    }
    stored_dtype = weights["encoder.weight"].dtype
    weights = as_float32(weights, shapes, where, "encoder.weight")
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    name = content.get("activation", "ReLU")
    state = _topk_state(name, content, n, where)
    bias = weights["pre_bias"]
    return assemble(
        identity,
        Encoder(
            weights["encoder.weight"].T,
            weights["latent_bias"],
            bias,
            _activation(name, state, weights["latent_bias"]),
        ),
        Decoder(weights["decoder.weight"].T.contiguous(), bias),
        LayerNorm() if state else Unnormalised(),
        architecture=ACTIVATIONS[name],
        origin=origin,
        promised_l0=state.k if state else None,
        trained_l0=state.k if state else None,
        details={
            **(state.model_dump() if state else {}),
            "normalize_activations": "layer_norm" if state else "none",
            "stored_dtype": str(stored_dtype).removeprefix("torch."),
        },
    )


def _topk_state(name: object, content: Mapping[str, Any], n: int, where: str) -> TopKState | None:
    """What a TopK autoencoder says of its activation; None for the others, which have no k."""
    if not isinstance(name, str):
        raise CheckpointError(f"{where}: activation is a {type(name).__name__}, expected its name")
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"{where}: unknown activation {shown(name)}. {did_you_mean(name, ACTIVATIONS)}"
        )
    state = content.get("activation_state_dict")
    if name != "TopK":
        if "activation.k" in content or (isinstance(state, Mapping) and "k" in state):
            raise _k_without_topk(content, where)
        return None
    try:
        topk = TopKState.model_validate(state)
    except ValidationError as error:
        raise CheckpointError(f"{where}: activation_state_dict: {first_problem(error)}") from error
    check_k(topk.k, n, where)
    return topk


def _k_without_topk(content: Mapping[str, Any], where: str) -> CheckpointError:
    found = repr(content["activation"]) if "activation" in content else "missing"
    return CheckpointError(
        f"{where}: it has a k, as a TopK autoencoder does, but its `activation` is {found}. If it "
        "is one, set `activation` to 'TopK' and `activation_state_dict` to its k and postact_fn; "
        "if not, take its k out"
    )


def _activation(
    name: str, state: TopKState | None, latent_bias: Float32[torch.Tensor, " latent"]
) -> Activation:
    if state:
        return TopK(state.k, rectified=state.postact_fn == "ReLU")
    return Unrectified() if name == "Identity" else JumpReLU(torch.zeros_like(latent_bias))


def _release(request: Request) -> re.Match[str] | None:
    return RELEASE.search("/" + "/".join(parts(request)))
