"""How far few eigenvectors tell when a feature of a bilinear layer's output is active."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from mdlbench.bilinear.features import feature_interactions
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.spectrum import Spectrum, spectra
from mdlbench.errors import UsageError
from mdlbench.papers.bilinear_language.dictionaries import Dictionary
from mdlbench.papers.bilinear_language.outputs import Half, chunks
from mdlbench.papers.bilinear_language.plan import Plan

Latents = Float[torch.Tensor, "token feature"]


@dataclass(frozen=True)
class Feature:
    """A feature of an SAE on a bilinear layer's output.

    Attributes:
        feature: its number.
        n_active: held-out tokens on which it is active.
        one, two: correlation, over these, of its latent with what the strongest eigenvector, or
            the two strongest, of its encoder's direction make of the layer's input.
        effective_rank: of all eigenvalues.
    """

    feature: int
    n_active: int
    one: float
    two: float
    effective_rank: float


@torch.no_grad()
def latents_of(dictionary: Dictionary, layer: BilinearLayer | None, x: Half) -> Latents:
    """Latents of an SAE on inputs, or on what a layer makes of them."""
    parts = (part.float() for part in chunks(x))
    if layer is not None:
        parts = (torch.from_numpy(layer.output(part.double().numpy())).float() for part in parts)
    return torch.cat([dictionary.latents(part) for part in parts])


def drawn(latents: Latents, plan: Plan) -> Int64[np.ndarray, " chosen"]:
    """Features that are active often enough, at most so many, in the order of their numbers.

    Raises:
        UsageError: none is.
    """
    often = np.flatnonzero((latents > 0).sum(dim=0).numpy() >= plan.least_active)
    if not len(often):
        raise UsageError(f"no feature is active on {plan.least_active} held-out tokens")
    chosen = np.random.default_rng(plan.seed).permutation(often)[: plan.features]
    return np.sort(chosen)


def explain(
    layer: BilinearLayer,
    dictionary: Dictionary,
    x: Half,
    plan: Plan,
) -> Iterator[Feature]:
    """The drawn features of an SAE on a layer's output.

    Args:
        layer: without biases.
        dictionary: the SAE.
        x: inputs of the layer at held-out tokens.
        plan: which features.
    """
    latents = latents_of(dictionary, layer, x)
    chosen = drawn(latents, plan)
    forms = spectra(layer, dictionary.encoder[chosen])
    for feature, form in zip(chosen.tolist(), forms, strict=True):
        active = latents[:, feature] > 0
        truth = latents[active, feature].double().numpy()
        one, two = correlations(form, x[active].double().numpy(), truth)
        yield Feature(feature, len(truth), one, two, form.effective_rank)


def correlations(
    form: Spectrum, x: Float64[np.ndarray, "token d"], truth: Float64[np.ndarray, " token"]
) -> tuple[float, float]:
    """Pearson's, of the truth with the strongest eigenvector's part and with that of two."""
    one, two = (
        float(np.corrcoef(truth, form.strongest(min(n, form.rank)).output(x))[0, 1]) for n in (1, 2)
    )
    return one, two


COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
"""Pairs whose share of all interactions is told."""


def interaction_shares(
    layer: BilinearLayer,
    dictionary: Dictionary,
    inputs: Dictionary,
    x: Half,
    plan: Plan,
) -> list[list[float]]:
    """How much of an output feature's interactions its strongest pairs of input features hold.

    The pairs' squared weights, each latent in units of its root mean square; the decoder's bias is
    one more feature, which is always 1. Its pair with itself, a constant, is left out.

    Returns:
        For each of the first drawn features, the shares at `COUNTS`, as far as there are pairs.
    """
    rms = latents_of(inputs, None, x).double().square().mean(dim=0).sqrt().numpy()
    features = np.vstack([rms[:, None] * inputs.decoder, inputs.bias])
    pairs = len(features) * (len(features) + 1) // 2
    shares = []
    for feature in drawn(latents_of(dictionary, layer, x), plan)[: plan.interacting]:
        found = feature_interactions(layer, dictionary.encoder[feature], features, pairs)
        is_constant = (found.first == len(features) - 1) & (found.second == len(features) - 1)
        held = np.cumsum(np.square(found.weight[~is_constant]))
        shares.append([float(held[n - 1] / held[-1]) for n in COUNTS if n < pairs])
    return shares
