"""Files that are either whole or absent, and the cache of files that can be made again."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from mdlbench.errors import OutputError

PACKAGE = Path(__file__).parent
"""The folder that this package was imported from."""

UNFINISHED = ".part"
"""Ending of a file that is being written; one that nobody writes any more may be deleted."""

_AT_ONCE = sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY", "O_CLOEXEC"))
"""Flags of opening that wait for nobody, where the system has them."""
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/mdlbench`; by default `~/.cache/mdlbench`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mdlbench"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file; what waits for a writer or has no end is never read.

    Args:
        path: the file, or a link to it.
        most: the most bytes that it may have.

    Raises:
        OSError: there is no such file, it is a FIFO, a device, a socket or a folder, or it is
            larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | _AT_ONCE)
    except ValueError as error:
        raise OSError(f"no such file: {error}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"not a regular file, but {_kind(status.st_mode)}")
        content = bytearray()
        while status.st_size <= most >= len(content) and (part := os.read(handle, _CHUNK)):
            content += part
    finally:
        os.close(handle)
    if max(status.st_size, len(content)) > most:
        raise OSError(f"larger than {most:,} bytes, which is the most that is read here")
    return bytes(content)


def _kind(mode: int) -> str:
    kinds = {
        "a folder": stat.S_ISDIR,
        "a FIFO": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((name for name, is_kind in kinds.items() if is_kind(mode)), "a device")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it, so that no reader meets half of it.

    Raises:
        OutputError: the folder or the file cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=UNFINISHED)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error
