"""The figures of the bilinear networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from mdlbench.console.style import CATEGORIES, FAINT, INK, house_style
from mdlbench.papers.bilinear.claims import ALIKE
from mdlbench.papers.bilinear.evidence import Evidence
from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.bilinear.measure import KEPT, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RAISING, LOWERING = 4, 2
"""Eigenvectors of each class that are drawn."""


def drawings(evidence: Evidence) -> dict[str, Figure]:
    """All of them by file name."""
    return {
        "eigenvectors": eigenvectors(evidence),
        "similarity": similarity(evidence),
        "truncation": truncation(evidence),
        "rank": rank(evidence),
        "noise": noise(evidence),
        "masks": masks(evidence),
        "groups": groups(evidence),
    }


def eigenvectors(evidence: Evidence) -> Figure:
    """The strongest eigenvectors of each class, of the first network of V1."""
    from matplotlib.figure import Figure

    network = evidence.of(evidence.plan.accurate)[0]
    n_classes = len(network.spectra)
    with house_style():
        columns = RAISING + LOWERING
        figure = Figure(
            figsize=(0.85 * n_classes + 0.9, 0.98 * columns + 0.5), layout="constrained"
        )
        axes = figure.subplots(columns, n_classes, squeeze=False)
        for k in range(n_classes):
            _class_column(list(axes[:, k]), network, k, evidence.image_shape)
        for row, name in enumerate([*("raises",) * RAISING, *("lowers",) * LOWERING]):
            axes[row, 0].set_ylabel(name, fontsize=8)
        figure.supxlabel(
            "Eigenvectors in the space of pixels, by |λ| from above: red positive, blue negative, "
            "each to its own scale. Above: λ.",
            fontsize=8,
        )
    return figure


def _class_column(axes: Sequence[Axes], network: Measured, k: int, shape: tuple[int, int]) -> None:
    form = network.spectra[k]
    up, down = form.values > 0, form.values < 0
    chosen = [*np.flatnonzero(up)[:RAISING], *[None] * max(RAISING - int(up.sum()), 0)]
    chosen += np.flatnonzero(down)[:LOWERING].tolist()
    for row, ax in enumerate(axes):
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        index = chosen[row] if row < len(chosen) else None
        if index is not None:
            _tile(ax, form.vectors[index].reshape(shape))
            title = f"{form.values[index]:+.2g}"
            ax.set_title(f"{k}:  {title}" if row == 0 else title, fontsize=7, loc="center")


def _tile(ax: Axes, image: Float64[np.ndarray, "row column"]) -> None:
    reach = float(np.abs(image).max()) or 1.0
    ax.imshow(image, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")


def similarity(evidence: Evidence) -> Figure:
    """Mean |cosine| of top eigenvectors of different seeds against h."""
    with house_style():
        figure, ax = _one()
        found = {float(width): evidence.similarity(width) for width in evidence.plan.widths}
        ax.axhspan(*ALIKE, color="#eeeeee", label="the paper's range")
        _line(ax, found, CATEGORIES[0], "mean, 95% by the jackknife over seeds")
        ax.set(xscale="log", xlabel="hidden units", ylabel="|cosine|", ylim=(0, 1))
        _width_ticks(ax, evidence)
        ax.set_title("Top eigenvectors of different seeds")
        ax.legend(loc="lower right")
    return figure


def truncation(evidence: Evidence) -> Figure:
    """Accuracy lost against the number of eigenvectors that are kept."""
    with house_style():
        figure, ax = _one()
        for width, colour in zip(evidence.plan.widths, CATEGORIES, strict=False):
            drops = {n: evidence.drop(width, n) for n in KEPT}
            ax.plot(
                list(drops),
                [100 * drop.value for drop in drops.values()],
                color=colour,
                marker="o",
                markersize=4,
                label=f"h = {width}",
            )
        ax.axhline(0.1, color=FAINT, linewidth=0.9, linestyle="--")
        ax.set(xscale="log", xlabel="eigenvectors of each class", ylabel="points of accuracy lost")
        ax.set_yscale("symlog", linthresh=0.1)
        ax.set_xticks(KEPT, [str(n) for n in KEPT])
        ax.minorticks_off()
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_title("Few eigenvectors in place of all")
        ax.legend()
    return figure


def rank(evidence: Evidence) -> Figure:
    """Effective rank against weight decay, a line for each noise, a panel for each width."""
    from matplotlib.figure import Figure

    widths = sorted({width for width, *_ in evidence.ranks})
    with house_style():
        figure = Figure(figsize=(4.2 * len(widths), 3.6), layout="constrained")
        for ax, width in zip(
            figure.subplots(1, len(widths), squeeze=False)[0], widths, strict=True
        ):
            for level, colour in zip(evidence.zoo_values("noise"), CATEGORIES, strict=False):
                found = {
                    decay: evidence.rank(width, decay, level)
                    for decay in evidence.zoo_values("weight_decay")
                }
                _line(ax, found, colour, f"noise {level:g}")
            ax.set(title=f"h = {width}", xlabel="weight decay", ylabel="effective rank")
            ax.set_ylim(bottom=0)
            ax.legend()
    return figure


def noise(evidence: Evidence) -> Figure:
    """Accuracy and roughness against the noise of training."""
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _line(left, evidence.by_noise(lambda n: n.accuracy), CATEGORIES[0], "accuracy")
        _line(right, evidence.by_noise(lambda n: n.roughness), CATEGORIES[3], "roughness")
        left.set(title="Test accuracy", xlabel="noise in training")
        right.set(title="Roughness of the top eigenvectors", xlabel="noise in training")
        right.set_ylim(bottom=0)
    return figure


def masks(evidence: Evidence) -> Figure:
    """Accuracy under masks and under permuted ones; the masks of one network."""
    from matplotlib.figure import Figure

    plan = evidence.plan
    with house_style():
        figure = Figure(figsize=(10.4, 4.8), layout="constrained")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 1))[:, 0]
        panels = (
            (f"noise {plan.accurate[0].noise:g}", plan.accurate),
            ("no noise", plan.noiseless),
        )
        above = upper.subplots(1, 2, sharey=True)
        above[0].set_ylabel("test accuracy")
        for ax, (name, configs) in zip(above, panels, strict=True):
            levels = evidence.under_masks(configs)
            own = {level.strength: level.accuracy for level in levels}
            _line(ax, own, CATEGORIES[2], "mask")
            permuted = {level.strength: level.permuted for level in levels}
            _line(ax, permuted, INK, "its pixels permuted")
            ax.set(title=f"Trained with {name}", xlabel="norm of the mask", ylim=(0, 1))
            ax.legend(loc="lower left")
        found = evidence.masked[plan.accurate[0].key].masks
        axes = lower.subplots(1, len(found), squeeze=False)[0]
        for k, (ax, mask) in enumerate(zip(axes, found, strict=True)):
            ax.set_axis_off()
            _tile(ax, mask.reshape(evidence.image_shape))
            ax.set_title(str(k), fontsize=8, loc="center")
    return figure


def groups(evidence: Evidence) -> Figure:
    """The strongest shared factor's entry for each class, a row for each seed."""
    with house_style():
        figure, ax = _one()
        rows = np.array([n.grouping.direction for n in evidence.of(evidence.plan.accurate)])
        rows = rows * np.where(rows[:, :1] < 0, -1.0, 1.0)
        reach = float(np.abs(rows).max())
        ax.grid(False)
        ax.imshow(rows, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
        ax.set_xticks(range(rows.shape[1]))
        ax.set_yticks(range(len(rows)), [f"seed {i}" for i in range(len(rows))])
        ax.set(title="The strongest factor that all classes share", xlabel="class")
    return figure


def _one() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    return figure, figure.subplots()


def _line(ax: Axes, found: dict[float, SeedMean], colour: str, label: str) -> None:
    means = list(found.values())
    value, low, high = (np.array([getattr(m, e) for m in means]) for e in ("value", "low", "high"))
    reach = np.nan_to_num(np.stack([value - low, high - value]))
    ax.errorbar(
        list(found),
        value,
        yerr=reach,
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.3,
        capsize=2,
        label=label,
    )


def _width_ticks(ax: Axes, evidence: Evidence) -> None:
    ax.set_xticks(evidence.plan.widths, [str(width) for width in evidence.plan.widths])
    ax.minorticks_off()
