"""Whether a record file can be believed as far as it can be checked without running anything.

The file must be sealed and fit the schema, and its identity must match a current suite. Every
number that follows from others is recomputed from them. A record that was made up consistently
passes: only `mdlbench verify`, which measures again, finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mdlbench.errors import MdlbenchError, RecordError
from mdlbench.records import seal
from mdlbench.records.checks import facts, identity, points, ranges, tolerances
from mdlbench.records.record import EvalRecord, parse_record
from mdlbench.records.store import LARGEST_RECORD, read_text, twins
from mdlbench.suite.load import shipped_suite
from mdlbench.suite.suite import Suite

__all__ = ["named_suite", "problems_of", "problems_of_file", "problems_of_files", "suite_of"]


def problems_of_file(path: Path, suite: Suite | None = None) -> list[str]:
    """Everything wrong with a record file, in words; nothing where it is valid.

    Args:
        path: the record's file.
        suite: the suite that it should belong to; None for the shipped suite that it names.
    """
    return _checked(path, suite)[1]


def problems_of_files(paths: Iterable[Path], suite: Suite | None = None) -> dict[Path, list[str]]:
    """As `problems_of_file` for each, and what is wrong with those of a folder together."""
    checked = {path: _checked(path, suite) for path in paths}
    problems = {path: found for path, (_, found) in checked.items()}
    folders: dict[Path, dict[Path, EvalRecord]] = {}
    for path, (record, _) in checked.items():
        if record is not None:
            folders.setdefault(path.parent, {})[path] = record
    for records in folders.values():
        for path, twin in twins(records).items():
            problems[path].append(f"holds the same record as {twin}")
        for path, problem in _mixed(records):
            problems[path].append(problem)
    return problems


def _mixed(records: dict[Path, EvalRecord]) -> Iterator[tuple[Path, str]]:
    """Records of several measurements in one folder: which, and what is wrong with each."""
    measured = {record.measurement for record in records.values()}
    if len(measured) > 1:
        for path, record in records.items():
            one = record.measurement
            others = sorted(other.describe() for other in measured if other != one)
            yield path, f"of {one.describe()}, but the folder also has {' and '.join(others)}"


def _checked(path: Path, suite: Suite | None) -> tuple[EvalRecord | None, list[str]]:
    """The record in a file, if there is one, and everything wrong with the file."""
    record = None
    try:
        text = read_text(path, LARGEST_RECORD)
        record = parse_record(text, path)
        seal.check(text)
        return record, list(problems_of(record, suite or named_suite(record)))
    except MdlbenchError as error:
        return record, [str(error).removeprefix(f"{path}: ")]


def problems_of(record: EvalRecord, suite: Suite) -> Iterator[str]:
    """Everything wrong with a record of a suite; later checks rely on earlier ones."""
    checks = (ranges.problems, identity.problems, points.problems)
    for check in (*checks, tolerances.problems, facts.problems):
        found = list(check(record, suite))
        yield from found
        if found:
            return


def named_suite(record: EvalRecord) -> Suite:
    """The shipped suite that a record names; raises `RecordError` if there is none."""
    name = record.identity.suite
    found = shipped_suite(name)
    if found is None:
        raise RecordError(f"suite {name[:80]!r} is not shipped; name its file with --suite")
    return found


def suite_of(record: EvalRecord, suite: Suite | None = None) -> Suite:
    """The suite that a record was measured with: this one, or the shipped one that it names.

    Raises:
        RecordError: it was measured with another version of the suite, or the suite is not shipped.
    """
    found = suite or named_suite(record)
    if found.digest != record.identity.suite_digest:
        raise RecordError(
            f"{record.label}: was measured with another version of suite {found.name!r} (digest "
            f"{record.identity.suite_digest[:12]}, now {found.digest[:12]})"
        )
    return found
