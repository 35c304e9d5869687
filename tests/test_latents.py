"""Sparse latents against the dense matrix they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError

DENSE = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.sampled_from([0.0, 0.0, 0.5, -1.25, 3.0]),
)


@given(DENSE)
def test_dense_round_trip(z: np.ndarray) -> None:
    latents = SparseLatents.from_dense(z)
    np.testing.assert_array_equal(latents.to_dense(), z)
    assert latents.nnz == np.count_nonzero(z)
    assert latents.token.dtype == latents.latent.dtype == np.int32


@given(DENSE)
def test_sorted_by_token_then_latent(z: np.ndarray) -> None:
    latents = SparseLatents.from_dense(z)
    key = latents.token.astype(np.int64) * z.shape[1] + latents.latent
    assert (np.diff(key) > 0).all()


@given(DENSE, st.data())
def test_rows_are_a_run_of_their_own(z: np.ndarray, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(z)))
    stop = data.draw(st.integers(start, len(z)))
    part = SparseLatents.from_dense(z).rows(start, stop)
    np.testing.assert_array_equal(part.to_dense(), z[start:stop])


@given(DENSE, st.integers(1, 3))
def test_concatenation_undoes_rows(z: np.ndarray, width: int) -> None:
    latents = SparseLatents.from_dense(z)
    parts = [latents.rows(i, min(i + width, len(z))) for i in range(0, len(z), width)]
    np.testing.assert_array_equal(concatenate(parts).to_dense(), z)


def test_scaling_multiplies_each_latent_by_its_factor() -> None:
    z = np.array([[1.0, 0.0, 2.0], [0.0, -3.0, 0.5]], dtype=np.float32)
    scale = np.array([2.0, 10.0, 0.25], dtype=np.float32)
    scaled = SparseLatents.from_dense(z).scaled(scale)
    np.testing.assert_array_equal(scaled.to_dense(), z * scale)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    z = np.array([[0.0, bad]], dtype=np.float32)
    with pytest.raises(CoderError, match="NaN or infinite"):
        SparseLatents.from_dense(z)
