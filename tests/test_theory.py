"""Closed forms against direct sums over outcomes, and what must hold for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.codes import closed_forms
from mdlbench.errors import UsageError

rates = st.floats(0.01, 0.99)
shares = st.floats(0.0, 1.0)


def bits(*outcomes: float) -> float:
    """Entropy of a distribution, outcome by outcome."""
    assert sum(outcomes) == pytest.approx(1, abs=1e-12)
    return -sum(p * math.log2(p) for p in outcomes if p > 0)


def one(*values: float) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value]) for value in values)


# feature splitting


def possible_overlap(p_a: float, p_b: float, share: float) -> float:
    least, most = max(0.0, p_a + p_b - 1), min(p_a, p_b)
    return least + share * (most - least)


@given(rates, rates, shares)
def test_splitting_against_sums_over_outcomes(p_a, p_b, share):
    q = possible_overlap(p_a, p_b, share)
    found = closed_forms.splitting(*one(p_a, p_b, q))
    latents = [q, p_a - q, p_b - q]
    assert found.two[0] == pytest.approx(bits(p_a, 1 - p_a) + bits(p_b, 1 - p_b), rel=1e-9)
    assert found.three[0] == pytest.approx(sum(bits(p, 1 - p) for p in latents), rel=1e-9)
    neither = max(1 - sum(latents), 0.0)
    assert found.joint[0] == pytest.approx(bits(*latents, neither), rel=1e-9)
    assert found.joint[0] <= min(found.two[0], found.three[0]) + 1e-12
    assert found.gain[0] == found.two[0] - found.three[0]


@given(rates, rates)
def test_two_latents_of_independent_features_reach_the_joint_entropy(p_a, p_b):
    found = closed_forms.splitting(*one(p_a, p_b, p_a * p_b))
    assert found.two == pytest.approx(found.joint, rel=1e-9)
    assert found.three[0] > found.two[0]


@given(rates, rates)
def test_break_even_is_where_both_codes_are_equally_long(p_a, p_b):
    a, b = one(p_a, p_b)
    q = closed_forms.break_even_overlap(a, b)
    least, most = closed_forms.overlap_bounds(a, b)
    if np.isnan(q[0]):
        assert closed_forms.splitting(a, b, most).gain[0] <= 1e-12
        assert max(p_a, p_b) >= (1 + min(p_a, p_b)) / 2 - 1e-9
        return
    assert p_a * p_b < q[0] <= most[0]
    assert closed_forms.splitting(a, b, q).gain == pytest.approx(0, abs=1e-12)
    assert (closed_forms.splitting(a, b, q + 0.5 * (most - q)).gain > -1e-12).all()
    for share in (0.0, 0.3, 0.9):
        assert (closed_forms.splitting(a, b, least + share * (q - least)).gain < 1e-12).all()


def test_three_latents_never_pay_for_a_rare_and_a_frequent_feature():
    assert np.isnan(closed_forms.break_even_correlation(*one(0.1, 0.9))).all()


def test_the_lift_of_unequal_sparse_features_tends_to_e_too():
    assert closed_forms.break_even_lift(*one(1e-5, 4e-5)) == pytest.approx(math.e, rel=1e-4)


@given(rates, rates, shares)
def test_overlap_and_correlation_are_inverses(p_a, p_b, share):
    q = possible_overlap(p_a, p_b, share)
    rho = closed_forms.correlation(*one(p_a, p_b, q))
    assert closed_forms.overlap(*one(p_a, p_b), np.clip(rho, -1, 1)) == pytest.approx(q, abs=1e-9)


def test_impossible_overlaps_are_masked():
    p = np.array([0.1, 0.1, 0.5, 0.5])
    q = closed_forms.overlap(p, p, np.array([-0.5, 1.0, -1.0, 1.0]))
    assert q == pytest.approx([np.nan, 0.1, 0.0, 0.5], nan_ok=True)
    assert all(
        np.isnan(x).tolist() == [True, False, False, False] for x in closed_forms.splitting(p, p, q)
    )
    assert np.isnan(closed_forms.splitting(*one(0.1, 0.2, 0.15)).two).all()


@pytest.mark.parametrize(
    ("p_a", "p_b", "rho", "message"),
    [
        (1.2, 0.5, 0.0, "p_A must lie between 0 and 1, not 1.2"),
        (0.5, -0.1, 0.0, "p_B must lie"),
        (0.5, 0.5, 1.5, "rho must lie between -1 and 1"),
        (math.nan, 0.5, 0.0, "not nan"),
    ],
)
def test_what_is_no_probability_is_an_error(p_a, p_b, rho, message):
    with pytest.raises(UsageError, match=message):
        closed_forms.overlap(*one(p_a, p_b, rho))


def test_a_plane_of_rates_broadcasts():
    p = np.linspace(0.1, 0.9, 5)
    plane = closed_forms.break_even_overlap(p[None], p[:, None])
    assert plane.shape == (5, 5)
    assert np.diag(plane) == pytest.approx(closed_forms.break_even_overlap(p, p), rel=1e-9)
    assert np.allclose(plane, plane.T, equal_nan=True)


# hierarchies


@given(rates, st.lists(shares, max_size=3))
def test_a_tree_reaches_the_joint_entropy_and_a_flat_code_does_not_beat_it(root, given_above):
    chain = np.cumprod([root, *given_above])
    found = closed_forms.nested(chain[:, None])
    alone = [*(-np.diff(chain)), chain[-1]]
    assert found.flat[0] == pytest.approx(sum(bits(p, 1 - p) for p in alone), rel=1e-9)
    assert found.joint[0] == pytest.approx(bits(1 - root, *alone), rel=1e-9)
    assert found.tree[0] == pytest.approx(found.joint[0], rel=1e-9)
    assert found.gain[0] >= -1e-12


def test_the_gain_of_a_sparse_tree():
    p_a, b_given_a = np.array([1e-3]), 0.3
    gain = closed_forms.nested(np.stack([p_a, p_a * b_given_a])).gain
    assert closed_forms.sparse_gain(p_a, b_given_a) == pytest.approx(gain, rel=2e-3)


@pytest.mark.parametrize(
    ("chain", "message"), [([0.2, 0.3], "more frequent"), ([1.1, 0.3], "between 0 and 1")]
)
def test_impossible_chains(chain, message):
    with pytest.raises(UsageError, match=message):
        closed_forms.nested(np.array(chain)[:, None])


# fixed firing rates, compositional data


@given(st.integers(1, 200), st.floats(0, 1, allow_subnormal=False), st.floats(0, 3))
def test_zipf_rates(n_latents, share, alpha):
    found = closed_forms.zipf_rates(n_latents, share * n_latents, alpha)
    assert len(found) == n_latents
    assert found.sum() == pytest.approx(share * n_latents, abs=1e-9)
    assert found.max() <= 1
    assert (np.diff(found) <= 1e-12).all()
    free = np.flatnonzero(found < 1)
    if len(free) > 1 and found[free].min() > 1e-300:
        ratio = ((free[1:] + 1) / (free[0] + 1)) ** -float(alpha)
        assert found[free[1:]] / found[free[0]] == pytest.approx(ratio, rel=1e-9)


@given(st.integers(2, 100), st.floats(0.01, 0.99), st.floats(0.1, 3))
def test_uniform_rates_make_the_longest_index(n_latents, share, alpha):
    uniform, zipf = (
        closed_forms.fixed_rates_bits(closed_forms.zipf_rates(n_latents, share * n_latents, a))
        for a in (0.0, alpha)
    )
    assert zipf <= uniform + 1e-9


def test_more_active_latents_than_there_are():
    with pytest.raises(UsageError, match="10 latents cannot have an L0 of 11"):
        closed_forms.zipf_rates(10, 11, 0.7)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_composed_latents_are_never_longer_than_factored_ones(values):
    found = closed_forms.compositional(values)
    assert found.joint <= found.composed + 1e-9
    assert found.composed <= found.factored + 1e-9


def test_an_attribute_without_a_value():
    with pytest.raises(UsageError, match="needs a value"):
        closed_forms.compositional([2, 0])
