"""Rate-aware rounding under the tree code: the mode `rdo-tree` (maths §2, §3).

As in `rdo`, a latent takes its nearest symbol, the next one towards 0, or 0. But what it costs to
be on depends on whether its parent is on, and what its children cost depends on it. So all latents
of a token are decided together: from the leaves to the roots, what each subtree costs at least with
its parent off and with its parent on; then, from the roots to the leaves, what was cheapest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from mdlbench.codes.codelength import Codebook
from mdlbench.codes.contexts import PARENT_OFF, PARENT_ON
from mdlbench.codes.forest import NOWHERE, Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import FlatCode, TreeCode
from mdlbench.codes.symbols import Symbols, half_steps, quantise, symbol_at
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook
from mdlbench.quantisers.protocol import Calibration, Machinery
from mdlbench.quantisers.rdo import Centroids, PricedRounding, best_share


class TreeRateAware(PricedRounding[TreeCodebook]):
    """Rate-aware rounding under a tree code: the latents of a token are decided together."""

    def symbols(self, latents: SparseLatents) -> Symbols:
        rounded = quantise(latents, self.step)
        value = latents.value[symbol_at(half_steps(latents.value, self.step), 0) != 0]
        symbol = self._cheaper(value, rounded)
        costs = self._costs(value, rounded.latent, symbol)
        if not self.negatives:
            costs[:, symbol < 0] = np.inf
        on = cheapest_support(self.prices.forest, rounded, costs)
        return replace(
            rounded, token=rounded.token[on], latent=rounded.latent[on], symbol=symbol[on]
        )

    def _cheaper(
        self, value: Float32[np.ndarray, " nnz"], rounded: Symbols
    ) -> Int32[np.ndarray, " nnz"]:
        """The nearest symbol, or the next one towards 0 that is not 0: whichever costs less."""
        nearest = rounded.symbol
        lower = np.where(np.abs(nearest) > 1, nearest - np.sign(nearest), nearest)
        costs = [self._costs(value, rounded.latent, symbol)[0] for symbol in (nearest, lower)]
        return np.where(costs[1] < costs[0], lower, nearest)

    def _costs(
        self,
        value: Float32[np.ndarray, " nnz"],
        latent: Int32[np.ndarray, " nnz"],
        symbol: Int32[np.ndarray, " nnz"],
    ) -> Float64[np.ndarray, "2 nnz"]:
        """Squared error + λ·bits of being on, above those of being off, by the parent's state."""
        error = (value - self.centroids.of(symbol)) ** 2 - value.astype(np.float64) ** 2
        off = np.full(len(symbol), PARENT_OFF)
        bits = [
            self.prices.excess_bits(context, latent, symbol) for context in (off, off + PARENT_ON)
        ]
        return np.asarray(error + self.slope * np.stack(bits))


def cheapest_support(
    forest: Forest, places: Symbols, costs: Float64[np.ndarray, "2 nnz"]
) -> Bool[np.ndarray, " nnz"]:
    """Which of these nonzeros are on where the costs of a token add up to the least.

    Args:
        forest: of the latents.
        places: token and latent of each; all other latents are off.
        costs: what each adds when it is on, with its parent off and with its parent on.
    """
    above = forest.parent_at(places)
    levels = list(_by_level(forest, places))
    below = np.zeros_like(costs)
    worth = np.zeros(costs.shape, dtype=bool)
    for at in reversed(levels):
        on = costs[:, at] + below[1, at]
        off = below[0, at]
        worth[:, at] = on < off
        child = above[at] != NOWHERE
        for state, least in enumerate(np.minimum(on, off)):
            np.add.at(below[state], above[at[child]], least[child])
    chosen = np.zeros(places.nnz, dtype=bool)
    for at in levels:
        parent_on = (above[at] != NOWHERE) & chosen[above[at]]
        chosen[at] = np.where(parent_on, worth[1, at], worth[0, at])
    return chosen


def _by_level(forest: Forest, places: Symbols) -> Iterator[Int64[np.ndarray, " some_nnz"]]:
    """Positions of the nonzeros of each level, from the roots down."""
    level = forest.level[places.latent]
    for depth in range(len(forest.levels)):
        yield np.flatnonzero(level == depth)


def fit_tree_rate_aware(calibration: Calibration, step: float) -> TreeRateAware:
    """Rate-aware rounding of calibration tokens at Δ under the tree code, as much of it as pays.

    The forest is that of plain rounding at Δ by parents alone; prices are fitted on the symbols of
    the trial's sample. Errors are whole ones, where they are known: to an SAE trained on rounded
    latents, a step that moves its reconstruction may cost nothing.
    """
    rounded = calibration.runs.each(partial(quantise, step=step))
    flat = FlatCode.fit(rounded, calibration.n_latents).codebook
    book = TreeCodebook.by_parents(flat, rounded, calibration.parents)
    forest = book.forest if book.gained_bits > 0 else Forest.of_roots(calibration.n_latents)
    trial = calibration.trial.priced(partial(tree_rate, forest))
    return best_share(trial, step, TreeRateAware, partial(tree_prices, forest))


def tree_prices(forest: Forest, symbols: Symbols) -> TreeCodebook:
    """The tree code of symbols, on that forest."""
    flat = Codebook.fit(SymbolCounts.of(symbols))
    return TreeCodebook.of_forest(flat, forest, forest.joint_counts([symbols]))


def tree_rate(forest: Forest, symbols: Symbols) -> float:
    """Bits per token under the tree code of the symbols themselves, on that forest."""
    book = tree_prices(forest, symbols)
    return book.bits(book.flat.counts, book.own).total


MACHINERY = Machinery(fit_tree_rate_aware, Centroids.of_columns, TreeCode)
