"""The most used decoder rows of an SAE of images, and how like whole images they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.sources import ActivationSource


@dataclass(frozen=True)
class Sheet:
    """Some decoder rows of one SAE.

    Attributes:
        name: of the SAE.
        rows: the decoder rows of the latents that are on most often, most often first.
        latents: their places in the dictionary.
        firing: share of test tokens on which each is on, before quantisation.
        likeness: median, over these rows, of the cosine with the most similar calibration image.
    """

    name: str
    image_shape: tuple[int, int]
    rows: Float32[np.ndarray, "shown d"]
    latents: tuple[int, ...]
    firing: Float64[np.ndarray, " shown"]
    likeness: float


def sheet(name: str, coder: SparseCoder, source: ActivationSource, n: int) -> Sheet:
    """The `n` latents of a coder that are on most often; `source` is of images.

    Raises:
        CoderError: the coder misbehaves when run.
    """
    firing = firing_rates(coder, source)
    latents = np.argsort(-firing, kind="stable")[:n]
    rows = checked.decoder_rows(coder)[latents]
    likeness = float(np.median(nearest_cosines(rows, source)))
    shape = source.image_shape or (1, source.d_out)
    return Sheet(name, shape, rows, tuple(map(int, latents)), firing[latents], likeness)


def firing_rates(coder: SparseCoder, source: ActivationSource) -> Float64[np.ndarray, " latent"]:
    """Share of test tokens on which each latent is on; raises `CoderError`."""
    on = np.zeros(coder.spec.d_latents)
    for block in source.blocks("test"):
        latents, _ = checked.encode(coder, block.given)
        on += np.bincount(latents.latent, minlength=len(on))
    return on / source.n_tokens["test"]


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
