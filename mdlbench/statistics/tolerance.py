"""Where a curve meets ε: its rate there, and the coarsest step that stays within (maths §6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

STEPS_PER_OCTAVE = 8
"""Positions of the refined grid to an octave: an eighth of an octave apart."""


class Loss(NamedTuple):
    """A loss at one step, and its one-sided upper confidence limit."""

    value: float
    upper: float


@dataclass(frozen=True)
class ToleranceSearch:
    """Outcome of the search at one ε.

    Attributes:
        position: index of the accepted step on the grid finest·2^(i/8); None if even the finest
            step fails (the SAE is infeasible at ε).
        non_monotone: the loss returns within ε at a coarser step than where it first left it.
        at_coarsest: no step's loss exceeds ε.
    """

    position: int | None
    non_monotone: bool = False
    at_coarsest: bool = False


def step_at(finest: float, position: int) -> float:
    """finest·2^(position/8); exactly dyadic at whole octaves."""
    octaves, eighths = divmod(position, STEPS_PER_OCTAVE)
    return finest * math.ldexp(2.0 ** (eighths / STEPS_PER_OCTAVE), octaves)


def dyadic_positions(octaves: int) -> list[int]:
    """Those of whole octaves, from the finest step on."""
    return [octave * STEPS_PER_OCTAVE for octave in range(octaves)]


def position_of(finest: float, step: float) -> int:
    """The position whose step is nearest to this one; the inverse of `step_at`."""
    return round(STEPS_PER_OCTAVE * math.log2(step / finest))


def found_within(losses: Mapping[int, Loss], epsilon: float) -> ToleranceSearch:
    """What the measured positions say of one ε.

    The accepted step is the last before the first whose upper limit exceeds ε.

    Args:
        losses: by position, the finest step's and the coarsest's among them.
        epsilon: the limit.
    """
    positions = sorted(losses)
    values = [losses[position].value for position in positions]
    left = _first(value > epsilon for value in values)
    return ToleranceSearch(
        position=_accepted(positions, losses, epsilon),
        non_monotone=any(value <= epsilon for value in values[left:]),
        at_coarsest=left == len(positions),
    )


def asked_next(
    losses: Mapping[int, Loss], mixture: Callable[[], Mixture], epsilon: float
) -> list[int]:
    """Positions to measure next for one ε; none where even the finest step fails it.

    Args:
        losses: by position, the dyadic steps' at least.
        mixture: of these steps, where the score at ε lies among them.
        epsilon: the limit.
    """
    if losses[0].upper > epsilon:
        return []
    return unmeasured(losses, epsilon) or unmeasured_beside(sorted(losses), mixture())


def unmeasured(losses: Mapping[int, Loss], epsilon: float) -> list[int]:
    """Positions to measure next, so that one ε lies between neighbours of the refined grid.

    None are left where the accepted step has such a neighbour that fails, and the loss leaves ε
    between two.

    Args:
        losses: by position, the dyadic steps' at least.
        epsilon: the limit.
    """
    positions = sorted(losses)
    accepted = _accepted(positions, losses, epsilon)
    if accepted is None or accepted == positions[-1]:
        return []
    failing = positions[positions.index(accepted) + 1]
    if failing - accepted > 1:
        below = _meeting_point(accepted, failing, losses, epsilon)
        return [p for p in (below, below + 1) if p not in losses]
    for one, other in pairwise(p for p in positions if p >= accepted):
        if losses[other].value > epsilon:
            return [one + 1] if other - one > 1 else []
    return []


def unmeasured_beside(positions: Sequence[int], mixture: Mixture) -> list[int]:
    """Neighbours to measure of the two steps of a score, unless they are neighbours themselves.

    Where a curve is convex, they are; otherwise another chord may turn out to be cheaper.

    Args:
        positions: of the measured steps, increasing.
        mixture: of two of them.
    """
    ends = positions[int(mixture.within)], positions[int(mixture.beyond)]
    if abs(ends[1] - ends[0]) <= 1:
        return []
    grid = range(positions[0], positions[-1] + 1)
    beside = {end + shift for end in ends for shift in (-1, 1)}
    return sorted(p for p in beside if p in grid and p not in positions)


def _accepted(positions: list[int], losses: Mapping[int, Loss], epsilon: float) -> int | None:
    failing = _first(losses[position].upper > epsilon for position in positions)
    return positions[failing - 1] if failing else None


def _first(found: Iterable[bool]) -> int:
    """The index of the first that is true, or how many there are."""
    answers = list(found)
    return answers.index(True) if True in answers else len(answers)


def _meeting_point(low: int, high: int, losses: Mapping[int, Loss], epsilon: float) -> int:
    """The position below where D₀ + cΔ² through both ends' upper limits equals ε."""
    growth: float = 4.0 ** ((high - low) / STEPS_PER_OCTAVE) - 1.0
    share = (epsilon - losses[low].upper) / (losses[high].upper - losses[low].upper)
    offset = math.floor(STEPS_PER_OCTAVE * math.log(1.0 + share * growth, 4))
    return min(low + offset, high - 1)


class Mixture(NamedTuple):
    """The cheapest way to share tokens between two steps so that the mean loss is ε (maths §6).

    Attributes:
        within: index of the measured step whose loss is within ε.
        beyond: index of the other; the same where no chord is cheaper.
        share: of the tokens at the other step.
    """

    within: Int64[np.ndarray, "*draws"]
    beyond: Int64[np.ndarray, "*draws"]
    share: Float64[np.ndarray, "*draws"]

    def of(self, values: Float64[np.ndarray, "*draws point"]) -> Float64[np.ndarray, "*draws"]:
        """The mean over tokens of what each measured step has."""
        low, high = _picked(values, self.within), _picked(values, self.beyond)
        return np.asarray(low + self.share * (high - low))


def cheapest_within(
    rates: Float64[np.ndarray, "*draws point"],
    losses: Float64[np.ndarray, "*draws point"],
    epsilon: float,
) -> Mixture:
    """Where the lower convex hull of each curve has the loss ε: its rate there is the least.

    The step of the least loss where none is within ε.

    Args:
        rates: of the measured steps, in bits per token.
        losses: of the same steps.
        epsilon: the limit.
    """
    within = losses <= epsilon
    within |= ~within.any(axis=-1, keepdims=True) & (losses == losses.min(axis=-1, keepdims=True))
    finer, coarser = losses[..., :, None], losses[..., None, :]
    crosses = within[..., :, None] & ~within[..., None, :] & (finer <= epsilon)
    rise = np.where(crosses, coarser - finer, 1.0)
    shares = np.where(crosses, (epsilon - finer) / rise, 0.0)
    steps = rates[..., None, :] - rates[..., :, None]
    alone = within[..., :, None] & np.eye(rates.shape[-1], dtype=bool)
    cost = np.where(crosses | alone, rates[..., :, None] + shares * steps, np.inf)
    flat = cost.reshape(*cost.shape[:-2], -1)
    best = np.asarray(flat.argmin(axis=-1))
    step, other = np.divmod(best, rates.shape[-1])
    return Mixture(np.asarray(step), np.asarray(other), _picked(shares.reshape(flat.shape), best))


def _picked(
    values: Float64[np.ndarray, "*draws point"], index: Int64[np.ndarray, "*draws"]
) -> Float64[np.ndarray, "*draws"]:
    return np.asarray(np.take_along_axis(values, np.expand_dims(index, -1), axis=-1).squeeze(-1))
