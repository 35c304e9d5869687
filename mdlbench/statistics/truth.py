"""How well a dictionary finds features that are known (maths §5).

Definitions are those of SynthSAEBench (2602.14687), as `sae_lens.synthetic` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.optimize import linear_sum_assignment


class Recovery(NamedTuple):
    """Scores from 0 to 1.

    Attributes:
        f1, precision, recall: of each latent as a sign of its feature, the mean over latents; 0
            for one that never fires.
        mcc: mean |cos| of decoder rows and features, matched one to one so that it is largest.
        uniqueness: share of latents that are left where those with one feature count once.
    """

    f1: float
    precision: float
    recall: float
    mcc: float
    uniqueness: float


@dataclass(frozen=True, eq=False)
class Matches:
    """Which feature each latent is compared with: the one of largest |cos|.

    Attributes:
        feature: its index.
        mcc: see `Recovery`.
    """

    feature: Int64[np.ndarray, " latent"]
    mcc: float

    @classmethod
    def of(
        cls, rows: Float[np.ndarray, "latent d"], directions: Float[np.ndarray, "feature d"]
    ) -> Matches:
        """Those of a dictionary's rows, of which there is at least one; cosines in float64."""
        cosines = np.abs(_unit(rows) @ _unit(directions).T)
        latent, feature = linear_sum_assignment(cosines, maximize=True)
        return cls(cosines.argmax(axis=1), float(cosines[latent, feature].mean()))

    def recovery(self, counts: MatchCounts) -> Recovery:
        """The scores, from counts of these matches."""
        return Recovery(
            f1=float(self.f1(counts).mean()),
            precision=float(_share(counts.hits, counts.fired).mean()),
            recall=float(_share(counts.hits, counts.present[self.feature]).mean()),
            mcc=self.mcc,
            uniqueness=len(np.unique(self.feature)) / len(self.feature),
        )

    def f1(self, counts: MatchCounts) -> Float64[np.ndarray, " latent"]:
        """2PR/(P + R) of each latent's precision and recall."""
        return _share(2 * counts.hits, counts.fired + counts.present[self.feature])


@dataclass(frozen=True, eq=False)
class MatchCounts:
    """Numbers of tokens; those of several ranges add up.

    Attributes:
        fired: where each latent fires.
        hits: where its feature fires, too.
        present: where each feature fires.
    """

    fired: Int64[np.ndarray, " latent"]
    hits: Int64[np.ndarray, " latent"]
    present: Int64[np.ndarray, " feature"]

    @classmethod
    def zeros(cls, n_latents: int, n_features: int) -> MatchCounts:
        latents = np.zeros(n_latents, dtype=np.int64)
        return cls(latents, latents, np.zeros(n_features, dtype=np.int64))

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return MatchCounts(
            self.fired + other.fired, self.hits + other.hits, self.present + other.present
        )


def null_rows(n_latents: int, d: int, seed: int) -> Float64[np.ndarray, "latent d"]:
    """A random dictionary of that shape, drawn apart from all else that has the seed."""
    generator = np.random.Generator(np.random.PCG64([seed, NULL_STREAM]))
    return _unit(generator.standard_normal((n_latents, d)))


NULL_STREAM = 0x6E756C6C


def _unit(rows: Float[np.ndarray, "row d"]) -> Float64[np.ndarray, "row d"]:
    """Rows of norm 1; a row of zeros stays one."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def _share(part: np.ndarray, whole: np.ndarray) -> Float64[np.ndarray, " latent"]:
    """The quotient, 0 where it has none."""
    shares = np.zeros(len(part))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
