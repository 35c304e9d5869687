"""Zip archives of weights, of which nothing is unpacked before their directory is looked at."""

from __future__ import annotations

import zipfile
from pathlib import Path

BEGINNING = b"PK\x03\x04"
"""The first bytes of an archive."""
FREE_BYTES, UNPACKED_PER_BYTE = 2**26, 16
"""The most bytes that members unpack to: some for free, and so many for each byte that they have in
the file. Weights need less; a small file that asks for all of the memory needs more."""


def unpacked_bytes(path: Path) -> int:
    """Bytes that an archive's members, or a file that is none, may hold; raises as `check`."""
    with path.open("rb") as file:
        begins = file.read(len(BEGINNING))
    if begins != BEGINNING:
        return path.stat().st_size
    with zipfile.ZipFile(path) as found:
        check(found, path)
        return sum(member.file_size for member in found.infolist())


def check(found: zipfile.ZipFile, path: Path) -> None:
    """Let members be read only if none can take more than the file is worth.

    Raises:
        ValueError: members have one name, promise more than the file has, or unpack to too much.
    """
    members, size = found.infolist(), path.stat().st_size
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
