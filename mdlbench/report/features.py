"""Pictures of decoder rows: what an SAE's latents look like, where activations are images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from mdlbench.console.style import house_style, png
from mdlbench.disk.files import write_atomically
from mdlbench.report.tables import printable
from mdlbench.scoring.pictures import COLOURS, COLUMNS, Tiles, heaviest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE_INCHES = 0.5


def feature_grid(
    name: str,
    rows: Float32[np.ndarray, "latent d"],
    image_shape: tuple[int, int],
    weights: Float64[np.ndarray, " latent"] | None = None,
    n: int = 64,
    weight_label: str = "share of bits",
) -> Figure:
    """The `n` heaviest decoder rows as images, heaviest first.

    Red is positive, blue negative, white zero; each picture has its own scale, symmetric about
    zero. Above each stands its latent's share of all weights.

    Args:
        name: of the SAE, for the title.
        rows: the decoder, one row per latent.
        image_shape: rows and columns of an activation.
        weights: importance of each latent, non-negative; without them, the rows' norms.
        n: pictures at most.
        weight_label: what the weights are, in words.
    """
    from matplotlib.figure import Figure

    if weights is None:
        weights, weight_label = np.linalg.norm(rows.astype(np.float64), axis=1), "share of norms"
    order = heaviest(weights, n)
    shares = weights / (weights.sum() or 1.0)
    n_columns = min(COLUMNS, max(1, len(order)))
    tiles = Tiles.captioned(image_shape, n_columns, max(1, math.ceil(len(order) / n_columns)))
    title = (
        f"{printable(name)}\n{len(order)} of {len(rows)} decoder rows "
        f"(latent: {weight_label}; shown: {shares[order].sum():.0%})"
    )
    with house_style():
        width, height = max(0.9 * n_columns, 4.0), 0.9 * n_columns * tiles.aspect
        figure = Figure(figsize=(width, height + TITLE_INCHES))
        ax = figure.add_axes((0.0, 0.0, 1.0, height / (height + TITLE_INCHES)))
        ax.set_axis_off()
        ax.imshow(tiles.mosaic(rows[order]), cmap=COLOURS, vmin=-1, vmax=1)
        ax.set_anchor("NW")
        for (x, y), latent in zip(tiles.captions(), order, strict=False):
            ax.text(x, y, f"{latent}: {shares[latent]:.1%}", fontsize=6, ha="center", va="bottom")
        figure.text(0.012, 1.0 - 0.12 / (height + TITLE_INCHES), title, va="top")
    return figure


def write_feature_grid(
    path: Path,
    name: str,
    rows: Float32[np.ndarray, "latent d"],
    image_shape: tuple[int, int],
    weights: Float64[np.ndarray, " latent"] | None = None,
) -> None:
    """`feature_grid` as a PNG file; raises `OutputError` if it cannot be written."""
    write_atomically(path, png(feature_grid(name, rows, image_shape, weights)))
