"""What a tree code gains where one feature implies another: every bird is an animal.

Flat: one latent for birds and one for generic animals. Tree: animal, and bird on tokens where
animal is on. Exactly (maths §9) and by simulation; and one level deeper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from mdlbench.codes import closed_forms
from mdlbench.console.stages import OnStage
from mdlbench.console.style import CATEGORIES, INK, house_style
from mdlbench.errors import UsageError
from mdlbench.papers.simulation import Booleans, Comparison, Documents, code, tree_code
from mdlbench.papers.wording import agreement, coverage, learning_cost, report_text
from mdlbench.report.outputs import write_outputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 0
DOCUMENTS, TOKENS, REPLICATES = 1000, 200, 1000

ROOT_RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
DRAWN_RATES = (0.1, 0.3, 0.5)
SHARES = tuple(i / 10 for i in range(1, 10))
DEEP_RATE = 0.3
"""P(Animal) of the chains of three."""
LAW_SHARES = (0.5, 0.1)
SPARSE_RATE = 0.01
SPARSE_LAW = "P(A)²·P(B|A)·(1 − P(B|A))·log₂e"

VERDICTS = {-1: "flat", 0: "tie", 1: "tree"}
"""By the sign of what the tree saves."""
FLAT, TREE = CATEGORIES[3], CATEGORIES[0]


@dataclass(frozen=True)
class Chain:
    """Features each of which implies the one before: animal, bird, perhaps robin.

    Attributes:
        root: how often the first is on.
        share: how often each next one is on where the one before is.
        depth: features, at least 1.
    """

    root: float
    share: float
    depth: int = 2

    def __post_init__(self) -> None:
        if not (0 <= self.root <= 1 and 0 <= self.share <= 1 and self.depth >= 1):
            raise UsageError(f"no chain of features has such rates: {self}")

    @property
    def rates(self) -> Float64[np.ndarray, " depth"]:
        """How often each feature is on."""
        rates: Float64[np.ndarray, " depth"] = self.root * self.share ** np.arange(self.depth)
        return rates

    @property
    def exact(self) -> tuple[float, float]:
        """Closed forms of the flat code and of the tree's, in bits per token."""
        flat, tree, _ = closed_forms.nested(self.rates[:, None])
        return float(flat[0]), float(tree[0])

    def draw(self, n_tokens: int, generator: np.random.Generator) -> Booleans:
        """Independent tokens of the features, the root first."""
        on: Booleans = generator.random(n_tokens)[:, None] < self.rates
        return on


@dataclass(frozen=True)
class HierarchyPoint:
    """A simulated chain: its flat code against its tree code."""

    chain: Chain
    codes: Comparison

    @property
    def row(self) -> dict[str, object]:
        """Its row of the table."""
        rates, codes = self.chain.rates, self.codes
        return {
            "depth": self.chain.depth,
            "P(A)": self.chain.root,
            "share": self.chain.share,
            "flat L0": float(rates[0]),
            "tree L0": float(rates.sum()),
            **codes.columns("flat", "tree"),
            "verdict exact": VERDICTS[codes.exact_sign],
            "verdict": VERDICTS[codes.simulated_sign],
        }


def reproduce(folder: Path, on_stage: OnStage) -> list[Path]:
    """Simulate, draw and report into `folder`; returns the files."""
    import pandas as pd

    points = simulate(list(chains()), on_stage)
    on_stage("figures")
    figures = {"bits": bits_figure(points), "gain": gain_figure(points)}
    table = pd.DataFrame([point.row for point in points])
    return write_outputs(folder, figures, table, written_report(points))


def chains() -> Iterator[Chain]:
    """What is simulated: animal and bird, then a level more."""
    for root, share in product(ROOT_RATES, SHARES):
        yield Chain(root, share)
    for share in SHARES:
        yield Chain(DEEP_RATE, share, depth=3)


def simulate(chosen: Sequence[Chain], on_stage: OnStage) -> list[HierarchyPoint]:
    """Every chain, each with a calibration and a test draw of its own."""
    documents = Documents.cut(DOCUMENTS, TOKENS, REPLICATES, SEED)
    points = []
    for i, chain in enumerate(chosen):
        on_stage(f"chain {i + 1} of {len(chosen)}")
        points.append(compare(chain, documents, np.random.default_rng([SEED, i])))
    return points


def compare(chain: Chain, documents: Documents, generator: np.random.Generator) -> HierarchyPoint:
    """Both codes of one test draw, with codebooks of one calibration draw of the same length."""
    calibration, test = (chain.draw(documents.n_tokens, generator) for _ in range(2))
    flat = code(alone(calibration), alone(test), documents)
    parents = np.arange(-1, chain.depth - 1)
    tree = tree_code(calibration, test, documents, parents)
    return HierarchyPoint(chain, Comparison.of(chain.exact, (flat, tree), documents))


def alone(on: Booleans) -> Booleans:
    """Each feature without the next: generic animal, bird."""
    deeper = np.concatenate([on[:, 1:], np.zeros_like(on[:, :1])], axis=1)
    without: Booleans = on & ~deeper
    return without


def bits_figure(points: Sequence[HierarchyPoint]) -> Figure:
    """Bits against P(B|A): flat, tree and joint entropy for several P(A), and a chain of three."""
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(11.6, 4.2), layout="constrained")
        axes = figure.subplots(1, len(DRAWN_RATES) + 1)
        for ax, root in zip(axes[:-1], DRAWN_RATES, strict=True):
            _bits_panel(ax, Chain(root, 0.5), points)
            ax.set(title=f"P(A) = {root:g}", xlabel="P(B|A)")
        _bits_panel(axes[-1], Chain(DEEP_RATE, 0.5, depth=3), points)
        axes[-1].set(title=f"Three levels, P(A) = {DEEP_RATE:g}", xlabel="P(B|A) = P(C|B)")
        axes[0].set_ylabel("bits per token")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _bits_panel(ax: Axes, like: Chain, points: Sequence[HierarchyPoint]) -> None:
    share = np.linspace(0.0, 1.0, 201)
    exact = closed_forms.nested(like.root * share ** np.arange(like.depth)[:, None])
    ax.plot(share, exact.flat, color=FLAT, label="flat, exact")
    ax.plot(share, exact.tree, color=TREE, label="tree, exact")
    ax.plot(share, exact.joint, color=INK, linestyle=(0, (1, 3)), label="joint entropy")
    shown = [p for p in points if (p.chain.root, p.chain.depth) == (like.root, like.depth)]
    for name, colour, marker, codes in (
        ("flat", FLAT, "s", [p.codes.plain.heldout for p in shown]),
        ("tree", TREE, "o", [p.codes.other.heldout for p in shown]),
    ):
        bits = np.array([(c.bits, c.bits - c.low, c.high - c.bits) for c in codes]).T
        ax.errorbar(
            [p.chain.share for p in shown],
            bits[0],
            yerr=bits[1:],
            color=colour,
            marker=marker,
            markersize=4,
            linestyle="none",
            label=f"{name}, simulated, 95%",
        )


def gain_figure(points: Sequence[HierarchyPoint]) -> Figure:
    """What the tree saves: over P(A) and P(B|A), and against P(A) for two shares of birds."""
    from matplotlib.figure import Figure

    pairs = [point for point in points if point.chain.depth == 2]
    with house_style():
        figure = Figure(figsize=(10.4, 5.2), layout="constrained")
        plane, law = figure.subplots(1, 2)
        _gain_map(plane)
        _dots(plane, pairs)
        plane.set(title="Bits per token that the tree saves", xlabel="P(A)", ylabel="P(B|A)")
        for share, colour in zip(LAW_SHARES, (TREE, FLAT), strict=True):
            _gain_line(law, share, colour, [p for p in pairs if p.chain.share == share])
        law.set(xscale="log", yscale="log", title="The same against P(A)", xlabel="P(A)")
        law.set_ylabel("bits per token saved")
        for axis in (law.xaxis, law.yaxis):
            axis.set_major_formatter("{x:g}")
        law.plot([], [], color=INK, linewidth=1, linestyle="--", label=SPARSE_LAW)
        law.legend(loc="upper left")
        figure.legend(*plane.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def _gain_map(ax: Axes) -> None:
    import matplotlib

    root, share = np.linspace(0.002, 1.0, 250), np.linspace(0.0, 1.0, 251)
    gain = closed_forms.nested(np.stack(np.broadcast_arrays(root, root * share[:, None]))).gain
    levels = [0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    shades = matplotlib.colormaps["Greys"](np.linspace(0.0, 0.6, len(levels) - 1))
    ax.grid(False)
    ax.contourf(root, share, gain, levels, colors=[tuple(map(float, shade)) for shade in shades])
    lines = ax.contour(root, share, gain, levels[1:-1], colors=INK, linewidths=0.8)
    middle = np.interp(levels[1:-1], gain[np.searchsorted(share, 0.55)], root)
    ax.clabel(lines, fontsize=8, fmt="{:g}".format, manual=[(x, 0.55) for x in middle])


def _gain_line(ax: Axes, share: float, colour: str, points: Sequence[HierarchyPoint]) -> None:
    root = np.geomspace(0.01, 1.0, 200)
    gain = closed_forms.nested(np.stack([root, root * share])).gain
    ax.plot(root, gain, color=colour, label=f"exact, P(B|A) = {share:g}")
    ax.plot(root, closed_forms.sparse_gain(root, share), color=colour, linewidth=1, linestyle="--")
    saved = np.array(
        [(c.bits, c.bits - c.low, c.high - c.bits) for c in (p.codes.saved for p in points)]
    )
    ax.errorbar(
        [p.chain.root for p in points],
        saved[:, 0],
        yerr=saved[:, 1:].T,
        color=colour,
        marker="o",
        markersize=4,
        linestyle="none",
        label="simulated, 95%",
    )


def _dots(ax: Axes, points: Sequence[HierarchyPoint]) -> None:
    """Simulated verdicts."""
    for sign, colour, marker in ((1, TREE, "o"), (0, "white", "D"), (-1, FLAT, "s")):
        places = [p.chain for p in points if p.codes.simulated_sign == sign]
        if places:
            ax.plot(
                [chain.root for chain in places],
                [chain.share for chain in places],
                linestyle="none",
                marker=marker,
                markersize=4.5,
                color=colour,
                markeredgecolor=INK,
                markeredgewidth=0.7,
                label=f"simulated: {'a tie' if sign == 0 else VERDICTS[sign] + ' is shorter'}",
            )


def written_report(points: Sequence[HierarchyPoint]) -> str:
    """What holds and what does not, as Markdown."""
    codes = [point.codes for point in points]
    pairs, deep = ([p for p in points if p.chain.depth == depth] for depth in (2, 3))
    return report_text(
        "Hierarchy: flat or tree",
        "Every bird is an animal. Flat: one latent for birds, one for generic animals. Tree: a "
        "latent for animals, and one for birds that is coded only where animal is on. Closed forms "
        f"(docs/maths.md §9) beside codes of tokens drawn at random (seed {SEED}): {DOCUMENTS:,} "
        f"documents of {TOKENS} tokens a chain for calibration and for testing each. `table.csv` "
        "has every chain.",
        {
            "Closed forms and codes": [
                coverage("flat", [c.plain.agrees for c in codes]),
                coverage("tree", [c.other.agrees for c in codes]),
                coverage("what the tree saves", [c.saving_agrees for c in codes]),
                learning_cost([c.plain for c in codes] + [c.other for c in codes]),
            ],
            "Verdicts": [
                agreement("animal and bird", [point.codes for point in pairs]),
                agreement("three levels", [point.codes for point in deep]),
            ],
            "What the tree gains": _gain_sentences(),
        },
    )


def _gain_sentences() -> list[str]:
    root, share = np.linspace(0.0, 1.0, 201)[1:], np.linspace(0.0, 1.0, 201)[:, None]
    exact = closed_forms.nested(np.stack(np.broadcast_arrays(root[None], root[None] * share)))
    apart = float(np.abs(exact.tree - exact.joint).max())
    least = float(exact.gain.min())
    sparse = closed_forms.nested(Chain(SPARSE_RATE, 0.5).rates[:, None])
    saved, flat = float(sparse.gain[0]), float(sparse.flat[0])
    law = closed_forms.sparse_gain(np.array([SPARSE_RATE]), 0.5)[0]
    return [
        f"Over a grid of {exact.flat.size:,} pairs of rates the tree's length "
        f"{'is' if apart < closed_forms.ROUNDING else 'is not'} the joint entropy (they differ by "
        f"{apart:.0e} bits at most), and the flat code is "
        f"{'never' if least > -closed_forms.ROUNDING else 'somewhere'} shorter.",
        f"At P(A) = {SPARSE_RATE:g} and P(B|A) = 0.5 the tree saves {saved:.2e} bits, "
        f"{saved / flat:.2%} of the flat code; {SPARSE_LAW}, what the saving tends to for sparse "
        f"features, is {law:.2e}.",
        "By L0 the tree looks worse, P(A) + P(B) against P(A); by bits it is shorter for "
        f"{(exact.gain > closed_forms.ROUNDING).mean():.0%} of the grid.",
    ]
