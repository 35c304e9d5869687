"""The figures of the descriptions of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mdlbench.console.style import CATEGORIES, FAINT, INK, house_style
from mdlbench.papers.mechanism.evidence import Evidence
from mdlbench.papers.mechanism.plan import CALLED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = (0.002, 0.5, 120)
"""From, to, and how many: the ε at which curves are drawn."""
TOKENS = (100, 10_000)
"""So many tokens' latents are drawn beside the curves."""
TOTAL_TOKENS = (10, 1_000_000)


def drawings(evidence: Evidence) -> dict[str, Figure]:
    """All of them by file name; the second only where an SAE meets an ε before every network."""
    figures = {"rate-distortion": rate_distortion(evidence)}
    met = [e for e in evidence.shortest_kinds if evidence.mean_latents(e) is not None]
    if met:
        figures["tokens"] = tokens(evidence, met[0])
    return figures


def rate_distortion(evidence: Evidence) -> Figure:
    """Bits of the shortest message against what the classifier loses; a thin line a network."""
    from matplotlib.figure import Figure

    losses = np.geomspace(*LOSSES)
    with house_style():
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        ax = figure.subplots()
        for kind, colour in zip(evidence.kinds, CATEGORIES, strict=False):
            for i, key in enumerate(evidence.keys):
                _staircase(ax, evidence, key, kind, losses, colour, first=i == 0)
        _latents(ax, evidence)
        ax.set(xscale="log", yscale="log", xlabel="ΔCE, nats", ylabel="bits, sent once")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.set_title("What it takes to describe the classifier's weights")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _staircase(
    ax: Axes,
    evidence: Evidence,
    key: str,
    kind: str,
    losses: np.ndarray,
    colour: str,
    first: bool,
) -> None:
    found = [evidence.shortest(key, kind, float(loss)) for loss in losses]
    bits = [np.nan if point is None else point.bits for point in found]
    ax.plot(losses, bits, color=colour, linewidth=1.0, label=CALLED[kind] if first else None)


def _latents(ax: Axes, evidence: Evidence) -> None:
    """The SAE's model part, and its latents for some numbers of tokens, at each ε that it meets."""
    found = {e: (evidence.mean_latents(e), evidence.mean_model(e)) for e in evidence.epsilons}
    met = {e: (bits.value, model.value) for e, (bits, model) in found.items() if bits and model}
    if not met:
        return
    rates, models = (np.array(column) for column in zip(*met.values(), strict=True))
    ax.plot(list(met), models, "x", color=INK, label="an SAE's decoder and codebook")
    for number, marker in zip(TOKENS, "ov", strict=True):
        label = f"its latents for {number:,} images"
        ax.plot(list(met), number * rates, marker, color=FAINT, label=label)


def tokens(evidence: Evidence, epsilon: float) -> Figure:
    """Bits in all against the number of images, at one ε."""
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        images = np.geomspace(*TOTAL_TOKENS, 100)
        for kind, colour in zip(evidence.kinds, CATEGORIES, strict=False):
            message = evidence.mean_bits(kind, epsilon)
            if message is not None:
                ax.plot(
                    images, np.full(len(images), message.value), color=colour, label=CALLED[kind]
                )
        rate, model = evidence.mean_latents(epsilon), evidence.mean_model(epsilon)
        if rate is not None and model is not None:
            ax.plot(images, rate.value * images, "--", color=INK, label="an SAE's latents alone")
            both = model.value + rate.value * images
            ax.plot(images, both, color=INK, label="with its decoder and codebook")
        ax.set(xscale="log", yscale="log", xlabel="images", ylabel="bits in all")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:,.0f}")
        ax.set_title(f"ΔCE at most {epsilon:g} nats")
        ax.legend(loc="upper left")
    return figure
