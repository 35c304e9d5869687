"""Magnitudes of a child, given how large its parent's symbol is (maths §3).

A symbol's *grade* says in which quarter of its latent's nonzero calibration symbols, by magnitude,
it is; the flat codebook tells it. What is told apart of the parent's grade is an edge's *kind*. A
child's symbol costs what it does by the flat code, except that its grade has the probability that
it has in the parent's state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from mdlbench.codes.codelength import STRENGTH_BOUNDS, Codebook, xlog2x
from mdlbench.codes.forest import NOWHERE, Forest, choice_bits
from mdlbench.codes.symbols import Symbols

N_GRADES = 4
"""Quarters of a latent's nonzeros; where symbols are few, some are empty."""

N_STATES = 1 + N_GRADES
"""The parent is off, or on with a symbol of each grade."""

ESCAPED = N_STATES * N_GRADES
"""The cell of a symbol that calibration never showed: its escape costs what it does anyway."""

N_CELLS = ESCAPED + 1
"""Pairs of the parent's state and the child's grade, cell = state · 4 + grade; and the last one."""

MOST_LATENTS = 1 << 19
"""Latents of a code whose magnitudes may tell their parents' grades; each takes a reader 2 kB."""

CHOICES = 2
"""Times that kinds are chosen; the second time with the strengths of those that chose them."""

Cells = Int64[np.ndarray, "cell latent"]


class Kind(IntEnum):
    """What an edge tells apart of its parent's symbol."""

    NOTHING = 0
    """Magnitudes are those of the flat code."""
    ON = 1
    """The parent off or on."""
    HALVES = 2
    """Off, of the lower two grades, or of the upper two."""
    QUARTERS = 3
    """Off, or of each grade."""


STATES = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 3, 3], [0, 1, 2, 3, 4]])
"""By kind, the state that each of the finest ones belongs to, named by the first of them."""

KIND_BITS = 2
"""Bits that name an edge's kind."""


@dataclass(frozen=True, eq=False)
class Grades:
    """The grades of latents' symbols.

    Attributes:
        flat: the codebook that tells them.
        limits: the largest |v| of each latent's lower three grades.
    """

    flat: Codebook
    limits: Int64[np.ndarray, "limit latent"]

    @classmethod
    def of(cls, flat: Codebook) -> Grades:
        """As near to quarters of the nonzeros calibrated on as whole symbols can be."""
        counts, size = flat.counts, np.abs(flat.counts.symbol).astype(np.int64)
        order = np.lexsort((size, counts.latent))
        size, latent = size[order], counts.latent[order]
        ends = (np.diff(latent, append=-1) != 0) | (np.diff(size, append=-1) != 0)
        size, latent = size[ends], latent[ends]
        total = N_GRADES * np.append(0, np.cumsum(counts.count[order])[ends])
        fires = np.flatnonzero(counts.active)
        before = N_GRADES * (np.cumsum(counts.active) - counts.active)[fires]
        limits = np.zeros((N_GRADES - 1, counts.n_latents), dtype=np.int64)
        for i in range(N_GRADES - 1):
            wanted = before + (i + 1) * counts.active[fires]
            at = np.searchsorted(total, wanted)
            at -= wanted - total[at - 1] <= total[at] - wanted
            # before the first symbol of a latent, its limit is 0
            own = (at > 0) & (latent[at - 1] == fires)
            limits[i, fires] = np.where(own, size[at - 1], 0)
        return cls(flat, limits)

    def at(
        self, latent: Int[np.ndarray, "*#shape"], symbol: Int32[np.ndarray, "*#shape"]
    ) -> Int64[np.ndarray, "*shape"]:
        """The grade of each nonzero symbol, 0 to 3."""
        size = np.abs(symbol)
        grade = np.zeros(np.broadcast_shapes(size.shape, latent.shape), dtype=np.int64)
        for limit in self.limits:
            grade += size > limit[latent]
        return grade

    def cells(
        self, symbols: Symbols, parent_at: Int64[np.ndarray, " nnz"]
    ) -> Int64[np.ndarray, " nnz"]:
        """The cell of each nonzero; `parent_at` is that of `Forest`. Roots' parents are off."""
        grade = self.at(symbols.latent, symbols.symbol)
        state = np.where(parent_at == NOWHERE, 0, grade[parent_at] + 1)
        cell = state * N_GRADES + grade
        return np.where(self.flat.pooled.of(symbols.symbol) > 0, cell, ESCAPED)

    @cached_property
    def counts(self) -> Int64[np.ndarray, "grade latent"]:
        """Calibration nonzeros of each grade."""
        counts = self.flat.counts
        cell = self.at(counts.latent, counts.symbol) * counts.n_latents + counts.latent
        shape = N_GRADES, counts.n_latents
        found = np.bincount(cell, weights=counts.count, minlength=math.prod(shape))
        return found.astype(np.int64).reshape(shape)

    @cached_property
    def shares(self) -> Float64[np.ndarray, "grade latent"]:
        """Q, the probability of each grade by the flat code, of symbols that need no escape."""
        pooled, counts = self.flat.pooled, self.flat.counts
        size = np.abs(pooled.alphabet)
        order = np.argsort(size, kind="stable")
        below = np.append(0.0, np.cumsum(pooled.probability[order]))
        within = below[np.searchsorted(size[order], self.limits, side="right")]
        within = np.concatenate([within, np.full((1, counts.n_latents), below[-1])])
        base = np.diff(within, axis=0, prepend=0.0)
        mass = self.counts + self.flat.strength * base
        shares: Float64[np.ndarray, "grade latent"] = mass / np.maximum(mass.sum(axis=0), 1e-300)
        return shares


def count_cells(
    latent: Int32[np.ndarray, " nnz"], cell: Int64[np.ndarray, " nnz"], n_latents: int
) -> Cells:
    """Nonzeros of each latent in each cell; those of parts of a split add up to its own."""
    at = cell * n_latents + latent
    return np.bincount(at, minlength=N_CELLS * n_latents).reshape(N_CELLS, n_latents)


@dataclass(frozen=True, eq=False)
class GradedMagnitudes:
    """Magnitudes given the parent's state, of edges where that pays.

    In state m, which calibration showed k_m times, a child's symbol is of grade b with
    P = (n_mb + s·Q_b)/(k_m + s), unless it is escaped, and then any symbol of that grade as by the
    flat code.

    Attributes:
        grades: of all latents.
        kind: of the edge above each latent.
        cells: calibration nonzeros in the states told apart; 0 where that is nothing.
        strengths: s of each kind; that of `Kind.NOTHING` is not used.
        saved: log₂ P/Q by finest cell, what a nonzero costs less than by the flat code.
    """

    grades: Grades
    kind: Int[np.ndarray, " latent"]
    cells: Cells
    strengths: Float64[np.ndarray, " kind"]
    saved: Float64[np.ndarray, "cell latent"]

    @classmethod
    def fit(cls, flat: Codebook, forest: Forest, cells: Cells) -> GradedMagnitudes | None:
        """Each edge's kind is that which saves most, less the bits of its counts.

        None where all together do not save what naming the kinds costs. `cells` are those of the
        calibration tokens, by finest state.
        """
        grades, strengths = Grades.of(flat), np.ones(len(Kind))
        of_kind = [np.where(forest.is_child, int(kind), 0) for kind in Kind]
        chosen = of_kind
        for _ in range(CHOICES):
            for kind in list(Kind)[1:]:
                under = np.flatnonzero(chosen[kind] == kind)
                if len(under):
                    states = _merged(cells[:, under], kind)
                    strengths[kind] = best_strength(states, grades.shares[:, under])
            books = [cls.build(grades, kinds, cells, strengths) for kinds in of_kind]
            best = np.argmax([book.gained_bits for book in books], axis=0)
            chosen = [best for _ in Kind]
        book = cls.build(grades, best, cells, strengths)
        return book if book.gained_bits.sum() > book.kind_bits(forest) else None

    @classmethod
    def build(
        cls,
        grades: Grades,
        kind: Int[np.ndarray, " latent"],
        cells: Cells,
        strengths: Float64[np.ndarray, " kind"],
    ) -> GradedMagnitudes:
        """The magnitudes of given kinds and strengths, as a decoder rebuilds them."""
        states = np.zeros((N_STATES, N_GRADES, len(kind)), dtype=np.int64)
        saved, shares = np.zeros(states.shape), grades.shares
        for each in list(Kind)[1:]:
            under = np.flatnonzero(kind == each)
            merged, own = _merged(cells[:, under], each), strengths[each] * shares[:, under]
            total = merged.sum(axis=1, keepdims=True) + strengths[each]
            ratio = (merged + own) / (total * np.where(own > 0, shares[:, under], 1.0))
            states[:, :, under] = merged
            bits = np.log2(ratio, where=own > 0, out=np.zeros(ratio.shape))
            saved[:, :, under] = bits[STATES[each]]
        return cls(grades, kind, _flattened(states), strengths, _flattened(saved))

    def kind_bits(self, forest: Forest) -> float:
        """Bits that name the kinds of a forest's edges."""
        return float(KIND_BITS * forest.n_edges)

    def states(
        self,
        latent: Int[np.ndarray, " n"],
        parent: Int32[np.ndarray, " n"],
        above: Int[np.ndarray, " n"],
    ) -> Int64[np.ndarray, " n"]:
        """What is told apart of parents' symbols: of `above`, 0 where they are off."""
        finest = np.where(parent == 0, 0, self.grades.at(above, parent) + 1)
        states: Int64[np.ndarray, " n"] = STATES[self.kind[latent], finest]
        return states

    @cached_property
    def choice_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits of the counts of each edge, once those of the flat code and k_pc are known."""
        states = _by_state(self.cells)
        off, left = states[0], states[1:].sum(axis=0)
        bits = _split_bits(left, off + left)
        bits[self.kind == Kind.NOTHING] = 0.0
        for kind in (Kind.HALVES, Kind.QUARTERS):
            under = self.kind == kind
            rest = left[:, under]
            for state in np.unique(STATES[kind])[1:-1]:
                bits[under] += np.log2(rest + 1).sum(axis=0)
                rest = rest - states[state][:, under]
        return bits

    @cached_property
    def gained_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits by which each latent costs all calibration tokens less, its counts included."""
        gained: Float64[np.ndarray, " latent"] = self.saved_bits(self.cells) - self.choice_bits
        return gained

    def saved_bits(self, cells: Cells) -> Float64[np.ndarray, " latent"]:
        """Bits by which these nonzeros of each latent cost less than by the flat code."""
        saved: Float64[np.ndarray, " latent"] = (cells * self.saved).sum(axis=0)
        return saved

    def told_bits(self, cells: Cells) -> float:
        """Bits that nonzeros' own frequencies save: of grades, given the states told apart."""
        bits = 0.0
        for kind in list(Kind)[1:]:
            states = _merged(cells[:, self.kind == kind], kind)
            alone = xlog2x(states.sum(axis=(0, 1))) - xlog2x(states.sum(axis=0)).sum(axis=0)
            within = xlog2x(states.sum(axis=1)) - xlog2x(states).sum(axis=1)
            bits += float(alone.sum() - within.sum())
        return bits


def best_strength(
    states: Int64[np.ndarray, "state grade child"], shares: Float64[np.ndarray, "grade child"]
) -> float:
    """s of greatest Dirichlet-multinomial marginal likelihood of children's grades (maths §3)."""
    met = states.sum(axis=1)
    n, share = states[states > 0], np.broadcast_to(shares, states.shape)[states > 0]
    k = met[met > 0]
    if len(k) == 0:
        return 1.0

    def loss(log_s: float) -> float:
        s = np.exp(log_s)
        nats = (gammaln(n + s * share) - gammaln(s * share)).sum()
        return -float(nats + (gammaln(s) - gammaln(k + s)).sum())

    found = minimize_scalar(loss, bounds=STRENGTH_BOUNDS, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def _merged(cells: Cells, kind: Kind) -> Int64[np.ndarray, "state grade latent"]:
    """Counts of the finest states, added up where the kind does not tell them apart."""
    finest = _by_state(cells)
    merged = np.zeros_like(finest)
    for state, named in enumerate(STATES[kind]):
        merged[named] += finest[state]
    return merged


def _by_state(cells: Cells) -> Int64[np.ndarray, "state grade latent"]:
    return cells[:ESCAPED].reshape(N_STATES, N_GRADES, cells.shape[1])


def _flattened(states: np.ndarray) -> np.ndarray:
    """One row for each cell, and one of zeros for what is escaped."""
    rows = states.reshape(ESCAPED, states.shape[-1])
    return np.concatenate([rows, np.zeros_like(rows[:1])])


def _split_bits(
    taken: Int64[np.ndarray, "grade latent"], whole: Int64[np.ndarray, "grade latent"]
) -> Float64[np.ndarray, " latent"]:
    """Bits that tell, grade by grade, how many of `whole` are taken, once their sum is known."""
    bits = np.zeros(taken.shape[1])
    remaining, behind = taken.sum(axis=0), whole.sum(axis=0)
    for some, here in zip(taken, whole, strict=True):
        bits += choice_bits(remaining, here, behind)
        remaining, behind = remaining - some, behind - here
    return bits
