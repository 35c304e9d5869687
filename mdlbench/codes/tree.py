"""The tree code: each latent given its parent and its earlier siblings (maths §3).

Roots are priced by the flat codebook. A child has a firing probability for each of its contexts
(`mdlbench.codes.contexts`), and its magnitudes are those of the flat codebook, but for what the
size of its parent's symbol tells about their grade (`mdlbench.codes.grades`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes import codelength
from mdlbench.codes.codelength import BetaPrior, Codebook, Rate, binary_entropy, fit_beta_prior
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
from mdlbench.codes.grades import (
    MOST_LATENTS,
    N_CELLS,
    Cells,
    GradedMagnitudes,
    Grades,
    count_cells,
)
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts

Firings = Int64[np.ndarray, "context latent"]
Priors = Float64[np.ndarray, "rule context 2"]
"""(a, b) by rule and context, shared by the children of all families under that rule."""

CHOICES = 2
"""Times that the rules of families are chosen; the second time by the priors of the first."""


class Placed(NamedTuple):
    """Where each nonzero of a run stands: its context, and its cell (`codes.grades`), if asked."""

    context: Int64[np.ndarray, " nnz"]
    cell: Int64[np.ndarray, " nnz"] | None = None


class Met(NamedTuple):
    """What the tree code must know of some tokens beside their symbol counts.

    Attributes:
        firings: of each latent by context.
        cells: nonzeros of each latent by cell; no rows where magnitudes are those of the flat code.
    """

    firings: Firings
    cells: Cells

    @classmethod
    def none(cls, n_latents: int, graded: bool) -> Met:
        """That of no token."""
        empty = np.zeros((N_CONTEXTS + N_CELLS * graded, n_latents), dtype=np.int64)
        return cls(*np.split(empty, [N_CONTEXTS]))

    def add(self, placed: Placed, latent: Int32[np.ndarray, " nnz"], contexts: Contexts) -> None:
        """Count one more run, in place."""
        self.firings[:] += contexts.count(latent, placed.context)
        if placed.cell is not None:
            self.cells[:] += count_cells(latent, placed.cell, len(contexts.rule))

    @classmethod
    def sum(cls, parts: Iterable[Met]) -> Met:
        """What was met in all parts, of which there is at least one."""
        firings, cells = zip(*parts, strict=True)
        return cls(np.sum(firings, axis=0), np.sum(cells, axis=0))


def plugin(contexts: Contexts, counts: SymbolCounts, firings: Firings) -> Rate:
    """Σ over contexts of their tokens times H₂ of the share that fires, and magnitudes (maths §3).

    Magnitudes are those of the flat code; `firings` are `contexts.firings` of the tokens that
    `counts` are of.
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
        flat: prices roots, and magnitudes where the parent's symbol tells nothing of them.
        contexts: the edges in use, and what each family's contexts tell apart.
        told: firings of the calibration tokens in the contexts told apart, those of roots in the
            first; None where all are roots.
        priors: (a, b); of rules and contexts that are not in use, ½ and ½.
        firing_probability: probability of each latent in each of the finest contexts, in (0, 1).
        magnitudes: given parents' symbols; None where all are those of the flat code.
    """

    flat: Codebook
    contexts: Contexts
    told: Firings | None
    priors: Priors
    firing_probability: Float64[np.ndarray, "context latent"]
    magnitudes: GradedMagnitudes | None = None

    @classmethod
    def fit(
        cls, flat: Codebook, runs: Runs[Symbols], parents: np.ndarray | None = None
    ) -> TreeCodebook:
        """The tree code of the tokens that `flat` was fitted on.

        It never costs those tokens more than `flat` does, header included, nor than a tree code
        that knows of parents alone: edges that do not save what their joint count costs are
        dropped, unless all of them together save more once siblings are told apart; contexts tell
        siblings apart, and magnitudes their parents' grades, where that saves more than it costs;
        and all edges are dropped, unless together they save more than `header_bits`.

        Args:
            flat: the codebook of the same tokens.
            runs: their symbols; measured once along all given edges, or to learn them, and then
                once or twice for siblings and magnitudes.
            parents: each latent's parent, −1 for a root; None learns them
                (`forest.learn_forest`).

        Raises:
            CoderError: parents are not a forest of these latents, or runs cannot be the tokens
                that `flat` was fitted on.
        """
        whole = cls._of_all_edges(flat, runs, parents)
        alone = whole.pruned()
        books = alone.told_more(runs)
        if alone.forest.n_edges < whole.forest.n_edges:
            books += whole.told_more(runs)
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
            forest, joint = learn_forest(runs, flat.counts)
        else:
            forest = Forest.from_parents(parents)
            joint = np.sum(runs.map(forest.joint_counts), axis=0)
        return cls.of_forest(flat, forest, joint)

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
    def of_contexts(
        cls,
        flat: Codebook,
        contexts: Contexts,
        firings: Firings,
        fitted: dict[bytes, BetaPrior] | None = None,
    ) -> TreeCodebook:
        """The code with all of these edges and rules, whether they pay or not.

        `firings` are `contexts.firings` of the tokens that `flat` was fitted on, or those of
        contexts of the same families that tell more apart. `fitted` is that of `fit_priors`.
        """
        priors = fit_priors(contexts, contexts.counts(flat.counts, firings), fitted)
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

    def told_more(self, runs: Runs[Symbols]) -> list[TreeCodebook]:
        """The same edges, contexts by parents alone and `with_siblings`; both `with_grades`.

        Args:
            runs: the calibration tokens.
        """
        if not self.forest.n_edges:
            return [self]
        widest = self.contexts.ruled(self.contexts.widest)
        grades = Grades.of(self.flat) if len(widest.rule) <= MOST_LATENTS else None
        met = Met.sum(runs.map(partial(_met, widest, grades)))
        return [
            book.with_grades(met.cells) for book in (self, self.with_siblings(widest, met.firings))
        ]

    def with_grades(self, cells: Cells) -> TreeCodebook:
        """The same code of supports, magnitudes given parents' symbols where that pays.

        `cells` are those of the calibration tokens; without any, magnitudes stay as they are.
        """
        if not len(cells):
            return self
        return replace(self, magnitudes=GradedMagnitudes.fit(self.flat, self.forest, cells))

    def with_siblings(self, widest: Contexts, firings: Firings) -> TreeCodebook:
        """The same edges, each family under the rule that costs calibration tokens least.

        A rule is chosen by what a family saves under it, less the bits of its counts; each rule
        with the priors that it has if all families are under it, and then once more with those of
        the families that chose it. Whether all of it saves what naming the rules costs is left to
        `gained_bits`.

        Args:
            widest: its contexts under the rules that tell most apart.
            firings: of the calibration tokens in these.
        """
        if not widest.rule.any():
            return self
        ruled = [widest.ruled(np.minimum(widest.rule, rule)) for rule in Rule]
        of_contexts = partial(TreeCodebook.of_contexts, self.flat, firings=firings, fitted={})
        books = [of_contexts(contexts) for contexts in ruled]
        priors = np.stack([book.priors[rule] for rule, book in zip(Rule, books, strict=True)])
        for _ in range(CHOICES):
            chosen = widest.ruled(_chosen_rules(widest, books))
            book = of_contexts(chosen)
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
    def own(self) -> Met:
        """What was met in the calibration tokens."""
        if self.magnitudes is None:
            return Met(self.firings, Met.none(len(self.contexts.rule), False).cells)
        return Met(self.firings, self.magnitudes.cells)

    def placed(self, symbols: Symbols) -> Placed:
        """Where the nonzeros of a run stand."""
        return _placed(self.contexts, self._grades, symbols)

    def met(self, runs: Iterable[Symbols]) -> Met:
        """What is met in some tokens."""
        return _met(self.contexts, self._grades, runs)

    @property
    def _grades(self) -> Grades | None:
        return None if self.magnitudes is None else self.magnitudes.grades

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

        Parents and joint counts; the rules of families, and what these tell apart; the kinds of
        edges, and their counts.
        """
        bits = self.forest.header_bits + self.contexts.rule_bits
        bits += float(self.joint_bits.sum() + self.choice_bits.sum())
        if self.magnitudes is not None:
            bits += self.magnitudes.kind_bits(self.forest)
            bits += float(self.magnitudes.choice_bits.sum())
        return bits

    @cached_property
    def saved_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits by which each latent costs all calibration tokens less than under `flat`."""
        added = self._added_bits(self.flat.counts, self.firings)
        saved: Float64[np.ndarray, " latent"] = self._magnitude_bits(self.own) - added
        return saved

    @property
    def gained_bits(self) -> float:
        """Bits by which all calibration tokens cost less than under `flat`, header included."""
        return float(self.saved_bits.sum()) - self.header_bits

    @property
    def off_bits(self) -> float:
        """B₀, the bits of a token with nothing on."""
        return float(self._off_bits[PARENT_OFF].sum())

    def bits(self, counts: SymbolCounts, met: Met) -> Rate:
        """`heldout` of other tokens, from their counts and what was `met` (maths §3)."""
        flat, n_tokens = self.flat.bits(counts), max(counts.n_tokens, 1)
        added = float(self._added_bits(counts, met.firings).sum()) / n_tokens
        saved = float(self._magnitude_bits(met).sum()) / n_tokens
        return Rate(flat.support + added, flat.magnitude - saved)

    def plugin(self, counts: SymbolCounts, met: Met) -> Rate:
        """`plugin` of other tokens in these contexts, magnitudes given parents' symbols (maths §3).

        Grades and kinds are those of calibration; frequencies are those of `counts` and `met`.
        """
        rate = plugin(self.contexts, counts, met.firings)
        if self.magnitudes is None:
            return rate
        told = self.magnitudes.told_bits(met.cells) / max(counts.n_tokens, 1)
        return Rate(rate.support, rate.magnitude - told)

    def latent_bits(self, counts: SymbolCounts, met: Met) -> Float64[np.ndarray, " latent"]:
        """Bits per token of each latent given its context; they add up to `bits` (maths §1)."""
        bits = self.flat.latent_bits(counts)
        added = self._added_bits(counts, met.firings) - self._magnitude_bits(met)
        bits += added / max(counts.n_tokens, 1)
        return bits

    def document_bits(
        self,
        symbols: Symbols,
        document: Int64[np.ndarray, " token"],
        n_documents: int,
        placed: Placed | None = None,
    ) -> Float64[np.ndarray, " document"]:
        """`heldout` bits of each document; `document` numbers that of each token of the run.

        Documents without a token here cost 0, so that the parts of a split add up. `placed` is
        that of the symbols, if it is known already.
        """
        placed = self.placed(symbols) if placed is None else placed
        excess = self.excess_bits(placed.context, symbols.latent, symbols.symbol)
        if self.magnitudes is not None and placed.cell is not None:
            excess -= self.magnitudes.saved[placed.cell, symbols.latent]
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

        Its magnitude costs what it does by the flat code, whatever its parent's symbol is.

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
        """Bits of each latent's support over all tokens, less those under `flat`."""
        tokens, active = self.contexts.counts(counts, firings)
        k, n = counts.active, counts.n_tokens
        bits: Float64[np.ndarray, " latent"] = -k * self.flat.on_latent_bits
        bits -= (n - k) * self.flat.off_latent_bits
        bits += (active * self._on_bits + (tokens - active) * self._off_bits).sum(axis=0)
        return bits

    def _magnitude_bits(self, met: Met) -> Float64[np.ndarray, " latent"]:
        """Bits by which magnitudes of each latent cost less than under `flat`, over all tokens."""
        if self.magnitudes is None:
            return np.zeros(len(self.contexts.rule))
        return self.magnitudes.saved_bits(met.cells)


def _met(contexts: Contexts, grades: Grades | None, runs: Iterable[Symbols]) -> Met:
    """What is met in runs, or in a part of a split, by these contexts and grades."""
    met = Met.none(len(contexts.rule), grades is not None)
    for run in runs:
        met.add(_placed(contexts, grades, run), run.latent, contexts)
    return met


def _placed(contexts: Contexts, grades: Grades | None, symbols: Symbols) -> Placed:
    parent_at = contexts.forest.parent_at(symbols)
    context = contexts.at(symbols, parent_at)
    return Placed(context, None if grades is None else grades.cells(symbols, parent_at))


def parent_firings(counts: SymbolCounts, joint: Int64[np.ndarray, " latent"]) -> Firings:
    """Firings by the parent alone, from counts and `forest.joint_counts` of the same tokens."""
    firings = np.zeros((N_CONTEXTS, len(joint)), dtype=np.int64)
    firings[PARENT_OFF], firings[PARENT_ON] = counts.active - joint, joint
    return firings


def fit_priors(
    contexts: Contexts, found: ContextCounts, fitted: dict[bytes, BetaPrior] | None = None
) -> Priors:
    """(a, b) of greatest marginal likelihood, of each context of each rule in use (maths §3).

    Where rules share a context, its prior is fitted once; `fitted` are those known from other
    rules, by digests of their counts, and those found are added.
    """
    fitted = {} if fitted is None else fitted
    priors = np.full((len(Rule), N_CONTEXTS, 2), 0.5)
    child = contexts.forest.is_child
    for rule in Rule:
        under = np.flatnonzero(child & (contexts.rule == rule))
        for context in told_apart(rule) if len(under) else ():
            tokens, active = found.tokens[context, under], found.active[context, under]
            met = tokens > 0
            counts = np.stack([active[met], tokens[met]])
            key = hashlib.sha256(counts.tobytes()).digest()
            if key not in fitted:
                fitted[key] = fit_beta_prior(*counts)
            priors[rule, context] = fitted[key]
    return priors


def _chosen_rules(widest: Contexts, books: Sequence[TreeCodebook]) -> Int64[np.ndarray, " latent"]:
    """Each child's rule: that under which its family costs least, the first of equal ones."""
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
