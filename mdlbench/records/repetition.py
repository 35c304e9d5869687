"""A repetition is a second measurement of a record. Where it agrees, the record is *reproduced*.

A record without such a repetition is *submitted*.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mdlbench.disk.files import write_atomically
from mdlbench.errors import MdlbenchWarning, RecordError
from mdlbench.records.record import (
    SCHEMA_VERSION,
    Distortion,
    Environment,
    EvalRecord,
    Finite,
    OperatingPoint,
    Part,
    Pictures,
    Provenance,
    canonical_lines,
    parse_versioned,
)
from mdlbench.records.store import LARGEST_RECORD, file_name, read_text
from mdlbench.statistics.metrics import METRICS
from mdlbench.statistics.tolerance import position_of
from mdlbench.suite.load import shipped_suite
from mdlbench.suite.suite import Agreement

Standing = Literal["reproduced", "submitted"]

REPETITIONS = "reproductions"
"""Subfolder of a results folder for the repetitions that agreed."""
LEAST_RATE = 1.0
"""Bits per token; smaller rates are compared as if they were as large."""
LEAST_LOSS = 1e-5
"""Losses below it, in their own unit, are compared as if they were as large: so small a KL consists
of rounding errors."""
HALF_ULP = 2.0**-10
"""Relative rounding error of a share in half precision: two that are equal may differ by it."""
CODEBOOK_SLACK = 0.01
"""Relative difference of codebook sizes that is ignored: they jump by whole bytes."""

RATES = ("plugin", "support", "magnitude", "heldout", "adaptive", "enumerative", "bound", "side")
FACTS = ("d_in", "d_out", "d_latents", "architecture", "hook", "details")


class Deviation(NamedTuple):
    """How far a repeated measurement lies from the first, at worst.

    Attributes:
        bits: relative difference of rates at a step, of L0, and of the facts about latents.
        loss: relative difference of losses at a step; of ΔCE, to CE.
        positions: steps of an eighth of an octave between the steps accepted at a tolerance, or
            bits between the decoder's precisions.
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

    def share(self, agreement: Agreement) -> float:
        """The largest deviation as a share of what is allowed; at most 1 where all are within."""
        return max(
            self.bits / agreement.bits,
            self.loss / agreement.loss,
            self.positions / max(agreement.positions, 1),
        )


class Repetition(Part):
    """A second measurement that agreed with a record; void as soon as the record changes."""

    schema_version: int = SCHEMA_VERSION
    record_id: str
    record_checksum: str
    bits: Finite
    """As in `Deviation`, like the next two."""
    loss: Finite
    positions: int
    agreement: Agreement
    """What the suite allowed."""
    environment: Environment
    """Where the second measurement ran."""
    provenance: Provenance

    @property
    def deviation(self) -> Deviation:
        return Deviation(self.bits, self.loss, self.positions)

    def holds(self, record: EvalRecord, agreement: Agreement) -> bool:
        """Whether it repeats the record as it is now, and lies within what is allowed."""
        current = (self.record_id, self.record_checksum) == (record.id, record.checksum)
        return current and self.deviation.within(agreement)


def deviation(first: EvalRecord, again: EvalRecord) -> Deviation:
    """The largest differences between two measurements of one identity.

    All operating points of the first are compared, so `again` must have been measured at their
    steps, too.

    Raises:
        RecordError: their identities differ, they do not meet the same tolerances, or they differ
            in something that is not a measured number.
    """
    _refuse_other(first, again)
    points = {point.step: point for point in again.points}
    missing = [point.step for point in first.points if point.step not in points]
    if missing:
        raise RecordError(f"{first.label}: was not measured again at step {missing[0]:g}")
    pairs = [(point, points[point.step]) for point in first.points]
    return Deviation(
        bits=max([*(_rates_apart(*pair) for pair in pairs), _latents_apart(first, again)]),
        loss=max(_losses_apart(*pair) for pair in [*pairs, (first.floor, again.floor)]),
        positions=_positions_apart(first, again),
    )


def _refuse_other(first: EvalRecord, again: EvalRecord) -> None:
    if first.identity != again.identity:
        raise RecordError(f"{first.label}: measured again, the SAE or the suite is another one")
    for name in FACTS:
        if getattr(first.coder, name) != getattr(again.coder, name):
            raise RecordError(f"{first.label}: measured again, its {name} differs")
    if (first.site, first.n_tokens) != (again.site, again.n_tokens):
        raise RecordError(f"{first.label}: measured again, its site or tokens differ")
    if _pictures(first) != _pictures(again):
        raise RecordError(f"{first.label}: measured again, its features look different")


def _pictures(record: EvalRecord) -> Pictures | None:
    return None if record.latents is None else record.latents.pictures


def _rates_apart(one: OperatingPoint, other: OperatingPoint) -> float:
    pairs = [(getattr(one.bits, code), getattr(other.bits, code)) for code in RATES]
    pairs += [(one.l0, other.l0), (one.header_bits or 0.0, other.header_bits or 0.0)]
    if one.bits.coded is not None and other.bits.coded is not None:
        pairs.append((one.bits.coded, other.bits.coded))
    return max(
        max(_relative(*pair, LEAST_RATE) for pair in pairs), _draws_apart(one, other, "bits")
    )


def _losses_apart(one: Distortion, other: Distortion) -> float:
    pairs = one.losses, other.losses
    keys = [key for key in pairs[0] if key != "ce_recovered"]
    apart = [abs(pairs[0][key] - pairs[1].get(key, 0.0)) / _unit(key, *pairs) for key in keys]
    apart.append(abs((one.ce_recovered or 0.0) - (other.ce_recovered or 0.0)))
    if isinstance(one, OperatingPoint) and isinstance(other, OperatingPoint):
        kept = {} if one.resamples is None else one.resamples.by_metric
        apart += [_loss_draws_apart(one, other, key) for key in kept]
    return max(apart)


def _unit(key: str, *losses: dict[str, float]) -> float:
    """What a difference of a loss is a share of: the larger loss, or the larger CE for ΔCE."""
    share_of = METRICS[key].share_of if key in METRICS else key
    return max(LEAST_LOSS, *(abs(of_one.get(share_of, 0.0)) for of_one in losses))


def _loss_draws_apart(one: OperatingPoint, other: OperatingPoint, key: str) -> float:
    """As `_draws_apart`; shares of losses below `LEAST_LOSS` are taken of that."""
    share_of = METRICS[key].share_of
    largest = max(abs(one.losses[share_of]), abs(other.losses[share_of]))
    return _draws_apart(one, other, key) * min(1.0, largest / LEAST_LOSS)


def _draws_apart(one: OperatingPoint, other: OperatingPoint, name: str) -> float:
    """Largest difference of two points' bootstrap draws, beyond their rounding."""
    a, b = one.drawn_shares(name), other.drawn_shares(name)
    if len(a) != len(b):
        raise RecordError(
            f"at step {one.step:g}: {len(a)} bootstrap draws, but {len(b)} when measured again"
        )
    rounded = HALF_ULP * np.maximum(np.abs(a), np.abs(b)) + 1e-7
    return float(np.maximum(np.abs(a - b) - rounded, 0.0).max(initial=0.0))


def _latents_apart(first: EvalRecord, again: EvalRecord) -> float:
    """Largest difference of L0, dead latents, the codebook and the profile."""
    one, other = first.coder, again.coder
    apart = [
        _relative(one.l0, other.l0, LEAST_RATE),
        abs(one.dead_fraction - other.dead_fraction),
        max(_relative(one.codebook_bits or 0, other.codebook_bits or 0, 1.0) - CODEBOOK_SLACK, 0.0),
    ]
    profiles = first.latents, again.latents
    if profiles[0] is not None and profiles[1] is not None:
        for name in ("firing_rates", "bits", "cumulative_bits"):
            a, b = (np.array(getattr(profile, name)) for profile in profiles)
            apart.append(float(np.abs(a - b).max() / max(np.abs(a).max(), LEAST_LOSS)))
    return max(apart)


def _relative(a: float, b: float, least: float) -> float:
    return abs(a - b) / max(abs(a), abs(b), least)


def _positions_apart(first: EvalRecord, again: EvalRecord) -> int:
    apart = [abs((first.coder.decoder_weight_bits or 0) - (again.coder.decoder_weight_bits or 0))]
    for one, other in zip(first.tolerances, again.tolerances, strict=True):
        if one.feasible != other.feasible:
            raise RecordError(
                f"{first.label}: measured again, it is "
                f"{'feasible' if other.feasible else 'infeasible'} at {one.metric} {one.epsilon:g}"
            )
        if one.step is not None and other.step is not None:
            apart.append(abs(position_of(one.step, other.step)))
    return max(apart)


def write_repetition(
    folder: Path, record: EvalRecord, again: EvalRecord, suite: Agreement
) -> tuple[Path, Deviation]:
    """Keep in a results folder that a second measurement agrees with a record.

    An earlier repetition that still holds is replaced only by one further off, as a share of what
    the suite allows. So a repetition on the record's own machine does not replace one from
    elsewhere.

    Returns:
        The repetition's file, and how far the two measurements are apart.

    Raises:
        RecordError: it does not agree.
        OutputError: the folder cannot be written.
    """
    found = deviation(record, again)
    if not found.within(suite):
        raise RecordError(
            f"{record.label}: measured again, rates differ by {found.bits:.2g} (allowed "
            f"{suite.bits:g}), losses by {found.loss:.2g} ({suite.loss:g}), accepted steps by "
            f"{found.positions} eighths of an octave ({suite.positions})"
        )
    repetition = Repetition(
        record_id=record.id,
        record_checksum=record.checksum,
        **found._asdict(),
        agreement=suite,
        environment=again.environment,
        provenance=again.provenance,
    )
    path = repetition_path(folder, record)
    kept = _kept(path, record, suite)
    if kept is None or kept.deviation.share(suite) < found.share(suite):
        write_atomically(path, canonical_lines(repetition.model_dump(mode="json")).encode())
    return path, found


def _kept(path: Path, record: EvalRecord, suite: Agreement) -> Repetition | None:
    """The repetition that still holds; one that cannot be read does not."""
    with suppress(RecordError):
        found = read_repetition(path)
        return found if found.holds(record, suite) else None
    return None


def repetition_path(folder: Path, record: EvalRecord) -> Path:
    return folder / REPETITIONS / file_name(record.identity)


def read_repetition(path: Path) -> Repetition:
    """Raises `RecordError` if it is missing or not a repetition."""
    return parse_versioned(Repetition, read_text(path, LARGEST_RECORD), path)


def standing(record: EvalRecord, folder: Path) -> Standing:
    """Whether a results folder has a repetition of exactly this record, as it is now.

    If the suite is a shipped one, the repetition must be within what that suite allows today. A
    file in its place that is none counts for nothing, and a warning tells of it.
    """
    path = repetition_path(folder, record)
    if not path.exists():
        return "submitted"
    try:
        found = read_repetition(path)
    except RecordError as error:
        warnings.warn(f"{error}; left out", MdlbenchWarning, stacklevel=2)
        return "submitted"
    suite = shipped_suite(record.identity.suite)
    allowed = found.agreement if suite is None else suite.agreement
    return "reproduced" if found.holds(record, allowed) else "submitted"


def standings(records: Iterable[EvalRecord], folder: Path) -> dict[str, Standing]:
    """The standing of each record, by id."""
    return {record.id: standing(record, folder) for record in records}
