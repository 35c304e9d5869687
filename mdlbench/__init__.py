"""mdlbench: rate-distortion curves and description-length leaderboards of sparse autoencoders."""

from __future__ import annotations

TYPE_CHECKING = False
"""As of `typing`, which is not imported: the command line heeds Ctrl-C before it imports much."""
if TYPE_CHECKING:
    from mdlbench.report.compare.notebook import compare
    from mdlbench.scoring.single import evaluate
    from mdlbench.suite.load import load_suite

    __version__: str

__all__ = ["__version__", "compare", "evaluate", "load_suite"]

_HOMES = {
    "compare": "mdlbench.report.compare.notebook",
    "evaluate": "mdlbench.scoring.single",
    "load_suite": "mdlbench.suite.load",
}


def __getattr__(name: str) -> object:
    """Import what is asked for only then, so that `mdlbench --help` need not load torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mdlbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'mdlbench' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """What there is for users, which Tab shows: imported or not."""
    return sorted(__all__)
