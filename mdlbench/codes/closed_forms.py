"""The papers' closed forms (maths §3, §9): bits per token at true firing rates, without any data.

Arrays have at least one axis and broadcast. An impossible case gives NaN; a number that is no
probability is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize.elementwise import find_root

from mdlbench.codes.codelength import binary_entropy, bound_formula, log2_binomial
from mdlbench.errors import UsageError

ROUNDING = 1e-12
"""A probability outside its bounds by no more than this is moved back."""

Array = Float64[np.ndarray, "*#shape"]
Stack = Float64[np.ndarray, "first *shape"]


class Gpt2Illustration(NamedTuple):
    """Bits per token of an SAE of GPT-2's layer 8 and of its rivals (maths §9).

    Attributes:
        sae: the bound L0·(B + log₂ D) at L0 = 65, B = 7, D = 25,000.
        index_part: its part L0·log₂ D.
        firing_rates: D·H₂(L0/D), all latents alike.
        subset: log₂ C(D, L0).
        dense: 7 bits for each of 768 dimensions.
        one_hot_printed: 7·128·log₂ 50,257, as the paper prints it for one-hot codes of 128 tokens.
        one_hot_bound: 7 + 128·log₂ 50,257, what the paper's own bound gives.
    """

    sae: float
    index_part: float
    firing_rates: float
    subset: float
    dense: float
    one_hot_printed: float
    one_hot_bound: float


def gpt2_illustration() -> Gpt2Illustration:
    """The paper's worked example (maths §9)."""
    n_latents, l0, bits, width, context, vocabulary = 25_000, 65, 7, 768, 128, 50_257
    words = bound_formula(context, 0, vocabulary)
    return Gpt2Illustration(
        sae=bound_formula(l0, bits, n_latents),
        index_part=bound_formula(l0, 0, n_latents),
        firing_rates=fixed_rates_bits(zipf_rates(n_latents, l0, alpha=0.0)),
        subset=float(log2_binomial(n_latents, np.array([l0]))[0]),
        dense=width * bound_formula(1, bits, 1),
        one_hot_printed=bits * words,
        one_hot_bound=bits + words,
    )


# feature splitting


class Splitting(NamedTuple):
    """Bits per token for two overlapping boolean features A and B.

    Attributes:
        two: latents A and B.
        three: latents A∧B, A∧¬B and ¬A∧B; the decoder has A + B as its third row.
        joint: entropy of the pair (A, B), which no code can beat.
    """

    two: Array
    three: Array
    joint: Array

    @property
    def gain(self) -> Array:
        """Bits that the third latent saves; negative where it costs."""
        saved: Array = self.two - self.three
        return saved


def overlap(p_a: Array, p_b: Array, rho: Array) -> Array:
    """q = P(A∧B) = p_A·p_B + ρ·√(p_A(1−p_A)p_B(1−p_B)) (maths §9); NaN where no pair has this ρ.

    Raises:
        UsageError: p_A or p_B is not a probability, or ρ not within [−1, 1].
    """
    _require("p_A", p_a)
    _require("p_B", p_b)
    _require("rho", rho, low=-1.0)
    return _possible(p_a * p_b + rho * _spread(p_a, p_b), *overlap_bounds(p_a, p_b))


def correlation(p_a: Array, p_b: Array, q: Array) -> Array:
    """ρ of two features that overlap with probability q; the inverse of `overlap`."""
    rho: Array = (q - p_a * p_b) / _spread(p_a, p_b)
    return rho


def overlap_bounds(p_a: Array, p_b: Array) -> tuple[Array, Array]:
    """The least and the greatest overlap of features with these rates (Fréchet)."""
    return np.maximum(p_a + p_b - 1.0, 0.0), np.minimum(p_a, p_b)


def splitting(p_a: Array, p_b: Array, q: Array) -> Splitting:
    """Two latents against three, for features that overlap with probability q (maths §9).

    NaN where q is NaN or beyond `overlap_bounds`.
    """
    p_a, p_b, q = np.broadcast_arrays(p_a, p_b, q)
    q = _possible(q, *overlap_bounds(p_a, p_b))
    two = np.where(np.isnan(q), np.nan, binary_entropy(p_a) + binary_entropy(p_b))
    neither = np.clip(1.0 - p_a - p_b + q, 0.0, 1.0)
    parts = np.stack([q, p_a - q, p_b - q])
    return Splitting(
        two, binary_entropy(parts).sum(axis=0), entropy(np.concatenate([parts, neither[None]]))
    )


def break_even_overlap(p_a: Array, p_b: Array) -> Array:
    """The overlap above which three latents are shorter than two; NaN where they never are.

    Three latents' excess is a concave function of q. It is not negative at the least overlap, and
    positive for independent features, where two latents reach the joint entropy. So it has one
    zero beyond q = p_A·p_B, or none: none where the larger rate is at least half of 1 plus the
    smaller.
    """
    p_a, p_b = np.broadcast_arrays(p_a, p_b)
    _, most = overlap_bounds(p_a, p_b)
    saved: Callable[..., Array] = _saved_by_the_third
    found = find_root(
        saved,
        (p_a * p_b, most),
        args=(p_a, p_b),
        tolerances={"xatol": 0.0, "xrtol": 1e-14, "fatol": 0.0, "frtol": 0.0},
    )
    return np.where(found.success, found.x, np.nan)


def _saved_by_the_third(q: Array, p_a: Array, p_b: Array) -> Array:
    return splitting(p_a, p_b, q).gain


def break_even_correlation(p_a: Array, p_b: Array) -> Array:
    """ρ*: three latents are shorter than two iff ρ exceeds it (maths §9); NaN where never."""
    return correlation(p_a, p_b, break_even_overlap(p_a, p_b))


def break_even_lift(p_a: Array, p_b: Array) -> Array:
    """q/(p_A·p_B) at break-even: tends to e for sparse features (maths §9); NaN where never."""
    lift: Array = break_even_overlap(p_a, p_b) / (p_a * p_b)
    return lift


# hierarchies


class Nested(NamedTuple):
    """Bits per token for boolean features each of which implies the one before.

    Attributes:
        flat: one latent for each feature without the next (generic animal, bird), coded apart.
        tree: the first feature, then each next one on tokens where the one before is on.
        joint: entropy of all features together, which no code can beat.
    """

    flat: Array
    tree: Array
    joint: Array

    @property
    def gain(self) -> Array:
        """Bits that the tree saves; never negative."""
        saved: Array = self.flat - self.tree
        return saved


def nested(rates: Stack) -> Nested:
    """Flat code against tree code of a chain of features, the widest first (maths §9).

    For Bird within Animal: flat H₂(p_B) + H₂(p_A − p_B), tree H₂(p_A) + p_A·H₂(p_B/p_A).

    Raises:
        UsageError: a rate is not a probability, or above the rate of the feature that it implies.
    """
    _require("a rate", rates)
    if (np.diff(rates, axis=0) > 0).any():
        raise UsageError("a feature that implies another cannot be the more frequent of the two")
    alone = rates - np.concatenate([rates[1:], np.zeros_like(rates[:1])])
    above, below = rates[:-1], rates[1:]
    given_above = np.divide(below, above, where=above > 0, out=np.zeros_like(below))
    return Nested(
        flat=binary_entropy(alone).sum(axis=0),
        tree=binary_entropy(rates[:1])[0] + (above * binary_entropy(given_above)).sum(axis=0),
        joint=entropy(np.concatenate([alone, 1.0 - rates[:1]])),
    )


def sparse_gain(p_a: Array, b_given_a: float) -> Array:
    """p_A²·P(B|A)·(1 − P(B|A))·log₂e, what a tree of Animal and Bird saves as p_A → 0 (maths §9).

    It is the leading term of the mutual information between the flat code's two latents, which
    exclude each other.
    """
    gain: Array = p_a**2 * (b_given_a * (1.0 - b_given_a) / math.log(2.0))
    return gain


# fixed firing rates, compositional data, fine steps


def zipf_rates(n_latents: int, l0: float, alpha: float) -> Float64[np.ndarray, " latent"]:
    """Firing rates in proportion to rank^−α that sum to L0, none above 1; α = 0 is uniform.

    Rates above 1 become 1, and the others share the rest of L0 in the same proportions.

    Raises:
        UsageError: L0 is negative or above the number of latents.
    """
    if not 0 <= l0 <= n_latents:
        raise UsageError(f"{n_latents} latents cannot have an L0 of {l0:g}")
    weight = np.arange(1, n_latents + 1) ** -float(alpha)
    n_capped = 0
    while n_capped < n_latents:
        rate = weight[n_capped:] * ((l0 - n_capped) / weight[n_capped:].sum())
        above = int((rate > 1.0).sum())
        if above == 0:
            return np.concatenate([np.ones(n_capped), rate])
        n_capped += above
    return np.ones(n_latents)


def fixed_rates_bits(rates: Float64[np.ndarray, " latent"]) -> float:
    """Σ_i H₂(m_i/B), the support code of latents that fire at fixed rates m_i/B (maths §9).

    Raises:
        UsageError: a rate is not a probability.
    """
    _require("a firing rate", rates)
    return float(binary_entropy(rates).sum())


class Compositional(NamedTuple):
    """Bits per token of things that have one value of each of several attributes.

    Attributes:
        composed: one latent for each combination.
        factored: one latent for each value of each attribute.
        joint: entropy of the combination.
    """

    composed: float
    factored: float
    joint: float


def compositional(values: Sequence[int]) -> Compositional:
    """Independent attributes with so many values each, all equally likely (maths §9).

    Raises:
        UsageError: an attribute has no value.
    """
    if min(values, default=1) < 1:
        raise UsageError("an attribute needs a value")
    sizes: Int64[np.ndarray, " attribute"] = np.array(values, dtype=np.int64)
    combinations = math.prod(values)
    return Compositional(
        composed=combinations * float(binary_entropy(np.array([1 / combinations]))[0]),
        factored=float((sizes * binary_entropy(1 / sizes)).sum()),
        joint=math.log2(combinations),
    )


def fine_gaussian_bits(steps: float) -> float:
    """Entropy ½·log₂(2πe) + log₂(σ/Δ) of a Gaussian with σ of many steps Δ (maths §9)."""
    return 0.5 * math.log2(2 * math.pi * math.e) + math.log2(steps)


def _require(name: str, value: Array, low: float = 0.0) -> None:
    wrong = value[~((value >= low) & (value <= 1.0))]
    if len(wrong):
        raise UsageError(f"{name} must lie between {low:g} and 1, not {wrong[0]:g}")


def _possible(q: Array, least: Array, most: Array) -> Array:
    within = (q >= least - ROUNDING) & (q <= most + ROUNDING)
    return np.where(within, np.clip(q, least, most), np.nan)


def _spread(p_a: Array, p_b: Array) -> Array:
    spread: Array = np.sqrt(p_a * (1.0 - p_a) * p_b * (1.0 - p_b))
    return spread


def entropy(outcomes: Stack) -> Array:
    """Bits of a distribution along the first axis."""
    bits: Array = -(outcomes * np.log2(np.where(outcomes > 0, outcomes, 1.0))).sum(axis=0)
    return bits
