"""How figures look: one style, colour-blind safe, the same bytes on every run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

DPI = 150
INK, FAINT, ALERT = "#222222", "#8a8a8a", "#D55E00"
CATEGORIES = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B")
"""Okabe and Ito's colours, without the ones used for alerts and ink."""
FAMILIES = (*CATEGORIES, "#882255", "#7A7A00", "#7F4F24", "#0B5D3B", "#22308F", "#DC267F")
"""Colours of a board's architectures, each of which is named where it is drawn."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "8", "H")
"""Markers of architectures, in the order of their names."""
TITLE_CHARACTERS = 11.5
"""Characters of a title to an inch."""
LEAST_LOSS = 1e-12
"""A loss below every one that is drawn on a logarithmic axis, the page's own included."""
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
}


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's defaults with `STYLE` on top, for the time of the block only."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def png(figure: Figure) -> bytes:
    """The figure as PNG: equal figures give equal bytes, and no display is needed.

    It is drawn once, where `Figure.savefig` would draw it a first time to no end.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    write: Callable[..., None] = FigureCanvasAgg(figure).print_png
    with house_style():
        write(buffer, metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, undated: equal figures give equal bytes."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    buffer = io.BytesIO()
    FigureCanvasPdf(figure)
    with house_style():
        figure.savefig(
            buffer, format="pdf", metadata=dict.fromkeys(("Creator", "Producer", "CreationDate"))
        )
    return buffer.getvalue()


def above_zero(
    losses: Float64[np.ndarray, " point"],
) -> Float64[np.ndarray, " point"]:
    """What is not positive (a ΔCE may be) leaves a logarithmic panel at its lower edge."""
    return np.asarray(np.maximum(losses, LEAST_LOSS))


def width_colours(widths: Sequence[int]) -> ScalarMappable:
    """Colours of dictionary widths: sequential in log width, dark to light; no latents are one."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm

    # the lightest yellows of viridis cannot be read on white
    colours = matplotlib.colormaps["viridis"](np.arange(232))
    low, high = (max(1, end) for end in (min(widths, default=1), max(widths, default=2)))
    norm = LogNorm(low, high) if low < high else LogNorm(low, 2 * low)
    return ScalarMappable(norm, ListedColormap(colours))


def markers(architectures: Iterable[str]) -> dict[str, str]:
    """A marker for each architecture, the same in every figure of the same SAEs."""
    names = sorted(set(architectures))
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)}


def family_colours(architectures: Iterable[str]) -> dict[str, str]:
    """A colour for each architecture, the same in every figure of the same SAEs."""
    names = sorted(set(architectures))
    return {name: FAMILIES[i % len(FAMILIES)] for i, name in enumerate(names)}


class Margins(NamedTuple):
    """Inches around and between panels."""

    left: float
    right: float
    below: float
    above: float = 0.08
    between: tuple[float, float] = (0.0, 0.0)


def panels(
    width: float, heights: Sequence[float], margins: Margins, title: str, abreast: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of panels whose places are final, line by line from the top.

    Args:
        width: inches of a panel.
        heights: inches of the panels of each line.
        margins: around and between them.
        title: over the figure, in as many lines as it needs.
        abreast: panels in a line.
    """
    from matplotlib.figure import Figure

    left, right, below, above, (gap, lead) = margins
    figure_width = left + abreast * width + (abreast - 1) * gap + right
    words = wrap(title, int(figure_width * TITLE_CHARACTERS)) or [""]
    top = below + sum(heights) + lead * (len(heights) - 1)
    figure_height = top + above + 0.08 + 0.17 * len(words)
    figure = Figure(figsize=(figure_width, figure_height))
    figure.suptitle(
        "\n".join(words),
        x=0.08 / figure_width,
        y=1 - 0.06 / figure_height,
        ha="left",
        va="top",
        weight="bold",
        fontsize=9.5,
    )
    axes = []
    for height in heights:
        top -= height
        for column in range(abreast):
            x = left + column * (width + gap)
            axes.append(
                figure.add_axes(
                    (
                        x / figure_width,
                        top / figure_height,
                        width / figure_width,
                        height / figure_height,
                    )
                )
            )
        top -= lead
    return figure, axes


def legend_inches(n_entries: int, columns: int) -> float:
    """The height of `legend_of_marks`."""
    return 0.18 * -(-n_entries // columns)


def legend_of_marks(figure: Figure, entries: Mapping[str, Artist], columns: int) -> None:
    """What marks mean, at the figure's foot."""
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="lower left",
            bbox_to_anchor=(0.0, 0.0),
            ncols=columns,
            fontsize=7.5,
            handlelength=1.2,
            columnspacing=1.2,
        )


def colour_of(width: int, colours: ScalarMappable) -> tuple[float, ...]:
    shown = np.array([max(1, width)], dtype=np.float64)
    return tuple(float(c) for c in colours.to_rgba(shown)[0])


def plain_numbers(axis: Axis, values: Sequence[int]) -> None:
    """Ticks at exactly these values of a logarithmic axis, at most twelve, written out."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    every = -(-len(values) // 12) or 1
    axis.set_major_locator(FixedLocator(list(values)[::every]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def plain_log_scale(axis: Axis, decades: float = 1.0) -> None:
    """Ticks of a logarithmic axis of about so many decades, written out."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1.4 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs if decades < 4 else (1.0,), numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def legend_below(figure: Figure) -> None:
    """One legend for the labels of all panels, under them."""
    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower left", ncols=4)
