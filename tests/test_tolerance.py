import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, coarsest_within, step_at

FINEST = 0.03125
OCTAVES = 8
LAST = (OCTAVES - 1) * STEPS_PER_OCTAVE


def search(distortion, epsilon):
    """The search on an analytic distortion; also the positions that it had to measure."""
    measured = []

    def at(position):
        measured.append(position)
        return distortion(step_at(FINEST, position))

    dyadic = [distortion(FINEST * 2**octave) for octave in range(OCTAVES)]
    return coarsest_within(dyadic, at, epsilon), measured


def test_steps_are_exactly_dyadic_at_whole_octaves():
    assert [step_at(FINEST, 20 * j) for j in range(8)] == [FINEST * 2.0**j for j in range(8)]
    assert step_at(1.0, 10) == pytest.approx(math.sqrt(2), rel=1e-15)


@given(
    floor=st.floats(0.001, 0.02),
    curvature=st.floats(1e-5, 1.0),
    epsilon=st.floats(0.002, 0.5),
    power=st.floats(1.0, 4.0),
)
def test_finds_the_last_passing_step_of_any_increasing_distortion(floor, curvature, epsilon, power):
    def distortion(step):
        return floor + curvature * step**power

    found, measured = search(distortion, epsilon)
    passing = [p for p in range(LAST + 1) if distortion(step_at(FINEST, p)) <= epsilon]
    assert found.position == (passing[-1] if passing else None)
    assert found.at_coarsest == (bool(passing) and passing[-1] == LAST)
    assert not found.non_monotone
    assert len(measured) <= 8


def test_quadratic_distortion_takes_two_measurements():
    found, measured = search(lambda step: 0.0144 + 0.001 * step**2, 0.015)
    assert step_at(FINEST, found.position) <= math.sqrt(0.6) < step_at(FINEST, found.position + 1)
    assert len(measured) == 2


def test_a_dip_after_a_failing_step_is_flagged_and_not_used():
    dyadic = [0.01, 0.02, 0.009, 0.05, 0.06, 0.07, 0.08, 0.09]
    found = coarsest_within(dyadic, lambda position: 0.02, epsilon=0.0101)
    assert found.position == 0
    assert found.non_monotone


def test_infeasible_when_the_finest_step_fails_even_if_a_coarser_one_passes():
    found = coarsest_within([0.02, 0.009], lambda position: 0.02, epsilon=0.01)
    assert found.position is None
    assert found.non_monotone
