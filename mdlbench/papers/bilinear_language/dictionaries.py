"""SAEs on the input and on the output of a converted layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from sae_lens import SAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from safetensors.torch import load_file

from mdlbench.papers.bilinear_language.outputs import CHUNK, Half, chunks
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.sources.protocol import Block, Split
from mdlbench.suite.site import Site
from mdlbench.training.config import TrainingConfig
from mdlbench.training.trainer import train


class Recorded:
    """Activations that are there already, as training an SAE asks for them.

    Args:
        site: where they were taken.
        trained_on: half precision.
        held_out: of other tokens, which tell how training goes.
    """

    def __init__(self, site: Site, trained_on: Half, held_out: Half) -> None:
        self.site, self.device = site, trained_on.device
        self.d_in = self.d_out = trained_on.shape[1]
        self._rows: dict[Split, Half] = {"calibration": trained_on, "test": held_out}
        self.n_tokens: dict[Split, int] = {split: len(rows) for split, rows in self._rows.items()}

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """The tokens in order, in blocks; each token counts as a document."""
        parts = list(chunks(self._rows[split]))
        for index in range(len(parts))[start:stop]:
            first = index * CHUNK
            document = np.arange(first, first + len(parts[index]))
            yield Block(index, document, parts[index].float())


def config_of(plan: Plan, budget: int) -> TrainingConfig:
    """How an SAE is trained for so long, in `1 / parts` of a pass."""
    return TrainingConfig(
        plan.width,
        plan.k,
        plan.architecture,
        epochs=budget,
        epochs_per_pass=plan.parts,
        batch_size=min(plan.batch_size, plan.tokens // plan.parts),
        lr=2e-3,
        decay=0.9,
        patience=None,
        keep="last",
        held="float16",
        seed=plan.seed,
        options={"normalize_activations": "expected_average_only_in"},
    )


def train_on(activations: Recorded, plan: Plan, budget: int, folder: Path) -> Path:
    """Train an SAE, unless the folder has it; the folder."""
    return train(config_of(plan, budget), activations, folder, progress=False)


class Dictionary(NamedTuple):
    """A trained SAE.

    Attributes:
        sae: it, as SAELens has it.
        encoder: a column of the encoder for each feature, in rows.
        decoder: a row for each feature.
        bias: of the decoder.
    """

    sae: Any
    encoder: Float64[np.ndarray, "feature d"]
    decoder: Float64[np.ndarray, "feature d"]
    bias: Float64[np.ndarray, " d"]

    @torch.no_grad()
    def latents(self, x: Float[torch.Tensor, "token d"]) -> Float[torch.Tensor, "token feature"]:
        found: torch.Tensor = self.sae.encode(x)
        return found.to_dense() if found.is_sparse else found


def load_dictionary(folder: Path) -> Dictionary:
    """An SAE from its folder."""
    weights = load_file(folder / SAE_WEIGHTS_FILENAME)
    encoder, decoder, bias = (
        np.ascontiguousarray(one.double().numpy())
        for one in (weights["W_enc"].T, weights["W_dec"], weights["b_dec"])
    )
    return Dictionary(SAE.load_from_disk(folder), encoder, decoder, bias)
