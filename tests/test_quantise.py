"""Rounding, half-steps and the symbols of every dyadic step, against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import dequantise, half_steps, quantise, symbol_at
from mdlbench.errors import CoderError, UsageError

STEPS = st.sampled_from([0.03125, 0.25, 1.0, 3.0, 2.0**-9])
VALUES = st.floats(-1e4, 1e4, width=32).filter(lambda a: a != 0)
BOUNDARIES = st.builds(
    lambda n, sign: sign * n / 64, st.integers(1, 4096), st.sampled_from([-1, 1])
)


def run(values: list[float]) -> SparseLatents:
    """One token per value, one latent."""
    value = np.array(values, dtype=np.float32)
    return SparseLatents(
        np.arange(len(value), dtype=np.int32),
        np.zeros(len(value), dtype=np.int32),
        value,
        n_tokens=len(value),
        n_latents=1,
    )


def round_half_away(value: float, step: float) -> int:
    """Exact, in rationals."""
    magnitude = floor(abs(Fraction(value)) / Fraction(step) + Fraction(1, 2))
    return magnitude if value > 0 else -magnitude


def symbols_of(values: list[float], step: float) -> list[int]:
    dense = np.zeros(len(values), dtype=np.int64)
    symbols = quantise(run(values), step)
    dense[symbols.token] = symbols.symbol
    return [int(s) for s in dense]


@given(st.lists(VALUES | BOUNDARIES, min_size=1, max_size=30), st.sampled_from([2.0**-5, 1.0, 8.0]))
def test_rounds_half_away_from_zero(values: list[float], step: float) -> None:
    values = [float(np.float32(a)) for a in values]
    assert symbols_of(values, step) == [round_half_away(a, step) for a in values]


def test_boundaries_and_signs_by_hand() -> None:
    values = [0.49, 0.5, 0.51, 1.49, 1.5, -0.49, -0.5, -1.5, 2.5]
    assert symbols_of(values, 1.0) == [0, 1, 1, 1, 2, 0, -1, -2, 3]


@given(st.lists(VALUES | BOUNDARIES, min_size=1, max_size=30), STEPS, st.integers(0, 15))
def test_half_steps_give_every_dyadic_step_exactly(
    values: list[float], finest: float, octave: int
) -> None:
    half = half_steps(run(values).value, finest)
    assert symbol_at(half, octave).tolist() == symbols_of(values, finest * 2.0**octave)


@given(st.lists(VALUES, max_size=30), STEPS)
def test_symbols_are_never_zero_and_off_latents_stay_off(values: list[float], step: float) -> None:
    symbols = quantise(run(values), step)
    assert (symbols.symbol != 0).all()
    dense = dequantise(symbols, step).to_dense()[:, 0]
    off = np.setdiff1d(np.arange(len(values)), symbols.token)
    assert (dense[off] == 0.0).all()
    assert not np.signbit(dense[off]).any()


@given(st.lists(VALUES, min_size=1, max_size=30), STEPS)
def test_error_is_at_most_half_a_step(values: list[float], step: float) -> None:
    latents = run(values)
    decoded = dequantise(quantise(latents, step), step).to_dense()[:, 0]
    slack = 1e-6 * np.abs(latents.value)
    assert (np.abs(decoded - latents.value) <= step / 2 + slack).all()


@given(st.lists(VALUES, min_size=1, max_size=30), STEPS)
def test_quantising_a_decoded_run_changes_nothing(values: list[float], step: float) -> None:
    once = quantise(run(values), step)
    again = quantise(dequantise(once, step), step)
    np.testing.assert_array_equal(once.symbol, again.symbol)
    np.testing.assert_array_equal(once.token, again.token)


@given(
    st.lists(VALUES, min_size=1, max_size=30),
    st.sampled_from([0.125, 4.0, 1024.0]),
    st.sampled_from([0.25, 1.0, 3.0]),
)
def test_rescaling_encoder_and_decoder_changes_nothing_when_normalised(
    values: list[float], s: float, norm: float
) -> None:
    """maths §9: latents · s with decoder rows / s have the same symbols and the same decoding."""
    latents, norms = run(values), np.array([norm], dtype=np.float32)
    rescaled = latents.scaled(np.array([s], dtype=np.float32))
    smaller = (norms / np.float32(s)).astype(np.float32)
    before, after = (
        quantise(z.scaled(n), 0.25) for z, n in ((latents, norms), (rescaled, smaller))
    )
    np.testing.assert_array_equal(before.symbol, after.symbol)
    np.testing.assert_array_equal(before.token, after.token)
    rows_before = dequantise(before, 0.25).scaled((1 / norms).astype(np.float32)).value * norm
    rows_after = dequantise(after, 0.25).scaled((1 / smaller).astype(np.float32)).value * smaller[0]
    np.testing.assert_allclose(rows_before, rows_after, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_values_that_cannot_be_symbols_are_refused(bad: float) -> None:
    with pytest.raises(CoderError, match="coarser step"):
        quantise(run([1.0, bad]), 1.0)


def test_the_largest_symbol_survives_every_octave() -> None:
    value = np.array([2.0**29 - 64, -(2.0**29 - 64)], dtype=np.float32)
    for octave in range(16):
        assert symbol_at(half_steps(value, 1.0), octave).tolist() == [
            round_half_away(float(a), 2.0**octave) for a in value
        ]


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_that_are_not_positive_are_refused(step: float) -> None:
    with pytest.raises(UsageError, match="step must be positive"):
        quantise(run([1.0]), step)


def test_no_latents_at_all() -> None:
    symbols = quantise(run([]), 0.5)
    assert symbols.nnz == 0
    assert dequantise(symbols, 0.5).nnz == 0
