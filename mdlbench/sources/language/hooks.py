"""Hook points of a language model, by their TransformerLens names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mdlbench.errors import UsageError, did_you_mean

Half = Literal["attention", "mlp"]

KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")
_HOOK = re.compile(r"^blocks\.(\d+)\.(?:attn\.)?hook_(" + "|".join(KINDS) + r")$")


@dataclass(frozen=True, order=True)
class Hook:
    """A hook point, as its layer and kind."""

    layer: int
    kind: str

    @classmethod
    def parse(cls, name: str) -> Hook:
        """From a TransformerLens name, such as `blocks.8.hook_resid_pre`; raises `UsageError`."""
        match = _HOOK.match(name)
        if match is None:
            known = [f"blocks.L.hook_{kind}" for kind in KINDS]
            raise UsageError(
                f"hook {name!r} is not supported: SAEs there can be checked without a suite, but "
                f"not scored. {did_you_mean(name, known)}"
            )
        return cls(int(match[1]), match[2])

    @property
    def name(self) -> str:
        inner = "attn." if self.kind == "z" else ""
        return f"blocks.{self.layer}.{inner}hook_{self.kind}"

    @property
    def n_blocks(self) -> int:
        """How many blocks must run for its activation to be there."""
        return self.layer if self.kind == "resid_pre" else self.layer + 1


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
