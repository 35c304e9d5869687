"""The experiment on bilinear classifiers: tiny networks through all of it, verdicts by numbers."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import stats

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.network import NETWORK_FILE, load_network
from mdlbench.bilinear.spectrum import output_spectrum
from mdlbench.errors import UsageError
from mdlbench.papers import bilinear
from mdlbench.papers.bilinear import claims, report
from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.bilinear.known_task import NEITHER, known_task, measure_known
from mdlbench.papers.bilinear.masks import STRENGTHS, class_masks
from mdlbench.papers.bilinear.measure import grouping, roughness, similarity
from mdlbench.papers.bilinear.plan import Plan
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.task import Task, image_task
from tests.tiny import tiny_suite

ZOO = [
    BilinearConfig(12, epochs=1, batch_size=200, weight_decay=decay, noise=noise, seed=seed)
    for decay, noise, seed in product((0.0, 1.0), (0.0, 0.2), (0, 1))
]
PLAN = Plan(
    epochs=1,
    long_epochs=2,
    batch_size=200,
    widths=(12, 14),
    width_seeds=3,
    accurate_width=30,
    noise_width=13,
    noises=(0.0, 0.3),
    seeds=2,
    known_seeds=2,
    known_epochs=2,
    zoo={config.key: config for config in ZOO},
)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return image_task(tiny_suite(tmp_path_factory.mktemp("suite") / "tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def evidence(folder, task):
    return bilinear.gather(folder, task, PLAN, lambda stage: None)


def network(folder, config):
    return load_network(folder / "networks" / config.key / NETWORK_FILE)


def test_every_network_is_trained_once_and_measured(evidence, folder, task):
    assert len(evidence.measured) == 6 + 2 + 4 + 2 + 8
    trained = {path.name for path in (folder / "networks").iterdir()}
    assert trained == {*evidence.measured, "known-s0", "known-s1"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    stages = []
    bilinear.gather(folder, task, PLAN, stages.append)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert stages[0] == "22 networks"
    assert stages[-1] == "a task whose answer is known"


def test_what_is_written(evidence, tmp_path):
    written = bilinear.write_evidence(tmp_path, evidence)
    names = {path.name for path in written}
    assert {"eigenvectors.png", "masks.png", "groups.pdf", "table.csv", "report.md"} <= names
    text = (tmp_path / "report.md").read_text()
    claimed = claims.claims(evidence)
    assert all(finding.claim in text and finding.evidence in text for finding in claimed)
    assert [finding.claim[:3] for finding in claimed] == [f"V{i}:" for i in range(1, 9)]
    assert len(report.table(evidence)) == 22


def test_measurements_against_the_network_itself(evidence, folder, task):
    config = PLAN.of_widths[12][1]
    model, found = network(folder, config), evidence.measured[config.key]
    named = model(task.test_x).argmax(dim=1)
    assert found.accuracy == pytest.approx(float((named == task.test_y).double().mean()))
    assert found.kept[30] == pytest.approx(found.accuracy, abs=0.005)
    embed, layer = model.embed.weight.double(), model.layers[0]
    form = layer.w.weight.double().T @ torch.diag(model.head.weight[3].double())
    q = (embed.T @ form @ layer.v.weight.double() @ embed).detach().numpy()
    values, vectors = np.linalg.eigh((q + q.T) / 2)
    assert found.effective_rank[3] == pytest.approx(
        np.abs(values).sum() ** 2 / np.square(values).sum()
    )
    assert abs(found.top[3] @ vectors[:, -1]) == pytest.approx(1)
    one = (np.square(task.test_x.double().numpy() @ vectors[:, [-1]]) * values[-1]).ravel()
    strongest = output_spectrum(model.quadratic(), np.eye(10)[3]).strongest(1)
    if strongest.values[0] > 0:
        assert np.allclose(strongest.output(task.test_x.double().numpy()), one)


def test_masks_are_added_to_every_image(evidence, folder, task):
    config = PLAN.accurate[0]
    model, found = network(folder, config), evidence.masked[config.key]
    x = task.test_x + STRENGTHS[3] * torch.from_numpy(found.masks[2]).float()
    named = model(x).argmax(dim=1)
    right = float((named == task.test_y).double().mean())
    assert found.accuracy[2, 3] == pytest.approx(right, abs=0.006)
    towards = float((named[task.test_y != 2] == 2).double().mean())
    assert found.towards[2, 3] == pytest.approx(towards, abs=0.006)
    tops = evidence.measured[config.key].top
    excited = np.abs(class_masks(model) @ tops.T)
    assert np.abs(excited - np.diag(np.diag(excited))).max() < 1e-8
    assert np.diag(excited).min() > 1e-5


def test_similarity_is_the_mean_cosine_of_the_classes(evidence):
    networks = evidence.of(PLAN.of_widths[14])
    found = similarity(networks)
    assert np.allclose(np.diag(found), 1)
    expected = np.mean([abs(networks[0].top[k] @ networks[2].top[k]) for k in range(10)])
    assert found[0, 2] == pytest.approx(expected)


def test_intervals_against_scipy_and_a_jackknife_written_out():
    values = [0.2, 0.5, 0.9]
    found = SeedMean.of(values)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert np.isnan(SeedMean.of([0.4]).low)
    pairs = np.random.default_rng(0).random((4, 4))
    pairs = (pairs + pairs.T) / 2

    def mean(seeds):
        return np.mean([pairs[i, j] for i, j in combinations(seeds, 2)])

    left = [mean([j for j in range(4) if j != i]) for i in range(4)]
    error = np.sqrt(3 / 4 * np.square(np.array(left) - np.mean(left)).sum())
    found = SeedMean.of_pairs(pairs)
    assert found.value == pytest.approx(mean(range(4)))
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 3) * error)
    assert SeedMean(0.9, 0.7, 1.1).within(0, 1) == SeedMean(0.9, 0.7, 1.0)
    assert SeedMean(0.3, 0.1, 0.5).sign == 1
    assert SeedMean(-0.3, -0.5, -0.1).sign == -1
    assert SeedMean(0.3, -0.1, 0.7).sign == 0
    assert SeedMean(0.3, float("nan"), float("nan")).sign == 0
    assert SeedMean(0.31, 0.1, 0.5).text(".1f", 100) == "31.0 [10.0, 50.0]"


def test_roughness_of_known_images():
    board = np.indices((6, 6)).sum(axis=0) % 2 * 2.0 - 1
    assert roughness(board) == pytest.approx(2 * 30 * 4 / 36)
    assert roughness(np.ones((5, 5))) == 0
    noise = np.random.default_rng(0).standard_normal((300, 300))
    assert roughness(noise) == pytest.approx(4, rel=0.03)


def test_groups_of_a_layer_that_divides_classes_are_found():
    """Classes 0 and 2 rise with x₀², 1 and 3 fall; the images are so."""
    generator = np.random.default_rng(0)
    y = generator.integers(4, size=400)
    x = generator.standard_normal((400, 3)) * 0.1
    x[:, 0] += np.where(y % 2 == 0, 2.0, 0.0)
    p = np.array([[1.0, 0.01], [-1.0, 0.01], [1.0, 0.0], [-1.0, 0.0]])
    layer = BilinearLayer(np.eye(3)[:2], np.eye(3)[:2], p)
    tokens, classes = torch.from_numpy(x).float(), torch.from_numpy(y)
    found = grouping(layer, Task(tokens, classes, tokens, classes, 4))
    assert sorted(found.groups) == [[0, 2], [1, 3]]
    assert found.share > 0.99  # thresholds are half a percent apart


def test_the_known_task_is_as_said():
    task, targets = known_task(3)
    x = task.test_x.double().numpy()
    cosines = (x @ targets.T) / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(x, axis=1), 8)
    y = task.test_y.numpy()
    assert ((cosines.max(axis=1) > 0.4) == (y != NEITHER)).mean() > 0.999
    near = y != NEITHER
    assert (cosines.argmax(axis=1)[near] == y[near]).all()
    assert 0.3 < near.mean() < 0.5


def test_the_top_eigenvector_of_the_known_task_is_one_that_raises():
    task, targets = known_task(3)
    across = np.linalg.svd(targets)[2][2]
    rows = np.stack([*targets, across])
    layer = BilinearLayer(rows, rows, np.diag([1.0, 1.0, 2.0]))
    found = measure_known(layer, task, targets)
    for k, one in enumerate(found):
        assert (one.share, one.stronger) == (pytest.approx(1 / 5), 1)
        assert one.cosine == pytest.approx(1)
        assert one.never == pytest.approx((task.test_y != k).double().mean().item())
        assert one.alone > one.accuracy > one.never


def changed(evidence, **numbers):
    """The same evidence with numbers of networks made up, each from the network's config."""
    made = {
        key: replace(one, **{name: number(one.config) for name, number in numbers.items()})
        for key, one in evidence.measured.items()
    }
    return replace(evidence, measured=made)


@pytest.mark.parametrize(
    ("claim", "numbers", "holds"),
    [
        ("accurate", {"accuracy": lambda c: 0.971}, True),
        ("accurate", {"accuracy": lambda c: 0.969}, False),
        ("accurate", {"accuracy": lambda c: 0.972 + c.seed / 100}, None),
        ("truncated", {"accuracy": lambda c: 0.95, "kept": lambda c: {10: 0.9495}}, True),
        ("truncated", {"accuracy": lambda c: 0.95, "kept": lambda c: {10: 0.948}}, False),
        (
            "ranked",
            {"effective_rank": lambda c: (9 - c.weight_decay + 2 * c.noise + c.seed / 100,)},
            True,
        ),
        (
            "truncated",
            {"accuracy": lambda c: 0.95, "kept": lambda c: {10: 0.949 + (c.seed - 1) / 100}},
            None,
        ),
        (
            "ranked",
            {"effective_rank": lambda c: (9 + c.weight_decay + 2 * c.noise + c.seed / 100,)},
            False,
        ),
        (
            "noisy",
            {"accuracy": lambda c: 1 - c.noise, "roughness": lambda c: 2 - c.noise},
            True,
        ),
        (
            "noisy",
            {"accuracy": lambda c: 1 - c.noise, "roughness": lambda c: 2 + c.noise},
            False,
        ),
        (
            "noisy",
            {
                "accuracy": lambda c: 1 - c.noise * (c.seed + 0.1),
                "roughness": lambda c: 2 - c.noise,
            },
            None,
        ),
        (
            "noisy",
            {"accuracy": lambda c: c.seed - c.noise, "roughness": lambda c: c.seed - c.noise},
            True,
        ),
    ],
)
def test_the_numbers_decide(claim, numbers, holds, evidence):
    finding = getattr(claims, claim)(changed(evidence, **numbers))
    assert finding.holds is holds


def test_the_rank_changes_by_what_it_is_said_to(evidence):
    made = changed(evidence, effective_rank=lambda c: (9 - 3 * c.weight_decay + c.seed, 9.0))
    found = made.rank_change(12, "weight_decay")
    assert found.value == pytest.approx(-1.5)
    assert made.rank(12, 1.0, 0.2).value == pytest.approx((9 - 3 + 0.5 + 9) / 2)


def test_masks_decide_at_every_strength(evidence):
    n = len(STRENGTHS)
    worse = {
        key: replace(one, accuracy=np.full((10, n), 0.4), permuted=np.full((10, n), 0.8))
        for key, one in evidence.masked.items()
    }
    finding = claims.masked(replace(evidence, masked=worse))
    assert finding.holds
    said = (
        "40.0% under a mask of norm 6 against 80.0% under its permuted pixels, apart at every norm"
    )
    assert f"With noise (0.15 in training) {said}" in finding.evidence
    towards = np.mean([evidence.masked[c.key].towards[:, -1].mean() for c in PLAN.accurate])
    assert f"{towards:.1%} of other classes' images become" in finding.evidence
    one = dict(worse)
    key = PLAN.noiseless[0].key
    one[key] = replace(one[key], accuracy=np.full((10, n), 0.9))
    undecided = claims.masked(replace(evidence, masked=one))
    assert undecided.holds is None
    assert f"not apart at {', '.join(f'{strength:g}' for strength in STRENGTHS)};" in (
        undecided.evidence
    )
    both = worse | {c.key: one[key] for c in PLAN.noiseless}
    contradicted = claims.masked(replace(evidence, masked=both))
    assert contradicted.holds is False
    assert "the other way round at 0.5, 1, 2, 3, 4, 6;" in contradicted.evidence


@pytest.mark.parametrize(
    ("shares", "holds"), [((0.955, 0.956), True), ((0.7, 0.71), False), ((0.7, 1.0), None)]
)
def test_groups_are_separated_beyond_chance_or_it_is_not_said(shares, holds, evidence):
    made = {
        config.key: replace(
            evidence.measured[config.key],
            grouping=replace(evidence.measured[config.key].grouping, share=share),
        )
        for config, share in zip(PLAN.accurate, shares, strict=True)
    }
    finding = claims.grouped(replace(evidence, measured=evidence.measured | made))
    assert finding.holds is holds


def test_the_known_task_is_solved_beyond_chance_or_it_is_not_said(evidence):
    def told(*shares):
        known = [
            [replace(one, accuracy=1.0, alone=share) for one in both]
            for both, share in zip(evidence.known, shares, strict=True)
        ]
        return claims.known(replace(evidence, known=known)).holds

    assert [told(0.97, 0.971), told(0.9, 0.901), told(0.9, 1.0)] == [True, False, None]


def test_the_report_names_every_recipe(evidence):
    rows = report._recipes(evidence)
    assert list(rows["Seeds"]) == [2, 3, 2, 2, 2, 2]
    assert list(rows["h"]) == ["30", "12, 14", "12", "13", "64", "30"]
    assert list(rows["Noise"]) == ["0.15", "0.4", "0, 0.2", "0, 0.3", "0.1", "0"]
    assert list(rows["Epochs"]) == ["2", "1", "1", "1", "2", "1"]


def test_two_networks_of_one_name_are_refused():
    zoo = {config.key: replace(config, epochs=7) for config in PLAN.of_widths[12]}
    with pytest.raises(UsageError, match=r"two different networks are called h12-wd1-n0\.4-s0"):
        replace(PLAN, zoo=zoo).networks()


def test_the_plan_has_the_recipes_networks():
    plan = Plan()
    networks = plan.networks()
    assert plan.zoo.items() <= networks.items()
    assert {config.hidden for config in networks.values()} == {30, 50, 100, 300, 500, 1000}
    assert len(networks) == 30 + 3 + 36 + 9
