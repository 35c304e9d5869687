"""An encoder, a decoder and a normalisation as one coder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts.decoders import Decoder
from mdlbench.adapters.parts.encoders import SparseEncoder
from mdlbench.adapters.parts.normalisations import Normalisation, Unnormalised
from mdlbench.adapters.protocol import CoderSpec, Origin
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents


@dataclass(frozen=True)
class LinearCoder:
    """The `SparseCoder` of an encoder and an affine decoder."""

    spec: CoderSpec
    encoder: SparseEncoder
    decoder: Decoder
    normalisation: Normalisation

    @torch.no_grad()
    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        """See `SparseCoder`; raises `CoderError` for another width or for non-finite values."""
        self.spec.require_width(x)
        normalised, side = self.normalisation.apply(x.float())
        return self.encoder(normalised), side.cpu().numpy()

    @torch.no_grad()
    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        reconstruction = self.decoder(latents)
        return self.normalisation.undo(
            reconstruction, torch.from_numpy(side).to(reconstruction.device)
        )

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        rows: np.ndarray = self.decoder.W_dec.cpu().numpy()
        return rows

    def with_decoder_precision(self, bits: int) -> LinearCoder:
        """See `Decoder.rounded`; decoder norms are those of the rounded rows."""
        decoder = self.decoder.rounded(bits)
        spec = replace(
            self.spec,
            decoder_norms=decoder.norms(),
            details={**self.spec.details, "decoder_precision": bits},
        )
        return replace(self, spec=spec, decoder=decoder)


def assemble(
    identity: CoderIdentity,
    encoder: SparseEncoder,
    decoder: Decoder,
    normalisation: Normalisation | None = None,
    *,
    architecture: str,
    origin: Origin | None = None,
    promised_l0: float | None = None,
    trained_l0: float | None = None,
    input_scale: float | None = None,
    fitted: bool = False,
    forest: Forest | None = None,
    details: dict[str, Any] | None = None,
) -> LinearCoder:
    """The coder of these parts; its widths, decoder norms and side bits are theirs.

    Without a normalisation, tokens are taken as they are. The origin is what its config says of the
    activations it was trained on; in a forest, a latent is off where its parent is. What
    else is given stands in the coder's `CoderSpec`, which explains it.
    """
    origin, normalisation = origin or Origin(), normalisation or Unnormalised()
    spec = CoderSpec(
        identity,
        architecture=architecture,
        hook=origin.hook or "",
        d_in=encoder.d_in,
        d_out=decoder.W_dec.shape[1],
        d_latents=len(decoder.W_dec),
        decoder_norms=decoder.norms(),
        promised_l0=None if promised_l0 is None else float(promised_l0),
        trained_l0=None if trained_l0 is None else float(trained_l0),
        side_bits=normalisation.bits,
        input_scale=input_scale,
        fitted=fitted,
        origin=origin,
        parents=None if forest is None else forest.parents,
        details=details or {},
    )
    return LinearCoder(spec, encoder, decoder, normalisation)
