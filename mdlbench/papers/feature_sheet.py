"""The most used decoder rows of an SAE of images; how large, and how like images, its rows are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.sources.protocol import ActivationSource


@dataclass(frozen=True)
class Sheet:
    """Some decoder rows of one SAE.

    Attributes:
        name: of the SAE.
        rows: the decoder rows of the latents that are on most often, most often first.
        latents: their places in the dictionary.
        firing: share of test tokens on which each is on, before quantisation.
        pixels: effective number of pixels, (Σw²)² / Σw⁴, of a row.
        likeness: cosine of a row with the most similar calibration image.

    `pixels` and `likeness` are means over all rows, each weighted by how often it is on.
    """

    name: str
    image_shape: tuple[int, int]
    rows: Float32[np.ndarray, "shown d"]
    latents: tuple[int, ...]
    firing: Float64[np.ndarray, " shown"]
    pixels: float
    likeness: float


def sheet(name: str, coder: SparseCoder, source: ActivationSource, n: int) -> Sheet:
    """The `n` latents of a coder that are on most often; `source` gives images.

    Raises:
        CoderError: the coder misbehaves when run.
    """
    firing = firing_rates(coder, source)
    latents = np.argsort(-firing, kind="stable")[:n]
    rows = checked.decoder_rows(coder)
    weights = firing if firing.any() else np.ones_like(firing)
    return Sheet(
        name,
        source.image_shape or (1, source.d_out),
        rows[latents],
        tuple(map(int, latents)),
        firing[latents],
        pixels=float(np.average(effective_pixels(rows), weights=weights)),
        likeness=float(np.average(nearest_cosines(rows, source), weights=weights)),
    )


def firing_rates(coder: SparseCoder, source: ActivationSource) -> Float64[np.ndarray, " latent"]:
    """Share of test tokens on which each latent is on; raises `CoderError`."""
    on = np.zeros(coder.spec.d_latents)
    for block in source.blocks("test"):
        latents, _ = checked.encode(coder, block.given)
        on += np.bincount(latents.latent, minlength=len(on))
    return on / source.n_tokens["test"]


def effective_pixels(rows: Float32[np.ndarray, "row d"]) -> Float64[np.ndarray, " row"]:
    """(Σw²)² / Σw⁴ of each row: n for n equal pixels among zeros; 0 for a zero row."""
    squares = np.square(rows.astype(np.float64))
    fourth = np.square(squares).sum(axis=1)
    return np.asarray(np.square(squares.sum(axis=1)) / np.where(fourth > 0, fourth, 1.0))


def nearest_cosines(
    rows: Float32[np.ndarray, "row d"], source: ActivationSource
) -> Float64[np.ndarray, " row"]:
    """Largest cosine of each row with an activation of the calibration split; 0 for a zero row."""
    unit = torch.nn.functional.normalize(torch.from_numpy(rows).to(source.device), dim=1)
    largest = torch.zeros(len(rows), device=source.device)
    for block in source.blocks("calibration"):
        cosines = unit @ torch.nn.functional.normalize(block.activations, dim=1).T
        largest = torch.maximum(largest, cosines.amax(dim=1))
    return largest.double().cpu().numpy()
