"""Pareto fronts, and Gaussian R(D) against references computed another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.optimize import brentq

from mdlbench.curve import METRIC_LABELS, RateDistortionCurve, RatePoint, gaussian_rate_distortion

coordinate = st.integers(0, 20).map(float)
rate_points = st.builds(RatePoint, coordinate, coordinate, coordinate, coordinate)
some_points = st.lists(rate_points, min_size=1, max_size=15)


def curve_of(*points):
    rate_points = [RatePoint(rate, distortion, 0.5, 4.0) for rate, distortion in points]
    return RateDistortionCurve.of(rate_points, name="sae", metric="mse")


def test_points_are_sorted_by_rate_then_distortion():
    curve = curve_of((3, 1), (1, 9), (2, 5), (1, 8))
    assert curve.rates.tolist() == [1, 1, 2, 3]
    assert curve.distortions.tolist() == [8, 9, 5, 1]


def test_pareto_front_by_hand():
    front = curve_of((1, 9), (2, 5), (3, 5), (4, 7), (5, 1), (5, 2), (6, 1)).pareto_front()
    assert list(zip(front.rates, front.distortions, strict=True)) == [(1, 9), (2, 5), (5, 1)]
    assert (front.name, front.metric) == ("sae", "mse")


def beats(one, other):
    no_worse = one.rate <= other.rate and one.distortion <= other.distortion
    return no_worse and (one.rate < other.rate or one.distortion < other.distortion)


@given(some_points)
def test_pareto_front_is_exactly_what_no_point_beats(points):
    front = RateDistortionCurve.of(points, "sae", "mse").pareto_front()
    unbeaten = {
        (p.rate, p.distortion) for p in points if not any(beats(other, p) for other in points)
    }
    assert {(p.rate, p.distortion) for p in front.points} == unbeaten
    assert len(front.points) == len(unbeaten)


@given(some_points)
def test_pareto_front_rises_in_rate_and_falls_in_distortion(points):
    front = RateDistortionCurve.of(points, "sae", "mse").pareto_front()
    assert (np.diff(front.rates) > 0).all()
    assert (np.diff(front.distortions) < 0).all()


@given(some_points, st.randoms())
def test_pareto_front_is_its_own_front_and_ignores_order(points, random):
    front = RateDistortionCurve.of(points, "sae", "mse").pareto_front()
    assert front.pareto_front() == front
    shuffled = points.copy()
    random.shuffle(shuffled)
    assert RateDistortionCurve.of(shuffled, "sae", "mse").pareto_front() == front


def test_one_gaussian_has_the_textbook_rate():
    """R(D) = ½ log2(σ²/D) for D ≤ σ²."""
    rates, distortions = gaussian_rate_distortion(np.array([4.0]))
    np.testing.assert_allclose(rates, 0.5 * np.log2(4.0 / distortions), atol=1e-12)
    assert distortions[0] == 4.0
    assert rates[0] == 0.0


def test_two_gaussians_by_hand():
    """Variances 4 and 1: at water level 1 the first gets 1 bit, the second none, D = 1 each."""
    rates, distortions = gaussian_rate_distortion(np.array([4.0, 1.0]), n_points=2001)
    at_level_1 = np.interp(1.0, distortions[::-1], rates[::-1])
    assert at_level_1 == pytest.approx(1.0, abs=1e-4)
    # at level 1/4: ½log2(16) + ½log2(4) = 3 bits, D = 1/4
    assert np.interp(0.25, distortions[::-1], rates[::-1]) == pytest.approx(3.0, abs=1e-4)


def water_filled_rate(variances, distortion):
    """Reference: solve Σ min(λ, θ) = d·D for θ by root finding, one variance at a time."""

    def excess(level):
        return sum(min(v, level) for v in variances) - distortion * len(variances)

    level = brentq(excess, 0.0, max(variances), xtol=1e-15, rtol=1e-14)
    return sum(0.5 * np.log2(v / level) for v in variances if v > level)


@given(st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=12))
def test_gaussian_rate_equals_water_filling_by_root_finding(variances):
    rates, distortions = gaussian_rate_distortion(np.array(variances), n_points=25)
    for rate, distortion in zip(rates[1::4], distortions[1::4], strict=True):
        assert rate == pytest.approx(water_filled_rate(variances, distortion), abs=1e-6)


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=12))
def test_gaussian_curve_runs_from_the_mean_down(variances):
    rates, distortions = gaussian_rate_distortion(np.array(variances))
    assert rates[0] == 0.0
    assert distortions[0] == pytest.approx(np.mean(variances))
    assert (np.diff(rates) >= 0).all()
    assert (np.diff(distortions) <= 0).all()


def test_no_other_allocation_of_the_same_distortion_is_cheaper():
    """Any split of D over the components costs at least the water-filled rate."""
    variances = np.array([5.0, 2.0, 0.5, 0.1])
    generator = np.random.default_rng(0)
    for _ in range(200):
        parts = variances * generator.uniform(0.05, 1.0, size=4)
        rate = (0.5 * np.log2(variances / parts)).sum()
        assert rate >= water_filled_rate(variances, parts.mean()) - 1e-9


def test_constant_data_needs_no_bits():
    rates, distortions = gaussian_rate_distortion(np.zeros(3))
    assert (rates.tolist(), distortions.tolist()) == ([0.0], [0.0])


def test_negative_eigenvalues_of_rounding_count_as_zero():
    clean = gaussian_rate_distortion(np.array([2.0, 0.0]))
    noisy = gaussian_rate_distortion(np.array([2.0, -1e-17]))
    np.testing.assert_array_equal(clean, noisy)


def test_plot_draws_the_points_on_the_given_axis():
    figure = Figure()
    ax = curve_of((1, 0.9), (2, 0.5)).plot(figure.subplots())
    line = ax.get_lines()[0]
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == [0.9, 0.5]
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "bits per token")
    assert ax.get_ylabel() == METRIC_LABELS["mse"]


def test_plot_of_a_loss_that_is_not_positive_is_linear():
    figure = Figure()
    assert curve_of((1, 0.9), (2, -0.1)).plot(figure.subplots()).get_yscale() == "linear"
