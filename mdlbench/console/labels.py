"""Names of lines, written where the lines end, so that none covers another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
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
LIMIT = "limit"
"""How tolerances are marked among what is drawn."""
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.3}


class End(NamedTuple):
    """Where a line ends, in its axes' data, and what is written there.

    Attributes:
        x, y: the end.
        text: the line's name.
        colour: of the line, and of its name.
        marker: of a single point; it stands before the name, which no line leads to.
        hollow: whether that is drawn in outline.
    """

    x: float
    y: float
    text: str
    colour: str
    marker: str = ""
    hollow: bool = False


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


def label_ends(ax: Axes, ends: Sequence[End], size: float = SIZE) -> None:
    """Write each line's name right of the panel, and lead to it from the line's end.

    The panel's place must be final; its limits are from here on.
    """
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
    places = [place_in(ax, end.x, end.y) for end in ends]
    width, height = inches_of(ax)
    step = line_inches(size) / height
    beyond = 1 + GAP / 72 / width
    heights = spread([y for _, y in places], step, min(0.0, 1 - step * len(ends)), 1.0)
    for end, (x, y), at in zip(ends, places, heights, strict=True):
        look: dict[str, Any] = {"transform": ax.transAxes, "color": end.colour, "clip_on": False}
        if end.marker:
            face = "white" if end.hollow else end.colour
            middle = 1 + 0.5 * (beyond - 1)
            ax.plot(middle, at, marker=end.marker, markersize=3.5, markerfacecolor=face, **look)
        else:
            inside = max(x, 0.0), 1.0
            ax.plot(inside, (y, y), linewidth=0.8, linestyle=(0, (1, 2)), alpha=0.8, **look)
            ax.plot((1.0, beyond - 0.2 * (beyond - 1)), (y, at), linewidth=0.6, **look)
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
    """Tolerances as lines across a panel, each with its name over its left end.

    Those that were drawn so before are drawn anew among them.

    Args:
        ax: whose limits and place are final; its losses go upwards.
        limits: the tolerances; those out of view are left out.
        bold: which of them are drawn heavier.
        size: of the font.
    """
    low, high = sorted(ax.get_ylim())
    found = [*limits, *_taken_off(ax)]
    shown = sorted({limit for limit in found if low <= limit <= high})
    step = line_inches(size) / inches_of(ax)[1]
    wanted = [place_in(ax, ax.get_xlim()[0], limit)[1] + step / 2 for limit in shown]
    for limit, at in zip(shown, spread(wanted, step, 0.0, 1.0), strict=True):
        is_bold = limit in bold
        ax.axhline(
            limit,
            color=INK,
            linewidth=1.0 if is_bold else 0.6,
            linestyle="--",
            zorder=1.5,
            gid=LIMIT,
        )
        ax.annotate(
            f"ε = {limit:g}",
            (0.0, at),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            weight="bold" if is_bold else "normal",
            bbox=BEHIND,
            zorder=5,
            gid=LIMIT,
        )


def _taken_off(ax: Axes) -> list[float]:
    """The tolerances that are drawn already, taken off the panel."""
    drawn = [line for line in ax.lines if line.get_gid() == LIMIT]
    found = [float(line.get_ydata()[0]) for line in drawn]  # type: ignore[index,arg-type]
    for artist in [*drawn, *(text for text in ax.texts if text.get_gid() == LIMIT)]:
        artist.remove()
    return found


def text_inches(texts: Iterable[str], size: float = SIZE) -> float:
    """The width that the longest of some labels takes, about."""
    return 0.6 * size / 72 * max((len(text) for text in texts), default=0)


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
