"""How an SAE's bits and firing are spread over its latents, and pictures of the costliest."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from mdlbench.quantisers.modes import Rates
from mdlbench.records.record import LatentProfile, Pictures, profile_ranks

COLUMNS, LINES = 8, 4
"""Columns and lines of the pictures in a record."""
GAP = 1
"""Pixels between pictures."""
SHADES = 33
"""Colours of a picture; few, so that a record stays small."""


def latent_profile(
    step: float, rates: Rates, pictures: Pictures | None = None
) -> LatentProfile | None:
    """The profile at one step; None for an SAE without latents."""
    n_latents = len(rates.latent_bits)
    if n_latents == 0:
        return None
    ranks = profile_ranks(n_latents)
    firing = -np.sort(-rates.firing_rates)
    bits = -np.sort(-rates.latent_bits)
    return LatentProfile(
        step=step,
        ranks=ranks.tolist(),
        firing_rates=firing[ranks - 1].tolist(),
        bits=bits[ranks - 1].tolist(),
        cumulative_bits=np.cumsum(bits)[ranks - 1].tolist(),
        pictures=pictures,
    )


def pictures_of(
    rows: Float32[np.ndarray, "latent d"],
    image_shape: tuple[int, int],
    bits: Float64[np.ndarray, " latent"],
) -> Pictures:
    """The decoder rows of the latents that cost most bits, as a PNG of red, white and blue."""
    from PIL import Image

    chosen = np.argsort(-bits, kind="stable")[: COLUMNS * LINES]
    image = Image.fromarray(_mosaic(rows[chosen], image_shape), mode="P")
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return Pictures(
        latents=[int(latent) for latent in chosen],
        png=base64.b64encode(buffer.getvalue()).decode(),
    )


def _mosaic(
    rows: Float32[np.ndarray, "shown d"], image_shape: tuple[int, int]
) -> UInt8[np.ndarray, "row column"]:
    """Indices into the palette, white around the pictures."""
    down, across = (size + GAP for size in image_shape)
    n_lines = max(1, -(-len(rows) // COLUMNS))
    mosaic = np.full((n_lines * down - GAP, COLUMNS * across - GAP), SHADES // 2, dtype=np.uint8)
    for i, row in enumerate(rows):
        line, column = divmod(i, COLUMNS)
        share = row / (np.abs(row).max(initial=0.0) or 1.0)
        shade = np.rint((share + 1) / 2 * (SHADES - 1)).astype(np.uint8).reshape(image_shape)
        top, left = line * down, column * across
        mosaic[top : top + image_shape[0], left : left + image_shape[1]] = shade
    return mosaic


def _palette() -> list[int]:
    """Blue to white to red, as red, green, blue of each shade."""
    import matplotlib

    colours = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, SHADES))[:, :3]
    return [int(value) for value in np.rint(255 * colours).flatten()]
