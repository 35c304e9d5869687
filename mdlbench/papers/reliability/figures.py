"""The dossier's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdlbench.console.style import ALERT, CATEGORIES, FAINT, INK, MARKERS, house_style, legend_below
from mdlbench.papers.reliability import ranks
from mdlbench.papers.reliability.evidence import Evidence
from mdlbench.papers.reliability.falsifiers import TITLES, Verdict
from mdlbench.papers.reliability.panel import Ranked, but_for_seed
from mdlbench.papers.reliability.plan import FLAT, MODES
from mdlbench.papers.reliability.statistics import SETTINGS, TIGHT, TRUTHS, bits_of, statistics
from mdlbench.papers.reliability.tables import WORDS, scores
from mdlbench.papers.reliability.verdicts import Setting
from mdlbench.statistics.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {True: ALERT, False: CATEGORIES[1], None: "#dddddd"}
SHORT = {number: title.partition(":")[0] for number, title in TITLES.items()}


def drawings(
    parts: Sequence[Evidence], found: Mapping[Setting, Sequence[Verdict]]
) -> dict[str, Figure]:
    """The figures by file name."""
    drawn = {"verdicts": verdicts(found)}
    known = [part for part in parts if part.ranked(bits_of(FLAT, TIGHT)) is not None]
    if known:
        drawn["correlations"] = correlations(known)
        drawn |= {f"truth-{part.part.key}": truth(part) for part in known}
    followed = [part for part in parts if part.moved[FLAT].followed]
    if followed:
        drawn["training"] = training(followed)
    return drawn


def verdicts(found: Mapping[Setting, Sequence[Verdict]]) -> Figure:
    """What each falsifier says of each setting."""
    from matplotlib.patches import Rectangle

    figure = _figure(7.2, 3.0)
    with house_style():
        ax = figure.add_subplot()
        ax.grid(False)
        for column, own in enumerate(found.values()):
            for row, verdict in enumerate(own):
                colour = COLOURS[verdict.falsified]
                ax.add_patch(Rectangle((column, row), 0.94, 0.9, color=colour, linewidth=0))
                word, place = WORDS[verdict.falsified], (column + 0.47, row + 0.47)
                ax.annotate(word, place, ha="center", va="center", fontsize=7)
        ax.set(xlim=(0, len(found)), ylim=(len(SHORT), 0))
        ax.set_xticks(np.arange(len(found)) + 0.47, [setting.words for setting in found])
        ax.tick_params(axis="x", labelrotation=20, length=0)
        ax.tick_params(axis="y", length=0)
        ax.set_yticks(
            np.arange(len(SHORT)) + 0.45, [f"{number}  {name}" for number, name in SHORT.items()]
        )
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title("What was claimed, by code and tolerance")
    return figure


def correlations(parts: Sequence[Evidence]) -> Figure:
    """ρ of every statistic with F1 and with MCC, in each world, with intervals."""
    modes = tuple(mode for mode in MODES if any(part.has_mode(mode) for part in parts))
    asked = [one for one in statistics(modes) if one not in TRUTHS]
    figure = _figure(8.4, 0.25 * len(asked) + 1.6)
    with house_style():
        axes = figure.subplots(1, len(TRUTHS), sharey=True)
        for ax, of in zip(axes, TRUTHS, strict=True):
            for i, part in enumerate(parts):
                base = part.ranked(bits_of(FLAT, TIGHT))
                assert base is not None
                for row, statistic in enumerate(asked):
                    rho = ranks.correlation(
                        scores(part, statistic),
                        base.truths[of.name],
                        base.configuration,
                        base.world,
                    )
                    place = row + 0.25 * (i - (len(parts) - 1) / 2)
                    label = part.part.key if row == 0 else None
                    ax.plot([rho.low, rho.high], [place] * 2, color=CATEGORIES[i], linewidth=1.6)
                    ax.plot(rho.value, place, MARKERS[i], color=CATEGORIES[i], label=label)
            ax.axvline(0, color=FAINT, linewidth=0.9)
            ax.set(xlim=(-1.05, 1.05), xlabel=f"Spearman's ρ with {of.name}")
            ax.set_yticks(range(len(asked)), ["−" * (one.sign < 0) + one.name for one in asked])
        axes[0].invert_yaxis()
        legend_below(figure)
    return figure


def truth(part: Evidence) -> Figure:
    """F1 and MCC of each trained SAE against its bits at both tolerances, by code."""
    modes = [mode for mode in part.part.modes if part.has_mode(mode)]
    rows = [(which, of.name) for which in SETTINGS for of in TRUTHS]
    figure = _figure(3.1 * len(modes) + 0.6, 2.5 * len(rows) + 0.6)
    with house_style():
        axes = figure.subplots(len(rows), len(modes), squeeze=False, sharey="row")
        for column, mode in enumerate(modes):
            for ax, (which, name) in zip(axes[:, column], rows, strict=True):
                found = part.ranked(bits_of(mode, which))
                assert found is not None
                _scatter(ax, found, name)
                ax.set_title(f"{Setting(mode, which).words}: {_limit(part, which)}")
                ax.set_xlabel("bits per token")
        for ax, (_, name) in zip(axes[:, 0], rows, strict=True):
            ax.set_ylabel(name)
        legend_below(figure)
    return figure


def _limit(part: Evidence, which: str) -> str:
    limits = part.limits
    return f"{metric_of(limits.metric).label} ≤ {getattr(limits, which):g}"


def _scatter(ax: Axes, found: Ranked, name: str) -> None:
    kinds = list(dict.fromkeys(found.architecture))
    for i, kind in enumerate(kinds):
        own = np.array([other == kind for other in found.architecture])
        own &= ~np.isnan(found.bits)
        if own.any():
            ax.plot(
                found.bits[own],
                found.truths[name][own],
                color=CATEGORIES[i % len(CATEGORIES)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle="none",
                markersize=4,
                label=kind,
            )
    if np.isnan(found.bits).all():
        _say_nothing_is_within(ax)
    for i, oracle in enumerate(np.unique(found.oracle[~np.isnan(found.oracle)])):
        label = "the oracle, F1 = MCC = 1" if i == 0 else None
        ax.axvline(oracle, color=INK, linewidth=0.9, linestyle="--", label=label)


def training(parts: Sequence[Evidence]) -> Figure:
    """Bits at both tolerances along training, a line for each run."""
    figure = _figure(4.2 * len(parts), 6.6)
    with house_style():
        axes = figure.subplots(len(SETTINGS), len(parts), squeeze=False)
        for column, part in enumerate(parts):
            for ax, which in zip(axes[:, column], SETTINGS, strict=True):
                _courses(ax, part, which)
    return figure


def _courses(ax: Axes, part: Evidence, which: str) -> None:
    snapshots = part.moved[FLAT].snapshots(which)
    assert snapshots is not None
    kinds = [but_for_seed(key) for key in snapshots.runs]
    names = list(dict.fromkeys(kinds))
    labelled = set()
    for kind, bits in zip(kinds, snapshots.bits, strict=True):
        if np.isnan(bits).all():
            continue
        i = names.index(kind)
        ax.plot(
            bits,
            color=CATEGORIES[i % len(CATEGORIES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=3,
            linewidth=0.9,
            label=None if kind in labelled else kind,
        )
        labelled.add(kind)
    ax.set_xticks(range(len(snapshots.steps)), snapshots.steps)
    ax.set(xlabel="step", title=f"{part.part.key}, {_limit(part, which)}")
    if labelled:
        ax.set_ylabel("bits per token")
        ax.legend(fontsize=6)
    else:
        _say_nothing_is_within(ax)


def _say_nothing_is_within(ax: Axes) -> None:
    ax.set_yticks([])
    ax.annotate(
        "no SAE is within ε", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT
    )


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
