"""Arrays of blocks on disk: computed once, read by every later pass."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryFile, gettempdir

import numpy as np

from mdlbench.errors import SpoolError


class BlockFile:
    """Tuples of arrays, one tuple a block, in a file that vanishes with the process.

    Raises:
        SpoolError: the temporary folder is missing or full.
    """

    def __init__(self) -> None:
        self._extents: list[tuple[int, int]] = []
        try:
            self._file = TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise SpoolError(
                f"no temporary folder for activations (set TMPDIR): {error}"
            ) from error

    def __len__(self) -> int:
        return len(self._extents)

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        try:
            start = self._file.seek(0, 2)
            for array in arrays:
                np.lib.format.write_array(self._file, array, allow_pickle=False)
            self._file.flush()
        except OSError as error:
            raise SpoolError(
                f"{gettempdir()}: no room for activations (set TMPDIR): {error}"
            ) from error
        self._extents.append((start, len(arrays)))

    def read(self, index: int) -> list[np.ndarray]:
        """The arrays of a block."""
        start, count = self._extents[index]
        self._file.seek(start)
        return [np.lib.format.read_array(self._file, allow_pickle=False) for _ in range(count)]
