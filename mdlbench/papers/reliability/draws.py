"""Other draws of a world's data: later blocks of the same two streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64

from mdlbench.errors import SourceError
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import (
    SPLITS,
    ActivationSource,
    Block,
    Firing,
    KnowsFeatures,
    SpliceLoss,
    Split,
)
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite


@dataclass(frozen=True)
class Window:
    """Consecutive blocks of each split."""

    start: Mapping[Split, int]
    stop: Mapping[Split, int]


class LaterBlocks:
    """The `ActivationSource` whose splits are some blocks of another's; it `KnowsFeatures`.

    Its documents are numbered from 0 again.

    Raises:
        SourceError: the other one does not know its features.
    """

    def __init__(self, source: ActivationSource, window: Window) -> None:
        if not isinstance(source, KnowsFeatures):
            raise SourceError("data can only be drawn anew where the features are known")
        self._source, self._knowing, self._window = source, source, window
        self.site = source.site
        self.hook = source.hook
        self.d_in, self.d_out = source.d_in, source.d_out
        self.features = source.features
        self.image_shape = source.image_shape
        self.device = source.device
        self._first: dict[Split, int] = {}
        self.n_documents: dict[Split, int] = {}
        self.n_tokens: dict[Split, int] = {}
        for split in SPLITS:
            documents = [block.document for block in self._there(split)]
            self._first[split] = int(documents[0][0])
            self.n_documents[split] = int(documents[-1][-1]) + 1 - self._first[split]
            self.n_tokens[split] = sum(map(len, documents))
        words = f"{source.data_sha256} {window.start} {window.stop}"
        self.data_sha256 = hashlib.sha256(words.encode()).hexdigest()

    def n_blocks(self, split: Split) -> int:
        return self._window.stop[split] - self._window.start[split]

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        for index in range(self.n_blocks(split))[start:stop]:
            block = next(self._there(split, index, index + 1))
            document = block.document - self._first[split]
            yield replace(block, index=index, document=document)

    def _there(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        inside = range(self._window.start[split], self._window.stop[split])[start:stop]
        return self._source.blocks(split, inside.start, inside.stop)

    def _original(self, split: Split, block: Block) -> Block:
        return replace(block, index=block.index + self._window.start[split])

    def firing(self, split: Split, block: Block) -> Firing:
        return self._knowing.firing(split, self._original(split, block))

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        return self._source.clean_ce(self._original("test", block))

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        return self._source.ablated_ce(self._original("test", block))

    def splice(self, block: Block, reconstruction: Float[torch.Tensor, "token d"]) -> SpliceLoss:
        return self._source.splice(self._original("test", block), reconstruction)


class WindowOpener(Opener):
    """Opens a suite's source at a window of its blocks."""

    def __init__(self, suite: Suite, window: Window) -> None:
        super().__init__(suite)
        self._window = window

    def open(self, site: Site) -> ActivationSource:
        return LaterBlocks(super().open(site), self._window)
