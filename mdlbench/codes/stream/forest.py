"""Supports of a forest of latents, parents first: each given whether its parent is on (maths §3).

A reader knows on which tokens a child's parent is on. Those are one context of the child, and the
others are another; within each, it is coded as any latent is: how often it fires, then where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int32, Int64

from mdlbench.codes.codelength import log2_binomial
from mdlbench.codes.forest import Forest
from mdlbench.codes.stream.channel import Channel
from mdlbench.codes.stream.counts import code_active
from mdlbench.codes.stream.support import code_support
from mdlbench.codes.tree import TreeCodebook
from mdlbench.errors import RecordError

BLOCK_FIRINGS = 1 << 16
"""Firings whose places are computed at once, so that memory does not grow with all of them."""


def code_forest(
    channel: Channel,
    book: TreeCodebook,
    n_tokens: int,
    n_nonzeros: int,
    places: Int64[np.ndarray, " nnz"],
) -> Int64[np.ndarray, " nnz"]:
    """Which tokens each latent fires on.

    Args:
        channel: a writer, or a reader.
        book: the forest and the firing probabilities.
        n_tokens: N.
        n_nonzeros: firings of all latents; the stream may not have more.
        places: latent·N + token of every firing, increasing; none when reading.

    Returns:
        `places`, as the stream has them.

    Raises:
        RecordError: the stream has more firings.
    """
    forest = book.forest
    coded = [np.zeros(0, dtype=np.int64)]
    # Level by level: a reader needs to know where a parent is on before it can tell the contexts of
    # its children. A whole level at once, since its latents depend on the level above alone.
    for latents, known in zip(forest.levels, _by_level(forest, n_tokens, places), strict=True):
        contexts = _Contexts(n_tokens, latents, forest.parents[latents], coded[-1])
        ranks = contexts.ranks(known)
        active = np.diff(np.searchsorted(ranks, contexts.bounds))
        firing = book.firing_probability[: contexts.n_each, latents]
        active = code_active(channel, contexts.tokens, firing.ravel(), active)
        # checked before a place is allocated for them: a hostile file may claim any number
        if (total := sum(map(len, coded)) + int(active.sum())) > n_nonzeros:
            raise RecordError(f"bitstream: {total} nonzeros or more, instead of {n_nonzeros}")
        fires = np.flatnonzero(active)
        channel.expect(log2_binomial(contexts.tokens[fires], active[fires]).sum())
        ranks = code_support(channel, contexts.tokens, active, ranks)
        coded.append(contexts.places(active, ranks))
    coded_places = np.concatenate(coded)
    coded_places.sort()
    return coded_places


def _by_level(
    forest: Forest, n_tokens: int, places: Int64[np.ndarray, " nnz"]
) -> list[Int64[np.ndarray, " some"]]:
    """Places of the latents of each level, increasing."""
    level = forest.level[places // max(n_tokens, 1)]
    order = np.argsort(level, kind="stable")
    ends = np.cumsum(np.bincount(level, minlength=len(forest.levels)))
    return np.split(places[order], ends[:-1])


@dataclass(frozen=True, eq=False)
class _Contexts:
    """The contexts of the latents of one level: all with the parent off, then all with it on.

    If nothing is on above, as for roots, the second group is empty.

    Contexts lie behind one another; a token's rank is its number within its context, after the
    tokens of all contexts before.

    Attributes:
        n_tokens: N.
        latents: the latents of the level, increasing.
        parents: their parents; −1 for a root, which is never on.
        above: latent·N + token of every firing of the level above, increasing.
    """

    n_tokens: int
    latents: Int64[np.ndarray, " latent"]
    parents: Int32[np.ndarray, " latent"]
    above: Int64[np.ndarray, " firing"]

    @property
    def n_each(self) -> int:
        """Contexts of each latent."""
        return 2 if len(self.above) else 1

    @cached_property
    def tokens(self) -> Int64[np.ndarray, " context"]:
        """Tokens of each context."""
        last = np.searchsorted(self.above, self._origin + self.n_tokens)
        on = last - self._first
        return np.concatenate([self.n_tokens - on, on][: self.n_each])

    @property
    def bounds(self) -> Int64[np.ndarray, " context_and_end"]:
        """Where each context begins, and where the last ends."""
        return np.concatenate([[0], np.cumsum(self.tokens)])

    def ranks(self, places: Int64[np.ndarray, " nnz"]) -> Int64[np.ndarray, " nnz"]:
        """Ranks of the firings at these places, latent·N + token; both are increasing."""
        latent, token = np.divmod(places, max(self.n_tokens, 1))
        row = np.searchsorted(self.latents, latent)
        wanted = self._origin[row] + token
        before = np.searchsorted(self.above, wanted)
        is_on = np.searchsorted(self.above, wanted, side="right") > before
        before -= self._first[row]
        context = row + len(self.latents) * is_on
        # a token's number among the tokens where the parent is on is the firings of the parent
        # before it; among the others, its own number less those
        return np.sort(self.bounds[context] + np.where(is_on, before, token - before))

    def places(
        self, active: Int64[np.ndarray, " context"], ranks: Int64[np.ndarray, " nnz"]
    ) -> Int64[np.ndarray, " nnz"]:
        """The inverse of `ranks`, given the firings of each context."""
        context = np.repeat(np.arange(len(active), dtype=np.int32), active)
        bounds, places = self.bounds, np.empty_like(ranks)
        for start in range(0, len(ranks), BLOCK_FIRINGS):
            block = slice(start, start + BLOCK_FIRINGS)
            places[block] = self._places(context[block], ranks[block] - bounds[context[block]])
        places.sort()
        return places

    def _places(
        self, context: Int32[np.ndarray, " firing"], rank: Int64[np.ndarray, " firing"]
    ) -> Int64[np.ndarray, " firing"]:
        """The place of each firing, given its context and its rank within it."""
        is_on, row = np.divmod(context, max(len(self.latents), 1))
        off, on = np.flatnonzero(is_on == 0), np.flatnonzero(is_on)
        origin = self.parents[row] * np.int64(self.n_tokens)
        first = np.searchsorted(self.above, origin)
        token = rank.copy()
        # the r-th token where the parent is off lies behind as many firings of the parent as have
        # at most r off-tokens before them: a search, where a list of off-tokens would take N places
        skipped = np.searchsorted(self._gaps, origin[off] + rank[off], side="right")
        token[off] += skipped - first[off]
        # the r-th token where the parent is on is its r-th firing
        token[on] = self.above[first[on] + rank[on]] - origin[on]
        return np.asarray(self.latents[row] * np.int64(self.n_tokens) + token)

    @cached_property
    def _gaps(self) -> Int64[np.ndarray, " firing"]:
        """`above`, less the firings of the same latent before: off-tokens up to each firing."""
        own = np.searchsorted(self.above, self.above - self.above % max(self.n_tokens, 1))
        gaps: Int64[np.ndarray, " firing"] = self.above - (np.arange(len(self.above)) - own)
        return gaps

    @property
    def _origin(self) -> Int64[np.ndarray, " latent"]:
        """Where the tokens of each latent's parent begin among places."""
        return self.parents.astype(np.int64) * self.n_tokens

    @property
    def _first(self) -> Int64[np.ndarray, " latent"]:
        """Where the firings of each latent's parent begin in `above`."""
        return np.searchsorted(self.above, self._origin).astype(np.int64)
