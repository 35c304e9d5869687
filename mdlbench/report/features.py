"""Pictures of decoder rows: what an SAE's latents look like, where activations are images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from mdlbench.files import write_atomically
from mdlbench.report.style import INK, house_style, png
from mdlbench.report.tables import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8


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
    zero. Under each stands its latent's share of all weights.

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
    order = np.argsort(-weights, kind="stable")[:n]
    shares = weights / (weights.sum() or 1.0)
    n_columns = min(COLUMNS, max(1, len(order)))
    n_lines = max(1, math.ceil(len(order) / n_columns))
    with house_style():
        figure = Figure(
            figsize=(0.95 * n_columns + 0.2, 1.13 * n_lines + 0.75), layout="constrained"
        )
        axes = figure.subplots(n_lines, n_columns, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, latent in zip(axes, order, strict=False):
            ax.imshow(
                _unit_scale(rows[latent]).reshape(image_shape), cmap="RdBu_r", vmin=-1.0, vmax=1.0
            )
            ax.set_title(
                f"{latent}: {shares[latent]:.1%}",
                loc="center",
                fontsize=6.5,
                weight="normal",
                pad=2,
            )
        figure.suptitle(
            f"{printable(name)}\n{len(order)} of {len(rows)} decoder rows "
            f"(latent: {weight_label}; shown: {shares[order].sum():.0%})",
            x=0.01,
            ha="left",
            fontsize=9,
            color=INK,
        )
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


def _unit_scale(row: Float32[np.ndarray, " d"]) -> Float32[np.ndarray, " d"]:
    """The row with its largest magnitude at 1; a zero row stays zero."""
    return row / (np.abs(row).max(initial=0.0) or np.float32(1.0))
