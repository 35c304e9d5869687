"""The numbers of maths §9 that concern codes, through the package's own codes."""

from __future__ import annotations

import math
from math import log2

import numpy as np
import pytest

from mdlbench.codes import closed_forms, codelength
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.symbols import dequantise, quantise
from mdlbench.codes.tally import SymbolCounts
from mdlbench.sources.images import load_images
from mdlbench.suite.load import suites_folder
from tests.references import entropy, sparse

N = 10**6


def latents_of(*distributions: dict[int, float], n_tokens: int = N) -> SymbolCounts:
    """Counts of latents that show each symbol with the given probability, N times it exactly."""
    triples = []
    for latent, distribution in enumerate(distributions):
        for symbol, probability in sorted(distribution.items()):
            count = round(probability * n_tokens)
            assert count == pytest.approx(probability * n_tokens, abs=1e-6)
            if count:
                triples.append((latent, symbol, count))
    latent, symbol, count = np.array(triples).T
    return SymbolCounts(
        latent.astype(np.int32),
        symbol.astype(np.int32),
        count.astype(np.int64),
        n_tokens,
        len(distributions),
    )


def plugin(*distributions: dict[int, float], n_tokens: int = N) -> float:
    return codelength.plugin(latents_of(*distributions, n_tokens=n_tokens)).total


# GPT-2 layer 8


def test_gpt2_illustration() -> None:
    """One-hot as printed is a product, 7·128·log₂ V; the paper's own bound is 7 + 128·log₂ V."""
    found = closed_forms.gpt2_illustration()
    assert found == pytest.approx(
        (1404.63, 949.63, 651.83, 647.49, 5376, 13992.87, 2005.98), abs=0.005
    )


def test_gpt2_support_code() -> None:
    firing = {1: 65 / 25000}
    exact = closed_forms.gpt2_illustration().firing_rates
    assert plugin(*[firing] * 25000, n_tokens=5000) == pytest.approx(exact, rel=1e-12)


def test_gpt2_enumerative_code_of_a_topk_sae() -> None:
    histogram = np.zeros(66, dtype=np.int64)
    histogram[65] = 5000
    counts = latents_of(*[{1: 65 / 25000}] * 25000, n_tokens=5000)
    length = 2 * 6 + 1
    found = codelength.enumerative(counts, histogram, magnitude_bits=0.0)
    assert found == pytest.approx(647.49 + length, abs=0.005)


# feature splitting


@pytest.mark.parametrize(
    ("p", "rho", "two", "three", "joint"),
    [
        (0.1, 0.0, 0.937991, 0.953733, 0.937991),
        (0.1, 0.25, 0.937991, 0.919827, 0.905850),
        (0.2, 0.25, 1.443856, 1.460901, 1.403990),
        (0.5, 0.6, 2.0, 1.908942, 1.721928),
    ],
)
def test_feature_splitting(p: float, rho: float, two: float, three: float, joint: float) -> None:
    rate = np.array([p])
    overlap = closed_forms.overlap(rate, rate, np.array([rho]))
    exact = closed_forms.splitting(rate, rate, overlap)
    assert np.concatenate(exact) == pytest.approx([two, three, joint], abs=5e-7)
    q = float(overlap[0])
    assert plugin({1: p}, {1: p}) == pytest.approx(exact.two[0], rel=1e-12)
    assert plugin({1: q}, {1: p - q}, {1: p - q}) == pytest.approx(exact.three[0], rel=1e-12)
    assert plugin({1: q, 2: p - q, 3: p - q}) == pytest.approx(exact.joint[0], rel=1e-12)


def test_break_even_correlation_of_splitting() -> None:
    p = np.array([0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
    rho = [0.00172, 0.01715, 0.08432, 0.16263, 0.29453, 0.39559, 0.47298, 0.53315]
    assert closed_forms.break_even_correlation(p, p) == pytest.approx(rho, abs=5e-6)


def test_sparse_features_split_at_a_lift_of_e() -> None:
    p = np.array([1e-2, 1e-3, 1e-4])
    lift = closed_forms.break_even_lift(p, p)
    assert lift[-1] == pytest.approx(math.e, rel=1e-4)
    assert (np.diff(np.abs(lift - math.e)) < 0).all()


# hierarchy


@pytest.mark.parametrize(
    ("p_a", "b_given_a", "flat", "tree"),
    [(0.1, 0.5, 0.572794, 0.568996), (0.3, 0.5, 1.219681, 1.181291), (0.5, 0.5, 1.622556, 1.5)],
)
def test_hierarchy(p_a: float, b_given_a: float, flat: float, tree: float) -> None:
    """Bird within Animal. The tree's length is the joint entropy: H₂(p_A) + p_A·H₂(p_B/p_A)."""
    p_b = p_a * b_given_a
    exact = closed_forms.nested(np.array([[p_a], [p_b]]))
    assert np.concatenate(exact) == pytest.approx([flat, tree, tree], abs=5e-7)
    assert plugin({1: p_b}, {1: p_a - p_b}) == pytest.approx(exact.flat[0], rel=1e-12)
    joint = codelength.plugin(latents_of({1: p_b, 2: p_a - p_b}))
    assert joint.total == pytest.approx(exact.tree[0], rel=1e-12)


# fixed firing rates, compositional data


@pytest.mark.parametrize(
    ("n_latents", "l0", "uniform", "zipf_07", "zipf_1"),
    [(1024, 16, 118.90, 103.59, 80.56), (25000, 65, 651.83, 568.79, 420.90)],
)
def test_fixed_firing_rates(
    n_latents: int, l0: int, uniform: float, zipf_07: float, zipf_1: float
) -> None:
    """Uniform rates are the worst index code at a given L0."""
    bits = [
        closed_forms.fixed_rates_bits(closed_forms.zipf_rates(n_latents, l0, alpha))
        for alpha in (0, 0.7, 1)
    ]
    assert bits == pytest.approx([uniform, zipf_07, zipf_1], abs=0.005)
    assert bits == sorted(bits, reverse=True)


def test_compositional_data() -> None:
    """2 colours × 2 shapes: the shorter code is not the factored one."""
    exact = closed_forms.compositional([2, 2])
    assert exact == pytest.approx((3.2451, 4.0, 2.0), abs=5e-5)
    assert plugin(*[{1: 0.25}] * 4) == pytest.approx(exact.composed, rel=1e-12)
    assert plugin(*[{1: 0.5}] * 4) == pytest.approx(exact.factored, rel=1e-12)


# quantisation


@pytest.mark.parametrize("ratio", [8.0, 16.0, 32.0])
def test_high_rate_gaussian(ratio: float) -> None:
    """H ≈ 2.0471 + log₂(σ/Δ) and MSE ≈ Δ²/12."""
    sigma, step = 1.5, 1.5 / ratio
    z = np.random.default_rng(0).normal(0, sigma, (10**6, 1)).astype(np.float32)
    symbols = quantise(sparse(z), step)
    bits = codelength.plugin(SymbolCounts.of(symbols)).total
    exact = closed_forms.fine_gaussian_bits(ratio)
    assert exact == pytest.approx(2.0471 + log2(ratio), abs=5e-5)
    assert bits == pytest.approx(exact, abs=0.003)
    decoded = dequantise(symbols, step).to_dense()
    assert np.mean((decoded - z) ** 2, dtype=np.float64) == pytest.approx(step**2 / 12, rel=0.005)


@pytest.mark.parametrize("s", [0.125, 1024.0])
def test_rescaling_changes_no_rate_under_the_normalised_quantiser(s: float) -> None:
    rng = np.random.default_rng(1)
    z = (rng.gamma(2.0, 1.0, (500, 20)) * (rng.random((500, 20)) < 0.2)).astype(np.float32)
    norms = rng.lognormal(0, 1, 20).astype(np.float32)
    rates = []
    for latents, scale in ((sparse(z), norms), (sparse(z * np.float32(s)), norms / np.float32(s))):
        counts = SymbolCounts.of(quantise(latents.scaled(scale), 0.25))
        codebook = Codebook.fit(counts)
        rates.append(
            (codelength.plugin(counts), codebook.bits(counts), codelength.adaptive(counts))
        )
    assert rates[0] == rates[1]


def test_plugin_equals_the_direct_joint_entropy_of_wide_random_data() -> None:
    rng = np.random.default_rng(2)
    z = (rng.gamma(2.0, 3.0, (2000, 50)) * (rng.random((2000, 50)) < 0.1)).astype(np.float32)
    symbols = quantise(sparse(z), 0.5)
    dense = np.zeros(z.shape, dtype=np.int64)
    dense[symbols.token, symbols.latent] = symbols.symbol
    direct = sum(entropy(column) for column in dense.T)
    assert codelength.plugin(SymbolCounts.of(symbols)).total == pytest.approx(direct, rel=1e-12)


# MNIST


def test_mnist_statistics() -> None:
    folder = suites_folder() / "mnist" / "data"
    images, _ = load_images(folder / "images.npy.xz", folder / "labels.npy.xz")
    assert images.shape == (70_000, 28, 28)
    train = images[:60_000].reshape(60_000, -1)
    levels = np.arange(256) / 255
    share = np.bincount(train.ravel(), minlength=256) / train.size
    mean = float(share @ levels)
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert math.sqrt(share @ (levels - mean) ** 2) == pytest.approx(0.3081, abs=5e-5)
    pixel_means = train.mean(axis=0, dtype=np.float64) / 255
    variance = 784 * float(share @ levels**2) - float((pixel_means**2).sum())
    assert variance == pytest.approx(52.7, abs=0.05)
    assert 0.0150 * 784 / variance == pytest.approx(0.223, abs=5e-4)
