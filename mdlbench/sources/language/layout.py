"""Where a block has its parts: all that decoders of `transformers` differ in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mdlbench.errors import UsageError
from mdlbench.sources.language.cut import Activation, Heads, Residual, Written

LAYERS = ("layers", "h")
FINAL_NORM = ("norm", "ln_f", "final_layer_norm")
ATTENTION = ("self_attn", "linear_attn", "attn", "attention")
PROJECTION = ("o_proj", "out_proj", "c_proj", "dense")
MLP = ("mlp",)
NORMS = (
    ("pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"),
    (None, "post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_attention_layernorm", None, None),
    ("ln_2", None, None),
)
"""Normalisations before the MLP, after attention, after the MLP: a block has the first row of
which it has all. They are those of sandwich-norm, post-norm and, twice, pre-norm blocks."""
PARALLEL = ("use_parallel_residual", "parallel_attn")
"""Keys of configs that say that attention and MLP both read the block's input."""

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Tap:
    """Where an activation is: what a module is given, or what it puts out.

    Attributes:
        module: the module.
        side: which of the two.
        of: what is computed from it; itself if None.
    """

    module: nn.Module
    side: Side
    of: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Block:
    """A layer of a decoder, taken apart.

    Attributes:
        layer: the whole.
        attention: attention, or what a hybrid model has in its place.
        projection: attention's last part, which reads the heads side by side.
        mlp: the MLP, or the mixture of experts.
        before_mlp: normalises what the MLP reads; None if nothing does.
        after_attention: normalises what attention writes; None if nothing does.
        after_mlp: normalises what the MLP writes; None if nothing does.
    """

    layer: nn.Module
    attention: nn.Module
    projection: nn.Module
    mlp: nn.Module
    before_mlp: nn.Module | None
    after_attention: nn.Module | None
    after_mlp: nn.Module | None

    @classmethod
    def of(cls, layer: nn.Module) -> Block:
        """Raises `UsageError` for a layer that lacks a part."""
        attention = part_of(layer, ATTENTION)
        for names in NORMS:
            if all(hasattr(layer, name) for name in names if name):
                norms = [getattr(layer, name) if name else None for name in names]
                projection, mlp = part_of(attention, PROJECTION), part_of(layer, MLP)
                return cls(layer, attention, projection, mlp, *norms)
        raise UsageError(f"its {type(layer).__name__} has normalisations of an unknown kind")

    def tap(self, kind: str) -> Tap:
        """Where the activation of a kind of hook point is."""
        if kind == "mlp_normalised":
            return self._normalised()
        taps: dict[str, tuple[nn.Module, Side]] = {
            "resid_pre": (self.layer, "input"),
            "resid_mid": (self.before_mlp or self.mlp, "input"),
            "resid_post": (self.layer, "output"),
            "attn_out": (self.after_attention or self.attention, "output"),
            "mlp_in": (self.mlp, "input"),
            "mlp_out": (self.after_mlp or self.mlp, "output"),
            "z": (self.projection, "input"),
        }
        return Tap(*taps[kind])

    def write_z(self, z: Heads) -> Written:
        """What the heads' outputs add to the residual stream."""
        return through(self.after_attention, self.projection(z.to(dtype_of(self.projection))))

    def mlp_half(self, residual: Residual) -> Residual:
        """The residual stream after the MLP, from that before it."""
        written = first(self.mlp(through(self.before_mlp, residual)))
        added = through(self.after_mlp, written)
        return residual + added

    def _normalised(self) -> Tap:
        norm = self.before_mlp
        if norm is None:
            raise UsageError("nothing normalises what its MLPs read")
        return Tap(norm, "input", lambda x: normalised(norm, x))


def normalised(norm: nn.Module, x: Activation) -> Activation:
    """What a normalisation makes of x before its gain and bias; in float32.

    x/√(mean(x²) + ε), and for a LayerNorm the same of x minus its mean.
    """
    x = x.float()
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(dim=-1, keepdim=True)
    epsilon: Any = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 0.0)
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon)


def through(norm: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """x, normalised where there is such a normalisation."""
    return x if norm is None else first(norm(x))


def part_of(module: nn.Module, names: tuple[str, ...]) -> Any:
    """The part that goes by one of these names; raises `UsageError` if there is none."""
    for name in names:
        if getattr(module, name, None) is not None:
            return getattr(module, name)
    raise UsageError(f"its {type(module).__name__} has no {' or '.join(names)}")


def is_parallel(config: Any) -> bool:
    """Whether attention and MLP both read the block's input."""
    return any(getattr(config, key, False) for key in PARALLEL)


def first(output: Any) -> torch.Tensor:
    """What a module hands on; attention and mixtures of experts put out more beside it."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def dtype_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
