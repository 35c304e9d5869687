"""Sparse latents of a split, kept on disk: encoded once, read by every later pass."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from mdlbench.codes.latents import SparseLatents
from mdlbench.disk.blocks import BlockFile


class SpooledRun(NamedTuple):
    """Latents of one block of tokens, their side information, and each token's document."""

    latents: SparseLatents
    side: Float32[np.ndarray, "token side"]
    document: Int64[np.ndarray, " token"]


class LatentSpool:
    """Latents by the number of their block, put once and read as often as needed.

    They vanish from the disk with the process, however that ends, or once the spool is closed.

    Raises:
        SpoolError: the temporary folder is missing or full.
    """

    def __init__(self, n_latents: int) -> None:
        self.n_latents = n_latents
        self._blocks = BlockFile("latents")

    def __enter__(self) -> LatentSpool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __contains__(self, index: int) -> bool:
        return index in self._blocks

    def close(self) -> None:
        """Give the disk's room back."""
        self._blocks.close()

    def put(
        self,
        index: int,
        latents: SparseLatents,
        side: Float32[np.ndarray, "token side"],
        document: Int64[np.ndarray, " token"],
    ) -> None:
        """Write a block's latents, in 12 bytes each; blocks may come in any order."""
        self._blocks.put(
            index,
            [
                latents.token.astype(np.int32, copy=False),
                latents.latent.astype(np.int32, copy=False),
                latents.value.astype(np.float32, copy=False),
                side.astype(np.float32, copy=False),
                document,
            ],
        )

    def read(self, index: int) -> SpooledRun:
        """The latents of a block, as they were put."""
        token, latent, value, side, document = self._blocks.read(index)
        latents = SparseLatents(
            token, latent, value, n_tokens=len(document), n_latents=self.n_latents
        )
        return SpooledRun(latents, side, document)
