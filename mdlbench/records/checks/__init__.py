"""Whether a record file can be believed as far as it can be checked without running anything.

The file must be sealed and fit the schema, and its identity must match a current suite. Every
number that follows from others is recomputed from them. A record that was made up consistently
passes: only `mdlbench verify`, which measures again, finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdlbench.errors import MdlbenchError, RecordError
from mdlbench.records.checks import facts, identity, points, ranges, seal, tolerances
from mdlbench.records.record import EvalRecord, parse_record
from mdlbench.suite.load import shipped_suite
from mdlbench.suite.suite import Suite

__all__ = ["named_suite", "problems_of", "problems_of_file", "suite_of"]


def problems_of_file(path: Path, suite: Suite | None = None) -> list[str]:
    """Everything wrong with a record file, in words; nothing where it is valid.

    Args:
        path: the record's file.
        suite: the suite that it should belong to; None for the shipped suite that it names.
    """
    try:
        text = seal.read(path)
        seal.check(text)
        record = parse_record(text, path.name)
        return list(problems_of(record, suite or named_suite(record)))
    except MdlbenchError as error:
        return [str(error).removeprefix(f"{path.name}: ")]


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
