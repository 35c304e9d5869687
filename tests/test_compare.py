"""`mdlbench compare`: choice, intervals, families, answers; against slow computations of draws."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.integrate import trapezoid
from scipy.spatial import ConvexHull

from mdlbench.boards.compare.choice import choose, only_results_folder
from mdlbench.boards.compare.contender import Contender
from mdlbench.boards.compare.contest import compare, placings_at
from mdlbench.console.style import png
from mdlbench.errors import RecordError, UsageError
from mdlbench.records.store import RecordStore
from mdlbench.report.compare.data import to_csv, to_json
from mdlbench.report.compare.figure import comparison_figure
from mdlbench.report.compare.terminal import print_comparison
from mdlbench.report.compare.words import answer, curve_notes, to_markdown
from mdlbench.suite.site import Site
from tests.quick import MDLBENCH, served
from tests.records import (
    make_point,
    make_record,
    make_result,
    realistic_references,
    realistic_suite,
    with_resamples,
)

N_DRAWS = 40
DRAWS = np.random.default_rng(1)
MSES = (0.040, 0.030, 0.023, 0.018, 0.0145, 0.012)
LIMIT = ("mse", 0.015)


def sae(name, bits, mses=MSES, n_draws=N_DRAWS, **changes):
    """An SAE with these bits at these MSEs, each with resamples of its own."""
    points = [
        with_resamples(
            make_point(0.5 + i, float(b), float(mse), 8.0, 100 * float(mse) ** 2),
            *(0.01 * DRAWS.normal(size=(3, n_draws))),
        )
        for i, (b, mse) in enumerate(zip(bits, mses, strict=True))
    ]
    settings = {
        "replicates": bits[-1] + DRAWS.normal(size=n_draws),
        "weights_sha256": name.ljust(64, "_"),
        **changes,
    }
    replicates = settings.pop("replicates")
    return make_record(name, replicates, points=points, **settings)


def one(record):
    return Contender(record.label, (record,))


def family(name, *records):
    return Contender(name, records, is_family=True)


ONE = sae("one", (10, 20, 30, 45, 60, 80))
OTHER = sae("other", (12, 21, 33, 43, 57, 84))
THIRD = sae("third", (9, 19, 29, 50, 62, 75), (0.041, 0.029, 0.0245, 0.017, 0.0142, 0.0121))


# --- intervals, draw by draw ----------------------------------------------------------------


def draws_of(record, metric="mse"):
    """(rate, distortion) of every point, one array a draw."""
    rates = np.stack([p.resampled_bits() for p in record.points])
    losses = np.stack([p.resampled(metric) for p in record.points])
    return [np.column_stack(pair) for pair in zip(rates.T, losses.T, strict=True)]


def unbeaten(points):
    """The Pareto front by comparing all pairs, by rising quality."""
    front = [p for p in points if not any((q <= p).all() and (q < p).any() for q in points)]
    return np.array(sorted(front, key=lambda p: -p[1]))


def slow_hull(points):
    """Rate by quality along the chords of the lower hull, from scipy's convex hull."""
    corners = unbeaten(points[ConvexHull(points).vertices])
    kept = [p for p in corners if not below_chord(p, corners)]
    d, r = np.array(kept)[:, 1][::-1], np.array(kept)[:, 0][::-1]
    return -10 * np.log10(d[::-1]), lambda q: np.interp(10 ** (-q / 10), d, r)


def below_chord(point, corners):
    """Whether a chord of two other corners passes below."""
    for a in corners:
        for b in corners:
            if a[0] < point[0] < b[0]:
                share = (point[0] - a[0]) / (b[0] - a[0])
                if a[1] + share * (b[1] - a[1]) < point[1]:
                    return True
    return False


def slow_bd(anchor, test, of_rate=lambda rate: rate):
    (q1, r1), (q2, r2) = slow_hull(anchor), slow_hull(test)
    grid = np.linspace(max(q1[0], q2[0]), min(q1[-1], q2[-1]), 8001)
    gap = of_rate(r2(grid)) - of_rate(r1(grid))
    return trapezoid(gap, grid) / (grid[-1] - grid[0])


def slow_rate(anchor, test):
    """In percent."""
    return 100 * (10 ** slow_bd(anchor, test, np.log10) - 1)


def ends(values):
    return pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=5e-3)


@pytest.mark.parametrize("metric", ["mse", "fvu", "delta_ce"])
def test_intervals_equal_those_computed_slowly_draw_by_draw(metric):
    (found,) = compare([one(ONE), one(THIRD)], metric).comparisons
    pairs = list(zip(draws_of(ONE, metric), draws_of(THIRD, metric), strict=True))
    bits, rate = [slow_bd(*pair) for pair in pairs], [slow_rate(*pair) for pair in pairs]
    assert (found.bd_bits.low, found.bd_bits.high) == ends(bits)
    assert (found.bd_rate.low, found.bd_rate.high) == ends(rate)
    assert found.bd_bits.n_missing == found.bd_rate.n_missing == 0
    points = [
        np.array([(p.bits.total, getattr(p, metric)) for p in r.points]) for r in (ONE, THIRD)
    ]
    assert found.bd_bits.value == pytest.approx(slow_bd(*points), abs=1e-3)
    assert found.bd_rate.value == pytest.approx(slow_rate(*points), abs=1e-3)


def test_families_are_compared_on_their_hulls_selected_anew_in_every_draw():
    (found,) = compare([family("all a", ONE, OTHER), family("all b", THIRD)], "mse").comparisons
    members = [draws_of(ONE), draws_of(OTHER)]
    pooled = [np.concatenate(draw) for draw in zip(*members, strict=True)]
    slow = [slow_bd(*pair) for pair in zip(pooled, draws_of(THIRD), strict=True)]
    assert (found.bd_bits.low, found.bd_bits.high) == ends(slow)
    pooled = np.array([(p.bits.total, p.mse) for r in (ONE, OTHER) for p in r.points])
    third = np.array([(p.bits.total, p.mse) for p in THIRD.points])
    assert found.bd_bits.value == pytest.approx(slow_bd(pooled, third), abs=1e-3)


def test_a_family_of_one_stands_on_the_same_hull_as_an_sae_beside_a_family():
    alone = compare([one(ONE), family("all b", THIRD)], "mse")
    both = compare([family("all a", ONE), family("all b", THIRD)], "mse")
    assert alone.comparisons[0].bd_bits == both.comparisons[0].bd_bits


def test_who_is_the_anchor_changes_the_sign_and_nothing_else():
    (forth,) = compare([one(ONE), one(THIRD)], "mse").comparisons
    (back,) = compare([one(THIRD), one(ONE)], "mse").comparisons
    assert back.bd_bits.value == pytest.approx(-forth.bd_bits.value)
    assert (back.bd_bits.low, back.bd_bits.high) == pytest.approx(
        (-forth.bd_bits.high, -forth.bd_bits.low)
    )
    assert [c.distortion for c in back.crossings] == pytest.approx(
        [c.distortion for c in forth.crossings]
    )
    assert [c.beyond_chance for c in back.crossings] == [c.beyond_chance for c in forth.crossings]


def test_the_band_is_the_interval_of_the_difference_at_each_quality():
    (found,) = compare([one(ONE), one(THIRD)], "mse").comparisons
    i = 100
    quality = -10 * np.log10(found.band.distortions[i])
    slow = []
    for pair in zip(draws_of(ONE), draws_of(THIRD), strict=True):
        (_, r1), (_, r2) = map(slow_hull, pair)
        slow.append(r2(quality) - r1(quality))
    assert (found.band.low[i], found.band.high[i]) == ends(slow)
    assert found.band.low[i] <= found.band.bits[i] <= found.band.high[i]


def constant(name, bits, spread=0.0, mses=MSES):
    """Resamples move all points' bits together, by at most `spread` of them."""
    share = np.linspace(-spread, spread, N_DRAWS)
    points = [
        with_resamples(make_point(0.5 + i, float(b), mse, 8.0), share, 0 * share, 0 * share)
        for i, (b, mse) in enumerate(zip(bits, mses, strict=True))
    ]
    return make_record(
        name, np.full(N_DRAWS, 5.0), points=points, weights_sha256=name.ljust(64, "_")
    )


def test_equal_draws_of_both_leave_no_interval():
    base, longer = (10, 20, 30, 45, 60, 80), (12, 24, 36, 54, 72, 96)
    (found,) = compare(
        [one(constant("a", base, 0.1)), one(constant("b", longer, 0.1))], "mse"
    ).comparisons
    assert (found.bd_rate.value, found.bd_rate.low, found.bd_rate.high) == pytest.approx(
        (20, 20, 20), abs=1e-6
    )
    assert 0 < found.bd_bits.low < found.bd_bits.value < found.bd_bits.high


@pytest.mark.parametrize(("spread", "beyond"), [(0.001, True), (0.2, False)])
def test_a_crossing_is_beyond_chance_where_the_band_leaves_zero_on_both_sides(spread, beyond):
    flat = constant("a", (10, 20, 30, 45, 60, 80))
    steep = constant("b", (9, 18.5, 29, 46, 63, 85), spread)
    (found,) = compare([one(flat), one(steep)], "mse").comparisons
    (crossing,) = found.crossings
    assert crossing.beyond_chance is beyond
    assert 0.019 < crossing.distortion < 0.024
    assert found.smallest == pytest.approx(-0.1, abs=1e-3)
    assert found.largest == pytest.approx(5 / 80, abs=1e-3)


def test_draws_that_are_not_comparable_widen_the_interval_and_are_counted():
    """In 1 of 40 draws the losses of `test` share no range with those of the other."""
    still, broken = np.zeros(N_DRAWS), np.zeros(N_DRAWS)
    broken[0] = 3.0
    whole = constant("a", (10, 20, 30, 45, 60, 80))
    points = [with_resamples(whole.points[i], still, broken, still) for i in (0, 1, 3, 5)]
    few = make_record("b", np.full(N_DRAWS, 5.0), points=points, weights_sha256="b" * 64)
    contest = compare([one(whole), one(few)], "mse")
    (found,) = contest.comparisons
    assert found.bd_bits.n_missing == 1
    assert (found.bd_bits.low, found.bd_bits.high) == (None, None)
    assert np.isnan(found.band.low).all()
    assert "b: not comparable in 1 of 40 resamples" in list(curve_notes(contest))


def test_without_resamples_there_is_no_interval_and_it_says_so():
    points = [point.model_copy(update={"resamples": None}) for point in OTHER.points]
    old = OTHER.model_copy(update={"points": points})
    contest = compare([one(ONE), one(old)], "mse")
    (found,) = contest.comparisons
    assert (found.bd_bits.low, found.bd_bits.high) == (None, None)
    assert (
        found.bd_bits.value == compare([one(ONE), one(OTHER)], "mse").comparisons[0].bd_bits.value
    )
    assert "no intervals of curves" in " ".join(curve_notes(contest))
    assert "There are no intervals" in to_markdown(contest)


# --- what cannot be compared ----------------------------------------------------------------


def test_too_few_points_and_too_little_overlap_have_no_averages():
    mean = sae("mean", (0,), (0.067,), replicates=None)
    far = sae("far", (100, 200, 300, 400), (0.013, 0.006, 0.004, 0.0025), replicates=None)
    contest = compare([one(ONE), one(mean), one(far)], "mse")
    of_mean, of_far = contest.comparisons
    assert (of_mean.reason, of_mean.bd_bits, of_mean.crossings) == ("1 point, needs 4", None, None)
    assert of_far.reason == "overlap 2%, needs 75%"
    assert of_far.bd_rate is None
    (back,) = compare([one(mean), one(ONE)], "mse").comparisons
    assert back.reason == "the anchor has 1 point, needs 4"
    assert "far: not comparable (overlap 2%, needs 75%)" in list(curve_notes(contest))
    content = json.loads(to_json(contest))["curves"]
    assert [c["comparable"] for c in content] == [False, False]
    assert not any("bd_bits" in c for c in content)
    comparison_figure(contest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "toy"}, r"suite differs \(mnist and toy\)"),
        ({"suite_digest": "ee" * 32}, "suite_digest differs .d1d1d1d1d1d1 and eeeeeeeeeeee"),
        ({"protocol": 1}, r"protocol differs \(2 and 1\)"),
        ({"data_sha256": "ee" * 32}, "data_sha256 differs .dadadadadada and eeeeeeeeeeee"),
        ({"seed": 7}, r"seed differs \(0 and 7\)"),
        ({"limit": 64, "partial": True}, r"limit differs \(all documents and 64 documents\)"),
        ({"site": Site(hook="layer 3")}, r"site differs \(pixels and layer 3\)"),
    ],
)
def test_records_of_different_measurements_are_refused(change, message):
    with pytest.raises(RecordError, match=message):
        compare([one(ONE), family("all b", THIRD, sae("other", range(6), **change))], "mse")


def test_unequal_numbers_of_resamples_are_refused():
    with pytest.raises(RecordError, match="40 and 30 bootstrap resamples"):
        compare([one(ONE), one(sae("short", range(6), n_draws=30))], "mse")


def test_partial_records_are_compared_among_themselves_and_marked():
    few = [sae(name, range(1, 7), limit=64, partial=True) for name in ("a", "b")]
    contest = compare([one(few[0]), one(few[1])], "mse")
    assert "partial" in next(iter(curve_notes(contest)))
    assert json.loads(to_json(contest))["partial"] is True


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match="at least two"):
        compare([one(ONE)], "mse")
    with pytest.raises(UsageError, match="one: the same SAEs, given twice"):
        compare([one(ONE), one(OTHER), one(ONE)], "mse")
    with pytest.raises(UsageError, match="Did you mean 'mse'"):
        compare([one(ONE), one(OTHER)], "mes")
    with pytest.raises(UsageError, match=r"no tolerance mse 0.02\. Known: 0.015"):
        compare([one(ONE), one(OTHER)], "mse", 0.02)
    with pytest.raises(UsageError, match=r"no tolerance fvu 0.02\. Known: none"):
        compare([one(ONE), one(OTHER)], "fvu", 0.02)


def test_without_the_points_at_rate_0_there_may_be_no_bd_rate_and_it_says_so():
    free = sae("free", (0, 20, 40, 95), (*MSES[:3], MSES[-1]))
    contest = compare([one(ONE), one(free)], "mse")
    (found,) = contest.comparisons
    assert (found.bd_rate, found.reason, found.bd_bits.n_missing) == (None, None, 0)
    assert found.bd_bits.low < found.bd_bits.value < found.bd_bits.high
    why = "not comparable without the points at rate 0"
    assert f"free: no BD-rate ({why})" in list(curve_notes(contest))
    (content,) = json.loads(to_json(contest))["curves"]
    assert (content["comparable"], content["bd_rate_reason"]) == (True, why)
    notes = {r["quantity"]: r["note"] for r in csv.DictReader(io.StringIO(to_csv(contest)))}
    assert (notes["bd_bits"], notes["bd_rate_percent"]) == ("", why)


def test_two_of_one_name_are_refused():
    with pytest.raises(UsageError, match="two to compare are called one: give each a name"):
        compare([one(ONE), Contender("one", (OTHER,)), one(THIRD)], "mse")


# --- who is shortest ------------------------------------------------------------------------


def at_limit(name, replicates, **changes):
    return make_record(
        name,
        results=[make_result(LIMIT, replicates)],
        weights_sha256=name.ljust(64, "_"),
        **changes,
    )


NOISE = np.random.default_rng(0).normal(size=200)


def test_a_family_answers_with_its_best_member_selected_in_every_draw():
    a1, a2 = at_limit("a1", 50 + NOISE), at_limit("a2", 50.1 - NOISE)
    b = at_limit("b", 55 + 0.5 * NOISE)
    at = placings_at([family("all b", b), family("all a", a1, a2)], *LIMIT)
    first, second = at.placings
    assert (first.name, first.sae, first.rank) == ("all a", "a1", 1)
    assert (second.name, second.sae, second.rank, second.to_anchor) == ("all b", "b", 2, None)
    best = [
        min(x, y)
        for x, y in zip(a1.tolerances[0].replicates, a2.tolerances[0].replicates, strict=True)
    ]
    slow = np.array(b.tolerances[0].replicates) - best
    assert at.lead.bits == pytest.approx(second.bits - first.bits)
    assert (at.lead.low, at.lead.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert (-first.to_anchor.high, -first.to_anchor.low) == pytest.approx(
        (at.lead.low, at.lead.high)
    )


def test_ties_and_infeasible_ones_are_called_so():
    tie = [at_limit("a", 50 + NOISE), at_limit("b", 50.05 - NOISE)]
    none = at_limit("c", None)
    contest = compare([one(r) for r in (none, *tie)], "mse")
    (at,) = contest.tolerances
    assert [s.rank for s in at.placings] == [1, 1, None]
    assert at.placings[2].bits is None
    assert all(s.to_anchor is None for s in at.placings)
    assert "a tie of a" in answer(contest, at)
    contest = compare([one(tie[0]), one(none)], "mse")
    assert answer(contest, contest.tolerances[0]).endswith(
        f"only a ({tie[0].tolerances[0].bits:.2f} bits)"
    )
    contest = compare([one(none), one(at_limit("d", None))], "mse")
    assert answer(contest, contest.tolerances[0]).endswith("none is within it")


def test_a_lead_names_the_next_and_its_interval():
    contest = compare([one(at_limit("a", 50 + NOISE)), one(at_limit("b", 53 + NOISE))], "mse")
    said = answer(contest, contest.tolerances[0])
    assert "is shortest, 3.00 [3.00, 3.00] bits before b" in said


def test_replicates_that_cannot_be_paired_are_refused():
    with pytest.raises(RecordError, match="cannot be paired"):
        compare([one(at_limit("a", NOISE)), one(at_limit("b", NOISE[:50]))], "mse")


# --- choosing -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo():
    return realistic_suite(widths=(32, 64, 128), sparsities=(8, 16), n_replicates=30)


@pytest.fixture(scope="module")
def folder(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "mnist"
    store = RecordStore(folder)
    tree = zoo[0].identity.model_copy(update={"quantiser": "tree"})
    for record in [*zoo, zoo[0].model_copy(update={"identity": tree, "id": tree.id})]:
        store.save(record)
    (folder / "references.json").write_text(realistic_references().to_json())
    return folder


def names(choice):
    return [(c.name, len(c.members), c.is_family) for c in choice.contenders]


def test_names_ids_files_and_families_are_found(folder, zoo):
    path = RecordStore(folder).path(zoo[2].identity)
    words = ["batchtopk-32-k8", zoo[1].id[:6], str(path), "all jumprelu", "all jumprelu [tree]"]
    choice = choose([*words, "batchtopk-32-k8 [tree]"], folder)
    assert names(choice) == [
        ("batchtopk-32-k8", 1, False),
        (zoo[1].label, 1, False),
        (zoo[2].label, 1, False),
        ("all jumprelu", 6, True),
        ("all jumprelu [tree]", 1, True),
        ("batchtopk-32-k8 [tree]", 1, False),
    ]
    assert choice.contenders[1].members[0].id == zoo[1].id
    assert choice.metric == "mse"


def test_all_is_every_family_not_named_beside_it(folder):
    found = names(choose(["all pca", "all"], folder))
    assert found == [("all pca", 1, True), ("all jumprelu", 6, True), ("all kmeans", 1, True)]
    assert names(choose(["pca", "all"], folder)) == [("pca", 1, False), *found[1:]]
    assert names(choose(["all", "pca"], folder)) == [*found[1:], ("pca", 1, False)]
    assert names(choose(["all [tree]"], folder)) == [("all jumprelu [tree]", 1, True)]
    with pytest.raises(UsageError, match="no family"):
        choose(["all [rdo]"], folder)


def test_families_are_of_one_site_where_there_are_several(tmp_path):
    for name, site in (("a", "layer 3"), ("b", "layer 3"), ("c", "layer 4")):
        record = make_record(name, site=Site(hook=site), weights_sha256=name * 64)
        RecordStore(tmp_path).save(record)
    found = names(choose(["all batchtopk at layer 3", "all batchtopk at layer 4"], tmp_path))
    assert [n for _, n, _ in found] == [2, 1]
    with pytest.raises(UsageError, match=r"Did you mean .all batchtopk at layer [34]."):
        choose(["all batchtopk"], tmp_path)


def test_unknown_and_ambiguous_words_are_refused(folder, zoo, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'batchtopk-32-k8'"):
        choose(["batchtopk-32-k88"], folder)
    with pytest.raises(UsageError, match="Did you mean 'all jumprelu'"):
        choose(["all jumprel"], folder)
    with pytest.raises(UsageError, match=r"Families: .*ls records .* lists") as unknown:
        choose(["batchtopk-32-k88"], folder)
    assert str(unknown.value).count("batchtopk-") == 2
    with pytest.raises(UsageError, match="is no SAE or family in"):
        choose([zoo[0].id[:5]], folder)
    with pytest.raises(RecordError, match="no records here"):
        choose(["a"], tmp_path)
    with pytest.raises(RecordError, match="cannot be read"):
        choose(["missing.json"], folder)
    twins = [make_record("twin", weights_sha256=c * 64) for c in "ab"]
    for record in twins:
        RecordStore(tmp_path).save(record)
    with pytest.raises(
        UsageError,
        match=rf"several records have this name: twin \({min(twins[0].id, twins[1].id)[:8]}\)",
    ):
        choose(["twin"], tmp_path)
    assert names(choose([f"twin ({twins[0].id[:8]})"], tmp_path))[0][1] == 1


def test_saes_of_one_name_from_two_places_are_told_apart_everywhere(tmp_path):
    twins = [sae("twin", range(10, 70, 10), weights_sha256=c * 64) for c in "ab"]
    for place, twin in zip("ab", twins, strict=True):
        RecordStore(tmp_path / place).save(twin)
    file = RecordStore(tmp_path / "b").path(twins[1].identity)
    contenders = choose(["twin", str(file)], tmp_path / "a").contenders
    expected = [f"twin ({twin.id[:8]})" for twin in twins]
    assert [contender.name for contender in contenders] == expected
    contest = compare(contenders, "mse")
    rows = list(csv.DictReader(io.StringIO(to_csv(contest))))
    assert {row["test"] for row in rows if row["quantity"] == "bits"} == set(expected)
    for at in contest.tolerances:
        assert sorted(p.sae for p in at.placings) == sorted(expected)
    both = family("all twins", *twins)
    content = json.loads(to_json(compare([both, one(ONE)], "mse")))
    assert [member["sae"] for member in content["contenders"][0]["members"]] == expected


def test_a_folder_may_be_named_as_on_the_command_leaderboard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RecordStore(Path("leaderboards/mine")).save(ONE)
    assert names(choose(["one"], Path("mine"))) == [("one", 1, False)]
    with pytest.raises(RecordError, match="nowhere: no such folder"):
        choose(["one"], Path("nowhere"))


def test_an_ambiguous_id_names_its_candidates(tmp_path):
    by_start = {}
    for i in range(20_000):
        record_id = make_record_id(i)
        if record_id[:6] in by_start:
            break
        by_start[record_id[:6]] = i
    else:
        pytest.skip("no two ids start alike")
    for seed in (i, by_start[record_id[:6]]):
        RecordStore(tmp_path).save(make_record(f"sae-{seed}"))
    with pytest.raises(UsageError, match=f"have ids that start so: {record_id[:6]}"):
        choose([record_id[:6]], tmp_path)


def make_record_id(i):
    from tests.records import make_identity

    return make_identity(f"sae-{i}").id


def test_the_only_results_folder_is_the_default(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    (folder.parent.parent / "results").unlink(missing_ok=True)
    (folder.parent.parent / "results").symlink_to(folder.parent)
    assert only_results_folder() == Path("results/mnist")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--in leaderboards/mnist"):
        only_results_folder()
    for name in "ab":
        RecordStore(tmp_path / "results" / name).save(make_record(name))
    with pytest.raises(UsageError, match=r"several results folders: .* results/a, results/b"):
        only_results_folder()


# --- what is written ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contest(zoo):
    families = [family("all jumprelu", *zoo[:4]), family("all pca", zoo[-2]), one(zoo[5])]
    return compare(families, "mse")


def test_json_holds_every_number_and_whose_points_the_hull_has(contest):
    content = json.loads(to_json(contest), parse_constant=pytest.fail)
    assert content["anchor"] == "all jumprelu"
    assert content["resamples"] == 30
    (first, *_), found = content["curves"], contest.comparisons[0]
    if found.bd_bits:
        assert first["bd_bits"]["value"] == found.bd_bits.value
    assert first["overlap"] == found.overlap
    members = {member["sae"] for member in content["contenders"][0]["members"]}
    assert {point["sae"] for point in content["contenders"][0]["points"]} <= members
    assert [at["epsilon"] for at in content["tolerances"]] == [0.01, 0.015, 0.02, 0.03]


def test_csv_is_long_and_unrounded(contest):
    rows = list(csv.DictReader(io.StringIO(to_csv(contest))))
    bits = {
        r["test"]: float(r["value"])
        for r in rows
        if r["quantity"] == "bits" and r["distortion"] == "0.03"
    }
    expected = {s.name: s.bits for s in contest.tolerances[-1].placings if s.bits}
    assert bits == expected
    overlaps = [float(r["value"]) for r in rows if r["quantity"] == "overlap"]
    assert overlaps == [c.overlap for c in contest.comparisons]


def test_names_are_inert_in_markdown():
    evil = sae("<script>|[x](y)", (10, 20, 30, 45, 60, 80))
    text = to_markdown(compare([one(evil), one(OTHER)], "mse"))
    assert "<script>" not in text
    assert "](y)" not in text.replace("\\]", "")


def test_the_figure_is_linear_too_and_the_same_twice(contest):
    figure = comparison_figure(contest)
    assert isinstance(figure, Figure)
    scales = [(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes]
    assert scales == [("linear", "log"), ("linear", "linear"), ("log", "linear")]
    assert figure.axes[0].get_xlabel() == "bits per token"
    assert figure.axes[2].get_ylabel() == "bits per token above the anchor"
    assert png(figure) == png(comparison_figure(contest))


# --- as a process ---------------------------------------------------------------------------


def mdlbench(*arguments, command=tuple(MDLBENCH), **environment):
    return subprocess.run(
        [*command, "compare", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=served(os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"} | environment),
    )


def test_the_command_prints_tables_within_80_columns_and_writes_files(folder, tmp_path):
    run = mdlbench(
        "batchtopk-128-k8", "batchtopk-64-k8", "pca", "--in", folder, "-o", tmp_path / "out"
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "BD-bits [95%]" in run.stdout
    assert "against batchtopk-128-k8" in run.stdout
    assert max(map(len, run.stdout.splitlines()[:-1])) <= 80
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(written) == {f"compare.{end}" for end in ("png", "pdf", "csv", "json", "md")}
    assert written["compare.pdf"].startswith(b"%PDF")


@pytest.mark.parametrize("width", [20, 50, 80])
def test_tables_that_are_too_wide_go_on_below_and_lose_nothing(width, monkeypatch, capsys):
    limits = (0.01, 0.015, 0.02, 0.03, 0.05, 0.08)
    drawn = np.random.default_rng(3).normal(100, 9, size=(2, len(limits), N_DRAWS))
    names = ("a-rather-long-name-of-an-sae", "short")
    contenders = [
        one(sae(name, range(10, 70, 10), results=results))
        for name, draws in zip(names, drawn, strict=True)
        for results in [[make_result(("mse", e), d) for e, d in zip(limits, draws, strict=True)]]
    ]
    contest = compare(contenders, "mse")
    monkeypatch.setenv("COLUMNS", str(width))
    print_comparison(contest)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    assert max(line.count("≤") for line in printed.splitlines()) <= 4
    cells = printed.split()
    for at in contest.tolerances:
        anchor, other = sorted(at.placings, key=lambda placing: placing.name)
        half = (other.to_anchor.high - other.to_anchor.low) / 2
        for expected in (anchor.bits, half):
            assert f"{expected:.2f}" in cells
        assert f"{other.to_anchor.bits:+.2f}" in cells
        assert f"{at.epsilon:g}" in cells


def test_the_command_prints_json_only_and_imports_no_torch(folder):
    run = mdlbench(
        "all jumprelu",
        "all",
        "--in",
        folder,
        "--json",
        "--epsilon",
        "0.03",
        command=(sys.executable, "-X", "importtime", "-m", "mdlbench"),
    )
    content = json.loads(run.stdout)
    assert [c["name"] for c in content["contenders"]] == ["all jumprelu", "all kmeans", "all pca"]
    assert [at["epsilon"] for at in content["tolerances"]] == [0.03]
    assert "| torch\n" not in run.stderr
    assert "mdlbench.boards.compare.contest" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pca"], 2, "at least two"),
        (["pca", "pca"], 2, "given twice"),
        (["pca", "kmaens-1024"], 2, "Did you mean 'kmeans-1024'"),
        (["pca", "kmeans-1024", "--metric", "delta-ce"], 2, "Did you mean 'delta_ce'"),
        (["pca", "kmeans-1024", "--epsilon", "0.5"], 2, "Known: 0.01, 0.015, 0.02, 0.03"),
        (["pca", "nothing.json"], 1, "cannot be read"),
    ],
)
def test_errors_are_one_message(folder, arguments, code, message):
    run = mdlbench(*arguments, "--in", folder)
    assert (run.returncode, run.stdout) == (code, "")
    assert run.stderr.startswith("mdlbench: ")
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_word_that_is_an_sae_and_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [make_record("a.json"), make_record("all jumprelu")]
    for record in records:
        RecordStore(tmp_path / "out").save(record)
    assert names(choose(["a.json"], Path("out")))[0][1] == 1
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError) as refused:
        choose(["a.json"], Path("out"))
    assert str(refused.value) == (
        f"'a.json' is an SAE in out and a file here: write {records[0].id[:16]} for the SAE, "
        "./a.json for the file"
    )
    with pytest.raises(RecordError, match=r"a\.json"):
        choose(["./a.json"], Path("out"))
    assert len(choose([records[0].id[:16]], Path("out")).contenders) == 1
    family = f"all {records[1].family}"
    twin = make_record(family)
    RecordStore(tmp_path / "out").save(twin)
    with pytest.raises(
        UsageError, match=f"'{family}' is an SAE and a family: write {twin.id[:16]}"
    ):
        choose([family], Path("out"))
