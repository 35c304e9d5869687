"""Factors that all outputs of a bilinear layer share: its higher-order SVD (maths §11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.spectrum import Spectrum, spectra

LEAST_STRENGTH = 1e-7
"""Share of the largest one: singular values are roots of eigenvalues, exact to rounding."""


@dataclass(frozen=True, eq=False)
class SharedFactors:
    """The SVD of the tensor of all interaction matrices, flattened to d_out × d².

    Attributes:
        strengths: singular values σ, falling.
        directions: unit directions of the output, one row for each; orthogonal.
        forms: of each direction the quadratic form Q_u/σ, of unit Frobenius norm, decomposed.
    """

    strengths: Float64[np.ndarray, " factor"]
    directions: Float64[np.ndarray, "factor d_out"]
    forms: tuple[Spectrum, ...]

    def output(self, x: Float64[np.ndarray, "token d_in"]) -> Float64[np.ndarray, "token d_out"]:
        """What the layer computes, of these factors: Σ σ_k u_k · form_k(x)."""
        forms = np.stack([form.output(x) for form in self.forms], axis=1)
        return np.asarray(forms @ (self.strengths[:, None] * self.directions))


def hosvd(layer: BilinearLayer) -> SharedFactors:
    """Decompose a layer into output directions and the forms that they read, strongest first."""
    strengths, directions = output_factors(layer)
    forms = tuple(
        Spectrum(form.values / strength, form.vectors)
        for form, strength in zip(spectra(layer, directions), strengths, strict=True)
    )
    return SharedFactors(strengths, directions, forms)


def output_factors(
    layer: BilinearLayer,
) -> tuple[Float64[np.ndarray, " factor"], Float64[np.ndarray, "factor d_out"]]:
    """Strengths and output directions of the shared factors, without their forms.

    The tensor itself, d_out × d², is not made: the products of its rows are P K Pᵀ.
    """
    whole = layer.without_biases()
    values, vectors = np.linalg.eigh(whole.p @ unit_products(whole) @ whole.p.T)
    strengths = np.sqrt(np.clip(values[::-1], 0.0, None))
    rank = int((strengths > strengths.max(initial=0.0) * LEAST_STRENGTH).sum())
    return strengths[:rank], vectors.T[::-1][:rank]


def unit_products(layer: BilinearLayer) -> Float64[np.ndarray, "hidden hidden"]:
    """K: Frobenius products of the hidden units' forms ½(w_a v_aᵀ + v_a w_aᵀ).

    K_ab = ½((w_a·w_b)(v_a·v_b) + (w_a·v_b)(v_a·w_b)).
    """
    w, v = layer.w, layer.v
    return np.asarray(((w @ w.T) * (v @ v.T) + (w @ v.T) * (v @ w.T)) / 2)
