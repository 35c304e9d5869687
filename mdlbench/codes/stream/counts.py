"""Counts of firings: Binomial and hypergeometric models at full precision, far tails included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes.stream.channel import TABLE_CELLS, Channel, categorical

TAIL = 2.0**-18
"""The least mass of a tail that a second stage codes; 24-bit probabilities resolve it."""

LEAST_PROBABILITY = 2.0**-53
"""Probabilities that rounded to 0 or 1 are moved this far inside."""


Weights = Float64[np.ndarray, "row x"]
Rows = slice | Int64[np.ndarray, " row"]


class CountFamily(Protocol):
    """Unimodal distributions of a count on lowest … highest, one per row.

    Weights obey detailed balance: weight(x)·forward(x) = weight(x + 1)·backward(x + 1).
    """

    lowest: Int64[np.ndarray, " row"]
    highest: Int64[np.ndarray, " row"]
    mode: Int64[np.ndarray, " row"]
    deviation: Float64[np.ndarray, " row"]

    def rows(self, rows: Rows) -> CountFamily: ...
    def forward(self, x: Weights) -> Weights: ...
    def backward(self, x: Weights) -> Weights: ...


class Binomial:
    """Firings of a latent with probability `p` in `n` tokens."""

    def __init__(self, n: Int64[np.ndarray, " row"], p: Float64[np.ndarray, " row"]) -> None:
        self.n, self.p = n, p
        self.lowest = np.zeros(len(p), dtype=np.int64)
        self.highest = n
        self.mode = np.clip((n + 1) * p, 0, n).astype(np.int64)
        self.deviation = np.sqrt(n * p * (1 - p))

    def rows(self, rows: Rows) -> Binomial:
        return Binomial(self.n[rows], self.p[rows])

    def forward(self, x: Weights) -> Weights:
        odds: Weights = (self.n[:, None] - x) * self.p[:, None]
        return odds

    def backward(self, x: Weights) -> Weights:
        odds: Weights = x * (1 - self.p[:, None])
        return odds


class Hypergeometric:
    """Firings in the first half of a block of `n` tokens that holds `c` firings."""

    def __init__(self, n: Int64[np.ndarray, " row"], c: Int64[np.ndarray, " row"]) -> None:
        self.n, self.c, self.left = n, c, first_half(n)
        self.lowest = np.maximum(0, c - (n - self.left))
        self.highest = np.minimum(c, self.left)
        self.mode = (self.left + 1) * (c + 1) // (n + 2)
        share = self.left / n
        self.deviation = np.sqrt(c * share * (1 - share) * (n - c) / (n - 1))

    def rows(self, rows: Rows) -> Hypergeometric:
        return Hypergeometric(self.n[rows], self.c[rows])

    def forward(self, x: Weights) -> Weights:
        odds: Weights = (self.left[:, None] - x) * (self.c[:, None] - x)
        return odds

    def backward(self, x: Weights) -> Weights:
        odds: Weights = x * ((self.n - self.left - self.c)[:, None] + x)
        return odds


def first_half(n: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    """Tokens in the first half of a block of n: ⌈n/2⌉."""
    left: Int64[np.ndarray, " row"] = n - n // 2
    return left


def code_counts(
    channel: Channel,
    family: CountFamily,
    members: Int64[np.ndarray, " row"],
    counts: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """Counts, of which the first `members[0]` follow the family's first row, and so on."""
    coded: Int64[np.ndarray, " n"] = np.empty_like(counts)
    bounds = np.concatenate([[0], np.cumsum(members)])
    for rows in _batches(family, len(members)):
        span = slice(bounds[rows.start], bounds[rows.stop])
        coded[span] = _code_batch(channel, family.rows(rows), members[rows], counts[span])
    return coded


def _code_batch(
    channel: Channel,
    family: CountFamily,
    members: Int64[np.ndarray, " row"],
    counts: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    up, down = _Side(family, family.mode, 1), _Side(family, family.mode, -1)
    channel.tabulate(up.cells.size + down.cells.size)
    # both sides begin with the mode, whose weight is 1: count it once
    total = up.mass + down.mass - 1
    up.close(total)
    down.close(total)
    # from the lowest count to the highest, so that a cell is a count less the first
    table = np.hstack([down.cells[:, :0:-1], up.cells])
    first = family.mode - down.last
    row = np.repeat(np.arange(len(members)), members)
    cell = np.clip(counts - first[row], 0, (up.last + down.last)[row]).astype(np.int32)
    centre = down.cells.shape[1] - 1
    _code_cells(channel, table, centre - down.last, centre + up.last + 1, members, cell)
    coded: Int64[np.ndarray, " n"] = first[row] + cell
    # what lies beyond a window comes after the cells of the whole batch: only then does a reader
    # know which counts escaped, and all of them can be read together
    for side, beyond in (
        (up, up.is_open[row] & (cell == (up.last + down.last)[row])),
        (down, down.is_open[row] & (cell == 0)),
    ):
        escaped = np.flatnonzero(beyond)
        for batch in _batches(family, len(escaped)):
            i = escaped[batch]
            coded[i] = _code_tails(channel, family.rows(row[i]), side.step, coded[i], counts[i])
    return coded


def _code_tails(
    channel: Channel,
    family: CountFamily,
    step: int,
    start: Int64[np.ndarray, " row"],
    counts: Int64[np.ndarray, " row"],
) -> Int64[np.ndarray, " row"]:
    """Code counts at `start` or beyond it, window by window; each costs its exact bits."""
    coded: Int64[np.ndarray, " row"] = start.copy()
    waiting = np.arange(len(start))
    while len(waiting):
        side = _Side(family.rows(waiting), coded[waiting], step)
        channel.tabulate(side.cells.size)
        side.close(side.mass)
        cell = np.clip(step * (counts[waiting] - coded[waiting]), 0, side.last).astype(np.int32)
        ones = np.ones(len(waiting), dtype=np.int64)
        _code_cells(channel, side.cells, 0 * ones, side.last + 1, ones, cell)
        coded[waiting] += step * cell
        waiting = waiting[side.is_open & (cell == side.last)]
    return coded


def _code_cells(
    channel: Channel,
    table: Float64[np.ndarray, "row cell"],
    begin: Int64[np.ndarray, " row"],
    end: Int64[np.ndarray, " row"],
    members: Int64[np.ndarray, " row"],
    cell: Int32[np.ndarray, " n"],
) -> None:
    """Code runs of `members` symbols in place, each under its row's weights `begin:end`."""
    stop = 0
    bounds = zip(members.tolist(), begin.tolist(), end.tolist(), strict=True)
    for row, (n, low, high) in enumerate(bounds):
        start, stop = stop, stop + n
        # what can only be one thing costs nothing, and the coder has no model of one symbol
        if high - low > 1:
            cell[start:stop] = channel.code(categorical(table[row, low:high]), cell[start:stop])


def _batches(family: CountFamily, n: int) -> Iterator[slice]:
    """Parts of n rows whose tables have a bounded size."""
    rows = max(1, TABLE_CELLS // (2 * _reach(family)))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def _reach(family: CountFamily) -> int:
    """Steps from the mode beyond which no count is likely."""
    return int(8 * family.deviation.max(initial=0.0)) + 16


class _Side:
    """Weights of the counts from `start` outwards, one way; and, once closed, a window of them.

    Attributes:
        step: 1 or −1.
        cells: weights of start, start ± 1, …, relative to start's.
        mass: sum of each row.
        last: of a closed side, the last cell of the window.
        is_open: whether that cell stands for more than one count: all from there on.
    """

    def __init__(self, family: CountFamily, start: Int64[np.ndarray, " row"], step: int) -> None:
        reach = _reach(family)
        x = start[:, None] + step * np.arange(reach, dtype=np.float64)
        # Neighbouring weights have a simple ratio, at most 1 away from the mode. Their product
        # keeps its relative precision in the far tail, where a difference of log-gammas has none
        # left; and products and quotients round alike on every machine, which logarithms do not: a
        # reader must form the very same numbers.
        if step > 0:
            ratio = family.forward(x) / family.backward(x + 1)
        else:
            ratio = family.backward(x) / family.forward(x - 1)
        self.step = step
        self.cells = np.ones((len(start), reach + 1))
        np.cumprod(ratio, axis=1, out=self.cells[:, 1:])
        self._available = (family.highest - start) if step > 0 else (start - family.lowest)
        # summed from the far end, smallest first, so that a tail is not lost in the mass before it
        self._tails = np.cumsum(np.abs(self.cells)[:, ::-1], axis=1)[:, ::-1]
        self.mass = self._tails[:, 0]

    def close(self, total: Float64[np.ndarray, " row"]) -> None:
        """End the window where the mass beyond it would sink below `TAIL` of the total."""
        heavy = (self._tails >= TAIL * total[:, None]).sum(axis=1)
        # at least one step, or a window in the tails would stand where it begins for ever
        self.last = np.minimum(np.maximum(heavy - 1, 1), self._available)
        self.is_open = self.last < self._available
        row = np.flatnonzero(self.is_open)
        # the last cell stands for all that lies beyond it, too: no mass is lost, no count
        # impossible
        self.cells[row, self.last[row]] = self._tails[row, self.last[row]]


def code_active(
    channel: Channel,
    tokens: Int64[np.ndarray, " row"],
    probability: Float64[np.ndarray, " row"],
    active: Int64[np.ndarray, " row"],
) -> Int64[np.ndarray, " row"]:
    """k ~ Binomial(n, π) of every latent, or context of one (maths §3).

    Rows with equal n and π share a model; rows without tokens cost nothing.
    """
    p = np.clip(probability, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    # equal models side by side, to tabulate each once; tokens first, so that rows without any lead
    # and can be cut off
    order = np.lexsort((p, tokens))
    order = order[np.searchsorted(tokens, 1, sorter=order) :]
    first = _first_of_equals(tokens[order], p[order])
    members = np.diff(first, append=len(order))
    family = Binomial(tokens[order[first]], p[order[first]])
    coded = np.zeros_like(active)
    coded[order] = code_counts(channel, family, members, active[order])
    return coded


def _first_of_equals(
    n: Int64[np.ndarray, " row"], p: Float64[np.ndarray, " row"]
) -> Int64[np.ndarray, " group"]:
    """Where each run of equal pairs begins."""
    is_first = np.ones(len(n), dtype=bool)
    is_first[1:] = (n[1:] != n[:-1]) | (p[1:] != p[:-1])
    return np.flatnonzero(is_first)
