"""Files that are either whole or absent, and the cache of files that can be made again."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from mdlbench.errors import OutputError, UsageError, reason

PACKAGE = Path(__file__).parent.parent
"""The folder that this package was imported from."""

UNFINISHED = ".part"
"""Ending of a file that is being written; `clear_unfinished` removes those of the dead."""

_AT_ONCE = sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY", "O_CLOEXEC"))
"""Flags of opening that wait for nobody, where the system has them."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_CHUNK = 1 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""What a file system without hard links answers."""
_WRITER = re.compile(r"-[0-9a-f]{6}\.(?P<pid>[0-9]{1,10})-[^-]*$")
"""The end of an unfinished file's name: which machine, which process, and what makes it unique."""
_ABANDONED_SECONDS = 24 * 3600.0
"""Nobody writes one file for so long."""


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
        parts, read = [b""], 0
        # at once, so that the file is in memory once; then what was appended in the meantime
        while status.st_size <= most >= read and (
            part := os.read(handle, max(status.st_size - read, _CHUNK))
        ):
            parts.append(part)
            read += len(part)
    finally:
        os.close(handle)
    if max(status.st_size, read) > most:
        raise OSError(f"larger than {most:,} bytes, which is the most that is read here")
    return parts[-1] if len(parts) == 2 else b"".join(parts)


@contextmanager
def plain_file(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading; raises `OSError` for a link and for all else."""
    with os.fdopen(os.open(path, os.O_RDONLY | _AT_ONCE | _NO_LINK), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"not a regular file, but {_kind(mode)}")
        yield file


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
    with _written_beside(path, content) as beside:
        beside.replace(path)


def create_atomically(path: Path, content: bytes) -> bool:
    """Write a file whole, unless there is one; of several that try at once, one succeeds.

    Where the file system has no links, two that try within the same instant may both succeed.

    Returns:
        Whether the file is this one.

    Raises:
        OutputError: as for `write_atomically`.
    """
    with _written_beside(path, content) as beside:
        try:
            os.link(beside, path)
        except FileExistsError:
            return beside.stat().st_nlink > 1
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():
                return False
            beside.replace(path)
        return True


@contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A file of this content in the folder of `path`, removed afterwards if it is still there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=UNFINISHED)
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.chmod(0o644)
            yield beside
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason(error)}") from error


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, to be renamed to it; removed afterwards if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=UNFINISHED))
    try:
        beside.chmod(0o755)
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_at_once(folder: Path) -> bool:
    """Remove a folder, or a link, so that no reader meets half of it; whether it is gone."""
    try:
        with folder_beside(folder) as beside:
            folder.rename(beside / "removed")
    except OSError:
        return not os.path.lexists(folder)
    return True


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes have left unfinished in a folder.

    That is what a process of this machine wrote that has ended, and what is older than a day.
    """
    for path in folder.glob(f".*{UNFINISHED}"):
        with suppress(OSError):
            if _is_abandoned(path) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif _is_abandoned(path):
                path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    written_by = _WRITER.search(path.name)
    if written_by is not None:
        pid = int(written_by["pid"])
        if path.name[written_by.start() :].startswith(f"-{_writer(pid)}-") and not _runs(pid):
            return True
    return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS


def _prefix(path: Path) -> str:
    """How the name begins that `path` has while this process writes it."""
    return f".{path.name}-{_writer(os.getpid())}-"


def _writer(pid: int) -> str:
    """Which process of which machine writes a file, as part of the file's name."""
    host = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
    return f"{host}.{pid}"


def _runs(pid: int) -> bool:
    """Whether there may be such a process on this machine."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
