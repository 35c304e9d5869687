"""Where activations come from, and what splicing a reconstruction back in costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from mdlbench.suite.site import Site

Split = Literal["calibration", "test"]


@dataclass(frozen=True)
class Block:
    """A run of whole documents.

    Attributes:
        index: position of the block within its split, from 0.
        document: the document of each token, numbered through the split, non-decreasing.
        activations: what is to be reconstructed, float32, on the source's device.
        inputs: what the SAE is given, if that is something else, as for a transcoder.
    """

    index: int
    document: Int64[np.ndarray, " token"]
    activations: Float[torch.Tensor, "token d_out"]
    inputs: Float[torch.Tensor, "token d_in"] | None = None

    @property
    def given(self) -> Float[torch.Tensor, "token d_in"]:
        """What the SAE is given."""
        return self.activations if self.inputs is None else self.inputs

    @cached_property
    def norms(self) -> Float64[torch.Tensor, " token"]:
        """‖x‖ of each token."""
        norms: torch.Tensor = torch.linalg.vector_norm(self.activations, dim=1)
        return norms.double()


class SpliceLoss(NamedTuple):
    """Losses of the model on a block whose activations are replaced, in nats per token."""

    ce: Float64[np.ndarray, " token"]
    kl: Float64[np.ndarray, " token"]


class ActivationSource(Protocol):
    """Activations in blocks of documents, and the loss of a model into which they are spliced.

    Attributes:
        site: where activations are taken.
        hook: the hook point's name.
        d_in: width of what an SAE is given.
        d_out: width of what it reconstructs.
        n_documents, n_tokens: sizes of each split.
        data_sha256: digest of the data and the model that the numbers depend on.
        image_shape: rows and columns where an activation is an image, else None.
        device: where activations live.
    """

    site: Site
    hook: str
    d_in: int
    d_out: int
    n_documents: dict[Split, int]
    n_tokens: dict[Split, int]
    data_sha256: str
    image_shape: tuple[int, int] | None
    device: torch.device

    def blocks(self, split: Split) -> Iterator[Block]:
        """The blocks of a split, the same ones in the same order at every call."""
        ...

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        """CE of the untouched model, nats per token."""
        ...

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        """CE with the activation set to zero, nats per token."""
        ...

    def splice(
        self, block: Block, reconstruction: Float[torch.Tensor, "token d_out"]
    ) -> SpliceLoss:
        """CE and KL(clean ‖ spliced) with the reconstruction in the activation's place."""
        ...
