"""Contexts in which the tree code codes a child: its parent and its earlier siblings (maths §3).

Siblings are the children of one latent, from the most frequent one on calibration tokens to the
rarest. What a child's contexts tell apart is a rule that its family shares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int8, Int32, Int64

from mdlbench.codes.forest import NOWHERE, Forest, choice_bits
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.errors import CoderError

SIBLING_CLASSES = 3
"""No earlier sibling is on, one is, or more are."""

N_CONTEXTS = 2 * SIBLING_CLASSES
PARENT_OFF, PARENT_ON = 0, SIBLING_CLASSES
"""The contexts of a child while none of its earlier siblings is on; one or two after each are those
of one or more siblings. The parent of a root is always off."""

MAX_WAVES = 2**12
"""Siblings that a file codes one after another, at most, over all levels of the forest: each takes
its reader some time. Families that would need more are coded by the parent alone."""


class Rule(IntEnum):
    """What the contexts of a family tell apart."""

    PARENT = 0
    """The parent on or off."""
    ANY = 1
    """Also, while the parent is on, whether an earlier sibling is on."""
    COUNT = 2
    """Also, while the parent is on, whether none, one or more earlier siblings are on."""
    EITHER = 3
    """None, one or more earlier siblings on, the parent being on or off."""


MERGED = np.array([[0, 0, 0, 3, 3, 3], [0, 0, 0, 3, 4, 4], [0, 0, 0, 3, 4, 5], [0, 1, 2, 3, 4, 5]])
"""By rule, the context that each of the finest ones belongs to, named by the first of them."""

RULE_BITS = 2
"""Bits that name a family's rule."""


class ContextCounts(NamedTuple):
    """How often each latent could have fired in each context, and how often it did.

    Attributes:
        tokens: of the latent's contexts; N in the first one for roots.
        active: firings among them; 0 in contexts that the rule does not tell apart.
    """

    tokens: Int64[np.ndarray, "context latent"]
    active: Int64[np.ndarray, "context latent"]


@dataclass(frozen=True, eq=False)
class Contexts:
    """The contexts of each latent of a forest. Make one by `of`.

    Attributes:
        forest: whose child each latent is.
        active: how often each latent fires on calibration tokens.
        rule: of each latent's family; `Rule.PARENT` for roots.
    """

    forest: Forest
    active: Int64[np.ndarray, " latent"]
    rule: Int[np.ndarray, " latent"]

    @classmethod
    def of(cls, forest: Forest, active: Int64[np.ndarray, " latent"]) -> Contexts:
        """Those of the parents alone; `active` is how often each latent fires.

        Raises:
            CoderError: they are of another number of latents.
        """
        if len(active) != len(forest.parents):
            raise CoderError(
                f"a forest of {len(forest.parents)} latents does not fit counts of {len(active)}"
            )
        return cls(forest, active, np.zeros(len(active), dtype=np.int8))

    def ruled(self, rule: Int[np.ndarray, " latent"]) -> Contexts:
        """The same families, each under the rule stated at its children."""
        return replace(self, rule=rule)

    @cached_property
    def order(self) -> Int64[np.ndarray, " latent"]:
        """The latents; children of one lie together, from the most frequent to the rarest."""
        return np.lexsort((-self.active, self.forest.parents))

    @cached_property
    def place(self) -> Int64[np.ndarray, " latent"]:
        """Where each latent is in `order`."""
        place = np.empty(len(self.rule), dtype=np.int64)
        place[self.order] = np.arange(len(place))
        return place

    @cached_property
    def rank(self) -> Int64[np.ndarray, " latent"]:
        """Earlier siblings of each latent, whether on or off; for roots, all roots before it."""
        rank = np.empty(len(self.rule), dtype=np.int64)
        rank[self.order] = np.arange(len(rank)) - self._first
        return rank

    @cached_property
    def size(self) -> Int64[np.ndarray, " latent"]:
        """Children of each latent."""
        children = self.forest.parents[self.forest.is_child]
        return np.bincount(children, minlength=len(self.rule))

    @property
    def n_families(self) -> int:
        """Latents with two children or more."""
        return int((self.size > 1).sum())

    @property
    def rule_bits(self) -> float:
        """Bits that tell the rules of all families; none, if all have that of the parent alone."""
        return float(RULE_BITS * self.n_families) if self.rule.any() else 0.0

    @cached_property
    def widest(self) -> Int64[np.ndarray, " latent"]:
        """The rule of each family that tells most apart; few enough siblings for a file.

        Where all families together would need more than `MAX_WAVES`, the largest go without.
        """
        size = np.where(self.forest.is_child, self.size[self.forest.parents], 0)
        limit = MAX_WAVES
        while _waves(self.forest.level, np.where(size <= limit, size, 1)) > MAX_WAVES:
            limit //= 2
        return np.where((size > 1) & (size <= limit), int(Rule.EITHER), int(Rule.PARENT))

    @cached_property
    def waves(self) -> list[list[Int64[np.ndarray, " some_latent"]]]:
        """By level, the latents that can be coded at once: no one is an earlier sibling of another.

        Latents are increasing; those whose contexts do not look at siblings are in the first wave.
        """
        if not self.rule.any():
            return [[latents] for latents in self.forest.levels]
        wave = np.where(self.rule > 0, self.rank, 0)
        return [
            np.split(
                (by_wave := latents[np.argsort(wave[latents], kind="stable")]),
                np.flatnonzero(np.diff(wave[by_wave])) + 1,
            )
            for latents in self.forest.levels
        ]

    def at(
        self, symbols: Symbols, parent_at: Int64[np.ndarray, " nnz"] | None = None
    ) -> Int64[np.ndarray, " nnz"]:
        """The context in which each nonzero's latent fires.

        `parent_at` is that of the forest, if it is known already.
        """
        parent_at = self.forest.parent_at(symbols) if parent_at is None else parent_at
        context = np.where(parent_at == NOWHERE, PARENT_OFF, PARENT_ON)
        told = np.flatnonzero(self.rule[symbols.latent])
        if len(told):
            context[told] += np.minimum(self._earlier(symbols, told), SIBLING_CLASSES - 1)
            context[told] = MERGED[self.rule[symbols.latent[told]], context[told]]
        return context

    def _earlier(
        self, symbols: Symbols, told: Int64[np.ndarray, " some_nnz"]
    ) -> Int64[np.ndarray, " some_nnz"]:
        """How many earlier siblings are on at the same token as each of these nonzeros."""
        token, latent = symbols.token[told].astype(np.int64), symbols.latent[told]
        width = max(len(self.rule), 1)
        # within a token, a family's nonzeros lie together and in order: a sort of the nonzeros,
        # however many siblings a family has
        order = np.argsort(token * width + self.place[latent], kind="stable")
        family = (token * width + self.forest.parents[latent])[order]
        begins = np.flatnonzero(np.diff(family, prepend=-1))
        lengths = np.diff(begins, append=len(family))
        earlier = np.empty(len(told), dtype=np.int64)
        earlier[order] = np.arange(len(family)) - np.repeat(begins, lengths)
        return earlier

    def firings(self, runs: Iterable[Symbols]) -> Int64[np.ndarray, "context latent"]:
        """Firings of each latent in each context; those of parts of a split add up to its own."""
        found = np.zeros((N_CONTEXTS, len(self.rule)), dtype=np.int64)
        for symbols in runs:
            found += self.count(symbols.latent, self.at(symbols))
        return found

    def count(
        self, latent: Int32[np.ndarray, " nnz"], context: Int64[np.ndarray, " nnz"]
    ) -> Int64[np.ndarray, "context latent"]:
        """The firings of a run whose nonzeros are of these latents, in these contexts."""
        n_latents = len(self.rule)
        cell = context * n_latents + latent
        return np.bincount(cell, minlength=N_CONTEXTS * n_latents).reshape(N_CONTEXTS, n_latents)

    def counts(
        self, counts: SymbolCounts, firings: Int64[np.ndarray, "context latent"]
    ) -> ContextCounts:
        """Tokens and firings in the contexts told apart, from counts and firings of some tokens.

        Firings may be those of rules that tell more apart. The tokens follow: each sibling that
        fires moves the next one of its family from one context to another, once.

        Raises:
            CoderError: they cannot come from the same tokens.
        """
        k, n = counts.active, counts.n_tokens
        if not len(k) == len(self.rule) == firings.shape[1]:
            raise CoderError(
                f"a forest of {len(self.rule)} latents does not fit counts of {len(k)}"
            )
        above = np.where(self.forest.is_child, k[self.forest.parents], 0)
        tokens = np.concatenate(
            [
                _sibling_tokens(total, *(self.before(fired) for fired in firings[at : at + 2]))
                for total, at in ((n - above, PARENT_OFF), (above, PARENT_ON))
            ]
        )
        found = ContextCounts(self.merged(tokens), self.merged(firings))
        agree = (found.active >= 0) & (found.active <= found.tokens)
        if not agree.all() or (firings.sum(axis=0) != k).any():
            raise CoderError("joint counts and symbol counts come from different tokens")
        return found

    def merged(
        self, finest: Int64[np.ndarray, "context latent"]
    ) -> Int64[np.ndarray, "context latent"]:
        """Counts of the finest contexts, added up where the rule does not tell them apart."""
        merged, latent = np.zeros_like(finest), np.arange(finest.shape[1])
        for context, count in zip(self.named, finest, strict=True):
            merged[context, latent] += count
        return merged

    @cached_property
    def named(self) -> Int64[np.ndarray, "context latent"]:
        """The context that stands for each of the finest ones, by the latent's rule."""
        return np.ascontiguousarray(MERGED[self.rule].T)

    def before(
        self, of: Int64[np.ndarray, " latent"] | Float64[np.ndarray, " latent"]
    ) -> np.ndarray:
        """The sum over each latent's earlier siblings; for roots, over all roots before it."""
        ordered = of[self.order]
        sums = np.cumsum(ordered) - ordered
        found: np.ndarray = np.empty_like(sums)
        found[self.order] = sums - sums[self._first]
        return found

    def after(self, of: Float64[np.ndarray, " latent"]) -> Float64[np.ndarray, " latent"]:
        """The sum over each latent's later siblings; for roots, over all roots after it."""
        family = self.forest.parents.astype(np.int64) + 1
        sums: Float64[np.ndarray, " latent"] = np.bincount(family, of)[family]
        sums -= self.before(of) + of
        return sums

    @cached_property
    def _first(self) -> Int64[np.ndarray, " latent"]:
        """By place, where the family of the latent there begins."""
        family = self.forest.parents[self.order]
        begins = np.flatnonzero(np.diff(family, prepend=-2))
        return np.repeat(begins, np.diff(begins, append=len(family)))

    def choice_bits(self, found: ContextCounts) -> Float64[np.ndarray, " latent"]:
        """Bits that tell a latent's firings with siblings on, once those by parent are known.

        With the parent off, and again with it on: how many of the firings had no earlier sibling
        on, and how many of the others had one, each as log₂ of the values it may have. 0 for what
        the rule does not tell apart.
        """
        bits = np.zeros(len(self.rule))
        for at in (PARENT_OFF, PARENT_ON):
            none, one, more = found.tokens[at : at + SIBLING_CLASSES]
            fired, with_one, with_more = found.active[at : at + SIBLING_CLASSES]
            bits += choice_bits(fired + with_one + with_more, none, none + one + more)
            bits += choice_bits(with_one + with_more, one, one + more)
        return bits


def family_rules(contexts: Contexts) -> Int8[np.ndarray, " latent"]:
    """The rule of the children of each latent; `Rule.PARENT` for those without any."""
    child = contexts.forest.is_child
    rule = np.zeros(len(child), dtype=np.int8)
    rule[contexts.forest.parents[child]] = contexts.rule[child]
    return rule


def n_waves(contexts: Contexts) -> int:
    """Waves of all levels."""
    return sum(map(len, contexts.waves))


def _waves(level: np.ndarray, size: Int64[np.ndarray, " latent"]) -> int:
    """Waves of all levels, if each latent's family has so many siblings that are coded in order."""
    longest = np.ones(int(level.max(initial=0)) + 1, dtype=np.int64)
    np.maximum.at(longest, level, size)
    return int(longest.sum()) if len(longest) <= MAX_WAVES and size.max(initial=1) > 1 else 0


def _sibling_tokens(
    total: Int64[np.ndarray, " latent"],
    left: Int64[np.ndarray, " latent"],
    passed: Int64[np.ndarray, " latent"],
) -> Int64[np.ndarray, "3 latent"]:
    """Tokens with no, one, and more earlier siblings on, of `total` in this state of the parent.

    `left` are the firings of earlier siblings with none before them on, each of which ends "no
    earlier sibling is on" for one token; `passed` those with one before them on.
    """
    none = total - left
    return np.stack([none, total - none - passed, passed])


def told_apart(rule: int) -> Int64[np.ndarray, " some_context"]:
    """The contexts of a rule, each named by its first."""
    return np.unique(MERGED[rule])
