"""Features in superposition: how they are drawn, and what is said of SAEs that look for them."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sae_lens.synthetic import (
    HierarchyConfig,
    ZipfianFiringProbabilityConfig,
    compute_classification_metrics,
    feature_uniqueness,
    generate_hierarchy,
    hierarchy_modifier,
    mean_correlation_coefficient,
    orthogonalize_embeddings,
)
from scipy.stats import multivariate_normal

import mdlbench
from mdlbench.adapters.load import load_coder
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import SourceError, SuiteError, UsageError
from mdlbench.records.checks import problems_of
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.truth import block_matches
from mdlbench.sources import superposed
from mdlbench.sources.kinds.superposed import SuperposedConfig
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import Firing
from mdlbench.sources.superposed import Superposed, draw, spread_directions, world, zipf_rates
from mdlbench.statistics.truth import MatchCounts, Matches
from mdlbench.suite.load import load_suite
from mdlbench.training.makers import controls

SMALL = {
    "kind": "superposed",
    "seed": 3,
    "d": 16,
    "features": 80,
    "tokens": {"calibration": 3000, "test": 1500},
    "rates": {"exponent": 0.5, "most": 0.3, "least": 0.01},
    "hierarchy": {"roots": 4, "branching": 3, "depth": 2},
    "correlation": {"rank": 2, "scale": 0.3},
    "read_out": 40,
}
SUITE = {
    "name": "small",
    "title": "Small",
    "source": SMALL,
    "steps": {"finest": 0.25, "octaves": 4},
    "tolerances": [{"metric": "fvu", "epsilons": [0.3, 0.6]}],
    "headline": {"metric": "fvu", "epsilon": 0.6},
    "replicates": 100,
}


def config(**changes):
    return SuperposedConfig.model_validate(SMALL | changes)


def suite(folder, **changes):
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE | changes))
    return load_suite(folder)


@cache
def source():
    return Superposed(config())


def fires(drawn, n_features):
    on = np.zeros((len(drawn.activations), n_features), dtype=bool)
    on[drawn.firing.token, drawn.firing.feature] = True
    return on


def many(the_world, n_blocks=12):
    """Which features fire on many tokens."""
    n = len(the_world.mean)
    return np.concatenate([fires(draw(the_world, 5, "test", i), n) for i in range(n_blocks)])


# --- the world, beside sae_lens.synthetic ---------------------------------------------------------


def lens_hierarchy():
    return generate_hierarchy(
        80,
        HierarchyConfig(
            total_root_nodes=4,
            branching_factor=3,
            max_depth=2,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        seed=0,
    )


def test_rates_trees_and_compensation_are_those_of_sae_lens():
    rates = ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.3, min_prob=0.01).generate(80)
    the_world, hierarchy = world(config()), lens_hierarchy()
    assert zipf_rates(config().rates, 80) == pytest.approx(rates.numpy(), abs=1e-6)
    parents = np.full(80, -1)
    nodes = list(hierarchy.roots)
    while nodes:
        node = nodes.pop()
        for child in node.children:
            parents[child.feature_index] = node.feature_index
            nodes.append(child)
    assert the_world.parents.tolist() == parents.tolist()
    factors = hierarchy.compute_probability_correction_factors(rates)
    assert the_world.drawn_rates == pytest.approx((rates * factors).clamp(max=1).numpy(), abs=1e-5)
    unhurried = world(config(hierarchy=SMALL["hierarchy"] | {"compensated": False}))
    assert unhurried.drawn_rates == pytest.approx(rates.numpy(), abs=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_trees_do_what_sae_lens_does_once_siblings_no_longer_conflict(scaled):
    hierarchy = lens_hierarchy()
    for node in [*hierarchy.roots, *(child for root in hierarchy.roots for child in root.children)]:
        node.scale_children_by_parent = scaled
    the_world = world(config(hierarchy=SMALL["hierarchy"] | {"scaled": scaled}))
    generator = np.random.default_rng(0)
    raw = np.where(generator.random((500, 80)) < 0.5, 1 + generator.random((500, 80)), 0.0)
    found, lots = raw.copy(), np.where(raw > 0, generator.random(raw.shape), 0.0)
    superposed._grow(the_world, the_world.hierarchy, found, lots)
    parents = the_world.parents[4:52].reshape(-1, 3)[:, 0]
    several, some = (values[:, 4:52].reshape(500, -1, 3) > 0 for values in (found, raw))
    assert np.array_equal(several.sum(axis=2), (found[:, parents] > 0) & some.any(axis=2))

    class Generator:
        mean_firing_magnitudes = torch.from_numpy(the_world.mean)

    modifier = hierarchy_modifier(hierarchy.roots)
    kept = torch.from_numpy(np.where(found > 0, raw, 0.0))
    expected = modifier(kept, Generator()) if scaled else modifier(kept)
    assert found == pytest.approx(expected.numpy(), rel=1e-9)


def test_directions_are_as_far_apart_as_sae_lens_makes_them():
    start = np.random.default_rng(0).standard_normal((60, 12))
    spread = spread_directions(start)
    lens = orthogonalize_embeddings(torch.from_numpy(start), num_steps=300, lr=0.01).numpy()

    def potential(rows):
        return float(((rows @ rows.T) ** 2).sum())

    assert np.linalg.norm(spread, axis=1) == pytest.approx(1.0)
    assert 60**2 / 12 - 1e-9 <= potential(spread) <= min(potential(lens), 60**2 / 12 + 1e-3)
    directions = world(config()).directions
    assert np.array_equal(directions * 2**14, np.rint(directions * 2**14))


def test_features_fire_as_often_as_their_rates_say():
    for changes in ({"correlation": None}, {"correlation": None, "hierarchy": None}):
        the_world = world(config(**changes))
        on = many(the_world)
        deviation = np.sqrt(the_world.rates * (1 - the_world.rates) / len(on))
        assert np.abs((on.mean(axis=0) - the_world.rates) / deviation).max() < 4.5
    assert the_world.rates == pytest.approx(the_world.drawn_rates, abs=2e-2)


def test_factors_make_features_fire_together_as_a_gaussian_copula_has_it():
    the_world = world(config(hierarchy=None, correlation={"rank": 1, "scale": 0.9}))
    on = many(the_world)
    covariance = the_world.factors @ the_world.factors.T
    np.fill_diagonal(covariance, 1.0)
    strongest = np.argsort(-np.abs(np.triu(covariance[:20, :20], 1)), axis=None)[:3]
    for a, b in zip(*np.unravel_index(strongest, (20, 20)), strict=True):
        pair = covariance[np.ix_([a, b], [a, b])]
        both = multivariate_normal(cov=pair).cdf(-the_world.thresholds[[a, b]])
        seen = (on[:, a] & on[:, b]).mean()
        assert seen == pytest.approx(both, abs=4 * np.sqrt(both / len(on)) + 0.02 * both)
        assert abs(both - the_world.drawn_rates[a] * the_world.drawn_rates[b]) > 0.005


def test_a_factor_that_leaves_nothing_of_its_own_is_shortened():
    the_world = world(config(correlation={"rank": 3, "scale": 2.0}))
    assert (the_world.own_weights >= 0.1 - 1e-12).all()


def test_activations_are_the_offset_and_the_features_that_fire():
    the_world = world(config())
    drawn = draw(the_world, 3, "test", 0)
    expected = np.tile(the_world.offset, (1024, 1))
    for token, feature, magnitude in zip(*drawn.firing, strict=True):
        expected[token] += float(magnitude) * the_world.directions[feature]
    assert drawn.activations == pytest.approx(expected, abs=1e-5)
    assert (drawn.firing.magnitude > 0).all()


# --- the source -----------------------------------------------------------------------------------


@given(start=st.integers(0, 3), stop=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_a_block_is_the_same_in_whatever_range_and_alone(start, stop):
    whole = list(source().blocks("calibration"))
    assert [len(block.document) for block in whole] == [1024, 1024, 952]
    for block in Superposed(config()).blocks("calibration", start, stop):
        assert torch.equal(block.activations, whole[block.index].activations)
        assert np.array_equal(block.document, whole[block.index].document)


def test_a_limit_and_more_tokens_change_no_token_and_no_digest():
    short, long = Superposed(config(), limit=40), Superposed(config(), calibration_tokens=5000)
    (block,) = short.blocks("test")
    assert short.n_tokens == {"calibration": 40, "test": 40}
    assert torch.equal(block.activations, next(source().blocks("test")).activations[:40])
    assert long.n_tokens == {"calibration": 5000, "test": 1500}
    assert torch.equal(
        next(long.blocks("calibration", 2, 3)).activations[:952],
        next(source().blocks("calibration", 2)).activations,
    )
    assert short.data_sha256 == long.data_sha256 == source().data_sha256


def test_only_so_many_blocks_are_kept(monkeypatch):
    monkeypatch.setattr(superposed, "KEPT_BLOCKS", 1)
    frugal = Superposed(config())
    again = [list(frugal.blocks("calibration")) for _ in range(2)]
    assert len(frugal._kept) == 1
    for one, other in zip(*again, strict=True):
        assert torch.equal(one.activations, other.activations)


@pytest.mark.parametrize("name", ["superposed-flat", "superposed-hier"])
def test_this_machine_draws_the_data_of_the_shipped_suites(name):
    stated = load_suite(name).source
    assert Superposed(stated).data_sha256 == stated.sha256


def test_a_machine_that_draws_other_data_is_refused():
    with pytest.raises(SourceError, match=r"the digest .*, not the suite's 000000000000: this mac"):
        Superposed(config(sha256="0" * 64))


def test_the_read_out_is_calibrated_so_that_a_splice_costs_its_kl():
    opened = Superposed(config(tokens={"calibration": 1024, "test": 8192}, sharpness=0.5))
    excess, kl = [], []
    for block in opened.blocks("test"):
        loss = opened.splice(block, block.activations * 0.5)
        excess.append(loss.ce - opened.clean_ce(block))
        kl.append(loss.kl)
    excess, kl = np.concatenate(excess), np.concatenate(kl)
    assert (kl >= -1e-12).all()
    assert excess.mean() == pytest.approx(kl.mean(), abs=4 * excess.std() / np.sqrt(len(kl)))


def test_the_read_out_against_an_independent_computation():
    opened, the_world = source(), world(config())
    block = next(opened.blocks("test"))
    x = block.activations.numpy().astype(np.float64) - the_world.offset
    read = the_world.directions[np.argsort(-the_world.rates, kind="stable")[:40]]
    logits = 2.0 * np.column_stack([*(x @ direction for direction in read), np.full(len(x), 2.5)])
    normaliser = np.log(np.exp(logits).sum(axis=1))
    labels = opened._labels(opened._drawn("test", 0)).numpy()
    assert opened.clean_ce(block) == pytest.approx(normaliser - logits[np.arange(len(x)), labels])
    zero = np.append(-2.0 * read @ the_world.offset, 5.0)
    assert opened.ablated_ce(block) == pytest.approx(np.log(np.exp(zero).sum()) - zero[labels])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 1}, "features.*greater than or equal to 2"),
        ({"features": 16}, "16 features in d = 16 dimensions are not in superposition: take more"),
        ({"read_out": 81}, "read_out is 81, but there are only 80 features"),
        (
            {"hierarchy": {"roots": 4, "branching": 4, "depth": 3}},
            "4 trees of 85 features needs 340 features, and there are 80",
        ),
        ({"hierarchy": {"roots": 4, "branching": 1}}, "branching.*greater than or equal to 2"),
        ({"rates": {"most": 0.1, "least": 0.2}}, "least = 0.2 must be below most = 0.1"),
        ({"rates": {"most": 1.0, "least": 0.2}}, "rates.most.*less than 1"),
        (
            {"rates": {"most": 0.1, "least": 1e-300}},
            "rates.least.*than or equal to 0.000000001",
        ),
        (
            {"rates": {"most": 0.1, "least": 0.01, "exponent": 1e-300}},
            "rates.exponent.*greater than or equal to 0.001",
        ),
        ({"magnitudes": {"first": 1e39}}, "magnitudes.first.*less than or equal to 1000000"),
        ({"correlation": {"rank": 2, "scale": 1e308}}, "scale.*less than or equal to 1000000"),
        ({"hierarchy": {"roots": 1, "branching": 10**9}}, "branching.*less than or equal to 1024"),
        (
            {"d": 1 << 16, "features": 1 << 20},
            "1,048,576 directions of 65,536 numbers are more than the 268,435,456 numbers that",
        ),
        (
            {"features": 1 << 20, "correlation": {"rank": 1024, "scale": 0.1}},
            "1,024 factors of 1,048,576 features are more than the 268,435,456 numbers that are "
            "drawn at once: take a smaller rank",
        ),
        (
            {"features": 1 << 20, "read_out": 1 << 20},
            "read_out.*less than or equal to 65536",
        ),
    ],
)
def test_an_impossible_world_is_one_sentence(changes, message):
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        config(**changes)


def test_a_suite_names_the_key_of_an_impossible_world(tmp_path):
    with pytest.raises(SuiteError, match=r"suite\.yaml, line \d+: source\.features: "):
        suite(tmp_path, source=SMALL | {"features": 1})


# --- the truth ------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), n_latents=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_scores_are_those_of_sae_lens_in_float64(seed, n_latents):
    generator = np.random.default_rng(seed)
    rows, directions = generator.standard_normal((n_latents, 5)), generator.standard_normal((9, 5))
    z = generator.standard_normal((60, n_latents)) * (generator.random((60, n_latents)) < 0.3)
    z[:, 0] = 0.0
    acts = np.abs(generator.standard_normal((60, 9))) * (generator.random((60, 9)) < 0.4)
    matches = Matches.of(rows, directions)
    latents = SparseLatents.from_dense(z.astype(np.float32))
    token, feature = np.nonzero(acts)
    firing = Firing(token, feature, acts[token, feature].astype(np.float32))
    found = matches.recovery(block_matches(latents, firing, matches.feature, 9))
    tensors = [torch.from_numpy(array) for array in (z, acts, rows, directions)]
    expected = compute_classification_metrics(*tensors)
    assert found.precision == pytest.approx(expected.precision, abs=1e-6)
    assert found.recall == pytest.approx(expected.recall, abs=1e-6)
    assert found.f1 == pytest.approx(expected.f1_score, abs=1e-6)
    assert found.mcc == pytest.approx(mean_correlation_coefficient(*tensors[2:]))
    assert found.uniqueness == pytest.approx(feature_uniqueness(*tensors[2:]))


def test_counts_of_ranges_add_up():
    block = next(source().blocks("test"))
    firing = source().firing("test", block)
    z = np.random.default_rng(0).standard_normal((1024, 4)).astype(np.float32)
    feature = np.array([3, 1, 4, 1])
    whole = block_matches(SparseLatents.from_dense(z), firing, feature, 80)
    halves = MatchCounts.zeros(4, 80)
    for start in (0, 512):
        part = (firing.token >= start) & (firing.token < start + 512)
        moved = Firing(firing.token[part] - start, *(values[part] for values in firing[1:]))
        run = SparseLatents.from_dense(z[start : start + 512])
        halves = halves + block_matches(run, moved, feature, 80)
    for one, other in zip(vars(whole).values(), vars(halves).values(), strict=True):
        assert np.array_equal(one, other)


@cache
def oracle_record(features, quantiser=None):
    with TemporaryDirectory() as folder:
        loaded = suite(Path(folder))
    spec = f"baseline:oracle?features={features}"
    return loaded, mdlbench.evaluate(spec, loaded, quantiser=quantiser)


def test_an_oracle_knows_all_and_its_record_says_so():
    loaded, record = oracle_record(80)
    assert record.floor.fvu == pytest.approx(0.0, abs=1e-9)
    truth = record.truth
    assert truth is not None
    assert (truth.mcc, truth.uniqueness, truth.features) == (pytest.approx(1.0), 1.0, 80)
    assert truth.f1 == truth.precision == truth.recall
    assert truth.null.mcc < 0.8
    assert truth.null.f1 < 0.1
    assert list(problems_of(record, loaded)) == []
    part = oracle_record(30)[1]
    assert part.coder.d_latents == 30
    assert part.coder.l0 == pytest.approx(np.sort(world(config()).rates)[-30:].sum(), rel=0.1)


def test_the_tree_code_knows_an_oracles_parents():
    loaded = oracle_record(30)[0]
    opened = Opener(loaded).open(Opener(loaded).site_of())
    coder = load_coder("baseline:oracle?features=30", source=opened)
    kept = np.sort(np.argsort(-world(config()).rates, kind="stable")[:30])
    above = world(config()).parents[kept]
    assert [kept[p] if p >= 0 else -1 for p in coder.spec.parents] == above.tolist()
    strangers = torch.randn(5, 16)
    assert coder.encode(strangers)[0].nnz == 0
    flat, tree = (oracle_record(30, mode)[1].points[0] for mode in (None, "tree"))
    assert tree.bits.heldout < flat.bits.heldout


def test_a_record_that_claims_an_impossible_truth_is_found_out():
    loaded, record = oracle_record(30)
    content = json.loads(record.to_json())
    del content["checksum"]

    def problem(**changes):
        changed = content | {"truth": content["truth"] | changes}
        return next(problems_of(EvalRecord.model_validate(changed), loaded))

    assert problem(mcc=1.2) == "truth: a score is not between 0 and 1"
    assert problem(precision=0.1) == "truth.f1 is above the mean of precision and recall"
    assert problem(uniqueness=0.77).startswith("truth.uniqueness is not a share of the latents")
    missing = EvalRecord.model_validate({k: v for k, v in content.items() if k != "truth"})
    assert next(problems_of(missing, loaded)).startswith("truth: is there where the suite knows")


def test_suites_that_know_no_features_have_no_oracle_and_no_truth():
    with pytest.raises(UsageError, match="only a suite that knows its features has one"):
        mdlbench.evaluate("baseline:oracle", "toy", limit=50)
    assert mdlbench.evaluate("baseline:pca", "toy", limit=50).truth is None
    with pytest.raises(UsageError, match="there are only 80 features"):
        mdlbench.evaluate("baseline:oracle?features=81", oracle_record(80)[0])


# --- controls -------------------------------------------------------------------------------------


def test_controls_are_made_of_an_sae_that_finds_features(tmp_path):
    weights = controls.linear(source(), 30)
    kept = np.sort(np.argsort(-world(config()).rates, kind="stable")[:30])
    assert np.allclose(weights["W_dec"], world(config()).directions[kept], atol=1e-6)
    x = torch.cat([block.activations for block in source().blocks("calibration")])
    on = controls.fires(weights, x).float()
    assert on.mean(dim=0).numpy() == pytest.approx(world(config()).rates[kept], abs=1 / 3000)
    moved = controls.permuted(weights)["W_dec"]
    assert not torch.equal(moved, weights["W_dec"])
    assert sorted(moved[:, 0].tolist()) == sorted(weights["W_dec"][:, 0].tolist())
    chance = controls.random(weights, source())
    assert float(controls.fires(chance, x).float().mean()) == pytest.approx(float(on.mean()), 0.01)
    cosines = np.abs(chance["W_dec"].numpy() @ weights["W_dec"].numpy().T)
    assert cosines.max() < 0.97
    best = controls.best(weights, source(), 10)
    matches = Matches.of(weights["W_dec"].numpy(), world(config()).directions)
    true = np.zeros((3000, 80), dtype=bool)
    for block in source().blocks("calibration"):
        firing = source().firing("calibration", block)
        true[firing.token + block.document[0], firing.feature] = True
    both = (on.bool().numpy() & true[:, matches.feature]).sum(axis=0)
    f1 = 2 * both / (on.numpy().sum(axis=0) + true[:, matches.feature].sum(axis=0))
    expected = np.sort(np.argsort(-f1, kind="stable")[:10])
    assert torch.equal(best["W_dec"], weights["W_dec"][expected])
    controls.write_control(best, "best-10", "superposed", tmp_path / "best-10")
    coder = load_coder(f"saelens:{tmp_path / 'best-10'}", source=source())
    latents, _ = coder.encode(x[:100])
    assert latents.to_dense() == pytest.approx(
        np.where(
            controls.fires(best, x[:100]),
            (x[:100] - best["b_dec"]) @ best["W_enc"],
            0.0,
        ),
        abs=2e-2,
    )
