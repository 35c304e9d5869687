"""The mode `rdo-tree`: decisions against every choice there is, and what they cost in the trial."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes import bitstream
from mdlbench.codes.contexts import PARENT_OFF, PARENT_ON
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import TreeCode
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import PlainStep, dequantise, quantise
from mdlbench.codes.tree import TreeCodebook
from mdlbench.quantisers.files import decoded_values, described
from mdlbench.quantisers.modes import mode_of
from mdlbench.quantisers.protocol import Calibration
from mdlbench.quantisers.rdo import N_CENTROIDS, SHARES, Centroids, fit_rate_aware
from mdlbench.quantisers.rdo_tree import (
    TreeRateAware,
    cheapest_support,
    fit_tree_rate_aware,
    tree_prices,
    tree_rate,
)
from tests.references import forests, symbols_of

FINEST = 2.0**-5
PARENTS = np.array([-1, 0, 0, 1, -1, 4], dtype=np.int32)

seeds = st.integers(0, 10_000)
steps = st.sampled_from([FINEST, 0.3, 1.0, 2.3])


def gated(seed: int, n_tokens: int = 400, leak: float = 0.03) -> SparseLatents:
    """Latents that mostly fire where their parent does, with magnitudes of different scales."""
    rng = np.random.default_rng(seed)
    z = np.zeros((n_tokens, len(PARENTS)), dtype=np.float32)
    for i, parent in enumerate(PARENTS):
        allowed = z[:, parent] != 0 if parent >= 0 else np.ones(n_tokens, dtype=bool)
        on = rng.random(n_tokens) < np.where(allowed, rng.uniform(0.2, 0.7), leak)
        z[:, i] = on * rng.exponential(rng.uniform(0.3, 3.0), n_tokens)
    return SparseLatents.from_dense(np.where(z >= FINEST / 2, z, 0).astype(np.float32))


def calibration(latents: SparseLatents, seed: int = 0, parents=PARENTS) -> Calibration:
    rows = np.random.default_rng(seed).standard_normal((latents.n_latents, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Calibration(
        runs=Runs.here(lambda: [latents]),
        directions=lambda: rows.astype(np.float32),
        n_latents=latents.n_latents,
        finest=FINEST,
        parents=parents,
    )


def token_bits(book: TreeCodebook, symbol: np.ndarray) -> float:
    """Bits of one token by the definition: each latent given whether its parent is on."""
    bits = 0.0
    for i, v in enumerate(symbol):
        parent = book.forest.parents[i]
        parent_on = parent >= 0 and symbol[parent] != 0
        on = book.firing_probability[PARENT_ON if parent_on else PARENT_OFF, i]
        bits -= math.log2(on if v else 1 - on)
        if v:
            query = np.array([i], dtype=np.int32), np.array([v], dtype=np.int32)
            bits += float(book.flat.magnitude_bits(*query)[0])
    return bits


def dense_symbols(quantiser: TreeRateAware, latents: SparseLatents) -> np.ndarray:
    dense = np.zeros((latents.n_tokens, latents.n_latents), dtype=np.int32)
    symbols = quantiser.symbols(latents)
    dense[symbols.token, symbols.latent] = symbols.symbol
    return dense


@given(seed=seeds, step=steps)
@settings(max_examples=6, deadline=None)
def test_decisions_are_the_cheapest_of_all_there_are_in_float64(seed, step):
    latents = gated(seed, n_tokens=60)
    forest = Forest.from_parents(PARENTS)
    prices = tree_prices(forest, quantise(latents, step))
    offset = np.array([20, 5, -3, 0])
    slope = 0.2 * step**2
    quantiser = TreeRateAware(Centroids(step, offset), prices, slope)
    decided = dense_symbols(quantiser, latents)

    def cost(token: int, symbol: np.ndarray) -> float:
        shift = np.concatenate([[0.0], offset / 64, [0.0]])[np.minimum(symbol, N_CENTROIDS + 1)]
        error = (z[token] - (symbol + shift) * step) ** 2
        return float(error.sum()) + slope * token_bits(prices, symbol)

    z = latents.to_dense().astype(np.float64)
    for token in range(latents.n_tokens):
        nearest = np.floor(z[token] / step + 0.5).astype(int)
        choices = [sorted({0, v, max(v - 1, 0)}) for v in nearest]
        best = min(cost(token, np.array(each)) for each in itertools.product(*choices))
        assert cost(token, decided[token]) == pytest.approx(best, rel=1e-9)


@given(parents=forests(min_latents=1, max_latents=7), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_the_cheapest_support_in_any_forest(parents, seed):
    rng = np.random.default_rng(seed)
    places = symbols_of((rng.random((3, len(parents))) < 0.7).astype(np.int32))
    costs = rng.normal(size=(2, places.nnz))
    chosen = cheapest_support(Forest.from_parents(parents), places, costs)
    for token in range(3):
        at = np.flatnonzero(places.token == token)

        def total(on: tuple[bool, ...], at: np.ndarray = at) -> float:
            state = dict(zip(places.latent[at].tolist(), on, strict=True))
            return sum(
                costs[int(state.get(int(parents[places.latent[k]]), False)), k]
                for k, is_on in zip(at, on, strict=True)
                if is_on
            )

        best = min(total(on) for on in itertools.product([False, True], repeat=len(at)))
        assert total(tuple(chosen[at])) == pytest.approx(best, abs=1e-9)


@given(seed=seeds, step=steps, own=st.booleans())
@settings(max_examples=6, deadline=None)
def test_costs_no_more_than_plain_rounding_in_the_trial(seed, step, own):
    fitted_on = calibration(gated(seed), seed, PARENTS if own else None)
    quantiser = fit_tree_rate_aware(fitted_on, step)
    forest = quantiser.prices.forest
    trial = fitted_on.trial.priced(lambda symbols: tree_rate(forest, symbols))
    slope = trial.slope(step)
    plain = trial.cost(PlainStep(step)).lagrangian(slope)
    assert trial.cost(quantiser).lagrangian(slope) <= plain * (1 + 1e-9)


def test_what_only_moves_the_reconstruction_is_no_error():
    """An SAE that is exact once its latents are rounded: any other decision costs error."""
    latents, step = gated(6), 1.0
    fitted_on = calibration(latents)
    rows, rounded = fitted_on.directions(), dequantise(quantise(latents, step), step)
    missing = (rounded.to_dense() - latents.to_dense()) @ rows
    exact = replace(fitted_on, missing=lambda n_tokens: missing[:n_tokens])
    assert exact.trial.cost(PlainStep(step)).distortion < 1e-9
    assert exact.trial.slope(step) == 0.0
    quantiser = fit_tree_rate_aware(exact, step)
    assert quantiser.columns == {"offset": [0] * N_CENTROIDS}
    plain = quantise(latents, step)
    assert quantiser.symbols(latents).symbol.tolist() == plain.symbol.tolist()
    moved = fit_tree_rate_aware(fitted_on, step).symbols(latents)
    assert moved.symbol.tolist() != plain.symbol.tolist()
    for mode in ("rdo", "per-feature"):
        decided = mode_of(mode).machinery.fit(exact, step)
        values = decided.values(decided.symbols(latents)).to_dense()
        assert np.abs(values - rounded.to_dense()).max() < 1e-6


def test_a_rate_of_the_trial_is_that_of_the_tree_code():
    latents, step = gated(1), 0.5
    symbols, forest = quantise(latents, step), Forest.from_parents(PARENTS)
    book = tree_prices(forest, symbols)
    dense = np.zeros((latents.n_tokens, latents.n_latents), dtype=np.int32)
    dense[symbols.token, symbols.latent] = symbols.symbol
    expected = sum(token_bits(book, token) for token in dense) / latents.n_tokens
    assert tree_rate(forest, symbols) == pytest.approx(expected, rel=1e-9)


def test_without_a_forest_it_decides_as_rdo_does():
    latents, step = gated(2, leak=0.4), 0.9
    fitted_on = calibration(latents, parents=np.full(len(PARENTS), -1, dtype=np.int32))
    alone, together = fit_rate_aware(fitted_on.trial, step), fit_tree_rate_aware(fitted_on, step)
    assert together.prices.forest.n_edges == 0
    assert together.slope == pytest.approx(alone.slope)
    assert together.columns == alone.columns
    assert dense_symbols(together, latents).tolist() == dense_symbols(alone, latents).tolist()


def test_a_child_stays_on_where_its_parent_makes_it_cheap():
    """Two tokens with the same small child: one has the parent on, the other has not."""
    latents = gated(3, n_tokens=2000, leak=0.005)
    step = 1.0
    prices = tree_prices(Forest.from_parents(PARENTS), quantise(latents, step))
    two = np.zeros((2, len(PARENTS)), dtype=np.float32)
    two[:, 5], two[0, 4] = 0.8, 5.0
    tokens = SparseLatents.from_dense(two)
    quantiser = TreeRateAware(Centroids.whole_steps(step), prices, SHARES[0] * 0.115 * step**2)
    assert dense_symbols(quantiser, tokens)[:, 5].tolist() == [1, 0]


@pytest.mark.parametrize("own", [True, False])
def test_real_bytes_decode_to_the_same_values(own):
    fitted_on = calibration(gated(4, n_tokens=3000), parents=PARENTS if own else None)
    quantiser = fit_tree_rate_aware(fitted_on, 0.7)
    symbols = fitted_on.runs.each(quantiser.symbols)
    code = TreeCode.fit(symbols, fitted_on.n_latents, fitted_on.parents)
    test = gated(5, n_tokens=3000)
    symbols = quantiser.symbols(test)
    told = described(mode_of("rdo-tree"), quantiser)
    data = bitstream.encode(symbols, code.codebook, step=0.7, metadata={}, quantiser=told)
    decoded = bitstream.decode(data)
    assert code.codebook.forest.n_edges > 0
    assert decoded.quantiser == told
    assert decoded_values(decoded).value.tolist() == quantiser.values(symbols).value.tolist()
    documents = np.zeros(test.n_tokens, dtype=np.int64)
    rates = code.rates(Runs.here(lambda: [(symbols, documents)]), 1)
    payload = 8 * bitstream.sizes(data).payload_bytes / test.n_tokens
    assert payload == pytest.approx(rates.heldout, rel=0.005, abs=64 / test.n_tokens)
    assert rates.header_bits == code.codebook.header_bits > 0


def test_no_latents_at_all():
    nothing = SparseLatents.from_dense(np.zeros((5, len(PARENTS)), dtype=np.float32))
    quantiser = fit_tree_rate_aware(calibration(nothing), 1.0)
    assert quantiser.symbols(nothing).nnz == 0
