"""`dictionary_learning:FOLDER` — config.json and ae.pt as dictionary_learning saves them.

Latents are those of the library's `encode` and reconstructions those of its `decode`, by class:

- AutoEncoder: relu(W_enc (x − b) + b_enc); x̂ = W_dec z + b
- AutoEncoderNew: the same without the subtraction
- GatedAutoEncoder: π = W_enc (x − b); (π + b_gate > 0)·relu(exp(r_mag) π + b_mag)
- JumpReluAutoEncoder: relu(a)·(a > θ), a = W_enc x + b_enc, a θ for each latent
- AutoEncoderTopK: the k largest of relu(W_enc (x − b) + b_enc); its θ is not used
- BatchTopKSAE, MatryoshkaBatchTopKSAE: relu(a)·(a > θ), a = W_enc (x − b) + b_enc, one θ for all,
  which the last steps of training estimate; θ = −1 means that they have not begun

Older versions of the library multiply some latents by the norms of their decoder rows and divide by
them in `decode`; that is the same function of x, and decoder norms are taken care of elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from pydantic import BaseModel, ValidationError

from mdlbench.adapters.checkpoint import (
    Count,
    Text,
    Whole,
    as_float32,
    blamed_on,
    check_k,
    digest_files,
    load_json,
    load_pickle_free,
    matrix_shape,
    only_tensors,
    whole_numbers,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Activation,
    Decoder,
    Encoder,
    Gated,
    JumpReLU,
    LinearCoder,
    TopK,
    Unnormalised,
    assemble,
)
from mdlbench.adapters.places import folder_of, parts, place, place_if_there
from mdlbench.adapters.protocol import FORMAT, Origin, Request
from mdlbench.errors import CheckpointError, did_you_mean, first_problem, shown

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""


@dataclass(frozen=True)
class Layout:
    """How a class of the library keeps its weights.

    Attributes:
        architecture: as the field calls it.
        keys: the key in `ae.pt` of each weight; those of Linear layers are kept transposed.
        beside: keys that may be there too and are no weights.
        centred: whether the decoder's bias is subtracted from the input.
    """

    architecture: str
    keys: Mapping[str, str]
    beside: tuple[str, ...] = ()
    centred: bool = True


LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
THRESHOLD = {"threshold": "threshold"}
GATES = {"b_gate": "gate_bias", "r_mag": "r_mag", "b_mag": "mag_bias"}
WITHOUT_BIAS = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
LAYOUTS = {
    "AutoEncoder": Layout("standard", {**LINEAR, "b_dec": "bias"}),
    "AutoEncoderNew": Layout("standard", {**LINEAR, "b_dec": "decoder.bias"}, centred=False),
    "GatedAutoEncoder": Layout("gated", {**WITHOUT_BIAS, "b_dec": "decoder_bias", **GATES}),
    "JumpReluAutoEncoder": Layout("jumprelu", {**PLAIN, **THRESHOLD}, centred=False),
    "AutoEncoderTopK": Layout("topk", {**LINEAR, "b_dec": "b_dec"}, ("k", "threshold")),
    "BatchTopKSAE": Layout("batchtopk", {**LINEAR, "b_dec": "b_dec", **THRESHOLD}, ("k",)),
    "MatryoshkaBatchTopKSAE": Layout(
        "matryoshka_batchtopk", {**PLAIN, **THRESHOLD}, ("k", "group_sizes")
    ),
}
BATCH_TOPK = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
SCALED = ("b_enc", "b_dec", "b_gate", "b_mag", "threshold")
"""What is in units of the activations; `scale_biases` of the library."""
RESIDUAL = re.compile(r"resid_post_layer_(\d+)")


class TrainerConfig(BaseModel):
    """What of `config.json` tells of the SAE; widths are also those of its weights."""

    dict_class: str
    activation_dim: Count | None = None
    dict_size: Count | None = None
    k: Whole | None = None
    lm_name: Text | None = None
    submodule_name: Text | None = None


class BufferConfig(BaseModel):
    """What it tells of the activations: `io` is the side of the submodule they are taken from."""

    ctx_len: Whole | None = None
    io: str = "out"


class Config(BaseModel):
    """`config.json`."""

    trainer: TrainerConfig
    buffer: BufferConfig = BufferConfig()

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.trainer.dict_class]

    def origin(self) -> Origin:
        """The hook point is known for outputs of whole layers only."""
        found = RESIDUAL.fullmatch(self.trainer.submodule_name or "")
        certain = found and self.buffer.io == "out"
        return Origin(
            model=self.trainer.lm_name,
            hook=f"blocks.{found[1]}.hook_resid_post" if found and certain else None,
            context=self.buffer.ctx_len,
        )


class DictionaryLearningAdapter:
    """Reads a folder whose config names a class of the library."""

    recognised_by = (WEIGHTS_FILE,)

    def recognises(self, path: Path) -> int:
        """A checkpoint of training, some folders below its config."""
        if path.suffix != ".pt" or not path.is_file():
            return 0
        configs = [file for above in path.parents[:2] if (file := above / CONFIG_FILE).is_file()]
        trainer = load_json(configs[0]).get("trainer") if configs else None
        return FORMAT * (isinstance(trainer, dict) and "dict_class" in trainer)

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options()
        run, weights = _run(request), _weights_file(request)
        submodule = read_config(request).trainer.submodule_name
        folder = parts(run)[-1]
        step = [Path(parts(request)[-1]).stem] if _is_file(request) else []
        return CoderIdentity(
            name="/".join([*([submodule] if submodule else []), folder, *step]),
            adapter="dictionary_learning",
            version=VERSION,
            arguments={},
            weights_sha256=digest_files(*place(run, CONFIG_FILE), weights),
        )

    def origin(self, request: Request) -> Origin:
        return read_config(request).origin()

    def load(self, request: Request) -> LinearCoder:
        identity, config = request.identity or self.identify(request), read_config(request)
        file = _weights_file(request)
        content = load_pickle_free(file)
        with blamed_on(file):
            return build(config, content, identity, str(file), request.device)


ADAPTER = DictionaryLearningAdapter


def read_config(request: Request) -> Config:
    """`config.json`; raises `CheckpointError` if it does not name a class that can be computed."""
    (file,) = place(_run(request), CONFIG_FILE)
    try:
        config = Config.model_validate(load_json(file))
    except ValidationError as error:
        raise CheckpointError(f"{file}: {first_problem(error)}") from error
    name = config.trainer.dict_class
    if name not in LAYOUTS:
        raise CheckpointError(
            f"{file}: trainer.dict_class: unknown {shown(name)}. {did_you_mean(name, LAYOUTS)}"
        )
    return config


def _is_file(request: Request) -> bool:
    """Whether the weights themselves are named, as one of the `checkpoints` of a training."""
    return parts(request)[-1].endswith(".pt") and not request.path.is_dir()


def _weights_file(request: Request) -> Path:
    return place(request)[0] if _is_file(request) else place(request, WEIGHTS_FILE)[0]


def _run(request: Request) -> Request:
    """The folder of the config: that of the weights, or the one above it."""
    if not _is_file(request):
        return request
    folder = folder_of(request)
    above = folder_of(folder)
    is_above = not place_if_there(folder, CONFIG_FILE) and place_if_there(above, CONFIG_FILE)
    return above if is_above else folder


def build(
    config: Config, content: Mapping[str, Any], identity: CoderIdentity, where: str, device: str
) -> LinearCoder:
    """The coder of a config and a checkpoint, also of one written in the midst of training."""
    state, training = _unwrapped(content, where)
    tensors = only_tensors(state, where)
    counts = {key: tensors.pop(key) for key in config.layout.beside if key in tensors}
    weights = _weights(config, tensors, training.get("norm_factor", 1.0), where)
    weights = {name: tensor.to(device) for name, tensor in weights.items()}
    n = len(weights["W_dec"])
    k = _k(config.trainer, counts.get("k"), n, where)
    _check_groups(counts.get("group_sizes"), n, where)
    return assemble(
        identity,
        Encoder(
            weights["W_enc"],
            weights.get("b_enc", torch.zeros(n, device=device)),
            weights["b_dec"] * float(config.layout.centred),
            _activation(config.trainer.dict_class, weights, k),
        ),
        Decoder(weights["W_dec"].contiguous(), weights["b_dec"]),
        Unnormalised(),
        architecture=config.layout.architecture,
        origin=config.origin(),
        promised_l0=k if config.trainer.dict_class == "AutoEncoderTopK" else None,
        trained_l0=k,
        details=_details(config, weights, k) | training,
    )


def _unwrapped(
    content: Mapping[str, Any], where: str
) -> tuple[Mapping[str, Any], dict[str, int | float]]:
    """The state dict, and the step and scale of a checkpoint that training may be resumed from.

    Such a checkpoint is in units of activations divided by `norm_factor`; the final one is not.
    """
    if "ae" not in content:
        return content, {}
    step, factor = content.get("step"), content.get("norm_factor", 0.0)
    factor = 1.0 if factor is None else factor
    if not isinstance(content["ae"], Mapping) or not _is_step(step):
        raise CheckpointError(f"{where}: 'ae' and 'step' are not those of a resumable checkpoint")
    if not _is_number(factor) or not 0 < factor < math.inf:
        raise CheckpointError(
            f"{where}: a checkpoint of step {step} without the norm_factor by which its "
            "activations were divided; use the ae.pt that the finished training wrote"
        )
    return content["ae"], {"training_step": step, "norm_factor": float(factor)}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_step(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and _is_number(value) and 0 <= value < 2**63


def _weights(
    config: Config, tensors: dict[str, torch.Tensor], scale: float, where: str
) -> dict[str, torch.Tensor]:
    """The weights by our names, in float32, for activations that are not normalised."""
    keys = config.layout.keys
    stored = as_float32(tensors, _shapes(config, tensors, where), where)
    weights = {
        name: stored[key].T if _transposed(key) else stored[key] for name, key in keys.items()
    }
    scaled = {name: scale * weights[name] for name in SCALED if name in weights}
    for name, tensor in scaled.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{where}: norm_factor {scale:g} takes {name} beyond float32")
    return weights | scaled


def _shapes(
    config: Config, tensors: Mapping[str, torch.Tensor], where: str
) -> dict[str, tuple[int, ...]]:
    """The shape of each key of `ae.pt`; the encoder tells the widths that the config does not."""
    keys = config.layout.keys
    rows, columns = matrix_shape(tensors, keys["W_enc"], where)
    d, n = (columns, rows) if _transposed(keys["W_enc"]) else (rows, columns)
    d, n = config.trainer.activation_dim or d, config.trainer.dict_size or n
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d, n), "W_dec": (n, d), "b_dec": (d,)}
    if config.trainer.dict_class in BATCH_TOPK:
        shapes["threshold"] = ()
    ours = {key: shapes.get(name, (n,)) for name, key in keys.items()}
    return {key: shape[::-1] if _transposed(key) else shape for key, shape in ours.items()}


def _transposed(key: str) -> bool:
    return key.endswith(".weight")


def _k(config: TrainerConfig, stored: torch.Tensor | None, n: int, where: str) -> int | None:
    """The k of the config and of the weights, which must not differ; None for classes without."""
    if config.dict_class != "AutoEncoderTopK" and config.dict_class not in BATCH_TOPK:
        return None
    if stored is not None and stored.numel() != 1:
        raise CheckpointError(f"{where}: k has shape {tuple(stored.shape)}, expected one number")
    k = config.k if stored is None else whole_numbers(stored, "k", where)[0]
    if k is None:
        raise CheckpointError(f"{where}: neither it nor its config says k")
    if config.k not in (None, k):
        raise CheckpointError(f"{where}: k is {k}, but its config says {config.k}")
    check_k(k, n, where)
    return k


def _check_groups(sizes: torch.Tensor | None, n: int, where: str) -> None:
    if sizes is None:
        return
    total = sum(whole_numbers(sizes, "group_sizes", where))
    if total != n:
        raise CheckpointError(f"{where}: group_sizes add up to {total}, not {n} latents")


def _activation(name: str, weights: Mapping[str, torch.Tensor], k: int | None) -> Activation:
    if name == "AutoEncoderTopK" and k:
        return TopK(k)
    if name == "GatedAutoEncoder":
        return Gated(weights["b_gate"], weights["r_mag"], weights["b_mag"])
    threshold = weights.get("threshold", torch.zeros_like(weights["b_enc"]))
    return JumpReLU(threshold.expand(len(weights["b_enc"])))


def _details(config: Config, weights: Mapping[str, torch.Tensor], k: int | None) -> dict[str, Any]:
    """Facts to show; a BatchTopK SAE is told by its k and its one threshold."""
    facts = {**config.trainer.model_dump(include={"dict_class", "submodule_name"}), "k": k}
    if config.trainer.dict_class in BATCH_TOPK:
        threshold = float(weights["threshold"])
        unset = "unset: every positive latent is active"
        facts |= {"threshold": threshold if threshold >= 0 else unset}
    return {key: value for key, value in facts.items() if value is not None}
