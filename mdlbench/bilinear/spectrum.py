"""Eigenvectors of interaction matrices: what an output does, as a sum of squares (maths §11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mdlbench.bilinear.interaction import appended, interaction_matrix
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.errors import UsageError


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A quadratic form xᵀQx = Σ λ_i (v_iᵀx)², its eigenvectors by falling |λ|.

    Attributes:
        values: λ; those that are zero within rounding are left out.
        vectors: v, one unit row for each; its largest entry is positive. Orthogonal.
    """

    values: Float64[np.ndarray, " factor"]
    vectors: Float64[np.ndarray, "factor d"]

    @classmethod
    def of(cls, matrix: Float64[np.ndarray, "d d"]) -> Spectrum:
        """The eigendecomposition of a symmetric matrix."""
        values, vectors = np.linalg.eigh(matrix)
        order = np.argsort(-np.abs(values), kind="stable")
        values, rows = values[order], vectors.T[order]
        largest = np.abs(values).max(initial=0.0)
        rank = int((np.abs(values) > largest * len(matrix) * np.finfo(np.float64).eps).sum())
        return cls(values[:rank], _turned(rows[:rank]))

    @property
    def rank(self) -> int:
        return len(self.values)

    @property
    def effective_rank(self) -> float:
        return effective_rank(self.values)

    def strongest(self, n: int) -> Spectrum:
        """The n eigenvectors of largest |λ|.

        Raises:
            UsageError: there are fewer.
        """
        if not 0 <= n <= self.rank:
            raise UsageError(
                f"{n} factors of a form of rank {self.rank}: ask for at most that many"
            )
        return Spectrum(self.values[:n], self.vectors[:n])

    @property
    def positive(self) -> Spectrum:
        """The eigenvectors that raise the output."""
        return Spectrum(self.values[self.values > 0], self.vectors[self.values > 0])

    def output(self, x: Float64[np.ndarray, "token d_in"]) -> Float64[np.ndarray, " token"]:
        """Σ λ_i (v_iᵀx)²; a 1 is appended to x where the layer has biases."""
        return np.asarray(
            np.square(appended(x, self.vectors.shape[1]) @ self.vectors.T) @ self.values
        )

    def matrix(self) -> Float64[np.ndarray, "d d"]:
        """Σ λ_i v_i v_iᵀ."""
        return np.asarray((self.vectors.T * self.values) @ self.vectors)


def effective_rank(values: Float64[np.ndarray, " factor"]) -> float:
    """(‖λ‖₁/‖λ‖₂)²: n for n eigenvalues of equal size, 0 where all are zero."""
    squares = float(np.square(values).sum())
    return float(np.abs(values).sum() ** 2 / squares) if squares > 0 else 0.0


def output_spectrum(layer: BilinearLayer, direction: Float64[np.ndarray, " d_out"]) -> Spectrum:
    """The eigenvectors of one direction of the output, in the space of the layer's input."""
    return next(spectra(layer, direction[None]))


def spectra(
    layer: BilinearLayer, directions: Float64[np.ndarray, "direction d_out"] | None = None
) -> Iterator[Spectrum]:
    """The eigenvectors of several directions of the output; by default of each output.

    They lie in the span of the rows of W and V, where they are looked for: a layer that reads
    fewer dimensions than its input has is decomposed the faster.
    """
    whole = layer.without_biases()
    basis = row_space(np.vstack([whole.w, whole.v]))
    inside = BilinearLayer(whole.w @ basis.T, whole.v @ basis.T, whole.p)
    for direction in np.eye(layer.d_out) if directions is None else directions:
        found = Spectrum.of(interaction_matrix(inside, direction))
        yield Spectrum(found.values, _turned(found.vectors @ basis))


def row_space(rows: Float64[np.ndarray, "row d"]) -> Float64[np.ndarray, "rank d"]:
    """Orthonormal rows that span some rows."""
    _, strengths, basis = np.linalg.svd(rows, full_matrices=False)
    least = strengths.max(initial=0.0) * max(rows.shape) * np.finfo(np.float64).eps
    return np.asarray(basis[strengths > least])


def _turned(rows: Float64[np.ndarray, "row d"]) -> Float64[np.ndarray, "row d"]:
    """Rows whose largest entry is positive: the sign of an eigenvector says nothing."""
    if rows.size == 0:
        return rows
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    return np.asarray(rows * np.sign(largest)[:, None])
