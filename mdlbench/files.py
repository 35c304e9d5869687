"""Files that are either whole or absent, and the cache of files that can be made again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from mdlbench.errors import OutputError, UsageError

PACKAGE = Path(__file__).parent
"""The folder that this package was imported from."""

UNFINISHED = ".part"
"""Ending of a file that is being written; one that nobody writes any more may be deleted."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/mdlbench`; by default `~/.cache/mdlbench`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home() / ".cache") / "mdlbench"


def home() -> Path:
    """The user's own folder; raises `UsageError` where nobody says which it is."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError("there is no home folder: set HOME, or XDG_CACHE_HOME") from error


def expanded(path: str) -> Path:
    """A path whose `~` is the user's own folder; raises `UsageError` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: {error}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
