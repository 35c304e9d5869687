"""The dossier: falsifiers on made-up panels, other draws of a world, a tiny world to its report."""

import itertools
import json
import shutil
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from mdlbench.adapters.load import NamedCoder
from mdlbench.cli.app import app
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import MdlbenchError, MdlbenchWarning, SourceError, UsageError
from mdlbench.papers import reliability, run_experiment
from mdlbench.papers.reliability import falsifiers, measure, precision, ranks, report, tables
from mdlbench.papers.reliability.draws import LaterBlocks, Window, WindowOpener
from mdlbench.papers.reliability.edges import Edges, compared, edges_of
from mdlbench.papers.reliability.evidence import Evidence
from mdlbench.papers.reliability.panel import (
    Ranked,
    Redraws,
    Snapshots,
    infeasible_last,
    numbered,
)
from mdlbench.papers.reliability.plan import FLAT, PLAN, Part, Plan, Redrawn, Training
from mdlbench.papers.reliability.probes import mean_differences, probe
from mdlbench.papers.reliability.rules import rules
from mdlbench.papers.reliability.statistics import Limits, bits, bits_of, bound
from mdlbench.papers.reliability.verdicts import Setting, verdicts
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import TrueFeatures
from mdlbench.studies.held_out import HeldOut
from mdlbench.studies.inference import Interval
from mdlbench.studies.plan import Architecture, Study
from mdlbench.studies.run import DIVERGED, RUNS
from mdlbench.suite.load import load_suite
from mdlbench.training.trainer import train
from mdlbench.training.zoo import training_site
from tests.tiny import write_tiny_suite

RNG = np.random.default_rng(3)

# --- rank correlations --------------------------------------------------------------------------

VALUES = st.lists(st.integers(0, 6), min_size=4, max_size=9)


@settings(max_examples=30)
@given(VALUES, st.randoms(use_true_random=False))
def test_a_weighted_rho_is_scipys_of_repeated_runs(values, random):
    one = np.array(values, dtype=np.float64)
    other = np.array(random.sample(range(20), len(one)), dtype=np.float64)
    weights = np.array([[random.randint(0, 3) for _ in one]], dtype=np.float64)
    repeated = np.repeat(np.arange(len(one)), weights[0].astype(int))
    found = ranks.weighted_spearman(one, other, weights)[0]
    if len(repeated) < 3 or len(set(one[repeated])) < 2 or len(set(other[repeated])) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(one[repeated], other[repeated]).statistic)


def test_rho_within_worlds_is_their_weighted_mean():
    world = np.repeat([0, 1], [5, 7])
    one, other = RNG.standard_normal(12) + 9 * world, RNG.standard_normal(12) - 9 * world
    own = [stats.spearmanr(one[world == w], other[world == w]).statistic for w in (0, 1)]
    found = ranks.within(one, other, np.ones((1, 12)), world)[0]
    assert found == pytest.approx((5 * own[0] + 7 * own[1]) / 12)


def test_an_interval_draws_whole_clusters():
    clusters = np.repeat([0, 1, 2, 3], 50)
    values = clusters + 0.01 * RNG.standard_normal(200)
    clustered, alone = ranks.mean(values, clusters), ranks.mean(values, np.arange(200))
    assert clustered.value == pytest.approx(values.mean()) == alone.value
    exact = np.sqrt(np.var(np.arange(4)) / 4)
    assert clustered.high - clustered.low == pytest.approx(3.92 * exact, rel=0.1)
    assert alone.high - alone.low < 0.2 * (clustered.high - clustered.low)


def test_one_cluster_has_no_interval_and_a_table_no_nan():
    found = ranks.mean(np.array([0.0, 1.0]), np.zeros(2, dtype=np.int64))
    assert found.value == 0.5
    assert np.isnan(found[1:]).all()
    assert tables.interval_text(found, ".0%") == tables.NONE
    assert tables.interval_text(Interval(0.5, 0.4, 0.6), ".0%") == "50% [40%, 60%]"


def test_partial_correlation_against_residuals_of_ranks():
    given_, n = RNG.standard_normal(40), 40
    one, other = given_ + RNG.standard_normal(n), given_ + RNG.standard_normal(n)
    a, b, c = (stats.rankdata(values) for values in (one, other, given_))
    left = [y - np.polyval(np.polyfit(c, y, 1), c) for y in (a, b)]
    same = np.zeros(n, dtype=np.int64)
    found = ranks.partial(one, other, given_, np.arange(n), same)
    assert found.value == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found.low < found.value < found.high


def test_what_is_not_known_is_left_out_and_too_little_says_nothing():
    same = np.zeros(6, dtype=np.int64)
    one = np.array([1.0, 2, 3, 4, np.nan, 6])
    assert ranks.correlation(one, -np.nan_to_num(one), np.arange(6), same).value == -1
    assert np.isnan(ranks.correlation(one, np.full(6, np.nan), np.arange(6), same)).all()
    assert np.isnan(ranks.partial(one, one * np.nan, one, np.arange(6), same)).all()


# --- precision, and falsifier 1 -----------------------------------------------------------------


def redraws(cv=0.003, shared=0.0, half=None, n=10, means=(50.0, 60.0, 70.0)):
    """Scores with that CV, a share of the noise common to all SAEs, and intervals of ± half."""
    noise = RNG.standard_normal((len(means), n))
    noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, ddof=1, keepdims=True)
    noise = shared * noise[:1] + np.sqrt(1 - shared**2) * noise
    means = np.array(means)[:, None]
    drawn = means * (1 + cv * noise)
    reach = means * (2.5 * cv if half is None else half)
    return Redraws(tuple("abc"[: len(means)]), drawn, drawn - reach, drawn + reach)


def test_precision_against_its_formulas():
    found = redraws(cv=0.01)
    s = found.bits.std(axis=1, ddof=1)
    cv = float(np.sqrt(np.mean((s / found.bits.mean(axis=1)) ** 2)))
    assert precision.cv(found).value == pytest.approx(cv)
    low, high = stats.chi2.ppf([0.975, 0.025], 9)
    assert precision.cv(found)[1:] == pytest.approx((cv * np.sqrt(9 / low), cv * np.sqrt(9 / high)))
    t = stats.t.ppf(0.975, 9)
    assert precision.least_difference(found).value == pytest.approx(t * np.sqrt(2) * cv)
    pairs = [
        (a - b).std(ddof=1) / np.mean([a.mean(), b.mean()]) for a, b in combinations(found.bits, 2)
    ]
    expected = t * np.sqrt(np.mean(np.square(pairs)))
    assert precision.least_paired_difference(found).value == pytest.approx(expected)


def test_five_seeds_give_the_audits_factor():
    assert precision.scaled(Interval(1, 1, 1), stats.t.ppf(0.975, 4) * np.sqrt(2)).value == (
        pytest.approx(3.93, abs=0.005)
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"cv": 0.02, "shared": 1.0}, "CV 2.00% > 1%"),
        ({"cv": 0.009}, "paired least difference"),
        ({"half": 0.0005}, "intervals cover"),
    ],
)
def test_falsifier_1_precision(changes, reason):
    verdict = falsifiers.not_precise(redraws(**changes))
    assert verdict.falsified is (reason is not None)
    assert len(verdict.why) == (reason is not None)
    assert reason is None or verdict.why[0].startswith(reason)
    assert set(verdict.numbers) >= {"CV", "paired least difference", "coverage"}


def test_falsifier_1_heeds_only_saes_that_are_always_feasible():
    found = redraws()
    found.bits[0, 3] = np.nan
    assert falsifiers.not_precise(found).numbers["CV"] == precision.cv(
        Redraws(("b", "c"), found.bits[1:], found.low[1:], found.high[1:])
    )
    found.bits[:, 2] = np.nan
    assert falsifiers.not_precise(found).falsified is None


def test_falsifier_1_does_not_hold_by_one_sae():
    """It has no difference to another one, whose size is asked for; but it may falsify alone."""
    verdict = falsifiers.not_precise(redraws(means=(50.0,)))
    assert verdict.falsified is None
    assert verdict.why == (
        "only one SAE meets the tolerance in every draw, so that no two can be compared",
    )
    assert verdict.numbers["CV"].value == pytest.approx(0.003)
    assert falsifiers.not_precise(redraws(cv=0.02, means=(50.0,))).falsified is True


# --- falsifier 2 --------------------------------------------------------------------------------


def snapshots(*rows, noise=0.5):
    """Runs' bits by snapshot, and draws about them."""
    found = np.array(rows, dtype=np.float64)
    drawn = found[:, :, None] + noise * RNG.standard_normal((*found.shape, 200))
    names = tuple(f"run{i}" for i in range(len(rows)))
    return Snapshots(names, tuple("abcdefgh"[: found.shape[1]]), found, drawn)


FALLING = [np.nan, 90, 70, 60, 50]


@pytest.mark.parametrize(
    ("rows", "falsified"),
    [
        ([FALLING, FALLING], False),
        ([FALLING, [90, 70, 60, 50.2, 50.3]], False),
        ([FALLING, [90, 60, 70, 50, 40]], True),
        ([FALLING] * 10 + [[90, 50, 60, 50, 40]], False),
        ([FALLING] * 10 + [[90, 70, 50, 60, 60]], True),
        ([FALLING] * 10 + [[90, 70, 50, 40, np.nan]], True),
    ],
)
def test_falsifier_2_training(rows, falsified):
    verdict = falsifiers.worsens_in_training(snapshots(*rows))
    assert verdict.falsified is falsified
    worsened = sum(
        b > a + 3 or (np.isnan(b) and not np.isnan(a)) for row in rows for a, b in pairwise(row)
    )
    pairs = sum(4 - sum(np.isnan(row[:1])) for row in rows)
    assert verdict.numbers["worsened"].value == pytest.approx(worsened / pairs)


def test_falsifier_2_names_the_early_snapshot_and_says_where_the_score_goes():
    verdict = falsifiers.worsens_in_training(snapshots(FALLING, [90, 70, 50, 60, 60]))
    assert "run1 at step c" in verdict.why[-1]
    assert verdict.numbers["ρ of −bits with the step"].value == pytest.approx(
        (1 + 0.67) / 2, abs=0.1
    )
    assert falsifiers.worsens_in_training(snapshots([np.nan] * 4)).falsified is None


def test_falsifier_2_draws_configurations_with_all_their_seeds():
    found = snapshots([90, 60, 70, 50, 40], FALLING, [90, 60, 70, 50, 40], FALLING)
    names = ("a-256-k2-seed1", "b-256-k2-seed1", "a-256-k2-seed22", "b-256-k2-seed22")
    found = replace(found, runs=names)
    assert found.configuration.tolist() == [0, 1, 0, 1]
    worsened = falsifiers.worsens_in_training(found).numbers["worsened"]
    assert worsened == pytest.approx((2 / 14, 0.0, 2 / 8))
    alone = replace(found, runs=("a-seed1", "a-seed2", "a-seed3", "a-seed4"))
    assert np.isnan(falsifiers.worsens_in_training(alone).numbers["worsened"][1:]).all()


# --- falsifier 3 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spread", "train", "reseed", "falsified"),
    [(5, 0.5, 0.1, False), (5, 3, 0.1, True), (5, 0.5, 4, True)],
)
def test_falsifier_3_small_differences(spread, train, reseed, falsified):
    base = spread * np.array([[-1.0], [0.0], [1.0]])
    seeds = train * np.array([-1.0, 0.0, 1.0])
    verdict = falsifiers.cannot_separate(50 + base + seeds, reseed)
    assert verdict.falsified is falsified
    snr = verdict.numbers["SNR"]
    assert snr.value == pytest.approx(spread / np.hypot(train, reseed))
    assert snr.low < snr.value < snr.high


def test_falsifier_3_needs_two_variants_and_a_noise():
    assert falsifiers.cannot_separate(np.array([[1.0, 2.0], [np.nan, 3.0]]), 0.1).falsified is None
    assert falsifiers.cannot_separate(np.ones((3, 3)), 0.0).falsified is None
    silent = falsifiers.cannot_separate(np.ones((3, 3)), float("nan"))
    assert (silent.falsified, silent.why) == (None, ("no SAE meets the tolerance in every draw",))


# --- falsifiers 4 to 6 --------------------------------------------------------------------------

N_CONFIGURATIONS, N_SEEDS, N_WORLDS = 12, 3, 2


def world(quality=1.0, noise=0.05, oracle=5.0, pursuit=None, **changes):
    """SAEs whose bits follow the truth with that weight; L0 and FVU are chance."""
    configuration = np.tile(np.repeat(np.arange(N_CONFIGURATIONS), N_SEEDS), N_WORLDS)
    n = len(configuration)
    true = np.linspace(0.3, 0.9, N_CONFIGURATIONS)[configuration]
    f1 = true + noise * 0.1 * RNG.standard_normal(n)
    names = [f"kind{number % 4}" for number in configuration]
    if pursuit is not None:
        names = [
            "matching_pursuit" if number == pursuit else name
            for number, name in zip(configuration, names, strict=True)
        ]
    chance = np.random.default_rng(1).permutation(N_CONFIGURATIONS).astype(np.float64)
    found = Ranked(
        configuration=configuration,
        world=np.repeat(np.arange(N_WORLDS), n // N_WORLDS),
        architecture=tuple(names),
        bits=50 - 30 * quality * true + noise * RNG.standard_normal(n),
        floor=np.full(n, 0.1) + 0.001 * configuration,
        oracle=np.full(n, oracle),
        oracle_floor=np.full(n, 0.05),
        truths={"F1": f1, "MCC": 0.5 + f1 / 2},
        cheap={"L0": -chance[configuration], "FVU": chance[configuration]},
        l0=chance[configuration],
    )
    return replace(found, **changes)


def test_falsifier_4_truth_is_followed():
    verdict = falsifiers.strays_from_truth({"flat": world(), "hier": world()})
    assert verdict.falsified is False
    rho = verdict.numbers["ρ with F1, flat"]
    assert rho.value > 0.9
    assert rho.low > 0.5
    assert len(verdict.numbers) == 8


@pytest.mark.parametrize(
    ("hier", "reason"),
    [
        (world(quality=-1.0), "ρ with F1, hier: -"),
        (world(quality=0.0, noise=3.0), "ρ with F1, hier:"),
    ],
)
def test_falsifier_4_a_sign_that_differs_or_an_interval_over_zero(hier, reason):
    verdict = falsifiers.strays_from_truth({"flat": world(), "hier": hier})
    assert verdict.falsified is True
    assert all(", hier" in why for why in verdict.why)
    assert verdict.why[0].startswith(reason)


def test_falsifier_4_a_correlation_that_l0_makes():
    """Bits follow L0 and L0 the truth, but at equal L0 they are the other way round."""
    base = world()
    group = base.configuration // 4
    inside = base.configuration % 4
    bits_ = 50.0 - 10 * group + inside
    l0 = 10.0 - group + 0.01 * inside
    verdict = falsifiers.strays_from_truth({"hier": replace(base, bits=bits_, l0=l0)})
    assert verdict.numbers["ρ with F1, hier"].value > 0.5
    assert verdict.numbers["ρ with F1, hier, within strata of L0"].value < -0.5
    assert verdict.falsified is True
    assert "within strata of L0" in verdict.why[0]


def test_falsifier_4_says_nothing_of_nothing():
    assert falsifiers.strays_from_truth({}).falsified is None
    constant = replace(world(), truths={"F1": np.ones(72), "MCC": np.ones(72)})
    assert falsifiers.strays_from_truth({"flat": constant}).falsified is None


@pytest.mark.parametrize(
    ("oracle", "share"), [(5.0, 0.0), (26.0, 2 / 12), (100.0, 1.0), (np.nan, 1.0)]
)
def test_falsifier_5_the_oracle(oracle, share):
    verdict = falsifiers.prefers_to_oracle({"flat": world(oracle=oracle)})
    assert verdict.numbers["above the oracle, flat"].value == pytest.approx(share)
    assert verdict.falsified is (share > 0.1)


def test_falsifier_5_where_both_are_infeasible_the_floor_decides():
    none = np.full(72, np.nan)
    found = replace(world(), bits=none, oracle=none)
    assert not found.above_oracle.any()
    assert replace(found, oracle_floor=np.full(72, 0.2)).above_oracle.all()


@pytest.mark.parametrize(("place", "falsified"), [(0, True), (11, False), (5, False)])
def test_falsifier_5_matching_pursuit(place, falsified):
    """First with the worst F1; first with the best; not first."""
    found = world(quality=-1.0 if place == 0 else 1.0, pursuit=place)
    verdict = falsifiers.prefers_to_oracle({"hier": found})
    assert verdict.falsified is falsified
    assert not falsified or "Matching Pursuit is first in hier" in verdict.why[0]


def test_falsifier_6_bits_add_something_or_not():
    assert falsifiers.adds_nothing({"flat": world(), "hier": world()}).falsified is False
    good = world()
    known = replace(good, cheap={**good.cheap, "FVU": good.truths["F1"]})
    verdict = falsifiers.adds_nothing({"flat": good, "hier": known})
    assert verdict.falsified is True
    assert len(verdict.why) == 2
    assert all("above that of FVU, hier" in why for why in verdict.why)
    assert falsifiers.adds_nothing({}).falsified is None


AGAINST_TRUTH = (
    falsifiers.strays_from_truth,
    falsifiers.prefers_to_oracle,
    falsifiers.adds_nothing,
)


@pytest.mark.parametrize("ask", AGAINST_TRUTH)
def test_nothing_is_decided_at_a_tolerance_that_no_sae_meets(ask):
    """Floors alone would order them: 4 would hold or not by those, and 5 hold."""
    none = replace(world(), bits=np.full(72, np.nan))
    for worlds in ({"hier": none}, {"flat": world(), "hier": none}):
        verdict = ask(worlds)
        assert verdict.falsified is None
        assert verdict.why == ("no trained SAE meets the tolerance in hier",)
    bad = world(quality=-1.0, oracle=1000.0)
    assert ask({"flat": bad, "hier": none}).falsified is True
    assert ask({}).why == ("no world knows its features",)


def test_one_number_that_is_not_known_leaves_the_others_their_say():
    constant = replace(world(), truths={"F1": np.ones(72), "MCC": np.ones(72)})
    for ask in (falsifiers.strays_from_truth, falsifiers.adds_nothing):
        assert ask({"flat": world(), "hier": constant}).falsified is None
        verdict = ask({"flat": world(quality=-1.0), "hier": constant})
        assert verdict.falsified is True
        assert all("flat" in why for why in verdict.why)


def test_one_part_that_is_falsified_is_enough():
    good, bad = falsifiers.not_precise(redraws()), falsifiers.not_precise(redraws(cv=0.05))
    silent = falsifiers.unknown(1, "nothing was redrawn")
    both = falsifiers.together(1, {"mnist": good, "flat": bad, "hier": silent})
    assert both.falsified is True
    assert all(why.startswith("flat: ") for why in both.why)
    assert "CV, mnist" in both.numbers
    assert both.untold == ("hier: nothing was redrawn",)
    some = falsifiers.together(1, {"mnist": good, "hier": silent})
    assert some.falsified is False
    assert report._verdict(some).startswith(
        f"**1. Holds**: {falsifiers.TITLES[1]}. Cannot say: hier: nothing was redrawn. CV, mnist "
    )
    assert falsifiers.together(1, {"hier": silent}) == silent


def test_infeasible_saes_come_last_by_floor():
    found = infeasible_last(np.array([9, np.nan, 4, np.nan]), np.array([0.1, 0.3, 0.1, 0.2]))
    order = np.argsort(-found)
    assert order.tolist() == [2, 0, 3, 1]
    assert infeasible_last(np.full(2, np.nan), np.array([0.2, 0.1])).argmax() == 1
    assert numbered(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_strata_are_groups_of_configurations_by_l0():
    strata = world().strata()
    assert [np.sum(strata == group) for group in range(3)] == [24, 24, 24]
    l0 = world().l0
    assert l0[strata == 0].max() < l0[strata == 1].min()
    assert set(world().strata(least=13)) == {0}


# --- a tiny world -------------------------------------------------------------------------------

TOKENS = {"training": 2048, "calibration": 1024, "test": 1024}
SUITE = {
    "name": "small",
    "title": "Small",
    "source": {
        "kind": "superposed",
        "d": 8,
        "features": 24,
        "tokens": {"calibration": 1024, "test": 1024},
        "rates": {"most": 0.3, "least": 0.05},
        "read_out": 6,
    },
    "steps": {"finest": 0.5, "octaves": 3},
    "tolerances": [{"metric": "fvu", "epsilons": [0.3, 0.9]}],
    "headline": {"metric": "fvu", "epsilon": 0.9},
    "replicates": 100,
}


def tiny_part(folder):
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    near = {"k4": {"k": 4}}
    study = Study(
        name="tiny",
        suite=str(folder),
        shared={
            "epochs": 2,
            "batch_size": 256,
            "lr": 0.01,
            "warm_up_steps": 2,
            "dead_window": 5,
            "patience": None,
            "keep": "last",
        },
        widths=[12],
        seeds=[4, 2],
        validation=0.5,
        architectures={
            "batchtopk": Architecture(sparsities={"k2": {"k": 2}, "k3": {"k": 3}}),
            "near": Architecture(architecture="batchtopk", sparsities=near),
        },
    )
    training = Training(
        study,
        large=(("batchtopk", "k3"),),
        small=(("near", "k4"), ("batchtopk", "k3")),
        beside=("near",),
        snapshots=(2,),
    )
    return Part(
        suite=str(folder),
        metric="fvu",
        redrawn=Redrawn(("batchtopk-12-k2-seed4", "oracle-12"), draws=2, of_calibration=1),
        epsilons=(0.3, 0.9),
        worlds=(0, 7),
        tokens=TOKENS,
        training=training,
        modes=(FLAT, "tree"),
        first_only=("tree",),
        width=12,
        probed=6,
        replicates=100,
    )


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    return tiny_part(tmp_path_factory.mktemp("suite"))


def run(part, folder, on_stage=lambda said: None):
    return reliability.reproduce(folder, on_stage, plan=Plan((part,)))


@pytest.fixture(scope="module")
def done(part, tmp_path_factory):
    """The folder and the files of a dossier that was killed once."""
    folder = tmp_path_factory.mktemp("whole")

    def killer(said):
        if "mode tree" in said:
            raise KilledError

    with pytest.raises(KilledError):
        run(part, folder, killer)
    return folder, run(part, folder)


def test_what_is_missing_is_made_again_to_the_same_report(part, done, tmp_path, monkeypatch):
    """As after a kill at any point: an SAE, records of each kind, a draw, a probe are not there."""
    monkeypatch.setattr(report.figures, "drawings", lambda parts, found: {})
    shutil.copytree(done[0] / part.key, tmp_path / part.key)
    place = tmp_path / part.key / f"{part.key}-world0"
    lost = "batchtopk-12-k3-seed2"
    for gone in (place / RUNS / lost, place / "redraws" / "both-1"):
        shutil.rmtree(gone)
    patterns = (f"records/{lost}*", f"tree/records/{lost}*", f"probes/{lost}*")
    missing = [path for pattern in patterns for path in place.glob(pattern)]
    missing += list(place.glob("snapshots/records/*seed4-step-2*"))
    assert len(missing) == 3 + 4
    for path in missing:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in place.rglob("*.safetensors")}
    paths = run(part, tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert len(paths) == 5
    for path in paths:
        assert (done[0] / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_sae_that_diverged_is_not_redrawn_and_an_edited_record_counts_for_nothing(
    part, done, tmp_path, monkeypatch
):
    monkeypatch.setattr(report.figures, "drawings", lambda parts, found: {})
    shutil.copytree(done[0] / part.key, tmp_path / part.key)
    place, lost = tmp_path / part.key / f"{part.key}-world0", part.redrawn.saes[0]
    for path in (place / RUNS / lost, place / "redraws"):
        shutil.rmtree(path)
    for path in place.rglob(f"records/{lost}*"):
        path.unlink()
    (place / RUNS / lost).mkdir()
    (place / RUNS / lost / DIVERGED).write_text('{"reason": "the loss became nan in epoch 1"}')
    run(part, tmp_path)
    said = (tmp_path / "report.md").read_text()
    assert f"{lost} diverged in {part.key}-world0 and is excluded: the loss became nan in" in said
    found = Evidence(part, tmp_path / part.key)
    assert found.moved[FLAT].redraws("coarse").saes == found.moved[FLAT].redrawn == ("oracle-12",)
    assert found.moved[FLAT].values(bits_of(FLAT, "coarse")).shape == (1, 2)
    (path,) = place.glob("records/batchtopk-12-k2-seed2*")
    path.write_text(path.read_text().replace('"threads": ', '"threads": 1'))
    with pytest.warns(MdlbenchWarning, match="changed after it was written"):
        left = Evidence(part, tmp_path / part.key)
    assert [scored.place.world for scored in left.places] == [7]


def test_a_part_without_numbers_has_no_empty_table(part, done):
    found = Evidence(part, done[0] / part.key)
    said = list(report._part(found, pd.DataFrame([])))
    assert said[:2] == [f"## {part.key}: statistics side by side", "Nothing is measured yet."]


def test_what_the_report_has(part, done):
    folder, paths = done
    words = (folder / "report.md").read_text()
    assert "near-12" not in words
    assert "8 trained SAEs, 2 configurations with 2 training seeds in 2 of 2 worlds." in words
    assert "the suite does not call tight" not in words
    assert "| rdo-tree" not in words
    names = {path.name for path in paths}
    assert {"verdicts.png", "correlations.pdf", "training.png", "table.csv"} <= names
    assert {f"truth-{part.key}.png", "side-by-side.tex", f"side-by-side-{part.key}.csv"} <= names
    tex = (folder / "side-by-side.tex").read_text()
    assert tex.count(r"\bottomrule") == 1
    assert r"$\rho$ with F1 & $\rho$ with MCC & $\rho$ with F1 given L0" in tex
    assert not set(tex) & set("ρε−Δ±")
    found = Evidence(part, folder / part.key)
    assert found.limits == Limits("fvu", found.limits.tight, 0.9)
    assert all(
        scored.oracle[FLAT].result("fvu", found.limits.tight).feasible for scored in found.places
    )
    below = [e for e in part.epsilons if e < found.limits.tight]
    assert not any(
        all(scored.oracle[FLAT].result("fvu", e).feasible for scored in found.places) for e in below
    )


def test_a_part_whose_data_are_fixed_is_scored_on_halves(tmp_path):
    tolerances = [{"metric": "mse", "epsilons": [0.004, 0.07]}]
    headline = {"metric": "mse", "epsilon": 0.07}
    suite = write_tiny_suite(
        tmp_path / "suite", replicates=100, tolerances=tolerances, headline=headline
    )
    saes = ("pca", "kmeans")
    part = Part(str(suite), "mse", Redrawn(saes), modes=(FLAT, "tree"))
    run(part, tmp_path / "out")
    (compared,) = (tmp_path / "out").glob("side-by-side-*.csv")
    moved = pd.read_csv(compared).set_index("statistic")["CV"]
    for place, code in (("halves", "flat"), ("halves/tree", "tree")):
        halves = [
            json.loads(path.read_text()) for path in (tmp_path / "out").rglob(f"{place}/*.json")
        ]
        scores = [one for file in halves for one in file if one["limit"] == ["mse", 0.07]]
        assert {one["sae"] for one in scores} == set(saes)
        drawn = np.array([one["halves"] for one in scores])
        cv = np.sqrt((drawn.var(axis=1, ddof=1) / drawn.mean(axis=1) ** 2).mean())
        assert moved[f"bits, {code}, coarse"].startswith(f"{cv:.2%} [")
    assert "bound, tight" not in moved
    words = (tmp_path / "out" / "report.md").read_text()
    assert (
        "No setting passes all six. Fewest are falsified in flat, tight: 1; 2, 3, 4, 5, 6 could "
        "not be decided.\n"
    ) in words
    assert "The tight one is the suite's headline, which the suite does not call tight." in words
    assert "## Trained SAEs" not in words


def test_arrays_are_those_of_the_records(part, done):
    folder, _ = done
    found = Evidence(part, folder / part.key)
    flat, tree = found.ranked(bits_of(FLAT, "coarse")), found.ranked(bits_of("tree", "coarse"))
    assert (len(flat.bits), len(tree.bits)) == (8, 4)
    record = found.places[1].records[FLAT]["batchtopk-12-k3-seed2"]
    row = [run.key for _, run in found.runs].index("batchtopk-12-k3-seed2", 4)
    assert flat.bits[row] == record.result("fvu", 0.9).bits
    assert (flat.world[row], flat.truths["F1"][row]) == (1, record.truth.f1)
    assert flat.cheap["L0"][row] == -record.coder.l0
    moved = found.moved[FLAT]
    drawn = moved.redraws("coarse")
    assert drawn.bits.shape == (2, 2)
    assert len(np.unique(drawn.bits[0])) == 2
    other = moved.redraws("coarse", "calibration")
    assert other.bits[0, 0] == drawn.bits[0, 0]
    assert other.bits[0, 1] != drawn.bits[0, 1]
    training = moved.snapshots("coarse")
    assert training.steps == ("2", "end")
    assert training.bits.shape == (4, 2)
    assert training.draws.shape == (4, 2, 100)
    assert moved.small_bits("coarse").shape == (2, 2)
    given_parents = found.moved["tree"]
    assert given_parents.redraws("coarse").bits.shape == (2, 2)
    assert (given_parents.redraws("coarse").bits < drawn.bits + 1).all()
    assert (given_parents.redraws("coarse").bits != drawn.bits).any()
    assert given_parents.snapshots("coarse").bits.shape == (4, 2)
    assert given_parents.small_bits("coarse").shape == (2, 2)
    name = part.redrawn.saes[0]
    record = given_parents.drawn["both"][1][name]
    assert record.identity.quantiser == "tree"
    assert given_parents.redraws("coarse").bits[0, 1] == record.result("fvu", 0.9).bits
    assert [one.number for one in verdicts([found], Setting(FLAT, "tight"))] == [1, 2, 3, 4, 5, 6]


def test_numbers_at_a_tolerance(done, part):
    folder, _ = done
    record = Evidence(part, folder / part.key).places[0].records[FLAT]["batchtopk-12-k3-seed4"]
    assert bits(record, "fvu", 0.9) == record.result("fvu", 0.9).bits
    bounds = [point.bits.bound for point in record.points]
    assert min(bounds) <= bound(record, "fvu", 0.9) <= max(bounds)
    infeasible = record.model_copy(
        update={
            "tolerances": [
                result.model_copy(update={"feasible": False, "bits": None})
                for result in record.tolerances
            ]
        }
    )
    assert np.isnan([bits(infeasible, "fvu", 0.9), bound(infeasible, "fvu", 0.9)]).all()


def test_other_rules_against_their_formulas(done, part):
    folder, _ = done
    found = Evidence(part, folder / part.key)
    limits = found.limits._replace(tight=found.limits.coarse)
    told = found.places[0].told("batchtopk-12-k3-seed4")
    record = told.records["tree"]
    rates = np.array([point.bits.total for point in record.points])
    fvu = np.array([point.fvu for point in record.points])
    value = {rule.name: rule.of(told, limits) for rule in rules(("tree",))}
    once = record.coder.decoder_bits + record.coder.codebook_bits
    expected = {
        "with the model, over 1,000,000 tokens": bits(record, "fvu", limits.tight) + once / 1e6,
        "with the residual, to 0.01 of the variance": min(rates + 4 * np.log2(1 + 100 * fvu)),
        "at 1.25 × the own floor": hull_at(rates, fvu, 1.25 * record.floor.fvu),
        "at the finest step": rates[np.argmin([point.step for point in record.points])],
    }
    assert value == pytest.approx({f"bits, tree, {name}": x for name, x in expected.items()})
    words = (folder / "report.md").read_text()
    assert "| bits, tree, at the finest step | " in words


def hull_at(rates, losses, epsilon):
    """The least rate of any mixture of two points within ε, by trying all of them."""
    best = np.inf
    for (r0, d0), (r1, d1) in itertools.product(zip(rates, losses, strict=True), repeat=2):
        if d0 <= epsilon:
            share = 1.0 if d1 <= epsilon else (epsilon - d0) / (d1 - d0)
            best = min(best, r0 + share * (r1 - r0), r0)
    return best


def test_a_part_that_is_not_begun_is_not_reported(part, done, tmp_path):
    folder, _ = done
    other = replace(part, suite=str(tmp_path / "other"))
    assert [one.part.key for one in report.evidence([part, other], folder)] == [part.key]
    with pytest.raises(MdlbenchError, match="no part has all its SAEs scored"):
        report.evidence([other], folder)


def test_other_draws_are_later_blocks(part):
    place = part.places[1]
    window = measure._window(place, 1, 2)
    assert (window.start, window.stop) == (
        {"calibration": 3, "test": 3},
        {"calibration": 4, "test": 4},
    )
    suite = place.long_suite(3)
    whole, opener = Opener(suite), WindowOpener(suite, window)
    site = training_site(whole)
    source, later = whole.open(site), opener.open(site)
    block, there = next(later.blocks("test")), next(source.blocks("test", 3, 4))
    assert (block.index, block.document[0], later.n_blocks("test")) == (0, 0, 1)
    assert (later.n_tokens, later.n_documents) == ({"calibration": 1024, "test": 1024},) * 2
    assert block.activations.equal(there.activations)
    assert later.clean_ce(block).tolist() == source.clean_ce(there).tolist()
    assert later.ablated_ce(block).tolist() == source.ablated_ce(there).tolist()
    half = block.activations / 2
    assert later.splice(block, half).kl.tolist() == source.splice(there, half).kl.tolist()
    assert later.firing("test", block).feature.tolist() == (
        source.firing("test", there).feature.tolist()
    )
    again = WindowOpener(suite, measure._window(place, 1, 1)).open(site)
    assert len({source.data_sha256, later.data_sha256, again.data_sha256}) == 3
    toy = Opener(load_suite("toy"))
    unknown = toy.open(training_site(toy))
    with pytest.raises(SourceError, match="drawn anew where the features are known"):
        LaterBlocks(unknown, Window({}, {}))


def test_worlds_differ_and_the_first_one_is_the_suites(part):
    one, other = (Opener(place.suite).open(place_site(place)) for place in part.places)
    assert not np.allclose(one.features.directions, other.features.directions)
    assert part.places[0].study is part.training.study
    assert list(part.places[1].study.architectures) == ["batchtopk"]
    assert part.places[1].modes == (FLAT,)


def place_site(place):
    return training_site(Opener(place.suite))


def test_a_snapshot_after_the_last_step_is_the_last_sae(part, tmp_path):
    place = part.places[1]
    source = HeldOut(Opener(place.training_suite).open(place_site(place)), 0.5)
    folder = train(
        place.study.runs()[0].config(), source, tmp_path, progress=False, snapshots=(3, 8)
    )
    snapshots = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert snapshots == ["step-3", "step-8"]
    for name in ("cfg.json", "sae_weights.safetensors"):
        last = (folder / name).read_bytes()
        assert (folder / "step-8" / name).read_bytes() == last
        assert name == "cfg.json" or (folder / "step-3" / name).read_bytes() != last


class Reader:
    """Latents that are the first features themselves, then noise."""

    def __init__(self, source, n):
        self.source, self.n = source, n

    def encode(self, x):
        for split in ("calibration", "test"):
            for block in self.source.blocks(split):
                if block.activations.equal(x):
                    firing = self.source.firing(split, block)
                    z = np.zeros((len(x), len(self.source.features.rates)), dtype=np.float32)
                    z[firing.token, firing.feature] = 1
                    kept = self.source.features.most_frequent(self.n)
                    return SparseLatents.from_dense(z[:, kept]), np.zeros((len(x), 0), np.float32)
        raise AssertionError


def test_probes_find_what_a_latent_says_and_nothing_else(part, monkeypatch):
    place = part.places[0]
    source = Opener(place.suite).open(place_site(place))
    monkeypatch.setattr(
        "mdlbench.papers.reliability.probes.checked.encode", lambda coder, x: coder.encode(x)
    )
    assert probe(Reader(source, 12), source, 6, 12) == {1: 1.0, 5: 1.0}
    found = probe(Reader(source, 6), source, 12, 12, ks=(1,))[1]
    assert 0.72 < found < 0.80
    with pytest.raises(SourceError, match="are known"):
        probe(None, object(), 6, 12)


def test_probes_choose_the_latents_whose_means_differ_most():
    z = RNG.random((50, 4)).astype(np.float32)
    on = RNG.random((50, 3)) < 0.4
    expected = [
        [abs(z[on[:, f], i].mean() - z[~on[:, f], i].mean()) for i in range(4)] for f in range(3)
    ]
    assert mean_differences(z, on) == pytest.approx(np.array(expected), abs=1e-6)


# --- the command --------------------------------------------------------------------------------


def test_edges_are_right_where_features_are_parent_and_child():
    """0 over 1 and 2, 2 over 3; latents 3 and 4 both stand for feature 3, none for feature 1."""
    truth = TrueFeatures(np.eye(4), np.array([-1, 0, 0, 2]), np.array([0.5, 0.2, 0.2, 0.1]))
    forest = Forest.from_parents(np.array([-1, 0, 1, 1, 0]))
    feature = np.array([0, 2, 3, 3, 3])
    # latents 1-0 (2-0) and 2-1, 3-1 (both 3-2) are right, 4-0 (3-0) is not; 1-0 has no latent
    assert compared(forest, feature, truth) == Edges(learned=4, right=3, found=2, there=2)


def test_the_oracle_of_a_hierarchy_learns_it(tmp_path):
    """Exclusive children under frequent roots: what is learned from their supports is the world."""
    tree = {"features": 28, "hierarchy": {"roots": 4, "branching": 2, "depth": 2}}
    suite = SUITE | {"source": SUITE["source"] | tree}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    opener = Opener(load_suite(str(tmp_path)))
    source = opener.open(training_site(opener))
    coder = NamedCoder("baseline:oracle?features=28").load(source)
    found = edges_of(coder, source, source.features)
    assert found.there == np.count_nonzero(source.features.parents >= 0) == 24
    assert found.right == found.found >= 0.75 * found.learned
    assert found.right >= 18


def test_parts_by_name(tmp_path):
    result = CliRunner().invoke(app, ["reproduce", "hierarchy", "--part", "mnist"])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "hierarchy has no parts: run it without --part"
    with pytest.raises(UsageError, match=r"reliability has no part 'mnits'\. Did you mean 'mnist'"):
        run_experiment("reliability", tmp_path, lambda said: None, parts=("mnits",))
    keys = ["superposed-flat", "superposed-hier", "mnist", "smollm2-l15"]
    assert [part.key for part in PLAN.chosen(())] == keys
    assert [part.key for part in PLAN.chosen(("mnist",))] == ["mnist"]


def test_the_plan_asks_for_what_there_is():
    for part in PLAN.parts:
        suite = part.places[0].suite
        assert (part.metric, suite.headline.metric)[0] in suite.metrics
        if part.worlds:
            assert len(part.worlds) >= 2
            keys = {run.key for run in part.training.study.runs()}
            assert set(part.redrawn.saes) <= keys | {part.oracle}
            assert suite.source.tokens.test >= 10_000
        else:
            assert set(part.redrawn.saes) <= set(suite.keys)
        assert set(part.moved_modes) <= set(part.modes)
        if part.training:
            assert len(part.training.study.seeds) >= 3
            for run in part.training.study.runs():
                run.config()
            assert len({(r.architecture, r.label) for r in part.training.followed}) >= 4
