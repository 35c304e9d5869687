"""What a sweep shows, in words and in a table; every verdict is decided by the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median

import pandas as pd

from mdlbench.boards.pairing import AtTolerance, Difference
from mdlbench.papers.feature_sheet import Sheet
from mdlbench.papers.sweep import (
    DEAD_SHARE,
    DEAD_SHARES,
    Gain,
    Level,
    PairOfCurves,
    Regime,
    Study,
    SweepEntry,
    above,
    limit_name,
    linear_fit,
    minimum,
    onset,
    precision,
    precision_at,
    sparsest,
    trained_k,
)
from mdlbench.papers.wording import Finding, all_positive, by_verdict
from mdlbench.records.record import EvalRecord
from mdlbench.report.outputs import frame_as_markdown
from mdlbench.report.tables import escape_markdown

PAPER_DELTA_MSE = 0.0001
PAPER_FLOAT_BITS = 5
NEAR_FLOAT_BITS = 0.5
"""How far the median precision may lie from the paper's to be called the same."""
LINEAR = 0.9
"""R² from which a relation is called linear."""
NEAR_OCTAVES = 1.0
"""How far apart, in octaves of width, two widths may lie to be called the same place."""


def table(study: Study) -> pd.DataFrame:
    """A row per ε and SAE: the paper's algorithm in numbers; NaN where ε is not met."""
    rows: list[dict[str, object]] = []
    for at in study.levels:
        best = {id(entry) for entry in at.pairs}
        regimes = {id(entry): letter for letter, entry in at.regimes().items()}
        for entry in at.entries:
            marks = {"best_of_width": id(entry) in best, "regime": regimes.get(id(entry))}
            rows.append(_described(entry.record, at) | _measured(entry) | marks)
        rows += [_described(record, at) | {"feasible": False} for record in at.infeasible]
    frame = pd.DataFrame(rows)
    frame["best_of_width"] = frame["best_of_width"].eq(True)
    return frame


def findings(study: Study, sheets: Mapping[Regime, Sheet]) -> list[Finding]:
    """What the paper and its comments say, or ask, of such a sweep."""
    return [
        interior_minimum(study.at),
        index_costs(study.at),
        linear_in_l0(study.at),
        magnitudes_dominate(study.at),
        float_precision(study),
        features_grow(study.at, sheets),
        one_width_for_all(study.levels),
    ]


def answers(study: Study) -> list[Finding]:
    """The open questions of the comments."""
    return [
        curves_cross(study.curves),
        dead_at_minimum(study.levels),
        *(mode_gains(mode, found, study.anchor) for mode, found in study.gains.items()),
        *([] if study.gains else [_NO_MODES]),
    ]


_NO_MODES = Finding(
    "Does a precision per latent shorten the code", None, "No other mode was measured."
)


def to_markdown(study: Study, sheets: Mapping[Regime, Sheet]) -> str:
    """The whole report."""
    claims, questions = findings(study, sheets), answers(study)
    parts = [
        "# The MNIST case study",
        _scope(study),
        f"## The shortest SAE at {study.at.limit}",
        _optimum(study.at),
        frame_as_markdown(_pairs_table(study.at)).rstrip(),
        *by_verdict(claims, "records"),
        "## The open questions",
        "\n".join(f"- **{f.claim}?** {_ANSWERS[f.holds]} {f.evidence}" for f in questions),
        "## Other tolerances",
        frame_as_markdown(_levels_table(study)).rstrip(),
        _DEFINITIONS,
    ]
    return "\n\n".join(parts) + "\n"


_ANSWERS = {True: "Yes.", False: "No.", None: "Cannot be said."}
_DEFINITIONS = (
    "DL is the held-out codebook's bits per token where the SAE's rate-distortion curve has the "
    "MSE ε. All other facts about an SAE at ε are those of its accepted step: the coarsest "
    "measured one whose MSE after quantisation keeps ε with 95% confidence. Plug-in is the entropy "
    "that the paper reports. Intervals are 95%, by paired bootstrap over test images, where each "
    "draw has its own curve. They do not cover other training seeds. A latent is dead if it is on "
    "for none of the images, before quantisation. B is the fixed-length bits of a nonzero's "
    "magnitude, ⌈log₂ of the levels in use⌉. Bits/nonzero is the entropy of that magnitude. First "
    "> 1% dead is the smallest width whose best SAE within ε has more dead latents. Sparsest > 1% "
    "dead takes the SAE of the smallest L0 instead of the best. Curves cross where their lower "
    "hulls do. They do so beyond chance where paired intervals have either sign at two "
    "tolerances. BD-bits are over the curves within the largest ε that both modes meet, and have "
    "no interval. C and D are chosen among all SAEs narrower than B, A among those of the largest "
    "width."
)


def interior_minimum(at: Level) -> Finding:
    found = minimum(at)
    ends = [
        _end(found.narrowest, at.pairs[0], "narrowest"),
        _end(found.widest, at.pairs[-1], "widest"),
    ]
    return Finding(
        f"DL against width has an interior minimum at {at.limit}",
        found.interior,
        f"The minimum is at width {found.entry.width}. {' '.join(ends)}{_missed(at)}",
    )


def index_costs(at: Level) -> Finding:
    """Regime A: low L0, but more bits to say which latents."""
    claim = "Wide, sparse SAEs (A) pay for saying which latents are on"
    regimes = at.regimes()
    if "A" not in regimes:
        return Finding(claim, None, "The minimum is at the largest width.")
    a, b = regimes["A"], regimes["B"]
    supports = a.point.bits.support, b.point.bits.support
    longer = above(b, a, at)
    return Finding(
        claim,
        all_positive([longer.sign]) if a.l0 < b.l0 and supports[0] > supports[1] else False,
        f"{_name(a)} has L0 {a.l0:.2f} where {_name(b)} has {b.l0:.2f}; its support costs "
        f"{supports[0]:.1f} bits against {supports[1]:.1f} ({supports[0] / a.l0:.1f} against "
        f"{supports[1] / b.l0:.1f} per nonzero), its DL is {a.bits:.2f} against {b.bits:.2f}, "
        f"a difference of {_signed(longer)}.",
    )


def linear_in_l0(at: Level) -> Finding:
    claim = "DL of narrow SAEs (B, C, D) is linear in L0"
    fit = linear_fit(at.narrow)
    if fit is None:
        return Finding(claim, None, "Fewer than three SAEs are as narrow as the minimum.")
    return Finding(
        claim,
        fit.slope > 0 and fit.r_squared >= LINEAR,
        f"Over the {fit.n} SAEs up to width {at.best.width}: DL = {fit.intercept:.1f} + "
        f"{fit.slope:.2f}·L0, R² = {fit.r_squared:.2f} (linear means at least {LINEAR:g}).",
    )


def magnitudes_dominate(at: Level) -> Finding:
    """At ε, and at the paper's ΔMSE, where more of the rate is magnitudes."""
    claim = "In narrow, dense SAEs (D) most bits say how active latents are"
    dense = at.regimes().get("D")
    if dense is None:
        return Finding(claim, None, "The minimum is at the smallest width that meets ε.")
    return Finding(
        claim,
        dense.magnitude_share > 0.5,
        f"In {_name(dense)} magnitudes are {dense.magnitude_share:.0%} of the plug-in rate, the "
        f"support {1 - dense.magnitude_share:.0%}{_fine_share(dense.record)}.",
    )


def float_precision(study: Study) -> Finding:
    claim = (
        f"About {PAPER_FLOAT_BITS} bits per nonzero float cost an MSE of about {PAPER_DELTA_MSE:g}"
    )
    known = [p for r in study.records if (p := precision_at(r, PAPER_DELTA_MSE)) is not None]
    if not known:
        return Finding(claim, None, "No record's steps span that MSE.")
    typical = median(p.float_bits for p in known)
    added = [entry.delta_mse for entry in study.at.pairs]
    return Finding(
        claim,
        abs(typical - PAPER_FLOAT_BITS) <= NEAR_FLOAT_BITS,
        f"Where quantisation adds {PAPER_DELTA_MSE:g}, B is {typical:.1f} in the median of "
        f"{len(known)} SAEs ({_span(p.float_bits for p in known)}); the magnitudes' entropy is "
        f"{median(p.magnitude_bits for p in known):.1f} bits "
        f"({_span(p.magnitude_bits for p in known)}). At the coarsest step within MSE ≤ "
        f"{study.at.epsilon:g}, the best of each width add {min(added):.4f} to {max(added):.4f}.",
    )


def features_grow(at: Level, sheets: Mapping[Regime, Sheet]) -> Finding:
    claim = "From D over C and B to A features grow from fragments to whole digits"
    order: list[Regime] = [letter for letter in ("D", "C", "B", "A") if letter in sheets]
    if len(order) < 2:
        return Finding(claim, None, "There are no features of two regimes to compare.")
    pixels = [sheets[letter].pixels for letter in order]
    likeness = [sheets[letter].likeness for letter in order]
    return Finding(
        claim,
        _rises(pixels) and _rises(likeness),
        f"From {' to '.join(order)}, the effective number of pixels of a decoder row is "
        f"{', '.join(f'{value:.1f}' for value in pixels)}, and its cosine with the most similar "
        f"calibration image {', '.join(f'{value:.2f}' for value in likeness)} (means over all "
        "rows, weighted by how often they are on).",
    )


def one_width_for_all(levels: Sequence[Level]) -> Finding:
    """True or False where ties for the first rank cannot change it."""
    claim = "The width of the minimum is the same at every ε"
    shown = "; ".join(f"{at.limit}: {_name(at.best)}, {at.best.bits:.2f} bits" for at in levels)
    widths = [{entry.width for entry in (at.best, *at.tied)} for at in levels]
    if not set.intersection(*widths):
        return Finding(claim, False, f"{shown}.")
    is_one = len(levels) > 1 and len(set.union(*widths)) == 1
    return Finding(claim, True if is_one else None, f"{shown}.")


def curves_cross(pairs: Sequence[PairOfCurves]) -> Finding:
    claim = "Do the curves of different SAEs cross"
    crossed = [pair for pair in pairs if pair.crossings]
    confirmed = [pair for pair in pairs if pair.confirmed is not None]
    example = max(confirmed, key=_swing, default=None)
    return Finding(
        claim,
        bool(confirmed) if pairs else None,
        f"Of {len(pairs)} pairs with a common range of MSE, {len(crossed)} cross between measured "
        f"points and {len(confirmed)} change order beyond chance."
        + ("" if example is None else f" The largest: {_swap(example)}."),
    )


def dead_at_minimum(levels: Sequence[Level]) -> Finding:
    claim = "Do dead latents begin where DL is smallest"
    starts = [(at, onset((e.record for e in at.pairs), DEAD_SHARE)) for at in levels]
    apart = [
        (at, start, math.log2(start / at.best.width)) for at, start in starts if start is not None
    ]
    shown = [
        f"at {at.limit} the minimum is at width {at.best.width}, the first width with "
        f"over {DEAD_SHARE:.0%} dead at {start} ({octaves:+.1f} octaves)"
        for at, start, octaves in apart
    ]
    never = [f"{at.epsilon:g}" for at, start in starts if start is None]
    if never:
        shown.append(f"no width that meets MSE ≤ {', '.join(never)} has so many")
    return Finding(
        claim,
        all(abs(octaves) <= NEAR_OCTAVES for *_, octaves in apart) if apart else None,
        f"Among the best of each width, {'; '.join(shown)}. The same place means within "
        f"{NEAR_OCTAVES:g} octave.",
    )


def mode_gains(mode: str, found: Sequence[Gain], anchor: str) -> Finding:
    """Whether most SAEs are shorter in a mode; None where ties could change it."""
    claim = f"Does `{mode}` shorten the code of most SAEs against `{anchor}`"
    means = [gain.mean for gain in found if gain.mean is not None]
    if not means:
        return Finding(claim, None, "No SAE meets a tolerance in both.")
    single = [(gain, at) for gain in found for at in gain.at]
    longer = [at.difference for _, at in single if at.difference.sign > 0]
    shorter = sum(mean.sign < 0 for mean in means)
    averages = [gain.bd_bits for gain in found if gain.bd_bits is not None]
    longer_means = sum(mean.sign > 0 for mean in means)
    parts = [
        f"Averaged over the MSE tolerances, {shorter} of {len(means)} SAEs are shorter beyond "
        f"chance, {longer_means} longer; the difference is "
        f"{median(mean.bits for mean in means):+.2f} bits in the median "
        f"({_span((mean.bits for mean in means), '+.2f')})",
        f"at single tolerances {len(longer)} of {len(single)} are longer beyond chance"
        + (f", by at most {max(d.bits for d in longer):.2f} bits" if longer else ""),
    ]
    if averages:
        parts.append(
            f"BD-bits over the curves {median(averages):+.2f} in the median "
            f"({_span(averages, '+.2f')})"
        )
    holds = True if 2 * shorter > len(means) else None if 2 * longer_means < len(means) else False
    return Finding(claim, holds, f"{'; '.join(parts)}.")


def _described(record: EvalRecord, at: Level) -> dict[str, object]:
    return {
        "epsilon": at.epsilon,
        "sae": record.name,
        "width": record.coder.d_latents,
        "k": trained_k(record),
        "floor_mse": record.floor.mse,
        "dead_fraction": record.coder.dead_fraction,
    }


def _measured(entry: SweepEntry) -> dict[str, object]:
    point, found = entry.point, precision(entry.record, entry.point)
    return {
        "feasible": True,
        "rank": entry.rank,
        "l0": entry.l0,
        "step": found.step,
        "float_bits": found.float_bits,
        "magnitude_bits_per_nonzero": found.magnitude_bits,
        "mse": point.mse,
        "delta_mse": entry.delta_mse,
        "bits": entry.bits,
        "bits_low": entry.bits_low,
        "bits_high": entry.bits_high,
        "plugin": point.bits.plugin,
        "support": point.bits.support,
        "magnitude": point.bits.magnitude,
    }


def _pairs_table(at: Level) -> pd.DataFrame:
    letters = {id(entry): letter for letter, entry in at.regimes().items()}
    return pd.DataFrame(
        {
            "Width": entry.width,
            "k": entry.k,
            "L0": round(entry.l0, 2),
            "Floor MSE": entry.record.floor.mse,
            "ΔMSE": round(entry.delta_mse, 5),
            "Step": precision(entry.record, entry.point).step,
            "B": precision(entry.record, entry.point).float_bits,
            "Bits/nonzero": round(precision(entry.record, entry.point).magnitude_bits, 2),
            "DL": round(entry.bits, 2),
            "95%": f"{entry.bits_low:.2f} to {entry.bits_high:.2f}",
            "Plug-in": round(entry.point.bits.plugin, 2),
            "Support": round(entry.point.bits.support, 2),
            "Magnitude": round(entry.point.bits.magnitude, 2),
            "Dead": f"{entry.dead:.1%}",
            "Regime": letters.get(id(entry)),
        }
        for entry in at.pairs
    )


def _levels_table(study: Study) -> pd.DataFrame:
    rows = []
    for at in study.levels:
        records = [entry.record for entry in at.pairs]
        starts = {f"First > {100 * s:g}% dead": _width(onset(records, s)) for s in DEAD_SHARES}
        start = onset(sparsest(e.record for e in at.entries), DEAD_SHARE)
        rows.append(
            {
                "MSE ≤": at.epsilon,
                "Shortest": at.best.name,
                "DL": round(at.best.bits, 2),
                "L0": round(at.best.l0, 2),
                "Rank 1": ", ".join(entry.name for entry in at.tied),
                "Widths within ε": len(at.pairs),
                "Interior": minimum(at).interior,
                **starts,
                f"Sparsest > {100 * DEAD_SHARE:g}% dead": _width(start),
            }
        )
    return pd.DataFrame(rows)


def _width(width: int | None) -> str:
    return "none" if width is None else str(width)


def _scope(study: Study) -> str:
    widths, tokens = study.widths, study.records[0].n_tokens.test
    modes = ", ".join(f"`{mode}`" for mode in (study.anchor, *study.gains))
    return (
        f"{len(study.records)} BatchTopK SAEs, {len(widths)} widths from {widths[0]} to "
        f"{widths[-1]}, on {tokens:,} test images; modes: {modes}. "
        f"{len(study.at.entries)} of them meet {study.at.limit}."
    )


def _optimum(at: Level) -> str:
    best = at.best
    ties = [_name(entry) for entry in at.tied if entry is not best]
    shared = f"shares the first rank with {', '.join(ties)}" if ties else "ties with no other"
    return (
        f"{_name(best)}: width {best.width}, L0 {best.l0:.2f}, {best.bits:.2f} bits per token "
        f"({best.bits_low:.2f} to {best.bits_high:.2f}; plug-in {best.point.bits.plugin:.2f}). "
        f"It {shared}. The best sparsity of each width:"
    )


def _end(end: Difference | None, entry: SweepEntry, which: str) -> str:
    if end is None:
        return f"It is the {which} width that meets ε."
    return f"The {which} width that meets ε, {entry.width}, lies {_signed(end)} bits from it."


def _missed(at: Level) -> str:
    met = {entry.width for entry in at.entries}
    missed = sorted({record.coder.d_latents for record in at.infeasible} - met)
    return f" No SAE of width {', '.join(map(str, missed))} meets ε." if missed else ""


def _fine_share(record: EvalRecord) -> str:
    """The same share where quantisation adds the paper's ΔMSE, if the record's steps span it."""
    found = precision_at(record, PAPER_DELTA_MSE)
    if found is None:
        return ""
    finest = min(record.points, key=lambda point: point.step)
    magnitude = found.magnitude_bits * finest.l0
    share = magnitude / (magnitude + finest.bits.support)
    return f"; with {PAPER_DELTA_MSE:g} added by quantisation, magnitudes are {share:.0%}"


def _swing(pair: PairOfCurves) -> float:
    """The smaller of the two differences between which the order changes."""
    return 0.0 if pair.confirmed is None else min(abs(at.difference.bits) for at in pair.confirmed)


def _swap(pair: PairOfCurves) -> str:
    one, other = escape_markdown(pair.one.name), escape_markdown(pair.other.name)
    ends = sorted(pair.confirmed or (), key=lambda at: at.epsilon)
    return f"{other} minus {one} is " + " and ".join(_at(at) for at in ends)


def _at(at: AtTolerance) -> str:
    return f"{_signed(at.difference)} bits at {limit_name(at.epsilon)}"


def _rises(values: Sequence[float]) -> bool:
    return all(one < other for one, other in pairwise(values))


def _signed(difference: Difference) -> str:
    return f"{difference.bits:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"


def _name(entry: SweepEntry) -> str:
    return escape_markdown(entry.name)


def _span(values: Iterator[float] | Sequence[float], form: str = ".1f") -> str:
    known = list(values)
    return f"{min(known):{form}} to {max(known):{form}}"
