"""A comparison for people: tables and sentences, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdlbench.bootstrap import CONFIDENCE
from mdlbench.contest import AtEpsilon, Contest, Standing
from mdlbench.curve_comparison import CurveComparison, Estimate
from mdlbench.files import write_atomically
from mdlbench.report.compare_data import to_csv, to_json
from mdlbench.report.tables import (
    ABSENT,
    METRIC_NAMES,
    TITLE_LENGTH,
    escape_markdown,
    printable,
    tolerance_name,
)

if TYPE_CHECKING:
    import rich.table


def write_comparison(contest: Contest, folder: Path) -> list[Path]:
    """Write `compare.png`, `.pdf`, `.csv`, `.json` and `.md`; the same records, the same bytes.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    from mdlbench.report.compare_figure import comparison_figure
    from mdlbench.report.style import pdf, png

    figure = comparison_figure(contest)
    contents = {
        "compare.png": png(figure),
        "compare.pdf": pdf(figure),
        "compare.csv": to_csv(contest).encode(),
        "compare.json": to_json(contest).encode(),
        "compare.md": to_markdown(contest).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def print_comparison(contest: Contest) -> None:
    """The tables and what they say, on the terminal."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    console.print(_rich_curves(contest))
    for note in curve_notes(contest):
        console.print(Padding(Text(f"- {note}"), (0, 0, 0, 1)))
    if contest.tolerances:
        console.print()
        console.print(_rich_tolerances(contest))
        for at in contest.tolerances:
            console.print(Padding(Text(f"- {answer(contest, at)}"), (0, 0, 0, 1)))


def to_markdown(contest: Contest) -> str:
    """A section on the curves, and one for each tolerance."""
    anchor = escape_markdown(contest.anchor.name)
    header = ("SAE", "BD-bits [95%]", "BD-rate % [95%]", "Akima", "Overlap", "Difference %")
    rows = [
        (escape_markdown(row[0]), row[1], row[2], _akima(comparison), row[3], row[4])
        for row, comparison in zip(_curve_rows(contest), contest.comparisons, strict=True)
    ]
    parts = [
        f"# {escape_markdown(_title(contest), TITLE_LENGTH)}",
        f"Anchor: {anchor}. {how_to_read(contest)}",
        _markdown_table(header, rows),
        *(f"- {escape_markdown(note, 1000)}" for note in curve_notes(contest)),
    ]
    for at in contest.tolerances:
        parts += [
            f"## {tolerance_name(contest.metric, at.epsilon)}",
            f"{escape_markdown(answer(contest, at), 1000)}.",
            _markdown_table(
                ("Rank", "SAE", "Shortest member", "Bits/token", "95%", "Δ to the anchor", "95%"),
                [_standing_cells(standing) for standing in at.standings],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def how_to_read(contest: Contest) -> str:
    """What the numbers of the curves are of, in a few sentences."""
    what = {
        "front": "the Pareto front of each SAE, interpolated by PCHIP over quality",
        "hull": "the lower convex hull of each family's operating points in linear rate and "
        "distortion, which time-sharing achieves",
    }[contest.basis]
    resamples = (
        f"{CONFIDENCE:.0%} intervals are of {contest.n_resamples} paired resamples of the "
        "test documents, curves drawn anew in each."
        if contest.n_resamples
        else "There are no intervals: a record has no bootstrap resamples."
    )
    return (
        f"Compared is {what}. BD-bits and BD-rate: bits per token, and percent, above the anchor "
        f"at equal {METRIC_NAMES[contest.metric]}, averaged over the common range of its "
        f"logarithm. {resamples} Difference: smallest and largest over that range."
    )


def curve_notes(contest: Contest) -> Iterator[str]:
    """What a table of averages cannot hold: why there is none, crossings, doubts."""
    if contest.is_partial:
        yield "partial: made with --limit, on a part of the data"
    if not contest.n_resamples:
        yield "no intervals of curves: a record has no bootstrap resamples; score the SAE again"
    if not contest.tolerances:
        yield f"the suite has no tolerance on {METRIC_NAMES[contest.metric]}"
    for comparison in contest.comparisons:
        for note in _notes(contest, comparison):
            yield f"{printable(comparison.test)}: {note}"


def _notes(contest: Contest, comparison: CurveComparison) -> Iterator[str]:
    bits = comparison.bd_bits
    if comparison.reason:
        yield f"not comparable ({comparison.reason})"
    if comparison.crossings:
        yield f"crosses the anchor at {_crossings_words(contest, comparison)}"
    if _akima_disagrees(comparison):
        yield f"Akima's BD-bits is {comparison.bd_bits_akima:+.2f}, outside the interval"
    if bits and bits.n_missing:
        yield f"not comparable in {bits.n_missing} of {contest.n_resamples} resamples"


def answer(contest: Contest, at: AtEpsilon) -> str:
    """Who is shortest at a tolerance, by how much over the next, and whether that is chance."""
    limit = tolerance_name(contest.metric, at.epsilon)
    feasible = [standing for standing in at.standings if standing.bits is not None]
    if not feasible:
        return f"{limit}: none is within it"
    first = _who(feasible[0])
    if at.lead is None:
        return f"{limit}: only {first}"
    second, gap = _who(feasible[1]), f"{at.lead.bits:.2f} [{at.lead.low:.2f}, {at.lead.high:.2f}]"
    if at.lead.sign:
        return f"{limit}: {first} is shortest, {gap} bits before {second}"
    return f"{limit}: a tie of {first} and {second}, {gap} bits apart"


def _who(standing: Standing) -> str:
    member = "" if standing.sae in (None, standing.name) else f"{printable(standing.sae or '')}, "
    return f"{printable(standing.name)} ({member}{standing.bits:.2f} bits)"


def _crossings_words(contest: Contest, comparison: CurveComparison) -> str:
    name = METRIC_NAMES[contest.metric]
    return "; ".join(
        f"{found.rate:.1f} bits ({name} {found.distortion:.3g}"
        f"{'' if found.beyond_chance else ', within chance'})"
        for found in comparison.crossings or ()
    )


def _akima_disagrees(comparison: CurveComparison) -> bool:
    bits, check = comparison.bd_bits, comparison.bd_bits_akima
    if bits is None or check is None or bits.low is None or bits.high is None:
        return False
    return not bits.low <= check <= bits.high


def _title(contest: Contest) -> str:
    record, metric = contest.record, METRIC_NAMES[contest.metric]
    return f"{record.identity.suite}: bits per token at equal {metric}"


def _curve_rows(contest: Contest) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            comparison.test,
            _estimate(comparison.bd_bits, 2) if not comparison.reason else "not comparable",
            _estimate(comparison.bd_rate, 1),
            f"{int(100 * comparison.overlap)}%",
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


def _akima(comparison: CurveComparison) -> str:
    return ABSENT if comparison.bd_bits_akima is None else f"{comparison.bd_bits_akima:+.2f}"


def _rich_curves(contest: Contest) -> rich.table.Table:
    hulls = " (hulls)" if contest.basis == "hull" else ""
    title = f"{_title(contest)}, against {contest.anchor.name}{hulls}"
    return _rich_table(
        title,
        ("SAE", "BD-bits [95%]", "BD-rate % [95%]", "Overlap", "Diff. %"),
        _curve_rows(contest),
    )


def _rich_tolerances(contest: Contest) -> rich.table.Table:
    """Contenders by tolerances; rows in the order given."""
    columns = [{s.name: s for s in at.standings} for at in contest.tolerances]
    anchor = contest.anchor.name
    rows = [
        (one.name, *(_tolerance_cell(column[one.name], column[anchor]) for column in columns))
        for one in contest.contenders
    ]
    header = ("SAE", *(f"≤ {at.epsilon:g}" for at in contest.tolerances))
    title = f"Bits per token at {METRIC_NAMES[contest.metric]}; difference to {anchor} ± 95%"
    return _rich_table(title, header, rows)


def _tolerance_cell(standing: Standing, anchor: Standing) -> str:
    """The anchor's bits, and everybody's difference to it; bits where the anchor has none."""
    if standing.bits is None:
        return ABSENT
    if standing.to_anchor is None:
        return f"{standing.bits:.2f}" if standing is anchor else f"({standing.bits:.2f})"
    gap = standing.to_anchor
    mark = "" if gap.sign else "≈ "
    return f"{mark}{gap.bits:+.2f} ± {(gap.high - gap.low) / 2:.2f}"


def _rich_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> rich.table.Table:
    """Names first, as they are, never as markup."""
    import rich.box
    import rich.table
    from rich.text import Text

    table = rich.table.Table(
        title=Text(printable(title, TITLE_LENGTH)), box=rich.box.SIMPLE_HEAD, padding=0
    )
    table.add_column(Text(header[0]), overflow="fold", min_width=12)
    for name in header[1:]:
        table.add_column(Text(name), justify="right", no_wrap=True)
    for name, *cells in rows:
        table.add_row(Text(printable(name)), *map(Text, cells))
    return table


def _standing_cells(standing: Standing) -> tuple[str, ...]:
    gap = standing.to_anchor
    return (
        ABSENT if standing.rank is None else str(standing.rank),
        escape_markdown(standing.name),
        "infeasible" if standing.sae is None else escape_markdown(standing.sae),
        ABSENT if standing.bits is None else f"{standing.bits:.2f}",
        _interval(standing.interval),
        ABSENT if gap is None else f"{gap.bits:+.2f}",
        _interval(None if gap is None else (gap.low, gap.high)),
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return ABSENT if interval is None else f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
