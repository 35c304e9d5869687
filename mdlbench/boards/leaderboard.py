"""Records → ranks with intervals and honest ties: one table per tolerance of a suite."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from mdlbench.boards.pairing import refuse_other_data, refuse_unlike
from mdlbench.errors import RecordError, UsageError
from mdlbench.records.record import EvalRecord, OperatingPoint, ToleranceResult, operating_point
from mdlbench.statistics.bootstrap import CONFIDENCE
from mdlbench.statistics.metrics import shown_metrics
from mdlbench.suite.base import MetricName
from mdlbench.suite.suite import Headline

Status = Literal["ranked", "baseline", "unranked", "partial", "edited", "infeasible"]
Replicates = Float64[np.ndarray, "sae replicate"]

TAIL = (1 - CONFIDENCE) / 2
INTERVAL = (TAIL, 1 - TAIL)
"""Tail probabilities of the percentile intervals."""
STATUS_ORDER: Mapping[Status, int] = {
    "ranked": 0,
    "baseline": 0,
    "unranked": 1,
    "partial": 2,
    "edited": 3,
    "infeasible": 4,
}
"""Which rows come first; baselines stand among the ranked ones, by their bits."""
ID_CHARACTERS = 8
"""Characters of a record's id that are shown where two SAEs have the same name."""


class Ranking(NamedTuple):
    """Where a ranked SAE stands; the defaults are those of SAEs without a rank.

    Attributes:
        rank: one more than the number of reliably shorter SAEs; None for a baseline.
        delta, delta_low, delta_high: bits above the best ranked SAE, with the paired interval.
    """

    rank: int | None = None
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None


@dataclass(frozen=True)
class Row:
    """One SAE at one tolerance.

    Attributes:
        record, result: the SAE's, and what it says of the tolerance.
        point: its operating point at the accepted step; None where it has none.
        label: the SAE's name, with its quantiser where that is not the suite's own, and with the
            start of its id where that alone is not unique.
        status: "ranked"; "baseline" (fitted or given, not trained, so it has no rank); "unranked"
            (feasible, but the record asks not to be ranked); "partial" (made with `--limit`);
            "edited" (the record was changed after it was written); "infeasible" (the 95% limit of
            the loss exceeds ε at the finest step).
        ranking: its rank and Δ, as far as `status` lets it have them.
    """

    record: EvalRecord
    result: ToleranceResult
    point: OperatingPoint | None
    label: str
    status: Status
    ranking: Ranking

    @property
    def floor(self) -> float:
        """The tolerance's metric of the unquantised reconstruction."""
        return self.record.floor.loss(self.result.metric)

    @property
    def bits_at_step(self) -> float | None:
        """Total bits per token at the accepted step, where it is met."""
        return None if self.point is None else self.point.bits.total

    @property
    def coded(self) -> float | None:
        """Bits per token of a real bitstream, where one was written at this step."""
        return None if self.point is None else self.point.bits.coded

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """The 95% interval of its bits."""
        return self.result.bits_ci or (None, None)


@dataclass(frozen=True)
class Table:
    """All SAEs at one tolerance, in the order of `STATUS_ORDER`, then by bits."""

    metric: MetricName
    epsilon: float
    rows: tuple[Row, ...]

    def of(self, status: Status) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.status == status)

    @property
    def least_difference(self) -> float | None:
        """Bits per token from which two ranked SAEs that are neighbours differ beyond chance.

        The median over neighbours (maths §7); None where there are none whose draws differ.
        """
        ranked = [np.asarray(row.result.replicates, dtype=np.float64) for row in self.of("ranked")]
        halves = [
            float(np.ptp(np.quantile(other - one, INTERVAL))) / 2 for one, other in pairwise(ranked)
        ]
        apart = [half for half in halves if half > 0]
        return median(apart) if apart else None


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


Cell = float | int | str | bool | None
Columns = dict[str, Callable[[Row], Cell]]
CODES = ("plugin", "heldout", "side", "adaptive", "enumerative", "bound", "coded")
"""Fields of `Bits`: the parts and the other codes (maths §3)."""


def columns(boards: Iterable[Leaderboard]) -> Columns:
    """The columns of boards as data, and how each is read from a row.

    None was not measured, or does not apply. Losses are those that every record has and those that
    the boards' suite sets a tolerance on; with `floor_`, those of the unquantised reconstruction.
    """
    metrics = [metric.name for metric in shown_metrics(_metrics(boards))]
    return {
        "metric": lambda row: row.result.metric,
        "epsilon": lambda row: row.result.epsilon,
        "rank": lambda row: row.ranking.rank,
        "label": lambda row: row.label,
        "status": lambda row: row.status,
        "bits": lambda row: row.result.bits,
        "bits_low": lambda row: row.interval[0],
        "bits_high": lambda row: row.interval[1],
        "delta": lambda row: row.ranking.delta,
        "delta_low": lambda row: row.ranking.delta_low,
        "delta_high": lambda row: row.ranking.delta_high,
        "step": lambda row: row.result.step,
        "bits_at_step": lambda row: row.bits_at_step,
        "l0": lambda row: row.result.l0,
        **{metric: partial(_loss, metric) for metric in metrics},
        **{code: partial(_rate, code) for code in CODES},
        "floor": lambda row: row.floor,
        **{f"floor_{metric}": partial(_floor_of, metric) for metric in metrics},
        "at_coarsest": lambda row: row.result.at_coarsest,
        "non_monotone": lambda row: row.result.non_monotone,
        "d_latents": lambda row: row.record.coder.d_latents,
        "l0_unquantised": lambda row: row.record.coder.l0,
        "dead_fraction": lambda row: row.record.coder.dead_fraction,
        "decoder_weight_bits": lambda row: row.record.coder.decoder_weight_bits,
        "decoder_bits": lambda row: row.record.coder.decoder_bits,
        "codebook_bits": lambda row: row.record.coder.codebook_bits,
        "break_even_tokens": lambda row: row.record.coder.break_even_tokens,
        "architecture": lambda row: row.record.coder.architecture,
        "adapter": lambda row: row.record.identity.coder.adapter,
        "hook": lambda row: row.record.site.hook,
        "text": lambda row: row.record.site.text,
        "test_tokens": lambda row: row.record.n_tokens.test,
        "name": lambda row: row.record.name,
        "quantiser": lambda row: row.record.identity.quantiser,
        "id": lambda row: row.record.id,
    }


def _metrics(boards: Iterable[Leaderboard]) -> set[str]:
    """Those that the boards' suites set tolerances on."""
    tables = (table for board in boards for table in board.tables)
    return {metric for table in tables for row in table.rows for metric in row.record.metrics}


def _loss(metric: str, row: Row) -> float | None:
    return None if row.point is None else row.point.losses.get(metric)


def _floor_of(metric: str, row: Row) -> float | None:
    return row.record.floor.losses.get(metric)


def _rate(code: str, row: Row) -> float | None:
    return None if row.point is None else getattr(row.point.bits, code)


def to_json(boards: Sequence[Leaderboard]) -> str:
    """A list of the boards with every column of every row, floats unrounded.

    Absent values are left out.
    """
    readers = columns(boards)
    content = [without_absent(_board_content(board, readers)) for board in boards]
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _board_content(board: Leaderboard, readers: Columns) -> dict[str, Any]:
    tables = [
        {
            "metric": table.metric,
            "epsilon": table.epsilon,
            "rows": [
                without_absent({name: read(row) for name, read in readers.items()})
                for row in table.rows
            ],
        }
        for table in board.tables
    ]
    return {
        "suite": board.suite,
        "site": board.site,
        "suite_digest": board.suite_digest,
        "protocol": board.protocol,
        "tables": tables,
    }


class _Entry(NamedTuple):
    """One record's result at the tolerance of a table."""

    record: EvalRecord
    result: ToleranceResult
    label: str
    status: Status


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


def rank(records: Iterable[EvalRecord], metric: MetricName, epsilon: float) -> Table:
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
    """Ranks of SAEs: one more than the number of those that are reliably shorter (maths §7).

    One is reliably shorter than another if the interval of their paired difference lies below 0.

    Args:
        replicates: bootstrap replicates of bits; a column is one resample of the documents.
    """
    low, high = replicates.min(axis=1), replicates.max(axis=1)
    return [
        1 + int((high < low[i]).sum()) + _reliably_shorter(own, replicates[_overlap(low, high, i)])
        for i, own in enumerate(replicates)
    ]


def _overlap(
    low: Float64[np.ndarray, " sae"], high: Float64[np.ndarray, " sae"], i: int
) -> Bool[np.ndarray, " sae"]:
    """Those of which some replicate may be the larger and some the smaller one."""
    overlap: Bool[np.ndarray, " sae"] = (high >= low[i]) & (low <= high[i])
    return overlap


def _reliably_shorter(own: Float64[np.ndarray, " replicate"], others: Replicates) -> int:
    """How many have an interval below; only those are sorted whose counts do not tell."""
    gaps = own - others
    in_tail, n_below = int(TAIL * (gaps.shape[1] - 1)), (gaps <= 0).sum(axis=1)
    open_ = gaps[n_below == in_tail + 1]
    return int((n_below <= in_tail).sum() + (np.quantile(open_, TAIL, axis=1) > 0).sum())


def unique_labels(records: Sequence[EvalRecord]) -> dict[str, str]:
    """What to call each record's SAE, by record id: its label, made unique where it is not.

    Of one that was trained again in place, the record that was made or found again last is said to
    be current.
    """
    groups: dict[str, list[EvalRecord]] = {}
    for record in records:
        groups.setdefault(record.label, []).append(record)
    return {
        record.id: label if len(group) == 1 else f"{label} ({_told_apart(record, group)})"
        for label, group in groups.items()
        for record in group
    }


def _told_apart(record: EvalRecord, group: Sequence[EvalRecord]) -> str:
    """The start of its id; "current" where others of the group are earlier ones of the same SAE."""
    start, origin = record.id[:ID_CHARACTERS], record.provenance.sae
    others = [one for one in group if one.id != record.id and one.provenance.sae == origin]
    is_last = all(one.last_found < record.last_found for one in others)
    return f"{start}, current" if origin and others and is_last else start


def _table(
    records: Sequence[EvalRecord], labels: dict[str, str], metric: MetricName, epsilon: float
) -> Table:
    entries = [_entry(record, labels[record.id], metric, epsilon) for record in records]
    entries.sort(key=_order)
    placed = [entry for entry in entries if entry.status in ("ranked", "baseline")]
    rankings = _rankings(placed)
    rankings += [Ranking()] * (len(entries) - len(placed))
    return Table(metric, epsilon, tuple(map(_row, entries, rankings)))


def _entry(record: EvalRecord, label: str, metric: MetricName, epsilon: float) -> _Entry:
    result = record.result(metric, epsilon)
    if result.feasible and (result.bits is None or result.bits_ci is None):
        raise RecordError(
            f"{label}: feasible at {metric} {epsilon:g}, but without bits or interval"
        )
    return _Entry(record, result, label, _status(record, result))


def _status(record: EvalRecord, result: ToleranceResult) -> Status:
    if record.is_edited:
        return "edited"
    if record.partial or record.identity.limit is not None:
        return "partial"
    if not result.feasible:
        return "infeasible"
    if not result.ranked:
        return "unranked"
    return "baseline" if record.is_baseline else "ranked"


def _order(entry: _Entry) -> tuple[int, bool, float, str, str]:
    """Status first; fewest bits first, then lowest floor where there are no bits."""
    bits = entry.result.bits
    value = entry.record.floor.loss(entry.result.metric) if bits is None else bits
    return STATUS_ORDER[entry.status], bits is None, value, entry.record.label, entry.record.id


def _rankings(placed: Sequence[_Entry]) -> list[Ranking]:
    """Ranks of SAEs, and paired differences of all to the best one, fewest bits first."""
    is_ranked = np.array([entry.status == "ranked" for entry in placed], dtype=bool)
    if not is_ranked.any():
        return [Ranking()] * len(placed)
    replicates = _paired_replicates(placed)
    bits = np.array([entry.result.bits for entry in placed], dtype=np.float64)
    best = int(is_ranked.argmax())
    lows, highs = np.quantile(replicates - replicates[best], INTERVAL, axis=1)
    ranks = iter(shared_ranks(replicates[is_ranked]))
    columns = (bits - bits[best]).tolist(), lows.tolist(), highs.tolist()
    return [
        Ranking(next(ranks) if ranked else None, *difference)
        for ranked, *difference in zip(is_ranked.tolist(), *columns, strict=True)
    ]


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


def _row(entry: _Entry, ranking: Ranking) -> Row:
    point = operating_point(entry.record, entry.result)
    return Row(entry.record, entry.result, point, entry.label, entry.status, ranking)


def without_absent(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what is None."""
    return {key: value for key, value in content.items() if value is not None}
