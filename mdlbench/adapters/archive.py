"""Zip archives of weights, of which nothing is unpacked before their directory is looked at."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEGINNING = b"PK\x03\x04"
"""The first bytes of an archive."""
FREE_BYTES, UNPACKED_PER_BYTE = 2**26, 16
"""The most bytes that members unpack to: some for free, and so many for each byte that they have in
the file. Weights need less; a small file that asks for all of the memory needs more."""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, whose members may then be read: none takes more than the file is worth.

    Raises:
        ValueError: members have one name, lie where the file is not, or unpack to too much.
        zipfile.BadZipFile: it is truncated, or no archive.
    """
    with zipfile.ZipFile(path) as archive:
        _check(archive.infolist(), path.stat().st_size)
        yield archive


def unpacked_bytes(path: Path) -> int:
    """Bytes that an archive's members, or a file that is none, may hold; raises as `opened`."""
    with path.open("rb") as file:
        begins = file.read(len(BEGINNING))
    if begins != BEGINNING:
        return path.stat().st_size
    with opened(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _check(members: list[zipfile.ZipInfo], size: int) -> None:
    if len({member.filename for member in members}) < len(members):
        raise ValueError("members of its archive have the same name")
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if packed > size:
        raise ValueError(f"its archive promises {packed:,} bytes, but the file has {size:,}")
    most = FREE_BYTES + UNPACKED_PER_BYTE * packed
    if unpacked > most:
        raise ValueError(
            f"its archive of {packed:,} bytes unpacks to {unpacked:,}, more than {most:,}: "
            "save the weights again, uncompressed"
        )
