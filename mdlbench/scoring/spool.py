"""Sparse latents of a whole split, kept on disk: encoded once, read by every later pass."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Append runs block by block, then iterate over them as often as needed.

    They vanish from the disk with the context or the process, however that ends.

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
        self._blocks.close()

    def append(
        self,
        latents: SparseLatents,
        side: Float32[np.ndarray, "token side"],
        document: Int64[np.ndarray, " token"],
    ) -> None:
        """Write a run's latents, in 12 bytes each, behind those of the runs before it."""
        self._blocks.put(
            len(self._blocks),
            [
                latents.token.astype(np.int32, copy=False),
                latents.latent.astype(np.int32, copy=False),
                latents.value.astype(np.float32, copy=False),
                side.astype(np.float32, copy=False),
                document,
            ],
        )

    def runs(self) -> Iterator[SpooledRun]:
        """The runs in the order in which they were appended."""
        for index in range(len(self._blocks)):
            token, latent, value, side, document = self._blocks.read(index)
            latents = SparseLatents(
                token, latent, value, n_tokens=len(document), n_latents=self.n_latents
            )
            yield SpooledRun(latents, side, document)
