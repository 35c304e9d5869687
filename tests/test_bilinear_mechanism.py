"""Descriptions of a bilinear classifier's weights: their logits, their bits, and the verdicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mdlbench.bilinear.network import BilinearNetwork
from mdlbench.bilinear.spectrum import output_spectrum
from mdlbench.codes.codelength import adaptive
from mdlbench.codes.tally import SymbolCounts
from mdlbench.papers import mechanism
from mdlbench.papers.mechanism import claims, measure, messages, report
from mdlbench.papers.mechanism.code import rounded
from mdlbench.papers.mechanism.evidence import Evidence
from mdlbench.papers.mechanism.measure import Point, cross_entropy
from mdlbench.papers.mechanism.plan import BASIS, EIGENVECTORS, SVD, WEIGHTS, Plan
from tests.tiny import N_TEST, write_tiny_suite

D, HIDDEN, CLASSES = 24, 9, 5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    return BilinearNetwork(D, HIDDEN, CLASSES)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(4).standard_normal((60, D)).astype(np.float32)


def logits(message, x):
    return message.logits(message.matrices, x).astype(np.float64)


def without_common_part(found):
    return found - found.mean(axis=1, keepdims=True)


def test_whole_messages_are_the_network(network, x):
    layer = messages.centred(network.quadratic())
    expected = network(torch.from_numpy(x)).detach().double().numpy()
    whole = {
        "weights": messages.weights(network),
        "svd": messages.truncated(layer, 2 * HIDDEN),
        "eigenvectors": messages.eigenvectors(layer, 2 * HIDDEN),
        "basis": messages.shared_basis(layer, 2 * HIDDEN),
    }
    for name, message in whole.items():
        found = without_common_part(logits(message, x))
        np.testing.assert_allclose(found, without_common_part(expected), atol=1e-4, err_msg=name)
    assert [one.shape for one in whole["weights"].matrices] == [
        (HIDDEN, D), (HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (CLASSES, HIDDEN),
    ]  # fmt: skip


def test_few_eigenvectors_are_the_strongest_of_each_logit(network, x):
    layer = network.quadratic()
    message = messages.eigenvectors(layer, 3)
    assert message.signs == 3 * CLASSES
    for k, found in enumerate(logits(message, x).T):
        form = output_spectrum(layer, np.eye(CLASSES)[k]).strongest(3)
        np.testing.assert_allclose(found, form.output(x.astype(np.float64)), atol=1e-4)
        rows = message.matrices[0][3 * k : 3 * k + 3]
        np.testing.assert_allclose(np.square(rows).sum(axis=1), np.abs(form.values), rtol=1e-5)


def test_a_truncated_svd_is_the_nearest_of_its_rank(network, x):
    layer = network.quadratic()
    left, strengths, right = np.linalg.svd(np.vstack([layer.w, layer.v]), full_matrices=False)
    maps = x.astype(np.float64) @ ((left[:, :4] * strengths[:4]) @ right[:4]).T
    expected = (maps[:, :HIDDEN] * maps[:, HIDDEN:]) @ layer.p.T
    np.testing.assert_allclose(logits(messages.truncated(layer, 4), x), expected, atol=1e-4)


def test_a_shared_basis_keeps_what_all_forms_are_within_it(network, x):
    layer = network.quadratic()
    w, v, p = layer.w, layer.v, layer.p
    forms = [(w.T @ (p[k][:, None] * v) + v.T @ (p[k][:, None] * w)) / 2 for k in range(CLASSES)]
    values, vectors = np.linalg.eigh(sum(form @ form for form in forms))
    basis = vectors[:, np.argsort(-values)[:6]]
    within = x.astype(np.float64) @ basis @ basis.T
    expected = np.stack([((within @ form) * within).sum(axis=1) for form in forms], axis=1)
    message = messages.shared_basis(layer, 6)
    np.testing.assert_allclose(logits(message, x), expected, atol=1e-4)
    assert [one.shape for one in message.matrices] == [(6, D), (CLASSES, 21)]


@given(
    arrays(np.float32, (5, 7), elements=st.floats(-4, 4, width=32)),
    st.sampled_from([0.25, 0.5, 2.0]),
)
@settings(max_examples=12, deadline=None)
def test_entries_are_the_nearest_multiples_and_bits_those_of_the_shorter_way(matrix, step):
    found = rounded(matrix, step)
    nearest = np.sign(matrix) * np.floor(np.abs(matrix) / step + 0.5) * step
    np.testing.assert_array_equal(found.matrix, nearest)
    lengths = []
    for tokens in (nearest.T, nearest):
        pairs = [(j, int(v / step)) for row in tokens for j, v in enumerate(row) if v]
        distinct = sorted(set(pairs))
        counts = SymbolCounts(
            np.array([pair[0] for pair in distinct], dtype=np.int32),
            np.array([pair[1] for pair in distinct], dtype=np.int32),
            np.array([pairs.count(pair) for pair in distinct], dtype=np.int64),
            *tokens.shape,
        )
        lengths.append(len(tokens) * adaptive(counts))
    assert found.bits == pytest.approx(min(lengths) + 1 + 32)
    assert rounded(matrix.T.copy(), step).bits == found.bits


def test_a_matrix_of_noise_costs_its_entropy():
    """A Gaussian in steps of a tenth of its deviation: 2.0471 + log₂ 10 bits each (maths §9)."""
    matrix = np.random.default_rng(0).standard_normal((120, 300)).astype(np.float32)
    found = rounded(matrix, 0.1)
    assert found.bits / matrix.size == pytest.approx(2.0471 + np.log2(10), rel=0.02)
    assert rounded(np.zeros((120, 300), np.float32), 0.1).bits < 250


def test_cross_entropy_against_torch(x):
    found = x[:, :CLASSES] * 50
    y = np.arange(len(found)) % CLASSES
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(found).double(), torch.tensor(y))
    assert cross_entropy(found, y) == pytest.approx(float(expected))


PLAN = Plan(
    hidden=12,
    epochs=2,
    batch_size=200,
    seeds=2,
    sizes={WEIGHTS: (0,), SVD: (4,), EIGENVECTORS: (1, 3), BASIS: (4, 6)},
    shares=(0.25, 1.0),
    saes=("pca", "kmeans"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A shipped suite with images, a suite that names them, and what was gathered of it."""
    folder = tmp_path_factory.mktemp("mechanism")
    shipped = write_tiny_suite(folder / "shipped" / "tiny")
    source = {
        "kind": "images",
        "images": "tiny:images.npy.xz",
        "labels": "tiny:labels.npy.xz",
        "classifier": "classifier.safetensors",
        "n_test": N_TEST,
    }
    own = write_tiny_suite(
        folder / "own",
        source=source,
        tolerances=[
            {"metric": "delta_ce", "epsilons": [0.2, 0.02]},
            {"metric": "mse", "epsilons": [0.01]},
        ],
        headline={"metric": "delta_ce", "epsilon": 0.02},
        steps={"finest": 0.03125, "octaves": 4},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdlbench.suite.folders.suites_folder", lambda: shipped.parent)
        plan = replace(PLAN, suite=str(own))
        evidence = mechanism.gather(folder / "results", plan, lambda stage: None)
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.json")}
        patch.setattr(measure, "measure", None)
        again = mechanism.gather(folder / "results", plan, lambda stage: None)
        assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.json")} == before
        assert again.points == evidence.points
    return folder, evidence


def test_everything_is_measured_once(world):
    folder, evidence = world
    assert evidence.keys == ["h12-wd0.5-n0.15-s0", "h12-wd0.5-n0.15-s1"]
    for key in evidence.keys:
        points = evidence.points[key]
        assert len(points) == (1 + 1 + 2 + 2) * 2
        assert all(abs(point.delta_ce) < 2 for point in points)
        assert [record.name for record in evidence.records[key]] == ["pca", "kmeans"]
        assert {record.identity.suite for record in evidence.records[key]} == {f"tiny-{key}"}
    assert evidence.epsilons == [0.02, 0.2]
    floors = {evidence.records[key][1].floor.delta_ce for key in evidence.keys}
    assert len(floors) == 2  # each network is the classifier of its own suite
    assert (folder / "results" / "scored" / evidence.keys[1] / "suite.yaml").is_file()


def test_what_is_written(world, tmp_path):
    _, evidence = world
    written = mechanism.write_evidence(tmp_path, evidence)
    names = {path.name for path in written}
    assert {"rate-distortion.png", "table.csv", "report.md"} <= names
    text = (tmp_path / "report.md").read_text()
    found = claims.claims(evidence)
    assert [finding.claim[:3] for finding in found] == [f"M{i}:" for i in range(1, 6)]
    assert all(finding.claim in text and finding.evidence in text for finding in found)
    assert set(report.table(evidence)["network"]) == set(evidence.keys)


def made_up(evidence: Evidence, bits: dict[str, float], spread: float = 0.0) -> Evidence:
    """One point within every ε for each kind, its bits a little more for every next network.

    Those of eigenvectors are `spread` larger for the second network.
    """
    points = {
        key: [
            Point(
                kind,
                1,
                1.0,
                b * (1 + i / 50) * (1 + i * spread * (kind == EIGENVECTORS)),
                0.01,
                0.9,
            )
            for kind, b in bits.items()
        ]
        + [Point(WEIGHTS, 1, 1.0, 1.0, 9.0, 0.1)]
        for i, key in enumerate(evidence.keys)
    }
    return replace(evidence, points=points)


BITS = {WEIGHTS: 8000.0, SVD: 1000.0, EIGENVECTORS: 2000.0, BASIS: 500.0}


def test_the_shortest_within_a_loss_is_taken(world):
    evidence = made_up(world[1], BITS)
    key = evidence.keys[0]
    assert evidence.shortest(key, WEIGHTS, 0.02).bits == 8000.0
    assert evidence.shortest(key, WEIGHTS, 9.5).bits == 1.0
    assert evidence.shortest(key, WEIGHTS, 0.001) is None
    assert evidence.log_ratio(EIGENVECTORS, WEIGHTS, 0.02).value == pytest.approx(-2)
    assert evidence.log_ratio(EIGENVECTORS, WEIGHTS, 0.001) is None
    assert evidence.shortest_kinds == {0.02: BASIS, 0.2: BASIS}


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, [True, False, True]),
        ({EIGENVECTORS: 900.0}, [True, True, True]),
        ({EIGENVECTORS: 9000.0, BASIS: 1500.0}, [False, False, False]),
    ],
)
def test_the_numbers_decide(changes, verdicts, world):
    evidence = made_up(world[1], BITS | changes)
    assert [finding.holds for finding in claims.claims(evidence)[:3]] == verdicts


def test_what_seeds_do_not_tell_apart_is_not_decided(world):
    evidence = made_up(world[1], BITS | {EIGENVECTORS: 900.0}, spread=0.2)
    assert [finding.holds for finding in claims.claims(evidence)[:2]] == [True, None]


def test_messages_are_set_against_the_shortest_latents(world):
    evidence = made_up(world[1], BITS)
    epsilon = 0.2
    rates = []
    for key in evidence.keys:
        met = [r.result("delta_ce", epsilon) for r in evidence.records[key]]
        shortest = min(result.bits for result in met if result.feasible)
        assert evidence.latents(key, epsilon).bits == shortest
        rates.append(shortest)
    expected = np.mean([500.0 / rates[0], 510.0 / rates[1]])
    assert evidence.paid_back(BASIS, epsilon).value == pytest.approx(expected)
    models = [evidence.latents(key, epsilon).model for key in evidence.keys]
    record = evidence.records[evidence.keys[0]][0]
    if evidence.latents(evidence.keys[0], epsilon).name == record.name:
        assert models[0] == record.coder.decoder_bits + record.coder.codebook_bits
    ratio = evidence.log_beyond_decoder(BASIS, epsilon).value
    assert ratio == pytest.approx(np.mean(np.log2([500.0 / models[0], 510.0 / models[1]])))
    assert claims.paid_back(replace(evidence, n_test=1)).holds is False
    assert claims.paid_back(made_up(evidence, {WEIGHTS: 1.0})).holds is not False
