"""mdlbench: rate-distortion curves and description-length leaderboards of sparse autoencoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdlbench.scoring.single import evaluate
    from mdlbench.suite.load import load_suite

__all__ = ["evaluate", "load_suite"]

_HOMES = {"evaluate": "mdlbench.scoring.single", "load_suite": "mdlbench.suite.load"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then, so that `mdlbench --help` need not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mdlbench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
