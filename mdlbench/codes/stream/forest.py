"""Supports of a forest of latents, each given its parent and its earlier siblings (maths §3).

A reader knows on which tokens a child's parent is on, and its earlier siblings are. They are what
tells the child's contexts apart; within each, it is coded as any latent is: how often it fires,
then where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64

from mdlbench.codes.codelength import log2_binomial
from mdlbench.codes.contexts import (
    MERGED,
    PARENT_OFF,
    PARENT_ON,
    SIBLING_CLASSES,
    Contexts,
    Rule,
    family_rules,
)
from mdlbench.codes.stream.channel import Channel
from mdlbench.codes.stream.counts import code_active
from mdlbench.codes.stream.support import code_support
from mdlbench.codes.tree import TreeCodebook
from mdlbench.errors import RecordError

KEY_CELLS = 16
"""What a listed token costs in a wave, in cells of a table: all of them are gone through anew."""

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
        book: the forest, the contexts and the firing probabilities.
        n_tokens: N.
        n_nonzeros: firings of all latents; the stream may not have more.
        places: latent·N + token of every firing, increasing; none when reading.

    Returns:
        `places`, as the stream has them.

    Raises:
        RecordError: the stream has more firings.
    """
    coded = [np.zeros(0, dtype=np.int64)]
    left = n_nonzeros
    # Level by level: a reader needs to know where a parent is on before it can tell the contexts of
    # its children. Then wave by wave: a child's earlier siblings, too. All families together.
    for waves, known in zip(
        book.contexts.waves, _by_wave(book.contexts, n_tokens, places), strict=True
    ):
        families = _Families.of(book.contexts, n_tokens, coded[-1])
        fired = []
        for latents, of_wave in zip(waves, known, strict=True):
            families = families.of_children(latents)
            channel.tabulate(KEY_CELLS * len(families.key))
            wave = _Wave.of(n_tokens, latents, book.forest.parents[latents], families)
            fired.append(_code_wave(channel, book, wave, of_wave, left))
            left -= len(fired[-1])
            if len(waves) > 1:
                families = families.after(fired[-1])
        coded.append(np.sort(np.concatenate(fired)))
    coded_places = np.concatenate(coded)
    coded_places.sort()
    return coded_places


def _code_wave(
    channel: Channel,
    book: TreeCodebook,
    wave: _Wave,
    places: Int64[np.ndarray, " nnz"],
    n_nonzeros: int,
) -> Int64[np.ndarray, " nnz"]:
    """The firings of a wave's latents, of which there may be no more than `n_nonzeros`."""
    ranks = wave.ranks(places)
    active = np.diff(np.searchsorted(ranks, wave.bounds))
    firing = book.firing_probability[np.ix_(wave.labels, wave.latents)]
    active = code_active(channel, wave.tokens, firing.ravel(), active)
    # checked before a place is allocated for them: a hostile file may claim any number
    if (total := int(active.sum())) > n_nonzeros:
        raise RecordError(f"bitstream: {total - n_nonzeros} nonzeros or more beyond those stated")
    fires = np.flatnonzero(active)
    channel.expect(log2_binomial(wave.tokens[fires], active[fires]).sum())
    ranks = code_support(channel, wave.tokens, active, ranks)
    return wave.places(active, ranks)


def _by_wave(
    contexts: Contexts, n_tokens: int, places: Int64[np.ndarray, " nnz"]
) -> list[list[Int64[np.ndarray, " some"]]]:
    """Places of the latents of each wave of each level, increasing."""
    number = np.empty(len(contexts.rule), dtype=np.int32)
    lengths = [len(waves) for waves in contexts.waves]
    for i, latents in enumerate(latents for waves in contexts.waves for latents in waves):
        number[latents] = i
    wave = number[places // max(n_tokens, 1)]
    order = np.argsort(wave, kind="stable")
    ends = np.cumsum(np.bincount(wave, minlength=sum(lengths)))
    pieces = iter(np.split(places[order], ends[:-1]))
    return [[next(pieces) for _ in range(length)] for length in lengths]


@dataclass(frozen=True, eq=False)
class _Families:
    """What is known of the families of one level: parents, and the siblings coded so far.

    Attributes:
        contexts: of all latents.
        rule: of the children of each latent, roots first.
        n_tokens: N.
        key: (parent + 1)·N + token where the parent or a child of it is on, increasing.
        parent_on: whether the parent is on there.
        siblings: how many of its children coded so far are on there.
    """

    contexts: Contexts
    rule: Int8[np.ndarray, " latent_and_none"]
    n_tokens: int
    key: Int64[np.ndarray, " key"]
    parent_on: Bool[np.ndarray, " key"]
    siblings: Int64[np.ndarray, " key"]

    @classmethod
    def of(
        cls, contexts: Contexts, n_tokens: int, above: Int64[np.ndarray, " firing"]
    ) -> _Families:
        """Before any child is coded; `above` is latent·N + token where the level above is on."""
        rule = np.append(np.int8(Rule.PARENT), family_rules(contexts))
        on, none = np.ones(len(above), dtype=bool), np.zeros(len(above), dtype=np.int64)
        return cls(contexts, rule, n_tokens, above + n_tokens, on, none)

    def of_children(self, latents: Int64[np.ndarray, " latent"]) -> _Families:
        """Those of these latents alone: nothing is asked of the others any more."""
        wanted = np.zeros(len(self.rule), dtype=bool)
        wanted[self.contexts.forest.parents[latents] + 1] = True
        return self._only(wanted[self._family])

    def after(self, places: Int64[np.ndarray, " nnz"]) -> _Families:
        """With these firings of children, latent·N + token; one child of each family, at most.

        Only families that tell siblings apart are kept: of the others all children are coded.
        """
        kept = self._only(self.rule[self._family] > 0)
        latent, token = np.divmod(places, max(self.n_tokens, 1))
        told = self.contexts.rule[latent] > 0
        origin = (self.contexts.forest.parents[latent[told]] + np.int64(1)) * self.n_tokens
        key = np.concatenate([kept.key, origin + token[told]])
        key, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        was = first < len(kept.key)
        siblings = np.bincount(inverse[len(kept.key) :], minlength=len(key))
        siblings[was] += kept.siblings[first[was]]
        parent_on = np.zeros(len(key), dtype=bool)
        parent_on[was] = kept.parent_on[first[was]]
        return _Families(
            self.contexts, self.rule, self.n_tokens, key, parent_on, siblings.astype(np.int64)
        )

    @property
    def labels(self) -> Int64[np.ndarray, " key"]:
        """The context of each key."""
        finest = np.where(self.parent_on, PARENT_ON, PARENT_OFF)
        finest += np.minimum(self.siblings, SIBLING_CLASSES - 1)
        labels: Int64[np.ndarray, " key"] = MERGED[self.rule[self._family], finest]
        return labels

    @property
    def _family(self) -> Int64[np.ndarray, " key"]:
        return self.key // max(self.n_tokens, 1)

    def _only(self, kept: Bool[np.ndarray, " key"]) -> _Families:
        return _Families(
            self.contexts,
            self.rule,
            self.n_tokens,
            self.key[kept],
            self.parent_on[kept],
            self.siblings[kept],
        )


@dataclass(frozen=True, eq=False)
class _Wave:
    """Latents that are coded at once, and their contexts: all first ones, then all second, ….

    The first context is that of no label: most tokens are in it, and none is listed.

    Contexts lie behind one another; a token's rank is its number within its context, after the
    tokens of all contexts before.

    Attributes:
        n_tokens: N.
        latents: the latents of the wave, increasing.
        parents: their parents; −1 for a root.
        special: (parent + 1)·N + token of every token in another context than the first,
            increasing.
        label: the context of each.
        labels: the contexts in use, increasing, the first included.
    """

    n_tokens: int
    latents: Int64[np.ndarray, " latent"]
    parents: Int32[np.ndarray, " latent"]
    special: Int64[np.ndarray, " special"]
    label: Int64[np.ndarray, " special"]
    labels: Int64[np.ndarray, " context"]

    @classmethod
    def of(
        cls,
        n_tokens: int,
        latents: Int64[np.ndarray, " latent"],
        parents: Int32[np.ndarray, " latent"],
        families: _Families,
    ) -> _Wave:
        label = families.labels
        told = label != PARENT_OFF
        labels = np.union1d([PARENT_OFF], label[told]).astype(np.int64)
        return cls(n_tokens, latents, parents, families.key[told], label[told], labels)

    @cached_property
    def tokens(self) -> Int64[np.ndarray, " context"]:
        """Tokens of each latent's context."""
        told = [
            self._listed(label, self._origin + self.n_tokens) - self._listed(label, self._origin)
            for label in self.labels[1:]
        ]
        rest = np.full(len(self.latents), self.n_tokens, dtype=np.int64)
        for tokens in told:
            rest -= tokens
        return np.concatenate([rest, *told])

    @property
    def bounds(self) -> Int64[np.ndarray, " context_and_end"]:
        """Where each context begins, and where the last ends."""
        return np.concatenate([[0], np.cumsum(self.tokens)])

    def ranks(self, places: Int64[np.ndarray, " nnz"]) -> Int64[np.ndarray, " nnz"]:
        """Ranks of the firings at these places, latent·N + token; both are increasing."""
        latent, token = np.divmod(places, max(self.n_tokens, 1))
        row = np.searchsorted(self.latents, latent)
        wanted = self._origin[row] + token
        before = np.searchsorted(self.special, wanted)
        told = np.searchsorted(self.special, wanted, side="right") > before
        label = np.zeros(len(places), dtype=np.int64)
        label[told] = self.label[before[told]]
        # a token's number in a listed context is that in the list; in the first, its own number
        # less the listed ones before it
        rank = token - (before - np.searchsorted(self.special, self._origin)[row])
        origin = self._origin[row[told]]
        rank[told] = self._listed(label[told], wanted[told]) - self._listed(label[told], origin)
        context = row + len(self.latents) * np.searchsorted(self.labels, label)
        return np.sort(self.bounds[context] + rank)

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
        which, row = np.divmod(context, max(len(self.latents), 1))
        first, told = np.flatnonzero(which == 0), np.flatnonzero(which)
        origin = self._origin[row]
        token = rank.copy()
        # the r-th token of the first context lies behind as many listed tokens as have at most r
        # unlisted ones before them: a search, where a list of the others would take N places
        skipped = np.searchsorted(self._gaps, origin[first] + rank[first], side="right")
        token[first] += skipped - np.searchsorted(self.special, origin[first])
        # the r-th token of another is the r-th of its list
        label, base = self.labels[which[told]], origin[told]
        listed = self._by_label[self._listed(label, base) + rank[told]]
        token[told] = listed - label * self._stride - base
        return np.asarray(self.latents[row] * np.int64(self.n_tokens) + token)

    @cached_property
    def _gaps(self) -> Int64[np.ndarray, " special"]:
        """`special`, less those of the same family before: unlisted tokens up to each."""
        own = np.searchsorted(self.special, self.special - self.special % max(self.n_tokens, 1))
        gaps: Int64[np.ndarray, " special"] = self.special - (np.arange(len(self.special)) - own)
        return gaps

    def _listed(
        self, label: Int64[np.ndarray, " n"] | np.int64, key: Int64[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]:
        """How many listed tokens have a lesser label, or this label and a lesser key."""
        return np.searchsorted(self._by_label, label * self._stride + key).astype(np.int64)

    @cached_property
    def _by_label(self) -> Int64[np.ndarray, " special"]:
        """label·stride + key of the listed tokens, increasing."""
        return np.sort(self.label * self._stride + self.special)

    @cached_property
    def _stride(self) -> np.int64:
        """More than any key."""
        largest = max(int(self.parents.max(initial=-1)) + 2, 1)
        return np.int64(largest * max(self.n_tokens, 1) + 1)

    @cached_property
    def _origin(self) -> Int64[np.ndarray, " latent"]:
        """Where the tokens of each latent's parent begin among keys."""
        origin: Int64[np.ndarray, " latent"] = (self.parents + np.int64(1)) * self.n_tokens
        return origin
