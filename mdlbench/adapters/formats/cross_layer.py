"""`cross_layer:FOLDER` — cross-layer transcoders and crosscoders, of which each layer has latents.

Those of circuit-tracer (`config.yaml`, `W_enc_L.safetensors`, `W_dec_L.safetensors`) and of Gemma
Scope 2 (`config.json`, `params_layer_L.safetensors`). The latents of a layer read its hook point
alone: z_l = relu(a)·(a > θ_l), a = x_l W_enc,l + b_enc,l, with θ = 0 where no threshold is stored.
They write to several: x̂_m = Σ_l z_l W_dec,lm + b_dec,m, in circuit-tracer's files over l ≤ m. A
skip connection adds x_m W_skip,m: the latents do not carry it, so it is side information.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError

from mdlbench.adapters.checkpoint import (
    Count,
    Text,
    as_float32,
    blamed_on,
    digest_files,
    find_tensor,
    load_json,
    load_safetensors,
    matrix_shape,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Decoder,
    Encoder,
    JointCoder,
    JumpReLU,
    LinearCoder,
    Part,
    Skip,
    assemble,
    join,
)
from mdlbench.adapters.places import names_in, parts, place
from mdlbench.adapters.protocol import Origin, Request
from mdlbench.errors import CheckpointError, SuiteError, first_problem
from mdlbench.sources.language.hooks import hook_name
from mdlbench.suite.site import AND
from mdlbench.suite.yaml_file import read_yaml

VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""
TRACER_CONFIG, SECOND_CONFIG = "config.yaml", "config.json"
NUMBER = r"(?:0|[1-9][0-9]{0,2})"
"""A layer's."""
ENCODER, DECODER, SECOND = (
    re.compile(rf"{name}_({NUMBER})\.safetensors") for name in ("W_enc", "W_dec", "params_layer")
)
CONTEXT = 1024
"""Tokens of a context that all of Gemma Scope 2 was trained on, the first of them BOS."""
LAYERS = re.compile(rf"\{{(all|{NUMBER}(?:,{NUMBER})*)\}}")
"""Which layers, in the hook points of Gemma Scope 2: all, or these."""
SKIP = "affine_skip_connection"
NAMES = {"w_enc": "W_enc", "w_dec": "W_dec", SKIP: "W_skip"}
"""What Gemma Scope 2 calls weights, and `Layer`."""


class TracerConfig(BaseModel):
    """What circuit-tracer's `config.yaml` says."""

    model_kind: Literal["cross_layer_transcoder"]
    model_name: Text | None = None
    feature_input_hook: Text
    feature_output_hook: Text

    def origin(self, n_layers: int) -> Origin:
        hooks = (self.feature_input_hook, self.feature_output_hook)
        read, written = (_of_layers(hook, n_layers) for hook in hooks)
        return Origin(model=self.model_name, hook=read, hook_out=written)


class SecondConfig(BaseModel):
    """What `config.json` of Gemma Scope 2 says."""

    type: Literal["clt", "crosscoder"]
    architecture: Literal["jump_relu"] = "jump_relu"
    model_name: Text
    hf_hook_point_in: Text
    hf_hook_point_out: Text
    width: Count

    def origin(self, n_layers: int) -> Origin:
        model = self.model_name.rpartition("/")[2]
        model = model.removesuffix("-pt") if "270m" in model else model
        hooks = (self.hf_hook_point_in, self.hf_hook_point_out)
        read, written = (self._hooks(hook, n_layers) for hook in hooks)
        out = None if read == written else written
        return Origin(model=model, hook=read, hook_out=out, context=CONTEXT, prepend_bos=True)

    def _hooks(self, modules: str, n_layers: int) -> str:
        """Hook points of modules such as `model.layers.{5,9}.output`, or `{all}` in their place."""
        told = LAYERS.search(modules)
        if told is None:
            raise CheckpointError(f"{modules!r} does not say which layers")
        is_all = told[1] == "all"
        layers = list(range(n_layers)) if is_all else [int(one) for one in told[1].split(",")]
        if layers != sorted(set(layers)):
            raise CheckpointError(f"{modules!r}: each layer stands once, those before it first")
        if len(layers) != n_layers:
            raise CheckpointError(
                f"its config says {len(layers)} layers, but it has the files of {n_layers}: those "
                "of all layers are needed"
            )
        names = (modules.replace(told[0], str(layer)) for layer in layers)
        return AND.join(hook_name(name, "gemma-3") for name in names)


@dataclass(frozen=True)
class Layer:
    """The weights of a layer's latents, and what else is written to its hook point.

    Attributes:
        weights: W_enc [d, n], b_enc, W_dec [n, written layers · d], b_dec [d], and threshold and
            W_skip [d, d] where there are any.
        first: the first layer that it writes to.
    """

    weights: Mapping[str, torch.Tensor]
    first: int


class CrossLayerAdapter:
    """Reads a folder, of which no layer's file may be missing."""

    recognised_by = ("W_enc_0.safetensors", "params_layer_0.safetensors")

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        files = [_config_file(request), *place(request, *_files(request))]
        return CoderIdentity(
            name=parts(request)[-1],
            adapter="cross_layer",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(*files),
        )

    def origin(self, request: Request) -> Origin:
        config, where = read_config(request), _config_file(request)
        try:
            return config.origin(_n_layers(request))
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def load(self, request: Request) -> JointCoder:
        identity = request.identity or self.identify(request)
        config, origin = read_config(request), self.origin(request)
        where = str(_config_file(request).parent)
        if isinstance(config, SecondConfig):
            layers = _read_second(request, config, where)
        else:
            layers = _read_tracer(request)
        _require_one_width(layers, where)
        with blamed_on(where):
            return build(layers, identity, origin, _architecture(config), request.device)


ADAPTER = CrossLayerAdapter


def build(
    layers: list[Layer], identity: CoderIdentity, origin: Origin, architecture: str, device: str
) -> JointCoder:
    """The coder of all layers: the first of them reads and writes the first d dimensions."""
    members: list[Part] = []
    for number, layer in enumerate(layers):
        weights = {name: tensor.to(device) for name, tensor in layer.weights.items()}
        d = len(weights["b_dec"])
        writer = _latents_of(weights, (number - layer.first) * d, identity, number)
        members.append(Part(writer, number * d, layer.first * d))
        if "W_skip" in weights:
            skip = _skip_of(weights, identity, number)
            members.append(Part(skip, number * d, number * d))
    activation = "jumprelu" if "threshold" in layers[0].weights else "relu"
    details: dict[str, Any] = {"layers": len(layers), "activation": activation}
    return join(
        identity, members, architecture=architecture, origin=origin, device=device, details=details
    )


def _latents_of(
    weights: Mapping[str, torch.Tensor], before: int, identity: CoderIdentity, layer: int
) -> LinearCoder:
    """A layer's latents, and its hook point's bias after so many dimensions that it writes."""
    W_enc, W_dec, b_dec = (weights[name] for name in ("W_enc", "W_dec", "b_dec"))
    bias = W_dec.new_zeros(W_dec.shape[1])
    bias[before : before + len(b_dec)] = b_dec
    threshold = weights.get("threshold", torch.zeros_like(weights["b_enc"]))
    encoder = Encoder(W_enc, weights["b_enc"], torch.zeros_like(b_dec), JumpReLU(threshold))
    named = identity.named(f"{identity.name}, layer {layer}")
    return assemble(named, encoder, Decoder(W_dec, bias), architecture="transcoder")


def _skip_of(
    weights: Mapping[str, torch.Tensor], identity: CoderIdentity, layer: int
) -> LinearCoder:
    """A layer's skip connection: a coder without latents."""
    W_skip, b_dec = weights["W_skip"], weights["b_dec"]
    none, zeros = W_skip.new_zeros(0), torch.zeros_like(b_dec)
    encoder = Encoder(W_skip[:, :0], none, zeros, JumpReLU(none))
    named = identity.named(f"{identity.name}, skip of layer {layer}")
    return assemble(named, encoder, Decoder(W_skip[:0], zeros), Skip(W_skip.T), architecture="skip")


def _read_tracer(request: Request) -> list[Layer]:
    layers, n_layers = [], _n_layers(request)
    for i in range(n_layers):
        files = place(request, f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors")
        (encoder, one), (decoder, other) = ((load_safetensors(file), str(file)) for file in files)
        n, d = matrix_shape(encoder, f"W_enc_{i}", one)
        _require_layers(find_tensor(decoder, f"W_dec_{i}", other), n_layers - i, n_layers, other)
        shapes = {f"W_enc_{i}": (n, d), f"b_enc_{i}": (n,), f"b_dec_{i}": (d,)}
        found = _checked(encoder, shapes, {f"threshold_{i}": (n,)}, one)
        found |= _checked(decoder, {f"W_dec_{i}": (n, n_layers - i, d)}, {}, other)
        weights = {name.removesuffix(f"_{i}"): tensor for name, tensor in found.items()}
        weights["W_enc"] = weights["W_enc"].T
        layers.append(_layer(weights, i, one))
    return layers


def _read_second(request: Request, config: SecondConfig, where: str) -> list[Layer]:
    layers, n_layers = [], _n_layers(request)
    for number in range(n_layers):
        (file,) = place(request, f"params_layer_{number}.safetensors")
        tensors = load_safetensors(file)
        d, n = matrix_shape(tensors, "w_enc", str(file))
        _require_layers(find_tensor(tensors, "w_dec", str(file)), n_layers, n_layers, str(file))
        shapes = {"w_enc": (d, n), "b_enc": (n,), "w_dec": (n, n_layers, d), "b_dec": (d,)}
        weights = _checked(tensors, shapes, {"threshold": (n,), SKIP: (d, d)}, str(file))
        layers.append(_layer({NAMES.get(k, k): w for k, w in weights.items()}, 0, str(file)))
    total = sum(len(layer.weights["b_enc"]) for layer in layers)
    if total != config.width:
        raise CheckpointError(
            f"{where}: its layers have {total} latents together, but its config says {config.width}"
        )
    return layers


def _checked(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]],
    where: str,
) -> dict[str, torch.Tensor]:
    """A file's weights, those that need not be there among them."""
    wanted = {**shapes, **{name: shape for name, shape in optional.items() if name in tensors}}
    return as_float32(tensors, wanted, where, "its encoder")


def _layer(weights: dict[str, torch.Tensor], first: int, where: str) -> Layer:
    """A layer of these weights, each latent's decoder row in one piece."""
    if "threshold" in weights and (weights["threshold"] < 0).any():
        raise CheckpointError(f"{where}: threshold must not be negative")
    return Layer({**weights, "W_dec": weights["W_dec"].flatten(1)}, first)


def _require_layers(W_dec: torch.Tensor, written: int, n_layers: int, where: str) -> None:
    """Raise `CheckpointError` unless a layer's decoder writes to so many layers."""
    shape = tuple(W_dec.shape)
    if len(shape) == 3 and shape[1] != written:
        raise CheckpointError(
            f"{where}: its latents write to {shape[1]} layers, but with the files of {n_layers} "
            f"layers there are {written}: files of some layers are missing"
        )


def _require_one_width(layers: list[Layer], where: str) -> None:
    """Raise `CheckpointError` where hook points are not all as wide as the first."""
    widths = [len(layer.weights["b_dec"]) for layer in layers]
    for number, width in enumerate(widths):
        if width != widths[0]:
            raise CheckpointError(
                f"{where}: layer {number} is of width {width}, layer 0 of width {widths[0]}: they "
                "are not of one model"
            )


def read_config(request: Request) -> TracerConfig | SecondConfig:
    """`config.yaml` or `config.json`; raises `CheckpointError` for what is of one layer each."""
    file = _config_file(request)
    try:
        if file.name == TRACER_CONFIG:
            return TracerConfig.model_validate(read_yaml(file).content)
        return SecondConfig.model_validate(load_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    except SuiteError as error:
        raise CheckpointError(str(error)) from error


def _architecture(config: TracerConfig | SecondConfig) -> str:
    is_crosscoder = isinstance(config, SecondConfig) and config.type == "crosscoder"
    return "crosscoder" if is_crosscoder else "cross_layer_transcoder"


def _config_file(request: Request) -> Path:
    is_second = bool(_numbers(request, SECOND))
    return place(request, SECOND_CONFIG if is_second else TRACER_CONFIG)[0]


def _files(request: Request) -> list[str]:
    """Every layer's files, in order."""
    n_layers = _n_layers(request)
    if _numbers(request, SECOND):
        return [f"params_layer_{number}.safetensors" for number in range(n_layers)]
    return [f"W_{part}_{n}.safetensors" for part in ("enc", "dec") for n in range(n_layers)]


def _n_layers(request: Request) -> int:
    """How many layers there are; raises `CheckpointError` where one lacks a file."""
    second = _numbers(request, SECOND)
    kinds = {"params_layer": second} if second else {
        "W_enc": _numbers(request, ENCODER), "W_dec": _numbers(request, DECODER),
    }  # fmt: skip
    n_layers = 1 + max(max(numbers, default=-1) for numbers in kinds.values())
    for kind, numbers in kinds.items():
        for missing in sorted(set(range(n_layers)) - numbers):
            raise CheckpointError(
                f"{request.argument}: {kind}_{missing}.safetensors is missing: the files of all "
                f"{n_layers} layers are needed"
            )
    if not n_layers:
        raise CheckpointError(f"{request.argument}: no layer's file, such as W_enc_0.safetensors")
    return n_layers


def _numbers(request: Request, pattern: re.Pattern[str]) -> set[int]:
    return {int(found[1]) for found in _matches(names_in(request), pattern)}


def _matches(names: Iterable[str], pattern: re.Pattern[str]) -> Iterable[re.Match[str]]:
    return (found for name in names if (found := pattern.fullmatch(name)))


def _of_layers(hook: str, n_layers: int) -> str:
    """A hook point of every layer; `{layer}` in its name stands for the layer."""
    name = hook if "{layer}" in hook else f"blocks.{{layer}}.{hook}"
    return AND.join(name.replace("{layer}", str(layer)) for layer in range(n_layers))
