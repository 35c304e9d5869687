"""Something else where a file is expected."""

from __future__ import annotations

import lzma
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path


def _gone(file: Path) -> None:
    file.unlink()


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nosuch")


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _linked(target: str) -> Callable[[Path], None]:
    def link(file: Path) -> None:
        file.unlink()
        file.symlink_to(target)

    return link


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _sparse(file: Path) -> None:
    """A gigabyte of zeros that takes no room."""
    with file.open("wb") as handle:
        handle.truncate(1 << 30)


def _xz(file: Path) -> None:
    """Compressed as a whole; 300 MB of zeros behind the content."""
    compressor = lzma.LZMACompressor()
    parts = [compressor.compress(file.read_bytes())]
    parts += [compressor.compress(bytes(1 << 20)) for _ in range(300)]
    file.write_bytes(b"".join([*parts, compressor.flush()]))


def _link_to_itself(file: Path) -> None:
    """A link to the right file elsewhere: nothing is wrong with that."""
    elsewhere = file.with_name("elsewhere")
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere.name)


REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "no file": _gone,
    "a loop of links": _loop,
    "a dangling link": _dangling,
    "a FIFO": _fifo,
    "/dev/zero": _linked("/dev/zero"),
    "/dev/urandom": _linked("/dev/urandom"),
    "/dev/null": _linked("/dev/null"),
    "a folder": _folder,
    "an empty file": _empty,
    "1 GB of zeros": _sparse,
    "an xz file": _xz,
    "a link": _link_to_itself,
}


def replaced(file: Path, draw: random.Random) -> str:
    """Put one of these in the place of a file; says which."""
    name = draw.choice(list(REPLACEMENTS))
    REPLACEMENTS[name](file)
    return name


def scrambled(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The bytes, broken: flipped, cut, inserted, doubled, blanked; often near either end."""
    name = draw.choice(["bits flipped", "truncated", "bytes inserted", "a span removed",
                        "a span doubled", "a span blanked"])  # fmt: skip
    where = _place(len(data), draw)
    span = min(draw.choice([1, 2, 8, 64, 512]), len(data) - where)
    if name == "bits flipped":
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 3, 20])):
            changed[_place(len(data), draw)] ^= 1 << draw.randrange(8)
        return name, bytes(changed)
    middle = {
        "truncated": None,
        "bytes inserted": draw.randbytes(span) + data[where : where + span],
        "a span removed": b"",
        "a span doubled": 2 * data[where : where + span],
        "a span blanked": bytes(span),
    }[name]
    if middle is None:
        return name, data[:where]
    return name, data[:where] + middle + data[where + span :]


def _place(size: int, draw: random.Random) -> int:
    """Half of the time among the first or last 400 bytes, where most formats keep what matters."""
    near = min(400, size)
    place = draw.choice(
        [draw.randrange(size), draw.randrange(near), size - 1 - draw.randrange(near)]
    )
    return draw.choice([draw.randrange(size), place])
