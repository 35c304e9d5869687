"""Records in a folder: written whole or not at all, found again by identity."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from mdlbench.errors import OutputError, RecordError, UsageError
from mdlbench.files import write_atomically
from mdlbench.records.record import (
    EvalRecord,
    Identity,
    Measurement,
    References,
    SiteReferences,
    parse_record,
    parse_references,
)
from mdlbench.suite.suite import Headline

RECORDS = "records"
REFERENCES = "references.json"
HOMES = (Path("results"), Path("leaderboards"))
"""Where a results folder is looked up by its name."""
ARCHIVE = "archive"
"""Subfolder of records that were measured with another version of their suite."""


class Moved(NamedTuple):
    """How many records were moved, because the suite is not what it was when they were made.

    Attributes:
        away: to the archive.
        back: from the archive, as the suite is again what it was.
    """

    away: int
    back: int


class RecordStore:
    """The records of a results folder, in its subfolder `records`."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = folder, folder / RECORDS

    def prepare(self) -> None:
        """Raise `OutputError` now rather than after an hour of work."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be created: {error}") from error
        write_atomically(self.folder / ".writable", b"")
        (self.folder / ".writable").unlink(missing_ok=True)

    def find(self, identity: Identity) -> EvalRecord | None:
        """The finished record of exactly this identity, if there is one.

        Raises:
            RecordError: the file in its place cannot be read, has a newer schema, or holds
                something else; it is left as it is.
        """
        path = self.path(identity)
        if not path.exists():
            return None
        record = read_record(path)
        if record.identity != identity:
            raise RecordError(f"{path}: stands in the place of another record; move it away")
        return record

    def save(self, record: EvalRecord) -> Path:
        path = self.path(record.identity)
        write_atomically(path, record.to_json().encode())
        return path

    def keep_only(self, measurement: Measurement) -> Moved:
        """Move records of other measurements to the archive, and those of this one back.

        Raises:
            OutputError: another record stands in the place of one; both are left as they are.
            RecordError: a file among the records is not a record.
        """
        archive = self.root / ARCHIVE
        archived = _readable(record_paths(archive))
        kept = {path: read_record(path) for path in record_paths(self.folder)}
        away = {
            path: archive / file_name(record.identity)
            for path, record in kept.items()
            if record.measurement != measurement
        }
        back = {
            path: self.path(record.identity)
            for path, record in archived.items()
            if record.measurement == measurement
        }
        for path, target in (away | back).items():
            _move(path, target)
        return Moved(len(away), len(back))

    def has_site(self, measurement: Measurement, site: str, data_sha256: str) -> bool:
        """Whether the folder has what the curves at a site are drawn against.

        Args:
            measurement: what is to be measured there.
            site: its label.
            data_sha256: of the data at the site.

        Raises:
            UsageError: the folder holds another suite's results, limited ones, or another text's.
        """
        known = self._references()
        if known is None:
            return False
        if (known.suite, known.limit) != (measurement.suite, measurement.limit):
            raise UsageError(
                f"{self.root} holds results of {known.measurement.describe()}, not of "
                f"{measurement.describe()}; choose another folder with -o"
            )
        if known.measurement != measurement:
            return False
        if known.of_data(data_sha256):
            return True
        if site in [known_site.site.label for known_site in known.sites]:
            raise UsageError(
                f"{self.root} holds results at {site} on other data; choose another folder with -o"
            )
        return False

    def add_site(self, measurement: Measurement, headline: Headline, site: SiteReferences) -> Moved:
        """Add a site to those that the folder holds; archive what an older suite measured.

        Raises:
            OutputError, RecordError: as for `keep_only`.
        """
        known = self._references()
        is_current = known is not None and known.measurement == measurement
        moved = Moved(0, 0) if is_current else self.keep_only(measurement)
        references = References(
            **measurement.model_dump(),
            headline=headline,
            sites=[*(known.sites if known and is_current else []), site],
        )
        write_atomically(self.root / REFERENCES, references.to_json().encode())
        return moved

    def _references(self) -> References | None:
        """None where nothing has been measured yet."""
        return read_references(self.root) if (self.root / REFERENCES).is_file() else None

    def path(self, identity: Identity) -> Path:
        """Where the record of an identity is, or will be."""
        return self.folder / file_name(identity)


def file_name(identity: Identity) -> str:
    """Readable name and the start of the id; nothing of a name can leave the folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", identity.coder.name.lower()).strip("-")[:60]
    return f"{slug or 'sae'}-{identity.id[:12]}.json"


def read_record(path: Path) -> EvalRecord:
    """One record file; raises `RecordError` if it is missing, truncated or not a record."""
    return parse_record(_text(path), path)


def read_references(folder: Path) -> References:
    """What the curves of a results folder are drawn against; raises `RecordError`."""
    path = folder / REFERENCES
    return parse_references(_text(path), path)


def read_records(folder: Path) -> list[EvalRecord]:
    """All records of a results folder (or of its `records`), by name.

    Raises:
        RecordError: there is no such folder, it holds none, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder")
    paths = record_paths(folder)
    if not paths:
        raise RecordError(f"{folder}: no records here; `mdlbench eval` writes them")
    with _collector_paused():
        return _sorted(read_record(path) for path in paths)


def results_folder(name: Path) -> Path:
    """`name` itself if it is a folder, else the folder of that name in one of `HOMES`."""
    if name.is_dir() or len(name.parts) != 1:
        return name
    return next((home / name for home in HOMES if (home / name).is_dir()), name)


def read_archive(folder: Path) -> list[EvalRecord]:
    """Archived records, measured with other versions of the suite; there may be none.

    Records of older schemas can no longer be read and are skipped.
    """
    return _sorted(_readable(record_paths(folder / ARCHIVE)).values())


def record_paths(folder: Path) -> list[Path]:
    inner = folder / RECORDS
    return sorted((inner if inner.is_dir() else folder).glob("*.json"))


def all_record_paths(places: Iterable[Path]) -> list[Path]:
    """Record files, also from results folders and from folders of them, each once.

    What a results folder keeps in its archive is left out.

    Raises:
        UsageError: a folder has none.
    """
    paths: list[Path] = []
    for place in places:
        found = _paths_within(place) if place.is_dir() else [place]
        if not found:
            raise UsageError(f"{place}: no records here; `mdlbench eval` writes them")
        paths += found
    return list(dict.fromkeys(paths))


def _paths_within(folder: Path) -> list[Path]:
    return record_paths(folder) + sorted(folder.glob(f"*/{RECORDS}/*.json"))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from searching thousands of records of which none is dropped.

    A search of all that is there would be made again and again while it grows.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _readable(paths: Iterable[Path]) -> dict[Path, EvalRecord]:
    found = {}
    for path in paths:
        with suppress(RecordError):
            found[path] = read_record(path)
    return found


def _move(path: Path, target: Path) -> None:
    if target.exists():
        raise OutputError(f"{path}: cannot be moved: {target} is in its place; move one away")
    try:
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
    except OSError as error:
        raise OutputError(f"{path}: cannot be moved to {target}: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from error


def _sorted(records: Iterable[EvalRecord]) -> list[EvalRecord]:
    return sorted(records, key=lambda record: (record.name, record.id))
