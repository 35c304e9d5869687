import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from mdlbench.statistics.tolerance import (
    STEPS_PER_OCTAVE,
    Loss,
    cheapest_within,
    found_within,
    step_at,
    unmeasured,
    unmeasured_beside,
)

FINEST = 0.03125
OCTAVES = 8
LAST = (OCTAVES - 1) * STEPS_PER_OCTAVE
DYADIC = range(0, LAST + 1, STEPS_PER_OCTAVE)


def search(loss, epsilon, excess=1.0):
    """All positions that are measured for one ε, the upper limit being `excess` times the loss."""

    def at(position):
        value = loss(step_at(FINEST, position))
        return Loss(value, excess * value)

    losses = {position: at(position) for position in DYADIC}
    while wanted := unmeasured(losses, epsilon):
        assert not set(wanted) & set(losses)
        losses |= {position: at(position) for position in wanted}
    return losses, found_within(losses, epsilon)


def test_steps_are_exactly_dyadic_at_whole_octaves():
    dyadic = [FINEST * 2.0**j for j in range(8)]
    assert [step_at(FINEST, STEPS_PER_OCTAVE * j) for j in range(8)] == dyadic
    assert step_at(1.0, 1) == pytest.approx(2 ** (1 / STEPS_PER_OCTAVE), rel=1e-15)


INCREASING = {
    "floor": st.floats(0.001, 0.02),
    "curvature": st.floats(1e-5, 1.0),
    "epsilon": st.floats(0.002, 0.5),
    "power": st.floats(1.0, 4.0),
    "excess": st.floats(1.0, 1.5),
}


@given(**INCREASING)
def test_epsilon_ends_between_neighbours_for_any_increasing_loss(
    floor, curvature, epsilon, power, excess
):
    def loss(step):
        return floor + curvature * step**power

    losses, found = search(loss, epsilon, excess)
    values = {p: loss(step_at(FINEST, p)) for p in range(LAST + 1)}
    passing = [p for p in values if excess * values[p] <= epsilon]
    assert found.position == (passing[-1] if passing else None)
    assert not found.non_monotone
    within = [p for p in values if values[p] <= epsilon]
    assert found.at_coarsest == (len(within) == len(values))
    if passing and not found.at_coarsest:
        assert {within[-1], within[-1] + 1} <= set(losses)
    assert len(losses) - OCTAVES <= 2 + 2 * math.ceil(8 * math.log2(1.5))


def test_a_quadratic_loss_takes_two_measurements_beside_the_dyadic_ones():
    losses, found = search(lambda step: 0.0144 + 0.001 * step**2, 0.015)
    assert step_at(FINEST, found.position) <= math.sqrt(0.6) < step_at(FINEST, found.position + 1)
    assert len(losses) == OCTAVES + 2


def test_the_accepted_step_is_the_last_before_the_first_failure():
    """A dip after a failing step is flagged and not used."""
    values = [0.01, 0.02, 0.009, 0.05]
    losses = {8 * i: Loss(value, value) for i, value in enumerate(values)}
    losses |= {position: Loss(0.02, 0.02) for position in unmeasured(losses, 0.0101)}
    found = found_within(losses, 0.0101)
    assert (found.position, found.non_monotone, found.at_coarsest) == (0, True, False)


def test_infeasible_when_the_finest_step_fails_even_if_a_coarser_one_passes():
    losses = {0: Loss(0.02, 0.02), 8: Loss(0.009, 0.009)}
    found = found_within(losses, epsilon=0.01)
    assert (found.position, found.non_monotone) == (None, True)
    assert unmeasured(losses, epsilon=0.01) == []


def test_a_tolerance_that_one_step_alone_meets_is_met():
    losses, found = search(lambda step: 0.0099 + 0.4 * step, 0.0225)
    assert found.position == 0
    assert {0, 1} <= set(losses)


def test_the_upper_limit_decides_the_step_and_the_loss_the_curve():
    """Upwards from the accepted step positions are measured until the loss itself exceeds ε."""
    losses, found = search(lambda step: 0.01 * step, epsilon=0.01, excess=1.4)
    assert losses[found.position].upper <= 0.01 < losses[found.position + 1].upper
    assert losses[40].value <= 0.01 < losses[41].value


def hull_at(rates, losses, epsilon):
    """The lower hull by qhull, at one loss, closed by far points of its corner."""
    far = [(2 * losses.max() + 1, rates.min()), (losses.min(), 2 * rates.max() + 1)]
    points = np.array([*zip(losses, rates, strict=True), *far])
    hull = ConvexHull(points, qhull_options="QJ")
    crossing = []
    for one, other in hull.simplices:
        (x0, y0), (x1, y1) = sorted((points[one].tolist(), points[other].tolist()))
        if x0 <= epsilon <= x1 and x1 > x0:
            crossing.append(y0 + (epsilon - x0) / (x1 - x0) * (y1 - y0))
    return min(crossing)


CURVES = st.lists(
    st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=3, max_size=20, unique=True
)


@given(points=CURVES, at=st.floats(0.001, 0.999))
def test_the_score_is_the_lower_hull_at_epsilon(points, at):
    rates, losses = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    epsilon = losses.min() + at * (losses.max() - losses.min())
    mixture = cheapest_within(rates, losses, epsilon)
    assert mixture.of(rates) == pytest.approx(hull_at(rates, losses, epsilon), rel=1e-6, abs=1e-3)
    assert mixture.of(losses) <= epsilon * (1 + 1e-12)
    assert 0 <= mixture.share < 1


@given(points=CURVES, extra=st.tuples(st.integers(1, 1000), st.integers(1, 1000)))
def test_a_further_point_never_costs_more(points, extra):
    rates, losses = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    more = np.append(rates, extra[0]), np.append(losses, extra[1])
    epsilon = float(np.median(losses))
    before = cheapest_within(rates, losses, epsilon).of(rates)
    assert cheapest_within(*more, epsilon).of(more[0]) <= before


def test_a_convex_curve_is_read_along_the_chord_of_its_neighbours():
    rates, losses = np.array([64.0, 40.0, 20.0, 10.0]), np.array([0.01, 0.012, 0.02, 0.05])
    mixture = cheapest_within(rates, losses, 0.018)
    assert (mixture.within, mixture.beyond) == (1, 2)
    assert mixture.share == pytest.approx(0.75)
    assert mixture.of(rates) == pytest.approx(25.0)


def test_beyond_the_curve_its_ends_count():
    rates, losses = np.array([64.0, 40.0, 20.0]), np.array([0.01, 0.012, 0.02])
    assert cheapest_within(rates, losses, 0.5).of(rates) == 20.0
    assert cheapest_within(rates, losses, 0.001).of(rates) == 64.0


def test_every_draw_meets_epsilon_on_its_own_curve():
    rates = np.array([[64.0, 40.0, 20.0], [60.0, 44.0, 20.0], [9.0, 8.0, 7.0]])
    losses = np.array([[0.01, 0.012, 0.02], [0.01, 0.014, 0.02], [0.02, 0.03, 0.04]])
    together = cheapest_within(rates, losses, 0.013).of(rates)
    alone = [
        cheapest_within(*curve, 0.013).of(curve[0]) for curve in zip(rates, losses, strict=True)
    ]
    assert together.tolist() == [float(bits) for bits in alone]
    assert together[2] == 9.0


@given(
    rates=st.lists(st.integers(1, 1000), min_size=OCTAVES * 8, max_size=OCTAVES * 8),
    losses=st.lists(st.integers(1, 1000), min_size=OCTAVES * 8, max_size=OCTAVES * 8),
    epsilon=st.floats(1.0, 1000.0),
)
def test_the_ends_of_a_wide_chord_have_their_neighbours_measured(rates, losses, epsilon):
    """On any curve, however it jumps, the measuring ends, and no neighbour was left out."""
    measured = list(DYADIC)
    while True:
        bits, lost = (np.array([c[p] for p in measured], dtype=float) for c in (rates, losses))
        mixture = cheapest_within(bits, lost, epsilon)
        wanted = unmeasured_beside(measured, mixture)
        if not wanted:
            break
        measured = sorted({*measured, *wanted})
    ends = {measured[int(mixture.within)], measured[int(mixture.beyond)]}
    if max(ends) - min(ends) > 1:
        beside = {end + shift for end in ends for shift in (-1, 1)} & set(range(LAST + 1))
        assert beside <= set(measured)
