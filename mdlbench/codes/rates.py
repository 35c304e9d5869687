"""The codes that a mode may have, and what a split costs by each (maths §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes import codelength, tree
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.forest import SymbolRuns
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook

Documents = Int64[np.ndarray, " token"]
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
    def fit(cls, runs: SymbolRuns, n_latents: int, parents: Parents = None) -> Self:
        """The code of these tokens; `parents` are the SAE's own, if it has any."""
        ...

    @property
    def codebook(self) -> Codebook | TreeCodebook:
        """What a bitstream is written with."""
        ...

    def rates(self, runs: Iterable[tuple[Symbols, Documents]], n_documents: int) -> Rates:
        """What a split costs, from one pass over its symbols and their documents."""
        ...


@dataclass(frozen=True, eq=False)
class FlatCode:
    """Latents coded without knowledge of each other."""

    in_words: ClassVar[str] = "latents coded independently of each other"
    codebook: Codebook

    @classmethod
    def fit(cls, runs: SymbolRuns, n_latents: int, parents: Parents = None) -> Self:
        """On calibration tokens; there are no parents to look at."""
        return cls(Codebook.fit(SymbolCounts.of_runs(runs(), n_latents)))

    def rates(self, runs: Iterable[tuple[Symbols, Documents]], n_documents: int) -> Rates:
        document_bits = np.zeros(n_documents)

        def price(symbols: Symbols, document: Documents) -> None:
            document_bits[:] += self.codebook.document_bits(symbols, document, n_documents)

        counts, active = counted(runs, self.codebook.counts.n_latents, price)
        return flat_rates(self.codebook, counts, active, document_bits)


@dataclass(frozen=True, eq=False)
class TreeCode:
    """Latents coded given whether their parents are on; the SAE's parents, else learned ones."""

    in_words: ClassVar[str] = "each latent given whether its parent is on"
    codebook: TreeCodebook

    @classmethod
    def fit(cls, runs: SymbolRuns, n_latents: int, parents: Parents = None) -> Self:
        """On calibration tokens; without parents, they are learned."""
        flat = FlatCode.fit(runs, n_latents).codebook
        return cls(TreeCodebook.fit(flat, runs, parents))

    def rates(self, runs: Iterable[tuple[Symbols, Documents]], n_documents: int) -> Rates:
        book, forest = self.codebook, self.codebook.forest
        document_bits = np.zeros(n_documents)
        joint = np.zeros(len(forest.parents), dtype=np.int64)

        def price(symbols: Symbols, document: Documents) -> None:
            document_bits[:] += book.document_bits(symbols, document, n_documents)
            joint[:] += forest.joint_counts([symbols])

        counts, active = counted(runs, len(forest.parents), price)
        return replace(
            flat_rates(book.flat, counts, active, document_bits),
            plugin=tree.plugin(counts, forest, joint),
            heldout=book.bits(counts, joint).total,
            latent_bits=book.latent_bits(counts, joint),
            header_bits=book.header_bits,
        )


def counted(
    runs: Iterable[tuple[Symbols, Documents]],
    n_latents: int,
    price: Callable[[Symbols, Documents], None],
) -> tuple[SymbolCounts, Int64[np.ndarray, " active"]]:
    """Counts of all runs, and tokens by number of active latents; each run is priced on the way."""
    active = [np.zeros(0, dtype=np.int64)]

    def priced() -> Iterator[Symbols]:
        for symbols, document in runs:
            price(symbols, document)
            active.append(symbols.active_per_token)
            yield symbols

    counts = SymbolCounts.of_runs(priced(), n_latents)
    return counts, np.bincount(np.concatenate(active))


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
