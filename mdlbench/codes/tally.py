"""Counts of symbols per latent, for all dyadic steps from one pass, merged exactly (maths §4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from operator import add
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import HALF_STEP_LIMIT, Symbols, half_steps, symbol_at
from mdlbench.errors import CoderError, UsageError

MAX_OCTAVES = 16
MAX_TOKENS = 2**31 - 1
BLOCK_TOKENS = 8192
FOLD_AT = 2**19
"""Pairs kept waiting before they are folded into the counts."""
DENSE_CELLS = 2**24
"""A latent × half-step table of at most this many cells is counted in place."""
CELLS_PER_PAIR = 8
"""A run too short to be folded has a table of at most this many cells for each of its pairs."""

_PAIR_BITS = 31

Pairs = tuple[Int32[np.ndarray, " _"], Int32[np.ndarray, " _"]]
KeyCounts = tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]
Counts = tuple[Int32[np.ndarray, " _"], Int32[np.ndarray, " _"], Int64[np.ndarray, " _"]]


class Grid(NamedTuple):
    """The steps finest · 2^j for j < octaves."""

    finest: float
    octaves: int


class PooledCounts(NamedTuple):
    """Symbols without regard to their latent.

    Attributes:
        alphabet: the distinct symbols, increasing.
        total: occurrences of each over all latents.
        position: where each (latent, symbol) pair's symbol stands in the alphabet.
    """

    alphabet: Int32[np.ndarray, " value"]
    total: Int64[np.ndarray, " value"]
    position: Int32[np.ndarray, " pair"]


@dataclass(frozen=True, eq=False)
class SymbolCounts:
    """How often each latent took each nonzero symbol over `n_tokens` tokens.

    Attributes:
        latent, symbol: the distinct pairs, sorted by latent, then by symbol.
        count: tokens on which the pair occurred, at least 1.
        n_tokens: N.
        n_latents: dictionary size D.
    """

    latent: Int32[np.ndarray, " pair"]
    symbol: Int32[np.ndarray, " pair"]
    count: Int64[np.ndarray, " pair"]
    n_tokens: int
    n_latents: int

    @classmethod
    def of(cls, symbols: Symbols) -> SymbolCounts:
        """Counts of one run."""
        return cls.of_runs([symbols], symbols.n_latents)

    @classmethod
    def of_runs(cls, runs: Iterable[Symbols], n_latents: int) -> SymbolCounts:
        """Counts of many runs of one dictionary, each forgotten once counted."""
        pairs, n_tokens = _PairCounter(n_latents), 0
        for symbols in runs:
            _same("latents", n_latents, symbols.n_latents)
            pairs.add(symbols.latent, symbols.symbol)
            n_tokens += symbols.n_tokens
        return cls(*pairs.result(), n_tokens, n_latents)

    @cached_property
    def active(self) -> Int64[np.ndarray, " latent"]:
        """k_i, the tokens on which each latent is on."""
        active = np.bincount(self.latent, weights=self.count, minlength=self.n_latents)
        return active.astype(np.int64)

    @cached_property
    def pooled(self) -> PooledCounts:
        """The distinct symbols over all latents together."""
        alphabet, position = _distinct(self.symbol)
        total = np.bincount(position, weights=self.count, minlength=len(alphabet))
        return PooledCounts(alphabet, total.astype(np.int64), position)

    @property
    def l0(self) -> float:
        """Nonzero symbols per token; 0 for no tokens."""
        return float(self.count.sum()) / max(self.n_tokens, 1)

    def __add__(self, other: SymbolCounts) -> SymbolCounts:
        """Counts of both runs of tokens, exactly."""
        _same("latents", self.n_latents, other.n_latents)
        key, count = _merged((self._key, self.count), (other._key, other.count))
        latent, symbol = _pairs(key)
        return SymbolCounts(latent, symbol, count, self.n_tokens + other.n_tokens, self.n_latents)

    def lookup(
        self, latent: Int32[np.ndarray, " query"], symbol: Int32[np.ndarray, " query"]
    ) -> Int64[np.ndarray, " query"]:
        """The count of each (latent, symbol) asked for, 0 where it did not occur."""
        if len(self.count) == 0:
            return np.zeros(len(latent), dtype=np.int64)
        key = _pair_key(latent, symbol)
        at = np.minimum(np.searchsorted(self._key, key), len(self.count) - 1)
        return np.where(self._key[at] == key, self.count[at], 0)

    @cached_property
    def _key(self) -> Int64[np.ndarray, " pair"]:
        return _pair_key(self.latent, self.symbol)


@dataclass(frozen=True, eq=False)
class Tally:
    """Distinct (latent, half-step) pairs and active latents per token, for all dyadic steps.

    Memory grows with distinct pairs, not with tokens. `a + b` is exact in any order and grouping.

    Attributes:
        latent, half_step: the distinct pairs, sorted; half-steps of the finest step, never zero.
        occurrences: tokens on which the pair occurred, at least 1.
        active_histogram: tokens by octave and by number of active latents.
        n_tokens: N.
        n_latents: dictionary size D.
    """

    latent: Int32[np.ndarray, " pair"]
    half_step: Int32[np.ndarray, " pair"]
    occurrences: Int64[np.ndarray, " pair"]
    active_histogram: Int64[np.ndarray, "octave active"]
    n_tokens: int
    n_latents: int

    @classmethod
    def empty(cls, n_latents: int, octaves: int) -> Tally:
        """The tally of no tokens."""
        return cls.count_blocks([], 1.0, octaves, n_latents)

    @classmethod
    def count(cls, latents: SparseLatents, finest: float, octaves: int) -> Tally:
        """The tally of one run at steps finest · 2^j, j < octaves; latents already scaled.

        Raises:
            CoderError: a value is not finite, or too large for the finest step.
        """
        return cls.count_blocks([latents], finest, octaves, latents.n_latents)

    @classmethod
    def count_blocks(
        cls, blocks: Iterable[SparseLatents], finest: float, octaves: int, n_latents: int
    ) -> Tally:
        """The tally of many runs, each forgotten once counted. The fastest way to a whole split.

        Raises:
            CoderError: a value is not finite or too large, the dictionaries differ, or there are
                2^31 tokens or more, which have to be counted in parts.
        """
        counter = _Counter(Grid(finest, octaves), n_latents)
        for block in blocks:
            counter.add(block)
        return counter.tally()

    @classmethod
    def of_runs(
        cls, runs: Runs[SparseLatents], finest: float, octaves: int, n_latents: int
    ) -> Tally:
        """Counts of a whole split."""
        return cls.of_grids(runs, [Grid(finest, octaves)], n_latents)[0]

    @classmethod
    def of_grids(
        cls, runs: Runs[SparseLatents], grids: Sequence[Grid], n_latents: int
    ) -> list[Tally]:
        """Counts of a whole split at the steps of each grid, from one pass; raises as one does."""
        parts = runs.map(partial(_tallied, grids, n_latents))
        return [reduce(add, tallies) for tallies in zip(*parts, strict=True)]

    @property
    def octaves(self) -> int:
        return len(self.active_histogram)

    def __add__(self, other: Tally) -> Tally:
        """The tally of both runs of tokens, exactly; both counted at the same finest step."""
        _same("latents", self.n_latents, other.n_latents)
        _same("octaves", self.octaves, other.octaves)
        key, count = _merged(
            (_pair_key(self.latent, self.half_step), self.occurrences),
            (_pair_key(other.latent, other.half_step), other.occurrences),
        )
        latent, half_step = _pairs(key)
        return Tally(
            latent,
            half_step,
            count,
            padded_sum(self.active_histogram, other.active_histogram),
            self.n_tokens + other.n_tokens,
            self.n_latents,
        )

    def at(self, octave: int) -> SymbolCounts:
        """Symbol counts at step 2^octave · finest."""
        symbol = symbol_at(self.half_step, octave)
        latent, symbol, count = _joined(self.latent, symbol, self.occurrences)
        if not symbol.all():
            on = symbol != 0
            latent, symbol, count = latent[on], symbol[on], count[on]
        return SymbolCounts(latent, symbol, count, self.n_tokens, self.n_latents)

    def active_per_token(self, octave: int) -> Int64[np.ndarray, " active"]:
        """Tokens by number of active latents k_t at step 2^octave · finest."""
        histogram: Int64[np.ndarray, " active"] = self.active_histogram[octave]
        return histogram


def _tallied(grids: Sequence[Grid], n_latents: int, part: Part[SparseLatents]) -> list[Tally]:
    counters = [_Counter(grid, n_latents) for grid in grids]
    for run in part:
        for counter in counters:
            counter.add(run)
    return [counter.tally() for counter in counters]


class _Counter:
    """Counts runs into a tally, each forgotten once counted."""

    def __init__(self, grid: Grid, n_latents: int) -> None:
        if not 1 <= grid.octaves <= MAX_OCTAVES:
            raise UsageError(f"octaves must be from 1 to {MAX_OCTAVES}, not {grid.octaves}")
        self._grid, self._n_latents = grid, n_latents
        self._pairs = _PairCounter(n_latents)
        self._histogram = np.zeros((grid.octaves, 1), dtype=np.int64)
        self._n_tokens = 0

    def add(self, latents: SparseLatents) -> None:
        _same("latents", self._n_latents, latents.n_latents)
        self._n_tokens += latents.n_tokens
        if self._n_tokens > MAX_TOKENS:
            raise CoderError(f"count at most {MAX_TOKENS:,} tokens at once, and add the tallies")
        for run in _short_runs(latents):
            c = half_steps(run.value, self._grid.finest)
            self._pairs.add(run.latent, c)
            active = _active_histogram(run, c, self._grid.octaves)
            self._histogram = padded_sum(self._histogram, active)

    def tally(self) -> Tally:
        pairs = self._pairs.result()
        return Tally(*pairs, self._histogram, self._n_tokens, self._n_latents)


class _PairCounter:
    """Counts (latent, value) pairs: usual values in a dense table, the others by sorting."""

    def __init__(self, n_latents: int) -> None:
        self._n_latents = n_latents
        self._waiting: list[Pairs] = []
        self._n_waiting = 0
        self._table: _DenseTable | None = None
        self._others: KeyCounts = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    def add(self, latent: Int32[np.ndarray, " nnz"], value: Int32[np.ndarray, " nnz"]) -> None:
        on = value != 0
        self._waiting.append((latent, value) if on.all() else (latent[on], value[on]))
        self._n_waiting += int(np.count_nonzero(on))
        if self._n_waiting >= FOLD_AT:
            self._fold(DENSE_CELLS)

    def result(self) -> Counts:
        """The distinct pairs, sorted, and their counts."""
        self._fold(min(DENSE_CELLS, CELLS_PER_PAIR * self._n_waiting))
        others = (*_pairs(self._others[0]), self._others[1])
        return others if self._table is None else self._table.with_others(others)

    def _fold(self, max_cells: int) -> None:
        if not self._n_waiting:
            return
        latent, value = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        self._waiting, self._n_waiting = [], 0
        if self._table is None:
            self._table = _DenseTable(self._n_latents, value, max_cells)
        latent, value = self._table.count(latent, value)
        if len(latent):
            key, count = np.unique(_pair_key(latent, value), return_counts=True)
            self._others = _merged(self._others, (key, count.astype(np.int64, copy=False)))


class _DenseTable:
    """Counts of every latent's values from `low` on, `width` of them.

    It covers 5/4 of the range of all but a thousandth of `sample`, as far as `max_cells` permit.
    """

    def __init__(self, n_latents: int, sample: Int32[np.ndarray, " nnz"], max_cells: int) -> None:
        signs = 2 if sample.min() < 0 else 1
        wanted = 5 * int(np.quantile(np.abs(sample), 0.999, method="lower")) // 4
        reach = max(min(wanted, (max_cells // n_latents - 1) // signs), 0)
        self._low = -reach if signs == 2 else 0
        self._width = signs * reach + 1
        self._cells = np.zeros(n_latents * self._width, dtype=np.int32)

    def count(self, latent: Int32[np.ndarray, " nnz"], value: Int32[np.ndarray, " nnz"]) -> Pairs:
        """Count what the table covers; return the rest."""
        column = value - np.int32(self._low)
        usual = (column >= 0) & (column < self._width)
        rest = (latent[~usual], value[~usual])
        if len(rest[0]):
            latent, column = latent[usual], column[usual]
        cell = latent.astype(np.int64)
        cell *= self._width
        cell += column
        np.add.at(self._cells, cell, np.int32(1))
        return rest

    def with_others(self, others: Counts) -> Counts:
        """The pairs counted here and those that the table does not cover, sorted."""
        cell = np.flatnonzero(self._cells != 0)
        latent, column = np.divmod(cell.astype(np.int32), np.int32(self._width))
        covered: Counts = (latent, column + np.int32(self._low), self._cells[cell].astype(np.int64))
        if len(others[0]) == 0:
            return covered
        first_above = (others[0] + (others[1] > 0)) * np.int64(self._width)
        at = np.searchsorted(cell, first_above)
        latent, value, count = (np.insert(a, at, b) for a, b in zip(covered, others, strict=True))
        return latent, value, count


def _short_runs(latents: SparseLatents) -> Iterator[SparseLatents]:
    for start in range(0, latents.n_tokens, BLOCK_TOKENS):
        yield latents.rows(start, min(start + BLOCK_TOKENS, latents.n_tokens))


def _active_histogram(
    latents: SparseLatents, half_step: Int32[np.ndarray, " nnz"], octaves: int
) -> Int64[np.ndarray, "octave active"]:
    """Tokens by octave and number of active latents; |c| ≥ 2^j is what octave j sees."""
    octaves_on = np.repeat(
        np.arange(octaves + 1, dtype=np.uint8), [1, *(1 << j for j in range(octaves - 1)), 1]
    )
    level = octaves_on[np.minimum(np.abs(half_step), len(octaves_on) - 1)]
    cell = latents.token.astype(np.int64) * (octaves + 1) + level
    by_level = np.bincount(cell, minlength=latents.n_tokens * (octaves + 1))
    by_level = by_level.reshape(latents.n_tokens, octaves + 1)
    active = np.cumsum(by_level[:, :0:-1], axis=1)[:, ::-1]
    width = int(active.max(initial=0)) + 1
    cell = active + width * np.arange(octaves)
    return np.bincount(cell.ravel(), minlength=octaves * width).reshape(octaves, width)


def padded_sum(
    a: Int64[np.ndarray, "*shape m"], b: Int64[np.ndarray, "*shape n"]
) -> Int64[np.ndarray, "*shape k"]:
    """The sum of two arrays whose last axes are as long as they had to be."""
    total = np.zeros((*a.shape[:-1], max(a.shape[-1], b.shape[-1])), dtype=np.int64)
    total[..., : a.shape[-1]] += a
    total[..., : b.shape[-1]] += b
    return total


def _pair_key(
    latent: Int32[np.ndarray, " n"], value: Int32[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """One integer that sorts like (latent, value)."""
    return (latent.astype(np.int64) << _PAIR_BITS) + (value + np.int64(HALF_STEP_LIMIT))


def _pairs(key: Int64[np.ndarray, " n"]) -> Pairs:
    value = (key & ((1 << _PAIR_BITS) - 1)) - HALF_STEP_LIMIT
    return (key >> _PAIR_BITS).astype(np.int32), value.astype(np.int32)


def _distinct(
    value: Int32[np.ndarray, " n"],
) -> tuple[Int32[np.ndarray, " m"], Int32[np.ndarray, " n"]]:
    """Distinct values, increasing, and the position of each value among them."""
    low, high = int(value.min(initial=0)), int(value.max(initial=0))
    if high - low > len(value) + 2**16:
        distinct, position = np.unique(value, return_inverse=True)
        return distinct, position.astype(np.int32)
    shifted = value - np.int32(low)
    present = np.zeros(high - low + 1, dtype=bool)
    present[shifted] = True
    distinct = (np.flatnonzero(present) + low).astype(np.int32)
    return distinct, (np.cumsum(present, dtype=np.int32) - np.int32(1))[shifted]


def _joined(
    latent: Int32[np.ndarray, " n"], value: Int32[np.ndarray, " n"], count: Int64[np.ndarray, " n"]
) -> Counts:
    """Sorted pairs with counts, equal neighbours made one."""
    if len(latent) == 0:
        return latent, value, count
    last = np.ones(len(latent), dtype=bool)
    np.not_equal(value[1:], value[:-1], out=last[:-1])
    last[:-1] |= latent[1:] != latent[:-1]
    end = np.flatnonzero(last)
    return latent[end], value[end], np.diff(np.cumsum(count)[end], prepend=0)


def _merged(a: KeyCounts, b: KeyCounts) -> KeyCounts:
    """Two sorted lists of keys with counts as one."""
    key, count = np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])
    if len(key) == 0:
        return key, count
    order = np.argsort(key, kind="stable")
    key, count = key[order], count[order]
    start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    return key[start], np.add.reduceat(count, start)


def _same(what: str, a: int, b: int) -> None:
    if a != b:
        raise CoderError(f"cannot count together: {what} differ ({a} and {b})")
