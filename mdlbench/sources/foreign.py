"""Sources of other packages: however their code fails, it is that site's failure and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from jaxtyping import Float, Float64

from mdlbench.errors import SourceError
from mdlbench.extensions.foreign import blamed
from mdlbench.sources.protocol import ActivationSource, Block, SpliceLoss, Split

Failing = Callable[[str], AbstractContextManager[None]]
"""What to do something in, by its name: an error in it names the source."""


def failing(kind: str) -> Failing:
    """Turn whatever a source of that kind raises, `SystemExit` too, into a `SourceError`."""
    return lambda method: blamed(f"source kind {kind!r}: {method} failed", SourceError)


class ForeignSource:
    """The `ActivationSource` of another package; raises `SourceError` for whatever it raises."""

    def __init__(self, source: ActivationSource, in_: Failing) -> None:
        self._source, self._in = source, in_
        with in_("open"):
            self.site, self.hook = source.site, source.hook
            self.d_in, self.d_out = source.d_in, source.d_out
            self.n_documents, self.n_tokens = source.n_documents, source.n_tokens
            self.data_sha256 = source.data_sha256
            self.image_shape, self.device = source.image_shape, source.device

    def n_blocks(self, split: Split) -> int:
        with self._in("n_blocks"):
            return self._source.n_blocks(split)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        with self._in("blocks"):
            blocks = iter(self._source.blocks(split, start, stop))
        while True:
            with self._in("blocks"):
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        with self._in("clean_ce"):
            return self._source.clean_ce(block)

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        with self._in("ablated_ce"):
            return self._source.ablated_ce(block)

    def splice(
        self, block: Block, reconstruction: Float[torch.Tensor, "token d_out"]
    ) -> SpliceLoss:
        with self._in("splice"):
            return self._source.splice(block, reconstruction)
