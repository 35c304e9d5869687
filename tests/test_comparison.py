"""Paired differences between records, against differences taken replicate by replicate."""

from __future__ import annotations

import numpy as np
import pytest

from mdlbench.boards.pairing import Difference, differences, mean_difference, sign_change
from mdlbench.errors import RecordError
from mdlbench.suite.site import Site
from tests.records import make_record, make_result

NOISE = np.random.default_rng(0).normal(size=200)


def record(name, bits, **changes):
    """Feasible at the tolerances whose bits are given, 0.010 first; infeasible at None."""
    results = [
        make_result(("mse", epsilon), None if b is None else b + NOISE + 0.01 * NOISE[::-1])
        for epsilon, b in zip((0.010, 0.015, 0.020), bits, strict=True)
    ]
    return make_record(name, results=results, weights_sha256=name * 64, **changes)


def test_differences_are_paired_and_only_where_both_are_feasible():
    one, other = record("a", (None, 70, 50)), record("b", (90, 72, 51))
    found = differences(one, other, "mse")
    assert [at.epsilon for at in found] == [0.015, 0.020]
    assert found[0].difference == pytest.approx((2, 2, 2))
    assert found[1].difference == pytest.approx((1, 1, 1))


def test_the_mean_is_taken_within_each_resample():
    one = make_record(
        "a",
        results=[make_result(("mse", e), s * NOISE) for e, s in ((0.01, 1.0), (0.02, 2.0))],
    )
    other = make_record(
        "b",
        results=[make_result(("mse", e), 5 - s * NOISE) for e, s in ((0.01, 1.0), (0.02, 4.0))],
        weights_sha256="cd" * 32,
    )
    mean = mean_difference(one, other, "mse")
    replicates = ((5 - 2 * NOISE) + (5 - 6 * NOISE)) / 2
    assert mean.bits == pytest.approx(replicates.mean())
    assert (mean.low, mean.high) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])))


def test_no_shared_tolerance_has_no_mean():
    assert mean_difference(record("a", (None, 70, None)), record("b", (1, None, 1)), "mse") is None


def test_sign_change_names_the_largest_difference_of_either_sign():
    one, other = record("a", (90, 70, 50)), record("b", (93, 71, 46))
    above, below = sign_change(one, other, "mse")
    assert (above.epsilon, below.epsilon) == (0.010, 0.020)
    assert (above.difference.bits, below.difference.bits) == pytest.approx((3, -4))
    assert sign_change(one, record("c", (91, 71, 50)), "mse") is None


@pytest.mark.parametrize(("ends", "sign"), [((1, 2), 1), ((-2, -1), -1), ((-1, 1), 0), ((0, 1), 0)])
def test_sign_of_a_difference(ends, sign):
    assert Difference(0.5, *map(float, ends)).sign == sign


def test_what_cannot_be_paired_is_refused():
    one = record("a", (90, 70, 50))
    with pytest.raises(RecordError, match="suite_digest differs"):
        differences(one, record("b", (90, 70, 50), suite_digest="ee" * 32), "mse")
    with pytest.raises(RecordError, match=r"site differs \(pixels and layer 3\)"):
        differences(one, record("b", (90, 70, 50), site=Site(hook="layer 3")), "mse")
    with pytest.raises(RecordError, match="set of tolerances differs"):
        differences(one, make_record("b"), "mse")
    results = [make_result(("mse", e), NOISE[:50]) for e in (0.010, 0.015, 0.020)]
    short = make_record("b", results=results)
    with pytest.raises(RecordError, match="50 bootstrap replicates"):
        differences(one, short, "mse")
