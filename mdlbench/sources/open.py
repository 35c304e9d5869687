"""The activation source that a suite asks for."""

from __future__ import annotations

from mdlbench.sources import ActivationSource
from mdlbench.sources.images import ImageSource
from mdlbench.suite import Suite


def open_source(suite: Suite, device: str = "cpu", limit: int | None = None) -> ActivationSource:
    """Load the suite's data and model; `limit` keeps that many documents of each split."""
    return ImageSource(suite, device, limit)
