import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mdlbench.codes.stream.channel import Reader, Writer, within
from mdlbench.codes.stream.counts import Binomial, Hypergeometric, code_counts
from mdlbench.codes.stream.magnitudes import code_integers
from mdlbench.codes.stream.support import code_support


def integers(*values):
    return np.array(values, dtype=np.int64)


def bits(writer):
    return 8 * len(writer.payload())


def binomial(n, p):
    return Binomial(np.full(len(p), n), np.array(p))


def written_counts(family, members, counts):
    """The stream that says these counts, after it has been read back."""
    writer = Writer()
    assert code_counts(writer, family, members, counts).tolist() == counts.tolist()
    read = code_counts(Reader(writer.payload()), family, members, 0 * counts)
    assert read.tolist() == counts.tolist()
    return writer


def places_of(firing):
    """latent·N + token of a boolean [latent, token] matrix."""
    return np.flatnonzero(firing.ravel()).astype(np.int64)


def written_support(firing):
    counts, places = firing.sum(axis=1).astype(np.int64), places_of(firing)
    writer = Writer()
    tokens = np.full(len(firing), firing.shape[1])
    assert code_support(writer, tokens, counts, places).tolist() == places.tolist()
    nothing = np.zeros(0, dtype=np.int64)
    read = code_support(Reader(writer.payload()), tokens, counts, nothing)
    assert read.tolist() == places.tolist()
    return writer


def test_within_numbers_the_items_of_each_run():
    assert within(integers(2, 0, 3)).tolist() == [0, 1, 0, 1, 2]
    assert within(integers()).tolist() == []


@settings(max_examples=40)
@given(
    n=st.integers(1, 300),
    p=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_counts_of_any_size_come_back(n, p, seed):
    rng = np.random.default_rng(seed)
    members = rng.integers(1, 4, len(p))
    counts = rng.integers(0, n, members.sum(), endpoint=True)
    written_counts(binomial(n, p), members, counts)


@pytest.mark.parametrize(
    ("n", "p", "k"),
    [
        (10_000, 0.001, 10),
        (10_000, 0.001, 60),
        (10_000, 0.001, 400),
        (10_000, 0.5, 5000),
        (10_000, 0.5, 3000),
        (10_000, 0.9, 10_000),
        (10_000, 0.02, 0),
        (10_000, 1e-6, 3),
        (1_000_000, 0.3, 301_000),
        (16, 0.4, 16),
    ],
)
def test_a_count_costs_its_binomial_probability_however_unlikely(n, p, k):
    copies = 40
    writer = written_counts(binomial(n, [p]), integers(copies), np.full(copies, k))
    expected = -stats.binom.logpmf(k, n, p) / math.log(2)
    assert bits(writer) == pytest.approx(copies * expected, rel=0.003, abs=64)


def test_common_counts_cost_their_binomial_entropy():
    n, p = 10_000, np.array([0.003, 0.04, 0.5, 0.97])
    members = np.full(4, 3000)
    counts = np.random.default_rng(0).binomial(n, np.repeat(p, 3000))
    writer = written_counts(binomial(n, p), members, counts)
    expected = -stats.binom.logpmf(counts, n, np.repeat(p, 3000)).sum() / math.log(2)
    assert bits(writer) == pytest.approx(expected, abs=64, rel=1e-4)


@pytest.mark.parametrize(("n", "c", "x"), [(1000, 60, 30), (1000, 60, 3), (1000, 900, 400)])
def test_a_split_costs_its_hypergeometric_probability(n, c, x):
    copies = 40
    family = Hypergeometric(integers(n), integers(c))
    writer = written_counts(family, integers(copies), np.full(copies, x))
    expected = -stats.hypergeom.logpmf(x, n, c, (n + 1) // 2) / math.log(2)
    assert bits(writer) == pytest.approx(copies * expected, rel=0.003, abs=64)


def test_no_tokens_leave_nothing_to_count():
    assert bits(written_counts(binomial(0, [0.3]), integers(5), integers(*[0] * 5))) <= 64


@given(
    n_latents=st.integers(0, 5),
    n_tokens=st.integers(0, 70),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_supports_of_any_density_come_back(n_latents, n_tokens, density, seed):
    written_support(np.random.default_rng(seed).random((n_latents, n_tokens)) < density)


@pytest.mark.parametrize("arrangement", ["random", "burst", "periodic"])
@pytest.mark.parametrize("n_tokens", [1000, 1024, 10_000])
def test_positions_cost_the_logarithm_of_the_number_of_subsets(arrangement, n_tokens):
    """−log₂ 1/C(N, k), wherever the k firings are."""
    rng = np.random.default_rng(0)
    firing = np.zeros((20, n_tokens), dtype=bool)
    for latent, k in enumerate(np.geomspace(1, 0.9 * n_tokens, 20).astype(int)):
        firing[latent, : k if arrangement == "burst" else n_tokens] = arrangement == "burst"
        if arrangement == "random":
            firing[latent] = rng.permutation(n_tokens) < k
        if arrangement == "periodic":
            firing[latent] = np.arange(n_tokens) % max(n_tokens // k, 2) == 0
    expected = sum(math.log2(math.comb(n_tokens, k)) for k in firing.sum(axis=1).tolist())
    tolerance = 0.001 if arrangement == "random" else 0.03
    assert bits(written_support(firing)) == pytest.approx(expected, rel=tolerance, abs=64)


def test_a_latent_that_is_always_or_never_on_costs_nothing():
    firing = np.zeros((3, 5000), dtype=bool)
    firing[1] = True
    assert bits(written_support(firing)) <= 32


@pytest.mark.parametrize("signed", [False, True])
@given(magnitudes=st.lists(st.integers(1, 2**31 - 1), max_size=30), seed=st.integers(0, 99))
def test_integers_come_back_at_their_exp_golomb_length(signed, magnitudes, seed):
    flips = np.random.default_rng(seed).random(len(magnitudes)) < 0.5
    values = integers(*magnitudes) * (np.where(flips, -1, 1) if signed else 1)
    writer = Writer()
    assert code_integers(writer, values, signed).tolist() == values.tolist()
    assert code_integers(Reader(writer.payload()), 0 * values, signed).tolist() == values.tolist()
    expected = sum(2 * (m.bit_length() - 1) + 1 + signed for m in magnitudes)
    assert abs(bits(writer) - expected) <= 64
