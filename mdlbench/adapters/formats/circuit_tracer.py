"""`circuit_tracer:FOLDER/layer_N.safetensors` — transcoders of circuit-tracer.

z = act(W_enc x + b_enc), x̂ = z W_dec + b_dec, plus W_skip x where there is a skip connection, which
the latents do not carry and which is therefore side information. `config.yaml` beside the layers
says which activation: ReLU, the k largest (without a ReLU), or JumpReLU with a stored threshold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError

from mdlbench.adapters.checkpoint import (
    as_float32,
    check_k,
    digest_files,
    load_safetensors,
    matrix_shape,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Activation,
    Decoder,
    Encoder,
    JumpReLU,
    LinearCoder,
    Skip,
    TopK,
    Unnormalised,
    assemble,
)
from mdlbench.adapters.places import folder_of, hub_place, parts, place
from mdlbench.adapters.protocol import FORMAT, HubPlace, Origin, Request
from mdlbench.errors import CheckpointError, SuiteError, first_problem
from mdlbench.suite.yaml_file import read_yaml

VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""
CONFIG_FILE = "config.yaml"
FILE = re.compile(r"layer_(\d+)\.safetensors")
THRESHOLD = "activation_function.threshold"


class TracerConfig(BaseModel):
    """What of `config.yaml` decides the computation, and where the transcoders read and write."""

    model_kind: Literal["transcoder_set"]
    model_name: str | None = None
    feature_input_hook: str
    feature_output_hook: str
    activation: Literal["relu", "topk", "jumprelu", "jump_relu"] | None = None
    k: Annotated[int, Field(gt=0)] | None = None


class CircuitTracerAdapter:
    """Reads the file of one layer and the config of its folder."""

    def recognises(self, path: Path) -> int:
        named = FILE.fullmatch(path.name) and (path.parent / CONFIG_FILE).is_file()
        return FORMAT * bool(named)

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        folder = parts(request)[-2:-1]
        return CoderIdentity(
            name="/".join([*folder, Path(parts(request)[-1]).stem]),
            adapter="circuit_tracer",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(_config_file(request), *place(request)),
        )

    def origin(self, request: Request) -> Origin:
        config, layer = read_config(request), FILE.fullmatch(parts(request)[-1])
        block = f"blocks.{layer[1]}." if layer else ""
        return Origin(
            model=config.model_name,
            hook=block + config.feature_input_hook if block else None,
            hook_out=block + config.feature_output_hook if block else "",
        )

    def load(self, request: Request) -> LinearCoder:
        identity = request.identity or self.identify(request)
        (file,) = place(request)
        tensors = load_safetensors(file)
        return build(
            read_config(request), tensors, identity, self.origin(request), str(file), request.device
        )

    def hub_place(self, request: Request) -> HubPlace | None:
        """The file, and the config of its folder."""
        found = hub_place(request)
        if found is None:
            return None
        above = found.beginnings[0].rpartition("/")[0]
        return replace(found, beginnings=(*found.beginnings, f"{above}/{CONFIG_FILE}".lstrip("/")))


ADAPTER = CircuitTracerAdapter


def read_config(request: Request) -> TracerConfig:
    """`config.yaml`; raises `CheckpointError` for what is no set of transcoders, layer by layer."""
    file = _config_file(request)
    try:
        return TracerConfig.model_validate(read_yaml(file).content)
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    except SuiteError as error:
        raise CheckpointError(str(error)) from error


def build(
    config: TracerConfig,
    tensors: Mapping[str, torch.Tensor],
    identity: CoderIdentity,
    origin: Origin,
    where: str,
    device: str,
) -> LinearCoder:
    """The coder of a config and a layer's tensors; `where` names them in errors."""
    tensors = dict(tensors)
    k = config.k or _stored_k(tensors.pop("k", None), where)
    n, d = matrix_shape(tensors, "W_enc", where)
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (n, d),
        "b_enc": (n,),
        "W_dec": (n, d),
        "b_dec": (d,),
    }
    optional = {"W_skip": (d, d), THRESHOLD: tuple(tensors.get(THRESHOLD, torch.zeros(n)).shape)}
    shapes |= {name: shape for name, shape in optional.items() if name in tensors}
    weights = as_float32(tensors, shapes, where, "W_enc")
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    skip = "W_skip" in weights
    return assemble(
        identity,
        Encoder(
            weights["W_enc"].T,
            weights["b_enc"],
            torch.zeros(d, device=device),
            _activation(config, weights, k, where),
        ),
        Decoder(weights["W_dec"], weights["b_dec"]),
        Skip(weights["W_skip"]) if skip else Unnormalised(),
        architecture="skip_transcoder" if skip else "transcoder",
        origin=origin,
        promised_l0=k if config.activation == "topk" else None,
        trained_l0=k if config.activation == "topk" else None,
        details=_details(config, weights, k),
    )


def _stored_k(stored: torch.Tensor | None, where: str) -> int | None:
    """What a file has as k; None where that is not one number."""
    if stored is None or stored.numel() != 1:
        return None
    value = float(stored)
    if not value.is_integer():
        raise CheckpointError(f"{where}: k is {value:g}, expected a whole number")
    return int(value)


def _activation(
    config: TracerConfig, weights: Mapping[str, torch.Tensor], k: int | None, where: str
) -> Activation:
    n = len(weights["b_enc"])
    if config.activation == "topk":
        check_k(k or 0, n, where)
        return TopK(k or 0, rectified=False)
    threshold = weights.get(THRESHOLD)
    if config.activation is not None and (config.activation == "relu") != (threshold is None):
        has = "no" if threshold is None else "a"
        raise CheckpointError(
            f"{where}: {CONFIG_FILE} says {config.activation}, and the file has {has} {THRESHOLD}"
        )
    if threshold is None:
        return JumpReLU(torch.zeros_like(weights["b_enc"]))
    if (threshold < 0).any() or threshold.numel() not in (1, n):
        raise CheckpointError(f"{where}: {THRESHOLD} must be {n} numbers that are not negative")
    return JumpReLU(threshold.reshape(-1).expand(n))


def _details(
    config: TracerConfig, weights: Mapping[str, torch.Tensor], k: int | None
) -> dict[str, Any]:
    activation = config.activation or ("jumprelu" if THRESHOLD in weights else "relu")
    facts = {"activation": activation, "k": k if activation == "topk" else None}
    return {name: value for name, value in facts.items() if value is not None}


def _config_file(request: Request) -> Path:
    return place(folder_of(request), CONFIG_FILE)[0]
