"""Pictures of decoder rows: what an SAE's latents look like, where activations are images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64

from mdlbench.files import write_atomically
from mdlbench.report.style import house_style, png
from mdlbench.report.tables import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
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
    order = np.argsort(-weights, kind="stable")[:n]
    shares = weights / (weights.sum() or 1.0)
    n_columns = min(COLUMNS, max(1, len(order)))
    tiles = Tiles(image_shape, n_columns, n_lines=max(1, math.ceil(len(order) / n_columns)))
    title = (
        f"{printable(name)}\n{len(order)} of {len(rows)} decoder rows "
        f"(latent: {weight_label}; shown: {shares[order].sum():.0%})"
    )
    with house_style():
        width, height = max(0.9 * n_columns, 4.0), 0.9 * n_columns * tiles.aspect
        figure = Figure(figsize=(width, height + TITLE_INCHES))
        ax = figure.add_axes((0.0, 0.0, 1.0, height / (height + TITLE_INCHES)))
        ax.set_axis_off()
        ax.imshow(tiles.mosaic(rows[order]), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_anchor("NW")
        for (x, y), latent in zip(tiles.captions(), order, strict=False):
            ax.text(x, y, f"{latent}: {shares[latent]:.1%}", fontsize=6, ha="center", va="bottom")
        figure.text(0.012, 1.0 - 0.12 / (height + TITLE_INCHES), title, va="top")
    return figure


@dataclass(frozen=True)
class Tiles:
    """Where pictures stand in one large picture: left to right, then down, a caption above each."""

    image_shape: tuple[int, int]
    n_columns: int
    n_lines: int

    @property
    def pitch(self) -> tuple[int, int]:
        """Rows and columns from one picture to the next, the gaps between them included."""
        n_rows, n_columns = self.image_shape
        return n_rows + max(2, round(n_columns / 4)), n_columns + max(1, round(n_columns / 10))

    @property
    def aspect(self) -> float:
        """Height over width of the whole."""
        down, across = self.pitch
        return self.n_lines * down / (self.n_columns * across)

    def mosaic(self, rows: Float32[np.ndarray, "shown d"]) -> Float32[np.ndarray, "row column"]:
        """The pictures, each with its largest magnitude at 1 and NaN around it."""
        (n_rows, n_columns), (down, across) = self.image_shape, self.pitch
        mosaic = np.full((self.n_lines * down, self.n_columns * across), np.nan, dtype=np.float32)
        for i, row in enumerate(rows):
            line, column = divmod(i, self.n_columns)
            bottom, left = (line + 1) * down, column * across + (across - n_columns) // 2
            mosaic[bottom - n_rows : bottom, left : left + n_columns] = _unit_scale(row).reshape(
                self.image_shape
            )
        return mosaic

    def captions(self) -> list[tuple[float, float]]:
        """The point above the middle of each picture."""
        (n_rows, n_columns), (down, across) = self.image_shape, self.pitch
        margin = (across - n_columns) // 2
        return [
            (column * across + margin + (n_columns - 1) / 2, (line + 1) * down - n_rows - 1.0)
            for line in range(self.n_lines)
            for column in range(self.n_columns)
        ]


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
