"""What became of a record when it was measured again: *reproduced*, or only *submitted*."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from mdlbench.errors import RecordError
from mdlbench.files import write_atomically
from mdlbench.record import (
    SCHEMA_VERSION,
    Environment,
    EvalRecord,
    Finite,
    Part,
    Provenance,
    canonical_lines,
    parse_versioned,
)
from mdlbench.store import RecordStore
from mdlbench.suite import Agreement
from mdlbench.tolerance import STEPS_PER_OCTAVE

Standing = Literal["reproduced", "submitted"]

REPRODUCTIONS = "reproductions"
"""Subfolder of a results folder."""
LEAST_LOSS = 1e-6
"""Losses below it, in their own unit, are compared as if they were as large."""


class Deviation(NamedTuple):
    """How far a repeated measurement lies from the first, at worst.

    Attributes:
        bits: relative difference of rates at a step.
        loss: relative difference of MSE, FVU, CE or KL at a step.
        positions: steps of 0.05 octave between the steps accepted at a tolerance.
    """

    bits: float
    loss: float
    positions: int

    def within(self, agreement: Agreement) -> bool:
        return (
            self.bits <= agreement.bits
            and self.loss <= agreement.loss
            and self.positions <= agreement.positions
        )


class Reproduction(Part):
    """That a record was measured again and agreed; void as soon as the record changes."""

    schema_version: int = SCHEMA_VERSION
    record_id: str
    record_checksum: str
    bits: Finite
    """As in `Deviation`, like the next two."""
    loss: Finite
    positions: int
    agreement: Agreement
    """What the suite allows."""
    environment: Environment
    """Of the repeated measurement."""
    provenance: Provenance


def deviation(first: EvalRecord, again: EvalRecord) -> Deviation:
    """The largest differences between two measurements of one identity.

    Points are compared where both have the same step: at all dyadic ones, and at those accepted by
    both. A rate accepted p steps of 0.05 octave apart is not compared.

    Raises:
        RecordError: they are not of one identity, stand on other steps, or do not meet the same
            tolerances.
    """
    if first.identity != again.identity:
        raise RecordError(f"{first.label}: measured again, it is another SAE or suite")
    points = {point.step: point for point in again.points}
    shared = [(point, points[point.step]) for point in first.points if point.step in points]
    if len(shared) < 2 or first.points[0].step != again.points[0].step:
        raise RecordError(f"{first.label}: measured again, its steps are others")
    rates = [
        _relative(getattr(a.bits, code), getattr(b.bits, code))
        for a, b in shared
        for code in ("plugin", "heldout", "total", "adaptive", "enumerative", "bound")
    ]
    losses = [
        _relative(getattr(a, loss), getattr(b, loss))
        for a, b in [*shared, (first.floor, again.floor)]
        for loss in ("mse", "fvu", "ce", "kl")
    ]
    return Deviation(max(rates), max(losses), _positions_apart(first, again))


def _relative(a: float, b: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), LEAST_LOSS)


def _positions_apart(first: EvalRecord, again: EvalRecord) -> int:
    apart = [0]
    for one, other in zip(first.tolerances, again.tolerances, strict=True):
        if one.feasible != other.feasible:
            raise RecordError(
                f"{first.label}: measured again, it is "
                f"{'feasible' if other.feasible else 'infeasible'} at {one.metric} {one.epsilon:g}"
            )
        if one.step is not None and other.step is not None:
            apart.append(abs(round(STEPS_PER_OCTAVE * math.log2(one.step / other.step))))
    return max(apart)


def write_reproduction(
    folder: Path, record: EvalRecord, again: EvalRecord, suite: Agreement
) -> Path:
    """Keep that `again` agrees with `record`, in a results folder.

    Raises:
        RecordError: it does not agree.
        OutputError: the folder cannot be written.
    """
    found = deviation(record, again)
    if not found.within(suite):
        raise RecordError(
            f"{record.label}: measured again, rates differ by {found.bits:.2g} (allowed "
            f"{suite.bits:g}), losses by {found.loss:.2g} ({suite.loss:g}), accepted steps by "
            f"{found.positions} of 0.05 octave ({suite.positions})"
        )
    reproduction = Reproduction(
        record_id=record.id,
        record_checksum=record.checksum,
        **found._asdict(),
        agreement=suite,
        environment=again.environment,
        provenance=again.provenance,
    )
    path = reproduction_path(folder, record)
    write_atomically(path, canonical_lines(reproduction.model_dump(mode="json")).encode())
    return path


def reproduction_path(folder: Path, record: EvalRecord) -> Path:
    return folder / REPRODUCTIONS / RecordStore(folder).path(record.identity).name


def read_reproduction(path: Path) -> Reproduction:
    """Raises `RecordError` if it is missing or not a reproduction."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from error
    return parse_versioned(Reproduction, text, path)


def standing(record: EvalRecord, folder: Path) -> Standing:
    """Whether a results folder has a reproduction of exactly this record, as it is now."""
    path = reproduction_path(folder, record)
    if not path.is_file():
        return "submitted"
    found = read_reproduction(path)
    agrees = Deviation(found.bits, found.loss, found.positions).within(found.agreement)
    current = (found.record_id, found.record_checksum) == (record.id, record.checksum)
    return "reproduced" if agrees and current else "submitted"


def standings(records: Iterable[EvalRecord], folder: Path) -> dict[str, Standing]:
    """The standing of each record, by id."""
    return {record.id: standing(record, folder) for record in records}
