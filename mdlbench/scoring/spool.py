"""Sparse latents of a whole split, kept on disk: encoded once, read by every later pass."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from mdlbench.codes.latents import SparseLatents
from mdlbench.disk.blocks import block_file
from mdlbench.disk.cache import Recipes
from mdlbench.errors import SpoolError


class SpooledRun(NamedTuple):
    """Latents of one block of tokens, their side information, and each token's document."""

    latents: SparseLatents
    side: Float32[np.ndarray, "token side"]
    document: Int64[np.ndarray, " token"]


class LatentSpool:
    """Append runs block by block, then iterate over them as often as needed.

    They vanish from the disk with the context or the process, however that ends; with `recipes`,
    they are in the cache as long as it keeps them, and the runs that are there need no appending.

    Args:
        n_latents: width of the SAE.
        recipes: what each run is: the SAE, the tokens, the scale and the least value kept.

    Raises:
        SpoolError: the temporary folder is missing or full.
    """

    def __init__(self, n_latents: int, recipes: Recipes | None = None) -> None:
        self.n_latents = n_latents
        self._blocks = block_file("latents", recipes)
        self._n_runs = next(index for index in count() if index not in self._blocks)

    def __len__(self) -> int:
        """How many runs there are."""
        return self._n_runs

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
            self._n_runs,
            [
                latents.token.astype(np.int32, copy=False),
                latents.latent.astype(np.int32, copy=False),
                latents.value.astype(np.float32, copy=False),
                side.astype(np.float32, copy=False),
                document,
            ],
        )
        self._n_runs += 1

    def runs(self) -> Iterator[SpooledRun]:
        """The runs in the order in which they were appended.

        Raises:
            SpoolError: one was removed from the cache meanwhile.
        """
        for index in range(self._n_runs):
            found = self._blocks.get(index)
            if found is None:
                raise SpoolError("latents were removed from the cache in use; run it again")
            token, latent, value, side, document = found
            latents = SparseLatents(
                token, latent, value, n_tokens=len(document), n_latents=self.n_latents
            )
            yield SpooledRun(latents, side, document)
