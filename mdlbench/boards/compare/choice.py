"""What a user names → contenders: record files, ids, names on a board, families."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mdlbench.boards.compare.contender import Contender
from mdlbench.boards.leaderboard import unique_labels
from mdlbench.errors import RecordError, UsageError, nearest
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import EvalRecord, with_quantiser
from mdlbench.records.store import (
    EDITED,
    RECORDS,
    REFERENCES,
    file_name,
    read_intact_record,
    read_records,
    read_references,
    record_paths,
    results_folder,
)
from mdlbench.statistics.metrics import METRICS

RESULTS = Path("results")
ID_PREFIX = re.compile(r"[0-9a-f]{6,64}")
EVERY_FAMILY = re.compile(r"all(?: \[(?P<quantiser>[^\]]+)\])?")


class Shelf:
    """The records of a results folder, found by id, by name on its board, or by family."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def records(self) -> list[EvalRecord]:
        return read_records(self.folder)

    @cached_property
    def names(self) -> dict[str, EvalRecord]:
        """By label on the board, with the start of the id where that alone is not unique."""
        labels = unique_labels(self.records)
        return {labels[record.id]: record for record in self.records}

    @cached_property
    def families(self) -> dict[str, tuple[EvalRecord, ...]]:
        """By "all ARCHITECTURE", with the quantiser where it is not the suite's own.

        Where the folder has several sites, a family belongs to one: "all ARCHITECTURE at SITE".
        Trained SAEs come first, then what is fitted. Edited records belong to none.
        """
        several = len({record.site.label for record in self.records}) > 1
        found: dict[str, list[EvalRecord]] = {}
        for record in self.records:
            if record.is_edited:
                continue
            at_site = f" at {record.site.label}" if several else ""
            name = f"all {record.family}{at_site}"
            found.setdefault(name, []).append(record)
        order = sorted(found, key=lambda name: (found[name][0].is_baseline, name))
        return {name: tuple(found[name]) for name in order}

    def find(self, word: str) -> list[Contender]:
        """What a word names: one contender, or every family; raises `UsageError`."""
        if every := EVERY_FAMILY.fullmatch(word):
            return self._every_family(every["quantiser"], word)
        if word in self.names and word in self.families:
            raise UsageError(
                f"{word!r} is an SAE and a family: write {self.names[word].id[:16]} for the SAE"
            )
        if word in self.names:
            return [self._named(word)]
        if word in self.families:
            return [Contender(word, self.families[word], is_family=True)]
        return [self._by_id(word) or self._by_label(word)]

    def _every_family(self, quantiser: str | None, word: str) -> list[Contender]:
        if quantiser is not None:
            mode_of(quantiser)
        found = [
            Contender(name, members, is_family=True)
            for name, members in self.families.items()
            if members[0].identity.quantiser == quantiser
        ]
        if not found:
            raise UsageError(f"{word!r}: no family in {self.folder} has this quantiser")
        return found

    def _by_id(self, word: str) -> Contender | None:
        if not ID_PREFIX.fullmatch(word):
            return None
        found = {name: record for name, record in self.names.items() if record.id.startswith(word)}
        if len(found) > 1:
            ids = ", ".join(f"{record.id[:16]} ({name})" for name, record in found.items())
            raise UsageError(f"{word}: several records have ids that start so: {ids}")
        return next((self._named(name) for name in found), None)

    def _named(self, name: str) -> Contender:
        """The SAE of this name; raises `RecordError` where its record was edited."""
        record = self.names[name]
        if record.is_edited:
            path = self.folder / RECORDS / file_name(record.identity)
            raise RecordError(f"{path}: {EDITED}; it cannot be compared")
        return Contender(name, (record,))

    def _by_label(self, word: str) -> Contender:
        found = [
            name
            for name, record in self.names.items()
            if word in (record.label, with_quantiser(record.name, record.identity.quantiser))
        ]
        if len(found) == 1:
            return self._named(found[0])
        if found:
            raise UsageError(f"{word}: several records have this name: {', '.join(found)}")
        raise UsageError(
            f"{word!r} is no SAE or family in {self.folder}. "
            f"{nearest(word, [*self.names, *self.families])}"
            f"Families: {', '.join(self.families)}. "
            f"`mdlbench ls records {self.folder}` lists the SAEs."
        )


@dataclass(frozen=True)
class Choice:
    """Contenders in the order named, and the results folder that names were looked up in."""

    contenders: tuple[Contender, ...]
    folder: Path | None

    @property
    def metric(self) -> str:
        """The headline's, where a results folder says it; else that of the first tolerance."""
        if self.folder is not None and (self.folder / REFERENCES).is_file():
            return read_references(self.folder).headline.metric
        tolerances = [r for c in self.contenders for m in c.members for r in m.tolerances]
        return tolerances[0].metric if tolerances else next(iter(METRICS))


def choose(words: Sequence[str], folder: Path | None = None) -> Choice:
    """What the words name.

    Args:
        words: record files; ids or their first six or more digits; names as on the board;
            "all ARCHITECTURE", with " [QUANTISER]" where that is not the suite's own; "all", every
            family whose SAEs are not named beside it.
        folder: a results folder or its name, for all but files; by default the only one under
            `results`.

    Raises:
        UsageError: a word names nothing or several things, or there is no folder.
        RecordError: a file is not a record, or was edited.
    """
    shelf: Shelf | None = None
    found: list[list[Contender]] = []
    for word in words:
        if word.endswith(".json") and not _is_name(word, folder):
            record = read_intact_record(Path(word))
            found.append([Contender(record.label, (record,))])
            continue
        shelf = shelf or Shelf(results_folder(folder) if folder else only_results_folder())
        found.append(shelf.find(word))
    return Choice(told_apart(_named_once(found)), None if shelf is None else shelf.folder)


def _is_name(word: str, folder: Path | None) -> bool:
    """Whether a word like a file's name is an SAE's; raises `UsageError` if it is both."""
    if folder is None or Path(word).name != word:
        return False
    found = Shelf(results_folder(folder)).names.get(word)
    if found is not None and Path(word).exists():
        raise UsageError(
            f"{word!r} is an SAE in {folder} and a file here: write {found.id[:16]} for the SAE, "
            f"./{word} for the file"
        )
    return found is not None


def _named_once(found: Sequence[Sequence[Contender]]) -> list[Contender]:
    """All that the words name; of those that name several, without what another names alone."""
    alone = [group[0].ids for group in found if len(group) == 1]
    return [one for group in found for one in group if len(group) == 1 or one.ids not in alone]


def told_apart(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """Single SAEs of one label from several places, with the starts of their ids."""
    chosen = {c.members[0].id: c.members[0] for c in contenders if not c.is_family}
    labels = unique_labels(list(chosen.values()))
    return tuple(
        one
        if one.is_family or labels[record.id] == record.label
        else replace(one, name=labels[record.id])
        for one in contenders
        for record in one.members[:1]
    )


def only_results_folder() -> Path:
    """The one folder under `results` that holds records; raises `UsageError`."""
    found = [path for path in sorted(RESULTS.glob("*")) if path.is_dir() and record_paths(path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"no records under {RESULTS}/: name a results folder, as in --in leaderboards/mnist"
        )
    raise UsageError(f"several results folders: choose one with --in: {', '.join(map(str, found))}")
