"""Rate-distortion curves of a board: the hull of each family, and what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mdlbench.boards.leaderboard import Leaderboard
from mdlbench.console.labels import (
    NOTE,
    End,
    cuts_at_foot,
    label_ends,
    label_limits,
    line_inches,
    note_below,
    text_inches,
)
from mdlbench.console.style import (
    ALERT,
    FAINT,
    INK,
    Margins,
    above_zero,
    family_colours,
    house_style,
    panels,
)
from mdlbench.curves.curve import RateDistortionCurve, RatePoint, gaussian_rate_distortion
from mdlbench.quantisers.modes import MODES, mode_of
from mdlbench.records.record import EvalRecord, SiteReferences, other_quantisers, with_quantiser
from mdlbench.report.hulls import Line, Points, Shown, line_of, scales
from mdlbench.report.tables import TITLE_LENGTH, printable
from mdlbench.report.view import view_of
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 3.1, 3.0
"""Inches of the panel, without the band for names of lines that leave it below."""
MEMBER = "#d4d4d4"
"""Colour of single SAEs' curves."""
MODE_COLOURS = ("#8A6D3B", "#7B68EE", "#00868B", "#4B6A88", "#5a5a5a", "#B3001B")
"""Colours of the hulls of all SAEs in a mode that is not the suite's own, as `MODES` are sorted."""
LEFT = 0.78
"""Inches left of the panel."""
GAP = 30.0
"""Points right of the panel in which ways to names fan out."""
NAME_LENGTH = 26
MARKERS = {"kmeans": "D", "dense": "s", "mean": "^"}
"""Markers of baselines that are a single point."""
RIGHT = 1.3
"""The panel reaches so far beyond the families' bits at the finest tolerances that they meet."""
NEAR_FLOOR = 0.5
"""Lines that end above this share of the least loss in view are shown to their ends."""
ROOM_BELOW = 0.04
"""Share of the panel's height below the lowest of those ends."""
POINT = 0.02
"""A line that spans a smaller share of the panel is a point."""
CORNER = 0.05
"""A line that only cuts off a smaller share of the panel at its right edge is out of view."""
ENDS = {
    "o": "Dot at a line's end: no finer step lowers the loss.",
    "v": "Triangle: the line goes on below.",
}
"""What markers of lines' ends mean."""
GAUSSIAN = "Gaussian R(D)"
DOT, RING = 3.5, 7.0
"""Sizes of a point's marker, in the suite's own mode and in another, which may be around it."""
DENSE = "n bits per dimension"


class Family(NamedTuple):
    """What has one line: its name, its members' points together, and how it is drawn."""

    name: str
    curve: RateDistortionCurve
    look: dict[str, Any]


class Path(NamedTuple):
    """A line as it is drawn, by rising rate.

    Attributes:
        end: the marker of its end: "o" where no finer step lowers the loss; "v" where it goes on
            below the panel; empty where it goes on to the right.
        is_point: whether it is too short for a line.
    """

    name: str
    line: Line
    look: dict[str, Any]
    end: str
    is_point: bool

    @property
    def falls_below(self) -> bool:
        """Whether it leaves the panel at its foot."""
        return self.end == "v"


def curves_figure(
    records: Sequence[EvalRecord],
    references: SiteReferences,
    board: Leaderboard,
    metric: MetricName | None = None,
) -> Figure:
    """The lower hull of each family's operating points: a loss against bits per token.

    A family is an architecture in the suite's own mode. All SAEs in another mode are one line.

    Args:
        records: of one site of a suite; edited ones are drawn only where there are no others.
        references: of the same site.
        board: of the same records; the tolerance of its headline is drawn heavier.
        metric: the loss; the headline's by default.
    """
    metric = board.headline.metric if metric is None else metric
    shown = presentable(records)
    families = list(_families(shown, metric))
    lines = [*families, *_references(metric, references)]
    view = _view(shown, families, metric)
    paths = [path for line in lines if (path := _path(line, view))]
    in_view = {path.name for path in paths}
    note = _note(paths, [line.name for line in lines if line.name not in in_view])
    band = line_inches() * sum(path.falls_below for path in paths)
    height = PANEL[1] + band
    with house_style():
        margins = Margins(
            left=LEFT,
            right=GAP / 72 + 0.15 + text_inches(path.name for path in paths),
            below=0.5 + NOTE * len(note),
        )
        figure, (ax,) = panels(PANEL[0], [height], margins, _title(shown, board, metric))
        scales(ax, view, metric, share=band / height)
        for record in _own([record for record in shown if not record.is_baseline]):
            curve = record.curve(metric)
            ax.plot(curve.rates, above_zero(curve.distortions), color=MEMBER, linewidth=0.7)
        label_ends(ax, _drawn(ax, paths), gap=GAP)
        _tolerances(ax, shown[0], metric, board)
        note_below(figure, note, left=0.1)
    return figure


def presentable(records: Sequence[EvalRecord]) -> list[EvalRecord]:
    """The records as they were written, or all of them where every one was edited."""
    return [record for record in records if not record.is_edited] or list(records)


def _own(records: Sequence[EvalRecord]) -> list[EvalRecord]:
    """Those in the suite's own mode, or all where there are none."""
    return [record for record in records if record.identity.quantiser is None] or list(records)


def _title(records: Sequence[EvalRecord], board: Leaderboard, metric: MetricName) -> str:
    partial = " (partial: made with --limit)" if records[0].partial else ""
    loss = metric_of(metric).label
    return f"{printable(board.title, TITLE_LENGTH)}: {loss} against bits per token{partial}"


def _note(paths: Sequence[Path], outside: Sequence[str]) -> list[str]:
    """What the lines and their ends are, and which lines are out of view."""
    lines = ["Lines: lower hulls of families. Pale grey: single SAEs."]
    drawn = {path.end for path in paths if not path.is_point}
    if ends := " ".join(text for end, text in ENDS.items() if end in drawn):
        lines.append(ends)
    text = "Out of view:"
    for i, name in enumerate(outside):
        word = name + ("," if i + 1 < len(outside) else ".")
        if len(text) + len(word) > 78:
            lines.append(text)
            text = "   "
        text += f" {word}"
    return [*lines, text] if outside else lines


def _families(records: Sequence[EvalRecord], metric: MetricName) -> Iterator[Family]:
    """Architectures, then all SAEs in each other mode, then baselines."""
    trained = [record for record in records if not record.is_baseline]
    colours = family_colours(record.coder.architecture for record in trained)
    own = _own(trained)
    for name, members in _by_family(own):
        colour = colours[members[0].coder.architecture]
        look = {"color": colour, "linewidth": 1.4, "linestyle": "-"}
        yield _family(name, members, metric, look)
    mode_colours = dict(zip(MODES, cycle(MODE_COLOURS), strict=False))
    for mode in other_quantisers(trained) if own != trained else ():
        members = [record for record in trained if record.identity.quantiser == mode]
        look = {"linestyle": mode_of(mode).line, "linewidth": 1.4, "color": mode_colours[mode]}
        yield _family(with_quantiser("all", mode), members, metric, look)
    for name, members in _by_family([record for record in records if record.is_baseline]):
        yield _family(name, members, metric, _baseline_look(members[0]))


def _by_family(records: Sequence[EvalRecord]) -> Iterator[tuple[str, list[EvalRecord]]]:
    for name in sorted({record.family for record in records}):
        yield name, [record for record in records if record.family == name]


def _family(
    name: str, members: Sequence[EvalRecord], metric: MetricName, look: dict[str, Any]
) -> Family:
    points = [point for record in members for point in record.curve(metric).points]
    curve = RateDistortionCurve.of(points, printable(name, NAME_LENGTH), metric)
    return Family(curve.name, curve, look)


def _baseline_look(record: EvalRecord) -> dict[str, Any]:
    mode, architecture = record.identity.quantiser, record.coder.architecture
    line = "-" if mode is None else mode_of(mode).line
    is_pca = architecture == "pca"
    return {
        "color": ALERT if is_pca else INK,
        "linewidth": 2.2 if is_pca and mode is None else 1.2,
        "linestyle": line,
        "marker": MARKERS.get(architecture, "*"),
    }


def _references(metric: MetricName, references: SiteReferences) -> Iterator[Family]:
    """The Gaussian and the fixed-length code, for losses that are squared errors."""
    of_mse = metric_of(metric).of_mse
    if of_mse is None:
        return
    eigenvalues = np.array(references.eigenvalues, dtype=np.float64)
    unit = of_mse(references.d, float(eigenvalues.sum()))
    rates, losses = gaussian_rate_distortion(eigenvalues)
    gaussian = {"color": INK, "linewidth": 1.5, "linestyle": (0, (1, 2.5))}
    yield _reference(GAUSSIAN, rates, losses * unit, metric, gaussian)
    n_bits, dense = np.array(references.dense, dtype=np.float64).reshape(-1, 2).T
    fixed = {"color": FAINT, "linewidth": 1.2, "linestyle": ":"}
    yield _reference(DENSE, n_bits * references.d, dense * unit, metric, fixed)


def _reference(
    name: str, rates: Points, losses: Points, metric: MetricName, look: dict[str, Any]
) -> Family:
    points = [RatePoint(float(r), float(d), 0.0, 0.0) for r, d in zip(rates, losses, strict=True)]
    return Family(name, RateDistortionCurve.of(points, name, metric), look)


def _view(records: Sequence[EvalRecord], families: Sequence[Family], metric: MetricName) -> Shown:
    """The neighbourhood of the tolerances, with the ends of lines near it.

    To the right as far as the families' bits at the finest tolerance that each meets, and a little
    farther.
    """
    around = view_of(_own(records), metric)
    epsilons = np.array([r.epsilon for r in records[0].tolerances if r.metric == metric])
    trained = {
        printable(record.family, NAME_LENGTH) for record in records if not record.is_baseline
    }
    own = [family for family in families if family.name in trained] or families
    bits = [_finest(family.curve.rates_at(np.sort(epsilons))) for family in own]
    met = [value for value in bits if value is not None and value > 0]
    most = RIGHT * max(met) if met else around.rates.linear[1]
    foot, top = around.losses.log
    ends = [family.curve.along_hull(most=most)[1][-1:] for family in families]
    near = [float(end) for end in np.concatenate(ends) if end >= foot * NEAR_FLOOR]
    lowest = min(near, default=top)
    return Shown(most, min(foot, lowest * (lowest / top) ** ROOM_BELOW), top)


def _finest(rates: Points) -> float | None:
    """The first of them that is a number."""
    return next((float(rate) for rate in rates if not np.isnan(rate)), None)


def _path(family: Family, view: Shown) -> Path | None:
    """A family's hull as far as it is in view; None where at most a corner of it is."""
    line = line_of(family.curve, view)
    if line is None:
        return None
    goes_on = line.rates[-1] == view.most
    if goes_on and line.rates[0] > (1 - CORNER) * view.most:
        return None
    end = "v" if line.losses[-1] < view.foot else "" if goes_on else "o"
    is_point = end == "o" and np.ptp(line.rates) < POINT * view.most
    return Path(family.name, line, family.look, end, bool(is_point))


def _drawn(ax: Axes, paths: Sequence[Path]) -> list[End]:
    """Draw the lines, and say where each ends.

    Those that leave the panel at its foot are cut where their names fit, the shortest lowest, so
    that no line to a name crosses another.
    """
    foot, _ = ax.get_ylim()
    falling = [path for path in paths if path.falls_below]
    losses = cuts_at_foot(ax, [path.line.cut_at(foot).rates[-1] for path in falling])
    cuts = {id(path): loss for path, loss in zip(falling, losses, strict=True)}
    ends = []
    for path in paths:
        drawn = path.line.cut_at(cuts.get(id(path), 0.0))
        colour, marker = path.look["color"], path.look.get("marker", "*")
        dash = path.look["linestyle"]
        is_other = dash != "-"
        place = float(drawn.rates[-1]), float(drawn.losses[-1])
        if path.is_point:
            face, size = ("none", RING) if is_other else (colour, DOT)
            ax.plot(*place, marker, color=colour, mfc=face, ms=size)
        else:
            look = {key: value for key, value in path.look.items() if key != "marker"}
            ax.plot(drawn.rates, drawn.losses, marker=path.end, markevery=[-1], ms=2.5, **look)
        ends.append(End(*place, path.name, colour, marker if path.is_point else "", is_other, dash))
    return ends


def _tolerances(ax: Axes, record: EvalRecord, metric: MetricName, board: Leaderboard) -> None:
    epsilons = [result.epsilon for result in record.tolerances if result.metric == metric]
    headline = board.headline
    label_limits(ax, epsilons, [headline.epsilon] if headline.metric == metric else [])
