"""Somebody's SAE → a `SparseCoder`. The protocol, and the registry of those who implement it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.latents import SparseLatents
from mdlbench.sources import ActivationSource


@dataclass(frozen=True)
class CoderSpec:
    """What a loaded SAE is.

    Attributes:
        name: what to call it, from the file or the argument; shown, never used as a path.
        adapter, version: which adapter loaded it, and that adapter's or its library's version.
        arguments: what it was loaded with, as far as it decides numbers.
        weights_sha256: digest of everything that was learned or fitted.
        architecture: as the field calls it, e.g. "jumprelu", "pca".
        hook: hook point that it was trained on; empty if not known.
        d_in, d_out, d_latents: widths.
        decoder_norms: ‖w_i‖ of each latent's decoder row.
        promised_l0: active latents per token that the checkpoint promises exactly, if it does.
        side_bits: bits per token that the decoder needs beside the latents.
        details: further facts worth showing, such as the training architecture and k.
    """

    name: str
    adapter: str
    version: str
    arguments: dict[str, Any]
    weights_sha256: str
    architecture: str
    hook: str
    d_in: int
    d_out: int
    d_latents: int
    decoder_norms: Float32[np.ndarray, " latent"]
    promised_l0: float | None = None
    side_bits: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


class SparseCoder(Protocol):
    """An SAE as the harness sees it. Normalisation of the input is the coder's own business."""

    spec: CoderSpec

    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        """Nonzero latents and per-token side information (zero columns for most coders)."""
        ...

    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        """The reconstruction; no latents at all decode to the bias."""
        ...

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        """The dictionary, for pictures and for pricing the decoder."""
        ...

    def with_decoder_precision(self, bits: int) -> SparseCoder | None:
        """The same coder with its decoder rounded to `bits` a weight; None if it has no weights."""
        ...


class Adapter(Protocol):
    """Loads one kind of SAE. Implement it in a package of your own to add a kind."""

    name: str

    def load(self, argument: str, device: str, source: ActivationSource | None) -> SparseCoder:
        """The coder that `ADAPTER:ARGUMENT` names; `source` is there for coders fitted to data."""
        ...
