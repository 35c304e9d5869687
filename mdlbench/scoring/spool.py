"""Sparse latents of a whole split, kept on disk: encoded once, read by every later pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryFile, gettempdir
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import SpoolError

_DTYPES = {"token": np.int32, "latent": np.int32, "value": np.float32, "side": np.float32}


class SpooledRun(NamedTuple):
    """Latents of one block of tokens, their side information, and each token's document."""

    latents: SparseLatents
    side: Float32[np.ndarray, "token side"]
    document: Int64[np.ndarray, " token"]


class _Extent(NamedTuple):
    first: int
    nnz: int
    document: Int64[np.ndarray, " token"]


class LatentSpool:
    """Append runs block by block, then iterate over them as often as needed.

    The files have no name and vanish with the process, however it ends.

    Raises:
        SpoolError: the temporary folder is missing or full.
    """

    def __init__(self, n_latents: int) -> None:
        self.n_latents = n_latents
        self._extents: list[_Extent] = []
        self._nnz = 0
        self._side_columns = 0
        self._stack = ExitStack()
        try:
            self._files = {
                name: self._stack.enter_context(TemporaryFile())  # noqa: SIM115
                for name in _DTYPES
            }
        except OSError as error:
            raise SpoolError(f"no temporary folder for latents (set TMPDIR): {error}") from error

    def __enter__(self) -> LatentSpool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def append(
        self,
        latents: SparseLatents,
        side: Float32[np.ndarray, "token side"],
        document: Int64[np.ndarray, " token"],
    ) -> None:
        columns = {
            "token": latents.token,
            "latent": latents.latent,
            "value": latents.value,
            "side": side,
        }
        try:
            for name, column in columns.items():
                file = self._files[name]
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(column, dtype=_DTYPES[name]).tobytes())
                file.flush()
        except OSError as error:
            raise SpoolError(
                f"{gettempdir()}: no room for latents (set TMPDIR): {error}"
            ) from error
        self._extents.append(_Extent(self._nnz, latents.nnz, document))
        self._nnz += latents.nnz
        self._side_columns = side.shape[1]

    def runs(self) -> Iterator[SpooledRun]:
        first_token = 0
        for extent in self._extents:
            n_tokens = len(extent.document)
            latents = SparseLatents(
                self._read("token", extent.first, extent.nnz),
                self._read("latent", extent.first, extent.nnz),
                self._read("value", extent.first, extent.nnz),
                n_tokens=n_tokens,
                n_latents=self.n_latents,
            )
            width = self._side_columns
            side = self._read("side", first_token * width, n_tokens * width)
            yield SpooledRun(latents, side.reshape(n_tokens, width), extent.document)
            first_token += n_tokens

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        dtype = np.dtype(_DTYPES[name])
        self._files[name].seek(first * dtype.itemsize)
        return np.fromfile(self._files[name], dtype=dtype, count=count)
