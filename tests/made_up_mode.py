"""The file of a mode that there is not: plain rounding to values a little larger, tree code."""

from __future__ import annotations

from dataclasses import dataclass

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import TreeCode
from mdlbench.codes.symbols import Symbols, dequantise, quantise
from mdlbench.quantisers.protocol import Machinery

PARTS = 256


@dataclass(frozen=True)
class Swollen:
    """Rounded at a step, read at one that is so many 256ths larger."""

    step: float
    parts: int

    @property
    def header_bits(self) -> float:
        return 8.0

    @property
    def columns(self) -> dict[str, list[int]]:
        return {"parts": [self.parts]}

    def symbols(self, latents: SparseLatents) -> Symbols:
        return quantise(latents, self.step)

    def values(self, symbols: Symbols) -> SparseLatents:
        return dequantise(symbols, self.step * (1 + self.parts / PARTS))


MACHINERY = Machinery(
    fit=lambda calibration, step: Swollen(step, 1),
    reconstruction=lambda step, columns, n_latents: Swollen(step, columns["parts"][0]),
    code=TreeCode,
)
