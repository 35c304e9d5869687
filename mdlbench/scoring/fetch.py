"""Get all that a later run of a suite without a network needs, and check what is here already.

Files of a hub repository are compared with the hub's own names for their content (SHA-256, or git's
SHA-1 for small ones), and with the SHA-256 that was noted when they were first fetched. A file that
differs is fetched again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mdlbench.adapters.load import NamedCoder
from mdlbench.console.stages import OnStage, silent
from mdlbench.console.terminal import inert
from mdlbench.disk.files import cache_folder, read_regular, sha256_of, write_atomically
from mdlbench.disk.json_text import parse_json
from mdlbench.errors import HubError, MdlbenchError
from mdlbench.hub.hub import HubUnreachableError
from mdlbench.hub.items import Item, datasets_cache, hub_cache, snapshots
from mdlbench.sources.open import Opener
from mdlbench.suite.suite import Suite, SuiteEntry

PREPARED = ".arrow"
"""Ending of the copy of a dataset that `datasets` makes from what it downloads."""
LARGEST_LIST = 1 << 26
"""The most bytes of a list of checksums."""
SHA256, SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Got:
    """An item that is here, and what was wrong with the files that were fetched again."""

    label: str
    n_files: int
    n_bytes: int
    damaged: list[str]

    @property
    def message(self) -> str:
        size = (
            f"{self.n_files} files, {self.n_bytes / 1e6:,.1f} MB" if self.n_files else "installed"
        )
        again = "".join(f"; fetched again, because {problem}" for problem in self.damaged)
        return f"{self.label}: {size}{again}"


@dataclass(frozen=True)
class Missed:
    """An item that is not available, why, and what a run can use instead."""

    label: str
    error: MdlbenchError
    instead: str | None = None

    @property
    def message(self) -> str:
        reason = str(self.error)
        if isinstance(self.error, HubUnreachableError):
            reason = f"not cached, and the hub cannot be reached ({self.error.reason})"
        otherwise = f". Runs will use {self.instead} instead" if self.instead else ""
        return f"{self.label}: {reason}{otherwise}"


def fetch(suite: Suite, on_stage: OnStage = silent) -> Iterator[Got | Missed]:
    """Get and check everything, item by item; one that is missing does not stop the others.

    Raises:
        HubError: the digests noted at the first fetch cannot be read.
    """
    checksums = Checksums.of(suite)
    for item in items(suite):
        on_stage(item.label)
        try:
            yield _fetched(item, checksums)
        except MdlbenchError as error:
            yield Missed(item.label, error, item.instead)


def shown_on(stream: TextIO, quiet: bool) -> OnStage:
    """Progress on a terminal: the current item, and the download bars of the hub's libraries."""
    if stream.isatty() and not quiet:
        return lambda label: print(inert(f"fetching {label}"), file=stream)
    import datasets
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    datasets.disable_progress_bars()
    return lambda label: None


def items(suite: Suite) -> Iterator[Item]:
    """What the suite needs beyond its own folder."""
    yield from Opener(suite).needs()
    for entry in suite.saes:
        for spec in _specs(entry, suite):
            yield from _saes(entry.key, spec, suite.folder)


class Checksums:
    """SHA-256 of every file that was ever fetched for a suite, by its place in the caches."""

    def __init__(self, path: Path, known: dict[str, str]) -> None:
        self._path, self._known = path, known
        self._sound: set[Path] = set()

    @classmethod
    def of(cls, suite: Suite) -> Checksums:
        path = cache_folder() / "fetched" / f"{suite.name}.json"
        return cls(path, _known_digests(path) if path.exists() else {})

    def add(self, files: list[Path]) -> None:
        """Write down new files.

        Raises:
            HubError: the digest of one is neither the hub's nor that of the first fetch.
        """
        for file in files:
            if problem := self.problem(file):
                raise HubError(f"{file}: {problem}, though it has just been fetched")
            self._known.setdefault(_name(file), sha256_of(file))
        content = json.dumps(self._known, indent=1, sort_keys=True)
        write_atomically(self._path, content.encode())

    def forget(self, folder: Path) -> None:
        """Forget the files of a copy made here: another version may make other files."""
        within = f"{_name(folder)}/"
        self._known = {k: v for k, v in self._known.items() if not k.startswith(within)}

    def problem(self, file: Path) -> str | None:
        """What is wrong with a file's content, if anything; each file is read once."""
        if file in self._sound:
            return None
        known, blob = self._known.get(_name(file)), file.resolve().name
        found = sha256_of(file)
        if known is not None and found != known:
            return f"its SHA-256 is {found[:12]}…, and was {known[:12]}… when it was first fetched"
        if SHA256.fullmatch(blob) and found != blob:
            return f"its SHA-256 is {found[:12]}…, and the hub's {blob[:12]}…"
        if SHA1.fullmatch(blob) and _git_sha1(file) != blob:
            return "it is not the hub's"
        self._sound.add(file)
        return None


def _known_digests(path: Path) -> dict[str, str]:
    try:
        known = parse_json(read_regular(path, LARGEST_LIST))
        if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
            raise ValueError("not a list of checksums")
    except (OSError, ValueError) as error:
        raise HubError(f"{path}: cannot be read: {error}; delete it") from error
    return known


def _fetched(item: Item, checksums: Checksums) -> Got:
    damaged = []
    for file in item.files():
        if file.exists() and (problem := checksums.problem(file)):
            damaged.append(f"{file.name} is damaged ({problem})")
            _remove(file, checksums)
    try:
        item.get()
    except MdlbenchError as error:
        if not damaged:
            raise
        raise HubError("; ".join([*damaged, str(error)])) from error
    files = item.files()
    checksums.add(files)
    return Got(item.label, len(files), sum(file.stat().st_size for file in files), damaged)


def _remove(file: Path, checksums: Checksums) -> None:
    """A damaged file, with the blob that it links to; a dataset's prepared copy as a whole."""
    if file.suffix == PREPARED:
        checksums.forget(file.parent)
        shutil.rmtree(file.parent)
        return
    file.resolve().unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _specs(entry: SuiteEntry, suite: Suite) -> list[str]:
    """The specs of an entry; of SAEs that are spliced in at once, those that have no key."""
    if not entry.splice:
        return [entry.spec]
    return [word for word in entry.words if word not in suite.keys]


def _saes(key: str, spec: str, folder: Path) -> Iterator[Item]:
    """The SAEs of a spec that are on the hub."""
    try:
        found = [(sae, sae.hub_place()) for sae in NamedCoder(spec, folder).expand()]
    except MdlbenchError as error:
        yield Item(key, _raising(error))
        return
    for sae, place in found:
        if place is not None:
            label = key if len(found) == 1 else f"{key}: {sae.spec}"
            kept = snapshots(place.repo)
            places = tuple((kept, beginning) for beginning in place.beginnings)
            yield Item(label, sae.fetch, places)


def _raising(error: MdlbenchError) -> Callable[[], None]:
    def get() -> None:
        raise error

    return get


def _name(file: Path) -> str:
    """A file's path within the cache that holds it: it names no folder of this machine."""
    for cache in (hub_cache(), cache_folder()):
        if file.is_relative_to(cache):
            return file.relative_to(cache).as_posix()
    return file.relative_to(datasets_cache()).as_posix()


def _git_sha1(file: Path) -> str:
    """What git calls a file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
