"""The coarsest quantiser step whose distortion stays within ε (maths §6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEPS_PER_OCTAVE = 20
"""Resolution of the refined step: 0.05 octave."""


@dataclass(frozen=True)
class ToleranceSearch:
    """Outcome of the search at one ε.

    Attributes:
        position: index of the accepted step on the refined grid finest·2^(i/20); None if even
            the finest step fails (the SAE is infeasible at ε).
        non_monotone: a coarser dyadic step passes although a finer one fails.
        at_coarsest: even the coarsest step passes.
    """

    position: int | None
    non_monotone: bool = False
    at_coarsest: bool = False


def step_at(finest: float, position: int) -> float:
    """finest·2^(position/20); exactly dyadic at whole octaves."""
    octaves, twentieths = divmod(position, STEPS_PER_OCTAVE)
    return finest * math.ldexp(2.0 ** (twentieths / STEPS_PER_OCTAVE), octaves)


def position_of(finest: float, step: float) -> int:
    """The position whose step is nearest to this one; the inverse of `step_at`."""
    return round(STEPS_PER_OCTAVE * math.log2(step / finest))


def coarsest_within(
    dyadic: Sequence[float], distortion_at: Callable[[int], float], epsilon: float
) -> ToleranceSearch:
    """The largest step such that it and all finer dyadic steps keep the distortion ≤ ε.

    Args:
        dyadic: distortion at every octave of the grid, finest first.
        distortion_at: distortion at a position of the refined grid (expensive).
        epsilon: the limit.
    """
    passes = [distortion <= epsilon for distortion in dyadic]
    if not passes[0]:
        return ToleranceSearch(None, non_monotone=any(passes))
    if all(passes):
        return ToleranceSearch((len(dyadic) - 1) * STEPS_PER_OCTAVE, at_coarsest=True)
    failing = passes.index(False)
    position = _refine(
        (failing - 1) * STEPS_PER_OCTAVE,
        dyadic[failing - 1],
        failing * STEPS_PER_OCTAVE,
        dyadic[failing],
        distortion_at,
        epsilon,
    )
    return ToleranceSearch(position, non_monotone=any(passes[failing:]))


def _refine(
    low: int,
    low_distortion: float,
    high: int,
    high_distortion: float,
    distortion_at: Callable[[int], float],
    epsilon: float,
) -> int:
    """The last passing position before a failing one, between a passing `low` and failing `high`.

    Guesses where D₀ + cΔ² through both ends meets ε; halves once that has stopped paying.
    """
    slow_guesses = 0
    while high - low > 1:
        span = high - low
        if slow_guesses < 2:
            guess = _meeting_point(low, low_distortion, high, high_distortion, epsilon)
        else:
            guess = (low + high) // 2
        distortion = distortion_at(guess)
        if distortion <= epsilon:
            low, low_distortion = guess, distortion
        else:
            high, high_distortion = guess, distortion
        slow_guesses = slow_guesses + 1 if high - low > span // 2 else 0
    return low


def _meeting_point(low: int, d_low: float, high: int, d_high: float, epsilon: float) -> int:
    """Position strictly between the ends at which D₀ + cΔ² equals ε, rounded down."""
    growth: float = 4.0 ** ((high - low) / STEPS_PER_OCTAVE) - 1.0
    share = (epsilon - d_low) / (d_high - d_low)
    offset = math.floor(STEPS_PER_OCTAVE * math.log(1.0 + share * growth, 4))
    return min(max(low + offset, low + 1), high - 1)
