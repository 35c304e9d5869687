"""mdlbench: rate-distortion curves and description-length leaderboards of sparse autoencoders."""

from __future__ import annotations

TYPE_CHECKING = False
"""As of `typing`, which is not imported: the command line heeds Ctrl-C before it imports much."""
if TYPE_CHECKING:
    from mdlbench.scoring.single import evaluate
    from mdlbench.suite.load import load_suite

__all__ = ["evaluate", "load_suite"]

_HOMES = {"evaluate": "mdlbench.scoring.single", "load_suite": "mdlbench.suite.load"}


def __getattr__(name: str) -> object:
    """Import what is asked for only then, so that `mdlbench --help` need not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mdlbench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
