"""The tree code: which latents are on, each given its parent and its earlier siblings (maths §3).

Magnitudes are priced by the flat codebook, and so are the supports of roots. A child has a firing
probability for each of its contexts (`mdlbench.codes.contexts`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes import codelength
from mdlbench.codes.codelength import Codebook, Rate, binary_entropy, fit_beta_prior
from mdlbench.codes.contexts import (
    N_CONTEXTS,
    PARENT_OFF,
    PARENT_ON,
    SIBLING_CLASSES,
    ContextCounts,
    Contexts,
    Rule,
    told_apart,
)
from mdlbench.codes.forest import Forest, joint_count_bits, learn_forest
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts

Firings = Int64[np.ndarray, "context latent"]
Priors = Float64[np.ndarray, "rule context 2"]
"""(a, b) by rule and context, shared by the children of all families under that rule."""

CHOICES = 2
"""Times that the rules of families are chosen; the second time by the priors of the first."""


def plugin(contexts: Contexts, counts: SymbolCounts, firings: Firings) -> Rate:
    """Σ over contexts of their tokens times H₂ of the share that fires, and magnitudes (maths §3).

    `firings` are `contexts.firings` of the tokens that `counts` are of.
    """
    tokens, active = contexts.counts(counts, firings)
    share = np.divide(active, tokens, where=tokens > 0, out=np.zeros(tokens.shape))
    support = float((tokens * binary_entropy(share)).sum()) / max(counts.n_tokens, 1)
    return Rate(support, codelength.plugin(counts).magnitude)


@dataclass(frozen=True, eq=False)
class TreeCodebook:
    """The frozen tree code of calibration tokens (maths §3).

    In a context that had n tokens, of which it fired on k, a child fires with (k + a)/(n + a + b).
    The children of all families under one rule share (a, b) of each context, which has the greatest
    Beta-binomial marginal likelihood.

    Attributes:
        flat: prices magnitudes, and roots.
        contexts: the edges in use, and what each family's contexts tell apart.
        told: firings of the calibration tokens in the contexts told apart, those of roots in the
            first; None where all are roots.
        priors: (a, b); of rules and contexts that are not in use, ½ and ½.
        firing_probability: probability of each latent in each of the finest contexts, in (0, 1).
    """

    flat: Codebook
    contexts: Contexts
    told: Firings | None
    priors: Priors
    firing_probability: Float64[np.ndarray, "context latent"]

    @classmethod
    def fit(
        cls, flat: Codebook, runs: Runs[Symbols], parents: np.ndarray | None = None
    ) -> TreeCodebook:
        """The tree code of the tokens that `flat` was fitted on.

        It never costs those tokens more than `flat` does, header included, nor than a tree code
        that knows of parents alone: edges that do not save what their joint count costs are
        dropped, unless all of them together save more once siblings are told apart; contexts tell
        siblings apart where that saves more than it costs; and all edges are dropped, unless
        together they save more than `header_bits`.

        Args:
            flat: the codebook of the same tokens.
            runs: their symbols; measured once along all edges, and once or twice for siblings.
            parents: each latent's parent, −1 for a root; None learns them
                (`forest.learn_forest`).

        Raises:
            CoderError: parents are not a forest of these latents, or runs cannot be the tokens
                that `flat` was fitted on.
        """
        whole = cls._of_all_edges(flat, runs, parents)
        alone = whole.pruned()
        books = [alone, alone.with_siblings(runs)]
        if alone.forest.n_edges < whole.forest.n_edges:
            books.append(whole.with_siblings(runs))
        best = max(books, key=lambda book: book.gained_bits)
        return best if best.gained_bits > 0 else cls.without_edges(flat)

    @classmethod
    def by_parents(
        cls, flat: Codebook, runs: Runs[Symbols], parents: np.ndarray | None = None
    ) -> TreeCodebook:
        """The code by parents alone of the tokens that `flat` was fitted on.

        With the edges that save more than their joint counts cost, even if all of them together do
        not save what naming the parents costs; arguments and errors are those of `fit`.
        """
        return cls._of_all_edges(flat, runs, parents).pruned()

    @classmethod
    def _of_all_edges(
        cls, flat: Codebook, runs: Runs[Symbols], parents: np.ndarray | None
    ) -> TreeCodebook:
        """The code by parents alone with all edges of a given or learned forest."""
        if parents is None:
            forest = learn_forest(runs, flat.counts)
        else:
            forest = Forest.from_parents(parents)
        return cls.of_forest(flat, forest, np.sum(runs.map(forest.joint_counts), axis=0))

    def pruned(self) -> TreeCodebook:
        """The code by parents alone, with the edges that save more than their joint counts cost."""
        book = self
        while True:
            forest, joint = book.forest, book.firings[PARENT_ON:].sum(axis=0)
            pays = forest.is_child & (book.saved_bits > book.joint_bits)
            if pays.sum() == forest.n_edges:
                return book
            book = TreeCodebook.of_forest(self.flat, forest.only(pays), np.where(pays, joint, 0))

    @classmethod
    def without_edges(cls, flat: Codebook) -> TreeCodebook:
        """The flat code as a tree code: all latents are roots."""
        n_latents = flat.counts.n_latents
        return cls(
            flat,
            Contexts.of(Forest.of_roots(n_latents), flat.counts.active),
            told=None,
            priors=np.full((len(Rule), N_CONTEXTS, 2), 0.5),
            firing_probability=np.broadcast_to(flat.firing_probability, (N_CONTEXTS, n_latents)),
        )

    @classmethod
    def of_forest(
        cls, flat: Codebook, forest: Forest, joint: Int64[np.ndarray, " latent"]
    ) -> TreeCodebook:
        """The code by parents alone with all of these edges, whether they pay or not.

        `joint` is `forest.joint_counts` of the tokens that `flat` was fitted on.
        """
        contexts = Contexts.of(forest, flat.counts.active)
        return cls.of_contexts(flat, contexts, parent_firings(flat.counts, joint))

    @classmethod
    def of_contexts(cls, flat: Codebook, contexts: Contexts, firings: Firings) -> TreeCodebook:
        """The code with all of these edges and rules, whether they pay or not.

        `firings` are `contexts.firings` of the tokens that `flat` was fitted on, or those of
        contexts of the same families that tell more apart.
        """
        priors = fit_priors(contexts, contexts.counts(flat.counts, firings))
        return cls.build(flat, contexts, firings, priors)

    @classmethod
    def build(
        cls, flat: Codebook, contexts: Contexts, firings: Firings, priors: Priors
    ) -> TreeCodebook:
        """The tree code of given hyperparameters, as a decoder rebuilds it."""
        tokens, active = contexts.counts(flat.counts, firings)
        a, b = np.moveaxis(priors[contexts.rule], -1, 0).swapaxes(1, 2)
        firing = np.take_along_axis((active + a) / (tokens + a + b), contexts.named, axis=0)
        firing = np.where(contexts.forest.is_child, firing, flat.firing_probability)
        return cls(flat, contexts, active, priors, firing)

    def with_siblings(self, runs: Runs[Symbols]) -> TreeCodebook:
        """The same edges, each family under the rule that costs calibration tokens least.

        A rule is chosen by what a family saves under it, less the bits of its counts; each rule
        with the priors that it has if all families are under it, and then once more with those of
        the families that chose it. Whether all of it saves what naming the rules costs is left to
        `gained_bits`.

        Args:
            runs: the calibration tokens.
        """
        widest = self.contexts.ruled(self.contexts.widest)
        if not widest.rule.any():
            return self
        firings: Firings = np.sum(runs.map(widest.firings), axis=0)
        ruled = [widest.ruled(np.minimum(widest.rule, rule)) for rule in Rule]
        books = [TreeCodebook.of_contexts(self.flat, contexts, firings) for contexts in ruled]
        priors = np.stack([book.priors[rule] for rule, book in zip(Rule, books, strict=True)])
        for _ in range(CHOICES):
            chosen = widest.ruled(_chosen_rules(widest, books))
            book = TreeCodebook.of_contexts(self.flat, chosen, firings)
            used = np.unique(chosen.rule[chosen.forest.is_child])
            priors[used] = book.priors[used]
            books = [TreeCodebook.build(self.flat, each, firings, priors) for each in ruled]
        return book

    def with_signs(self) -> TreeCodebook:
        """The same code, but that a symbol which calibration never showed may be negative."""
        return replace(self, flat=self.flat.with_signs())

    @property
    def firings(self) -> Firings:
        """Firings of the calibration tokens in the contexts told apart."""
        if self.told is None:
            return parent_firings(self.flat.counts, np.zeros_like(self.flat.counts.active))
        return self.told

    @property
    def forest(self) -> Forest:
        """The edges in use."""
        return self.contexts.forest

    @cached_property
    def joint_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits of the joint counts k_pc, sent once."""
        counts = self.flat.counts
        return joint_count_bits(self.forest, counts.active, counts.n_tokens)

    @cached_property
    def choice_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits of each child's firings by what its siblings did, sent once."""
        return self.contexts.choice_bits(self.contexts.counts(self.flat.counts, self.firings))

    @property
    def header_bits(self) -> float:
        """Bits of what the decoder needs beside the flat codebook.

        Parents and joint counts; the rules of families, and what these tell apart.
        """
        counts = float(self.joint_bits.sum() + self.choice_bits.sum())
        return self.forest.header_bits + self.contexts.rule_bits + counts

    @cached_property
    def saved_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits by which each latent costs all calibration tokens less than under `flat`."""
        return -self._added_bits(self.flat.counts, self.firings)

    @property
    def gained_bits(self) -> float:
        """Bits by which all calibration tokens cost less than under `flat`, header included."""
        return float(self.saved_bits.sum()) - self.header_bits

    @property
    def off_bits(self) -> float:
        """B₀, the bits of a token with nothing on."""
        return float(self._off_bits[PARENT_OFF].sum())

    def bits(self, counts: SymbolCounts, firings: Firings) -> Rate:
        """`heldout` of other tokens, from their counts and `contexts.firings` (maths §3)."""
        flat = self.flat.bits(counts)
        added = float(self._added_bits(counts, firings).sum()) / max(counts.n_tokens, 1)
        return Rate(flat.support + added, flat.magnitude)

    def latent_bits(self, counts: SymbolCounts, firings: Firings) -> Float64[np.ndarray, " latent"]:
        """Bits per token of each latent given its context; they add up to `bits` (maths §1)."""
        added = self._added_bits(counts, firings) / max(counts.n_tokens, 1)
        return self.flat.latent_bits(counts) + added

    def document_bits(
        self,
        symbols: Symbols,
        document: Int64[np.ndarray, " token"],
        n_documents: int,
        context: Int64[np.ndarray, " nnz"] | None = None,
    ) -> Float64[np.ndarray, " document"]:
        """`heldout` bits of each document; `document` numbers that of each token of the run.

        Documents without a token here cost 0, so that the parts of a split add up. `context` is
        `contexts.at(symbols)`, if it is known already.
        """
        context = self.contexts.at(symbols) if context is None else context
        excess = self.excess_bits(context, symbols.latent, symbols.symbol)
        tokens = np.bincount(document, minlength=n_documents)
        owner = document[symbols.token]
        bits: Float64[np.ndarray, " document"] = tokens * self.off_bits
        bits += np.bincount(owner, weights=excess, minlength=n_documents)
        return bits

    def excess_bits(
        self,
        context: Int64[np.ndarray, " n"],
        latent: Int32[np.ndarray, " n"],
        symbol: Int32[np.ndarray, " n"],
    ) -> Float64[np.ndarray, " n"]:
        """What each nonzero symbol adds to B₀, its latent being in that context.

        It costs what firing in its context costs, and it moves its children, and its later
        siblings, from one context to another, whether they fire or not; those that do fire take
        this into account.

        Raises:
            CoderError: a negative symbol, and calibration showed positive ones only.
        """
        bits = self.flat.excess_bits(latent, symbol)
        bits += self._excess_over_flat[context, latent]
        return bits

    @cached_property
    def _off_bits(self) -> Float64[np.ndarray, "context latent"]:
        bits: Float64[np.ndarray, "context latent"] = np.log1p(
            -self.firing_probability
        ) / -math.log(2)
        return bits

    @cached_property
    def _on_bits(self) -> Float64[np.ndarray, "context latent"]:
        bits: Float64[np.ndarray, "context latent"] = -np.log2(self.firing_probability)
        return bits

    @cached_property
    def _excess_over_flat(self) -> Float64[np.ndarray, "context latent"]:
        """Bits that a nonzero adds to B₀, less those under the flat code, in each context."""
        flat_switch = self.flat.on_latent_bits - self.flat.off_latent_bits
        parents, child = self.forest.parents, self.forest.is_child
        moved = self._off_bits[PARENT_ON] - self._off_bits[PARENT_OFF]
        children = np.bincount(parents[child], moved[child], minlength=len(parents))
        excess: Float64[np.ndarray, "context latent"] = self._on_bits - self._off_bits
        excess += children - flat_switch
        if self.contexts.rule.any():
            for context in range(N_CONTEXTS):
                if (context + 1) % SIBLING_CLASSES:
                    moved = self._off_bits[context + 1] - self._off_bits[context]
                    excess[context] += self.contexts.after(moved)
        return excess

    def _added_bits(self, counts: SymbolCounts, firings: Firings) -> Float64[np.ndarray, " latent"]:
        """Bits of each latent over all tokens, less those under `flat`: supports alone differ."""
        tokens, active = self.contexts.counts(counts, firings)
        k, n = counts.active, counts.n_tokens
        bits: Float64[np.ndarray, " latent"] = -k * self.flat.on_latent_bits
        bits -= (n - k) * self.flat.off_latent_bits
        bits += (active * self._on_bits + (tokens - active) * self._off_bits).sum(axis=0)
        return bits


def parent_firings(counts: SymbolCounts, joint: Int64[np.ndarray, " latent"]) -> Firings:
    """Firings by the parent alone, from counts and `forest.joint_counts` of the same tokens."""
    firings = np.zeros((N_CONTEXTS, len(joint)), dtype=np.int64)
    firings[PARENT_OFF], firings[PARENT_ON] = counts.active - joint, joint
    return firings


def fit_priors(contexts: Contexts, found: ContextCounts) -> Priors:
    """(a, b) of greatest marginal likelihood, of each context of each rule in use (maths §3)."""
    priors = np.full((len(Rule), N_CONTEXTS, 2), 0.5)
    child = contexts.forest.is_child
    for rule in Rule:
        under = np.flatnonzero(child & (contexts.rule == rule))
        for context in told_apart(rule) if len(under) else ():
            tokens, active = found.tokens[context, under], found.active[context, under]
            met = tokens > 0
            priors[rule, context] = fit_beta_prior(active[met], tokens[met])
    return priors


def _chosen_rules(widest: Contexts, books: Sequence[TreeCodebook]) -> Int64[np.ndarray, " latent"]:
    """Of each child, the rule under which its family costs least; the first of equal ones."""
    parents, child = widest.forest.parents, widest.rule > 0
    gains = [
        np.bincount(
            parents[child],
            (book.saved_bits - book.choice_bits)[child],
            minlength=len(parents),
        )
        for book in books
    ]
    best = np.argmax(gains, axis=0)
    return np.where(child, best[parents], int(Rule.PARENT))
