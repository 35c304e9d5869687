"""Rate by quality along the chords of a lower hull: what time-sharing achieves (maths §8).

Quality is q = −10·log₁₀ D, in decibels. Along a chord the rate is linear in D: R = a + b·D.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from scipy.special import spence

DECIBEL = np.log(10.0) / 10.0
"""What the natural logarithm of the distortion falls by in a decibel of quality."""


@dataclass(frozen=True, eq=False)
class Chords:
    """Bits per token as a function of quality.

    Attributes:
        rates: of the vertices, in bits per token, increasing.
        distortions: of the vertices, positive, decreasing.
    """

    rates: Float64[np.ndarray, " vertex"]
    distortions: Float64[np.ndarray, " vertex"]

    @cached_property
    def x(self) -> Float64[np.ndarray, " vertex"]:
        """The vertices' quality, increasing."""
        return np.asarray(-10.0 * np.log10(self.distortions))

    def __call__(self, quality: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Bits per token; beyond an end, those of the end."""
        return self._rate_at(10.0 ** (-np.asarray(quality) / 10.0))

    def integrate(self, low: float, high: float) -> float:
        """∫ R dq between two qualities: of a chord, (a·ln(D₀/D₁) + b·(D₀ − D₁))·10/ln 10."""
        d = self._within(low, high)
        a, b = self._lines
        return float((a * _falls(d) - b * np.diff(d)).sum() / DECIBEL)

    @cached_property
    def _lines(self) -> tuple[Float64[np.ndarray, " chord"], Float64[np.ndarray, " chord"]]:
        """a and b of each chord."""
        b = np.asarray(np.diff(self.rates) / np.diff(self.distortions))
        return self.rates[1:] - b * self.distortions[1:], b

    def _within(self, low: float, high: float) -> Float64[np.ndarray, " vertex"]:
        """Distortions between which each chord is within the range; equal ones where it is not."""
        best, worst = 10.0 ** (-np.array([high, low]) / 10.0)
        return np.asarray(np.clip(self.distortions, best, worst))

    def _rate_at(self, distortions: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        return np.asarray(np.interp(-distortions, -self.distortions, self.rates))


class LogChords(Chords):
    """log₁₀ of bits per token as a function of quality; no vertex has rate 0."""

    def __call__(self, quality: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        return np.asarray(np.log10(super().__call__(quality)))

    def integrate(self, low: float, high: float) -> float:
        """∫ log₁₀ R dq: of a chord, (ln a·ln(D₀/D₁) + Li₂(1 − R₁/a) − Li₂(1 − R₀/a))·10/ln² 10.

        For ∫ ln(1 + b·D/a)/D dD = −Li₂(−b·D/a), and −b·D/a = 1 − R/a.
        """
        d = self._within(low, high)
        a, _ = self._lines
        rates = self._rate_at(d)
        dilogarithms = spence(rates[1:] / a) - spence(rates[:-1] / a)
        return float((np.log(a) * _falls(d) + dilogarithms).sum() / DECIBEL / np.log(10.0))


def crossing_qualities(
    quality: Float64[np.ndarray, " n"], gap: Float64[np.ndarray, " n"], negligible: float
) -> list[float]:
    """Where the difference of two, linear in D between any two vertices, changes its sign.

    Where the two coincide for a while, it is where they part.

    Args:
        quality: of the vertices of both, increasing.
        gap: the difference there, in bits per token.
        negligible: bits per token that tell no two curves apart.
    """
    apart = np.flatnonzero(np.abs(gap) > negligible)
    changes = np.flatnonzero(np.diff(np.sign(gap[apart])))
    return [_zero(quality, gap, int(apart[i]), int(apart[i + 1])) for i in changes]


def _zero(
    quality: Float64[np.ndarray, " n"], gap: Float64[np.ndarray, " n"], before: int, after: int
) -> float:
    """Between two vertices, of which only some that coincide may lie."""
    if after > before + 1:
        return float(quality[after - 1])
    distortions = 10.0 ** (-quality[[before, after]] / 10.0)
    share = gap[before] / (gap[before] - gap[after])
    return float(-10.0 * np.log10(distortions[0] + share * (distortions[1] - distortions[0])))


def _falls(distortions: Float64[np.ndarray, " vertex"]) -> Float64[np.ndarray, " chord"]:
    return np.asarray(-np.diff(np.log(distortions)))
