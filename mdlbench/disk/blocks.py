"""Arrays of blocks on disk: computed once, read by every later pass.

They last for the run, or, where it is said what they are, in the cache.
"""

from __future__ import annotations

import json
import math
import os
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, NamedTuple, Protocol

import numpy as np

from mdlbench.disk.cache import Cache, Entry, Recipes, kept
from mdlbench.errors import SpoolError, reason

ARRAYS, LAYOUT = "arrays.bin", "layout.json"
"""An entry of the cache: the arrays' bytes one behind the other, and their dtypes and shapes."""
_MOST_LAYOUT = 1 << 16
_NUMBERS = re.compile(r"[<>|][biuf]\d{1,2}")
"""Dtypes that are read back."""


class Blocks(Protocol):
    """Tuples of arrays by the number of their block."""

    def __contains__(self, index: int) -> bool: ...

    def put(self, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Write a block's arrays; blocks may come in any order.

        Raises:
            SpoolError: there is no room.
        """
        ...

    def get(self, index: int) -> list[np.ndarray] | None:
        """The arrays of a block as they were put; None where it is not there, or no longer."""
        ...

    def close(self) -> None:
        """Give the disk's room back, unless it is the cache's."""
        ...


def block_file(content: str, recipes: Recipes | None = None) -> Blocks:
    """Arrays that last for the run; with `recipes`, in the cache as long as it keeps them.

    Args:
        content: what the arrays hold, for messages.
        recipes: what each block is.

    Raises:
        SpoolError: the temporary folder, where it is needed, is missing or full.
        UsageError: the cache's folder or size is not settled.
    """
    return BlockFile(content) if recipes is None else KeptBlocks(content, recipes, kept())


class Extent(NamedTuple):
    """Where an array lies in a file, and what it is."""

    start: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def _extents(start: int, arrays: Sequence[np.ndarray]) -> list[Extent]:
    """Where arrays lie that are written one behind the other."""
    extents = []
    for array in arrays:
        extents.append(Extent(start, array.dtype, array.shape))
        start = extents[-1].stop
    return extents


def _write(file: IO[bytes], arrays: Sequence[np.ndarray]) -> None:
    for array in arrays:
        np.ascontiguousarray(array).tofile(file)
    file.flush()


def _read(file: IO[bytes], extent: Extent) -> np.ndarray:
    file.seek(extent.start)
    count = math.prod(extent.shape)
    return np.fromfile(file, dtype=extent.dtype, count=count).reshape(extent.shape)


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
        self._blocks: dict[int, list[Extent]] = {}
        try:
            self._file = TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise SpoolError(
                f"no temporary folder for {content} (set TMPDIR): {reason(error)}"
            ) from error
        self._end = weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, index: int) -> bool:
        return index in self._blocks

    def get(self, index: int) -> list[np.ndarray] | None:
        """The arrays of a block; None where it is not there."""
        return self.read(index) if index in self._blocks else None

    def put(self, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Write a block's arrays at the end of the file; blocks may come in any order."""
        extents = _extents(self._file.seek(0, os.SEEK_END), arrays)
        try:
            _write(self._file, arrays)
        except OSError as error:
            raise SpoolError(
                f"{gettempdir()}: no room for {self._content} (set TMPDIR): {reason(error)}"
            ) from error
        self._blocks[index] = extents

    def read(self, index: int) -> list[np.ndarray]:
        """The arrays of a block, as they were put."""
        return [_read(self._file, extent) for extent in self._blocks[index]]

    def close(self) -> None:
        """Give the disk's room back."""
        self._end()


class _Kept(NamedTuple):
    """A block in the cache, and where its arrays lie there."""

    entry: Entry
    extents: list[Extent]


class KeptBlocks:
    """Tuples of arrays by the number of their block, each an entry of the cache.

    Another process finds them there. Those that the cache cannot keep last for the run.

    Args:
        content: what the arrays hold, for messages.
        recipes: what each block is.
        cache: where they are kept.
    """

    def __init__(self, content: str, recipes: Recipes, cache: Cache) -> None:
        self._content, self._recipes, self._cache = content, recipes, cache
        self._kept: dict[int, _Kept] = {}
        self._other: BlockFile | None = None

    def __contains__(self, index: int) -> bool:
        return self._find(index) is not None or (self._other is not None and index in self._other)

    def put(self, index: int, arrays: Sequence[np.ndarray]) -> None:
        """Have the cache keep a block's arrays, or else a file without a name."""
        extents = _extents(0, arrays)
        entry = self._cache.keep(self._recipes(index), lambda folder: _write_entry(folder, arrays))
        if entry is not None:
            self._kept[index] = _Kept(entry, extents)
            return
        if self._other is None:
            self._other = BlockFile(self._content)
        self._other.put(index, arrays)

    def get(self, index: int) -> list[np.ndarray] | None:
        """The arrays of a block; None where it is not there, or has been removed meanwhile."""
        found = self._find(index)
        if found is not None:
            try:
                with found.entry.opened(ARRAYS) as file:
                    arrays = [_read(file, extent) for extent in found.extents]
            except OSError:
                del self._kept[index]
            else:
                found.entry.touch()
                return arrays
        return None if self._other is None else self._other.get(index)

    def place(self, index: int) -> tuple[Path, list[Extent]] | None:
        """The file in the cache that a block's arrays lie in, and where; None if it has none."""
        found = self._find(index)
        return None if found is None else (found.entry.folder / ARRAYS, found.extents)

    def _find(self, index: int) -> _Kept | None:
        if index not in self._kept and (entry := self._cache.find(self._recipes(index))):
            try:
                self._kept[index] = _Kept(entry, _layout(entry))
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                self._cache.discard(entry)
        return self._kept.get(index)

    def close(self) -> None:
        """Give the disk's room back, but for what the cache keeps."""
        if self._other is not None:
            self._other.close()


def _write_entry(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    layout = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    (folder / LAYOUT).write_text(json.dumps(layout))
    with (folder / ARRAYS).open("wb") as file:
        _write(file, arrays)


def _layout(entry: Entry) -> list[Extent]:
    """Where an entry's arrays lie; raises `ValueError` where they are not all of its bytes."""
    with entry.opened(LAYOUT) as file:
        layout = json.loads(file.read(_MOST_LAYOUT))
    extents, start = [], 0
    for array in layout:
        shape = tuple(array["shape"])
        if not _NUMBERS.fullmatch(array["dtype"]) or not all(type(n) is int for n in shape):
            raise ValueError("not an array of numbers")
        if min(shape, default=0) < 0:
            raise ValueError("a negative number in a shape")
        extents.append(Extent(start, np.dtype(array["dtype"]), shape))
        start = extents[-1].stop
    if start != entry.files[ARRAYS]["bytes"]:
        raise ValueError("arrays of another size than the file")
    return extents
