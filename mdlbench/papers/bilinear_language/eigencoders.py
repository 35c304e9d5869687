"""Explanations of a bilinear MLP's output by eigenvectors, as coders that read its input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import (
    Activation,
    Decoder,
    Encoder,
    LinearCoder,
    Nonzeros,
    Unnormalised,
    assemble,
    block_tokens,
    sparse_latents,
)
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.spectrum import spectra
from mdlbench.bilinear.squares import strongest_squares
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import UsageError
from mdlbench.papers.bilinear_language.gated import Gated
from mdlbench.papers.bilinear_language.outputs import Half, chunks

ADAPTER = "bilinear-language"
"""What records call the adapter of these coders."""
VERSION = "1"
"""Version of these fits: it changes when the same layer comes to give another coder."""
LEAST_SPREAD = 1e-9
"""Share of the largest eigenvalue of the inputs' second moments below which there is no input."""


@dataclass(frozen=True, eq=False)
class PredictedEncoder:
    """activation(Σ_i weight_fi (v_fiᵀx)² + offset_f): what eigenvectors tell of each feature.

    Attributes:
        vectors: v, a column for each; those of one feature stand together.
        weights: of a feature's squares.
        offset: of each feature.
        activation: of the SAE whose latents are predicted.
    """

    vectors: Float[torch.Tensor, "d_in square"]
    weights: Float[torch.Tensor, "feature n"]
    offset: Float[torch.Tensor, " feature"]
    activation: Activation

    @property
    def d_in(self) -> int:
        return len(self.vectors)

    def __call__(self, x: Float[torch.Tensor, "token d_in"]) -> SparseLatents:
        """Latents of all tokens, block by block."""
        parts = torch.split(x, block_tokens(self.weights.numel()))
        return concatenate([sparse_latents(self.activation, self.before(part)) for part in parts])

    def before(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token feature"]:
        """Pre-activations."""
        squares = (x @ self.vectors).square().reshape(len(x), *self.weights.shape)
        return torch.einsum("tfn,fn->tf", squares, self.weights) + self.offset


@dataclass(frozen=True, eq=False)
class CentredSquares:
    """Squares of pre-activations, whose signs the layer does not read, less their means.

    Attributes:
        mean: of each.
    """

    mean: Float[torch.Tensor, " latent"]

    def __call__(self, a: Float[torch.Tensor, "token latent"]) -> Nonzeros:
        z = a.square() - self.mean
        token, latent = torch.nonzero(z, as_tuple=True)
        return Nonzeros(token, latent, z[token, latent])


class Forms(NamedTuple):
    """The strongest eigenvectors of some features, filled up with zeros.

    Attributes:
        values: λ of each.
        vectors: v of each.
    """

    values: Float64[np.ndarray, "feature n"]
    vectors: Float64[np.ndarray, "feature n d_in"]


class Explainer:
    """Makes coders of a layer; constants are fitted on inputs of the training text.

    Args:
        layer: bilinear.
        x: inputs on which constants are fitted.
        most: eigenvectors of a feature at most.
    """

    def __init__(self, layer: Gated, x: Half, most: int) -> None:
        self._gated, self._layer, self._x, self._most = layer, layer.bilinear(), x, most
        self._forms: tuple[str, Forms] | None = None

    def predicted(self, sae: SparseCoder, n: int) -> LinearCoder:
        """An SAE of the output whose latents are what n eigenvectors of each feature predict.

        The prediction of each pre-activation is scaled and shifted to fit the true one best.

        Raises:
            UsageError: its latents are no activation of a linear map of the output.
        """
        if not (
            isinstance(sae, LinearCoder)
            and isinstance(sae.encoder, Encoder)
            and isinstance(sae.normalisation, Unnormalised)
        ):
            raise UsageError(f"{sae.spec.name}: its latents are no activation of a linear map")
        encoder, forms = sae.encoder, self._forms_of(sae.encoder)
        vectors = forms.vectors[:, :n].reshape(-1, self._layer.d_in).T
        raw = PredictedEncoder(
            _tensor(vectors),
            _tensor(forms.values[:, :n]),
            torch.zeros(len(forms.values)),
            encoder.activation,
        )
        slope, offset = self._fit(raw, encoder)
        fitted = PredictedEncoder(
            raw.vectors, raw.weights * slope[:, None], offset, encoder.activation
        )
        facts = {"explains": sae.spec.weights_sha256, "eigenvectors": n}
        return assemble(
            self._identity(f"eigenvectors-{n}", facts, fitted.vectors, fitted.weights, offset),
            fitted,
            sae.decoder,
            architecture="eigenvectors",
            promised_l0=sae.spec.promised_l0,
        )

    def squares(self, n: int, scaled: bool) -> LinearCoder:
        """The n strongest squares of the layer, less their means, as latents; the mean as bias.

        Args:
            n: how many.
            scaled: whether eigenvectors are those of inputs in units in which all directions
                have the same second moment.
        """
        into, back = self._units if scaled else (np.eye(self._layer.d_in),) * 2
        found = strongest_squares(self._layer.reading(back), n)
        vectors, rows = _tensor((found.vectors @ into).T), _tensor(found.rows)
        sums = torch.zeros(len(rows), dtype=torch.float64)
        outputs = torch.zeros(self._layer.d_out, dtype=torch.float64)
        for x, y in self._tokens():
            sums += (x @ vectors).square().sum(dim=0, dtype=torch.float64)
            outputs += y.sum(dim=0, dtype=torch.float64)
        mean, bias = ((one / len(self._x)).float() for one in (sums, outputs))
        nothing = torch.zeros(self._layer.d_in)
        facts = {"squares": n, "scaled": scaled}
        return assemble(
            self._identity(f"squares-{n}", facts, vectors, rows, mean, bias),
            Encoder(vectors, torch.zeros(len(rows)), nothing, CentredSquares(mean)),
            Decoder(rows, bias),
            architecture="squares",
        )

    @cached_property
    def _units(self) -> tuple[Float64[np.ndarray, "rank d_in"], Float64[np.ndarray, "d_in rank"]]:
        """M^−½ and M^½, of the inputs' second moments M."""
        moments = np.zeros((self._layer.d_in, self._layer.d_in))
        for part in chunks(self._x):
            x = part.double().numpy()
            moments += x.T @ x
        values, vectors = np.linalg.eigh(moments / len(self._x))
        kept = values > LEAST_SPREAD * values[-1]
        root, basis = np.sqrt(values[kept]), vectors[:, kept]
        return (basis / root).T, basis * root

    def _forms_of(self, encoder: Encoder) -> Forms:
        """The strongest eigenvectors of an encoder's features; the last encoder's are kept."""
        directions = encoder.W_enc.T.double().numpy()
        key = hashlib.sha256(np.ascontiguousarray(directions).tobytes()).hexdigest()
        if self._forms is None or self._forms[0] != key:
            self._forms = key, strongest_forms(self._layer, directions, self._most)
        return self._forms[1]

    def _fit(
        self, raw: PredictedEncoder, encoder: Encoder
    ) -> tuple[Float[torch.Tensor, " feature"], Float[torch.Tensor, " feature"]]:
        """Slope and offset of the least squares of each true pre-activation on the raw one."""
        sums = torch.zeros(4, len(raw.offset), dtype=torch.float64)
        for inputs, outputs in self._tokens():
            size = block_tokens(raw.weights.numel())
            for x, y in zip(torch.split(inputs, size), torch.split(outputs, size), strict=True):
                p = raw.before(x).double()
                a = torch.addmm(encoder.b_enc, y - encoder.centre, encoder.W_enc).double()
                sums += torch.stack([one.sum(dim=0) for one in (p, a, p * p, p * a)])
        p, a, pp, pa = sums / len(self._x)
        spread = (pp - p * p).clamp(min=0)
        slope = torch.where(spread > LEAST_SPREAD * pp, (pa - p * a) / spread, 0.0)
        return slope.float(), (a - slope * p).float()

    @torch.no_grad()
    def _tokens(
        self,
    ) -> Iterator[tuple[Float[torch.Tensor, "token d_in"], Float[torch.Tensor, "token d_out"]]]:
        for part in chunks(self._x):
            x = part.float()
            yield x, self._gated(x)

    def _identity(self, name: str, facts: dict[str, Any], *learned: torch.Tensor) -> CoderIdentity:
        digest = hashlib.sha256()
        for one in learned:
            digest.update(np.ascontiguousarray(one.numpy()).tobytes())
        facts = {"layer": self._gated.sha256, **facts}
        return CoderIdentity(
            name=name,
            adapter=ADAPTER,
            version=VERSION,
            arguments=facts,
            weights_sha256=digest.hexdigest(),
        )


def strongest_forms(
    layer: BilinearLayer, directions: Float64[np.ndarray, "feature d_out"], n: int
) -> Forms:
    """The n strongest eigenvectors of each direction of a layer's output."""
    values = np.zeros((len(directions), n))
    vectors = np.zeros((len(directions), n, layer.d_in))
    for i, form in enumerate(spectra(layer, directions)):
        few = form.strongest(min(n, form.rank))
        values[i, : few.rank], vectors[i, : few.rank] = few.values, few.vectors
    return Forms(values, vectors)


def _tensor(array: Float64[np.ndarray, ...]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
