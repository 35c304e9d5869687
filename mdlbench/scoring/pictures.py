"""Decoder rows as pictures, where activations are images: red is positive, blue negative."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from mdlbench.records.record import Pictures

COLUMNS, LINES = 8, 4
"""Columns and lines of the pictures in a record."""
SHADES = 33
"""Colours of a picture in a record; few, so that the record stays small."""
COLOURS = "RdBu_r"
"""matplotlib's name of the colours from −1 to 1."""


@dataclass(frozen=True)
class Tiles:
    """Where pictures stand in one large picture: left to right, then down, a gap above each.

    Attributes:
        image_shape: rows and columns of a picture.
        n_columns: pictures beside each other.
        n_lines: pictures below each other.
        gap: rows above a picture, and columns between two, half of them on either side.
    """

    image_shape: tuple[int, int]
    n_columns: int
    n_lines: int
    gap: tuple[int, int]

    @classmethod
    def captioned(cls, image_shape: tuple[int, int], n_columns: int, n_lines: int) -> Tiles:
        """Tiles with room for a caption above each picture."""
        n_columns_of_one = image_shape[1]
        gap = max(2, round(n_columns_of_one / 4)), max(1, round(n_columns_of_one / 10))
        return cls(image_shape, n_columns, n_lines, gap)

    @property
    def pitch(self) -> tuple[int, int]:
        """Rows and columns from one picture to the next, the gaps between them included."""
        return self.image_shape[0] + self.gap[0], self.image_shape[1] + self.gap[1]

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


def heaviest(weights: Float64[np.ndarray, " latent"], n: int) -> Int64[np.ndarray, " shown"]:
    """The latents of the `n` largest weights at most, heaviest first, ties by index."""
    return np.argsort(-weights, kind="stable")[:n]


def pictures_of(
    rows: Float32[np.ndarray, "latent d"],
    image_shape: tuple[int, int],
    bits: Float64[np.ndarray, " latent"],
) -> Pictures:
    """The decoder rows of the latents that cost most bits, as a PNG of red, white and blue."""
    from PIL import Image

    chosen = heaviest(bits, COLUMNS * LINES)
    n_lines = max(1, -(-len(chosen) // COLUMNS))
    mosaic = Tiles(image_shape, COLUMNS, n_lines, gap=(1, 1)).mosaic(rows[chosen])
    shades = np.rint((np.nan_to_num(mosaic[1:, :-1]) + 1) / 2 * (SHADES - 1))
    image = Image.fromarray(shades.astype(np.uint8), mode="P")
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return Pictures(
        latents=[int(latent) for latent in chosen],
        png=base64.b64encode(buffer.getvalue()).decode(),
    )


def _unit_scale(row: Float32[np.ndarray, " d"]) -> Float32[np.ndarray, " d"]:
    """The row with its largest magnitude at 1; a zero row stays zero."""
    return row / (np.abs(row).max(initial=0.0) or np.float32(1.0))


def _palette() -> list[int]:
    """Blue to white to red, as red, green, blue of each shade."""
    import matplotlib

    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 1, SHADES))[:, :3]
    return [int(value) for value in np.rint(255 * colours).flatten()]
