"""Arrays of blocks on disk: computed once, read by every later pass."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from tempfile import TemporaryFile, gettempdir
from typing import NamedTuple

import numpy as np

from mdlbench.errors import SpoolError


class _Extent(NamedTuple):
    """Where an array lies in the file, and what it is."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]


class BlockFile:
    """Tuples of arrays by the number of their block, in a file without a name.

    The file vanishes with the process, however it ends, once it is closed, or with this object: a
    source keeps its own for as long as it is itself kept.

    Args:
        content: what the arrays hold, for messages.

    Raises:
        SpoolError: the temporary folder is missing or full.
    """

    def __init__(self, content: str) -> None:
        self._content = content
        self._blocks: dict[int, list[_Extent]] = {}
        try:
            self._file = TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise SpoolError(f"no temporary folder for {content} (set TMPDIR): {error}") from error
        self._end = weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, index: int) -> bool:
        return index in self._blocks

    def put(self, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Write a block's arrays at the end of the file; blocks may come in any order."""
        extents, start = [], self._file.seek(0, os.SEEK_END)
        for array in arrays:
            extents.append(_Extent(start, array.dtype, array.shape))
            start += array.nbytes
        try:
            for array in arrays:
                np.ascontiguousarray(array).tofile(self._file)
            self._file.flush()
        except OSError as error:
            raise SpoolError(
                f"{gettempdir()}: no room for {self._content} (set TMPDIR): {error}"
            ) from error
        self._blocks[index] = extents

    def read(self, index: int) -> list[np.ndarray]:
        """The arrays of a block, as they were put."""
        return [self._read(*extent) for extent in self._blocks[index]]

    def _read(self, start: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        self._file.seek(start)
        count = int(np.prod(shape))
        return np.fromfile(self._file, dtype=dtype, count=count).reshape(shape)

    def close(self) -> None:
        """Give the disk's room back."""
        self._end()
