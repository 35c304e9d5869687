"""Hook points of a language model, by their TransformerLens names or as Hugging Face modules.

Several at once are written with ` + ` between them, and `blocks.3-5.hook_mlp_out` is short for
`blocks.3.hook_mlp_out + blocks.4.hook_mlp_out + blocks.5.hook_mlp_out`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mdlbench.errors import UsageError, did_you_mean, shown
from mdlbench.suite.site import AND

Half = Literal["attention", "mlp"]

KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
READ = {"mlp_in": "mlp.hook_in", "mlp_normalised": "ln2.hook_normalized"}
"""Kinds that a transcoder reads and nothing replaces, and their names in TransformerLens: what the
MLP is given, and the same before the normalisation's gain and bias."""
_LAYER = r"([0-9]{1,4})"
_HOOK = re.compile(rf"blocks\.{_LAYER}\.(?:attn\.)?hook_({'|'.join(KINDS)})")
_READ = {kind: re.compile(rf"blocks\.{_LAYER}\.{re.escape(name)}") for kind, name in READ.items()}
_TWO_MEANINGS = re.compile(rf"blocks\.{_LAYER}\.hook_mlp_in")
_RUN = re.compile(rf"blocks\.{_LAYER}-{_LAYER}\.(.+)")
"""The same hook point of consecutive layers."""
_IN_A_LAYER = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_in", "mlp_normalised", "mlp_out")
"""Kinds in the order in which a layer comes to them; `resid_post` is the last."""
_MODULE = re.compile(
    rf"(?:.+\.)?(?:layers|h|blocks)\.{_LAYER}(?:\.(?!(?:in|out)put$)(.+?))?(?:\.(input|output))?"
)
"""A module of a Hugging Face model: its layer, the part of it, and the side that is taken."""
_ATTENTION = r"(?:attn|attention|self_attn|self_attention|linear_attn)"
_MLP = r"(?:mlp|feed_forward)"
_OUT = r"(?:o_proj|c_proj|out_proj|dense|down_proj|dense_4h_to_h|fc2)"
_INPUTS = {rf"{_ATTENTION}\.{_OUT}": "z", _MLP: "mlp_in"}
"""Parts of a layer, and what they are given."""
_OUTPUTS = {_ATTENTION: "attn_out", _MLP: "mlp_out"}
"""Parts of a layer, and what they put out, unless the model normalises that first."""
_PROJECTIONS = {rf"{_ATTENTION}\.{_OUT}": "attn_out", rf"{_MLP}\.{_OUT}": "mlp_out"}
"""The last layers of these parts, which put out the same."""
_NORMS = {"post_attention_layernorm": "mlp_in", "ln_2": "mlp_in"}
"""What normalises what the MLP reads, in models where no such part normalises what is written."""
_NORMED_OUTPUTS = {
    "post_attention_layernorm": "attn_out",
    "pre_feedforward_layernorm": "mlp_in",
    "post_feedforward_layernorm": "mlp_out",
}
"""What puts it out where the model normalises it."""
_NORMED_AFTER = re.compile(r"gemma-?[23]|olmo-?[23]", re.IGNORECASE)
"""Models that normalise what a part of a layer puts out before TransformerLens' hook point."""


@dataclass(frozen=True, order=True)
class Hook:
    """A hook point, as its layer and kind."""

    layer: int
    kind: str

    @classmethod
    def parse(cls, name: str, model: str = "") -> Hook:
        """From a TransformerLens name, such as `blocks.8.hook_resid_pre`, or a module's.

        Args:
            name: of the hook point; a module, such as `model.layers.7`, means what it puts out.
            model: the model's name, on which it depends what a part of a layer puts out.

        Raises:
            UsageError: it is neither, or no model is cut there.
        """
        if match := _HOOK.fullmatch(name):
            return cls(int(match[1]), match[2])
        for kind, pattern in _READ.items():
            if match := pattern.fullmatch(name):
                return cls(int(match[1]), kind)
        if found := module_hook(name, model):
            return found
        if _TWO_MEANINGS.fullmatch(name):
            raise UsageError(
                f"hook {shown(name)} has two meanings: write blocks.L.mlp.hook_in for what the MLP "
                "is given (SAELens' configs of Gemma Scope 2), blocks.L.hook_resid_mid for what is "
                "normalised before (TransformerLens)"
            )
        known = [*(f"blocks.L.hook_{kind}" for kind in KINDS), *READ.values()]
        raise UsageError(
            f"hook {shown(name)} is not supported: SAEs there can be checked without a suite, but "
            f"not scored. {did_you_mean(name, known)}"
        )

    @property
    def name(self) -> str:
        if self.kind in READ:
            return f"blocks.{self.layer}.{READ[self.kind]}"
        inner = "attn." if self.kind == "z" else ""
        return f"blocks.{self.layer}.{inner}hook_{self.kind}"

    @property
    def tensor(self) -> Hook:
        """The first name of its tensor: what leaves a layer is what enters the next."""
        return Hook(self.layer + 1, "resid_pre") if self.kind == "resid_post" else self

    @property
    def place(self) -> tuple[int, int]:
        """Where the model comes to it: its layer, and its place there."""
        last = self.kind == "resid_post"
        return self.layer, len(_IN_A_LAYER) if last else _IN_A_LAYER.index(self.kind)

    @property
    def n_blocks(self) -> int:
        """How many blocks must run for its activation to be there."""
        return self.layer if self.kind == "resid_pre" else self.layer + 1


def parsed(names: str, model: str = "") -> tuple[Hook, ...]:
    """The hook points that a name stands for, most often one; raises as `Hook.parse`."""
    return tuple(
        Hook.parse(name, model) for part in names.split(AND) for name in _each_layer(part.strip())
    )


def joined(hooks: Sequence[Hook]) -> str:
    """The name of some hook points together, as `parsed` reads it."""
    runs: list[list[Hook]] = []
    for hook in hooks:
        if runs and hook == Hook(runs[-1][-1].layer + 1, runs[-1][-1].kind):
            runs[-1].append(hook)
        else:
            runs.append([hook])
    return AND.join(_run_name(run) for run in runs)


def _each_layer(name: str) -> list[str]:
    match = _RUN.fullmatch(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise UsageError(f"hook {name!r}: its layers end before they begin")
    return [f"blocks.{layer}.{match[3]}" for layer in range(first, last + 1)]


def _run_name(run: Sequence[Hook]) -> str:
    first, last = run[0], run[-1]
    if first == last:
        return first.name
    return first.name.replace(f"blocks.{first.layer}.", f"blocks.{first.layer}-{last.layer}.")


def module_hook(name: str, model: str = "") -> Hook | None:
    """The hook point at a module of a Hugging Face model; None where that is not certain.

    Args:
        name: of the module, such as `transformer.h.11`, `model.layers.3.self_attn`, or with its
            side, `model.layers.3.self_attn.o_proj.input`. Without one, its output is meant.
        model: the model's name, or a path that has it in it.
    """
    match = _MODULE.fullmatch(name)
    if match is None:
        return None
    layer, part, side = int(match[1]), match[2], match[3] or "output"
    if part is None:
        return Hook(layer, "resid_post" if side == "output" else "resid_pre")
    if side == "input":
        outputs = _INPUTS
    elif _NORMED_AFTER.search(model):
        outputs = _NORMED_OUTPUTS
    else:
        outputs = _OUTPUTS | _PROJECTIONS | (_NORMS if model else {})
    kind = next((kind for parts, kind in outputs.items() if re.fullmatch(parts, part)), None)
    return Hook(layer, kind) if kind else None


def hook_name(name: str, model: str = "") -> str:
    """A module's hook point by its TransformerLens name; any other name as it is."""
    found = module_hook(name, model)
    return found.name if found else name


def is_same_tensor(one: str, other: str) -> bool:
    """Whether two names are of one hook point, or of two that hold one tensor.

    Names of several hook points are compared one by one.
    """
    try:
        return tensors(parsed(one)) == tensors(parsed(other))
    except UsageError:
        return one == other


def tensors(hooks: Sequence[Hook]) -> list[Hook]:
    """The first names of the tensors at some hook points."""
    return [hook.tensor for hook in hooks]


@dataclass(frozen=True)
class HookEntry:
    """Where the residual stream is whole again after a hook point: a layer, or its MLP half."""

    layer: int
    half: Half = "attention"


@dataclass(frozen=True)
class Wiring:
    """How the activation at a hook point becomes the residual stream again.

    Attributes:
        entry: where the residual stream is whole again.
        base: hooks whose sum is the rest of the residual stream there.
    """

    entry: HookEntry
    base: tuple[Hook, ...]

    @classmethod
    def of(cls, hook: Hook, is_parallel: bool) -> Wiring:
        if hook.kind in READ:
            raise UsageError(
                f"{hook.name} can be read, by a transcoder, but not replaced: say the hook_out "
                "that is reconstructed"
            )
        layer = hook.layer
        pre, mid = Hook(layer, "resid_pre"), Hook(layer, "resid_mid")
        if hook.kind == "resid_pre":
            return cls(HookEntry(layer), ())
        if hook.kind == "resid_post":
            return cls(HookEntry(layer + 1), ())
        if is_parallel and hook.kind == "resid_mid":
            raise UsageError(f"{hook.name}: attention and MLP of this model are parallel")
        if is_parallel:
            other = "mlp_out" if hook.kind != "mlp_out" else "attn_out"
            return cls(HookEntry(layer + 1), (pre, Hook(layer, other)))
        if hook.kind == "resid_mid":
            return cls(HookEntry(layer, "mlp"), ())
        if hook.kind == "mlp_out":
            return cls(HookEntry(layer + 1), (mid,))
        return cls(HookEntry(layer, "mlp"), (pre,))
