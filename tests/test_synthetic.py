"""Synthetic activations, the dictionaries known for them, and what the shipped suite found."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import mdlbench
from mdlbench.adapters.load import load_coder
from mdlbench.errors import SuiteError, UsageError
from mdlbench.records.store import read_records
from mdlbench.scoring.fetch import items
from mdlbench.sources.kinds.synthetic import PairOfFeatures, ParentAndChild, SyntheticConfig
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.synthetic import Synthetic, directions, draw, outcomes
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from mdlbench.training.config import TrainingConfig
from mdlbench.training.makers.known import (
    KNOWN,
    absorbed,
    expected_bits,
    joint_bits,
    main,
    merged,
    split,
    split_where_shorter,
    support_bits,
    truth,
    write_sae,
)
from mdlbench.training.zoo import load_recipe

LEADERBOARD = Path(__file__).parent.parent / "leaderboards" / "toy"
N = 40_000
SMALL = {
    "kind": "synthetic",
    "d": 12,
    "tokens": {"calibration": N, "test": 5000},
    "features": [
        {"kind": "pair", "probabilities": [0.1, 0.2], "correlation": 0.4},
        {"kind": "hierarchy", "probability": 0.3, "child": 0.5},
        {"kind": "lone", "probability": 0.05},
    ],
    "spread": 0.1,
    "noise": 0.01,
}


def config(**changes):
    return SyntheticConfig.model_validate(SMALL | changes)


@pytest.fixture(scope="module")
def toy():
    return load_suite("toy")


@pytest.fixture(scope="module")
def source():
    return Synthetic(config())


def activations(source, split):
    return torch.cat([block.activations for block in source.blocks(split)]).numpy()


def pair(a, b, correlation):
    return PairOfFeatures(kind="pair", probabilities=(a, b), correlation=correlation)


def family(probability, child):
    return ParentAndChild(kind="hierarchy", probability=probability, child=child)


# The data


def test_the_toy_suite_is_the_same_everywhere(toy):
    found = Opener(toy).open(Site(hook="synthetic"))
    assert found.data_sha256 == "bef8b30b659dbb032d83db98c0e7ba1feb70473bbef03f5c2d8a0b4a8870a27f"
    assert (found.n_tokens, found.d_in) == ({"calibration": 65_536, "test": 16_384}, 64)


def test_everything_that_decides_the_data_is_in_its_digest(source):
    assert Synthetic(config()).data_sha256 == source.data_sha256
    for changes in ({"seed": 1}, {"noise": 0.02}, {"spread": 0.0}, {"sharpness": 4.0}, {"d": 13}):
        assert Synthetic(config(**changes)).data_sha256 != source.data_sha256


def test_features_fire_as_often_and_as_often_together_as_stated():
    fires = draw(config(), "calibration").contributions > 0
    p = np.array([0.1, 0.2, 0.3, 0.15, 0.05])
    assert np.all(abs(fires.mean(axis=0) - p) < 4 * np.sqrt(p * (1 - p) / N))
    correlation = np.corrcoef(fires.T)
    assert correlation[0, 1] == pytest.approx(0.4, abs=0.03)
    assert not fires[~fires[:, 2], 3].any()
    assert np.all(abs(correlation[[0, 0, 1, 2], [2, 4, 3, 4]]) < 4 / np.sqrt(N))


def test_activations_are_features_times_magnitudes_and_noise():
    tokens, rows = draw(config(), "calibration"), directions(config())
    np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=1e-14)
    on = tokens.contributions[tokens.contributions > 0]
    assert (on.min(), on.max()) == (pytest.approx(0.9, abs=1e-3), pytest.approx(1.1, abs=1e-3))
    noise = tokens.activations - tokens.contributions @ rows
    assert noise.std() == pytest.approx(0.01, rel=0.01)
    assert abs(noise.mean()) < 4 * 0.01 / np.sqrt(noise.size)


def test_splits_are_drawn_apart():
    alike = config(tokens={"calibration": 5000, "test": 5000})
    first, second = draw(alike, "calibration"), draw(alike, "test")
    fires = [tokens.contributions[:, 2] > 0 for tokens in (first, second)]
    assert abs(np.corrcoef(*fires)[0, 1]) < 4 / np.sqrt(5000)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_outcomes_of_a_pair_have_its_rates_and_its_correlation(a, b, share):
    spread = np.sqrt(a * (1 - a) * b * (1 - b))
    low, high = (np.array([max(0.0, a + b - 1), min(a, b)]) - a * b) / spread
    correlation = low + share * (high - low)
    probabilities = {tuple(on): p for on, p in outcomes(pair(a, b, correlation))}
    assert min(probabilities.values()) >= 0
    assert sum(probabilities.values()) <= 1 + 1e-12
    both = probabilities[True, True]
    assert both + probabilities[True, False] == pytest.approx(a, abs=1e-12)
    assert both + probabilities[False, True] == pytest.approx(b, abs=1e-12)
    assert (both - a * b) / spread == pytest.approx(correlation, abs=1e-9)


# The source


def test_blocks_are_whole_and_the_same_every_time(source):
    expected = draw(config(), "test").activations
    for _ in range(2):
        assert np.array_equal(activations(source, "test"), expected)
    documents = np.concatenate([block.document for block in source.blocks("test")])
    assert np.array_equal(documents, np.arange(5000))


def test_a_limit_keeps_the_first_tokens(source):
    part = Synthetic(config(), limit=30)
    assert part.n_documents == part.n_tokens == {"calibration": 30, "test": 30}
    assert np.array_equal(activations(part, "test"), activations(source, "test")[:30])


def test_the_read_out_against_an_independent_computation(source):
    rows, labels = directions(config()), draw(config(), "test").labels
    for block in source.blocks("test"):
        x = block.activations.numpy().astype(np.float64)

        def log_p(x):
            logits = 8 * np.concatenate([x @ rows.T, np.full((len(x), 1), 0.5)], axis=1)
            return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

        half = torch.from_numpy((x / 2).astype(np.float32))
        loss, token = source.splice(block, half), np.arange(len(x))
        label = labels[block.document]
        clean, spliced = log_p(x), log_p(half.numpy().astype(np.float64))
        np.testing.assert_allclose(source.clean_ce(block), -clean[token, label], atol=1e-9)
        np.testing.assert_allclose(loss.ce, -spliced[token, label], atol=1e-9)
        kl = (np.exp(clean) * (clean - spliced)).sum(axis=1)
        np.testing.assert_allclose(loss.kl, kl, atol=1e-9)
        np.testing.assert_allclose(
            source.ablated_ce(block), source.splice(block, torch.zeros_like(half)).ce
        )


def test_the_read_out_is_calibrated_so_that_a_splice_costs_its_kl(source):
    """Labels are drawn from what the model says, so ΔCE and KL agree but for sampling and noise."""
    added, kl = [], []
    for block in source.blocks("test"):
        loss = source.splice(block, block.activations * 0.7)
        added.append(loss.ce - source.clean_ce(block))
        kl.append(loss.kl)
    difference = np.concatenate(added) - np.concatenate(kl)
    assert np.concatenate(kl).mean() > 0.02
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": 4}, "5 features have no orthonormal directions in d = 4 dimensions"),
        (
            {"features": [{"kind": "pair", "probabilities": [0.1, 0.2], "correlation": 0.9}]},
            r"probabilities 0\.1 and 0\.2 have a correlation from -0\.167 to 0\.667, not 0\.9",
        ),
        ({"features": [{"kind": "lone", "probability": 1.0}]}, "less than 1"),
        ({"features": [{"kind": "lone", "probability": -0.1}]}, "equal to 0.000000001"),
        ({"features": [{"kind": "trio", "probability": 0.1}]}, "'lone', 'pair', 'hierarchy'"),
        ({"features": []}, "at least 1 item"),
        ({"spread": 1.5}, "less than 1"),
        ({"noise": float("nan")}, "noise"),
        ({"tokens": {"calibration": 10}}, "test\n  Field required"),
        ({"seeds": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        config(**changes)


def test_a_suites_error_names_file_and_place(toy, tmp_path):
    content = yaml.safe_load(toy.path("suite.yaml").read_text())
    content["source"]["features"][0]["correlation"] = -0.5
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content))
    where = r"suite\.yaml, line \d+: source\.features\.0: .*correlation from -0\.111 to 1"
    with pytest.raises(SuiteError, match=where):
        load_suite(tmp_path)


def test_there_is_nothing_to_fetch(toy):
    assert list(items(toy)) == []


# The known dictionaries


@pytest.mark.parametrize("name", KNOWN)
def test_shipped_dictionaries_follow_from_the_parameters(toy, name, tmp_path):
    write_sae(toy.source, name, tmp_path)
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / file).read_bytes() == toy.path(f"saes/{name}/{file}").read_bytes()


@pytest.mark.parametrize("name", KNOWN)
def test_latents_are_on_where_the_outcome_is_theirs(name, source, tmp_path):
    """They fire exactly where features say so, and rebuild activations as well as they can."""
    write_sae(config(), name, tmp_path)
    coder, tokens = load_coder(str(tmp_path)), draw(config(), "test")
    latents, side = coder.encode(torch.from_numpy(tokens.activations))
    a, b, animal, bird, lone = (tokens.contributions > 0).T
    pairs = {"both": [a & ~b, b & ~a, a & b], "two": [a, b], "one": [a | b]}
    described = "one" if name == "merged" else "both" if name[:5] in ("split", "short") else "two"
    birds = [animal & ~bird, bird] if name in ("absorbed", "shortest") else [animal, bird]
    expected = np.stack([*pairs[described], *birds, lone], axis=1)
    assert np.array_equal(latents.to_dense() > 0, expected)
    if name == "truth":
        error = coder.decode(latents, side).numpy() - tokens.activations
        assert np.square(error).mean() < 1.01 * config().noise ** 2


def test_closed_forms_of_splitting_and_of_hierarchies():
    """maths §9, printed to six digits."""
    loose, tight = pair(0.1, 0.1, 0.0), pair(0.1, 0.1, 0.25)
    assert support_bits(truth(loose)) == pytest.approx(0.937991, abs=1e-6)
    assert support_bits(split(loose)) == pytest.approx(0.953733, abs=1e-6)
    assert support_bits(split(tight)) == pytest.approx(0.919827, abs=1e-6)
    assert split_where_shorter(loose) == truth(loose)
    assert split_where_shorter(tight) == split(tight)
    assert split_where_shorter(pair(0.1, 0.1, 0.1626)) == truth(pair(0.1, 0.1, 0.1626))
    assert split_where_shorter(pair(0.1, 0.1, 0.1627)) == split(pair(0.1, 0.1, 0.1627))
    assert support_bits(absorbed(family(0.1, 0.5))) == pytest.approx(0.572794, abs=1e-6)
    assert support_bits(absorbed(family(0.3, 0.5))) == pytest.approx(1.219681, abs=1e-6)
    assert len(merged(tight)) == 1
    single = config(features=[{"kind": "pair", "probabilities": [0.1, 0.1], "correlation": 0.25}])
    assert joint_bits(single) == pytest.approx(0.905850, abs=1e-6)


@given(st.floats(0.01, 0.6), st.floats(0.05, 0.95))
def test_absorption_shortens_a_flat_code_unless_the_parent_is_nearly_always_on(probability, child):
    group = family(probability, child)
    if group.probability * (1 - group.child / 2) < 0.5:
        assert support_bits(absorbed(group)) < support_bits(truth(group))


def test_magnitudes_too_wide_for_dividing_lines_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"spread of magnitudes of 0\.3: .* up to 0\.15"):
        write_sae(config(spread=0.3), "truth", tmp_path)
    with pytest.raises(typer.BadParameter, match="'mnist' is not synthetic"):
        main(tmp_path, suite="mnist")


def test_shipped_trained_saes_follow_their_recipe(toy):
    recipe = load_recipe(toy.path("zoo.yaml"))
    assert {entry.key for entry in toy.saes} == {*recipe, *KNOWN, "pca", "mean"}
    for key in recipe:
        settings = json.loads(toy.path(f"saes/{key}/training.json").read_text())["settings"]
        del settings["activations_sha256"]
        assert TrainingConfig(**settings) == recipe[key]


# The suite


def test_a_known_dictionary_end_to_end(toy):
    record = mdlbench.evaluate("shortest", toy, limit=2000)
    assert record.partial
    assert record.site == Site(hook="synthetic")
    assert Opener(toy, Setting(limit=2000)).open(record.site).data_sha256 == (
        record.identity.data_sha256
    )
    boolean = next(point for point in record.points if point.step == 0.5)
    assert boolean.bits.magnitude == 0
    assert boolean.bits.support == pytest.approx(expected_bits(toy.source, KNOWN["shortest"]), 0.03)


def committed(quantiser):
    return [
        record
        for record in read_records(LEADERBOARD)
        if record.identity.quantiser == quantiser and record.coder.architecture != "pca"
    ]


def found(metric, epsilon, quantiser):
    """Bits at a tolerance of the committed records, of those that meet it."""
    results = {record.name: record.at(metric, epsilon) for record in committed(quantiser)}
    return {name: result.bits for name, result in results.items() if result.feasible}


@pytest.mark.parametrize("name", KNOWN)
def test_measured_rates_are_those_of_the_closed_form(toy, name):
    record = next(record for record in committed(None) if record.name == name)
    point = next(point for point in record.points if point.step == 1 / 32)
    assert point.bits.support == pytest.approx(expected_bits(toy.source, KNOWN[name]), rel=0.005)


@pytest.mark.parametrize(
    ("quantiser", "metric", "epsilon", "shortest"),
    [
        (None, "fvu", 0.001, "truth"),
        (None, "delta_ce", 0.01, "truth"),
        (None, "fvu", 0.0015, "truth"),
        (None, "fvu", 0.003, "shortest"),
        (None, "fvu", 0.01, "shortest"),
        (None, "fvu", 0.3, "merged"),
        ("tree", "fvu", 0.001, "truth"),
        ("tree", "fvu", 0.01, "truth"),
        ("tree", "delta_ce", 0.01, "truth"),
        ("tree", "fvu", 0.3, "merged"),
    ],
)
def test_which_dictionary_is_the_shortest(quantiser, metric, epsilon, shortest):
    bits = found(metric, epsilon, quantiser)
    assert min(bits, key=bits.get) == shortest


def test_the_tree_code_of_the_truth_reaches_the_joint_entropy(toy):
    record = next(record for record in committed("tree") if record.name == "truth")
    point = next(point for point in record.points if point.step == 1 / 32)
    assert point.bits.support == pytest.approx(joint_bits(toy.source), rel=0.005)


def test_probabilities_that_no_sample_shows_are_refused():
    with pytest.raises(ValidationError, match=r"greater than or equal to 0\.000000001"):
        pair(1e-200, 1e-200, 0.0)
