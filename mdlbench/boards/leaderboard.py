"""Records → ranks with intervals and honest ties: one table per tolerance of a suite."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from mdlbench.boards.pairing import refuse_other_data, refuse_unlike
from mdlbench.errors import RecordError, UsageError
from mdlbench.records.record import EvalRecord, OperatingPoint, ToleranceResult, operating_point
from mdlbench.statistics.bootstrap import CONFIDENCE
from mdlbench.suite.base import Metric
from mdlbench.suite.suite import Headline

Status = Literal["ranked", "unranked", "partial", "infeasible"]
Replicates = Float64[np.ndarray, "sae replicate"]

TAIL = (1 - CONFIDENCE) / 2
INTERVAL = (TAIL, 1 - TAIL)
"""Tail probabilities of the percentile intervals."""
STATUS_ORDER: tuple[Status, ...] = ("ranked", "unranked", "partial", "infeasible")
ID_CHARACTERS = 8
"""Characters of a record's id that are shown where two SAEs have the same name."""


@dataclass(frozen=True)
class Row:
    """One SAE at one tolerance. Absent values were not measured, or do not apply.

    Attributes:
        rank: competition rank ("1, 2, 2, 4"); None unless `status` is "ranked".
        label: the SAE's name, with its quantiser where that is not the suite's own, and with the
            start of its id where that alone is not unique.
        status: "ranked"; "unranked" (feasible, but the record asks not to be ranked); "partial"
            (made with `--limit`); "infeasible" (no step of the quantiser keeps ε).
        bits, bits_low, bits_high: bits per token at `step`, with their 95% interval.
        delta, delta_low, delta_high: bits above the best ranked SAE, with the paired interval.
        step, l0: quantiser step, and mean nonzero symbols per token there.
        heldout … coded: the parts and the other codes at that step (maths §3).
        floor: the tolerance's metric of the unquantised reconstruction.
        at_coarsest, non_monotone: as in `ToleranceResult`.
    """

    metric: Metric
    epsilon: float
    rank: int | None
    label: str
    status: Status
    bits: float | None
    bits_low: float | None
    bits_high: float | None
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    step: float | None
    l0: float | None
    mse: float | None
    fvu: float | None
    delta_ce: float | None
    plugin: float | None
    heldout: float | None
    side: float | None
    adaptive: float | None
    enumerative: float | None
    bound: float | None
    coded: float | None
    floor: float
    floor_mse: float
    floor_fvu: float
    floor_delta_ce: float
    at_coarsest: bool
    non_monotone: bool
    d_latents: int
    l0_unquantised: float
    dead_fraction: float
    decoder_weight_bits: int | None
    decoder_bits: float | None
    codebook_bits: float | None
    break_even_tokens: float | None
    architecture: str
    adapter: str
    hook: str
    text: str | None
    test_tokens: int
    name: str
    quantiser: str | None
    id: str


@dataclass(frozen=True)
class Table:
    """All SAEs at one tolerance: ranked ones first, then unranked, partial and infeasible ones."""

    metric: Metric
    epsilon: float
    rows: tuple[Row, ...]

    def of(self, status: Status) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == status)


@dataclass(frozen=True)
class Leaderboard:
    """The tables of one site of a suite, the headline's first.

    Attributes:
        site: in words; None where the suite has no other.
    """

    suite: str
    site: str | None
    suite_digest: str
    protocol: int
    tables: tuple[Table, ...]

    @property
    def headline(self) -> Table:
        return self.tables[0]

    @property
    def title(self) -> str:
        return self.suite if self.site is None else f"{self.suite}, {self.site}"


def to_json(boards: Iterable[Leaderboard]) -> str:
    """A list of the boards with every field of every row, floats unrounded.

    Absent values are left out.
    """
    content = [asdict(board, dict_factory=_without_absent) for board in boards]
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"


class _Entry(NamedTuple):
    """One record's result at the tolerance of a table."""

    record: EvalRecord
    result: ToleranceResult
    label: str
    status: Status


class _Standing(NamedTuple):
    """Where a ranked SAE stands; the defaults are those of SAEs without a rank."""

    rank: int | None = None
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None


def build_all(
    records: Iterable[EvalRecord], headline: Headline, every_tolerance: bool = True
) -> list[Leaderboard]:
    """A board for each site of the records, by the sites' labels.

    Only their data may differ between sites, nothing else of what `comparable` asks for.

    Raises:
        UsageError, RecordError: as `build` does.
    """
    groups = by_site(records)
    first, *others = (group[0] for group in groups.values())
    for other in others:
        refuse_unlike(first, other)
    several = len(groups) > 1
    return [
        build(group, headline, site if several else None, every_tolerance)
        for site, group in groups.items()
    ]


def build_archive(records: Iterable[EvalRecord], headline: Headline) -> list[Leaderboard]:
    """Boards of records that were measured with other versions of a suite, each ranked apart.

    The headline leads where a version had it.
    """
    versions: dict[tuple[str, int], list[EvalRecord]] = {}
    for record in records:
        identity = record.identity
        versions.setdefault((identity.suite_digest, identity.protocol), []).append(record)
    return [
        board
        for _, group in sorted(versions.items())
        for board in build_all(group, _headline_of(group[0], headline))
    ]


def _headline_of(record: EvalRecord, wanted: Headline) -> Headline:
    limits = [(result.metric, result.epsilon) for result in record.tolerances]
    if (wanted.metric, wanted.epsilon) in limits:
        return wanted
    return Headline(metric=limits[0][0], epsilon=limits[0][1])


def by_site(records: Iterable[EvalRecord]) -> dict[str, list[EvalRecord]]:
    """The records of each site, by its label; SAEs are only ever ranked within one.

    Raises:
        UsageError: there are no records.
    """
    groups: dict[str, list[EvalRecord]] = {}
    for record in sorted(records, key=lambda record: (record.site.label, record.label)):
        groups.setdefault(record.site.label, []).append(record)
    if not groups:
        raise UsageError("no records to rank")
    return groups


def build(
    records: Iterable[EvalRecord],
    headline: Headline,
    site: str | None = None,
    every_tolerance: bool = True,
) -> Leaderboard:
    """One table per tolerance of the records, in the suite's order, the headline's first.

    Only the headline's where not every tolerance is asked for.

    The result does not depend on the order of the records.

    Raises:
        UsageError: there are no records, or `headline` is not among their tolerances.
        RecordError: the records cannot stand on one board; the message names them.
    """
    ordered = comparable(records)
    labels = unique_labels(ordered)
    first = ordered[0]
    limits = [(result.metric, result.epsilon) for result in first.tolerances]
    wanted = (headline.metric, headline.epsilon)
    if wanted not in limits:
        known = ", ".join(f"{metric} {epsilon:g}" for metric, epsilon in limits)
        raise UsageError(
            f"no record has the tolerance {headline.metric} {headline.epsilon:g}. Known: {known}."
        )
    limits = sorted(limits, key=lambda limit: limit != wanted) if every_tolerance else [wanted]
    return Leaderboard(
        suite=first.identity.suite,
        site=site,
        suite_digest=first.identity.suite_digest,
        protocol=first.identity.protocol,
        tables=tuple(_table(ordered, labels, *limit) for limit in limits),
    )


def rank(records: Iterable[EvalRecord], metric: Metric, epsilon: float) -> Table:
    """The table at one tolerance; raises as `build` does."""
    ordered = comparable(records)
    return _table(ordered, unique_labels(ordered), metric, epsilon)


def comparable(records: Iterable[EvalRecord]) -> list[EvalRecord]:
    """The records in a fixed order, if they measure the same thing on the same data.

    Raises:
        UsageError: there are none.
        RecordError: two records share an id, or differ in suite, protocol, data, seed or
            tolerances.
    """
    ordered = sorted(records, key=lambda record: (record.label, record.id))
    if not ordered:
        raise UsageError("no records to rank")
    repeated = [id_ for id_, n in Counter(record.id for record in ordered).items() if n > 1]
    if repeated:
        names = sorted({record.name for record in ordered if record.id == repeated[0]})
        raise RecordError(f"{', '.join(names)}: two records with the same id {repeated[0]}")
    for record in ordered[1:]:
        refuse_other_data(ordered[0], record)
    return ordered


def shared_ranks(replicates: Replicates) -> list[int]:
    """Competition ranks of SAEs sorted by bits, fewest first.

    Two SAEs whose paired difference interval covers 0 share a rank (maths §7), and so does
    everything between them: ranks are the finest split of the list into contiguous runs that
    keeps every such pair together.

    Args:
        replicates: bootstrap replicates of bits; a column is one resample of the documents.
    """
    low, high = replicates.min(axis=1), replicates.max(axis=1)
    tied_to_previous = _covers_zero(np.diff(replicates, axis=0))
    starts: list[int] = []
    for i in range(len(replicates)):
        if i == 0 or not tied_to_previous[i - 1]:
            starts.append(i)
        overlapping = (high[: starts[-1]] >= low[i]) & (low[: starts[-1]] <= high[i])
        others = np.flatnonzero(overlapping)
        tied = others[_covers_zero(replicates[i] - replicates[others])]
        while len(tied) and starts[-1] > tied[0]:
            starts.pop()
    lengths = np.diff([*starts, len(replicates)])
    return [start + 1 for start, length in zip(starts, lengths, strict=True) for _ in range(length)]


def unique_labels(records: Sequence[EvalRecord]) -> dict[str, str]:
    """What to call each record's SAE, by record id: its label, made unique where it is not."""
    uses = Counter(record.label for record in records)
    return {
        record.id: record.label
        if uses[record.label] == 1
        else f"{record.label} ({record.id[:ID_CHARACTERS]})"
        for record in records
    }


def _table(
    records: Sequence[EvalRecord], labels: dict[str, str], metric: Metric, epsilon: float
) -> Table:
    entries = [_entry(record, labels[record.id], metric, epsilon) for record in records]
    entries.sort(key=_order)
    ranked = [entry for entry in entries if entry.status == "ranked"]
    standings = _standings(ranked) if ranked else []
    standings += [_Standing()] * (len(entries) - len(ranked))
    return Table(metric, epsilon, tuple(map(_row, entries, standings)))


def _entry(record: EvalRecord, label: str, metric: Metric, epsilon: float) -> _Entry:
    result = record.at(metric, epsilon)
    if result.feasible and (result.bits is None or result.bits_ci is None):
        raise RecordError(
            f"{label}: feasible at {metric} {epsilon:g}, but without bits or interval"
        )
    return _Entry(record, result, label, _status(record, result))


def _status(record: EvalRecord, result: ToleranceResult) -> Status:
    if record.partial or record.identity.limit is not None:
        return "partial"
    if not result.feasible:
        return "infeasible"
    return "ranked" if result.ranked else "unranked"


def _order(entry: _Entry) -> tuple[int, bool, float, str, str]:
    """Status first; fewest bits first, then lowest floor where there are no bits."""
    bits = entry.result.bits
    value = _floor(entry) if bits is None else bits
    position = STATUS_ORDER.index(entry.status)
    return position, bits is None, value, entry.record.label, entry.record.id


def _floor(entry: _Entry) -> float:
    return float(getattr(entry.record.floor, entry.result.metric))


def _standings(ranked: Sequence[_Entry]) -> list[_Standing]:
    """Ranks and paired differences to the first of at least one SAE, fewest bits first."""
    replicates = _paired_replicates(ranked)
    bits = np.array([entry.result.bits for entry in ranked], dtype=np.float64)
    lows, highs = np.quantile(replicates - replicates[0], INTERVAL, axis=1)
    columns = (bits - bits[0]).tolist(), lows.tolist(), highs.tolist()
    return list(map(_Standing, shared_ranks(replicates), *columns))


def _paired_replicates(ranked: Sequence[_Entry]) -> Replicates:
    expected = len(ranked[0].result.replicates)
    for entry in ranked:
        found = len(entry.result.replicates)
        if not expected or found != expected:
            raise RecordError(
                f"{entry.label}: {found} bootstrap replicates at {entry.result.metric} "
                f"{entry.result.epsilon:g}, {ranked[0].label} has {expected}; "
                "they cannot be paired"
            )
    return np.array([entry.result.replicates for entry in ranked], dtype=np.float64)


def _covers_zero(differences: Float64[np.ndarray, "pair replicate"]) -> Bool[np.ndarray, " pair"]:
    """Whether the interval of each row covers 0.

    A row with fewer values on one side of 0 than the tail holds cannot; only the others are sorted.
    """
    in_tail = int(TAIL * (differences.shape[1] - 1))
    n_below, n_above = (differences <= 0).sum(axis=1), (differences >= 0).sum(axis=1)
    covers = (n_below > in_tail) & (n_above > in_tail)
    if covers.any():
        low, high = np.quantile(differences[covers], INTERVAL, axis=1)
        covers[covers] = (low <= 0) & (high >= 0)
    return np.asarray(covers)


def _row(entry: _Entry, standing: _Standing) -> Row:
    record, result, coder = entry.record, entry.result, entry.record.coder
    low, high = result.bits_ci or (None, None)
    return Row(
        metric=result.metric,
        epsilon=result.epsilon,
        **standing._asdict(),
        label=entry.label,
        status=entry.status,
        bits=result.bits,
        bits_low=low,
        bits_high=high,
        step=result.step,
        l0=result.l0,
        **_at_step(operating_point(record, result)),
        floor=_floor(entry),
        floor_mse=record.floor.mse,
        floor_fvu=record.floor.fvu,
        floor_delta_ce=record.floor.delta_ce,
        at_coarsest=result.at_coarsest,
        non_monotone=result.non_monotone,
        d_latents=coder.d_latents,
        l0_unquantised=coder.l0,
        dead_fraction=coder.dead_fraction,
        decoder_weight_bits=coder.decoder_weight_bits,
        decoder_bits=coder.decoder_bits,
        codebook_bits=coder.codebook_bits,
        break_even_tokens=coder.break_even_tokens,
        architecture=coder.architecture,
        adapter=record.identity.coder.adapter,
        hook=record.site.hook,
        text=record.site.text,
        test_tokens=record.n_tokens.test,
        name=record.name,
        quantiser=record.identity.quantiser,
        id=record.id,
    )


def _at_step(point: OperatingPoint | None) -> dict[str, Any]:
    losses = ("mse", "fvu", "delta_ce")
    codes = ("plugin", "heldout", "side", "adaptive", "enumerative", "bound", "coded")
    if point is None:
        return dict.fromkeys(losses + codes)
    return {
        **{name: getattr(point, name) for name in losses},
        **{name: getattr(point.bits, name) for name in codes},
    }


def _without_absent(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if value is not None}
