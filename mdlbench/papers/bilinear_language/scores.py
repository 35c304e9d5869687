"""What the model loses where some of its MLPs are replaced, document by document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64

from mdlbench.console.stages import OnStage
from mdlbench.disk.files import sha256_of
from mdlbench.papers.bilinear_language.gated import load_gated
from mdlbench.papers.bilinear_language.host import Change, Host
from mdlbench.papers.bilinear_language.kept import kept_result

CLEAN = "clean"
"""The untouched model among what is scored."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """What stands in the place of one MLP.

    Attributes:
        change: its input → its output.
        sha256: what decides that.
    """

    change: Change
    sha256: str


def trained(file: Path) -> Replacement:
    """A layer that was trained."""
    return Replacement(load_gated(file), sha256_of(file))


def constant(value: Float[torch.Tensor, " d_out"]) -> Replacement:
    """The same output for every token."""
    digest = hashlib.sha256(value.numpy().tobytes()).hexdigest()
    return Replacement(lambda x: value.expand(len(x), -1), digest)


def score(
    host: Host,
    asked: Mapping[str, Mapping[int, Replacement]],
    folder: Path,
    on_stage: OnStage,
) -> dict[str, Float64[np.ndarray, " document"]]:
    """Σ cross-entropy of each document, in nats, for each of what is asked and the clean model.

    Args:
        host: the model on the text that is scored.
        asked: replacements by layer, by name.
        folder: keeps a file for each.
        on_stage: told the names.
    """
    return dict(_scores(host, {CLEAN: {}, **asked}, folder, on_stage))


def _scores(
    host: Host,
    asked: Mapping[str, Mapping[int, Replacement]],
    folder: Path,
    on_stage: OnStage,
) -> Iterator[tuple[str, Float64[np.ndarray, " document"]]]:
    for name, replaced in asked.items():
        changes = {layer: one.change for layer, one in replaced.items()}

        def measure(changes: Mapping[int, Change] = changes, name: str = name) -> list[float]:
            on_stage(f"loss: {name}")
            return [float(one) for one in host.loss_sums(changes)]

        origin = {"host": host.sha256, "layers": {n: one.sha256 for n, one in replaced.items()}}
        yield name, np.array(kept_result(folder / f"{name}.json", origin, measure))
