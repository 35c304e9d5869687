"""Every code against a slow, dense, float64 version of its definition (maths §3)."""

from __future__ import annotations

import math
from math import lgamma, log, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brute

from mdlbench.codes import codelength
from mdlbench.codes.codelength import Codebook, Rate
from mdlbench.codes.symbols import quantise
from mdlbench.codes.tally import SymbolCounts, Tally
from mdlbench.errors import CoderError
from tests.references import (
    dense_latents,
    entropy,
    exp_golomb,
    histogram,
    quantised,
    sparse,
    subset_bits,
)

STEP = 1.0
SEEDS = st.integers(0, 2**32 - 1)


def counted(z: np.ndarray, step: float = STEP) -> SymbolCounts:
    return SymbolCounts.of(quantise(sparse(z), step))


def zipf_latents(seed: int, n_tokens: int, n_latents: int, signed: bool = False) -> np.ndarray:
    """Firing rates over three decades, gamma magnitudes of differing scale, some latents dead.

    The dictionary is the same for all seeds; the tokens differ.
    """
    rng = np.random.default_rng(99)
    rate = 0.6 * np.arange(1, n_latents + 1) ** -0.8
    rate[:: max(n_latents // 7, 2)] = 0.0
    scale = rng.lognormal(0.5, 0.4, n_latents)
    rng = np.random.default_rng(seed)
    z = rng.gamma(2.0, scale, (n_tokens, n_latents)) * (rng.random((n_tokens, n_latents)) < rate)
    z *= rng.choice([-1, 1], z.shape) if signed else 1
    return z.astype(np.float32)


def direct_heldout(codebook: Codebook, calibration: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Bits of each token, symbol by symbol from the definition, at fitted hyperparameters."""
    (a, b), s = codebook.prior, codebook.strength
    n_tokens = len(calibration)
    pool = histogram(calibration[calibration != 0])
    seen, once = sum(pool.values()), sum(count == 1 for count in pool.values())
    escape = (once + 1) / (seen + once + 1)
    signed = not pool or min(pool) < 0
    bits = np.zeros(len(test))
    for i in range(test.shape[1]):
        n = histogram(calibration[:, i])
        k = n_tokens - n[0]
        on = (k + a) / (n_tokens + a + b)
        for t, v in enumerate(test[:, i].tolist()):
            if v == 0:
                bits[t] -= log2(1 - on)
            elif v in pool:
                g = pool[v] / seen * (1 - escape)
                bits[t] -= log2(on) + log2((n[v] + s * g) / (k + s))
            else:
                bits[t] -= log2(on) + log2(s * escape / (k + s))
                bits[t] += exp_golomb(abs(v)) + signed
    return bits


# plugin


@given(dense_latents())
def test_plugin_is_the_joint_entropy_with_zero_as_a_symbol(z: np.ndarray) -> None:
    rate = codelength.plugin(counted(z))
    direct = sum(entropy(column) for column in quantised(z, STEP).T)
    assert rate.total == pytest.approx(direct, abs=1e-9)


@given(dense_latents())
def test_plugin_is_support_plus_magnitude(z: np.ndarray) -> None:
    """Zeros are not counted inside "given active": SAEBench's histogram has them."""
    support = magnitude = 0.0
    for column in quantised(z, STEP).T:
        on = column[column != 0]
        support += entropy((column != 0).astype(int))
        magnitude += len(on) / len(column) * entropy(on) if len(on) else 0.0
    rate = codelength.plugin(counted(z))
    assert rate.support == pytest.approx(support, abs=1e-9)
    assert rate.magnitude == pytest.approx(magnitude, abs=1e-9)
    assert rate.total == rate.support + rate.magnitude


@given(dense_latents(), SEEDS)
@settings(max_examples=40)
def test_codes_do_not_know_the_order_of_tokens_or_latents(z: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shuffled = z[rng.permutation(len(z))][:, rng.permutation(z.shape[1])]
    a, b = counted(z), counted(shuffled)
    assert codelength.plugin(a).total == pytest.approx(codelength.plugin(b).total, abs=1e-9)
    assert codelength.adaptive(a) == pytest.approx(codelength.adaptive(b), rel=1e-6)
    assert codelength.bound(a) == codelength.bound(b)
    books = Codebook.fit(a), Codebook.fit(b)
    assert books[0].bits(a).total == pytest.approx(books[1].bits(b).total, rel=1e-6)


def test_dropping_latents_lowers_the_rate() -> None:
    """k is in the rate: SAEBench's ignores a top-k truncation."""
    z = zipf_latents(0, 500, 30)
    kept = np.where(z >= np.sort(z, axis=1)[:, -2:-1], z, 0).astype(np.float32)
    assert codelength.plugin(counted(kept)).total < 0.9 * codelength.plugin(counted(z)).total


@given(dense_latents(), st.sampled_from([2.0**-7, 2.0**9]))
@settings(max_examples=40)
def test_rates_do_not_depend_on_the_scale_of_latents_and_step(z: np.ndarray, s: float) -> None:
    """Alphabets hold what was seen: SAEBench's ranges all reach 100, whatever the latents do."""
    a, b = counted(z), counted(z * np.float32(s), STEP * s)
    assert codelength.plugin(a) == codelength.plugin(b)
    assert codelength.adaptive(a) == codelength.adaptive(b)
    assert Codebook.fit(a).bits(a) == Codebook.fit(b).bits(b)


# the codebook


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("step", [0.25, 1.0, 4.0])
def test_heldout_bits_follow_the_definition(signed: bool, step: float) -> None:
    calibration = zipf_latents(1, 300, 12, signed)
    test = zipf_latents(2, 200, 12, signed)
    test[3, 4] = 1000.0
    codebook = Codebook.fit(counted(calibration, step))
    expected = direct_heldout(codebook, quantised(calibration, step), quantised(test, step))
    assert codebook.bits(counted(test, step)).total == pytest.approx(expected.mean(), rel=1e-10)
    found = codelength.document_bits(sparse(test), step, [codebook], np.arange(200), 200)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)


@given(dense_latents(), dense_latents())
def test_heldout_of_any_data_under_any_codebook(calibration: np.ndarray, test: np.ndarray) -> None:
    width = min(calibration.shape[1], test.shape[1])
    calibration, test = calibration[:, :width], test[:, :width]
    if (calibration >= 0).all():
        test = np.abs(test)
    codebook = Codebook.fit(counted(calibration))
    expected = direct_heldout(codebook, quantised(calibration, STEP), quantised(test, STEP))
    rate = codebook.bits(counted(test))
    assert math.isfinite(rate.total)
    assert rate.total == pytest.approx(expected.mean(), rel=1e-9, abs=1e-9)


@given(dense_latents())
def test_heldout_of_its_own_data_is_at_least_plugin(z: np.ndarray) -> None:
    counts = counted(z)
    own, floor = Codebook.fit(counts).bits(counts), codelength.plugin(counts)
    assert own.support >= floor.support - 1e-9
    assert own.magnitude >= floor.magnitude - 1e-9


@given(dense_latents())
def test_probabilities_are_proper_and_satisfy_kraft(z: np.ndarray) -> None:
    codebook = Codebook.fit(counted(z))
    assert ((codebook.firing_probability > 0) & (codebook.firing_probability < 1)).all()
    far = np.arange(1, 4000, dtype=np.int32)
    symbols = np.concatenate([-far, far]) if codebook.pooled.signed else far
    for latent in range(z.shape[1]):
        alphabet, q = codebook.magnitude_distribution(latent)
        assert len(q) == len(alphabet) + 1
        assert (q > 0).all()
        assert q.sum() == pytest.approx(1.0, abs=1e-12)
        index = np.full(len(symbols), latent, dtype=np.int32)
        assert (2.0 ** -codebook.magnitude_bits(index, symbols)).sum() <= 1 + 1e-9


@given(dense_latents())
def test_magnitude_distribution_prices_what_magnitude_bits_says(z: np.ndarray) -> None:
    codebook = Codebook.fit(counted(z))
    for latent in range(z.shape[1]):
        alphabet, q = codebook.magnitude_distribution(latent)
        index = np.full(len(alphabet), latent, dtype=np.int32)
        expected = -np.log2(q[:-1])
        np.testing.assert_allclose(
            codebook.magnitude_bits(index, alphabet), expected, rtol=1e-10, atol=1e-12
        )


def test_the_escape_is_good_turings() -> None:
    z = np.array([[1], [1], [2], [2], [2], [7], [0]], dtype=np.float32)
    pooled = Codebook.fit(counted(z)).pooled
    assert pooled.alphabet.tolist() == [1, 2, 7]
    assert pooled.escape == pytest.approx(2 / 8)
    np.testing.assert_allclose(pooled.probability, np.array([2, 3, 1]) / 6 * 6 / 8)
    assert not pooled.signed


def test_an_escaped_symbol_costs_the_escape_and_an_exp_golomb_tail() -> None:
    z = np.array([[1, 0], [1, 2], [2, 0]], dtype=np.float32)
    codebook = Codebook.fit(counted(z))
    latent, symbol = np.array([0], dtype=np.int32), np.array([100], dtype=np.int32)
    _, q = codebook.magnitude_distribution(0)
    assert codebook.magnitude_bits(latent, symbol)[0] == pytest.approx(-log2(q[-1]) + 2 * 6 + 1)


@pytest.mark.parametrize(
    ("x", "bits"), [(1, 1), (2, 3), (3, 3), (4, 5), (7, 5), (8, 7), (2**30, 61)]
)
def test_exp_golomb_lengths(x: int, bits: int) -> None:
    assert codelength.exp_golomb_bits(np.array([x])).tolist() == [bits]
    assert exp_golomb(x) == bits


def test_signs_cost_a_bit_only_where_there_are_signs() -> None:
    positive, signed = (
        Codebook.fit(counted(z.astype(np.float32)))
        for z in (np.array([[1.0], [2.0]]), np.array([[1.0], [-2.0]]))
    )
    far = np.array([50], dtype=np.int32)
    tails = [codebook.pooled.tail_bits(far)[0] for codebook in (positive, signed)]
    assert tails == [11, 12]


def test_negative_symbols_under_a_positive_codebook_are_refused() -> None:
    codebook = Codebook.fit(counted(np.array([[1.0], [2.0]], dtype=np.float32)))
    test = counted(np.array([[-1.0]], dtype=np.float32))
    with pytest.raises(CoderError, match="no calibration token had a negative latent"):
        codebook.bits(test)


def test_counts_of_another_dictionary_are_refused() -> None:
    codebook = Codebook.fit(counted(np.ones((3, 2), dtype=np.float32)))
    with pytest.raises(CoderError, match="2 latents cannot code 3"):
        codebook.bits(counted(np.ones((3, 3), dtype=np.float32)))


@pytest.mark.parametrize(
    "z",
    [
        np.zeros((50, 20)),
        np.full((50, 20), 3.0),
        np.array([[1.0]]),
        np.array([[0.0]]),
        np.zeros((5, 0)),
        np.eye(40) * 5,
    ],
    ids=["all dead", "always on", "one on", "one off", "no latents", "once each"],
)
def test_degenerate_calibration_still_codes_everything(z: np.ndarray) -> None:
    counts = counted(z.astype(np.float32))
    codebook = Codebook.fit(counts)
    rate = codebook.bits(counts)
    assert math.isfinite(rate.total)
    assert rate.total >= codelength.plugin(counts).total - 1e-9
    assert math.isfinite(codelength.adaptive(counts))
    surprise = counted(np.full_like(z, 9.0, dtype=np.float32))
    assert math.isfinite(codebook.bits(surprise).total)


def test_dead_latents_cost_next_to_nothing() -> None:
    """KT's a = b = ½ would cost 1,000 · log₂(1 + 1/(2N)) = 0.72 bits a token here."""
    live = np.where(np.arange(1000)[:, None] % np.array([3, 5, 7]) == 0, 1.0, 0.0)
    z = np.concatenate([live, np.zeros((1000, 1000))], axis=1).astype(np.float32)
    codebook = Codebook.fit(counted(z))
    assert codebook.off_latent_bits[3:].sum() < 0.03


def test_prior_is_the_maximum_of_the_marginal_likelihood() -> None:
    rng = np.random.default_rng(0)
    n_tokens = 1000
    active = rng.binomial(n_tokens, rng.beta(0.6, 40.0, 500))

    def nats(a: float, b: float) -> float:
        """Direct sum over all latents."""
        constant = lgamma(a + b) - lgamma(a) - lgamma(b) - lgamma(n_tokens + a + b)
        return sum(lgamma(k + a) + lgamma(n_tokens - k + b) + constant for k in active.tolist())

    prior = codelength.fit_beta_prior(active, n_tokens)
    best = nats(*prior)
    for a in (0.97, 1.03):
        for b in (0.97, 1.03):
            assert nats(prior.a * a, prior.b * b) < best
    grid = brute(
        lambda ab: -nats(*np.exp(ab)), ((-2, 1), (2, 5)), Ns=12, full_output=True, finish=None
    )
    assert best >= -grid[1]
    assert prior.a == pytest.approx(0.6, rel=0.2)
    assert prior.b == pytest.approx(40.0, rel=0.3)


def direct_magnitude_nats(symbols: np.ndarray, g: dict[int, float], s: float) -> float:
    """log Π_i Γ(s)/Γ(k_i+s) Π_v Γ(n_i(v)+s·g(v))/Γ(s·g(v)), latent by latent."""
    nats = 0.0
    for column in symbols.T:
        n = histogram(column[column != 0])
        nats += lgamma(s) - lgamma(sum(n.values()) + s)
        nats += sum(lgamma(count + s * g[v]) - lgamma(s * g[v]) for v, count in n.items())
    return nats


@pytest.mark.parametrize("signed", [False, True])
def test_magnitude_likelihood_and_its_maximum(signed: bool) -> None:
    z = zipf_latents(3, 400, 25, signed)
    counts = counted(z)
    alphabet, total, _ = counts.pooled
    pooled = total / total.sum()
    g = dict(zip(alphabet.tolist(), pooled.tolist(), strict=True))
    likelihood = codelength.MagnitudeLikelihood(counts, pooled)
    for s in (0.1, 3.0, 200.0):
        direct = direct_magnitude_nats(quantised(z, STEP), g, s)
        assert likelihood.nats(s) == pytest.approx(direct, rel=1e-11)
    best = likelihood.best_strength()
    for s in (0.9 * best, 1.1 * best):
        assert likelihood.nats(s) < likelihood.nats(best)


def test_fit_is_deterministic_and_rebuilt_from_its_hyperparameters() -> None:
    counts = counted(zipf_latents(4, 300, 20))
    one, two = Codebook.fit(counts), Codebook.fit(counts)
    rebuilt = Codebook.build(counts, one.prior, one.strength)
    for other in (two, rebuilt):
        assert (other.prior, other.strength) == (one.prior, one.strength)
        np.testing.assert_array_equal(other.firing_probability, one.firing_probability)
        np.testing.assert_array_equal(
            other.magnitude_distribution(0)[1], one.magnitude_distribution(0)[1]
        )


@pytest.mark.parametrize("cells", [1, 200, 2**23])
def test_prices_do_not_depend_on_the_size_of_the_table(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, test = counted(zipf_latents(5, 300, 20, True)), counted(zipf_latents(6, 300, 20, True))
    expected = Codebook.fit(counts).excess_bits(test.latent, test.symbol)
    monkeypatch.setattr(codelength, "TABLE_CELLS", cells)
    found = Codebook.fit(counts).excess_bits(test.latent, test.symbol)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_latents_add_up_to_the_rate() -> None:
    """Independent additivity (maths §1), and each latent alone by its own symbols."""
    calibration, test = counted(zipf_latents(7, 300, 20)), counted(zipf_latents(8, 300, 20))
    codebook = Codebook.fit(calibration)
    bits = codebook.latent_bits(test)
    assert bits.sum() == pytest.approx(codebook.bits(test).total, rel=1e-12)
    symbols = quantised(zipf_latents(8, 300, 20), STEP)[:, 3].astype(np.int32)
    excess = codebook.excess_bits(np.full(300, 3, dtype=np.int32), symbols)
    assert bits[3] == pytest.approx(codebook.off_latent_bits[3] + excess.mean(), rel=1e-12)


def test_heldout_is_scored_with_calibration_only() -> None:
    """SAEBench scores a histogram on the data it was fitted on; ours costs more than its own."""
    calibration, test = counted(zipf_latents(7, 300, 20)), counted(zipf_latents(8, 300, 20))
    assert Codebook.fit(calibration).bits(test).total > Codebook.fit(test).bits(test).total


# documents


@given(dense_latents(max_tokens=30), SEEDS)
@settings(max_examples=40)
def test_documents_add_up_to_the_rate_at_every_octave(z: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    document = np.sort(rng.integers(0, 5, len(z)))
    calibration = np.concatenate([z, z[rng.permutation(len(z))]])
    tally = Tally.count(sparse(calibration), 0.25, 4)
    codebooks = [Codebook.fit(tally.at(octave)) for octave in range(4)]
    bits = codelength.document_bits(sparse(z), 0.25, codebooks, document, 7)
    assert bits.shape == (7, 4)
    assert (bits[5:] == 0).all()
    test = Tally.count(sparse(z), 0.25, 4)
    for octave, codebook in enumerate(codebooks):
        total = codebook.bits(test.at(octave)).total * len(z)
        assert bits[:, octave].sum() == pytest.approx(total, rel=1e-10, abs=1e-9)


def test_parts_of_a_split_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    z = zipf_latents(9, 500, 40)
    codebook = Codebook.fit(counted(zipf_latents(10, 500, 40)))
    document = np.arange(500) // 7
    whole = codelength.document_bits(sparse(z), STEP, [codebook], document, 72)
    monkeypatch.setattr(codelength, "BLOCK_NONZEROS", 100)
    cut = [
        codelength.document_bits(sparse(z[a:b]), STEP, [codebook], document[a:b], 72)
        for a, b in ((0, 123), (123, 500))
    ]
    np.testing.assert_allclose(cut[0] + cut[1], whole, rtol=1e-12)
    direct = np.zeros(72)
    np.add.at(
        direct,
        document,
        direct_heldout(codebook, quantised(zipf_latents(10, 500, 40), STEP), quantised(z, STEP)),
    )
    np.testing.assert_allclose(whole[:, 0], direct, rtol=1e-9)


# adaptive, enumerative, bound, model part


def sequential_bits(column: list[int], a: float, b: float, s: float, g: dict[int, float]) -> float:
    """Code a latent token by token, updating the counts that the decoder also has."""
    on = bits = 0.0
    n: dict[int, int] = {}
    for t, v in enumerate(column):
        p = (on + a) / (t + a + b)
        bits -= log2(p if v else 1 - p)
        if v:
            bits -= log2((n.get(v, 0) + s * g[v]) / (on + s))
            n[v] = n.get(v, 0) + 1
            on += 1
    return bits


@pytest.mark.parametrize("signed", [False, True])
def test_adaptive_is_what_a_sequential_coder_would_spend(signed: bool) -> None:
    z = zipf_latents(11, 250, 15, signed)
    counts, symbols = counted(z), quantised(z, STEP)
    alphabet, total, _ = counts.pooled
    g = dict(zip(alphabet.tolist(), (total / total.sum()).tolist(), strict=True))
    prior = codelength.fit_beta_prior(counts.active, 250)
    a, b = (float(np.float32(x)) for x in prior)
    likelihood = codelength.MagnitudeLikelihood(counts, total / total.sum())
    s = float(np.float32(likelihood.best_strength()))
    stream = sum(sequential_bits(column, a, b, s, g) for column in symbols.T.tolist())
    largest = int(np.abs(symbols).max())
    values = [v for v in range(-largest if signed else 1, largest + 1) if v]
    pooled = histogram(symbols[symbols != 0])
    header = 3 * 32 + 1 + exp_golomb(largest + 1) + sum(exp_golomb(pooled[v] + 1) for v in values)
    assert codelength.adaptive(counts) == pytest.approx((stream + header) / 250, rel=1e-10)


@given(dense_latents())
def test_adaptive_costs_more_than_plugin(z: np.ndarray) -> None:
    counts = counted(z)
    assert codelength.adaptive(counts) > codelength.plugin(counts).total


@given(dense_latents(), st.integers(0, 3))
def test_enumerative_token_by_token(z: np.ndarray, octave: int) -> None:
    tally = Tally.count(sparse(z), 0.25, 4)
    counts = tally.at(octave)
    active = (quantised(z, 0.25 * 2**octave) != 0).sum(axis=1).tolist()
    direct = sum(subset_bits(z.shape[1], k) + exp_golomb(k + 1) for k in active) / len(z)
    found = codelength.enumerative(counts, tally.active_per_token(octave), 2.5)
    assert found == pytest.approx(direct + 2.5, abs=1e-9)


@given(dense_latents())
def test_bound_exceeds_support_and_magnitude_entropies(z: np.ndarray) -> None:
    """B bits tell apart the levels in use, so they cover the entropy of one active value."""
    counts = counted(z)
    bits = codelength.bits_per_nonzero(counts)
    assert codelength.bound(counts) == codelength.bound_formula(counts.l0, bits, z.shape[1])
    assert codelength.plugin(counts).magnitude <= counts.l0 * bits + 1e-9


@pytest.mark.parametrize(
    ("symbols", "bits"),
    [([1], 0), ([1, 2], 1), ([1, 2, 5], 2), ([1, -1], 1), ([1, -2, 3, -4, 5], 4), ([0], 0)],
)
def test_bits_per_nonzero(symbols: list[int], bits: int) -> None:
    z = np.array(symbols, dtype=np.float32)[:, None]
    assert codelength.bits_per_nonzero(counted(z)) == bits


def test_decoder_bits_and_break_even() -> None:
    assert codelength.decoder_bits(live_rows=3, d=4, weight_bits=8) == (3 * 4 + 4) * 8
    assert codelength.break_even_tokens(1000.0, 25.0) == 40.0
    assert codelength.break_even_tokens(1000.0, 0.0) == math.inf


@given(st.integers(0, 60), st.integers(0, 60))
def test_log2_binomial(n: int, k: int) -> None:
    n, k = max(n, k), min(n, k)
    assert codelength.log2_binomial(n, np.array([k]))[0] == pytest.approx(
        subset_bits(n, k), abs=1e-9
    )


def test_no_tokens_cost_nothing() -> None:
    empty = counted(np.zeros((0, 4), dtype=np.float32))
    assert codelength.plugin(empty) == Rate(0.0, 0.0)
    assert codelength.adaptive(empty) == 0.0
    assert Codebook.fit(empty).bits(empty) == Rate(0.0, 0.0)


def test_plugin_is_optimistic_by_about_half_a_nat_per_bin() -> None:
    """Expected bias −Σ(bins − 1)/(2N ln 2) (maths §3), over many small samples."""
    rng = np.random.default_rng(12)
    p, n, trials = np.array([0.5, 0.2, 0.2, 0.1]), 100, 4000
    z = rng.choice(4, size=(n, trials), p=p).astype(np.float32)
    rate = codelength.plugin(counted(z)).total / trials
    truth = float(-(p * np.log2(p)).sum())
    assert rate - truth == pytest.approx(-3 / (2 * n * log(2)), rel=0.1)
