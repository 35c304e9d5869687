"""`state_dict:FILE?activation=relu&subtract_bias=false&…` — an encoder and a decoder in one file
of PyTorch, NumPy or safetensors, however they are called there.

With c = `centre` (0 by default), s = `scale` (1) and b = b_dec if `subtract_bias`, else 0,

    a = ((x − c)·s − b) W_enc + b_enc
    z = relu(a), or of the k largest a (`topk`), or where a > θ (`jumprelu`)
    x̂ = (z W_dec + b_dec)/s + c

Tensors are found by their names, beneath wrappers (`state_dict`, `model`, …) and prefixes
(`module.`, `_orig_mod.`), in either orientation. What is not found by its name is given as
`W_enc=KEY`, `W_dec=KEY`, `b_enc=KEY`, `b_dec=KEY`, `threshold=KEY` (or a number), `within=KEY` says
which of several state dicts is meant, `tied=true` that the decoder is the encoder's transpose,
`ignore=KEY,KEY` what is not needed. Where two readings fit and nothing in the file decides, it is
refused, and the message names both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mdlbench.adapters.checkpoint import (
    PICKLES,
    as_float32,
    check_k,
    digest_files,
    load_npz,
    load_pickle_free,
    load_safetensors,
    matrix_shape,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Activation, Decoder, Encoder, JumpReLU, LinearCoder, TopK
from mdlbench.adapters.parts import assemble as assembled
from mdlbench.adapters.places import parts, place
from mdlbench.adapters.protocol import TENSORS, Origin, Request
from mdlbench.errors import CheckpointError, UsageError, did_you_mean

VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""

ENDINGS = {*PICKLES, ".npz", ".safetensors"}
OPTIONS = ("activation", "k", "subtract_bias", "centre", "scale", "transposed", "tied", "within")
ROLES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
WRAPPING = {"module", "_orig_mod"}
"""Segments of names that training's wrappers add."""
DEEPEST = 4
"""Levels of dicts that are looked into."""
NONE = "none"


def _names(side: str, short: str, letter: str) -> tuple[list[str], list[str]]:
    """What people call the weights and the bias of a side."""
    modules = [side, short, f"{side}_linear", f"linear_{side}", f"{side}_layer", f"{short}oder"]
    inner = [f"{module}{end}" for module in modules for end in ("", ".0", ".linear", ".fc")]
    weights = [f"{name}.weight" for name in inner]
    weights += [f"w_{side}", f"w_{short}", f"w_{letter}", f"{side}_weight", f"{side}_weights"]
    weights += [f"{short}_w", f"{short}_weight", side, f"w{letter}"]
    biases = [f"{name}.bias" for name in inner]
    biases += [f"b_{side}", f"b_{short}", f"b_{letter}", f"{side}_bias", f"bias_{side}"]
    biases += [f"{short}_b", f"{short}_bias", f"b{letter}"]
    return weights, biases


_W_ENC, _B_ENC = _names("encoder", "enc", "e")
_W_DEC, _B_DEC = _names("decoder", "dec", "d")
SUBTRACTED = ("pre_bias", "b_pre", "tied_bias", "pre_encoder_bias")
"""Names of a decoder's bias that say that it is subtracted from the input."""
KNOWN: dict[str, frozenset[str]] = {
    "W_enc": frozenset(_W_ENC),
    "b_enc": frozenset([*_B_ENC, "latent_bias"]),
    "W_dec": frozenset(_W_DEC),
    "b_dec": frozenset([*_B_DEC, *SUBTRACTED, "bias"]),
    "threshold": frozenset(
        f"{module}{name}"
        for module in ("", "jumprelu.", "activation.", "activation_function.", "activation_fn.")
        for name in ("threshold", "thresholds", "theta", "log_threshold", "topk_threshold")
    )
    | {"log_jumprelu_threshold"},
}
ACTIVATIONS = {
    "relu": "relu",
    "standard": "relu",
    "vanilla": "relu",
    "topk": "topk",
    "autoencodertopk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshkabatchtopk": "jumprelu",
}
"""What configs call an activation or a kind of SAE, in small letters alone."""
CHOICES = ("relu", "topk", "jumprelu")
ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
SAYS_ACTIVATION = ("activation", "activation_fn", "act_fn", "act", "nonlinearity")
SAYS_KIND = ("architecture", "arch", "sae_type", "dict_class", "type", "variant")
SAYS_K = ("k", "top_k", "topk", "k_active", "k_sparse")
SAYS_SUBTRACTED = ("apply_b_dec_to_input", "subtract_bias", "subtract_b_dec")
SAYS_SCALE = re.compile(r"(?:\w*_)?(?:scale|scaling_factor|norm_factor)")
SAYS_NORMALISED = ("normalize_activations", "normalize", "input_unit_norm", "layer_norm")
COUNTS = re.compile(r"\w*(?:not_active|nonzero|fired|freq|count|steps?|dead|tracked|sizes|miss)\w*")
"""Names of statistics of training."""


class StateDictAdapter:
    """Reads one file; options say what the file does not."""

    def recognises(self, path: Path) -> int:
        """Any file of tensors that has an encoder; formats are surer of theirs."""
        if path.suffix not in ENDINGS or not path.is_file():
            return 0
        return TENSORS * any(True for _ in _state_dicts(_content(path), set()))

    def identify(self, request: Request) -> CoderIdentity:
        request.reject_unknown_options(*OPTIONS, *ROLES, "ignore")
        (file,) = place(request)
        return CoderIdentity(
            name=Path(parts(request)[-1]).stem,
            adapter="state_dict",
            version=VERSION,
            arguments=dict(request.options),
            weights_sha256=digest_files(file),
        )

    def origin(self, request: Request) -> Origin:
        """What a config in the file says of the model and the hook point, if it has one."""
        return read(request).origin

    def load(self, request: Request) -> LinearCoder:
        identity = request.identity or self.identify(request)
        return build(read(request), identity, request.device)


ADAPTER = StateDictAdapter


@dataclass(frozen=True)
class Layout:
    """The weights, and which way round they are stored.

    Attributes:
        d, n: widths of the activations and of the latents.
        encoder, decoder: whether each is stored as [latents, activations] and
            [activations, latents], as `nn.Linear` keeps them.
    """

    d: int
    n: int
    encoder: bool
    decoder: bool


@dataclass(frozen=True)
class StateDict:
    """A file's state dict, what lies beside it, and what the request says of both.

    Attributes:
        where: the file, in messages.
        spec: what was asked for, to be repeated with more options.
        options: what the request says.
        tensors: the state dict, wrappers and prefixes removed from its names.
        beside: everything else, by dotted names.
    """

    where: str
    spec: str
    options: Mapping[str, str]
    tensors: dict[str, torch.Tensor]
    beside: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def roles(self) -> dict[str, str]:
        """The name of the tensor of each role that has one."""
        found = {role: self._named(role) for role in ROLES}
        return {role: name for role, name in found.items() if name is not None}

    def _named(self, role: str) -> str | None:
        if role in self.options:
            return self._asked(role)
        names = [name for name in self.tensors if name.lower() in KNOWN[role]]
        if len(names) > 1:
            raise CheckpointError(
                f"{self.where}: {' and '.join(names)} may both be {role}; say which with "
                f"{role}=KEY, and with centre=KEY or ignore=KEY what the other is"
            )
        return names[0] if names else None

    def _asked(self, role: str) -> str | None:
        name = self.options[role]
        if name not in self.tensors:
            if role == "threshold" and _number(name) is not None:
                return None
            raise UsageError(
                f"{self.where}: {role}={name}: no such tensor. {did_you_mean(name, self.tensors)}"
            )
        return name

    def flag(self, option: str) -> bool | None:
        """The value of an option that is true or false; None if it is not given."""
        text = self.options.get(option)
        if text not in (None, "true", "false"):
            raise UsageError(f"{self.where}: {option} must be true or false, not {text!r}")
        return None if text is None else text == "true"

    def said(self, keys: tuple[str, ...]) -> tuple[str, Any] | None:
        """What a config in the file says under one of some keys, and where."""
        for key in keys:
            for name, value in self.beside.items():
                if name.rpartition(".")[2].lower() == key and value is not None:
                    return name, value
        return None

    @property
    def ignored(self) -> set[str]:
        return set(filter(None, self.options.get("ignore", "").split(",")))

    @property
    def origin(self) -> Origin:
        return Origin(
            model=self._text(("model_name",)), hook=self._text(("hook_name", "hook_point"))
        )

    def _text(self, keys: tuple[str, ...]) -> str | None:
        said = self.said(keys)
        return said[1] if said and isinstance(said[1], str) else None

    @cached_property
    def k(self) -> tuple[str, int] | None:
        """The k that the request or the file says, and where; None if there is none."""
        if "k" in self.options:
            return "k", int(self.options["k"]) if self.options["k"].isdecimal() else 0
        stored = next((name for name in self.tensors if name.lower() in SAYS_K), None)
        said = (stored, self.tensors[stored]) if stored else self.said(SAYS_K)
        value = _number(said[1]) if said else None
        if said is None or value is None or not value.is_integer() or value <= 0:
            return None
        return said[0], int(value)


def read(request: Request) -> StateDict:
    """The file that a request names.

    Raises:
        CheckpointError: it cannot be read, or has no encoder, or several.
        UsageError: the request names what it does not have.
    """
    (file,) = place(request)
    content = _content(file)
    chosen = [key for role, key in request.options.items() if role in ROLES]
    found = dict(_state_dicts(content, set(chosen)))
    within = request.options.get("within")
    if within is not None and within not in found:
        raise UsageError(f"{file}: within={within}: {did_you_mean(within, found)}")
    if within is None and len(found) > 1:
        named = " and ".join(f"within={name}" for name in found)
        raise CheckpointError(f"{file}: it has several state dicts; say which is meant: {named}")
    if not found:
        raise CheckpointError(
            f"{file}: no encoder is known by its name among {_some(_tensors(content))}; name the "
            "weights: ?W_enc=KEY&W_dec=KEY&b_enc=KEY&b_dec=KEY"
        )
    path = within if within is not None else next(iter(found))
    spec = f"state_dict:{request.argument}"
    beside = {
        name: value
        for name, value in _flat(content)
        if not _is_within(name, found) or not isinstance(value, torch.Tensor)
    }
    return StateDict(str(file), spec, request.options, found[path], beside)


def build(state: StateDict, identity: CoderIdentity, device: str) -> LinearCoder:
    """The coder of a state dict, every question about it settled.

    Raises:
        CheckpointError: two readings fit, or none.
    """
    _check_weights(state)
    _check_normalisation(state)
    layout, centre = _layout(state), _centre(state)
    questions = [
        *_orientation_question(state),
        *_activation_question(state),
        *_bias_question(state),
        *_centre_question(state, centre),
        *_scale_question(state),
    ]
    if questions:
        raise CheckpointError(_refusal(state, layout, questions))
    _check_leftovers(state, layout, centre)
    weights = {name: tensor.to(device) for name, tensor in _weights(state, layout).items()}
    scale = _scale(state)
    shift = torch.zeros(layout.d, device=device)
    if centre is not None:
        shift = _vector(state, centre, layout.d).to(device)
    subtracted = weights["b_dec"] / scale if _subtracts(state) else torch.zeros_like(shift)
    return assembled(
        identity,
        Encoder(
            weights["W_enc"] * scale,
            weights["b_enc"],
            shift + subtracted,
            _activation(state, weights.get("threshold"), layout),
        ),
        Decoder((weights["W_dec"] / scale).contiguous(), weights["b_dec"] / scale + shift),
        architecture=ARCHITECTURES[_kind(state)],
        origin=state.origin,
        promised_l0=_k(state, layout) if _kind(state) == "topk" else None,
        trained_l0=state.k[1] if state.k else None,
        details=_details(state, layout, centre, scale),
    )


def _content(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        return load_safetensors(file)
    return load_npz(file) if file.suffix == ".npz" else load_pickle_free(file)


def _state_dicts(
    content: Mapping[str, Any], chosen: set[str], path: str = ""
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The dicts in a file that have an encoder, by their dotted names."""
    tensors = _unprefixed({k: v for k, v in content.items() if isinstance(v, torch.Tensor)})
    if chosen & set(tensors) or any(name.lower() in KNOWN["W_enc"] for name in tensors):
        yield path, tensors
        return
    if path.count(".") + 1 >= DEEPEST:
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            yield from _state_dicts(value, chosen, f"{path}.{key}" if path else key)


def _unprefixed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names without what wrappers add, and without a first segment that all have."""
    names = {name: [s for s in name.split(".") if s not in WRAPPING] for name in tensors}
    while len(names) > 1 and len({s[0] for s in names.values() if s}) == 1:
        if not all(len(segments) > 1 for segments in names.values()):
            break
        names = {name: segments[1:] for name, segments in names.items()}
    return {".".join(names[name]): tensor for name, tensor in tensors.items()}


def _flat(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no dict, by its dotted name."""
    for key, value in content.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            if name.count(".") < DEEPEST:
                yield from _flat(value, name)
        else:
            yield name, value


def _is_within(name: str, paths: Iterable[str]) -> bool:
    return any(not path or name.startswith(f"{path}.") for path in paths)


def _tensors(content: Mapping[str, Any]) -> list[str]:
    return [name for name, value in _flat(content) if isinstance(value, torch.Tensor)]


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") or "no tensors"


def _check_weights(state: StateDict) -> None:
    if "W_enc" not in state.roles:
        raise CheckpointError(f"{state.where}: no encoder; name it: ?W_enc=KEY")
    if "W_dec" not in state.roles and not _tied(state):
        raise CheckpointError(
            f"{state.where}: no decoder is known by its name among {_some([*state.tensors])}; say "
            "W_dec=KEY, or tied=true if it is the encoder's transpose"
        )


def _tied(state: StateDict) -> bool:
    said = state.said(("tied", "tied_weights", "tie_weights"))
    flag = state.flag("tied")
    return bool(said and said[1] is True) if flag is None else flag


def _check_normalisation(state: StateDict) -> None:
    said = state.said(SAYS_NORMALISED)
    if said and said[1] not in (False, NONE, "", 0) and said[0] not in state.ignored:
        raise CheckpointError(
            f"{state.where}: its config says {said[0]}={said[1]!r}, which this adapter does not "
            f"compute; wrap it as a python: object, or say ignore={said[0]} if it is undone"
        )


def _is_linear(name: str) -> bool:
    """Whether a tensor's name is that of an `nn.Linear`, which tells how it is stored."""
    return name.endswith("weight") and "." in name


def _layouts(state: StateDict) -> list[Layout]:
    """Every way round that fits the shapes, the one that the names suggest first."""
    name = state.roles["W_enc"]
    rows, columns = matrix_shape(state.tensors, name, state.where)
    asked = state.flag("transposed")
    ways = [_is_linear(name), not _is_linear(name)] if asked is None else [asked]
    found = []
    for linear in ways:
        n, d = (rows, columns) if linear else (columns, rows)
        if _fits(state, "b_enc", n) and _fits(state, "b_dec", d) and _fits(state, "threshold", n):
            found += _with_decoder(state, Layout(d, n, linear, linear))
    return found


def _with_decoder(state: StateDict, layout: Layout) -> list[Layout]:
    if "W_dec" not in state.roles:
        return [layout]
    name = state.roles["W_dec"]
    shape = matrix_shape(state.tensors, name, state.where)
    d, n = layout.d, layout.n
    if shape == (d, n) == (n, d):
        asked = state.flag("transposed")
        return [Layout(d, n, layout.encoder, _is_linear(name) if asked is None else asked)]
    if shape in ((d, n), (n, d)):
        return [Layout(d, n, layout.encoder, shape == (d, n))]
    return []


def _fits(state: StateDict, role: str, length: int) -> bool:
    name = state.roles.get(role)
    if name is None:
        return True
    size = state.tensors[name].numel()
    return size == length or (role == "threshold" and size == 1)


def _layout(state: StateDict) -> Layout:
    found = _layouts(state)
    if not found:
        shapes = ", ".join(f"{n} {list(state.tensors[n].shape)}" for n in state.roles.values())
        raise CheckpointError(f"{state.where}: shapes do not fit each other: {shapes}")
    return found[0]


def _orientation_question(state: StateDict) -> list[tuple[str, str]]:
    found, name = _layouts(state), state.roles["W_enc"]
    if len(found) < 2 or _is_linear(name):
        return []
    rows, columns = state.tensors[name].shape
    return [
        (
            f"{name} [{rows}, {columns}] maps {rows} activations to {columns} latents "
            f"(transposed=false) or {columns} to {rows} (transposed=true)",
            "transposed=false",
        )
    ]


def _kind(state: StateDict) -> str:
    """Which activation; empty where two fit."""
    if (asked := state.options.get("activation")) is not None:
        if asked not in CHOICES:
            raise UsageError(
                f"{state.where}: unknown activation {asked!r}. {did_you_mean(asked, CHOICES)}"
            )
        return asked
    if word := _said_activation(state):
        return word
    has_threshold = "threshold" in state.roles or "threshold" in state.options
    if has_threshold == (state.k is not None):
        return ""
    return "jumprelu" if has_threshold else "topk"


def _said_activation(state: StateDict) -> str | None:
    for keys in (SAYS_ACTIVATION, SAYS_KIND):
        if not (said := state.said(keys)) or not isinstance(said[1], str):
            continue
        word = re.sub(r"[^a-z]|training|sae$", "", said[1].lower())
        if word in ACTIVATIONS:
            return ACTIVATIONS[word]
        if keys is SAYS_ACTIVATION:
            raise CheckpointError(
                f"{state.where}: its config says {said[0]}={said[1]!r}, which is none of "
                f"{', '.join(CHOICES)}: wrap it as a python: object, or say activation=…"
            )
    return None


def _activation_question(state: StateDict) -> list[tuple[str, str]]:
    if _kind(state):
        return []
    if state.k is None:
        words = "the activation is ReLU (activation=relu) or the k largest (activation=topk&k=…)"
        return [(words, "activation=relu")]
    threshold = state.roles.get("threshold", "threshold")
    words = (
        f"active are the latents above {threshold} (activation=jumprelu, as in BatchTopK) or the "
        f"{state.k[1]} largest of each token (activation=topk)"
    )
    return [(words, "activation=jumprelu")]


def _subtracts(state: StateDict) -> bool | None:
    """Whether b_dec is subtracted from the input; None where nothing tells."""
    flag, name = state.flag("subtract_bias"), state.roles.get("b_dec")
    if flag is not None or name is None:
        return bool(flag)
    if not state.tensors[name].any():
        return False
    said = state.said(SAYS_SUBTRACTED)
    if said and isinstance(said[1], bool):
        return said[1]
    return True if name.lower() in SUBTRACTED else None


def _bias_question(state: StateDict) -> list[tuple[str, str]]:
    if _subtracts(state) is not None:
        return []
    name = state.roles["b_dec"]
    words = (
        f"{name} is subtracted from the input (subtract_bias=true) or only added to the output "
        "(subtract_bias=false)"
    )
    return [(words, f"subtract_bias={'false' if _is_linear_bias(name) else 'true'}")]


def _is_linear_bias(name: str) -> bool:
    """Whether a bias is that of an `nn.Linear`, which by itself only adds it."""
    return name.endswith("bias") and "." in name


def _centres(state: StateDict) -> list[str]:
    """Tensors without a role that could be subtracted from the activations."""
    width = _layout(state).d
    return [
        name
        for name, tensor in _unassigned(state).items()
        if tensor.numel() == width and tensor.is_floating_point() and not COUNTS.fullmatch(name)
    ]


def _unassigned(state: StateDict) -> dict[str, torch.Tensor]:
    """Tensors without a role, in the state dict and beside it."""
    own = {name: t for name, t in state.tensors.items() if name not in state.roles.values()}
    beside = {
        name: value
        for name, value in state.beside.items()
        if isinstance(value, torch.Tensor) and not name.startswith(("optim", "sched"))
    }
    return {name: t for name, t in {**beside, **own}.items() if name not in state.ignored}


def _centre(state: StateDict) -> str | None:
    asked = state.options.get("centre")
    if asked in (None, NONE):
        return None
    if asked not in (known := _centres(state)):
        raise UsageError(f"{state.where}: centre={asked}: {did_you_mean(asked, [*known, NONE])}")
    return asked


def _centre_question(state: StateDict, centre: str | None) -> list[tuple[str, str]]:
    if centre or "centre" in state.options or not (found := _centres(state)):
        return []
    words = (
        f"{found[0]} is subtracted from the activations and added again (centre={found[0]}) or "
        "not (centre=none)"
    )
    return [(words, f"centre={found[0]}")]


def _scale_question(state: StateDict) -> list[tuple[str, str]]:
    if "scale" in state.options or not (found := _scales(state)):
        return []
    name, value = found[0]
    words = (
        f"activations are multiplied by {name}={value:g} before the encoder (scale={name}) or not "
        "(scale=1)"
    )
    return [(words, f"scale={name}")]


def _scales(state: StateDict) -> list[tuple[str, float]]:
    """Numbers in the file that could be a factor on the activations."""
    named = [
        (name, _number(value))
        for name, value in {**state.beside, **_unassigned(state)}.items()
        if SAYS_SCALE.fullmatch(name.rpartition(".")[2].lower()) and name not in state.ignored
    ]
    return [(name, value) for name, value in named if value not in (None, 1.0)]


def _scale(state: StateDict) -> float:
    asked = state.options.get("scale", "1")
    factor = dict(_scales(state)).get(asked, _number(asked))
    if factor is None or not math.isfinite(factor) or factor <= 0:
        raise UsageError(
            f"{state.where}: scale must be a positive number, or the name of one in the file, not "
            f"{asked!r}"
        )
    return factor


def _number(value: object) -> float | None:
    """A value as a number, if it is a single one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | torch.Tensor):
        return None
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _refusal(state: StateDict, layout: Layout, questions: list[tuple[str, str]]) -> str:
    given = [f"{name}={value}" for name, value in state.options.items()]
    example = "&".join([*given, *(answer for _, answer in questions)])
    return (
        f"{state.where}: {layout.d} activations → {layout.n} latents. Two readings fit, and "
        f"nothing in the file decides: {'; '.join(words for words, _ in questions)}. Say which, "
        f"as in {state.spec}?{example}"
    )


def _check_leftovers(state: StateDict, layout: Layout, centre: str | None) -> None:
    """Refuse weights that the formula would leave out; statistics and single numbers may be."""
    known = {centre, state.options.get("scale"), state.k[0] if state.k else None, *_centres(state)}
    for name in state.tensors:
        if name in (*state.roles.values(), *known, *state.ignored):
            continue
        tensor = state.tensors[name]
        is_number = tensor.numel() == 1 and "scal" not in name.lower()
        if tensor.is_floating_point() and not is_number and not COUNTS.fullmatch(name):
            raise CheckpointError(
                f"{state.where}: {name} {list(tensor.shape)} is not understood; if neither encode "
                f"nor decode needs it, say ignore={name}"
            )


def _weights(state: StateDict, layout: Layout) -> dict[str, torch.Tensor]:
    """The weights by role, in float32, W_enc as [d, n] and W_dec as [n, d]."""
    d, n = layout.d, layout.n
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (n, d) if layout.encoder else (d, n),
        "W_dec": (d, n) if layout.decoder else (n, d),
        "b_enc": (n,),
        "b_dec": (d,),
    }
    names = {role: name for role, name in state.roles.items() if role in shapes}
    flat = {
        name: state.tensors[name].reshape(-1) if role.startswith("b_") else state.tensors[name]
        for role, name in names.items()
    }
    stored = as_float32(flat, {name: shapes[role] for role, name in names.items()}, state.where)
    weights = {role: stored[name] for role, name in names.items()}
    weights["W_enc"] = weights["W_enc"].T if layout.encoder else weights["W_enc"]
    if "W_dec" not in weights:
        weights["W_dec"] = weights["W_enc"].T
    elif layout.decoder:
        weights["W_dec"] = weights["W_dec"].T
    zeros = {"b_enc": torch.zeros(n), "b_dec": torch.zeros(d)}
    return {**zeros, **weights, **_threshold(state, n)}


def _threshold(state: StateDict, n: int) -> dict[str, torch.Tensor]:
    if (name := state.roles.get("threshold")) is None:
        number = _number(state.options.get("threshold"))
        return {} if number is None else {"threshold": torch.full((n,), number)}
    tensor = state.tensors[name].reshape(-1)
    found = as_float32({name: tensor}, {name: tuple(tensor.shape)}, state.where)[name]
    return {"threshold": (found.exp() if "log_" in name.lower() else found).expand(n)}


def _vector(state: StateDict, name: str, length: int) -> torch.Tensor:
    tensor = _unassigned(state)[name].reshape(-1)
    return as_float32({name: tensor}, {name: (length,)}, state.where)[name]


def _activation(state: StateDict, threshold: torch.Tensor | None, layout: Layout) -> Activation:
    kind = _kind(state)
    if kind == "topk":
        return TopK(_k(state, layout))
    if kind == "relu":
        return JumpReLU(torch.zeros(layout.n))
    if threshold is None:
        raise CheckpointError(
            f"{state.where}: it has no threshold, which tells the active latents of a JumpReLU or "
            "BatchTopK SAE from the others; say threshold=KEY or threshold=NUMBER"
        )
    return JumpReLU(threshold)


def _k(state: StateDict, layout: Layout) -> int:
    if state.k is None:
        raise CheckpointError(f"{state.where}: it does not say k; say activation=topk&k=…")
    check_k(state.k[1], layout.n, state.where)
    return state.k[1]


def _details(state: StateDict, layout: Layout, centre: str | None, scale: float) -> dict[str, Any]:
    """What was understood, in words."""
    kept = {True: "[latent, activation]", False: "[activation, latent]"}
    facts: dict[str, Any] = dict(state.roles)
    facts["W_enc"] += f" {kept[layout.encoder]}"
    facts["W_dec"] = f"{facts.get('W_dec', 'tied')} {kept[not layout.decoder]}"
    facts |= {"activation": _kind(state), "subtract_bias": bool(_subtracts(state))}
    if state.k:
        facts["k"] = state.k[1]
    if centre:
        facts["centre"] = centre
    if scale != 1:
        facts["scale"] = scale
    used = {centre, state.options.get("scale"), state.k[0] if state.k else None}
    unused = [*(_unassigned(state).keys() - used), *state.ignored]
    return {**facts, **({"unused": " ".join(sorted(unused))} if unused else {})}
