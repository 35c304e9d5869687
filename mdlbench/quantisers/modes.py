"""Operating modes: which quantiser an SAE's latents go through, and which code its symbols.

A mode is fitted at each step on calibration tokens alone. To add one: a `FittedQuantiser`, a
`Code`, and an entry of `MODES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from mdlbench.codes import bitstream, codelength, tree
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.forest import SymbolRuns
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import FittedQuantiser, PlainStep, Reconstruction, Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook
from mdlbench.errors import RecordError, UsageError, did_you_mean
from mdlbench.quantisers.per_feature import Allocation, allocate
from mdlbench.quantisers.rdo import Centroids, fit_rate_aware
from mdlbench.quantisers.trial import Trial
from mdlbench.suite.base import ModeName

Documents = Int64[np.ndarray, " token"]


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
    """A code of symbols, frozen on calibration tokens."""

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

    codebook: Codebook

    @classmethod
    def fit(cls, runs: SymbolRuns, calibration: Calibration) -> Self:
        return cls(Codebook.fit(SymbolCounts.of_runs(runs(), calibration.n_latents)))

    def rates(self, runs: Iterable[tuple[Symbols, Documents]], n_documents: int) -> Rates:
        document_bits = np.zeros(n_documents)

        def price(symbols: Symbols, document: Documents) -> None:
            document_bits[:] += self.codebook.document_bits(symbols, document, n_documents)

        counts, active = counted(runs, self.codebook.counts.n_latents, price)
        return flat_rates(self.codebook, counts, active, document_bits)


@dataclass(frozen=True, eq=False)
class TreeCode:
    """Latents coded given whether their parents are on; the SAE's parents, else learned ones."""

    codebook: TreeCodebook

    @classmethod
    def fit(cls, runs: SymbolRuns, calibration: Calibration) -> Self:
        flat = FlatCode.fit(runs, calibration).codebook
        return cls(TreeCodebook.fit(flat, runs, calibration.parents))

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


@dataclass(frozen=True)
class Calibration:
    """What a mode is fitted on.

    Attributes:
        runs: the calibration tokens' latents, scaled, from the start each time.
        directions: what one unit of each scaled latent adds to the reconstruction, when asked for.
        n_latents: dictionary size D.
        finest: the suite's finest step.
        parents: the SAE's own forest, if it has one.
    """

    runs: Callable[[], Iterator[SparseLatents]]
    directions: Callable[[], Float32[np.ndarray, "latent d_out"]]
    n_latents: int
    finest: float
    parents: Int32[np.ndarray, " latent"] | None

    @cached_property
    def trial(self) -> Trial:
        """On which quantisers are compared."""
        return Trial(self.runs, self.directions(), self.finest)


@dataclass(frozen=True)
class Mode:
    """How latents become symbols and symbols bits, at any step.

    Attributes:
        name: as `eval --quantiser` calls it.
        quantiser: fitted on calibration tokens at a step.
        reconstruction: what a file's step and integers say, for so many latents; raises
            `UsageError` where they say nothing.
        code: fitted on the symbols of calibration tokens.
        normalised: whether decoder norms are folded into the latents first.
        one_count: whether all dyadic steps follow from one count of half-steps (maths §4).
    """

    name: ModeName
    quantiser: Callable[[Calibration, float], FittedQuantiser]
    reconstruction: Callable[[float, Mapping[str, list[int]], int], Reconstruction]
    code: Callable[[SymbolRuns, Calibration], Code] = FlatCode.fit
    normalised: bool = True
    one_count: bool = False


def _plain(calibration: Calibration, step: float) -> FittedQuantiser:
    return PlainStep(step)


def _plain_reconstruction(
    step: float, columns: Mapping[str, list[int]], n_latents: int
) -> Reconstruction:
    if columns:
        raise UsageError(f"a plain step has no {next(iter(columns))!r}")
    return PlainStep(step)


def _allocated(calibration: Calibration, step: float) -> FittedQuantiser:
    return allocate(calibration.trial, step)


def _rate_aware(calibration: Calibration, step: float) -> FittedQuantiser:
    return fit_rate_aware(calibration.trial, step)


MODES: dict[ModeName, Mode] = {
    "normalised": Mode("normalised", _plain, _plain_reconstruction, one_count=True),
    "uniform": Mode("uniform", _plain, _plain_reconstruction, normalised=False, one_count=True),
    "per-feature": Mode("per-feature", _allocated, Allocation.of_columns),
    "rdo": Mode("rdo", _rate_aware, Centroids.of_columns),
    "tree": Mode("tree", _plain, _plain_reconstruction, TreeCode.fit),
}


def mode_of(name: str) -> Mode:
    """The mode of that name; raises `UsageError` naming the nearest one."""
    for known, mode in MODES.items():
        if known == name:
            return mode
    raise UsageError(f"no quantiser {name!r}. {did_you_mean(name, MODES)}")


def described(mode: Mode, quantiser: FittedQuantiser) -> bitstream.QuantiserHeader | None:
    """What a file must say of a quantiser beside its step, if anything."""
    columns = dict(quantiser.columns)
    return bitstream.QuantiserHeader(mode=mode.name, columns=columns) if columns else None


def decoded_values(decoded: bitstream.Decoded) -> SparseLatents:
    """The scaled latents that a file's symbols stand for, from the file alone.

    Raises:
        RecordError: the file's quantiser is not one of mdlbench's, or does not fit its symbols.
    """
    symbols, told = decoded.symbols, decoded.quantiser
    if told is None:
        return PlainStep(decoded.step).values(symbols)
    try:
        mode = mode_of(told.mode)
        known = mode.reconstruction(decoded.step, told.columns, symbols.n_latents)
    except UsageError as error:
        raise RecordError(f"bitstream: quantiser: {error}") from error
    return known.values(symbols)
