"""Boolean latents drawn at random and priced by the harness's own codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mdlbench.codes import codelength, tree
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.contexts import Contexts
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols, quantise
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook
from mdlbench.statistics.bootstrap import Bootstrap

Booleans = Bool[np.ndarray, "token latent"]

STEP = 1.0
"""An active boolean latent is 1: one step of the quantiser."""


@dataclass(frozen=True, eq=False)
class Documents:
    """Equally long documents that a test draw is cut into, and their resamples.

    Tokens are drawn independently, so a document is only a unit to resample: how long it is does
    not matter as long as there are many.

    Attributes:
        of_token: the document of each token.
        bootstrap: resamples of the documents.
    """

    of_token: Int64[np.ndarray, " token"]
    bootstrap: Bootstrap

    @classmethod
    def cut(cls, documents: int, tokens_each: int, replicates: int, seed: int) -> Documents:
        lengths = np.full(documents, float(tokens_each))
        of_token = np.repeat(np.arange(documents), tokens_each)
        return cls(of_token, Bootstrap(lengths, replicates, seed))

    @property
    def n_tokens(self) -> int:
        return len(self.of_token)

    def __len__(self) -> int:
        return int(self.of_token[-1]) + 1


@dataclass(frozen=True, eq=False)
class Coded:
    """What a test draw takes under codes of the harness, in bits in all.

    Attributes:
        plugin: `plugin` (maths §3), fitted on the test draw itself.
        heldout: `heldout` of each document, its codebook fitted on the calibration draw.
    """

    plugin: float
    heldout: Float64[np.ndarray, " document"]


@dataclass(frozen=True)
class SimulatedMean:
    """Bits per token of a simulated code, or of the difference between two.

    Attributes:
        bits: `heldout`.
        low, high: 95% bootstrap interval over documents of the test draw.
    """

    bits: float
    low: float
    high: float

    @classmethod
    def of(cls, heldout: Float64[np.ndarray, " document"], documents: Documents) -> SimulatedMean:
        low, high = documents.bootstrap.interval(heldout)
        return cls(float(heldout.sum()) / documents.n_tokens, low, high)

    def contains(self, bits: float) -> bool:
        return self.low <= bits <= self.high

    def columns(self, name: str) -> dict[str, float]:
        """The cells of a table's row."""
        return {name: self.bits, f"{name} low": self.low, f"{name} high": self.high}


@dataclass(frozen=True)
class Priced:
    """A code's closed form beside what the harness's codes take for a test draw; bits per token.

    Attributes:
        exact: closed form at the true probabilities.
        plugin: too small by about bins/(2N·ln 2) (maths §3), and not to be resampled (maths §7).
        heldout: with its interval. Its expectation is a cross-entropy: above `exact` by what it
            costs that the codebook was learned, about bins/(2N·ln 2).
    """

    exact: float
    plugin: float
    heldout: SimulatedMean

    @classmethod
    def of(cls, exact: float, coded: Coded, documents: Documents) -> Priced:
        heldout = SimulatedMean.of(coded.heldout, documents)
        return cls(float(exact), coded.plugin / documents.n_tokens, heldout)

    @property
    def agrees(self) -> bool:
        """Whether the closed form lies within the interval."""
        return self.heldout.contains(self.exact)

    def columns(self, name: str) -> dict[str, float | bool]:
        """The cells of a table's row, each named after the code."""
        return {
            f"{name} exact": self.exact,
            f"{name} plugin": self.plugin,
            **self.heldout.columns(f"{name} heldout"),
            f"{name} within": self.agrees,
        }


@dataclass(frozen=True)
class Comparison:
    """Two codes of the same test draw.

    Attributes:
        plain, other: the codes.
        saved: what the other one saves, paired over documents.
    """

    plain: Priced
    other: Priced
    saved: SimulatedMean

    @classmethod
    def of(
        cls, exact: tuple[float, float], coded: tuple[Coded, Coded], documents: Documents
    ) -> Comparison:
        plain, other = (Priced.of(e, c, documents) for e, c in zip(exact, coded, strict=True))
        return cls(plain, other, SimulatedMean.of(coded[0].heldout - coded[1].heldout, documents))

    @property
    def exact_saving(self) -> float:
        return self.plain.exact - self.other.exact

    @property
    def saving_agrees(self) -> bool:
        """Whether the closed forms' difference lies within the interval of the paired one."""
        return self.saved.contains(self.exact_saving)

    @property
    def simulated_sign(self) -> int:
        """1 where the other code is shorter, −1 where it is longer, 0 where chance could be it."""
        return 0 if self.saved.contains(0.0) else int(np.sign(self.saved.bits))

    @property
    def exact_sign(self) -> int:
        return int(np.sign(self.exact_saving))

    @property
    def opposite(self) -> bool:
        """Whether simulation and closed forms contradict each other."""
        return self.simulated_sign * self.exact_sign < 0

    def columns(self, plain: str, other: str) -> dict[str, float | bool]:
        """The cells of a table's row, named after the codes."""
        return {
            **self.plain.columns(plain),
            **self.other.columns(other),
            "saved exact": self.exact_saving,
            **self.saved.columns("saved"),
            "saved within": self.saving_agrees,
        }


def code(calibration: Booleans, test: Booleans, documents: Documents) -> Coded:
    """Price boolean latents by the flat code, as `eval` prices an SAE's."""
    codebook = Codebook.fit(_counts(calibration))
    heldout = codebook.document_bits(_symbols(test), documents.of_token, len(documents))
    return Coded(codelength.plugin(_counts(test)).total * len(test), heldout)


def tree_code(
    calibration: Booleans,
    test: Booleans,
    documents: Documents,
    parents: Int64[np.ndarray, " latent"],
) -> Coded:
    """Price boolean latents by the tree code, as `eval --quantiser tree` prices a tree SAE's."""
    flat = Codebook.fit(_counts(calibration))
    book = TreeCodebook.fit(flat, Runs.here(lambda: [_symbols(calibration)]), parents)
    symbols = _symbols(test)
    contexts = Contexts.of(Forest.from_parents(parents), flat.counts.active)
    heldout = book.document_bits(symbols, documents.of_token, len(documents))
    rate = tree.plugin(contexts, _counts(test), contexts.firings([symbols]))
    return Coded(rate.total * len(test), heldout)


def _counts(on: Booleans) -> SymbolCounts:
    return SymbolCounts.of(_symbols(on))


def _symbols(on: Booleans) -> Symbols:
    return quantise(SparseLatents.from_dense(on.astype(np.float32)), STEP)
