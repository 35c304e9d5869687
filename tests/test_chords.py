"""Rates along the chords of hulls: against numerical integrals and dense grids."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, trapezoid

from mdlbench.curves.chords import Chords, LogChords, crossing_qualities
from mdlbench.curves.curve import RateDistortionCurve, RatePoint, bd_bits, bd_rate, crossings
from mdlbench.records.store import read_records

MNIST = Path(__file__).parent.parent / "leaderboards" / "mnist"


@st.composite
def hulls(draw):
    """Vertices of a convex falling curve; neighbours may all but coincide."""
    n = draw(st.integers(2, 8))
    steps = draw(st.lists(st.floats(1e-7, 0.05), min_size=n - 1, max_size=n - 1))
    slopes = sorted(
        draw(st.lists(st.floats(1.0, 1e5), min_size=n - 1, max_size=n - 1, unique=True))
    )
    least = draw(st.floats(1e-3, 0.05))
    distortions = least + np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]])
    rates = draw(st.floats(1e-3, 10.0)) + np.concatenate(
        [[0.0], np.cumsum(np.multiply(slopes, steps))]
    )
    return rates, distortions


def meetings(one, other):
    """Qualities at which two cross."""
    vertices = np.union1d(one.x, other.x)
    low, high = max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])
    quality = np.union1d([low, high], vertices[(vertices > low) & (vertices < high)])
    return crossing_qualities(quality, other(quality) - one(quality), 1e-9)


def inside(hull, shares):
    quality = -10 * np.log10(hull[1])
    return sorted(quality[0] + share * (quality[-1] - quality[0]) for share in shares)


@given(hulls(), st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_integrals_against_quadrature(hull, shares):
    low, high = inside(hull, shares)
    vertices = -10 * np.log10(hull[1])
    ends = [low, *vertices[(vertices > low) & (vertices < high)], high]

    def rate(quality):
        return np.interp(-(10 ** (-quality / 10)), -hull[1], hull[0])

    for kind, value in ((Chords, rate), (LogChords, lambda quality: np.log10(rate(quality)))):
        pieces = [quad(value, *pair, epsabs=1e-12)[0] for pair in pairwise(ends)]
        assert kind(*hull).integrate(low, high) == pytest.approx(sum(pieces), rel=1e-7, abs=1e-7)
        grid = np.linspace(low, high, 50)
        assert kind(*hull)(grid) == pytest.approx(value(grid))


@given(hulls(), hulls())
def test_crossings_are_where_the_sign_of_the_difference_changes(one, other):
    one, other = Chords(*one), Chords(*other)
    low, high = max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])
    found = meetings(one, other) if low < high else []
    assert found == sorted(found)
    for quality in found:
        at = np.array([quality])
        assert other(at) == pytest.approx(one(at), rel=1e-6, abs=1e-6)
    edges = np.array([low, *found, high])
    for before, after in pairwise(edges):
        gap = other(np.linspace(before, after, 41)) - one(np.linspace(before, after, 41))
        slack = 1e-6 * one(edges).max()
        assert (gap > -slack).all() or (gap < slack).all()


def test_a_crossing_by_hand():
    """25 − 100·D against 40 − 250·D: at D = 0.1 and 15 bits."""
    one, other = (
        RateDistortionCurve.of([RatePoint(r, d, 1, 1) for r, d in hull], "sae", "mse")
        for hull in (
            [(3, 0.4), (4, 0.25), (5, 0.2), (23, 0.02)],
            [(0, 0.16), (35, 0.02), (60, 0.01), (200, 0.005)],
        )
    )
    found = crossings(one, other)
    assert found.points == (pytest.approx((15.0, 0.1)),)
    assert (found.smallest, found.largest) == pytest.approx((-1.0, 35 / 23 - 1))


def test_hulls_that_touch_or_coincide_for_a_while_do_not_cross():
    steep = Chords(np.array([0.0, 10.0, 40.0]), np.array([0.4, 0.2, 0.1]))
    above = Chords(np.array([5.0, 10.0, 40.0, 90.0]), np.array([0.4, 0.2, 0.1, 0.05]))
    beyond = Chords(np.array([5.0, 10.0, 40.0]), np.array([0.4, 0.2, 0.05]))
    assert meetings(steep, above) == []
    assert meetings(steep, beyond) == [pytest.approx(-10 * np.log10(0.2))]
    assert meetings(steep, steep) == []


def test_rate_0_is_left_out_of_bd_rate_with_its_chord():
    hull = [(0.0, 0.4), (10.0, 0.3), (21.0, 0.2), (33.0, 0.12), (60.0, 0.1)]
    one, other = (
        RateDistortionCurve.of([RatePoint(f * r, d, 1, 1) for r, d in hull], "a", "mse")
        for f in (1.0, 1.5)
    )
    assert bd_rate(one, other) == pytest.approx(50.0)
    assert bd_bits(one, other) > 0


@pytest.fixture(scope="module")
def families():
    """The hulls of all BatchTopK, all MDL and all TopK SAEs of the committed leaderboard."""
    records = [r for r in read_records(MNIST) if r.identity.quantiser is None]
    architectures = ("batchtopk", "mdl", "topk")
    return [
        RateDistortionCurve.of(
            [p for r in records if r.coder.architecture == a for p in r.curve("mse").points],
            a,
            "mse",
        ).lower_hull()
        for a in architectures
    ]


def dense(hull):
    """Many points along the chords: (quality, rate)."""
    quality = -10 * np.log10(hull.distortions)
    grid = np.union1d(quality, np.linspace(quality[0], quality[-1], 40_000))
    return grid, np.interp(-(10 ** (-grid / 10)), -hull.distortions, hull.rates)


@pytest.mark.parametrize("test", [1, 2])
def test_committed_families_against_a_dense_grid(families, test):
    one, other = families[0], families[test]
    (q1, r1), (q2, r2) = dense(one), dense(other)
    low, high = max(q1[0], q2[0]), min(q1[-1], q2[-1])
    grid = np.linspace(low, high, 400_001)
    r1, r2 = np.interp(grid, q1, r1), np.interp(grid, q2, r2)
    gap = trapezoid(r2 - r1, grid) / (high - low)
    assert bd_bits(one, other) == pytest.approx(gap, abs=1e-3)
    ratio = 10 ** (trapezoid(np.log10(r2 / r1), grid) / (high - low))
    assert bd_rate(one, other) == pytest.approx(100 * (ratio - 1), abs=0.01)
