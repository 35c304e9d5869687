"""What the header of an array in NumPy's format promises, before a byte of the array is read."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any, Literal, NamedTuple

import numpy as np

LONGEST_HEADER = 1 << 14
"""Bytes within which the header ends; NumPy itself reads none of more than 10,000."""


class Header(NamedTuple):
    """An array as its header has it.

    Attributes:
        shape, dtype: of the array.
        order: "F" where the first index varies fastest, else "C".
        begins: bytes before its first number.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    begins: int

    @property
    def ends(self) -> int:
        """Bytes from the file's first to the array's last."""
        return self.begins + math.prod(self.shape) * self.dtype.itemsize


def read_header(beginning: bytes) -> Header:
    """The header of a file that begins with these bytes, at least `LONGEST_HEADER` if it has them.

    Raises:
        ValueError: there is none, it is of a version without numbers alone, or of objects.
    """
    stream = BytesIO(beginning)
    major, minor = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get((major, minor))
    if read is None:
        raise ValueError(f"version {major}.{minor} of the format is not read")
    shape, is_fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if min(shape, default=0) < 0:
        raise ValueError(f"a negative number in its shape {shape}")
    return Header(shape, dtype, "F" if is_fortran else "C", stream.tell())
