"""A comparison for programs: JSON and CSV, floats unrounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mdlbench.boards.compare.contender import ComparedCurve
from mdlbench.boards.compare.contest import AtEpsilon, Contest, Placing
from mdlbench.boards.compare.curves import CurveComparison, Estimate
from mdlbench.boards.leaderboard import without_absent
from mdlbench.report.tables import inert_cell
from mdlbench.statistics.bootstrap import CONFIDENCE

CSV_COLUMNS = ("anchor", "test", "quantity", "distortion", "value", "low", "high", "note")


def to_json(contest: Contest) -> str:
    """Every number, floats unrounded; absent values are left out."""
    record = contest.record
    content = {
        "suite": record.identity.suite,
        "suite_digest": record.identity.suite_digest,
        "site": record.site.label,
        "protocol": record.identity.protocol,
        "partial": contest.is_partial,
        "metric": contest.metric,
        "anchor": contest.anchor.name,
        "confidence": CONFIDENCE,
        "resamples": contest.n_resamples,
        "contenders": [_contender(curve) for curve in contest.curves],
        "curves": [_curves(comparison) for comparison in contest.comparisons],
        "tolerances": [_tolerance(at) for at in contest.tolerances],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_csv(contest: Contest) -> str:
    """Long format: a line per contender and quantity, floats unrounded.

    `distortion` is the tolerance, or where two curves cross.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for comparison in contest.comparisons:
        for line in _curve_lines(comparison):
            writer.writerow(_inert({"anchor": comparison.anchor, "test": comparison.test, **line}))
    for at in contest.tolerances:
        for placing in at.placings:
            for line in _placing_lines(placing, at.epsilon):
                names = {"anchor": contest.anchor.name, "test": placing.name}
                writer.writerow(_inert(names | line))
    return buffer.getvalue()


def _inert(line: dict[str, Any]) -> dict[str, Any]:
    return {column: inert_cell(value) for column, value in line.items()}


def _contender(curve: ComparedCurve) -> dict[str, Any]:
    one = curve.contender
    return {
        "name": one.name,
        "members": [{"sae": one.labels[member.id], "id": member.id} for member in one.members],
        "points": [
            {
                "sae": one.labels[one.member_at(point).id],
                "step": point.step,
                "bits": point.rate,
                "distortion": point.distortion,
                "l0": point.l0,
            }
            for point in curve.vertices.points
        ],
    }


def _curves(comparison: CurveComparison) -> dict[str, Any]:
    content = {
        "test": comparison.test,
        "comparable": comparison.reason is None,
        "reason": comparison.reason,
        "bd_rate_reason": comparison.rate_reason,
        "overlap": comparison.overlap,
        "bd_bits": _estimate_content(comparison.bd_bits),
        "bd_rate_percent": _estimate_content(comparison.bd_rate),
        "smallest_share": comparison.smallest,
        "largest_share": comparison.largest,
        "crossings": None
        if comparison.crossings is None
        else [found._asdict() for found in comparison.crossings],
    }
    return without_absent(content)


def _estimate_content(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else without_absent(estimate._asdict())


def _tolerance(at: AtEpsilon) -> dict[str, Any]:
    placings = []
    for placing in at.placings:
        gap = placing.to_anchor
        content = asdict(placing) | {"to_anchor": None if gap is None else gap._asdict()}
        placings.append(without_absent(content))
    lead = None if at.lead is None else at.lead._asdict() | {"tie": not at.lead.sign}
    found = {"epsilon": at.epsilon, "lead": lead, "placings": placings}
    return without_absent(found)


def _curve_lines(comparison: CurveComparison) -> Iterator[dict[str, Any]]:
    note = comparison.reason and f"not comparable ({comparison.reason})"
    rate_note = note or comparison.rate_reason
    for name, estimate, reason in (
        ("bd_bits", comparison.bd_bits, note),
        ("bd_rate_percent", comparison.bd_rate, rate_note),
    ):
        ends = Estimate(0.0) if estimate is None else estimate
        value = None if estimate is None else estimate.value
        yield {
            "quantity": name,
            "value": value,
            "low": ends.low,
            "high": ends.high,
            "note": reason,
        }
    yield {"quantity": "overlap", "value": comparison.overlap}
    yield {"quantity": "smallest_share", "value": comparison.smallest}
    yield {"quantity": "largest_share", "value": comparison.largest}
    for found in comparison.crossings or ():
        yield {
            "quantity": "crossing_bits",
            "distortion": found.distortion,
            "value": found.rate,
            "note": "beyond chance" if found.beyond_chance else "within chance",
        }


def _placing_lines(placing: Placing, epsilon: float) -> Iterator[dict[str, Any]]:
    low, high = placing.interval or (None, None)
    yield {
        "quantity": "bits",
        "distortion": epsilon,
        "value": placing.bits,
        "low": low,
        "high": high,
        "note": placing.sae or "infeasible",
    }
    if gap := placing.to_anchor:
        yield {
            "quantity": "bits_above_anchor",
            "distortion": epsilon,
            "value": gap.bits,
            "low": gap.low,
            "high": gap.high,
        }
