"""Sparse latents of a whole split, kept on disk: encoded once, read by every later pass."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from mdlbench.errors import OutputError
from mdlbench.latents import SparseLatents

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

    The temporary files disappear with the spool; use it as a context manager.

    Raises:
        OutputError: the temporary folder is full.
    """

    def __init__(self, n_latents: int) -> None:
        self.n_latents = n_latents
        self._folder = tempfile.TemporaryDirectory(prefix="mdlbench-")
        self._extents: list[_Extent] = []
        self._nnz = 0
        self._side_columns = 0

    def __enter__(self) -> LatentSpool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

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
                with self._path(name).open("ab") as file:
                    file.write(np.ascontiguousarray(column, dtype=_DTYPES[name]).tobytes())
        except OSError as error:
            raise OutputError(f"cannot keep latents in {self._folder.name}: {error}") from error
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

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _read(self, name: str, first: int, count: int) -> np.ndarray:
        dtype = _DTYPES[name]
        offset = first * np.dtype(dtype).itemsize
        return np.fromfile(self._path(name), dtype=dtype, count=count, offset=offset)
