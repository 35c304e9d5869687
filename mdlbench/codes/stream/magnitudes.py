"""The symbols of firing latents, each under its latent's q_i(v | on), or q_i(v | on, parent)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes.codelength import Codebook, PooledMagnitudes
from mdlbench.codes.forest import Forest
from mdlbench.codes.grades import N_GRADES, N_STATES, GradedMagnitudes
from mdlbench.codes.stream.channel import TABLE_CELLS, Channel, categorical, uniform, within
from mdlbench.codes.tree import TreeCodebook

LARGEST_EXPONENT = 30
"""Symbols stay below 2^31."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Nonzeros that share a distribution: those of a latent, or of one in a state of its parent.

    Attributes:
        latent: of each row.
        state: of the latent's parent (`codes.grades`); absent where magnitudes are those of the
            flat code.
        active: nonzeros of each row, at least one.
    """

    latent: Int64[np.ndarray, " row"]
    active: Int64[np.ndarray, " row"]
    state: Int64[np.ndarray, " row"] | None = None

    def __getitem__(self, block: slice) -> Rows:
        state = None if self.state is None else self.state[block]
        return Rows(self.latent[block], self.active[block], state)


def code_magnitudes(
    channel: Channel,
    book: TreeCodebook,
    n_tokens: int,
    places: Int64[np.ndarray, " nnz"],
    symbols: Int32[np.ndarray, " nnz_or_none"],
) -> Int32[np.ndarray, " nnz"]:
    """The symbols of all firings.

    Args:
        channel: a writer, or a reader.
        book: flat magnitudes, and those given parents' symbols.
        n_tokens: N.
        places: latent·N + token of every firing, increasing.
        symbols: of each; none when reading.

    Returns:
        `symbols`, as the stream has them.
    """
    if book.magnitudes is None:
        return _code_rows(channel, book, _flat_rows(book, n_tokens, places), symbols)
    latent = (places // max(n_tokens, 1)).astype(np.int32)
    coded = np.zeros(len(places), dtype=np.int32)
    # first those that depend on no other, then level by level: a reader must know a parent's symbol
    for depth, which in enumerate(_by_depth(book, latent)):
        key = latent[which] * np.int64(N_STATES)
        if depth:
            key += _states(book.forest, book.magnitudes, n_tokens, places, coded, which)
        row, order, active = _grouped(key)
        rows = Rows(row // N_STATES, active, row % N_STATES if depth else None)
        which = which[order]
        known = symbols[which] if len(symbols) else symbols
        coded[which] = _code_rows(channel, book, rows, known)
    return coded


def _flat_rows(book: TreeCodebook, n_tokens: int, places: Int64[np.ndarray, " nnz"]) -> Rows:
    """One for each latent that fires."""
    first = np.arange(len(book.forest.parents) + 1) * np.int64(n_tokens)
    active = np.diff(np.searchsorted(places, first))
    fires = np.flatnonzero(active)
    return Rows(fires, active[fires])


def _by_depth(
    book: TreeCodebook, latent: Int32[np.ndarray, " nnz"]
) -> list[Int64[np.ndarray, " some_nnz"]]:
    """Nonzeros whose magnitudes no parent tells about; then the others, level by level."""
    told = book.magnitudes is not None and book.magnitudes.kind > 0
    depth = np.where(told, book.forest.level, 0)[latent]
    order = np.argsort(depth, kind="stable")
    ends = np.cumsum(np.bincount(depth, minlength=1))
    return np.split(order, ends[:-1])


def _states(
    forest: Forest,
    magnitudes: GradedMagnitudes,
    n_tokens: int,
    places: Int64[np.ndarray, " nnz"],
    coded: Int32[np.ndarray, " nnz"],
    which: Int64[np.ndarray, " some_nnz"],
) -> Int64[np.ndarray, " some_nnz"]:
    """The states of the parents of these nonzeros, whose symbols are among those coded."""
    latent, token = np.divmod(places[which], n_tokens)
    above = forest.parents[latent].astype(np.int64)
    wanted = above * n_tokens + token
    at = np.minimum(np.searchsorted(places, wanted), len(places) - 1)
    parent = np.where(places[at] == wanted, coded[at], np.int32(0))
    return magnitudes.states(latent, parent, above)


def _grouped(
    key: Int64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " key"], Int64[np.ndarray, " n"], Int64[np.ndarray, " key"]]:
    """Distinct keys, increasing; an order that brings equal ones together; how many of each."""
    order = np.argsort(key, kind="stable")
    keys, counts = np.unique(key, return_counts=True)
    return keys, order, counts


def _code_rows(
    channel: Channel, book: TreeCodebook, rows: Rows, symbols: Int32[np.ndarray, " nnz_or_none"]
) -> Int32[np.ndarray, " nnz"]:
    """The symbols of rows, one row after another."""
    pooled = book.flat.pooled
    escape = len(pooled.alphabet)
    cell = channel.given(int(rows.active.sum()), lambda: _cells(pooled, symbols)).astype(np.int32)
    if escape:
        _code_cells(channel, book, rows, cell)
    coded = np.append(pooled.alphabet, np.int32(0))[cell]
    novel = np.flatnonzero(cell == escape)
    tails = channel.given(len(novel), lambda: symbols[novel].astype(np.int64))
    coded[novel] = code_integers(channel, tails, pooled.signed)
    return coded


def _code_cells(
    channel: Channel, book: TreeCodebook, rows: Rows, cell: Int32[np.ndarray, " nnz"]
) -> None:
    """Code the cells in place, a model per row."""
    n_symbols = len(book.flat.pooled.alphabet)
    channel.tabulate(len(rows.latent) * (n_symbols + 1))
    batch = max(1, TABLE_CELLS // n_symbols)
    stop = 0
    for first in range(0, len(rows.latent), batch):
        block = rows[first : first + batch]
        for mass, n in zip(_row_masses(book, block), block.active.tolist(), strict=True):
            start, stop = stop, stop + n
            cell[start:stop] = channel.code(categorical(mass), cell[start:stop])


def _row_masses(book: TreeCodebook, rows: Rows) -> Float64[np.ndarray, "row value_and_escape"]:
    """`_masses` of the rows' latents, each symbol's times P/Q of its grade in the row's state."""
    masses = _masses(book.flat, rows.latent)
    if rows.state is None or book.magnitudes is None:
        return masses
    latent = rows.latent[:, None]
    grade = book.magnitudes.grades.at(latent, book.flat.pooled.alphabet[None])
    masses[:, :-1] *= np.exp2(book.magnitudes.saved[rows.state[:, None] * N_GRADES + grade, latent])
    return masses


def _masses(
    codebook: Codebook, latents: Int64[np.ndarray, " latent"]
) -> Float64[np.ndarray, "latent value_and_escape"]:
    """q_i(v | on) up to its denominator, n_i(v) + s·g(v), of every pooled symbol and the escape."""
    pooled, counts = codebook.pooled, codebook.counts
    base = codebook.strength * np.append(pooled.probability, pooled.escape)
    masses = np.repeat(base[None], len(latents), axis=0)
    begin, end = np.searchsorted(counts.latent, [latents, latents + 1])
    row = np.repeat(np.arange(len(latents)), end - begin)
    pair = np.repeat(begin, end - begin) + within(end - begin)
    # not divided by their sum: the coder itself scales weights to integers of 24 bits
    masses[row, np.searchsorted(pooled.alphabet, counts.symbol[pair])] += counts.count[pair]
    return masses


def _cells(pooled: PooledMagnitudes, symbols: Int32[np.ndarray, " nnz"]) -> np.ndarray:
    """Each symbol's place in the pooled alphabet, or the escape after it."""
    cell = np.searchsorted(pooled.alphabet, symbols)
    return np.where(pooled.of(symbols) > 0, cell, len(pooled.alphabet)).astype(np.int64)


def code_integers(
    channel: Channel, integers: Int64[np.ndarray, " n"], signed: bool
) -> Int64[np.ndarray, " n"]:
    """Nonzero integers in Exp-Golomb bits, 2⌊log₂|x|⌋ + 1, and a sign bit where there are signs."""
    size = np.abs(integers)
    fair = uniform(2)

    def bits(values: np.ndarray) -> np.ndarray:
        return channel.code(fair, values.astype(np.int32))

    exponent = np.zeros(len(size), dtype=np.int64)
    longer = np.arange(len(size))
    # bit by bit over all integers, rather than integer by integer: one call of the coder for a
    # plane. The bound ends a corrupt stream of ones, which would grow for ever.
    while len(longer) and exponent.max() < LARGEST_EXPONENT:
        longer = longer[bits(size[longer] >> exponent[longer] > 1) == 1]
        exponent[longer] += 1
    coded = np.ones(len(size), dtype=np.int64)
    for bit in range(int(exponent.max(initial=0)) - 1, -1, -1):
        wide = np.flatnonzero(exponent > bit)
        coded[wide] = 2 * coded[wide] + bits(size[wide] >> bit & 1)
    negative = bits(integers < 0) if signed else np.zeros(len(size), dtype=np.int32)
    return np.where(negative == 1, -coded, coded)
