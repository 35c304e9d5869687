"""Counts of firings: Binomial and hypergeometric models at full precision, far tails included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mdlbench.codelength import Codebook
from mdlbench.coding.channel import Channel, categorical

WINDOW = 2.0**-18
"""Tails of a count's distribution lighter than this wait for a second stage: 24 bits resolve it."""

LEAST_PROBABILITY = 2.0**-53
"""Probabilities that rounded to 0 or 1 are moved this far inside."""

TABLE_CELLS = 1 << 19
"""Weights tabulated at once: bounds the memory whatever N is."""


class CountFamily(Protocol):
    """Unimodal distributions of a count on lowest … highest, one per row.

    Weights obey detailed balance: weight(x)·forward(x) = weight(x + 1)·backward(x + 1).
    """

    lowest: Int64[np.ndarray, " row"]
    highest: Int64[np.ndarray, " row"]
    mode: Int64[np.ndarray, " row"]
    deviation: Float64[np.ndarray, " row"]

    def rows(self, rows: slice) -> CountFamily: ...
    def forward(self, x: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x"]: ...
    def backward(self, x: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x"]: ...


class Binomial:
    """Firings of a latent with probability `p` in `n` tokens."""

    def __init__(self, n: int, p: Float64[np.ndarray, " row"]) -> None:
        self.n, self.p = n, p
        self.lowest = np.zeros(len(p), dtype=np.int64)
        self.highest = np.full(len(p), n, dtype=np.int64)
        self.mode = np.clip((n + 1) * p, 0, n).astype(np.int64)
        self.deviation = np.sqrt(n * p * (1 - p))

    def rows(self, rows: slice) -> Binomial:
        return Binomial(self.n, self.p[rows])

    def forward(self, x: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x"]:
        return (self.n - x) * self.p[:, None]

    def backward(self, x: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x"]:
        return x * (1 - self.p[:, None])


class Hypergeometric:
    """Firings in the first `left` tokens of a block of `n` that holds `c` firings."""

    def __init__(self, n: Int64[np.ndarray, " row"], c: Int64[np.ndarray, " row"]) -> None:
        self.n, self.c, self.left = n, c, first_half(n)
        self.lowest = np.maximum(0, c - (n - self.left))
        self.highest = np.minimum(c, self.left)
        self.mode = (self.left + 1) * (c + 1) // (n + 2)
        share = self.left / n
        self.deviation = np.sqrt(c * share * (1 - share) * (n - c) / (n - 1))

    def rows(self, rows: slice) -> Hypergeometric:
        return Hypergeometric(self.n[rows], self.c[rows])

    def forward(self, x: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x"]:
        return (self.left[:, None] - x) * (self.c[:, None] - x)

    def backward(self, x: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x"]:
        return x * ((self.n - self.left - self.c)[:, None] + x)


def first_half(n: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    return n - n // 2


def _reach(family: CountFamily) -> int:
    """Steps from the mode beyond which no count is likely."""
    return int(8 * family.deviation.max(initial=0.0)) + 16


def _run(
    family: CountFamily, start: Int64[np.ndarray, " row"], step: int, reach: int
) -> Float64[np.ndarray, "row x"]:
    """Weights of start, start ± 1, …, `reach` steps outwards, relative to start's."""
    x = start[:, None] + step * np.arange(reach, dtype=np.float64)
    if step > 0:
        ratio = family.forward(x) / family.backward(x + 1)
    else:
        ratio = family.backward(x) / family.forward(x - 1)
    weights = np.ones((len(start), reach + 1))
    np.cumprod(ratio, axis=1, out=weights[:, 1:])
    return np.abs(weights)


@dataclass(frozen=True)
class Windows:
    """The likely counts of each row as one table of weights.

    `table[row, begin:end]` are the weights of counts first, first + 1, …; where the support goes on
    beyond the window, the outermost cell stands for everything there.
    """

    table: Float64[np.ndarray, "row cell"]
    begin: Int64[np.ndarray, " row"]
    end: Int64[np.ndarray, " row"]
    first: Int64[np.ndarray, " row"]
    opens_below: Bool[np.ndarray, " row"]
    opens_above: Bool[np.ndarray, " row"]


def _windows(family: CountFamily) -> Windows:
    reach = _reach(family)
    up, down = _run(family, family.mode, 1, reach), _run(family, family.mode, -1, reach)
    total = up.sum(axis=1) + down.sum(axis=1) - 1
    up_tail, down_tail = _tails(up), _tails(down)
    n_up, opens_above = _extent(_window(up_tail, total), family.highest - family.mode)
    n_down, opens_below = _extent(_window(down_tail, total), family.mode - family.lowest)
    row, centre, pad = np.arange(len(total)), reach + 1, np.zeros((len(total), 1))
    table = np.hstack([pad, down[:, :0:-1], up, pad])
    table[row, centre + n_up + 1] = up_tail[row, n_up + 1]
    table[row, centre - n_down - 1] = down_tail[row, n_down + 1]
    begin = centre - n_down - opens_below
    end = centre + n_up + opens_above + 1
    return Windows(table, begin, end, family.mode + begin - centre, opens_below, opens_above)


def _tails(weights: Float64[np.ndarray, "row x"]) -> Float64[np.ndarray, "row x_and_beyond"]:
    """Weight of each count and all further out; 0 beyond the last."""
    tails = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights[:, ::-1], axis=1, out=tails[:, -2::-1])
    return tails


def _extent(
    window: Int64[np.ndarray, " row"], available: Int64[np.ndarray, " row"]
) -> tuple[Int64[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Steps from the mode that a window covers, and whether more than one count lies beyond it."""
    extent = np.where(available - window <= 0, available, window - 1)
    return extent, extent < available


def _window(
    tails: Float64[np.ndarray, "row x_and_beyond"], total: Float64[np.ndarray, " row"]
) -> Int64[np.ndarray, " row"]:
    """How many counts to tabulate so that what remains still has a 24-bit probability; ≥ 1."""
    heavy: Int64[np.ndarray, " row"] = (tails >= WINDOW * total[:, None]).sum(axis=1)
    return np.maximum(heavy - 1, 1)


def code_counts(
    channel: Channel,
    family: CountFamily,
    members: Int64[np.ndarray, " row"],
    counts: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """Counts, of which the first `members[0]` follow the family's first row, and so on."""
    coded = np.empty_like(counts)
    bounds = np.concatenate([[0], np.cumsum(members)])
    batch = max(1, TABLE_CELLS // (2 * _reach(family) + 3))
    for start in range(0, len(members), batch):
        rows = slice(start, min(start + batch, len(members)))
        span = slice(bounds[rows.start], bounds[rows.stop])
        coded[span] = _code_batch(channel, family.rows(rows), members[rows], counts[span])
    return coded


def _code_batch(
    channel: Channel,
    family: CountFamily,
    members: Int64[np.ndarray, " row"],
    counts: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    windows = _windows(family)
    row = np.repeat(np.arange(len(members)), members)
    first, last = windows.first[row], (windows.end - windows.begin - 1)[row]
    cell = np.clip(counts - first, 0, last).astype(np.int32)
    stop = 0
    for r, (n, begin, end) in enumerate(
        zip(members.tolist(), windows.begin.tolist(), windows.end.tolist(), strict=True)
    ):
        start, stop = stop, stop + n
        if end - begin > 1:
            model = categorical(windows.table[r, begin:end])
            cell[start:stop] = channel.code(model, cell[start:stop])
    coded = first + cell
    below = windows.opens_below[row] & (cell == 0)
    above = windows.opens_above[row] & (cell == last)
    for i in np.flatnonzero(below | above).tolist():
        alone = family.rows(slice(row[i], row[i] + 1))
        coded[i] = _code_tail(channel, alone, int(coded[i]), 1 if above[i] else -1, int(counts[i]))
    return coded


def _code_tail(channel: Channel, family: CountFamily, start: int, step: int, count: int) -> int:
    """A count known to lie at `start` or beyond it, window by window: its full price, exactly."""
    edge = int(family.highest[0] if step > 0 else family.lowest[0])
    while start != edge:
        reach = min(_reach(family), abs(edge - start))
        weights = _run(family, np.array([start]), step, reach)
        tails = _tails(weights)
        n = int(_window(tails, tails[:, 0])[0])
        cells = np.append(weights[0, :n], tails[0, n])
        cell = np.array([min(abs(count - start), n)], dtype=np.int32)
        cell = channel.code(categorical(cells), cell)
        start += step * int(cell[0])
        if cell[0] < n:
            break
    return start


def code_active(
    channel: Channel,
    codebook: Codebook,
    n_tokens: int,
    active: Int64[np.ndarray, " latent"],
) -> Int64[np.ndarray, " latent"]:
    """k_i ~ Binomial(N, π_i) of every latent (maths §3); latents of equal π share a model."""
    p = np.clip(codebook.firing_probability, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    distinct, row, members = np.unique(p, return_inverse=True, return_counts=True)
    order = np.argsort(row, kind="stable")
    coded = np.empty_like(active)
    coded[order] = code_counts(channel, Binomial(n_tokens, distinct), members, active[order])
    return coded
