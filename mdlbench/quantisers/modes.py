"""The table of operating modes: which quantiser latents go through, and which code its symbols.

All that other rooms need to know of a mode stands in its row; what it does stands in its file and
is imported when it is used. To add one: a file with a `MACHINERY`, and a row of `MODES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from mdlbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from mdlbench.quantisers.protocol import Machinery


@dataclass(frozen=True)
class Mode:
    """An operating mode.

    Attributes:
        name: as `eval --quantiser` calls it.
        module: where its `MACHINERY` is.
        help: what `--quantiser` says of it.
        methods: what a paper's paragraph on methods says of its quantiser, as a clause in LaTeX.
        line: its line in figures, as matplotlib writes it.
        dash: its line on the page, in pixels on and off; empty where it is whole.
        marker: its marker in figures that compare modes.
        monotone: whether a coarser step leaves no more latents on, by construction.
        normalised: whether decoder norms are folded into the latents first.
        one_count: whether all dyadic steps follow from one count of half-steps (maths §4).
    """

    name: str
    module: str
    help: str
    methods: str
    line: str | tuple[int, tuple[float, ...]]
    dash: tuple[float, ...]
    marker: str
    monotone: bool = False
    normalised: bool = True
    one_count: bool = False

    @cached_property
    def machinery(self) -> Machinery:
        """How it quantises and codes."""
        machinery: Machinery = import_module(self.module).MACHINERY
        return machinery


_ROWS = (
    Mode(
        name="normalised",
        module="mdlbench.quantisers.plain",
        help="one step for all latents times their decoder norms",
        methods="Each latent, times the norm of its decoder row, is rounded to the nearest "
        "multiple of a step that all latents share",
        line="-",
        dash=(),
        marker="D",
        monotone=True,
        one_count=True,
    ),
    Mode(
        name="uniform",
        module="mdlbench.quantisers.plain",
        help="without the norms",
        methods="Each latent is rounded to the nearest multiple of a step that all latents share",
        line=(0, (6, 1)),
        dash=(6, 2),
        marker="v",
        monotone=True,
        normalised=False,
        one_count=True,
    ),
    Mode(
        name="per-feature",
        module="mdlbench.quantisers.per_feature",
        help="a dyadic step for each latent",
        methods="Each latent, times the norm of its decoder row, is rounded to the nearest "
        "multiple of a step of its own, a power of two times a common one",
        line=":",
        dash=(2, 2),
        marker="o",
    ),
    Mode(
        name="rdo",
        module="mdlbench.quantisers.rdo",
        help="rate-aware rounding and centroids",
        methods="Each latent, times the norm of its decoder row, is rounded to multiples of a "
        "common step such that squared error plus a multiple of the rate is small, and is decoded "
        "to centroids",
        line="--",
        dash=(5, 3),
        marker="s",
    ),
    Mode(
        name="tree",
        module="mdlbench.quantisers.tree",
        help="steps as in normalised, latents coded given their parents",
        methods="Each latent, times the norm of its decoder row, is rounded to the nearest "
        "multiple of a step that all latents share",
        line="-.",
        dash=(7, 2, 1.5, 2),
        marker="^",
        monotone=True,
    ),
    Mode(
        name="rdo-tree",
        module="mdlbench.quantisers.rdo_tree",
        help="rate-aware rounding and centroids, latents coded given their parents",
        methods="Each latent, times the norm of its decoder row, is rounded to multiples of a "
        "common step such that squared error plus a multiple of the rate is small, and is decoded "
        "to centroids",
        line=(0, (7, 1.5, 1.2, 1.5, 1.2, 1.5)),
        dash=(7, 2, 1.5, 2, 1.5, 2),
        marker="P",
    ),
)

MODES: dict[str, Mode] = {mode.name: mode for mode in _ROWS}


def mode_of(name: str) -> Mode:
    """The mode of that name; raises `UsageError` naming the nearest one."""
    if name not in MODES:
        raise UsageError(f"no quantiser {name!r}. {did_you_mean(name, MODES)}")
    return MODES[name]
