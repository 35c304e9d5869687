"""Forests of latents: which latent is whose parent, given by an SAE or learned (maths §3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from mdlbench.codes.codelength import xlog2x
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.errors import CoderError

ROOT = -1
"""The parent of a latent that has none."""

NOWHERE = -1
"""Where a parent that is off stands among the nonzeros."""

PLACES_PER_NONZERO = 64
"""Places of a run for each nonzero, at most, for them to be looked up in a table of all."""

TABLE_CELLS = 2**22
"""Pairs of latents counted at once while a forest is learned; bounds its memory."""

DENSE = 1 / 16
"""From this share of nonzeros on, pairs are counted by a product of matrices, which is faster then
(`benchmarks/forests.py`)."""


@dataclass(frozen=True, eq=False)
class Forest:
    """At most one parent for each latent, without cycles. Make one by `from_parents`.

    Attributes:
        parents: index of each latent's parent, −1 for a root.
        level: edges between each latent and its root.
    """

    parents: Int32[np.ndarray, " latent"]
    level: Int32[np.ndarray, " latent"]

    @classmethod
    def from_parents(cls, parents: np.ndarray) -> Forest:
        """The forest with these parents, one integer for each latent.

        Raises:
            CoderError: parents are not integers, one is out of range, or latents descend from
                themselves; the message names some.
        """
        parents = np.asarray(parents)
        if parents.ndim != 1 or not np.issubdtype(parents.dtype, np.integer):
            raise CoderError("parents: expected one integer for each latent")
        outside = np.flatnonzero((parents < ROOT) | (parents >= len(parents)))
        if len(outside):
            raise CoderError(
                f"parents: latent {outside[0]} has parent {parents[outside[0]]}; parents are from "
                f"0 to {len(parents) - 1}, or {ROOT} for a root"
            )
        return cls(parents.astype(np.int32), _levels(parents))

    @classmethod
    def of_roots(cls, n_latents: int) -> Forest:
        """The forest without an edge."""
        return cls(np.full(n_latents, ROOT, dtype=np.int32), np.zeros(n_latents, dtype=np.int32))

    @cached_property
    def is_child(self) -> Bool[np.ndarray, " latent"]:
        child: Bool[np.ndarray, " latent"] = self.parents != ROOT
        return child

    @property
    def n_edges(self) -> int:
        return int(self.is_child.sum())

    @property
    def header_bits(self) -> float:
        """D·log₂(D + 1), to name each latent's parent; 0 for a forest without edges."""
        n_latents = len(self.parents)
        return n_latents * math.log2(n_latents + 1) if self.n_edges else 0.0

    @cached_property
    def levels(self) -> list[Int64[np.ndarray, " some_latent"]]:
        """The latents of each level, increasing, from the roots down; at least one level."""
        order = np.argsort(self.level, kind="stable")
        ends = np.cumsum(np.bincount(self.level, minlength=1))
        return np.split(order, ends[:-1])

    def only(self, kept: Bool[np.ndarray, " latent"]) -> Forest:
        """The forest with the edges above the kept latents; the others become roots."""
        return Forest.from_parents(np.where(kept, self.parents, np.int32(ROOT)))

    def parent_on(self, symbols: Symbols) -> Bool[np.ndarray, " nnz"]:
        """Whether the parent of each nonzero's latent is on at the same token; no root's is."""
        on: Bool[np.ndarray, " nnz"] = self.parent_at(symbols) != NOWHERE
        return on

    def parent_at(self, symbols: Symbols) -> Int64[np.ndarray, " nnz"]:
        """Which nonzero is that of the parent at the same token; −1 where the parent is off."""
        _check_width(symbols.n_latents, len(self.parents))
        place = np.full(symbols.nnz, NOWHERE, dtype=np.int64)
        child = np.flatnonzero(self.is_child[symbols.latent])
        first = symbols.token * np.int64(symbols.n_latents)
        present = first + symbols.latent
        wanted = first[child] + self.parents[symbols.latent[child]]
        place[child] = _positions(present, wanted, symbols.n_tokens * symbols.n_latents)
        return place

    def gated(self, latents: SparseLatents) -> SparseLatents:
        """The latents that are roots or whose parents, up to a root, are on at the same token."""
        place = latents.token.astype(np.int64) * latents.n_latents + latents.latent
        parent = self.parents[latents.latent]
        parent_place = place - latents.latent + parent
        kept = np.ones(latents.nnz, dtype=bool)
        for _ in self.levels[1:]:
            kept = (parent == ROOT) | np.isin(parent_place, place[kept])
        return SparseLatents(
            latents.token[kept],
            latents.latent[kept],
            latents.value[kept],
            latents.n_tokens,
            latents.n_latents,
        )

    def joint_counts(self, runs: Iterable[Symbols]) -> Int64[np.ndarray, " latent"]:
        """Tokens on which a latent and its parent are both on, 0 for roots.

        The counts of parts of a split add up to those of the split.
        """
        joint = np.zeros(len(self.parents), dtype=np.int64)
        for symbols in runs:
            latent = symbols.latent[self.parent_on(symbols)]
            joint += np.bincount(latent, minlength=len(joint))
        return joint


def _positions(
    present: Int64[np.ndarray, " present"], wanted: Int64[np.ndarray, " wanted"], n_places: int
) -> Int64[np.ndarray, " wanted"]:
    """Where each wanted place stands among the present ones, which are increasing; −1: nowhere."""
    if n_places <= PLACES_PER_NONZERO * len(present):
        table = np.full(n_places, NOWHERE, dtype=np.int64)
        table[present] = np.arange(len(present))
        found: Int64[np.ndarray, " wanted"] = table[wanted]
        return found
    at = np.minimum(np.searchsorted(present, wanted), len(present) - 1)
    return np.where(present[at] == wanted, at, NOWHERE)


def _levels(parents: Int[np.ndarray, " latent"]) -> Int32[np.ndarray, " latent"]:
    """Edges to the root, by pointer doubling, so that a long chain takes few steps."""
    beyond = len(parents)
    ancestor = np.append(np.where(parents == ROOT, beyond, parents), beyond).astype(np.int64)
    level = (ancestor != beyond).astype(np.int32)
    for _ in range(beyond.bit_length()):
        level += level[ancestor]
        ancestor = ancestor[ancestor]
    if (ancestor != beyond).any():
        raise CoderError(f"parents: {_cycle(parents, int(ancestor[ancestor != beyond][0]))}")
    levels: Int32[np.ndarray, " latent"] = level[:-1]
    return levels


def _cycle(parents: Int[np.ndarray, " latent"], member: int) -> str:
    """Says which latents descend from themselves."""
    cycle = [member]
    while (above := int(parents[cycle[-1]])) != member and len(cycle) < 6:
        cycle.append(above)
    if len(cycle) == 1:
        return f"latent {member} is its own parent"
    path = " → ".join(str(latent) for latent in [*cycle, above])
    return f"latents descend from themselves: {path}{'' if above == member else ' → …'}"


def _check_width(found: int, expected: int) -> None:
    if found != expected:
        raise CoderError(f"a forest of {expected} latents does not fit symbols of {found}")


def joint_count_bits(
    forest: Forest, active: Int64[np.ndarray, " latent"], n_tokens: int
) -> Float64[np.ndarray, " latent"]:
    """Bits that tell k_pc of each child once k_p and k_c are known: log₂ of the values it may have.

    It lies from max(0, k_p + k_c − N) to min(k_p, k_c). 0 for roots.
    """
    above = active[forest.parents]
    bits = choice_bits(above, active, n_tokens)
    bits[~forest.is_child] = 0.0
    return bits


def choice_bits(
    a: Int64[np.ndarray, "*shape"],
    b: Int64[np.ndarray, "*shape"],
    n: int | Int64[np.ndarray, "*shape"],
) -> Float64[np.ndarray, "*shape"]:
    """log₂ of the sizes that `a` and `b` of the same n things can have in common."""
    bits: Float64[np.ndarray, "*shape"] = np.log2(np.minimum(a, b) - np.maximum(a + b - n, 0) + 1)
    return bits


class _Edges(NamedTuple):
    """Pairs of latents, what coding one given the other saves in bits, and their joint count."""

    one: Int64[np.ndarray, " edge"]
    other: Int64[np.ndarray, " edge"]
    gain: Float64[np.ndarray, " edge"]
    joint: Int64[np.ndarray, " edge"]


class Learned(NamedTuple):
    """A learned forest, and its `joint_counts` of the tokens that it was learned from."""

    forest: Forest
    joint: Int64[np.ndarray, " latent"]


def learn_forest(runs: Runs[Symbols], counts: SymbolCounts) -> Learned:
    """The forest that saves most on calibration tokens, by their own frequencies (maths §3).

    An edge saves N times the mutual information of its two supports, whichever is the parent, so
    the best forest is a maximum spanning forest of the pairs that pay for themselves (Chow and
    Liu, 1968): those that save more than log₂(D + 1), the parent's name, and the bits of the joint
    count. Each tree is rooted at its most frequent latent.

    Exact, with bounded memory: pairs are counted some rows of latents at a time, one pass over the
    runs each, and an edge that is not in the spanning forest of some of the pairs is not in that of
    all. Pairs that never meet and were not expected to meet once are passed over.

    Args:
        runs: the calibration tokens; measured once per `TABLE_CELLS` pairs.
        counts: their symbol counts.
    """
    n_latents = counts.n_latents
    nothing = np.zeros(0, dtype=np.int64)
    forest = _Edges(nothing, nothing, np.zeros(0), nothing)
    for start, stop in _row_blocks(n_latents):
        tables = runs.map(partial(_co_occurrences, n_latents, start, stop))
        found = _paying_edges(sum(tables[1:], tables[0]), counts, start)
        both = _Edges(*(np.concatenate(pair) for pair in zip(forest, found, strict=True)))
        forest = _spanning_forest(both, n_latents)
    return _rooted(forest, counts.active)


def _row_blocks(n_latents: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < n_latents:
        stop = min(n_latents, start + max(1, TABLE_CELLS // (n_latents - start)))
        yield start, stop
        start = stop


def _co_occurrences(
    n_latents: int, start: int, stop: int, part: Part[Symbols]
) -> Int32[np.ndarray, "row latent"]:
    """Tokens on which latents `start:stop` are on together with each later latent.

    Latents, and columns, are numbered from `start`; only what is above the diagonal is a count.
    """
    table = np.zeros((stop - start, n_latents - start), dtype=np.int32)
    for symbols in part:
        _check_width(symbols.n_latents, n_latents)
        kept = symbols.latent >= start
        token, latent = symbols.token[kept], symbols.latent[kept] - np.int32(start)
        if len(token) < DENSE * symbols.n_tokens * table.shape[1]:
            add_pair_by_pair(table, token, latent)
        else:
            add_product(table, token, latent, symbols.n_tokens)
    return table


def add_pair_by_pair(
    table: Int32[np.ndarray, "row latent"],
    token: Int32[np.ndarray, " nnz"],
    latent: Int32[np.ndarray, " nnz"],
) -> None:
    """Add a run's pairs to a table that `_co_occurrences` describes."""
    n_rows, width = table.shape
    row = latent.astype(np.int64) * width
    one = np.flatnonzero(latent < n_rows)
    # a token's nonzeros lie together, their latents increasing: pairs that are so far apart
    for distance in range(1, len(token)):
        one = one[: np.searchsorted(one, len(token) - distance)]
        one = one[token[one] == token[one + distance]]
        if len(one) == 0:
            break
        np.add.at(table.reshape(-1), row[one] + latent[one + distance], np.int32(1))


def add_product(
    table: Int32[np.ndarray, "row latent"],
    token: Int32[np.ndarray, " nnz"],
    latent: Int32[np.ndarray, " nnz"],
    n_tokens: int,
) -> None:
    """The same, as sums of products of 0 and 1, which float32 holds exactly below 2²⁴ tokens.

    Beside the table it takes 4 / `DENSE` bytes for each nonzero, at most.
    """
    n_rows, width = table.shape
    on = np.zeros((n_tokens, width), dtype=np.float32)
    on[token, latent] = 1
    table += (on[:, :n_rows].T @ on).astype(np.int32)


def _paying_edges(
    together: Int32[np.ndarray, "row latent"], counts: SymbolCounts, start: int
) -> _Edges:
    n, active = counts.n_tokens, counts.active[start:]
    expected = active[: len(together), None] * active.astype(np.float64) / max(n, 1)
    row, column = np.nonzero(np.triu((together > 0) | (expected >= 1), k=1))
    one, other, both = active[row], active[column], together[row, column].astype(np.int64)
    gain = _mutual_bits(one, other, both, n)
    pays = gain > math.log2(counts.n_latents + 1) + choice_bits(one, other, n)
    return _Edges(row[pays] + start, column[pays] + start, gain[pays], both[pays])


def _mutual_bits(
    one: Int64[np.ndarray, " edge"],
    other: Int64[np.ndarray, " edge"],
    both: Int64[np.ndarray, " edge"],
    n_tokens: int,
) -> Float64[np.ndarray, " edge"]:
    """N times the mutual information of two supports, in bits, from how often each fires."""
    cells = (both, one - both, other - both, n_tokens - one - other + both)
    margins = (one, n_tokens - one, other, n_tokens - other)
    whole = xlog2x(np.array([n_tokens]))
    bits: Float64[np.ndarray, " edge"] = sum(map(xlog2x, cells), whole)
    bits -= sum(map(xlog2x, margins))
    return bits


def _spanning_forest(edges: _Edges, n_latents: int) -> _Edges:
    """The edges of a spanning forest of greatest gain; gains are positive."""
    loss = csr_array((-edges.gain, (edges.one, edges.other)), shape=(n_latents, n_latents))
    kept = coo_array(minimum_spanning_tree(loss))
    one, other = (index.astype(np.int64) for index in kept.coords)
    order = np.lexsort((edges.other, edges.one))
    key = edges.one[order] * n_latents + edges.other[order]
    joint = edges.joint[order[np.searchsorted(key, one * n_latents + other)]]
    return _Edges(one, other, -kept.data, joint)


def _rooted(edges: _Edges, active: Int64[np.ndarray, " latent"]) -> Learned:
    """Edges away from each tree's most frequent latent, the first of equals."""
    n_latents = len(active)
    ones = np.ones(len(edges.gain))
    graph = csr_array((ones, (edges.one, edges.other)), shape=(n_latents, n_latents))
    _, tree = connected_components(graph, directed=False)
    by_tree = np.lexsort((-active, tree))
    roots = by_tree[np.flatnonzero(np.diff(tree[by_tree], prepend=-1))]
    above = n_latents
    joined = csr_array(
        (
            np.ones(len(ones) + len(roots)),
            (np.append(edges.one, roots), np.append(edges.other, np.full(len(roots), above))),
        ),
        shape=(n_latents + 1, n_latents + 1),
    )
    _, parents = breadth_first_order(joined, above, directed=False)
    forest = Forest.from_parents(np.where(parents[:-1] == above, ROOT, parents[:-1]))
    joint = np.zeros(n_latents, dtype=np.int64)
    joint[np.where(forest.parents[edges.one] == edges.other, edges.one, edges.other)] = edges.joint
    return Learned(forest, joint)
