"""Lower hulls, comparisons of curves, Gaussian R(D): against references computed another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.integrate import trapezoid
from scipy.optimize import brentq
from scipy.spatial import ConvexHull

from mdlbench.curves.curve import (
    RateDistortionCurve,
    RatePoint,
    bd_bits,
    bd_rate,
    crossings,
    gaussian_rate_distortion,
    overlap,
)
from mdlbench.statistics.tolerance import cheapest_within

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
    hull, points = ax.get_lines()
    assert points.get_xdata().tolist() == [1, 2]
    assert points.get_ydata().tolist() == [0.9, 0.5]
    np.testing.assert_allclose(hull.get_xdata(), 1 + (0.9 - hull.get_ydata()) / 0.4)
    assert (hull.get_ydata()[0], hull.get_ydata()[-1]) == (0.9, 0.5)
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "bits per token")
    assert ax.get_ylabel() == "MSE per dimension"


def test_plot_of_a_loss_that_is_not_positive_leaves_the_panel_or_is_linear():
    ax = curve_of((1, 0.9), (2, -0.1)).plot(Figure().subplots())
    assert ax.get_yscale() == "log"
    assert all((line.get_ydata() > 0).all() for line in ax.get_lines())
    ax = curve_of((1, -0.1), (2, -0.2)).plot(Figure().subplots())
    assert ax.get_yscale() == "linear"
    assert ax.get_lines()[-1].get_ydata().tolist() == [-0.1, -0.2]


# --- hulls ----------------------------------------------------------------------------------


def hull_of(points):
    return RateDistortionCurve.of(points, "sae", "mse").lower_hull()


def chord_at(hull, rates):
    """What time-sharing between neighbouring vertices achieves."""
    return np.interp(rates, hull.rates, hull.distortions)


def test_lower_hull_by_hand():
    hull = hull_of([RatePoint(r, d, 1, 1) for r, d in [(0, 8), (1, 6), (2, 2), (3, 2), (4, 1.5)]])
    assert list(zip(hull.rates, hull.distortions, strict=True)) == [(0, 8), (2, 2), (4, 1.5)]


@given(some_points)
def test_hull_lies_below_every_point_at_points_and_is_convex(points):
    hull = hull_of(points)
    assert set(hull.points) <= set(points)
    for point in points:
        if point.rate >= hull.rates[0]:
            assert chord_at(hull, point.rate) <= point.distortion + 1e-9
    slopes = np.diff(hull.distortions) / np.diff(hull.rates)
    assert (slopes < 0).all()
    assert (np.diff(slopes) > 0).all()
    assert hull.lower_hull() == hull


@given(st.lists(rate_points, min_size=4, max_size=30))
def test_hull_against_qhull(points):
    plane = np.array([(p.rate, p.distortion) for p in points])
    assume(np.linalg.matrix_rank(plane - plane[0]) == 2)
    corners = {tuple(plane[i]) for i in ConvexHull(plane).vertices}
    start = min(corners)
    end = min(corners, key=lambda corner: corner[::-1])
    lower = {
        (r, d)
        for r, d in corners
        if start[0] < r < end[0]
        and (end[0] - start[0]) * (d - start[1]) <= (end[1] - start[1]) * (r - start[0])
    }
    assert {(p.rate, p.distortion) for p in hull_of(points).points} == lower | {start, end}


@given(some_points, st.randoms())
def test_hull_ignores_the_order_of_points(points, random):
    shuffled = points.copy()
    random.shuffle(shuffled)
    assert hull_of(shuffled) == hull_of(points)


def test_rates_at_distortions_lie_on_chords_and_are_nan_beyond():
    curve = curve_of((0, 8), (1, 6), (2, 2), (3, 2), (4, 1.5))
    rates = curve.rates_at(np.array([8.0, 5.0, 2.0, 1.75, 1.5, 8.1, 1.4]))
    assert rates[:5] == pytest.approx([0, 1, 2, 3, 4])
    assert np.isnan(rates[5:]).all()
    assert np.isnan(curve_of().rates_at(np.array([0.1, 0.2]))).all()
    alone = curve_of((1, 0.1)).rates_at(np.array([0.1, 0.2]))
    assert (alone[0], np.isnan(alone[1])) == (1, True)


@pytest.mark.parametrize("n", [2, 7, 400])
def test_a_drawn_hull_is_cut_on_the_chord_that_reaches_beyond_the_edge(n):
    curve = curve_of((0, 8), (2, 2), (10, 1))
    rates, losses = curve.along_hull(n=n, most=6.0)
    assert (rates[0], losses[0]) == (0, 8)
    assert (rates[-1], losses[-1]) == (6, 1.5)
    assert (len(rates), len(losses)) == (n, n)
    whole = curve.along_hull(n=n, most=10.0)
    np.testing.assert_array_equal(whole, curve.along_hull(n=n))
    assert curve_of((3, 2), (4, 1)).along_hull(most=2.0)[0].tolist() == []
    assert [found.tolist() for found in curve.along_hull(most=0.0)] == [[0], [8]]


@given(some_points, st.floats(0, 20))
def test_a_curve_at_epsilon_is_the_score_there(points, epsilon):
    """One rule: what a hull has at ε is the cheapest that shares tokens among the points."""
    curve = RateDistortionCurve.of(points, "sae", "mse")
    hull = curve.lower_hull()
    assume(hull.distortions[-1] <= epsilon <= hull.distortions[0])
    rates, distortions = curve.rates[None], curve.distortions[None]
    score = cheapest_within(rates, distortions, epsilon).of(rates)
    assert curve.rates_at(np.array([epsilon])) == pytest.approx(score, abs=1e-9)


# --- comparisons of two curves --------------------------------------------------------------


def by_quality(*points):
    """A curve through (quality in dB, rate)."""
    return curve_of(*((rate, 10.0 ** (-quality / 10.0)) for quality, rate in points))


def line(slope, offset, qualities=range(10, 31, 4)):
    return by_quality(*((q, slope * q + offset) for q in qualities))


def shifted(curve, bits):
    points = [point._replace(rate=point.rate + bits) for point in curve.points]
    return RateDistortionCurve.of(points, curve.name, curve.metric)


@st.composite
def convex(draw):
    """(quality, rate) of at least four vertices of a hull from 10 to 30 dB, and points above it."""
    inner = draw(st.lists(st.integers(41, 119), min_size=2, max_size=8, unique=True))
    qualities = [10.0, *sorted(q / 4 for q in inner), 30.0]
    n = len(qualities) - 1
    bends = draw(st.lists(st.floats(1.05, 2.5), min_size=n, max_size=n))
    slopes = draw(st.floats(5.0, 200.0)) * np.cumprod(bends)
    falls = -np.diff(10.0 ** (-np.array(qualities) / 10.0))
    rates = draw(st.floats(0.5, 20.0)) + np.concatenate([[0.0], np.cumsum(slopes * falls)])
    above = draw(st.lists(st.sampled_from(range(n)), max_size=3))
    beaten = [(qualities[i], float(rates[i + 1])) for i in above]
    return [*zip(qualities, rates.tolist(), strict=True), *beaten]


def shared_rates(curve, grid):
    """The least bits per token at qualities by trying every pair of points: no hull is built."""
    wanted = 10.0 ** (-grid / 10.0)
    best = np.full(len(grid), np.inf)
    for fine in curve.points:
        for coarse in curve.points:
            if fine.distortion < coarse.distortion:
                share = (wanted - fine.distortion) / (coarse.distortion - fine.distortion)
                rates = fine.rate + share * (coarse.rate - fine.rate)
                best = np.minimum(
                    best, np.where((share > -1e-9) & (share < 1 + 1e-9), rates, np.inf)
                )
    return best


@given(convex())
def test_a_curve_does_not_differ_from_itself(points):
    curve = by_quality(*points)
    assert bd_bits(curve, curve) == bd_rate(curve, curve) == 0
    same = crossings(curve, curve)
    assert (same.points, same.smallest, same.largest) == ((), 0, 0)


@given(convex(), convex())
def test_averages_are_antisymmetric(one, other):
    one, other = by_quality(*one), by_quality(*other)
    assert bd_bits(one, other) == pytest.approx(-bd_bits(other, one), abs=1e-9)
    forth, back = 1 + bd_rate(one, other) / 100, 1 + bd_rate(other, one) / 100
    assert forth * back == pytest.approx(1)


@given(convex(), st.floats(-0.4, 50.0))
def test_a_shift_by_bits_is_their_difference(points, bits):
    curve = by_quality(*points)
    assert bd_bits(curve, shifted(curve, bits)) == pytest.approx(bits, abs=1e-9)


@given(convex(), st.floats(0.1, 10.0))
def test_a_scaled_rate_is_its_percentage(points, factor):
    curve, scaled = by_quality(*points), by_quality(*((q, factor * rate) for q, rate in points))
    assert bd_rate(curve, scaled) == pytest.approx(100 * (factor - 1), abs=1e-6)


@given(convex(), convex())
@settings(max_examples=25)
def test_averages_crossings_and_extremes_against_a_dense_grid(one, other):
    one, other = by_quality(*one), by_quality(*other)
    grid = np.linspace(10, 30, 20001)
    rates = [shared_rates(curve, grid) for curve in (one, other)]
    difference = rates[1] - rates[0]
    assert bd_bits(one, other) == pytest.approx(trapezoid(difference, grid) / 20, abs=1e-3)
    logs = trapezoid(np.log10(rates[1] / rates[0]), grid) / 20
    assert bd_rate(one, other) == pytest.approx(100 * (10**logs - 1), rel=1e-3, abs=1e-3)
    found = crossings(one, other)
    relative = difference / rates[0]
    assert found.smallest == pytest.approx(relative.min(), abs=1e-2)
    assert found.largest == pytest.approx(relative.max(), abs=1e-2)
    assume(np.abs(difference).min(initial=1.0, where=np.arange(20001) % 20000 != 0) > 0)
    signs = np.sign(difference[1:-1])
    at = grid[1:-1][:-1][signs[1:] != signs[:-1]]
    qualities = [-10 * np.log10(c.distortion) for c in found.points]
    inner = [q for q in qualities if 10.001 < q < 29.999]
    assert [q for q in at if 10.001 < q < 29.999] == pytest.approx(inner, abs=2e-3)


def test_curves_cross_at_a_vertex_that_they_share():
    fives = range(10, 31, 5)
    steep, flat = line(2, -10, fives), line(1, 10, fives)
    found = crossings(flat, steep)
    (point,) = found.points
    assert (point.rate, point.distortion) == pytest.approx((30, 0.01))
    assert (found.smallest, found.largest) == pytest.approx(((10 - 20) / 20, (50 - 40) / 40))
    assert crossings(steep, flat).points[0] == pytest.approx(point)


def test_curves_that_touch_do_not_cross():
    base = line(1, 0)
    dented = by_quality((10, 12), (14, 46 / 3), (18, 18), (22, 26), (26, 32), (30, 38))
    assert crossings(base, dented).points == ()
    assert crossings(base, dented).smallest == pytest.approx(0, abs=1e-9)


def test_too_few_vertices_or_too_little_overlap_are_not_comparable():
    long = line(1, 0)
    few = by_quality((10, 10), (20, 20), (20, 25), (30, 30))
    assert (bd_bits(long, few), bd_rate(long, few), crossings(long, few)) == (None, None, None)
    half = line(1, 5, qualities=range(18, 31, 4))
    assert overlap(long, half) == pytest.approx(0.6)
    assert (bd_bits(long, half), bd_rate(long, half)) == (None, None)
    assert crossings(long, half).smallest == pytest.approx(5 / 30)
    apart = line(1, 0, qualities=range(40, 61, 4))
    assert (overlap(long, apart), crossings(long, apart)) == (0, None)


def test_overlap_is_shared_over_joint_range():
    one, other = line(1, 0, qualities=range(10, 31, 4)), line(1, 0, qualities=range(14, 35, 4))
    assert overlap(one, other) == pytest.approx(16 / 24)
    assert overlap(other, one) == overlap(one, other)


def test_vertices_without_a_quality_or_a_rate_are_left_out():
    points = list(line(1, 0).points)
    lossless = RateDistortionCurve.of([*points, RatePoint(9999, -0.1, 0.5, 4)], "sae", "delta_ce")
    assert len(lossless.lower_hull().points) == len(points) + 1
    assert bd_bits(line(1, 0), lossless) == 0
    silent = by_quality((5, 0), *((q, q) for q in range(10, 31, 4)))
    assert bd_bits(line(1, 0), silent) == pytest.approx(0)
    assert bd_rate(line(1, 0), silent) == pytest.approx(0)


def test_within_keeps_what_is_no_worse():
    kept = curve_of((1, 0.9), (2, 0.5), (3, 0.4)).within(0.5)
    assert (kept.rates.tolist(), kept.name) == ([2, 3], "sae")
