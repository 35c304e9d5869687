"""A comparison for people: sentences, and tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from mdlbench.boards.compare.contest import AtEpsilon, Contest, Placing
from mdlbench.boards.compare.curves import CurveComparison, Estimate, percent_below
from mdlbench.console.markdown import markdown_table
from mdlbench.report.tables import (
    ABSENT,
    TITLE_LENGTH,
    escape_markdown,
    printable,
)
from mdlbench.statistics.bootstrap import CONFIDENCE
from mdlbench.statistics.metrics import metric_of


def to_markdown(contest: Contest) -> str:
    """A section on the curves, and one for each tolerance."""
    anchor = escape_markdown(contest.anchor.name)
    header = ("SAE", "BD-bits [95%]", "BD-rate % [95%]", "Overlap", "Difference %")
    rows = [(escape_markdown(name), *cells) for name, *cells in curve_rows(contest)]
    parts = [
        f"# {escape_markdown(title_of(contest), TITLE_LENGTH)}",
        f"Anchor: {anchor}. {how_to_read(contest)}",
        markdown_table(header, rows),
        *(f"- {escape_markdown(note, 1000)}" for note in curve_notes(contest)),
    ]
    for at in contest.tolerances:
        parts += [
            f"## {metric_of(contest.metric).limit(at.epsilon)}",
            f"{escape_markdown(answer(contest, at), 1000)}.",
            markdown_table(
                ("Rank", "SAE", "Shortest member", "Bits/token", "95%", "Δ to the anchor", "95%"),
                [_placing_cells(placing) for placing in at.placings],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def how_to_read(contest: Contest) -> str:
    """What the numbers of the curves mean, in a few sentences."""
    resamples = (
        f"{CONFIDENCE:.0%} intervals are of {contest.n_resamples} paired resamples of the "
        "test documents, curves drawn anew in each."
        if contest.n_resamples
        else f"There are no intervals: {_without_draws(contest)}."
    )
    return (
        "Compared is the lower convex hull of all operating points of each, in linear rate and "
        "distortion, which time-sharing achieves. BD-bits and BD-rate: bits per token, and "
        f"percent, above the anchor at equal {metric_of(contest.metric).label}, averaged over "
        f"the common range of its logarithm. {resamples} Difference: smallest and largest over "
        "that range."
    )


def _without_draws(contest: Contest) -> str:
    metric = metric_of(contest.metric)
    if metric.always:
        return "a record has no bootstrap resamples; score the SAE again"
    return f"records have resamples of {metric.label} where their suite has a tolerance on it"


def curve_notes(contest: Contest) -> Iterator[str]:
    """What a table of averages cannot hold: why there is none, crossings, doubts."""
    if contest.is_partial:
        yield "partial: made with --limit, on a part of the data"
    if not contest.n_resamples:
        yield f"no intervals of curves: {_without_draws(contest)}"
    if not contest.tolerances:
        yield f"the suite has no tolerance on {metric_of(contest.metric).label}"
    for comparison in contest.comparisons:
        for note in _notes(contest, comparison):
            yield f"{printable(comparison.test)}: {note}"


def _notes(contest: Contest, comparison: CurveComparison) -> Iterator[str]:
    bits = comparison.bd_bits
    if comparison.reason:
        yield f"not comparable ({comparison.reason})"
    elif comparison.rate_reason:
        yield f"no BD-rate ({comparison.rate_reason})"
    if comparison.crossings:
        yield f"crosses the anchor at {_crossings_words(contest, comparison)}"
    if bits and bits.n_missing:
        yield f"not comparable in {bits.n_missing} of {contest.n_resamples} resamples"


def answer(contest: Contest, at: AtEpsilon) -> str:
    """Who is shortest at a tolerance, by how much over the next, and whether that is chance."""
    limit = metric_of(contest.metric).limit(at.epsilon)
    feasible = [placing for placing in at.placings if placing.bits is not None]
    if not feasible:
        return f"{limit}: none is within it"
    first = _who(feasible[0])
    if at.lead is None:
        return f"{limit}: only {first}"
    second, gap = _who(feasible[1]), f"{at.lead.bits:.2f} [{at.lead.low:.2f}, {at.lead.high:.2f}]"
    if at.lead.sign:
        return f"{limit}: {first} is shortest, {gap} bits before {second}"
    return f"{limit}: a tie of {first} and {second}, {gap} bits apart"


def _who(placing: Placing) -> str:
    member = "" if placing.sae in (None, placing.name) else f"{printable(placing.sae or '')}, "
    return f"{printable(placing.name)} ({member}{placing.bits:.2f} bits)"


def _crossings_words(contest: Contest, comparison: CurveComparison) -> str:
    metric = metric_of(contest.metric)
    return "; ".join(
        f"{found.rate:.1f} bits ({metric.label} {metric.written_short(found.distortion)}"
        f"{'' if found.beyond_chance else ', within chance'})"
        for found in comparison.crossings or ()
    )


def title_of(contest: Contest) -> str:
    """The suite, and at what its SAEs are compared."""
    record, metric = contest.record, metric_of(contest.metric).label
    return f"{record.identity.suite}: bits per token at equal {metric}"


def curve_rows(contest: Contest) -> list[tuple[str, str, str, str, str]]:
    """Name, BD-bits, BD-rate, overlap and range of the difference of all but the anchor."""
    return [
        (
            comparison.test,
            _estimate(comparison.bd_bits, 2) if not comparison.reason else "not comparable",
            _estimate(comparison.bd_rate, 1),
            percent_below(comparison.overlap),
            _range(comparison),
        )
        for comparison in contest.comparisons
    ]


def _estimate(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ABSENT
    value = f"{estimate.value:+.{digits}f}"
    if estimate.low is None and estimate.high is None:
        return value
    ends = ["?" if end is None else f"{end:.{digits}f}" for end in (estimate.low, estimate.high)]
    return f"{value} [{', '.join(ends)}]"


def _range(comparison: CurveComparison) -> str:
    if comparison.smallest is None or comparison.largest is None:
        return ABSENT
    return f"{100 * comparison.smallest:+.0f} to {100 * comparison.largest:+.0f}"


def _placing_cells(placing: Placing) -> tuple[str, ...]:
    gap = placing.to_anchor
    return (
        ABSENT if placing.rank is None else str(placing.rank),
        escape_markdown(placing.name),
        "infeasible" if placing.sae is None else escape_markdown(placing.sae),
        ABSENT if placing.bits is None else f"{placing.bits:.2f}",
        _interval(placing.interval),
        ABSENT if gap is None else f"{gap.bits:+.2f}",
        _interval(None if gap is None else (gap.low, gap.high)),
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return ABSENT if interval is None else f"[{interval[0]:.2f}, {interval[1]:.2f}]"
