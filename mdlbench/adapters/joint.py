"""Several SAEs that are spliced in at once, as one coder of a source that has all their hooks.

Latents are those of the untouched model's activations, whatever the others' errors are: the
description is of one pass, and all reconstructions are put into one pass (maths §5).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64

from mdlbench.adapters.identity import JOINT, SAES, UNSEEN, CoderIdentity
from mdlbench.adapters.load import NamedCoder
from mdlbench.adapters.parts.joint import JointCoder, Part, join
from mdlbench.adapters.protocol import Origin, SparseCoder
from mdlbench.errors import UsageError
from mdlbench.sources.language.hooks import parsed
from mdlbench.sources.protocol import ActivationSource, Block, SpliceLoss, Split
from mdlbench.suite.site import AND, UNSAID, Place, Site

VERSION = "1"
"""Version of this coder: it changes when the same SAEs come to mean other numbers."""
SHARED = ("context", "prepend_bos", "model_options")
"""What sites must agree on, so that one pass serves all."""


@runtime_checkable
class SeveralHooks(ActivationSource, Protocol):
    """A source whose activations may be those at several hook points, side by side.

    Attributes:
        widths_in: of what is read at each.
        widths_out: of what is replaced at each.
    """

    widths_in: tuple[int, ...]
    widths_out: tuple[int, ...]


class OneHook:
    """The `ActivationSource` of one hook point of a source that has several.

    Args:
        source: the one of all.
        number: which hook point.
    """

    def __init__(self, source: SeveralHooks, number: int) -> None:
        self._source = source
        read, replaced = (
            slice(start, start + width)
            for start, width in (
                (_starts(widths)[number], widths[number])
                for widths in (source.widths_in, source.widths_out)
            )
        )
        self._read, self._replaced = read, replaced
        hooks = parsed(source.site.hook)[number].name
        out = source.site.hook_out
        outs = None if out is None else parsed(out)[number].name
        self.site = source.site.model_copy(
            update={"hook": hooks, "hook_out": None if outs == hooks else outs}
        )
        self.hook, self.device = self.site.hook, source.device
        self.image_shape: tuple[int, int] | None = None
        self.d_in, self.d_out = source.widths_in[number], source.widths_out[number]
        self.n_documents, self.n_tokens = source.n_documents, source.n_tokens
        whole = f"{source.data_sha256} {number}"
        self.data_sha256 = hashlib.sha256(whole.encode()).hexdigest()

    def n_blocks(self, split: Split) -> int:
        return self._source.n_blocks(split)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        for block in self._source.blocks(split, start, stop):
            activations = block.activations[:, self._replaced]
            inputs = block.given[:, self._read] if self.site.hook_out else None
            yield Block(block.index, block.document, activations, inputs)

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        return self._source.clean_ce(block)

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        return self.splice(block, torch.zeros_like(block.activations)).ce

    def splice(
        self, block: Block, reconstruction: Float[torch.Tensor, "token d_out"]
    ) -> SpliceLoss:
        """With the other hook points' own activations in their places."""
        (whole,) = self._source.blocks("test", block.index, block.index + 1)
        new = whole.activations.clone()
        new[:, self._replaced] = reconstruction
        return self._source.splice(whole, new)


@dataclass(frozen=True)
class JointPart:
    """One of the SAEs.

    Attributes:
        sae: the SAE by its spec.
        label: what messages call it.
        place: where it is scored, as far as the suite says.
    """

    sae: NamedCoder
    label: str
    place: Place


@dataclass(frozen=True)
class NamedJoint:
    """Several SAEs by their specs, spliced in at once.

    Attributes:
        parts: they, in the order in which the model comes to their hook points.
        folder: what relative paths of the suite are relative to; the working folder by default.
    """

    parts: tuple[JointPart, ...]
    folder: Path = Path()

    @property
    def spec(self) -> str:
        return AND.join(part.sae.spec for part in self.parts)

    @property
    def singles(self) -> tuple[NamedCoder, ...]:
        return tuple(part.sae for part in self.parts)

    def origin(self, site_of: Callable[[Origin, Place, str], Site], said: Place = UNSAID) -> Origin:
        """All hook points, and what the SAEs say in common of the activations.

        Args:
            site_of: settles where one of them is scored.
            said: what is said of all of them together.

        Raises:
            UsageError: two are at one place, or not on the same contexts of one model.
        """
        shared = said.model_dump(include=set(SHARED), exclude_none=True)
        sites = [
            site_of(part.sae.origin(), part.place.model_copy(update=shared), part.label)
            for part in self.parts
        ]
        for i, site in enumerate(sites):
            self._refuse_twice(sites[:i], site, i)
            for what in SHARED:
                self._refuse_difference(what, sites[0], site, i)
        one = sites[0]
        outs = [site.hook_out or site.hook for site in sites]
        return Origin(
            model=one.model,
            hook=AND.join(site.hook for site in sites),
            hook_out=AND.join(outs) if any(site.hook_out for site in sites) else None,
            context=one.context,
            prepend_bos=one.prepend_bos,
            model_options=one.model_options,
        )

    def _refuse_twice(self, others: Sequence[Site], site: Site, number: int) -> None:
        if AND in site.hook:
            raise UsageError(
                f"{self.parts[number].label}: has several hook points itself, so it cannot be "
                "spliced in with others"
            )
        if site in others:
            labels = (self.parts[others.index(site)].label, self.parts[number].label)
            raise UsageError(
                f"{labels[0]} and {labels[1]} are both at {site.label}: only SAEs at different "
                "hook points can be spliced in at once"
            )

    def _refuse_difference(self, what: str, one: Site, other: Site, number: int) -> None:
        values = [getattr(site, what) for site in (one, other)]
        if values[0] != values[1]:
            raise UsageError(
                f"{self.parts[0].label} and {self.parts[number].label} cannot be spliced in at "
                f"once: {what} is {values[0]!r} for one, {values[1]!r} for the other"
            )

    def at(self, source: ActivationSource | None = None, device: str = "cpu") -> JointAt:
        """It for a source's activations, computing on a device."""
        return JointAt(self, source, device)

    def identify(self, source: ActivationSource | None = None) -> CoderIdentity:
        """See `JointAt.identity`."""
        return self.at(source).identity

    def load(self, source: ActivationSource | None = None, device: str = "cpu") -> SparseCoder:
        """See `JointAt.coder`."""
        return self.at(source, device).coder


@dataclass(frozen=True)
class JointAt:
    """Several SAEs for some activations.

    Attributes:
        named: they by their specs.
        source: the activations that they are for.
        device: where they compute.
    """

    named: NamedJoint
    source: ActivationSource | None
    device: str

    @cached_property
    def identity(self) -> CoderIdentity:
        """Which SAEs they are; the digest is that of their identities without their names."""
        found = [
            part.sae.identify(source)
            for part, source in zip(self.named.parts, self._sources, strict=True)
        ]
        saes = [one.model_dump(exclude={"name"}) for one in found]
        unseen = [one.unseen for one in found if one.unseen]
        arguments: dict[str, Any] = {SAES: saes}
        content = json.dumps(saes, sort_keys=True).encode()
        return CoderIdentity(
            name=AND.join(one.name for one in found),
            adapter=JOINT,
            version=VERSION,
            arguments={**arguments, UNSEEN: unseen[0]} if unseen else arguments,
            weights_sha256=hashlib.sha256(content).hexdigest(),
        )

    @cached_property
    def coder(self) -> JointCoder:
        """The coder.

        Raises:
            CheckpointError: an SAE is for another width than that of its hook point.
            CoderError: an SAE's decoder is not priced by its rows.
            UsageError: there are no activations, or not those of so many hook points.
        """
        pairs = zip(self.named.parts, self._sources, strict=True)
        coders = [part.sae.load(source, self.device) for part, source in pairs]
        reads, writes = (
            _starts([getattr(source, width) for source in self._sources])
            for width in ("d_in", "d_out")
        )
        return join(
            self.identity,
            [Part(*one) for one in zip(coders, reads, writes, strict=True)],
            architecture=JOINT,
            origin=self._origin,
            device=self.device,
            details={SAES: [coder.spec.name for coder in coders]},
        )

    @cached_property
    def _sources(self) -> list[OneHook]:
        source, n = self.source, len(self.named.parts)
        if source is None or not isinstance(source, SeveralHooks):
            raise UsageError(f"{self.named.spec}: only language suites splice several SAEs at once")
        if len(source.widths_out) != n:
            raise UsageError(
                f"{self.named.spec}: {n} SAEs cannot be spliced in at {source.site.label}"
            )
        return [OneHook(source, number) for number in range(n)]

    @property
    def _origin(self) -> Origin:
        site = self.source.site if self.source else Site(hook="")
        return Origin(hook=site.hook, hook_out=site.hook_out)


def _starts(widths: Sequence[int]) -> list[int]:
    """Where each begins, side by side."""
    return [0, *accumulate(widths)][:-1]
