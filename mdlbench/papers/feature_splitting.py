"""When a third latent for A and B together shortens the code of two overlapping features.

The paper's phase diagram and the lift-e law (maths §9), exactly and by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float64

from mdlbench.codes import closed_forms
from mdlbench.console.stages import OnStage
from mdlbench.console.style import ALERT, CATEGORIES, INK, house_style
from mdlbench.errors import UsageError
from mdlbench.papers.simulation import Booleans, Comparison, Documents, code
from mdlbench.papers.wording import agreement, coverage, learning_cost, report_text
from mdlbench.report.outputs import write_outputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 0
DOCUMENTS, REPLICATES = 1000, 1000
DENSE_TOKENS, SPARSE_TOKENS = 200, 1000
"""Tokens of a document; overlaps of sparse features are rare, and need more."""

PANELS = EQUAL, UNEQUAL, LIFT = "equal rates", "unequal rates", "lift"
UNEQUAL_RHO = 0.25
EQUAL_RATES = tuple(i / 100 for i in range(5, 100, 10))
"""Without ½, where every token costs one bit and an interval over tokens has no width."""
EQUAL_RHOS = (-0.4, -0.2, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
UNEQUAL_RATES = (0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8)
LIFT_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
LIFTS = (1.5, 2.0, 2.4, 3.0, 3.5, 4.0)

VERDICTS = {-1: "two", 0: "tie", 1: "three"}
"""By the sign of what the third latent saves."""
COLOURS = {-1: CATEGORIES[0], 0: "white", 1: CATEGORIES[3]}
MARKERS = {-1: "o", 0: "D", 1: "s"}
IMPOSSIBLE = "#d4d4d4"


@dataclass(frozen=True)
class Pair:
    """Two boolean features, and the panel of the figures where they are shown.

    Attributes:
        panel: its name.
        p_a, p_b: how often each is on.
        q: how often both are.
    """

    panel: str
    p_a: float
    p_b: float
    q: float

    @property
    def rho(self) -> float:
        return float(closed_forms.correlation(*self._arrays)[0])

    @property
    def lift(self) -> float:
        return self.q / (self.p_a * self.p_b)

    @property
    def exact(self) -> tuple[float, float]:
        """Closed forms of two latents and of three, in bits per token."""
        two, three, _ = closed_forms.splitting(*self._arrays)
        return float(two[0]), float(three[0])

    def draw(self, n_tokens: int, generator: np.random.Generator) -> Booleans:
        """Independent tokens of A and B.

        Raises:
            UsageError: no two features with these rates overlap so.
        """
        if math.isnan(self.exact[0]):
            raise UsageError(
                f"features on at rates {self.p_a:g} and {self.p_b:g} cannot overlap at {self.q:g}"
            )
        u = generator.random(n_tokens)
        b_only = (u >= self.p_a) & (u < self.p_a + self.p_b - self.q)
        return np.stack([u < self.p_a, (u < self.q) | b_only], axis=1)

    @property
    def _arrays(self) -> tuple[Float64[np.ndarray, " 1"], ...]:
        return np.array([self.p_a]), np.array([self.p_b]), np.array([self.q])


@dataclass(frozen=True)
class SplittingPoint:
    """A simulated pair: its code of two latents against that of three."""

    pair: Pair
    codes: Comparison

    @property
    def row(self) -> dict[str, object]:
        """Its row of the table."""
        pair, codes = self.pair, self.codes
        return {
            "panel": pair.panel,
            "P(A)": pair.p_a,
            "P(B)": pair.p_b,
            "rho": pair.rho,
            "lift": pair.lift,
            **codes.columns("two", "three"),
            "verdict exact": VERDICTS[codes.exact_sign],
            "verdict": VERDICTS[codes.simulated_sign],
        }


def reproduce(folder: Path, on_stage: OnStage) -> list[Path]:
    """Simulate, draw and report into `folder`; returns the files."""
    import pandas as pd

    points = simulate(list(pairs()), on_stage)
    on_stage("figures")
    figures = {"phase-diagram": phase_diagram(points), "break-even": break_even(points)}
    table = pd.DataFrame([point.row for point in points])
    return write_outputs(folder, figures, table, written_report(points))


def pairs() -> Iterator[Pair]:
    """What is simulated: those of the grids that are possible."""
    for p, rho in product(EQUAL_RATES, EQUAL_RHOS):
        yield from _possible(EQUAL, p, p, rho)
    for p_a, p_b in permutations(UNEQUAL_RATES, 2):
        yield from _possible(UNEQUAL, p_a, p_b, UNEQUAL_RHO)
    for p, lift in product(LIFT_RATES, LIFTS):
        yield Pair(LIFT, p, p, lift * p**2)


def _possible(panel: str, p_a: float, p_b: float, rho: float) -> Iterator[Pair]:
    q = float(closed_forms.overlap(np.array([p_a]), np.array([p_b]), np.array([rho]))[0])
    if not math.isnan(q):
        yield Pair(panel, p_a, p_b, q)


def simulate(chosen: Sequence[Pair], on_stage: OnStage) -> list[SplittingPoint]:
    """Every pair, each with a calibration and a test draw of its own."""
    dense = Documents.cut(DOCUMENTS, DENSE_TOKENS, REPLICATES, SEED)
    sparse = Documents.cut(DOCUMENTS, SPARSE_TOKENS, REPLICATES, SEED)
    points = []
    for i, pair in enumerate(chosen):
        on_stage(f"pair {i + 1} of {len(chosen)}")
        documents = sparse if pair.panel == LIFT else dense
        points.append(compare(pair, documents, np.random.default_rng([SEED, i])))
    return points


def compare(pair: Pair, documents: Documents, generator: np.random.Generator) -> SplittingPoint:
    """Both codes of one test draw, with codebooks of one calibration draw of the same length."""
    calibration, test = (pair.draw(documents.n_tokens, generator) for _ in range(2))
    two = code(calibration, test, documents)
    three = code(split(calibration), split(test), documents)
    return SplittingPoint(pair, Comparison.of(pair.exact, (two, three), documents))


def split(on: Bool[np.ndarray, "token 2"]) -> Bool[np.ndarray, "token 3"]:
    """A∧B, A∧¬B and ¬A∧B from A and B."""
    a, b = on.T
    return np.stack([a & b, a & ~b, b & ~a], axis=1)


def phase_diagram(points: Sequence[SplittingPoint]) -> Figure:
    """Which code is shorter: over (p, ρ) for equal rates, over both rates at one ρ."""
    from matplotlib.figure import Figure

    p, rho = np.linspace(0.001, 0.999, 300), np.linspace(-1, 1, 301)
    x, y = p[None], p[:, None]
    with house_style():
        figure = Figure(figsize=(10.4, 5.8), layout="constrained")
        equal, unequal = figure.subplots(1, 2)
        _regions(equal, p, rho, x, x, closed_forms.overlap(x, x, rho[:, None]))
        equal.plot(p, closed_forms.break_even_correlation(p, p), color=INK, linewidth=1.6)
        equal.set(title="Equal rates", xlabel="P(A) = P(B)", ylabel="correlation ρ of A and B")
        _dots(equal, [(q.pair.p_a, q.pair.rho, q.codes) for q in _of(EQUAL, points)])
        _regions(unequal, p, p, x, y, closed_forms.overlap(x, y, np.array([[UNEQUAL_RHO]])))
        unequal.set(title=f"Unequal rates at ρ = {UNEQUAL_RHO:g}", xlabel="P(A)", ylabel="P(B)")
        _dots(unequal, [(q.pair.p_a, q.pair.p_b, q.codes) for q in _of(UNEQUAL, points)])
        _legend(figure, [point.codes for point in points])
    return figure


def break_even(points: Sequence[SplittingPoint]) -> Figure:
    """The lift at break-even, which tends to e, and the correlation at break-even."""
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(10.4, 5.8), layout="constrained")
        lift, rho = figure.subplots(1, 2)
        _lift_panel(lift, _of(LIFT, points))
        _correlation_panel(rho)
        _legend(figure, [point.codes for point in _of(LIFT, points)])
    return figure


def _of(panel: str, points: Sequence[SplittingPoint]) -> list[SplittingPoint]:
    return [point for point in points if point.pair.panel == panel]


def _lift_panel(ax: Axes, points: Sequence[SplittingPoint]) -> None:
    from matplotlib.ticker import StrMethodFormatter

    p, lift = np.geomspace(1e-4, 0.5, 300), np.linspace(1.0, 5.0, 301)
    x = p[None]
    _regions(ax, p, lift, x, x, lift[:, None] * x**2)
    ax.plot(p, closed_forms.break_even_lift(p, p), color=INK, linewidth=1.6)
    ax.axhline(math.e, color=INK, linewidth=0.9, linestyle="--")
    ax.annotate("e", (p[0], math.e), xytext=(6, 4), textcoords="offset points", style="italic")
    _dots(ax, [(q.pair.p_a, q.pair.lift, q.codes) for q in points])
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set(title="Sparse features", xlabel="P(A) = P(B)", ylabel="lift P(A∧B) / (P(A)·P(B))")


def _correlation_panel(ax: Axes) -> None:
    p = np.linspace(0.002, 0.998, 250)
    rho = closed_forms.break_even_correlation(p[None], p[:, None])
    levels = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    ax.grid(False)
    ax.clabel(ax.contour(p, p, rho, levels, colors=INK, linewidths=0.9), fontsize=8)
    ends, middle, top = np.array([0.0, 1.0]), np.array([0.5, 1.0]), np.ones(2)
    ax.fill_between(ends, middle, top, color=_tint(COLOURS[-1]), linewidth=0)
    ax.fill_betweenx(ends, middle, top, color=_tint(COLOURS[-1]), linewidth=0)
    for x, y in ((0.16, 0.84), (0.84, 0.16)):
        ax.annotate("two are shorter\nat any ρ", (x, y), ha="center", va="center")
    ax.set(title="Break-even ρ", xlabel="P(A)", ylabel="P(B)", xlim=(0, 1), ylim=(0, 1))


def _regions(
    ax: Axes,
    x: Float64[np.ndarray, " x"],
    y: Float64[np.ndarray, " y"],
    p_a: closed_forms.Array,
    p_b: closed_forms.Array,
    q: closed_forms.Array,
) -> None:
    """Tints: where two latents are shorter, where three are, and where q is impossible."""
    gain = closed_forms.splitting(p_a, p_b, q).gain
    ax.set_facecolor(IMPOSSIBLE)
    ax.grid(False)
    ax.contourf(x, y, gain, [-9, 0, 9], colors=[_tint(COLOURS[-1]), _tint(COLOURS[1])])
    ax.contour(x, y, gain, [0], colors=INK, linewidths=0.8)


def _tint(colour: str) -> str:
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (1 - 0.3 * (1 - c) for c in to_rgb(colour))
    return to_hex((red, green, blue))


def _dots(ax: Axes, places: Sequence[tuple[float, float, Comparison]]) -> None:
    """Simulated verdicts; those opposite to the exact ones in alarm's colour."""
    for x, y, codes in places:
        ax.plot(x, y, clip_on=False, zorder=3, **_dot(codes.simulated_sign, codes.opposite))


def _dot(sign: int, opposite: bool = False) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": MARKERS[sign],
        "markersize": 8 if opposite else 5,
        "markerfacecolor": COLOURS[sign],
        "markeredgecolor": ALERT if opposite else INK,
        "markeredgewidth": 2.0 if opposite else 0.7,
    }


def _legend(figure: Figure, codes: Sequence[Comparison]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {
        "exact: two latents are shorter": Patch(color=_tint(COLOURS[-1])),
        "exact: three latents are shorter": Patch(color=_tint(COLOURS[1])),
        "exact break-even": Line2D([], [], color=INK, linewidth=1.6),
        "impossible": Patch(color=IMPOSSIBLE),
    }
    simulated = {-1: "two are shorter", 1: "three are shorter", 0: "a tie (95% interval)"}
    for sign, words in simulated.items():
        if any(code.simulated_sign == sign for code in codes):
            entries[f"simulated: {words}"] = Line2D([], [], **_dot(sign))
    if any(code.opposite for code in codes):
        entries["simulated: opposite to exact"] = Line2D([], [], **_dot(0, opposite=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4)


def written_report(points: Sequence[SplittingPoint]) -> str:
    """What holds and what does not, as Markdown."""
    codes = [point.codes for point in points]
    return report_text(
        "Feature splitting: two latents or three",
        "Features A and B overlap. Two latents, or three (A∧B, A∧¬B, ¬A∧B), reconstruct the same; "
        "which code is shorter? Closed forms (docs/maths.md §9) beside codes of tokens drawn at "
        f"random (seed {SEED}): {DOCUMENTS:,} documents of {DENSE_TOKENS} tokens a pair, of "
        f"{SPARSE_TOKENS:,} in the panel of lifts, for calibration and for testing each. "
        "`table.csv` has every pair.",
        {
            "Closed forms and codes": [
                coverage("two latents", [c.plain.agrees for c in codes]),
                coverage("three latents", [c.other.agrees for c in codes]),
                coverage("what the third latent saves", [c.saving_agrees for c in codes]),
                learning_cost([c.plain for c in codes] + [c.other for c in codes]),
            ],
            "Verdicts": [
                agreement(panel, [point.codes for point in _of(panel, points)]) for panel in PANELS
            ],
            "The lift-e law": _lift_sentences(),
            "All rates": _plane_sentences(),
        },
    )


def _lift_sentences() -> list[str]:
    p = np.geomspace(1e-4, 0.5, 400)
    lift = closed_forms.break_even_lift(p, p)
    near = np.abs(lift / math.e - 1) < 0.01
    shown = ", ".join(
        f"{closed_forms.break_even_lift(*[np.array([x])] * 2)[0]:.4f} at p = {x:g}"
        for x in (1e-4, 1e-3, 1e-2, 0.1, 0.5)
    )
    return [
        f"The exact break-even lift is {shown}; e = {math.e:.4f}.",
        f"It is within 1% of e for all p from {p[near].min():g} to {p[near].max():.2g}, and "
        f"{'falls' if (np.diff(lift) < 0).all() else 'does not fall steadily'} with p.",
    ]


def _plane_sentences() -> list[str]:
    p = np.linspace(0.005, 0.995, 199)
    equal = closed_forms.break_even_correlation(p, p)
    rho = closed_forms.break_even_correlation(p[None], p[:, None])
    never, top = np.isnan(rho).mean(), np.nanargmax(equal)
    return [
        f"Over a grid of {rho.size:,} pairs of rates, three latents are never shorter, whatever "
        f"the correlation, for {never:.0%}; for each of the others, only above a break-even ρ, "
        f"which lies between {np.nanmin(rho):.3g} and {np.nanmax(rho):.3g}.",
        f"For equal rates break-even is highest, ρ = {equal[top]:.3f}, at p = {p[top]:.3g}.",
    ]
