"""How reconstructions take the place of activations: at one hook point, or at several at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64

from mdlbench.sources.language.cut import Activation, Change, LanguageModel, Residual, Written
from mdlbench.sources.language.hooks import Hook, HookEntry, Wiring

Mask = Bool[torch.Tensor, "document position"]
Reconstruction = Float[torch.Tensor, "token d_out"]
Hidden = Float[torch.Tensor, "token d_model"]


class Blank(NamedTuple):
    """What the model makes of zeros: final hidden states, and which of them is each token's."""

    hidden: Float[torch.Tensor, "state d_model"]
    state: Int64[torch.Tensor, " token"]


class Splice(Protocol):
    """How reconstructions take the place of activations, and what the model makes of them."""

    @property
    def base(self) -> tuple[Hook, ...]:
        """Hook points whose activations it needs of the untouched model, beside the replaced."""
        ...

    def parts(self, captured: Mapping[Hook, Activation], mask: Mask) -> tuple[Residual, Hidden]:
        """What is kept of the untouched model for splices, and its final hidden states."""
        ...

    def hidden(self, kept: Residual, new: Reconstruction, mask: Mask) -> Hidden:
        """Final hidden states under the mask with reconstructions in the activations' place."""
        ...

    def blank(self, kept: Residual, zeros: Reconstruction, mask: Mask) -> Blank:
        """The same with zeros, run once for contexts that zeros make equal."""
        ...


@dataclass(frozen=True)
class OneSplice:
    """At one hook point: the residual stream is put together after it, and the suffix run."""

    model: LanguageModel
    hook: Hook

    @property
    def _wiring(self) -> Wiring:
        return Wiring.of(self.hook, self.model.is_parallel)

    @property
    def base(self) -> tuple[Hook, ...]:
        return self._wiring.base

    def parts(self, captured: Mapping[Hook, Activation], mask: Mask) -> tuple[Residual, Hidden]:
        """The residual stream without the activations under the mask is kept."""
        replaced = captured[self.hook]
        written = self._written(replaced.flatten(0, 1)).reshape(*mask.shape, -1)
        base = sum((captured[hook] for hook in self.base), torch.zeros_like(written))
        whole = base + written
        rest = torch.where(mask[:, :, None], base, whole)
        return rest, self.model.suffix(whole, self._wiring.entry)[mask]

    def hidden(self, kept: Residual, new: Reconstruction, mask: Mask) -> Hidden:
        return self.model.suffix(self._spliced(kept, new, mask), self._wiring.entry)[mask]

    def blank(self, kept: Residual, zeros: Reconstruction, mask: Mask) -> Blank:
        residual = self._spliced(kept, zeros, mask)
        distinct, which = torch.unique(residual, dim=0, return_inverse=True)
        hidden = self.model.suffix(distinct, self._wiring.entry).flatten(0, 1)
        document, position = torch.nonzero(mask, as_tuple=True)
        return Blank(hidden, which[document] * residual.shape[1] + position)

    def _spliced(self, kept: Residual, new: Reconstruction, mask: Mask) -> Residual:
        """The residual stream with a reconstruction in the activation's place."""
        residual = kept.clone()
        residual[mask] += self._written(new)
        return residual

    def _written(self, activations: Reconstruction) -> Written:
        """The part of the residual stream that activations add."""
        if self.hook.kind == "z":
            return self.model.write_z(self.hook.layer, activations)
        return activations


@dataclass(frozen=True)
class SeveralSplice:
    """At several hook points at once: the model runs from the first one's layer on, once.

    Attributes:
        model: the model.
        hooks: the hook points.
        widths: of their activations, which stand side by side in a reconstruction.
    """

    model: LanguageModel
    hooks: tuple[Hook, ...]
    widths: tuple[int, ...]

    @property
    def _first(self) -> int:
        return first_layer(self.hooks)

    @property
    def base(self) -> tuple[Hook, ...]:
        return (Hook(self._first, "resid_pre"),)

    def parts(self, captured: Mapping[Hook, Activation], mask: Mask) -> tuple[Residual, Hidden]:
        """The residual stream before the first layer of them is kept, untouched."""
        whole = captured[self.base[0]]
        return whole, self.model.suffix(whole, HookEntry(self._first))[mask]

    def hidden(self, kept: Residual, new: Reconstruction, mask: Mask) -> Hidden:
        values = torch.split(new, list(self.widths), dim=1)
        changes: dict[Hook, Change] = {
            hook: partial(_put, value, mask) for hook, value in zip(self.hooks, values, strict=True)
        }
        return self.model.suffix(kept, HookEntry(self._first), changes)[mask]

    def blank(self, kept: Residual, zeros: Reconstruction, mask: Mask) -> Blank:
        hidden = self.hidden(kept, zeros, mask)
        return Blank(hidden, torch.arange(len(hidden), device=hidden.device))


def first_layer(hooks: tuple[Hook, ...]) -> int:
    """The first layer that has one of some hook points."""
    return min(hook.layer for hook in hooks)


def _put(value: Float[torch.Tensor, "token d_hook"], mask: Mask, x: torch.Tensor) -> torch.Tensor:
    """An activation with other values under the mask."""
    new = x.clone()
    new[mask] = value.to(x.dtype)
    return new
