"""Plain rounding with the flat code: the modes `normalised` and `uniform` (maths §2)."""

from __future__ import annotations

from collections.abc import Mapping

from mdlbench.codes.rates import FlatCode
from mdlbench.codes.symbols import PlainStep
from mdlbench.errors import UsageError
from mdlbench.quantisers.protocol import Calibration, Machinery


def plain_step(calibration: Calibration, step: float) -> PlainStep:
    """Nothing is fitted."""
    return PlainStep(step)


def told(step: float, columns: Mapping[str, list[int]], n_latents: int) -> PlainStep:
    """The step itself; raises `UsageError` where a file says more."""
    if columns:
        raise UsageError(f"a plain step has no {next(iter(columns))!r}")
    return PlainStep(step)


MACHINERY = Machinery(plain_step, told, FlatCode)
