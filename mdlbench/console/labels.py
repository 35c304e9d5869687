"""Names of lines where the lines end, and of tolerances where no line runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.console.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 8.0
"""Points of a label's font."""
LEADING = 1.3
"""Height of a label in font sizes."""
GAP = 9.0
"""Points between a panel and the labels on its right."""
NOTE = 0.13
"""Inches of a line of small print."""
LETTERS = 18.0
"""Letters of small print to an inch."""
PAD = 4.0
"""Points left and right of a tolerance's name that are free of lines."""
BESIDE = 0.6
"""Heights of a label between a tolerance and a name over or under it."""
LIMIT = "limit"
"""How tolerances are marked among what is drawn."""
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.3}


Pieces = Float64[np.ndarray, "piece 4"]
"""Both ends of straight pieces of lines, x and y of each, as shares of a panel."""


class End(NamedTuple):
    """Where a line ends, in its axes' data, and what is written there.

    Attributes:
        x, y: the end.
        text: the line's name.
        colour: of the line, and of its name.
        marker: of a single point; it stands before the name, which no line leads to.
        hollow: whether that is drawn in outline.
        dash: of the line, as matplotlib writes it; the way to its name has the same.
    """

    x: float
    y: float
    text: str
    colour: str
    marker: str = ""
    hollow: bool = False
    dash: str | tuple[int, tuple[float, ...]] = "-"


def spread(
    wanted: Sequence[float] | Float64[np.ndarray, " label"], size: float, low: float, high: float
) -> Float64[np.ndarray, " label"]:
    """Centres of labels that do not overlap, as near to where they are wanted as can be.

    The order is kept, and the sum of squared moves is the least possible: an isotonic regression of
    what is left when each label's place in a dense stack is taken away. Labels that need more room
    than there is share it evenly.

    Args:
        wanted: a centre for each label, in any order.
        size: length of a label.
        low: where the room begins.
        high: where it ends.
    """
    from scipy.optimize import isotonic_regression

    centres = np.asarray(wanted, dtype=np.float64)
    if not len(centres):
        return centres
    size = min(size, (high - low) / len(centres))
    order = np.argsort(centres, kind="stable")
    stacked = size * (np.arange(len(centres)) + 0.5)
    shifts = isotonic_regression(centres[order] - stacked).x
    found = np.empty_like(centres)
    found[order] = stacked + np.clip(shifts, low, max(low, high - size * len(centres)))
    return found


def inches_of(ax: Axes) -> tuple[float, float]:
    """Width and height of a panel."""
    width, height = ax.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    box = ax.get_position()
    return float(box.width * width), float(box.height * height)


def line_inches(size: float = SIZE) -> float:
    """The height that a label takes."""
    return size * LEADING / 72


def label_ends(ax: Axes, ends: Sequence[End], size: float = SIZE, gap: float = GAP) -> None:
    """Write each line's name right of the panel, and lead to it from the line's end.

    The names stand in the order of the ends, so that no two ways cross. The panel's place must be
    final; its limits are from here on.

    Args:
        ax: the panel.
        ends: of its lines.
        size: of the font.
        gap: points between the panel and the names; near ends take more.
    """
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    places = [place_in(ax, end.x, end.y) for end in ends]
    width, height = inches_of(ax)
    step = line_inches(size) / height
    beyond, before = 1 + gap / 72 / width, 1 + (gap - 2) / 72 / width
    heights = spread([y for _, y in places], step, min(0.0, 1 - step * len(ends)), 1.0)
    for end, (x, y), at in zip(ends, places, heights, strict=True):
        look: dict[str, Any] = {"transform": ax.transAxes, "color": end.colour, "clip_on": False}
        if end.marker:
            face = "none" if end.hollow else end.colour
            left = beyond - 5 / 72 / width
            ax.plot(left, at, marker=end.marker, markersize=3.5, markerfacecolor=face, **look)
        else:
            inside = max(x, 0.0), 1.0
            ax.plot(inside, (y, y), linewidth=0.6, linestyle=(0, (1, 2)), alpha=0.8, **look)
            ax.plot((1.0, before), (y, at), linewidth=0.8, linestyle=end.dash, **look)
        ax.annotate(
            end.text,
            (beyond, at),
            xycoords="axes fraction",
            va="center",
            color=end.colour,
            fontsize=size,
            annotation_clip=False,
        )


def place_in(ax: Axes, x: float, y: float) -> tuple[float, float]:
    """A point of the data as shares of the panel's width and height."""
    across, up = (ax.transScale + ax.transLimits).transform((x, y))
    return float(across), float(up)


def label_limits(
    ax: Axes, limits: Iterable[float], bold: Collection[float] = (), size: float = SIZE
) -> None:
    """Tolerances as lines across a panel, each with its name in it where no other line runs.

    A name for which no gap is long enough stands over its line, or under it. Tolerances that were
    drawn so before are drawn anew.

    Args:
        ax: whose limits, place and lines are final; its losses go upwards.
        limits: the tolerances; those out of view are left out.
        bold: which of them are drawn heavier.
        size: of the font.
    """
    low, high = sorted(ax.get_ylim())
    found = [*limits, *_taken_off(ax)]
    shown = sorted({limit for limit in found if low <= limit <= high})
    heights = [place_in(ax, ax.get_xlim()[0], limit)[1] for limit in shown]
    names = [f"ε = {limit:g}" for limit in shown]
    weights = ["bold" if limit in bold else "normal" for limit in shown]
    lengths = [_points_of(*label, size) for label in zip(names, weights, strict=True)]
    places = _places(ax, lengths, heights, size)
    for limit, name, weight, place in zip(shown, names, weights, places, strict=True):
        ax.axhline(
            limit,
            color=INK,
            linewidth=1.0 if weight == "bold" else 0.6,
            linestyle="--",
            zorder=1.5,
            gid=LIMIT,
        )
        ax.annotate(
            name,
            place,
            xycoords="axes fraction",
            va="center_baseline",
            fontsize=size,
            weight=weight,
            bbox=BEHIND | {"alpha": 1.0},
            zorder=1.6,
            gid=LIMIT,
        )


def _places(
    ax: Axes, lengths: Sequence[float], heights: Sequence[float], size: float
) -> list[tuple[float, float]]:
    """Left ends of names where neither a line nor another name is, as shares of the panel.

    Each is at its height or, where there is no room, a little over or under it. Lengths are points.
    """
    width, height = inches_of(ax)
    step, pad = line_inches(size) / height, PAD / 72 / width
    pieces, found = _pieces(ax), []
    for length, at in zip(lengths, heights, strict=True):
        room = length / 72 / width + 2 * pad
        left, level = _free(pieces, room, step, [at, at + BESIDE * step, at - BESIDE * step])
        edges = [(left, y, left + room, y) for y in (level - step / 2, level + step / 2)]
        pieces = np.concatenate([pieces, edges])
        found.append((left + pad, level))
    return found


def _points_of(name: str, weight: str, size: float) -> float:
    """How many points wide a name is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(weight=weight)
    return float(TextPath((0.0, 0.0), name, size=size, prop=font).get_extents().width)


def _pieces(ax: Axes) -> Pieces:
    """The straight pieces of a panel's lines, as shares of the panel; marks are short ones."""
    found = [np.empty((0, 4))]
    for line in ax.lines:
        places = (line.get_transform() - ax.transAxes).transform(line.get_xydata())
        is_joined = line.get_linestyle() != "None"
        starts = np.concatenate([places[:1], places[:-1]]) if is_joined else places
        found.append(np.concatenate([starts, places], axis=1))
    return np.concatenate(found)


def _free(
    pieces: Pieces, room: float, height: float, levels: Sequence[float]
) -> tuple[float, float]:
    """Where a name stands free: its left end, and its level, which is the first that can be.

    Where there is no room on any level, it is the longest gap.
    """
    gaps = [
        (start, stop, level)
        for level in levels
        for start, stop in _gaps(pieces, level - height / 2, level + height / 2)
    ]
    longest = max(gaps, key=lambda gap: gap[1] - gap[0])
    left, _, level = next((gap for gap in gaps if gap[1] - gap[0] >= room), longest)
    return left, level


def _gaps(pieces: Pieces, low: float, high: float) -> Iterator[tuple[float, float]]:
    """From where to where a panel is free between two heights, from the left."""
    start = 0.0
    for left, right in sorted(np.sort(_clipped(pieces, low, high), axis=1).tolist()):
        yield start, min(left, 1.0)
        start = max(start, right)
    yield start, 1.0


def _clipped(pieces: Pieces, low: float, high: float) -> Float64[np.ndarray, "kept 2"]:
    """Where straight pieces of lines enter a strip and where they leave it."""
    x, y, other_x, other_y = pieces.T
    rise = other_y - y
    slope = np.divide(other_x - x, rise, out=np.zeros_like(x), where=rise != 0)
    enter = x + (np.clip(y, low, high) - y) * slope
    leave = other_x + (np.clip(other_y, low, high) - other_y) * slope
    crosses = (np.maximum(y, other_y) >= low) & (np.minimum(y, other_y) <= high)
    return np.asarray(np.stack([enter, leave], axis=1)[crosses])


def _taken_off(ax: Axes) -> list[float]:
    """The tolerances that are drawn already, taken off the panel."""
    drawn = [line for line in ax.lines if line.get_gid() == LIMIT]
    found = [float(line.get_ydata()[0]) for line in drawn]  # type: ignore[index,arg-type]
    for artist in [*drawn, *(text for text in ax.texts if text.get_gid() == LIMIT)]:
        artist.remove()
    return found


def cuts_at_foot(ax: Axes, rates: Sequence[float]) -> list[float]:
    """Where to cut lines that leave a panel at its foot, so that ways to names do not cross.

    Each gets the height of a name, the lines of least rate the lowest.

    Args:
        ax: whose limits and place are final; its losses are logarithmic, and go upwards.
        rates: of each line at the foot.

    Returns:
        A loss for each line.
    """
    foot, top = ax.get_ylim()
    step = line_inches() / inches_of(ax)[1]
    ranks = np.argsort(np.argsort(rates, kind="stable"), kind="stable")
    return [float(foot * (top / foot) ** (step * (rank + 0.5))) for rank in ranks]


def text_inches(texts: Iterable[str], size: float = SIZE) -> float:
    """The width that the longest of some labels takes, about."""
    return 0.6 * size / 72 * max((len(text) for text in texts), default=0)


def note_lines(text: str, inches: float) -> list[str]:
    """Small print in lines of so many inches."""
    return wrap(text, int(LETTERS * inches), break_on_hyphens=False)


def note_below(figure: Figure, lines: Sequence[str], left: float, bottom: float = 0.06) -> None:
    """Small print at a figure's foot.

    Args:
        figure: to write it on.
        lines: from top to bottom.
        left: inches from the figure's left edge.
        bottom: inches from its foot.
    """
    width, height = figure.get_size_inches()
    figure.text(left / width, bottom / height, "\n".join(lines), fontsize=7)
