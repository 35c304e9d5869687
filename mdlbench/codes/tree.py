"""The tree code: which latents are on, each given whether its parent is (maths §3).

Magnitudes are priced by the flat codebook, and so are the supports of roots. A child has two
firing probabilities, one for tokens on which its parent is on and one for the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from mdlbench.codes import codelength
from mdlbench.codes.codelength import BetaPrior, Codebook, Rate, binary_entropy, fit_beta_prior
from mdlbench.codes.forest import Forest, joint_count_bits, learn_forest
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.errors import CoderError

PARENT_OFF, PARENT_ON = 0, 1
"""The contexts of a latent, as the first index of arrays. The parent of a root is always off."""


class ContextCounts(NamedTuple):
    """How often each latent could have fired in each context, and how often it did.

    Attributes:
        tokens: N − k_p with the parent off, k_p with the parent on; N and 0 for roots.
        active: k_c − k_pc with the parent off, k_pc with the parent on.
    """

    tokens: Int64[np.ndarray, "2 latent"]
    active: Int64[np.ndarray, "2 latent"]

    @classmethod
    def of(
        cls, forest: Forest, counts: SymbolCounts, joint: Int64[np.ndarray, " latent"]
    ) -> ContextCounts:
        """The contexts' counts, from counts and `forest.joint_counts` of the same tokens.

        Raises:
            CoderError: they cannot come from the same tokens.
        """
        k = counts.active
        if not len(forest.parents) == len(k) == len(joint):
            raise CoderError(
                f"a forest of {len(forest.parents)} latents does not fit counts of {len(k)}"
            )
        above = np.where(forest.is_child, k[forest.parents], 0)
        tokens = np.stack([counts.n_tokens - above, above])
        active = np.stack([k - joint, joint])
        if ((active < 0) | (active > tokens)).any():
            raise CoderError("joint counts and symbol counts come from different tokens")
        return cls(tokens, active)


def plugin(counts: SymbolCounts, forest: Forest, joint: Int64[np.ndarray, " latent"]) -> Rate:
    """Σ [k_p·H₂(k_pc/k_p) + (N−k_p)·H₂((k_c−k_pc)/(N−k_p))]/N and magnitudes (maths §3)."""
    tokens, active = ContextCounts.of(forest, counts, joint)
    share = np.divide(active, tokens, where=tokens > 0, out=np.zeros(tokens.shape))
    support = float((tokens * binary_entropy(share)).sum()) / max(counts.n_tokens, 1)
    return Rate(support, codelength.plugin(counts).magnitude)


@dataclass(frozen=True, eq=False)
class TreeCodebook:
    """The frozen tree code of calibration tokens (maths §3).

    Child c fires with (k_pc + a)/(k_p + a + b) where its parent is on, and with
    (k_c − k_pc + a')/(N − k_p + a' + b') where it is off. All children share either prior, which
    has the greatest Beta-binomial marginal likelihood.

    Attributes:
        flat: prices magnitudes, and roots.
        forest: the edges in use.
        joint: k_pc of the calibration tokens, 0 for roots.
        priors: (a', b') for a parent that is off, (a, b) for one that is on.
        firing_probability: probability of each latent in each context, in (0, 1).
    """

    flat: Codebook
    forest: Forest
    joint: Int64[np.ndarray, " latent"]
    priors: tuple[BetaPrior, BetaPrior]
    firing_probability: Float64[np.ndarray, "2 latent"]

    @classmethod
    def fit(
        cls, flat: Codebook, runs: Runs[Symbols], parents: np.ndarray | None = None
    ) -> TreeCodebook:
        """The tree code of the tokens that `flat` was fitted on.

        It never costs those tokens more than `flat` does, header included: edges that do not save
        what their joint count costs are dropped, and then all of them, unless together they save
        more than `header_bits`.

        Args:
            flat: the codebook of the same tokens.
            runs: their symbols.
            parents: each latent's parent, −1 for a root; None learns them
                (`forest.learn_forest`).

        Raises:
            CoderError: parents are not a forest of these latents, or runs cannot be the tokens
                that `flat` was fitted on.
        """
        if parents is None:
            forest = learn_forest(runs, flat.counts)
        else:
            forest = Forest.from_parents(parents)
        return cls.pruned(flat, forest, np.sum(runs.map(forest.joint_counts), axis=0))

    @classmethod
    def pruned(
        cls, flat: Codebook, forest: Forest, joint: Int64[np.ndarray, " latent"]
    ) -> TreeCodebook:
        """The code with the edges that pay on the calibration tokens, if any does."""
        while True:
            book = cls.of_forest(flat, forest, joint)
            pays = forest.is_child & (book.saved_bits > book.joint_bits)
            if pays.sum() == forest.n_edges:
                break
            forest, joint = forest.only(pays), np.where(pays, joint, 0)
        return book if book.saved_bits.sum() > book.header_bits else cls.without_edges(flat)

    @classmethod
    def without_edges(cls, flat: Codebook) -> TreeCodebook:
        """The flat code as a tree code: all latents are roots."""
        n_latents = flat.counts.n_latents
        return cls(
            flat,
            Forest.of_roots(n_latents),
            joint=np.zeros(n_latents, dtype=np.int64),
            priors=(flat.prior, flat.prior),
            firing_probability=np.broadcast_to(flat.firing_probability, (2, n_latents)),
        )

    @classmethod
    def of_forest(
        cls, flat: Codebook, forest: Forest, joint: Int64[np.ndarray, " latent"]
    ) -> TreeCodebook:
        """The tree code of the calibration tokens with all of these edges, whether they pay or not.

        `joint` is `forest.joint_counts` of the tokens that `flat` was fitted on.
        """
        tokens, active = ContextCounts.of(forest, flat.counts, joint)
        child = forest.is_child
        off, on = (fit_beta_prior(k[child], n[child]) for k, n in zip(active, tokens, strict=True))
        return cls.build(flat, forest, joint, (off, on))

    @classmethod
    def build(
        cls,
        flat: Codebook,
        forest: Forest,
        joint: Int64[np.ndarray, " latent"],
        priors: tuple[BetaPrior, BetaPrior],
    ) -> TreeCodebook:
        """The tree code of given hyperparameters, as a decoder rebuilds it."""
        tokens, active = ContextCounts.of(forest, flat.counts, joint)
        a, b = np.array(priors).T[:, :, None]
        firing = (active + a) / (tokens + a + b)
        firing = np.where(forest.is_child, firing, flat.firing_probability)
        return cls(flat, forest, joint, priors, firing)

    def with_signs(self) -> TreeCodebook:
        """The same code, but that a symbol which calibration never showed may be negative."""
        return replace(self, flat=self.flat.with_signs())

    @cached_property
    def joint_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits of the joint counts k_pc, sent once."""
        counts = self.flat.counts
        return joint_count_bits(self.forest, counts.active, counts.n_tokens)

    @property
    def header_bits(self) -> float:
        """Bits of what the decoder needs beside the flat codebook: parents and joint counts."""
        return self.forest.header_bits + float(self.joint_bits.sum())

    @cached_property
    def saved_bits(self) -> Float64[np.ndarray, " latent"]:
        """Bits by which each latent costs all calibration tokens less than under `flat`."""
        return -self._added_bits(self.flat.counts, self.joint)

    @property
    def off_bits(self) -> float:
        """B₀, the bits of a token with nothing on."""
        return float(self._off_bits[PARENT_OFF].sum())

    def bits(self, counts: SymbolCounts, joint: Int64[np.ndarray, " latent"]) -> Rate:
        """`heldout` of other tokens, from their counts and `forest.joint_counts` (maths §3)."""
        flat = self.flat.bits(counts)
        added = float(self._added_bits(counts, joint).sum()) / max(counts.n_tokens, 1)
        return Rate(flat.support + added, flat.magnitude)

    def latent_bits(
        self, counts: SymbolCounts, joint: Int64[np.ndarray, " latent"]
    ) -> Float64[np.ndarray, " latent"]:
        """Bits per token of each latent given its parent; they add up to `bits` (maths §1)."""
        added = self._added_bits(counts, joint) / max(counts.n_tokens, 1)
        return self.flat.latent_bits(counts) + added

    def document_bits(
        self, symbols: Symbols, document: Int64[np.ndarray, " token"], n_documents: int
    ) -> Float64[np.ndarray, " document"]:
        """`heldout` bits of each document; `document` numbers that of each token of the run.

        Documents without a token here cost 0, so that the parts of a split add up.
        """
        excess = self.excess_bits(self.forest.parent_on(symbols), symbols.latent, symbols.symbol)
        tokens = np.bincount(document, minlength=n_documents)
        owner = document[symbols.token]
        bits: Float64[np.ndarray, " document"] = tokens * self.off_bits
        bits += np.bincount(owner, weights=excess, minlength=n_documents)
        return bits

    def excess_bits(
        self,
        parent_on: Bool[np.ndarray, " n"],
        latent: Int32[np.ndarray, " n"],
        symbol: Int32[np.ndarray, " n"],
    ) -> Float64[np.ndarray, " n"]:
        """What each nonzero symbol adds to B₀, its parent being on or off.

        It costs what firing in its context costs, and it moves its children from one context to
        the other, whether they fire or not; the children that do fire take this into account.

        Raises:
            CoderError: a negative symbol, and calibration showed positive ones only.
        """
        bits = self.flat.excess_bits(latent, symbol)
        bits += self._excess_over_flat[parent_on.astype(np.int64), latent]
        return bits

    @cached_property
    def _off_bits(self) -> Float64[np.ndarray, "2 latent"]:
        bits: Float64[np.ndarray, "2 latent"] = np.log1p(-self.firing_probability) / -math.log(2)
        return bits

    @cached_property
    def _on_bits(self) -> Float64[np.ndarray, "2 latent"]:
        bits: Float64[np.ndarray, "2 latent"] = -np.log2(self.firing_probability)
        return bits

    @cached_property
    def _excess_over_flat(self) -> Float64[np.ndarray, "2 latent"]:
        """Bits that a nonzero adds to B₀, less those under the flat code, in each context."""
        flat_switch = self.flat.on_latent_bits - self.flat.off_latent_bits
        parents, child = self.forest.parents, self.forest.is_child
        moved = self._off_bits[PARENT_ON] - self._off_bits[PARENT_OFF]
        children = np.bincount(parents[child], moved[child], minlength=len(parents))
        excess: Float64[np.ndarray, "2 latent"] = self._on_bits - self._off_bits
        excess += children - flat_switch
        return excess

    def _added_bits(
        self, counts: SymbolCounts, joint: Int64[np.ndarray, " latent"]
    ) -> Float64[np.ndarray, " latent"]:
        """Bits of each latent over all tokens, less those under `flat`: supports alone differ."""
        tokens, active = ContextCounts.of(self.forest, counts, joint)
        k, n = counts.active, counts.n_tokens
        bits: Float64[np.ndarray, " latent"] = -k * self.flat.on_latent_bits
        bits -= (n - k) * self.flat.off_latent_bits
        bits += (active * self._on_bits + (tokens - active) * self._off_bits).sum(axis=0)
        return bits
