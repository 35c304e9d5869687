"""What lies beside an SAE in SAELens' layout and tells how it did in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlbench.adapters.checkpoint import load_json, load_safetensors
from mdlbench.errors import MdlbenchError

TRAINING_FILE = "training.json"
"""Our trainer's settings, and how the finished SAE did on the test split."""
SPARSITY_FILE = "sparsity.safetensors"
"""log10 of how often each latent fires, as SAELens saves it."""


@dataclass(frozen=True)
class Told:
    """What training reports, as far as it does.

    Attributes:
        l0: active latents per token.
        mse: squared error per dimension, on tokens that it was not trained on.
    """

    l0: float | None = None
    mse: float | None = None


def told_in(folder: Path) -> Told:
    """What the files of a folder tell; what cannot be read tells nothing."""
    result = _result(folder / TRAINING_FILE)
    l0 = _positive(result.get("l0")) or _summed(folder / SPARSITY_FILE)
    return Told(l0, _positive(result.get("test_mse")))


def _result(file: Path) -> Mapping[str, Any]:
    try:
        result = load_json(file).get("result") if file.is_file() else None
    except (MdlbenchError, OSError):
        return {}
    return result if isinstance(result, dict) else {}


def _summed(file: Path) -> float | None:
    """L0 as the sum of how often each latent fires."""
    try:
        logs = load_safetensors(file).get("sparsity") if file.is_file() else None
    except (MdlbenchError, OSError):
        return None
    return None if logs is None else _positive(float((10.0 ** logs.double()).sum()))


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < math.inf else None
