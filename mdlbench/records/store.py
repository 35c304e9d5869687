"""Records in a folder: written whole or not at all, found again by identity."""

from __future__ import annotations

import datetime
import gc
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mdlbench.disk.files import (
    clear_unfinished,
    create_atomically,
    read_regular,
    write_atomically,
)
from mdlbench.errors import MdlbenchWarning, OutputError, RecordError, UsageError, reason
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
SITES = "references"
"""Subfolder with a file for each site but the first, by the runs that measured there."""
FOUND_AGAIN = "found-again"
"""Subfolder: when an SAE was found to be what it was before, in a file named by the record's id."""
HOMES = (Path("results"), Path("leaderboards"))
"""Where a results folder is looked up by its name."""
ARCHIVE = "archive"
"""Subfolder of records that were measured with another version of their suite."""
EDITED = "changed after it was written (its checksum does not match)"
LARGEST_RECORD = 16 << 20
"""The most bytes of a record's file; one of 100 points has about 0.5 MB."""
LARGEST_REFERENCES = 256 << 20
"""The most bytes of references, which have the spectrum of every site."""
LARGEST_DATE = 100
"""The most bytes of a date."""


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
        """Raise `OutputError` now rather than after an hour of work; clear what the dead left."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            within = [path for path in self.root.iterdir() if path.is_dir()]
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be created: {reason(error)}") from error
        for folder in (self.root, *within):
            clear_unfinished(folder)
        write_atomically(self.folder / ".writable", b"")
        (self.folder / ".writable").unlink(missing_ok=True)

    def find(self, identity: Identity) -> EvalRecord | None:
        """The finished record of exactly this identity, if there is one.

        Raises:
            RecordError: the file in its place cannot be read, has a newer schema, was changed, or
                holds something else; it is left as it is.
        """
        path = self.path(identity)
        if not path.exists():
            return None
        record = read_intact_record(path)
        if record.identity != identity:
            raise RecordError(f"{path}: stands in the place of another record; move it away")
        return record

    def named(self, name: str) -> list[EvalRecord]:
        """The records of SAEs of this name; only files that are named after it are read."""
        paths = self.folder.glob(f"{_slug(name)}-{'[0-9a-f]' * 12}.json")
        found = _read_all(sorted(paths)).records.values()
        return [record for record in found if record.name == name]

    def save(self, record: EvalRecord) -> Path:
        path = self.path(record.identity)
        write_atomically(path, record.to_json().encode())
        return path

    def note_found(self, record: EvalRecord) -> None:
        """Note that the record's SAE is now what was measured, whatever was measured since."""
        date = datetime.datetime.now(datetime.UTC).isoformat()
        write_atomically(self.root / FOUND_AGAIN / record.id, date.encode())

    def keep_only(self, measurement: Measurement) -> Moved:
        """Move records of other measurements to the archive, and those of this one back.

        Files that are no records stay where they are.

        Raises:
            OutputError: another record stands in the place of one; both are left as they are.
        """
        archive = self.root / ARCHIVE
        archived = _read_all(record_paths(archive)).records
        kept = _read_all(record_paths(self.folder)).records
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

    def refuse_other_suites(self, measurement: Measurement) -> None:
        """Raise `UsageError` where the folder holds another suite's results, or limited ones."""
        if (known := self._references()) is not None:
            self._refuse_other(known, measurement)

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
        self._refuse_other(known, measurement)
        if known.measurement != measurement:
            return False
        return self._has_data(known, site, data_sha256)

    def add_site(self, measurement: Measurement, headline: Headline, site: SiteReferences) -> Moved:
        """Add a site to those that the folder holds; archive what an older suite measured.

        Several processes may do so at once. The first claims the folder for its measurement, and
        each has a file for its own site, so that none is lost and none has two texts.

        Raises:
            UsageError: as for `has_site`, where another process came first.
            OutputError, RecordError: as for `keep_only`.
        """
        added = References(**measurement.model_dump(), headline=headline, sites=[site])
        content = added.to_json().encode()
        is_new = not (self.root / REFERENCES).exists()
        moved = self.keep_only(measurement) if is_new else Moved(0, 0)
        if create_atomically(self.root / REFERENCES, content):
            return moved
        known = read_references(self.root)
        self._refuse_other(known, measurement)
        if known.measurement != measurement:
            moved = self.keep_only(measurement)
        elif self._has_data(known, site.site.label, site.data_sha256):
            return moved
        if not create_atomically(self._site_path(added), content):
            claimed = _read_references_file(self._site_path(added))
            self._has_data(claimed, site.site.label, site.data_sha256)
        if known.measurement != measurement:
            write_atomically(self.root / REFERENCES, content)
        self._collect(added)
        return moved

    def _collect(self, added: References) -> None:
        """Bring all sites into `references.json`, until what other processes write is in it, too.

        Whoever writes last looks again and finds all files that there were before. Readers, who
        read the other files as well, never depend on it.
        """
        while True:
            alone = _read_references_file(self.root / REFERENCES)
            self._refuse_other(alone, added.measurement)
            if alone.measurement != added.measurement:
                raise UsageError(
                    f"{self.root}: another run measures with another version of suite "
                    f"{added.suite}; choose another folder with -o"
                )
            whole = read_references(self.root)
            if len(whole.sites) == len(alone.sites):
                return
            write_atomically(self.root / REFERENCES, whole.to_json().encode())

    def _site_path(self, added: References) -> Path:
        """The file of a site; of one measurement's site there is one, whatever its data."""
        site = f"{added.measurement.model_dump_json()}{added.sites[0].site.label}"
        return self.root / SITES / f"{hashlib.sha256(site.encode()).hexdigest()[:16]}.json"

    def _refuse_other(self, known: References, measurement: Measurement) -> None:
        if (known.suite, known.limit) != (measurement.suite, measurement.limit):
            raise UsageError(
                f"{self.root} holds results of {known.measurement.describe()}, not of "
                f"{measurement.describe()}; choose another folder with -o"
            )

    def _has_data(self, known: References, site: str, data_sha256: str) -> bool:
        """Whether the site is known; raises `UsageError` where it is, but on other data."""
        if known.of_data(data_sha256):
            return True
        if site in [known_site.site.label for known_site in known.sites]:
            raise UsageError(
                f"{self.root} holds results at {site} on other data; choose another folder with -o"
            )
        return False

    def _references(self) -> References | None:
        """None where nothing has been measured yet."""
        return read_references(self.root) if (self.root / REFERENCES).exists() else None

    def path(self, identity: Identity) -> Path:
        """Where the record of an identity is, or will be."""
        return self.folder / file_name(identity)


def file_name(identity: Identity) -> str:
    """Readable name and the start of the id; nothing of a name can leave the folder."""
    return f"{_slug(identity.coder.name)}-{identity.id[:12]}.json"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "sae"


def read_record(path: Path) -> EvalRecord:
    """One record file; raises `RecordError` if it is missing, truncated or not a record."""
    return parse_record(read_text(path, LARGEST_RECORD), path)


def read_intact_record(path: Path) -> EvalRecord:
    """One record file; raises `RecordError` as `read_record` does, or if its seal is broken."""
    record = read_record(path)
    if record.is_edited:
        raise RecordError(f"{path}: {EDITED}; score the SAE again into another folder")
    return record


def read_text(path: Path, most: int) -> str:
    """The text of a regular file of so many bytes at most; raises `RecordError`."""
    try:
        return read_regular(path, most).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {reason(error)}") from error


def read_references(folder: Path) -> References:
    """What the curves of a results folder are drawn against; raises `RecordError`.

    Sites that have a file of their own are among them, wherever the main file lacks them.
    """
    if not (folder / REFERENCES).exists():
        raise RecordError(
            f"{folder}: has no {REFERENCES}, against which curves are drawn; run the `mdlbench "
            "eval` that made its records again: it makes the file, and scores no SAE again"
        )
    found = _read_references_file(folder / REFERENCES)
    sites = {(site.site.label, site.data_sha256): site for site in found.sites}
    n_known = len(sites)
    for path in sorted((folder / SITES).glob(f"{'[0-9a-f]' * 16}.json")):
        other = _read_references_file(path)
        if other.measurement == found.measurement:
            for one in other.sites:
                sites.setdefault((one.site.label, one.data_sha256), one)
    if len(sites) == n_known:
        return found
    return found.model_copy(update={"sites": list(sites.values())})


def _read_references_file(path: Path) -> References:
    return parse_references(read_text(path, LARGEST_REFERENCES), path)


def read_records(folder: Path) -> list[EvalRecord]:
    """All records of a results folder (or of its `records`), by name.

    A file that is no record, or is there twice, is left out with a warning. A record that was
    edited is returned, with a warning.

    Raises:
        RecordError: there is no such folder, it holds none, or none of them can be read.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder")
    paths = record_paths(folder)
    if not paths:
        raise RecordError(f"{folder}: no records here; `mdlbench eval` writes them")
    with _collector_paused():
        found = _read_all(paths)
    again = found_again(folder.parent if folder.name == RECORDS else folder)
    if not found.records:
        raise RecordError(next(iter(found.left_out.values())))
    for why in found.left_out.values():
        warnings.warn(f"{why}; left out", MdlbenchWarning, stacklevel=2)
    for path, record in found.records.items():
        record._found_again = again.get(record.id, "")
        if record.is_edited:
            warnings.warn(f"{path}: {EDITED}; not ranked", MdlbenchWarning, stacklevel=2)
    return _sorted(found.records.values())


def found_again(folder: Path) -> dict[str, str]:
    """When the SAEs of records were found again as they were; a damaged date is left out."""
    dates: dict[str, str] = {}
    for path in sorted((folder / FOUND_AGAIN).glob("[0-9a-f]" * 64)):
        try:
            dates[path.name] = read_regular(path, LARGEST_DATE).decode("ascii")
            datetime.datetime.fromisoformat(dates[path.name])
        except (OSError, ValueError) as error:
            dates.pop(path.name, None)
            warnings.warn(f"{path}: {reason(error)}; left out", MdlbenchWarning, stacklevel=2)
    return dates


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        records: each once, by its file.
        left_out: why another file is none of them; the reason begins with its path.
    """

    records: dict[Path, EvalRecord]
    left_out: dict[Path, str]


def _read_all(paths: Iterable[Path]) -> Found:
    """The file that counts where several have one id: an intact one, then one with its own name."""
    found = Found({}, {})
    for path in paths:
        try:
            found.records[path] = read_record(path)
        except RecordError as error:
            found.left_out[path] = str(error)
    for path, twin in twins(found.records).items():
        del found.records[path]
        found.left_out[path] = f"{path}: holds the same record as {twin}"
    return found


def twins(records: Mapping[Path, EvalRecord]) -> dict[Path, Path]:
    """Files whose record is there twice, and the file that counts instead."""
    chosen: dict[str, Path] = {}

    def standing(path: Path) -> tuple[bool, bool, Path]:
        record = records[path]
        return record.is_edited, path.name != file_name(record.identity), path

    for path in sorted(records, key=standing):
        chosen.setdefault(records[path].id, path)
    return {
        path: chosen[record.id] for path, record in records.items() if chosen[record.id] != path
    }


def results_folder(name: Path) -> Path:
    """`name` itself if it is a folder, else the folder of that name in one of `HOMES`."""
    if name.is_dir() or len(name.parts) != 1:
        return name
    return next((home / name for home in HOMES if (home / name).is_dir()), name)


def read_archive(folder: Path) -> list[EvalRecord]:
    """Archived records, measured with other versions of the suite; there may be none.

    Records of older schemas can no longer be read and are skipped.
    """
    return _sorted(_read_all(record_paths(folder / ARCHIVE)).records.values())


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


def _move(path: Path, target: Path) -> None:
    if target.exists():
        raise OutputError(f"{path}: cannot be moved: {target} is in its place; move one away")
    try:
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
    except OSError as error:
        raise OutputError(f"{path}: cannot be moved to {target}: {reason(error)}") from error


def _sorted(records: Iterable[EvalRecord]) -> list[EvalRecord]:
    return sorted(records, key=lambda record: (record.name, record.id))
