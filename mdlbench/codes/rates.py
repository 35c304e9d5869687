"""The codes that a mode may have, and what a split costs by each (maths §3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes import codelength
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts, padded_sum
from mdlbench.codes.tree import Met, TreeCodebook

DocumentSymbols = tuple[Symbols, Int64[np.ndarray, " token"]]
"""A run's symbols, and the document of each of its tokens."""
Parents = Int32[np.ndarray, " latent"] | None


@dataclass(frozen=True)
class Rates:
    """Bits per token of the test split at one step, by every code (maths §3).

    Attributes:
        document_bits: `heldout` bits of each document, side information not included.
        latent_bits: `heldout` bits per token of each latent.
        firing_rates: share of tokens on which each latent has a nonzero symbol.
        l0: nonzero symbols per token.
        header_bits: bits, sent once, that the code's decoder must be told beside the codebook.
    """

    plugin: codelength.Rate
    heldout: float
    adaptive: float
    enumerative: float
    bound: float
    l0: float
    document_bits: Float64[np.ndarray, " document"]
    latent_bits: Float64[np.ndarray, " latent"]
    firing_rates: Float64[np.ndarray, " latent"]
    header_bits: float = 0.0


class Code(Protocol):
    """A code of symbols, frozen on calibration tokens.

    Attributes:
        in_words: how it codes latents, for a paper: "the codebook, …".
    """

    in_words: ClassVar[str]

    @classmethod
    def fit(cls, runs: Runs[Symbols], n_latents: int, parents: Parents = None) -> Self:
        """The code of these tokens; `parents` are the SAE's own, if it has any."""
        ...

    @property
    def codebook(self) -> Codebook | TreeCodebook:
        """What a bitstream is written with."""
        ...

    def rates(self, runs: Runs[DocumentSymbols], n_documents: int) -> Rates:
        """What a split costs, from one pass over its symbols and their documents."""
        ...


@dataclass(frozen=True, eq=False)
class FlatCode:
    """Latents coded without knowledge of each other."""

    in_words: ClassVar[str] = "latents coded independently of each other"
    codebook: Codebook

    @classmethod
    def fit(cls, runs: Runs[Symbols], n_latents: int, parents: Parents = None) -> Self:
        """On calibration tokens; there are no parents to look at."""
        return cls(Codebook.fit(counted(runs, n_latents)))

    def rates(self, runs: Runs[DocumentSymbols], n_documents: int) -> Rates:
        split = Priced.of(runs, self.codebook, self.codebook.counts.n_latents, n_documents)
        return flat_rates(self.codebook, split.counts, split.active, split.document_bits)


@dataclass(frozen=True, eq=False)
class TreeCode:
    """Latents coded given parents and earlier siblings; the SAE's parents, else learned ones."""

    in_words: ClassVar[str] = (
        "each latent given whether its parent is on and, where that pays, how many of its earlier "
        "siblings are, its magnitude given how large the parent's is"
    )
    codebook: TreeCodebook

    @classmethod
    def fit(cls, runs: Runs[Symbols], n_latents: int, parents: Parents = None) -> Self:
        """On calibration tokens; without parents, they are learned."""
        flat = FlatCode.fit(runs, n_latents).codebook
        return cls(TreeCodebook.fit(flat, runs, parents))

    def rates(self, runs: Runs[DocumentSymbols], n_documents: int) -> Rates:
        book = self.codebook
        split = Priced.of(runs, book, book.flat.counts.n_latents, n_documents)
        return replace(
            flat_rates(book.flat, split.counts, split.active, split.document_bits),
            plugin=book.plugin(split.counts, split.met),
            heldout=book.bits(split.counts, split.met).total,
            latent_bits=book.latent_bits(split.counts, split.met),
            header_bits=book.header_bits,
        )


def counted(runs: Runs[Symbols], n_latents: int) -> SymbolCounts:
    """How often each latent takes each symbol over all runs."""
    return reduce(add, runs.map(partial(_counted_part, n_latents)))


def _counted_part(n_latents: int, part: Part[Symbols]) -> SymbolCounts:
    return SymbolCounts.of_runs(part, n_latents)


class Priced(NamedTuple):
    """What one pass over a split finds; the parts of a split add up to it.

    Attributes:
        counts: of symbols.
        active: tokens by number of active latents.
        document_bits: of each document; 0 for those without a token.
        met: by the tree code, what it must know beside counts; by the flat code, nothing.
    """

    counts: SymbolCounts
    active: Int64[np.ndarray, " active"]
    document_bits: Float64[np.ndarray, " document"]
    met: Met

    @classmethod
    def of(
        cls,
        runs: Runs[DocumentSymbols],
        book: Codebook | TreeCodebook,
        n_latents: int,
        n_documents: int,
    ) -> Priced:
        """A split's, merged from its parts."""
        parts = runs.map(partial(_priced_part, book, n_latents, n_documents))
        counts, active, document_bits, met = zip(*parts, strict=True)
        return cls(
            reduce(add, counts),
            reduce(padded_sum, active),
            np.sum(document_bits, axis=0),
            Met.sum(met),
        )


def _priced_part(
    book: Codebook | TreeCodebook,
    n_latents: int,
    n_documents: int,
    part: Part[DocumentSymbols],
) -> Priced:
    document_bits = np.zeros(n_documents)
    met = Met.none(n_latents, isinstance(book, TreeCodebook) and book.magnitudes is not None)
    active = [np.zeros(0, dtype=np.int64)]

    def priced() -> Iterator[Symbols]:
        for symbols, document in part:
            if isinstance(book, TreeCodebook):
                placed = book.placed(symbols)
                bits = book.document_bits(symbols, document, n_documents, placed)
                met.add(placed, symbols.latent, book.contexts)
            else:
                bits = book.document_bits(symbols, document, n_documents)
            document_bits[:] += bits
            active.append(symbols.active_per_token)
            yield symbols

    counts = SymbolCounts.of_runs(priced(), n_latents)
    return Priced(counts, np.bincount(np.concatenate(active)), document_bits, met)


def flat_rates(
    codebook: Codebook,
    counts: SymbolCounts,
    active_histogram: Int64[np.ndarray, " active"],
    document_bits: Float64[np.ndarray, " document"],
) -> Rates:
    """Every code of the same symbols (maths §3)."""
    heldout = codebook.bits(counts)
    return Rates(
        plugin=codelength.plugin(counts),
        heldout=heldout.total,
        adaptive=codelength.adaptive(counts),
        enumerative=codelength.enumerative(counts, active_histogram, heldout.magnitude),
        bound=codelength.bound(counts),
        l0=counts.l0,
        document_bits=document_bits,
        latent_bits=codebook.latent_bits(counts),
        firing_rates=counts.active / max(counts.n_tokens, 1),
    )
