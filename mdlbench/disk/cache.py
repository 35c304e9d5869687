"""What can be made again, kept on disk under the SHA-256 of a description of what it is.

An entry is a folder of files beside a manifest. It is written apart and renamed into place, so
that several processes may keep the same entry at once, on file systems without locks too: one of
them succeeds, and the others use what it made. An entry is never changed afterwards.

Before a process uses an entry, it checks the manifest's seal, that the description in it is the one
asked for, that the folder has the manifest's files and no others, and each file's size and SHA-256.
What does not fit is removed, and made again by whoever needs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

from mdlbench.disk.files import (
    cache_folder,
    clear_unfinished,
    folder_beside,
    plain_file,
    remove_at_once,
)
from mdlbench.errors import MdlbenchWarning, UsageError, shown

KEPT = "kept"
"""Folder of the entries, within the cache."""
MANIFEST = "manifest.json"
FORMAT = 1
"""Version of manifests and keys; entries of another one are never found."""
LIMIT = "MDLBENCH_CACHE_LIMIT"
"""Environment variable: the most bytes that all entries may have together, such as `20GB`."""
USUAL_LIMIT = 50 * 10**9
"""Activations for a million tokens at five hooks of a model of 2,304 dimensions."""
RESERVE = 10**9
"""Bytes of the disk that are left to others."""
DAMAGED = "damaged"
"""The kind of what has no manifest that can be read."""
_MOST_MANIFEST = 1 << 20
_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"\w[\w.-]{0,100}", re.ASCII)
_SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,9})?) ?(?P<unit>[KMGT]?)B?", re.IGNORECASE)
_FACTS = {"bytes": int, "sha256": str}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SCANS = 16
"""The disk is looked at again after so small a share of the limit was written."""


@dataclass(frozen=True)
class Recipe:
    """A description of what an entry is.

    Attributes:
        kind: what sort of thing it is, in a word.
        what: the same more closely, for people; it does not count.
        facts: all that its content depends on, in what JSON has.
    """

    kind: str
    what: str
    facts: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """The SHA-256 of kind and facts, in hexadecimal."""
        return _sha256({"format": FORMAT, "kind": self.kind, "facts": self.facts})


Recipes = Callable[[int], Recipe]
"""What each block of something is, by the block's number."""


@dataclass(frozen=True)
class Entry:
    """An entry that was found whole.

    Attributes:
        files: `bytes` and `sha256` of each of its files, by name.
    """

    folder: Path
    files: Mapping[str, Mapping[str, Any]]

    @contextmanager
    def opened(self, name: str) -> Iterator[BufferedReader]:
        """One of its files; raises `OSError` where it is gone, or no longer of its size."""
        with plain_file(self.folder / name) as file:
            if os.fstat(file.fileno()).st_size != self.files[name]["bytes"]:
                raise OSError(f"{self.folder / name}: no longer whole")
            yield file

    def touch(self) -> None:
        """Note that it is used."""
        with suppress(OSError):
            os.utime(self.folder / MANIFEST)


@dataclass(frozen=True)
class Held:
    """An entry as it lies on the disk, whole or not.

    Attributes:
        kind, what: its recipe's; kind is `DAMAGED` where there is no manifest.
        used: when it was last used, in seconds since 1970.
    """

    folder: Path
    kind: str
    what: str
    n_bytes: int
    used: float


class _DamagedError(Exception):
    """An entry is not what its manifest says."""


class Cache:
    """The entries of one folder.

    The first trouble with writing (no room, no right to) is said in one line. From then on this
    process keeps nothing more; what it finds it uses all the same.

    Args:
        folder: where the entries are.
        limit: the most bytes that they may have together. What was used longest ago makes room,
            except for what this process uses. With 0, nothing is kept.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._used: set[str] = set()
        self._is_closed = limit == 0
        self._n_bytes, self._n_new = 0, limit

    def find(self, recipe: Recipe) -> Entry | None:
        """The entry of a recipe, if there is one and it is whole; a damaged one is removed."""
        folder = self._folder / recipe.key
        if not os.path.lexists(folder):
            return None
        try:
            entry = _checked(folder)
        except _DamagedError as error:
            _warn(f"{folder}: damaged ({error}), so it is not used but made again")
            remove_at_once(folder)
            return None
        except OSError:
            return None
        self._used.add(recipe.key)
        entry.touch()
        return entry

    def discard(self, entry: Entry) -> None:
        """Remove an entry."""
        remove_at_once(entry.folder)

    def keep(self, recipe: Recipe, write: Callable[[Path], None]) -> Entry | None:
        """The entry of a recipe, made now unless it is there; None where it cannot be kept.

        Args:
            recipe: what it is.
            write: writes its files into a folder, without subfolders; may raise `OSError`.
        """
        if self._is_closed:
            return None
        try:
            return self._made(recipe, write)
        except OSError as error:
            self._close(str(error))
            return None

    def _made(self, recipe: Recipe, write: Callable[[Path], None]) -> Entry | None:
        folder = self._folder / recipe.key
        if found := self.find(recipe):
            return found
        with folder_beside(folder) as beside:
            write(beside)
            files, n_bytes = _write_manifest(beside, recipe)
            if not self._make_room(n_bytes):
                self._close(f"no room for {n_bytes:,} bytes more (see {LIMIT})")
                return None
            if not _rename(beside, folder):
                return self._others(recipe)
        self._n_bytes += n_bytes
        self._n_new += n_bytes
        self._used.add(recipe.key)
        return Entry(folder, files)

    def _others(self, recipe: Recipe) -> Entry | None:
        """What another process has made meanwhile."""
        entry = self.find(recipe)
        if entry is None:
            self._close(f"{recipe.key} is there, but cannot be read")
        return entry

    def _make_room(self, n_bytes: int) -> bool:
        """Remove what was used longest ago until there is room; whether there is."""
        if self._n_new * _SCANS < self._limit and self._has_room(n_bytes):
            return True
        clear_unfinished(self._folder)
        held = sorted(self.held(), key=lambda one: one.used)
        self._n_bytes, self._n_new = sum(one.n_bytes for one in held), 0
        for one in held:
            if self._has_room(n_bytes):
                break
            if one.folder.name not in self._used and remove_at_once(one.folder):
                self._n_bytes -= one.n_bytes
        return self._has_room(n_bytes)

    def _has_room(self, n_bytes: int) -> bool:
        is_within = self._n_bytes + n_bytes <= self._limit
        return is_within and shutil.disk_usage(self._folder).free >= RESERVE

    def _close(self, reason: str) -> None:
        self._is_closed = True
        _warn(f"{self._folder}: {reason}; the run goes on, and keeps nothing more there")

    def held(self, kind: str | None = None, unused_seconds: float = 0.0) -> list[Held]:
        """The entries, whole or not, in the order of their keys.

        Args:
            kind: only those of that kind.
            unused_seconds: only those that nobody has used for so long.
        """
        before = time.time() - unused_seconds
        try:
            paths = sorted(self._folder.iterdir())
        except OSError:
            return []
        found = (_held(path) for path in paths if _KEY.fullmatch(path.name))
        return [one for one in found if one and one.used <= before and kind in (None, one.kind)]

    def clear(self, kind: str | None = None, unused_seconds: float = 0.0) -> list[Held]:
        """Remove what `held` lists, and what killed processes have left; returns what is gone."""
        clear_unfinished(self._folder)
        return [one for one in self.held(kind, unused_seconds) if remove_at_once(one.folder)]


def kept() -> Cache:
    """The cache of this user: `kept` in `cache_folder()`, of the size that `LIMIT` has.

    Raises:
        UsageError: `LIMIT` is no size, or there is no home folder.
    """
    return _cache_at(cache_folder() / KEPT, _limit())


@cache
def _cache_at(folder: Path, limit: int) -> Cache:
    return Cache(folder, limit)


def _limit() -> int:
    asked = os.environ.get(LIMIT, "").strip()
    if not asked:
        return USUAL_LIMIT
    found = _SIZE.fullmatch(asked)
    if found is None:
        raise UsageError(f"{LIMIT} is {shown(asked)}, not a size such as 20GB or 500MB")
    return int(float(found["number"]) * _UNITS[found["unit"].upper()])


def _checked(folder: Path) -> Entry:
    """The entry in a folder.

    Raises:
        _DamagedError: it is not whole.
        OSError: it is gone, or cannot be read.
    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise _DamagedError("no folder")
    names = {path.name for path in folder.iterdir()}
    entry = Entry(folder, _manifest(folder)["files"])
    if names != {MANIFEST, *entry.files}:
        raise _DamagedError("it does not have the files of its manifest")
    for name, facts in entry.files.items():
        if not _is_regular(folder / name) or (folder / name).lstat().st_size != facts["bytes"]:
            raise _DamagedError(f"{name} has another size than in its manifest")
        if _file_sha256(folder / name) != facts["sha256"]:
            raise _DamagedError(f"{name} has another content than in its manifest")
    return entry


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an entry; raises as `_checked` does."""
    try:
        if not _is_regular(folder / MANIFEST):
            raise _DamagedError("its manifest is not a regular file")
        with plain_file(folder / MANIFEST) as file:
            content = json.loads(file.read(_MOST_MANIFEST))
        seal = content.pop("seal")
        description = {key: content[key] for key in ("format", "kind", "facts")}
        if seal != _sha256(content) or folder.name != _sha256(description):
            raise ValueError("its seal does not fit")
        for name, facts in content["files"].items():
            if not _NAME.fullmatch(name) or {key: type(facts[key]) for key in facts} != _FACTS:
                raise ValueError(f"no facts of a file: {name}")
    except FileNotFoundError as error:
        if not folder.exists():
            raise
        raise _DamagedError("it has no manifest") from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _DamagedError("its manifest is altered") from error
    return dict(content)


def _write_manifest(folder: Path, recipe: Recipe) -> tuple[dict[str, dict[str, Any]], int]:
    """Write the manifest of the files in a folder; returns their facts, and the bytes of all."""
    files: dict[str, dict[str, Any]] = {
        path.name: {"bytes": path.lstat().st_size, "sha256": _file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    content = {
        "format": FORMAT,
        "kind": recipe.kind,
        "what": recipe.what,
        "facts": recipe.facts,
        "files": files,
    }
    manifest = json.dumps(content | {"seal": _sha256(content)}, indent=1).encode()
    (folder / MANIFEST).write_bytes(manifest)
    return files, sum(path.lstat().st_size for path in folder.iterdir())


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _file_sha256(path: Path) -> str:
    with plain_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _held(folder: Path) -> Held | None:
    """What lies in a folder; None where it is gone."""
    try:
        stats = [folder.lstat()]
        if stat.S_ISDIR(stats[0].st_mode):
            stats += [path.lstat() for path in folder.iterdir()]
        used = stats[0].st_mtime
        kind, what = DAMAGED, ""
        with suppress(_DamagedError):
            manifest = _manifest(folder)
            kind, what = str(manifest["kind"]), str(manifest["what"])
            used = (folder / MANIFEST).lstat().st_mtime
    except OSError:
        return None
    return Held(folder, kind, what, sum(found.st_size for found in stats[1:]), used)


def _rename(beside: Path, folder: Path) -> bool:
    """Rename, unless another process was quicker; whether this one was the first."""
    try:
        beside.rename(folder)
    except OSError:
        if not os.path.lexists(folder):
            raise
        return False
    return True


def _sha256(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _warn(message: str) -> None:
    warnings.warn(message, MdlbenchWarning, stacklevel=3)
