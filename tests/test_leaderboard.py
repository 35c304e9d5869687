"""Ranks, ties and the refusal of what cannot be compared."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mdlbench.boards.leaderboard import build, build_all, comparable, rank, shared_ranks
from mdlbench.errors import RecordError, UsageError
from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Headline
from tests.records import (
    HEADLINE,
    MNIST_LIMITS,
    make_distortion,
    make_point,
    make_record,
    make_result,
    realistic_suite,
)


def standings(records):
    """(rank, label) of every row of the headline table."""
    return [(row.ranking.rank, row.label) for row in build(records, HEADLINE).headline.rows]


def around(bits, pattern):
    return [bits + p for p in pattern]


def test_sorted_by_bits_with_competition_ranks():
    records = [
        make_record("d", around(130, (-1, 0, 1))),
        make_record("b", around(110.0, (-1, 0, 1))),
        make_record("c", around(110.1, (0, -1, 1))),
        make_record("a", around(100, (-1, 0, 1))),
    ]
    assert standings(records) == [(1, "a"), (2, "b"), (2, "c"), (4, "d")]


def test_differences_are_paired():
    """Wide marginal intervals that overlap, but one SAE is dearer in every single resample."""
    documents = np.array([-20.0, -5.0, 0.0, 5.0, 20.0])
    steadily_dearer = make_record("dearer", 100.5 + documents)
    cheap = make_record("cheap", 100.0 + documents)
    table = rank([steadily_dearer, cheap], "mse", 0.015)
    first, second = table.rows
    assert (first.ranking.rank, second.ranking.rank) == (1, 2)
    assert second.interval[0] < first.interval[1]
    assert second.ranking == (2, 0.5, 0.5, 0.5)


def test_the_same_replicates_unpaired_are_a_tie():
    documents = np.array([-20.0, -5.0, 0.0, 5.0, 20.0])
    other = make_record("other", 100.5 + documents[::-1])
    cheap = make_record("cheap", 100.0 + documents)
    assert standings([other, cheap]) == [(1, "cheap"), (1, "other")]


def test_ties_do_not_chain():
    """a-b and b-c are ties, a-c is not: one SAE is reliably shorter than c."""
    records = [
        make_record("a", [100.0, 100.0, 100.0, 100.0]),
        make_record("b", [99.0, 102.0, 99.0, 102.0]),
        make_record("c", [100.9, 101.1, 100.9, 101.1]),
        make_record("d", [105.0, 105.0, 105.0, 105.0]),
    ]
    assert standings(records) == [(1, "a"), (1, "b"), (2, "c"), (4, "d")]


def test_a_tie_joins_nobody_else():
    """c is known so badly that it ties with a; b, between them, is clearly longer than a."""
    a, b, c = np.full(1000, 100.0), np.full(1000, 101.0), np.full(1000, 102.0)
    b[:20], c[:20] = 90.0, 91.0  # b < a in 2% of the resamples: not a tie
    c[20:40] = 95.0  # c < b in 2%: not a tie; but c < a in 4%
    assert shared_ranks(np.array([a, b])) == [1, 2]
    assert shared_ranks(np.array([b, c])) == [1, 2]
    assert shared_ranks(np.array([a, c])) == [1, 1]
    assert shared_ranks(np.array([a, b, c, np.full(1000, 120.0)])) == [1, 2, 2, 4]


def test_interval_of_the_difference_is_the_95_percent_percentile_interval():
    differences = np.arange(1, 1001) / 100  # 0.01 … 10.00
    base = np.random.default_rng(0).normal(100, 5, size=1000)
    worse, best = make_record("worse", base + differences), make_record("best", base)
    row = rank([worse, best], "mse", 0.015).rows[1]
    # linear interpolation at positions 0.025·999 and 0.975·999 of the sorted differences
    assert row.ranking.delta_low == pytest.approx(0.01 + 24.975 * 0.01)
    assert row.ranking.delta_high == pytest.approx(0.01 + 974.025 * 0.01)
    assert row.ranking.delta == pytest.approx(differences.mean())
    assert row.ranking.rank == 2


def test_the_least_difference_is_the_median_half_width_between_neighbours():
    """Those whose draws are the same, one SAE in two modes, are left out."""
    draws = np.random.default_rng(0).normal([[100], [120], [140]], 5, size=(3, 1000))
    records = [make_record(f"sae-{i}", values) for i, values in enumerate([*draws, draws[2]])]
    gaps = np.diff(draws, axis=0)
    halves = [(np.percentile(gap, 97.5) - np.percentile(gap, 2.5)) / 2 for gap in gaps]
    assert rank(records, "mse", 0.015).least_difference == pytest.approx(np.mean(halves))
    assert rank(records[:1], "mse", 0.015).least_difference is None


def test_an_interval_that_touches_zero_is_a_tie():
    assert shared_ranks(np.array([[100.0, 100.0], [100.0, 100.0]])) == [1, 1]
    assert shared_ranks(np.array([[1.0] * 1000, [0.9] * 25 + [2.0] * 975])) == [1, 2]
    assert shared_ranks(np.array([[1.0] * 1000, [0.9] * 26 + [2.0] * 974])) == [1, 1]


def reliably_shorter(replicates):
    """Reference for `shared_ranks`: every pair, by the interval of its difference."""
    intervals = [[percentile_interval(own - other) for other in replicates] for own in replicates]
    return [1 + sum(low > 0 for low, _ in row) for row in intervals]


@st.composite
def sorted_replicates(draw):
    """Noise around SAEs' bits that lie now apart, now together."""
    noise = draw(
        arrays(
            np.float64,
            st.tuples(st.integers(1, 10), st.integers(2, 90)),
            elements=st.integers(0, 6).map(float),
        )
    )
    bits = draw(arrays(np.float64, len(noise), elements=st.integers(0, 30).map(float)))
    replicates = bits[:, None] + noise
    return replicates[np.argsort(replicates.mean(axis=1), kind="stable")]


@given(sorted_replicates())
@settings(max_examples=150)
def test_shared_ranks_equal_the_all_pairs_reference(replicates):
    assert shared_ranks(replicates) == reliably_shorter(replicates)


def test_infeasible_saes_come_last_by_floor_without_a_rank():
    records = [
        make_record("poor", None, floor=make_distortion(0.04)),
        make_record("nearly", None, floor=make_distortion(0.016)),
        make_record("good", [300.0, 301.0]),
    ]
    rows = build(records, HEADLINE).headline.rows
    assert [(r.ranking.rank, r.label, r.status, r.floor) for r in rows] == [
        (1, "good", "ranked", 0.012),
        (None, "nearly", "infeasible", 0.016),
        (None, "poor", "infeasible", 0.04),
    ]
    assert rows[1].result.bits is None
    assert rows[1].ranking.delta is None


def test_baselines_stand_in_their_place_without_a_rank():
    """Ranks are counted without them, and Δ is to the best SAE, also above it."""
    shifts = np.array([-1.0, 0.0, 1.0])
    records = [
        make_record("pca", 90 + 2 * shifts, adapter="baseline"),
        make_record("best", 100 + shifts),
        make_record("kmeans", 105 + shifts, adapter="baseline"),
        make_record("second", 110 + shifts),
    ]
    rows = build(records, HEADLINE).headline.rows
    assert [(row.ranking.rank, row.label, row.status) for row in rows] == [
        (None, "pca", "baseline"),
        (1, "best", "ranked"),
        (None, "kmeans", "baseline"),
        (2, "second", "ranked"),
    ]
    assert [row.ranking.delta for row in rows] == [-10.0, 0.0, 5.0, 10.0]
    assert rows[0].ranking.delta_low == pytest.approx(-10.95)
    assert rows[0].ranking.delta_high == pytest.approx(-9.05)


def test_baselines_alone_have_neither_rank_nor_difference():
    record = make_record("pca", adapter="baseline")
    (row,) = build([record], HEADLINE).headline.rows
    assert (row.status, row.ranking.rank, row.ranking.delta) == ("baseline", None, None)


def test_unranked_records_never_get_a_rank():
    unranked = make_record("unranked", results=[make_result(("mse", 0.015), [1.0], ranked=False)])
    rows = build([unranked, make_record("whole")], HEADLINE).headline.rows
    assert [(r.ranking.rank, r.label, r.status) for r in rows] == [
        (1, "whole", "ranked"),
        (None, "unranked", "unranked"),
    ]
    assert rows[0].ranking.delta == 0.0


def test_partial_records_never_get_a_rank():
    partial = make_record("partial", [1.0, 1.5], partial=True, limit=100)
    limited = make_record("limited", [1.0, 1.5], limit=100)
    rows = build([partial, limited], HEADLINE).headline.rows
    assert {(r.ranking.rank, r.label, r.status) for r in rows} == {
        (None, "limited", "partial"),
        (None, "partial", "partial"),
    }


@pytest.mark.parametrize(
    ("limits", "said"),
    [((None, 100), "all documents and 100 documents"), ((10, 20), "10 documents and 20 documents")],
)
def test_a_board_of_several_limits_is_refused(limits, said):
    records = [
        make_record(name, limit=limit, partial=bool(limit))
        for name, limit in zip("ab", limits, strict=True)
    ]
    with pytest.raises(
        RecordError, match=rf"a and b cannot be compared: their limit differs .{said}"
    ):
        build(records, HEADLINE)


def test_a_board_of_partial_records_alone_has_no_rank():
    table = build([make_record("a", partial=True, limit=10)], HEADLINE).headline
    assert [row.ranking.rank for row in table.rows] == [None]
    assert table.of("ranked") == ()


def test_floor_is_that_of_the_tables_metric():
    limits = [("mse", 0.015), ("delta_ce", 0.05)]
    record = make_record(
        "a", results=[make_result(x, None) for x in limits], floor=make_distortion(0.02, 0.07)
    )
    board = build([record], HEADLINE)
    assert [(t.metric, t.rows[0].floor) for t in board.tables] == [
        ("mse", 0.02),
        ("delta_ce", 0.07),
    ]


def test_headline_first_then_the_suites_order():
    board = build(realistic_suite(widths=(256,)), HEADLINE)
    expected = [("mse", 0.015), *(x for x in MNIST_LIMITS if x != ("mse", 0.015))]
    assert [(t.metric, t.epsilon) for t in board.tables] == expected


def test_a_headline_that_no_record_has_is_refused():
    with pytest.raises(UsageError, match=r"fvu 0\.2.*Known: mse 0\.015"):
        build([make_record("a")], Headline(metric="fvu", epsilon=0.2))


def test_rows_carry_the_operating_point_at_their_step():
    points = [make_point(s, b, 0.01, 9.0) for s, b in ((0.25, 150.0), (0.5, 120.0))]
    record = make_record("a", [119.0, 121.0], points=points)
    row = rank([record], "mse", 0.015).rows[0]
    assert (row.result.step, row.result.bits) == (0.5, 120.0)
    assert row.point == points[1]
    assert row.coded == 120.0 * 1.003
    elsewhere = make_record("b", [119.0, 121.0], points=points[:1])
    row = rank([elsewhere], "mse", 0.015).rows[0]
    assert (row.point, row.coded) == (None, None)


@pytest.mark.parametrize(
    "difference",
    [
        {"suite": "gpt2-l8"},
        {"suite_digest": "e2" * 32},
        {"protocol": 1},
        {"data_sha256": "db" * 32},
        {"seed": 1},
    ],
)
def test_records_of_another_measurement_are_refused_by_name(difference):
    (key,) = difference
    with pytest.raises(
        RecordError, match=f"mine and yours cannot be compared: their {key} differs"
    ):
        build([make_record("mine"), make_record("yours", **difference)], HEADLINE)


LAYER = Site(hook="layer 1")


@pytest.mark.parametrize(
    "difference",
    [{"suite": "toy"}, {"suite_digest": "ff" * 32}, {"protocol": 1}, {"seed": 1}],
)
def test_another_measurement_is_refused_at_another_site_too(difference):
    (key,) = difference
    one, other = make_record("mine", site=LAYER), make_record("yours", **difference)
    message = f"mine and yours cannot be compared: their {key} differs"
    with pytest.raises(RecordError, match=message):
        build_all([one, other], HEADLINE)


def test_a_stray_record_of_another_suite_is_named_as_such():
    """Even where it has none of the headline's tolerances."""
    results = [make_result(("fvu", 0.2), [1.0, 2.0])]
    stray = make_record("stray", results=results, suite="toy", site=LAYER)
    with pytest.raises(RecordError, match=r"their suite differs \(toy and mnist\)"):
        build_all([make_record("mine"), stray], HEADLINE)


def test_data_may_differ_between_sites_alone():
    one = make_record("mine", site=LAYER, data_sha256="db" * 32)
    boards = build_all([one, make_record("yours")], HEADLINE)
    assert [board.site for board in boards] == ["layer 1", "pixels"]
    with pytest.raises(RecordError, match=r"mine and yours .* their data_sha256 differs"):
        build_all([one, make_record("yours", site=LAYER)], HEADLINE)


def test_other_tolerances_are_refused():
    other = make_record("b", results=[make_result(("mse", 0.02), [1.0, 2.0])])
    with pytest.raises(
        RecordError, match="a and b cannot be compared: their set of tolerances differs"
    ):
        build([make_record("a"), other], HEADLINE)


def test_replicates_that_cannot_be_paired_are_refused():
    with pytest.raises(RecordError, match=r"3 bootstrap replicates.*they cannot be paired"):
        build([make_record("a", [1.0, 2.0]), make_record("b", [1.0, 2.0, 3.0])], HEADLINE)


def test_a_ranked_record_without_replicates_is_refused():
    result = make_result(("mse", 0.015), [1.0, 2.0]).model_copy(update={"replicates": []})
    with pytest.raises(RecordError, match="0 bootstrap replicates"):
        build([make_record("a", results=[result])], HEADLINE)


def test_a_feasible_record_without_bits_is_refused():
    result = make_result(("mse", 0.015), [1.0, 2.0], bits=None)
    with pytest.raises(RecordError, match=r"a: feasible at mse 0\.015, but without bits"):
        build([make_record("a", results=[result], points=[])], HEADLINE)


def test_duplicate_ids_are_refused():
    with pytest.raises(RecordError, match="a: two records with the same id"):
        comparable([make_record("a"), make_record("b"), make_record("a")])


def test_nothing_to_rank_is_an_error():
    with pytest.raises(UsageError, match="no records"):
        build([], HEADLINE)


def test_equal_names_are_told_apart_by_their_ids():
    one, two = make_record("sae"), make_record("sae", weights_sha256="cd" * 32)
    labels = {row.label for row in build([one, two], HEADLINE).headline.rows}
    assert labels == {f"sae ({one.id[:8]})", f"sae ({two.id[:8]})"}


def test_the_order_of_the_records_does_not_matter():
    records = realistic_suite(n_replicates=100)
    shuffled = records.copy()
    random.Random(1).shuffle(shuffled)
    assert build(shuffled, HEADLINE) == build(records, HEADLINE)


def test_ten_thousand_saes_are_ranked_in_seconds():
    generator = np.random.default_rng(0)
    bits = np.sort(generator.uniform(60, 400, size=10_000))
    replicates = bits[:, None] + generator.normal(0, 0.03, size=(10_000, 200))
    start = time.process_time()
    ranks = shared_ranks(replicates)
    assert time.process_time() - start < 10
    assert ranks[0] == 1
    assert np.all(ranks <= np.arange(1, 10_001))
    assert 1 < len(set(ranks)) < 10_000


def test_imports_no_torch_and_no_matplotlib():
    code = (
        "import sys, mdlbench.boards.leaderboard; print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
