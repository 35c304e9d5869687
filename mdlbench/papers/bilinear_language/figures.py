"""The figures of the bilinear layers in a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mdlbench.console.labels import End, label_ends, label_limits, text_inches
from mdlbench.console.style import CATEGORIES, FAINT, FAMILIES, INK, Margins, house_style
from mdlbench.papers.bilinear_language.board import called
from mdlbench.papers.bilinear_language.claims import METRIC, PAPERS
from mdlbench.papers.bilinear_language.convert import BILINEAR, GATE_KEPT
from mdlbench.papers.bilinear_language.estimate import Estimate
from mdlbench.papers.bilinear_language.evidence import (
    ALONE,
    EXPLAINED,
    MEAN,
    TUNED,
    ZERO,
    Evidence,
    alone,
    together,
)
from mdlbench.papers.bilinear_language.explained import COUNTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    BILINEAR: "bilinear",
    GATE_KEPT: "the same training, gate kept",
    MEAN: "its mean output",
    ZERO: "left out",
}
"""What stands in an MLP's place, as figures and tables call it."""
PANEL = 4.4, 3.6
"""Inches of the panel whose lines are named beside it."""
LOWEST, WIDEST = 4, 500
"""Its losses begin at the smallest tolerance over the one, its bits at the most over the other."""
COLOURS = dict(zip(LABELS, (CATEGORIES[0], CATEGORIES[1], CATEGORIES[3], INK), strict=True))


def drawings(evidence: Evidence) -> dict[str, Figure]:
    """All of them by file name."""
    return {
        "layers": layers(evidence),
        "together": at_once(evidence),
        "eigenvectors": eigenvectors(evidence),
        "longer": longer(evidence),
        "interactions": interactions(evidence),
        "board": board(evidence),
    }


def layers(evidence: Evidence) -> Figure:
    """ΔCE of one layer after the other, by what stands in its MLP's place."""
    with house_style():
        figure, ax = _one()
        shift = dict(zip(ALONE, np.linspace(-0.18, 0.18, len(ALONE)), strict=True))
        for kind in ALONE:
            found = {
                place + shift[kind]: evidence.delta(alone(kind, layer))
                for place, layer in enumerate(evidence.plan.layers)
            }
            _points(ax, found, COLOURS[kind], LABELS[kind], line=False)
        ax.axhline(0, color=FAINT, linewidth=0.9)
        lowest = min(evidence.delta(name).low for name in evidence.sums)
        ax.set_yscale("symlog", linthresh=0.01)
        ax.set_ylim(bottom=min(-0.001, lowest))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_xticks(range(len(evidence.plan.layers)), [str(n) for n in evidence.plan.layers])
        ax.set(xlabel="layer whose MLP is replaced", ylabel="ΔCE, nats (linear below 0.01)")
        ax.set_title("What it costs to replace one MLP")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def at_once(evidence: Evidence) -> Figure:
    """ΔCE against the number of layers that are bilinear at once."""
    plan = evidence.plan
    with house_style():
        figure, ax = _one()
        numbers = range(1, len(plan.layers) + 1)
        found = {float(n): evidence.delta(together(n)) for n in numbers}
        _points(ax, found, COLOURS[BILINEAR], "at once, each trained alone")
        sums = {
            float(n): evidence.combined({alone(BILINEAR, one): 1.0 for one in plan.layers[:n]})
            for n in numbers
        }
        _points(ax, sums, FAINT, "sum of what each costs alone")
        last = float(len(plan.layers))
        _points(ax, {last: evidence.delta(TUNED)}, CATEGORIES[2], "then trained together")
        ax.set_xticks(list(numbers), [f"{n}: +{plan.layers[n - 1]}" for n in numbers])
        ax.set(xlabel="bilinear layers: the one that is added", ylabel="ΔCE, nats", ylim=(0, None))
        ax.set_title("Several bilinear layers at once")
        ax.legend(loc="upper left")
    return figure


def eigenvectors(evidence: Evidence) -> Figure:
    """How many features have at most which correlation."""
    with house_style():
        figure, ax = _one()
        for number, label, colour in (
            ("one", "strongest eigenvector", CATEGORIES[4]),
            ("two", "two strongest", CATEGORIES[0]),
        ):
            values = np.sort(evidence.values(evidence.longest, number))
            ax.step(values, np.arange(1, len(values) + 1) / len(values), color=colour, label=label)
        ax.axvline(EXPLAINED, color=FAINT, linewidth=0.9, linestyle="--")
        ax.set(
            xlabel="correlation with the latent, on active tokens",
            ylabel="share of features at or below",
            ylim=(0, 1),
        )
        ax.set_title(f"Features of the output of layer {evidence.plan.studied}")
        ax.legend(loc="upper left")
    return figure


def longer(evidence: Evidence) -> Figure:
    """The share of features that are explained against the length of the SAE's training."""
    with house_style():
        figure, ax = _one()
        budgets = sorted(evidence.features)
        for number, label, colour in (
            ("one", "one eigenvector", CATEGORIES[4]),
            ("two", "two eigenvectors", CATEGORIES[0]),
        ):
            found = {float(b): evidence.explained(b, number) for b in budgets}
            _points(ax, found, colour, label)
        if len(budgets) == len(PAPERS):
            ax.plot(budgets, PAPERS, "--", color=FAINT, label="the paper, on a model of its own")
        ax.set(xscale="log", xlabel="length of the SAE's training", ylim=(0, 1))
        ax.set_xticks(budgets, [f"{b}×" for b in budgets])
        ax.minorticks_off()
        ax.set_ylabel(f"share of features above {EXPLAINED:g}")
        ax.set_title("Longer training of the SAE")
        ax.legend(loc="upper left")
    return figure


def interactions(evidence: Evidence) -> Figure:
    """How much of a feature's interactions its strongest pairs of input features hold."""
    with house_style():
        figure, ax = _one()
        shares = np.array(evidence.shares)
        counts = COUNTS[: shares.shape[1]]
        low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75], axis=0)
        ax.fill_between(counts, low, high, color=CATEGORIES[0], alpha=0.25, label="middle half")
        ax.plot(counts, middle, color=CATEGORIES[0], marker="o", markersize=4, label="median")
        ax.set(xscale="log", xlabel="strongest pairs of input features", ylim=(0, 1))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.minorticks_off()
        ax.set_ylabel("share of squared interactions")
        ax.set_title(f"What {len(shares)} output features of layer {evidence.plan.studied} read")
        ax.legend(loc="upper left")
    return figure


def board(evidence: Evidence) -> Figure:
    """ΔCE against bits per token: the lower hull of each explanation, its name where it ends."""
    from matplotlib.figure import Figure

    plan = evidence.plan
    names = {key: called(key, plan) for key in evidence.board}
    curves = {key: record.curve(METRIC) for key, record in evidence.board.items()}
    foot = min(plan.epsilons) / LOWEST
    with house_style():
        margins = Margins(left=0.7, right=0.3 + text_inches(names.values()), below=0.5)
        width, height = margins.left + PANEL[0] + margins.right, margins.below + PANEL[1] + 0.4
        figure = Figure(figsize=(width, height))
        box = margins.left / width, margins.below / height, PANEL[0] / width, PANEL[1] / height
        ax = figure.add_axes(box)
        ends = []
        for key, colour in zip(curves, FAMILIES, strict=False):
            rates, losses = curves[key].along_hull()
            ax.plot(rates, losses, color=colour, linewidth=1.3)
            shown = np.flatnonzero((losses >= foot) & (rates > 0))
            if len(shown):
                last = shown[np.argmax(rates[shown])]
                ends.append(End(float(rates[last]), float(losses[last]), names[key], colour))
        ax.set(xscale="log", yscale="log", xlabel="bits per token", ylabel="ΔCE, nats")
        ax.set_ylim(bottom=foot)
        ax.set_xlim(left=max(end.x for end in ends) / WIDEST if ends else None)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_title(f"Explanations of the output of layer {plan.studied}")
        label_ends(ax, ends)
        label_limits(ax, plan.epsilons)
    return figure


def _one() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, 4.0), layout="constrained")
    return figure, figure.subplots()


def _points(
    ax: Axes, found: Mapping[float, Estimate], colour: str, label: str, *, line: bool = True
) -> None:
    value, low, high = (np.array(column) for column in zip(*found.values(), strict=True))
    reach = np.clip([value - low, high - value], 0, None)
    ax.errorbar(
        list(found),
        value,
        yerr=reach,
        color=colour,
        marker="o",
        markersize=4,
        linestyle="-" if line else "none",
        linewidth=1.3,
        capsize=2,
        label=label,
    )
