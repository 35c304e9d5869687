import numpy as np
import pytest

from mdlbench.statistics.bootstrap import (
    CONFIDENCE,
    Bootstrap,
    percentile_interval,
    percentile_intervals,
    upper_limit,
)


def test_the_same_arguments_draw_the_same_documents():
    sums, tokens = np.arange(50.0), np.ones(50)
    first = Bootstrap(tokens, 100, seed=3).means(sums)
    assert np.array_equal(first, Bootstrap(tokens, 100, seed=3).means(sums))
    assert not np.array_equal(first, Bootstrap(tokens, 100, seed=4).means(sums))


def test_a_constant_has_no_spread_and_means_are_linear():
    bootstrap, generator = Bootstrap(np.ones(80), 200, seed=0), np.random.default_rng(1)
    a, b = generator.normal(size=(2, 80))
    assert np.allclose(bootstrap.means(np.full(80, 2.5)), 2.5, rtol=1e-14)
    paired = bootstrap.means(a) - bootstrap.means(b)
    assert np.allclose(paired, bootstrap.means(a - b), atol=1e-14)


def test_interval_matches_the_standard_error_of_the_mean():
    values = np.random.default_rng(2).normal(10, 3, size=4000)
    low, high = Bootstrap(np.ones(4000), 2000, seed=5).interval(values)
    error = values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_documents_weigh_by_their_tokens():
    sums, tokens = np.array([10.0, 900.0]), np.array([1.0, 99.0])
    means = Bootstrap(tokens, 500, seed=0).means(sums)
    assert set(np.round(means, 9)) == {10.0, 9.1, round(900 / 99, 9)}


def test_limits_are_the_percentiles():
    replicates = np.arange(1001.0)
    assert percentile_interval(replicates) == pytest.approx((25.0, 975.0), rel=1e-12)
    assert upper_limit(replicates) == 950.0


def test_intervals_of_rows_are_those_of_each():
    rows = np.random.default_rng(5).normal(size=(4, 501))
    tail = (1 - CONFIDENCE) / 2
    wanted = [tuple(np.quantile(row, [tail, 1 - tail])) for row in rows]
    assert [percentile_interval(row) for row in rows] == wanted
    assert [tuple(ends) for ends in percentile_intervals(rows)] == wanted
