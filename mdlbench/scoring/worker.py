"""A worker: it holds a site's activations, an SAE and its latents, and makes again what it lacks.

Nothing that a worker holds is needed for the result: whatever a task asks for is made from the
task's own recipe where it is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float32

from mdlbench.adapters import checked
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.independence import Trial
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes.latents import SparseLatents
from mdlbench.console.stages import OnStage, silent
from mdlbench.scoring.spool import LatentSpool, SpooledRun
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import ActivationSource, Block, Split
from mdlbench.suite.site import Site

Made = TypeVar("Made")


class FoundCoder(Protocol):
    """An SAE that was found; loaded when its coder is asked for."""

    @property
    def identity(self) -> CoderIdentity: ...

    @property
    def coder(self) -> SparseCoder: ...


class Sae(Protocol):
    """How an SAE is had, wherever a worker is; `mdlbench.adapters.load.NamedCoder` is one."""

    def at(self, source: ActivationSource, device: str) -> FoundCoder:
        """It for a source's activations, computing on a device."""
        ...


@dataclass(frozen=True, eq=False)
class HeldSae:
    """An SAE that is an object of this process.

    Attributes:
        load: makes a coder of it for a source.
    """

    load: Callable[[ActivationSource], SparseCoder]

    def at(self, source: ActivationSource, device: str) -> _HeldCoder:
        """It for a source's activations; it computes wherever it is."""
        return _HeldCoder(self.load, source)


@dataclass(frozen=True, eq=False)
class _HeldCoder:
    load: Callable[[ActivationSource], SparseCoder]
    source: ActivationSource

    @property
    def identity(self) -> CoderIdentity:
        return self.coder.spec.identity

    @cached_property
    def coder(self) -> SparseCoder:
        return self.load(self.source)


@dataclass(frozen=True)
class Subject:
    """An SAE at a site: what is measured."""

    site: Site
    sae: Sae


@dataclass(frozen=True)
class Encoding:
    """Which latents are kept: those of an SAE, scaled, that round to something at some step.

    Attributes:
        subject: the SAE, and where.
        normalised: whether decoder norms are folded into the latents.
        finest: the finest step.
    """

    subject: Subject
    normalised: bool
    finest: float


class Worker:
    """Holds what it has made at one site, of one SAE, for one encoding.

    Args:
        opener: opens the suite's activations.
        on_stage: told of the stages of a task that does a whole measurement.
    """

    def __init__(self, opener: Opener, on_stage: OnStage = silent) -> None:
        self.opener, self.on_stage = opener, on_stage
        self._held: tuple[Hashable, Any] = (None, None)
        self._source: ActivationSource | None = None
        self._subject: Subject | None = None
        self._found: FoundCoder | None = None
        self._trial: Trial | None = None
        self._remembered: dict[Hashable, Any] = {}
        self._encoding: Encoding | None = None
        self._latents: dict[Split, LatentSpool] = {}

    def source(self, site: Site) -> ActivationSource:
        """The activations at a site; those of another one are let go."""
        if self._source is None or self._source.site != site:
            self._forget_coder()
            self._source = None
            self._source = self.opener.open(site)
        return self._source

    def holding(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made once, and held until something is asked for under another key."""
        if self._held[0] != key:
            self._held = (key, make())
        made: Made = self._held[1]
        return made

    def found(self, subject: Subject) -> FoundCoder:
        """The SAE, as it was found; another one is let go."""
        if self._found is None or self._subject != subject:
            source = self.source(subject.site)
            self._forget_coder()
            self._found = subject.sae.at(source, str(source.device))
            self._subject = subject
        return self._found

    def remembered(self, subject: Subject) -> dict[Hashable, Any]:
        """What tasks have found of the SAE, by what they asked; another SAE's is forgotten.

        It is for what several modes have in common, and is as small as a sum per document.
        """
        self.found(subject)
        return self._remembered

    def coder(self, subject: Subject) -> SparseCoder:
        """The SAE, loaded; raises `CheckpointError` or `CoderError` as its adapter does."""
        return self.found(subject).coder

    def trial(self, subject: Subject) -> Trial:
        """Some of its tokens encoded before any others."""
        coder = self.coder(subject)
        if self._trial is None:
            first = next(iter(self.source(subject.site).blocks("calibration", 0, 1)))
            self._trial = Trial.of(coder, first.given)
        return self._trial

    def encode(
        self, encoding: Encoding, block: Block, split: Split
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        """The latents of a block and their side information, of which a scaled copy is kept."""
        coder = self.coder(encoding.subject)
        latents, side = checked.encode(coder, block.given)
        scaled = latents.scaled(quantiser_scale(coder.spec.decoder_norms, encoding.normalised))
        spool = self._spools(encoding)[split]
        spool.put(block.index, _audible(scaled, encoding.finest), side, block.document)
        return latents, side

    def latents(
        self, encoding: Encoding, split: Split, start: int, stop: int
    ) -> Iterator[SpooledRun]:
        """The kept latents of consecutive blocks; those that are missing are encoded again."""
        spool = self._spools(encoding)[split]
        for index in range(start, stop):
            if index not in spool:
                source = self.source(encoding.subject.site)
                for block in source.blocks(split, index, index + 1):
                    self.encode(encoding, block, split)
            yield spool.read(index)

    def _spools(self, encoding: Encoding) -> dict[Split, LatentSpool]:
        n_latents = self.coder(encoding.subject).spec.d_latents
        if self._encoding != encoding:
            self.forget_latents()
            self._encoding = encoding
            self._latents = {
                "calibration": LatentSpool(n_latents),
                "test": LatentSpool(n_latents),
            }
        return self._latents

    def _forget_coder(self) -> None:
        self.forget_latents()
        self._subject = self._found = self._trial = None
        self._remembered = {}

    def forget_latents(self) -> None:
        """Give back the room of the latents that are kept."""
        for spool in self._latents.values():
            spool.close()
        self._latents, self._encoding = {}, None


def quantiser_scale(
    decoder_norms: Float32[np.ndarray, " latent"], normalised: bool
) -> Float32[np.ndarray, " latent"]:
    """Factor on each latent before rounding: 1 for `uniform`, otherwise ‖w_i‖ (maths §2)."""
    return decoder_norms if normalised else np.ones_like(decoder_norms)


def _audible(latents: SparseLatents, finest: float) -> SparseLatents:
    """Without the values that round to zero at the finest step, and so at every step."""
    keep = np.abs(latents.value) >= finest / 2
    return SparseLatents(
        latents.token[keep],
        latents.latent[keep],
        latents.value[keep],
        latents.n_tokens,
        latents.n_latents,
    )
